/* Proven lines as columns for Python: numbers as packed bytes, texts as objects. */

#include "core.h"

#include <stdlib.h>
#include <string.h>

/* The columns of packed numbers, in the order in which they are handed out. */
enum { OFFSETS, ENDS, STAMPS, DURABLES, EVENT_ENDS, MORES, CRCS, PACKED };

/* All that is made for Python. */
typedef struct {
    PyObject *packed[PACKED];
    PyObject *keys, *events, *metas;
} Columns;

static void clear(Columns *columns)
{
    for (int index = 0; index < PACKED; index++)
        Py_XDECREF(columns->packed[index]);
    Py_XDECREF(columns->keys);
    Py_XDECREF(columns->events);
    Py_XDECREF(columns->metas);
}

static int fill_numbers(const Found *found, const uint8_t *data, Columns *columns)
{
    uint64_t *wide[MORES];
    uint32_t *narrow[PACKED - MORES];
    for (int index = 0; index < PACKED; index++) {
        size_t width = index < MORES ? sizeof(uint64_t) : sizeof(uint32_t);
        columns->packed[index] = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(found->count * width));
        if (columns->packed[index] == NULL)
            return -1;
        void *place = PyBytes_AsString(columns->packed[index]);
        if (index < MORES)
            wide[index] = place;
        else
            narrow[index - MORES] = place;
    }
    columns->events = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)found->event_bytes);
    if (columns->events == NULL)
        return -1;
    char *events = PyBytes_AsString(columns->events);
    uint64_t event_end = 0;
    for (size_t index = 0; index < found->count; index++) {
        const Line *line = &found->lines[index];
        memcpy(events + event_end, data + line->event, line->event_size);
        event_end += line->event_size;
        wide[OFFSETS][index] = line->start;
        wide[ENDS][index] = line->end;
        wide[STAMPS][index] = line->stamp_us;
        wide[DURABLES][index] = line->durable;
        wide[EVENT_ENDS][index] = event_end;
        narrow[MORES - MORES][index] = line->more;
        narrow[CRCS - MORES][index] = line->crc;
    }
    return 0;
}

static PyObject *key_of(const uint8_t *data, const Line *line)
{
    const char *key = (const char *)data + line->key;
    if (!line->has_escapes)
        return PyUnicode_FromStringAndSize(key, line->key_size);
    uint8_t *text = malloc(line->key_size);
    if (text == NULL)
        return PyErr_NoMemory();
    size_t size = unescaped(data + line->key, line->key_size, text);
    PyObject *made = PyUnicode_FromStringAndSize((char *)text, (Py_ssize_t)size);
    free(text);
    return made;
}

static int fill_keys(const Found *found, const uint8_t *data, Columns *columns)
{
    columns->keys = PyList_New((Py_ssize_t)found->count);
    if (columns->keys == NULL)
        return -1;
    PyObject *latest = NULL;
    const Line *latest_line = NULL;
    for (size_t index = 0; index < found->count; index++) {
        const Line *line = &found->lines[index];
        PyObject *key;
        if (line->key == 0) {
            key = Py_NewRef(Py_None);
        } else if (latest != NULL && line->key_size == latest_line->key_size
                   && memcmp(data + line->key, data + latest_line->key, line->key_size) == 0) {
            key = Py_NewRef(latest); /* one text for many records of one object in a row */
        } else {
            key = latest = key_of(data, line);
            latest_line = line;
        }
        if (key == NULL || PyList_SetItem(columns->keys, (Py_ssize_t)index, key) < 0)
            return -1;
    }
    return 0;
}

/* The meta of each line, null as well; None for all if all are null. */
static int fill_metas(const Found *found, const uint8_t *data, Columns *columns)
{
    if (!found->has_metas) {
        columns->metas = Py_NewRef(Py_None);
        return 0;
    }
    PyObject *null = PyBytes_FromString("null");
    columns->metas = PyList_New((Py_ssize_t)found->count);
    int result = null == NULL || columns->metas == NULL ? -1 : 0;
    for (size_t index = 0; result == 0 && index < found->count; index++) {
        const Line *line = &found->lines[index];
        PyObject *meta = line->meta_size == 0
            ? Py_NewRef(null)
            : PyBytes_FromStringAndSize((const char *)data + line->meta, line->meta_size);
        if (meta == NULL || PyList_SetItem(columns->metas, (Py_ssize_t)index, meta) < 0)
            result = -1;
    }
    Py_XDECREF(null);
    return result;
}

static PyObject *handed_out(const Found *found, const uint8_t *data)
{
    Columns columns = {0};
    PyObject *result = NULL;
    if (fill_numbers(found, data, &columns) == 0 && fill_keys(found, data, &columns) == 0
        && fill_metas(found, data, &columns) == 0)
        result = Py_BuildValue("nOOOOOOOOOOO", (Py_ssize_t)found->whole, columns.packed[OFFSETS], columns.packed[ENDS],
            columns.packed[STAMPS], columns.packed[DURABLES], columns.packed[EVENT_ENDS], columns.packed[MORES],
            columns.packed[CRCS], columns.keys, columns.events, columns.metas,
            found->has_metas || found->has_controls ? Py_False : Py_True);
    clear(&columns);
    return result;
}

int take_given(PyObject *arguments, const char *format, Given *given)
{
    PyObject *source;
    unsigned long long offset, stamp_us, most_batch_bytes;
    unsigned int stored_crc;
    if (!PyArg_ParseTuple(arguments, format, &source, &offset, &stored_crc, &stamp_us, &most_batch_bytes))
        return -1;
    given->data = (const uint8_t *)PyBytes_AsString(source);
    given->size = (size_t)PyBytes_Size(source);
    given->start = (Start){offset, stamp_us, most_batch_bytes, stored_crc};
    /* Places in the bytes take 32 bits here, and sums must not overflow. */
    return given->size > UINT32_MAX || offset > MAX_STAMP_US;
}

PyObject *scan(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Given given;
    int is_beyond = take_given(arguments, "SKIKK:scan", &given);
    if (is_beyond < 0)
        return NULL;
    if (is_beyond)
        Py_RETURN_NONE;
    Found found = {0};
    int proven;
    if (given.size < WORTH_UNLOCKING_BYTES) {
        proven = prove_lines(given.data, given.size, &given.start, &found);
    } else {
        /* The bytes cannot change or go away meanwhile: they are an immutable object, which our caller holds. */
        Py_BEGIN_ALLOW_THREADS
        proven = prove_lines(given.data, given.size, &given.start, &found);
        Py_END_ALLOW_THREADS
    }
    PyObject *result;
    if (proven < 0)
        result = PyErr_NoMemory();
    else if (found.count == 0)
        result = Py_NewRef(Py_None);
    else
        result = handed_out(&found, given.data);
    free_found(&found);
    return result;
}
