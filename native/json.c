/* JSON in the form in which our writer makes it: no white space, strings in UTF-8 with no more escapes than they need,
   numbers that a double can hold, no deeper than MAX_DEPTH. All else is Python's to judge. */

#include "core.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* A number with no more digits before its point, exponent included, is below 1e308: a double holds it. */
#define MAX_DIGITS_BEFORE_POINT 308

static inline int is_digit(uint8_t byte)
{
    return (uint8_t)(byte - '0') < 10;
}

static inline int is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

/* The first byte that is no plain character of a string: a quote, a backslash, a control, or not ASCII. A newline is. */
static inline const uint8_t *plain_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(' ');
    while (end - at >= 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        /* As signed numbers, bytes that are not ASCII are below the space as well. */
        __m128i special = _mm_or_si128(_mm_cmplt_epi8(bytes, space),
            _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)));
        int found = _mm_movemask_epi8(special);
        if (found)
            return at + __builtin_ctz((unsigned int)found);
        at += 16;
    }
#elif __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t special = may_need_escape(word) | (word & EACH(0x80));
        if (special)
            return at + (__builtin_ctzll(special) >> 3);
        at += 8;
    }
#endif
    while (is_plain(*at))
        at++;
    return at;
}

static inline int is_continuation(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* A character of more than one byte: the shortest form only, no surrogates, nothing above U+10FFFF. */
static const uint8_t *wide_character_end(const uint8_t *at)
{
    uint8_t first = at[0];
    if (first >= 0xC2 && first <= 0xDF)
        return is_continuation(at[1]) ? at + 2 : NULL;
    if (first >= 0xE0 && first <= 0xEF) {
        uint8_t low = first == 0xE0 ? 0xA0 : 0x80, high = first == 0xED ? 0x9F : 0xBF;
        return at[1] >= low && at[1] <= high && is_continuation(at[2]) ? at + 3 : NULL;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        uint8_t low = first == 0xF0 ? 0x90 : 0x80, high = first == 0xF4 ? 0x8F : 0xBF;
        return at[1] >= low && at[1] <= high && is_continuation(at[2]) && is_continuation(at[3]) ? at + 4 : NULL;
    }
    return NULL;
}

/* An escape, from after its backslash. A control without a letter of its own is written as \u00xx. */
static const uint8_t *escape_end(const uint8_t *at)
{
    switch (at[0]) {
    case '"':
    case '\\':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return at + 1;
    case 'u':
        if (at[1] == '0' && at[2] == '0' && (at[3] == '0' || at[3] == '1')
            && (is_digit(at[4]) || (at[4] >= 'a' && at[4] <= 'f')))
            return at + 5;
    }
    return NULL;
}

const uint8_t *string_end(const uint8_t *at, const uint8_t *end, int *has_escapes)
{
    for (;;) {
        at = plain_end(at, end);
        if (*at == '"')
            return at + 1;
        if (*at == '\\') {
            *has_escapes = 1;
            at = escape_end(at + 1);
        } else {
            at = *at >= 0x80 ? wide_character_end(at) : NULL;
        }
        if (at == NULL)
            return NULL;
    }
}

static const uint8_t *digits_end(const uint8_t *at)
{
    if (!is_digit(*at))
        return NULL;
    while (is_digit(*at))
        at++;
    return at;
}

static const uint8_t *number_end(const uint8_t *at)
{
    if (*at == '-')
        at++;
    const uint8_t *first = at;
    at = *at == '0' ? at + 1 : digits_end(at);
    if (at == NULL)
        return NULL;
    ptrdiff_t magnitude = at - first;
    if (magnitude > MAX_DIGITS_BEFORE_POINT)
        return NULL;
    if (*at == '.' && (at = digits_end(at + 1)) == NULL)
        return NULL;
    if (*at == 'e' || *at == 'E') {
        at++;
        int is_negative = *at == '-';
        if (*at == '-' || *at == '+')
            at++;
        const uint8_t *first_of_exponent = at;
        if ((at = digits_end(at)) == NULL || at - first_of_exponent > 3)
            return NULL;
        long exponent = 0;
        for (const uint8_t *each = first_of_exponent; each < at; each++)
            exponent = exponent * 10 + (*each - '0');
        if (!is_negative && magnitude + exponent > MAX_DIGITS_BEFORE_POINT)
            return NULL;
    }
    return at;
}

static const uint8_t *word_end(const uint8_t *at, const char *word)
{
    for (; *word; at++, word++)
        if (*at != (uint8_t)*word)
            return NULL;
    return at;
}

static const uint8_t *scalar_end(const uint8_t *at, const uint8_t *end)
{
    int has_escapes;
    switch (*at) {
    case '"':
        return string_end(at + 1, end, &has_escapes);
    case 't':
        return word_end(at, "true");
    case 'f':
        return word_end(at, "false");
    case 'n':
        return word_end(at, "null");
    default:
        return number_end(at);
    }
}

/* The name of a member and the colon after it. */
static const uint8_t *name_end(const uint8_t *at, const uint8_t *end)
{
    int has_escapes;
    if (*at != '"' || (at = string_end(at + 1, end, &has_escapes)) == NULL || *at != ':')
        return NULL;
    return at + 1;
}

const uint8_t *value_end(const uint8_t *at, const uint8_t *end)
{
    uint8_t closers[MAX_DEPTH]; /* what closes each array and object that is open; no recursion, whatever comes */
    int depth = 0;
    for (;;) {
        if (*at == '[' || *at == '{') {
            if (depth == MAX_DEPTH)
                return NULL;
            uint8_t closer = *at == '[' ? ']' : '}';
            at++;
            if (*at != closer) {
                closers[depth++] = closer;
                if (closer == '}' && (at = name_end(at, end)) == NULL)
                    return NULL;
                continue;
            }
            at++;
        } else if ((at = scalar_end(at, end)) == NULL) {
            return NULL;
        }
        while (depth && *at == closers[depth - 1]) {
            at++;
            depth--;
        }
        if (depth == 0)
            return at;
        if (*at++ != ',')
            return NULL;
        if (closers[depth - 1] == '}' && (at = name_end(at, end)) == NULL)
            return NULL;
    }
}

size_t unescaped(const uint8_t *string, size_t size, uint8_t *text)
{
    static const char letters[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    const uint8_t *at = string, *end = string + size;
    uint8_t *next = text;
    while (at < end) {
        if (*at != '\\') {
            *next++ = *at++;
            continue;
        }
        uint8_t letter = at[1];
        if (letter == 'u') {
            uint8_t low = at[5];
            *next++ = (uint8_t)((at[4] - '0') << 4 | (is_digit(low) ? low - '0' : low - 'a' + 10));
            at += 6;
        } else {
            const char *found = strchr(letters, letter);
            *next++ = found == NULL ? letter : (uint8_t)meanings[found - letters];
            at += 2;
        }
    }
    return (size_t)(next - text);
}
