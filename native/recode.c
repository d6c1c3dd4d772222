/* Lines written anew in another place (mpcheckpoint/_format/recode.py): what they say is copied byte by byte. */

#include "core.h"

#include <string.h>

/* The bytes of '["', a length, '",', three numbers of up to 20 digits with a comma each. */
#define FRONT_BYTES (LENGTH_END + 2 + 3 * 21)

/* Some lines, those of a block or columns of them, and what becomes of each. */
typedef struct {
    const Line *lines;
    const uint64_t *starts, *ends, *stamps_us;
    const uint32_t *mores;
    const uint8_t *fates;
    size_t count;
} Plan;

/* Where a line is written, and the crc field before it. `first` is where the first one is. */
typedef struct {
    uint8_t *at, *first;
    uint64_t offset, stamp_us;
    uint32_t crc;
} Place;

/* One line of a plan. */
typedef struct {
    uint64_t start, end, stamp_us;
    uint32_t more;
} Each;

static inline Each each_of(const Plan *plan, size_t index)
{
    if (plan->lines == NULL)
        return (Each){plan->starts[index], plan->ends[index], plan->stamps_us[index], plan->mores[index]};
    const Line *line = &plan->lines[index];
    return (Each){line->start, line->end, line->stamp_us, line->more};
}

/* What a line says, from its object key to the comma before its crc; NULL if it is not framed as our writer does. */
static const uint8_t *says(const uint8_t *line, size_t size)
{
    const uint8_t *at = line, *end = line + size - CLOSING_BYTES;
    for (int commas = 0; commas < 4; commas++) {
        at = memchr(at, ',', (size_t)(end - at));
        if (at == NULL)
            return NULL;
        at++;
    }
    return at;
}

static void put(Place *place, const Each *each, uint64_t durable, const uint8_t *text, size_t size)
{
    char numbers[3 * 21], *end = numbers + sizeof numbers, *front = end;
    *--front = ',';
    front = digits_before(front, each->more);
    *--front = ',';
    front = digits_before(front, durable);
    *--front = ',';
    front = digits_before(front, each->stamp_us);
    size_t front_size = (size_t)(end - front);
    size_t length = LENGTH_END + 2 + front_size + size + CLOSING_BYTES;
    uint8_t *line = place->at, *at = line;
    memcpy(at, "[\"", 2);
    at = put_hex(at + 2, (uint32_t)length);
    memcpy(at, "\",", 2);
    memcpy(at + 2, front, front_size);
    memcpy(at + 2 + front_size, text, size);
    if (line == place->first) {
        uint8_t closing[CLOSING_BYTES];
        put_closing(closing, place->crc);
        place->crc = crc_of(line, length - CLOSING_BYTES, crc_of(closing, CLOSING_BYTES, place->crc));
    } else { /* from one crc field to the next: the earlier one stands for every byte before it */
        place->crc = crc_of(line - CLOSING_BYTES, length, place->crc);
    }
    place->at = put_closing(line + length - CLOSING_BYTES, place->crc);
    place->offset += length;
    place->stamp_us = each->stamp_us;
}

/* Write the lines. Returns whether all of them were framed as they must be. Touches no object of Python. */
static int put_all(Place *place, const uint8_t *data, uint64_t base, const Plan *plan, const Piece *placeholder)
{
    uint64_t batch = place->offset;
    for (size_t index = 0; index < plan->count; index++) {
        Each each = each_of(plan, index);
        if (plan->fates[index] != DROP) {
            const uint8_t *text = (const uint8_t *)placeholder->bytes;
            size_t size = placeholder->size;
            if (plan->fates[index] == KEEP) {
                const uint8_t *line = data + (each.start - base);
                size_t length = (size_t)(each.end - each.start);
                text = says(line, length);
                if (text == NULL)
                    return 0;
                size = (size_t)(line + length - CLOSING_BYTES - text);
            }
            put(place, &each, batch, text, size);
        }
        if (each.more == 0)
            batch = place->offset;
    }
    return 1;
}

