/* Lines written anew in another place (mpcheckpoint/_format/recode.py): what they say is copied byte by byte. */

#include "core.h"

#include <stdio.h>
#include <string.h>

/* What becomes of a line. LEFT: a placeholder stands for it. */
enum { DROP, KEEP, LEFT };

/* The bytes of '["', a length, '",', three numbers of up to 20 digits with a comma each. */
#define FRONT_BYTES (LENGTH_END + 2 + 3 * 21)

/* The columns of some lines, and what becomes of each of them. */
typedef struct {
    const uint64_t *starts, *ends, *stamps_us;
    const uint32_t *mores;
    const uint8_t *fates;
    size_t count;
} Plan;

/* Where a line is written, and the crc field before it. */
typedef struct {
    uint8_t *at;
    uint64_t offset, stamp_us;
    uint32_t crc;
} Place;

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

static void put(Place *place, uint64_t stamp_us, uint64_t durable, uint32_t more, const uint8_t *text, size_t size)
{
    char front[FRONT_BYTES + 1], numbers[3 * 21 + 1];
    int digits = snprintf(numbers, sizeof numbers, "%llu,%llu,%lu,", (unsigned long long)stamp_us,
        (unsigned long long)durable, (unsigned long)more);
    size_t length = LENGTH_END + 2 + (size_t)digits + size + CLOSING_BYTES;
    int front_size = snprintf(front, sizeof front, "[\"%08lx\",%s", (unsigned long)length, numbers);
    uint8_t closing[CLOSING_BYTES], *line = place->at;
    put_closing(closing, place->crc);
    memcpy(line, front, (size_t)front_size);
    memcpy(line + front_size, text, size);
    uint32_t crc = crc_of(closing, CLOSING_BYTES, place->crc);
    place->crc = crc_of(line, length - CLOSING_BYTES, crc);
    place->at = put_closing(line + length - CLOSING_BYTES, place->crc);
    place->offset += length;
    place->stamp_us = stamp_us;
}

/* Write the lines. Returns whether all of them were framed as they must be. Touches no object of Python. */
static int put_all(Place *place, const uint8_t *data, uint64_t base, const Plan *plan, const Piece *placeholder)
{
    uint64_t batch = place->offset;
    for (size_t index = 0; index < plan->count; index++) {
        if (plan->fates[index] != DROP) {
            const uint8_t *text = (const uint8_t *)placeholder->bytes;
            size_t size = placeholder->size;
            if (plan->fates[index] == KEEP) {
                const uint8_t *line = data + (plan->starts[index] - base);
                size_t length = (size_t)(plan->ends[index] - plan->starts[index]);
                text = says(line, length);
                if (text == NULL)
                    return 0;
                size = (size_t)(line + length - CLOSING_BYTES - text);
            }
            put(place, plan->stamps_us[index], batch, plan->mores[index], text, size);
        }
        if (plan->mores[index] == 0)
            batch = place->offset;
    }
    return 1;
}

/* How many bytes the lines take at most; 0 if something is not as it must be. */
static size_t room_for(const Plan *plan, uint64_t base, size_t size, size_t placeholder_size)
{
    size_t room = 1;
    for (size_t index = 0; index < plan->count; index++) {
        uint64_t start = plan->starts[index], end = plan->ends[index];
        if (start < base || end > base + size || end < start + MIN_LINE_BYTES || plan->fates[index] > LEFT)
            return 0;
        if (plan->fates[index] != DROP)
            room += FRONT_BYTES + (plan->fates[index] == KEEP ? (size_t)(end - start) : placeholder_size) + CLOSING_BYTES;
    }
    return room;
}

static PyObject *recoded(const Py_buffer *given, uint64_t base, Place place)
{
    Plan plan = {given[1].buf, given[2].buf, given[3].buf, given[4].buf, given[5].buf, (size_t)given[5].len};
    size_t wide = plan.count * sizeof(uint64_t), narrow = plan.count * sizeof(uint32_t);
    for (int column = 1; column <= 4; column++)
        if ((size_t)given[column].len != (column == 4 ? narrow : wide))
            Py_RETURN_NONE;
    Piece placeholder = {given[6].buf, (size_t)given[6].len};
    size_t room = room_for(&plan, base, (size_t)given[0].len, placeholder.size);
    if (room == 0)
        Py_RETURN_NONE;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (made == NULL)
        return NULL;
    uint8_t *first = (uint8_t *)PyBytes_AsString(made);
    int is_done;
    place.at = first;
    /* The buffers are held, and nobody else knows the new object. */
    Py_BEGIN_ALLOW_THREADS
    is_done = put_all(&place, given[0].buf, base, &plan, &placeholder);
    Py_END_ALLOW_THREADS
    PyObject *result = is_done ? Py_BuildValue("NIK", new_bytes(first, (size_t)(place.at - first)), place.crc,
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
    PyObject *result = recoded(given, base, (Place){NULL, offset, stamp_us, crc});
    for (size_t index = 0; index < sizeof given / sizeof *given; index++)
        PyBuffer_Release(&given[index]);
    return result;
}
