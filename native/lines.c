/* Lines in the form in which our writer makes them, proven by their length, their crc, their fields and their place.

   Each check is one that mpcheckpoint/_format/frame.py and scan.py make as well. None is left out here because another
   implies it for the writer's own lines: somebody else's program may have made these. */

#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

/* Eight lower-case hexadecimal digits. */
static inline int hex_number(const uint8_t *at, uint32_t *number)
{
    __m128i text = _mm_loadl_epi64((const __m128i *)at);
    __m128i digit = _mm_sub_epi8(text, _mm_set1_epi8('0')), letter = _mm_sub_epi8(text, _mm_set1_epi8('a'));
    /* As unsigned numbers: what is no more than 9, and what is no more than 5. */
    __m128i is_digit = _mm_cmpeq_epi8(digit, _mm_min_epu8(digit, _mm_set1_epi8(9)));
    __m128i is_letter = _mm_cmpeq_epi8(letter, _mm_min_epu8(letter, _mm_set1_epi8(5)));
    __m128i worth = _mm_or_si128(_mm_and_si128(is_digit, digit),
        _mm_and_si128(is_letter, _mm_add_epi8(letter, _mm_set1_epi8(10))));
    /* Two digits make a byte, in each 16 bits; then the bytes stand side by side, the highest first. */
    __m128i pairs = _mm_and_si128(
        _mm_or_si128(_mm_slli_epi16(worth, 4), _mm_srli_epi16(worth, 8)), _mm_set1_epi16(0xFF));
    *number = __builtin_bswap32((uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(pairs, pairs)));
    return (_mm_movemask_epi8(_mm_or_si128(is_digit, is_letter)) & 0xFF) == 0xFF;
}
#else
/* One more than what a hexadecimal digit is worth, so that what is none is 0. */
static const uint8_t worth[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8, ['8'] = 9, ['9'] = 10,
    ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

/* Eight lower-case hexadecimal digits. */
static inline int hex_number(const uint8_t *at, uint32_t *number)
{
    uint32_t value = 0;
    int is_number = 1;
    for (int index = 0; index < 8; index++) {
        uint8_t digit = worth[at[index]];
        is_number &= digit != 0;
        value = value << 4 | (uint32_t)(digit - 1);
    }
    *number = value;
    return is_number;
}
#endif

/* Eight decimal digits: neighbours become numbers of two digits, then of four, then one of eight. */
static inline int eight_digits(const uint8_t *at, uint64_t *number)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t digits;
    memcpy(&digits, at, 8);
    digits ^= EACH('0');
    if ((digits | (digits + EACH(0x80 - 10))) & EACH(0x80)) /* a byte above 9 */
        return 0;
    digits = (digits * 10 + (digits >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
    digits = (digits * 100 + (digits >> 16)) & UINT64_C(0x0000FFFF0000FFFF);
    *number = (digits * 10000 + (digits >> 32)) & UINT32_MAX;
    return 1;
#else
    (void)at, (void)number;
    return 0;
#endif
}

/* A number without sign or leading zeros, at most `highest`, and the comma after it. */
static const uint8_t *count_end(const uint8_t *at, uint64_t highest, uint64_t *number)
{
    const uint8_t *first = at;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (at - first >= 18) /* no number that we write is longer, and none of 18 digits overflows */
            return NULL;
        value = value * 10 + (*at - '0');
    }
    if (at == first || (*first == '0' && at - first > 1) || value > highest || *at != ',')
        return NULL;
    *number = value;
    return at + 1;
}

/* A stamp and the comma after it. Those of this century have sixteen digits. */
static inline const uint8_t *stamp_end(const uint8_t *at, const uint8_t *end, uint64_t *stamp_us)
{
    uint64_t high, low;
    if (end - at > 16 && at[16] == ',' && *at != '0' && eight_digits(at, &high) && eight_digits(at + 8, &low)) {
        *stamp_us = high * 100000000 + low;
        return *stamp_us <= MAX_STAMP_US ? at + 17 : NULL;
    }
    return count_end(at, MAX_STAMP_US, stamp_us);
}

/* Stamp and durable. The lines of a batch have the same ones: then the digits are compared, and not read again. */
static const uint8_t *stamp_and_durable_end(
    const uint8_t *data, const uint8_t *at, const uint8_t *end, uint64_t offset, const Line *before, Line *line)
{
    line->numbers = (uint32_t)(at - data);
    if (before != NULL && end - at > (ptrdiff_t)before->numbers_size
        && memcmp(at, data + before->numbers, before->numbers_size) == 0) {
        line->stamp_us = before->stamp_us;
        line->durable = before->durable; /* at most this offset, as it was at most that of the line before */
        line->numbers_size = before->numbers_size;
        return at + line->numbers_size;
    }
    const uint8_t *stop = stamp_end(at, end, &line->stamp_us);
    if (stop != NULL && (stop = count_end(stop, offset, &line->durable)) != NULL)
        line->numbers_size = (uint32_t)(stop - at);
    return stop;
}

const uint8_t *key_and_event_end(const uint8_t *data, const uint8_t *at, const uint8_t *end, Line *line)
{
    int has_escapes = 0;
    line->key = line->key_size = 0;
    if (*at == '"') {
        const uint8_t *key = at + 1;
        if ((at = string_end(key, end, &has_escapes)) == NULL)
            return NULL;
        line->key = (uint32_t)(key - data);
        line->key_size = (uint32_t)(at - 1 - key);
    } else if (at[0] == 'n' && at[1] == 'u' && at[2] == 'l' && at[3] == 'l') {
        at += 4;
    } else {
        return NULL;
    }
    line->has_escapes = (uint32_t)has_escapes;
    if (*at++ != ',')
        return NULL;
    const uint8_t *event = at;
    if ((at = value_end(event, end)) == NULL)
        return NULL;
    line->event = (uint32_t)(event - data);
    line->event_size = (uint32_t)(at - event);
    return at;
}

/* The fields of a line, from after its length to before its crc. Requires: a newline at `end - 1`. */
static const uint8_t *fields_end(const uint8_t *data, const uint8_t *at, const uint8_t *end, uint64_t offset,
    const Line *before, Line *line)
{
    uint64_t more;
    if (at[0] != '"' || at[1] != ',')
        return NULL;
    if ((at = stamp_and_durable_end(data, at + 2, end, offset, before, line)) == NULL
        || (at = count_end(at, UINT32_MAX, &more)) == NULL)
        return NULL;
    line->more = (uint32_t)more;
    if ((at = key_and_event_end(data, at, end, line)) == NULL || *at != ',')
        return NULL;
    const uint8_t *meta = ++at;
    if ((*meta != 'n' && *meta != '{') || (at = value_end(meta, end)) == NULL || *at != ',')
        return NULL;
    line->meta = (uint32_t)(meta - data);
    line->meta_size = *meta == 'n' ? 0 : (uint32_t)(at - meta);
    return at + 1;
}

/* Prove the line at `at`; return its length, or 0 if it is not in the writer's form. `before` is the line before it
   here; NULL if there is none, and `crc` is then the running crc of all bytes before. */
static size_t line_at(
    const uint8_t *data, size_t size, size_t at, uint64_t offset, const Line *before, uint32_t crc, Line *line)
{
    const uint8_t *start = data + at;
    uint32_t length;
    if (start[0] != '[' || start[1] != '"' || !hex_number(start + 2, &length))
        return 0;
    if (length < MIN_LINE_BYTES || length > MAX_LINE_BYTES || length > size - at)
        return 0;
    const uint8_t *end = start + length, *closing = end - CLOSING_BYTES;
    if (closing[0] != '"' || !hex_number(closing + 1, &line->crc) || memcmp(closing + 9, "\"]\n", 3) != 0)
        return 0;
    if (fields_end(data, start + LENGTH_END, end, offset, before, line) != closing)
        return 0;
    /* From one crc field to the next: the earlier one stands for every byte before it. */
    uint32_t actual = before != NULL ? crc_of(start - CLOSING_BYTES, length, before->crc)
                                     : crc_of(start, length - CLOSING_BYTES, crc);
    if (actual != line->crc)
        return 0;
    line->start = offset;
    line->end = offset + length;
    return length;
}

/* Whether a line can follow the one before it. A batch is consecutive lines of one stamp, `more` falling to 0; it began
   at `batch_start`. */
static int is_in_place(const Line *before, const Line *line, uint64_t batch_start, const Start *start)
{
    if (before == NULL || before->more == 0)
        return line->stamp_us > (before != NULL ? before->stamp_us : start->stamp_us);
    return line->more == before->more - 1 && line->stamp_us == before->stamp_us
        && line->end - batch_start <= start->most_batch_bytes;
}

/* The running crc of all bytes before those that are scanned. */
static uint32_t crc_before(const Start *start)
{
    char closing[CLOSING_BYTES + 1];
    snprintf(closing, sizeof closing, "\"%08x\"]\n", (unsigned int)start->stored_crc);
    return crc_of((const uint8_t *)closing, CLOSING_BYTES, start->stored_crc);
}

/* Make room for another line. `left` is how many bytes are to be scanned: once a line is known, as many lines of its
   length are expected, so that nothing is copied again and again. */
static int make_room(Found *found, size_t left, size_t line_bytes)
{
    size_t room = found->room * 2 + 8;
    if (line_bytes && room < found->room + left / line_bytes + 1)
        room = found->room + left / line_bytes + 1;
    Line *lines = realloc(found->lines, room * sizeof(Line));
    if (lines == NULL)
        return -1;
    found->lines = lines;
    found->room = room;
    return 0;
}

int prove_lines(const uint8_t *data, size_t size, const Start *start, Found *found)
{
    uint32_t crc = crc_before(start);
    uint64_t batch_start = start->offset;
    size_t at = 0, length = 0;
    while (size - at >= MIN_LINE_BYTES) {
        if (found->count == found->room && make_room(found, size - at, length) < 0)
            return -1;
        Line *line = &found->lines[found->count];
        const Line *before = found->count ? line - 1 : NULL;
        length = line_at(data, size, at, start->offset + at, before, crc, line);
        if (length == 0 || !is_in_place(before, line, batch_start, start))
            break;
        at += length;
        found->count++;
        found->event_bytes += line->event_size;
        found->has_metas |= line->meta_size != 0;
        found->has_controls |= line->key == 0;
        if (line->more == 0) {
            found->whole = found->count;
            batch_start = line->end;
        }
    }
    return 0;
}

/* Keep a control line. Where memory ran out, there are none any more. */
static int add_control(Found *controls, const Line *line)
{
    if (controls->count == controls->room && make_room(controls, 0, 0) < 0) {
        free_found(controls);
        return -1;
    }
    controls->lines[controls->count++] = *line;
    return 0;
}

int count_lines(const uint8_t *data, size_t size, const Start *start, Counts *counts)
{
    /* The line that is proven, and the one before it: of all others nothing is kept. */
    Line lines[2], *line = lines, *before = NULL;
    uint32_t crc = crc_before(start);
    /* `sum` is of all lines; `whole`, of those before the batch that it has not all lines of. */
    Counts sum = {.end = start->offset, .stamp_us = start->stamp_us, .stored_crc = start->stored_crc}, whole = sum;
    while (size - sum.proven >= MIN_LINE_BYTES) {
        size_t length = line_at(data, size, sum.proven, start->offset + sum.proven, before, crc, line);
        if (length == 0 || !is_in_place(before, line, sum.end, start))
            break;
        if (line->more != 0 && (before == NULL || before->more == 0))
            whole = sum;
        if (line->key == 0 && add_control(&sum.controls, line) < 0)
            return -1;
        if (sum.lines++ == 0)
            sum.first_us = line->stamp_us;
        if (line->durable > sum.durable)
            sum.durable = line->durable;
        sum.records += line->key != 0;
        sum.has_batches |= line->more != 0;
        sum.proven += length;
        if (line->more == 0) {
            sum.end = line->end;
            sum.stamp_us = line->stamp_us;
            sum.stored_crc = line->crc;
        }
        before = line;
        line = &lines[line == lines];
    }
    *counts = before != NULL && before->more != 0 ? whole : sum;
    counts->proven = sum.proven;
    /* Those of a batch that is not whole may have taken more room, elsewhere; they are not counted. */
    counts->controls.lines = sum.controls.lines;
    counts->controls.room = sum.controls.room;
    return 0;
}

void free_found(Found *found)
{
    free(found->lines);
    found->lines = NULL;
}
