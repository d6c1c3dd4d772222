/* The lines of batches as a server keeps them: JSON arrays, with commas between, and the places of the batches beside. */

#include "core.h"

#include <stdlib.h>

/* What is known of each batch: numbers that follow each other in memory. */
typedef struct {
    const uint64_t *ends, *stamps_us, *counts;
    size_t count;
} Batches;

/* The array at `at`: [key,event] or [key,event,meta], the key null in a control line. Returns where it ends, or NULL if it
   is not in the writer's form. Requires: a newline at `end - 1`. */
static const uint8_t *array_end(const uint8_t *data, const uint8_t *at, const uint8_t *end, Line *line)
{
    line->meta = line->meta_size = 0;
    if (*at++ != '[' || (at = key_and_event_end(data, at, end, line)) == NULL)
        return NULL;
    if (*at == ',') {
        const uint8_t *meta = ++at;
        if (*meta != '{' || (at = value_end(meta, end)) == NULL)
            return NULL;
        line->meta = (uint32_t)(meta - data);
        line->meta_size = (uint32_t)(at - meta);
    }
    return *at == ']' ? at + 1 : NULL;
}

/* Take all lines of all batches. Returns 0; 1 if they are not in the writer's form, or not as many as they are said to be.
   Requires: room for as many. */
static int take_lines(const uint8_t *data, size_t size, const Batches *batches, Found *found)
{
    const uint8_t *at = data, *end = data + size;
    for (size_t index = 0; index < batches->count; index++) {
        for (uint64_t more = batches->counts[index]; more-- > 0;) {
            Line *line = &found->lines[found->count];
            if ((found->count > 0 && *at++ != ',') || (at = array_end(data, at, end, line)) == NULL)
                return 1;
            line->stamp_us = batches->stamps_us[index];
            line->end = batches->ends[index] - more;
            line->start = line->end - 1;
            line->durable = line->crc = 0;
            line->more = (uint32_t)more;
            found->count++;
            found->event_bytes += line->event_size;
            found->has_metas |= line->meta_size != 0;
            found->has_controls |= line->key == 0;
        }
    }
    found->whole = found->count;
    return at == end - 1 ? 0 : 1;
}

/* How many lines the batches have; SIZE_MAX if that is more than the bytes have room for. */
static size_t lines_in(const Batches *batches, size_t size)
{
    size_t sum = 0;
    for (size_t index = 0; index < batches->count; index++) {
        if (batches->counts[index] > size - sum)
            return SIZE_MAX;
        sum += batches->counts[index];
    }
    return sum;
}

PyObject *bodies(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *source, *ends, *stamps_us, *counts;
    if (!PyArg_ParseTuple(arguments, "SSSS:bodies", &source, &ends, &stamps_us, &counts))
        return NULL;
    const uint8_t *data = (const uint8_t *)PyBytes_AsString(source);
    size_t size = (size_t)PyBytes_Size(source);
    Batches batches = {(const uint64_t *)PyBytes_AsString(ends), (const uint64_t *)PyBytes_AsString(stamps_us),
        (const uint64_t *)PyBytes_AsString(counts), (size_t)PyBytes_Size(ends) / sizeof(uint64_t)};
    /* Places in the bytes take 32 bits here. */
    if (size == 0 || size > UINT32_MAX || data[size - 1] != '\n' || PyBytes_Size(stamps_us) != PyBytes_Size(ends)
        || PyBytes_Size(counts) != PyBytes_Size(ends))
        Py_RETURN_NONE;
    size_t room = lines_in(&batches, size);
    if (room == 0 || room > SIZE_MAX / sizeof(Line))
        Py_RETURN_NONE;
    Found found = {.lines = malloc(room * sizeof(Line)), .room = room};
    if (found.lines == NULL)
        return PyErr_NoMemory();
    int is_ours;
    if (size < WORTH_UNLOCKING_BYTES) {
        is_ours = take_lines(data, size, &batches, &found) == 0;
    } else {
        /* The bytes cannot change or go away meanwhile, as in `scan`. */
        Py_BEGIN_ALLOW_THREADS
        is_ours = take_lines(data, size, &batches, &found) == 0;
        Py_END_ALLOW_THREADS
    }
    PyObject *result = is_ours ? columns_of(&found, data) : Py_NewRef(Py_None);
    free_found(&found);
    return result;
}