/* How many bytes the lines take at most; 0 if something is not as it must be. */
static size_t room_for(const Plan *plan, uint64_t base, size_t size, size_t placeholder_size)
{
    size_t room = 1;
    for (size_t index = 0; index < plan->count; index++) {
        Each each = each_of(plan, index);
        if (each.start < base || each.end > base + size || each.end < each.start + MIN_LINE_BYTES
            || plan->fates[index] > LEFT)
            return 0;
        if (plan->fates[index] != DROP)
            room += FRONT_BYTES + CLOSING_BYTES
                + (plan->fates[index] == KEEP ? (size_t)(each.end - each.start) : placeholder_size);
    }
    return room;
}

/* `data` holds the bytes of the file from `base` on. */
static PyObject *recoded(
    const uint8_t *data, size_t size, uint64_t base, const Plan *plan, const Py_buffer *replacing, Place place)
{
    Piece placeholder = {replacing->buf, (size_t)replacing->len};
    size_t room = room_for(plan, base, size, placeholder.size);
    if (room == 0)
        Py_RETURN_NONE;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (made == NULL)
        return NULL;
    place.at = place.first = (uint8_t *)PyBytes_AsString(made);
    int is_done;
    /* The buffers are held, and nobody else knows the new object. */
    Py_BEGIN_ALLOW_THREADS
    is_done = put_all(&place, data, base, plan, &placeholder);
    Py_END_ALLOW_THREADS
    PyObject *result = is_done ? Py_BuildValue("NIK", new_bytes(place.first, (size_t)(place.at - place.first)), place.crc,
                                     (unsigned long long)place.stamp_us)
                               : Py_NewRef(Py_None);
    Py_DECREF(made);
    return result;
}

PyObject *recode(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer given[7] = {{0}};
    unsigned long long base, offset, stamp_us;
    unsigned int crc;
    if (!PyArg_ParseTuple(arguments, "y*Ky*y*y*y*y*y*KIK:recode", &given[0], &base, &given[1], &given[2], &given[3],
            &given[4], &given[5], &given[6], &offset, &crc, &stamp_us))
        return NULL;
    Plan plan = {NULL, given[1].buf, given[2].buf, given[3].buf, given[4].buf, given[5].buf, (size_t)given[5].len};
    int fits = (size_t)given[4].len == plan.count * sizeof(uint32_t);
    for (int column = 1; column <= 3; column++)
        fits &= (size_t)given[column].len == plan.count * sizeof(uint64_t);
    PyObject *result = fits ? recoded(given[0].buf, (size_t)given[0].len, base, &plan, &given[6],
                                  (Place){NULL, NULL, offset, stamp_us, crc})
                            : Py_NewRef(Py_None);
    for (size_t index = 0; index < sizeof given / sizeof *given; index++)
        PyBuffer_Release(&given[index]);
    return result;
}

PyObject *recode_block(PyObject *module, PyObject *arguments)
{
    PyObject *source;
    Py_buffer fates, placeholder;
    unsigned long long offset, stamp_us;
    unsigned int crc;
    if (!PyArg_ParseTuple(arguments, "O!y*y*KIK:recode_block", ((State *)PyModule_GetState(module))->block, &source,
            &fates, &placeholder, &offset, &crc, &stamp_us))
        return NULL;
    const Block *block = (Block *)source;
    const Found *found = &block->found;
    Plan plan = {.lines = found->lines, .fates = fates.buf, .count = found->count};
    PyObject *result = (size_t)fates.len == found->count
        ? recoded(bytes_in(block), (size_t)PyBytes_Size(block->data), block->base, &plan, &placeholder,
            (Place){NULL, NULL, offset, stamp_us, crc})
        : Py_NewRef(Py_None);
    PyBuffer_Release(&fates);
    PyBuffer_Release(&placeholder);
    return result;
}
