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

PyObject *columns_of(const Found *found, const uint8_t *data)
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
        result = columns_of(&found, given.data);
    free_found(&found);
    return result;
}

/* --- records, and what the control lines among them say ------------------------------------------------------------- */

#define CLAIM_START "{\"control\":\"claim\",\"ignorable\":true,\"object_key\":\""
#define CLAIM_MIDDLE ",\"worker\":"

static int is_next(const uint8_t **at, const uint8_t *end, const char *text, size_t size)
{
    if ((size_t)(end - *at) < size || memcmp(*at, text, size) != 0)
        return 0;
    *at += size;
    return 1;
}
#define IS_NEXT(at, end, text) is_next(at, end, text, sizeof text - 1)

/* The note that a claim is, as our writer makes it, and without escapes; NULL where it is anything else, or with an error. */
static PyObject *claim_of(const uint8_t *event, size_t size, PyObject *note_type)
{
    const uint8_t *at = event, *end = event + size, *key, *key_end, *worker = NULL, *worker_end = NULL;
    int has_escapes = 0;
    if (!IS_NEXT(&at, end, CLAIM_START))
        return NULL;
    key = at;
    at = string_end(at, end, &has_escapes);
    if (!at || has_escapes)
        return NULL;
    key_end = at - 1;
    if (!IS_NEXT(&at, end, CLAIM_MIDDLE))
        return NULL;
    if (!IS_NEXT(&at, end, "null")) {
        if (!IS_NEXT(&at, end, "\""))
            return NULL;
        worker = at;
        at = string_end(at, end, &has_escapes);
        if (!at || has_escapes)
            return NULL;
        worker_end = at - 1;
    }
    if (!IS_NEXT(&at, end, "}") || at != end)
        return NULL;
    PyObject *name = PyUnicode_FromStringAndSize((const char *)key, key_end - key);
    PyObject *taker = !worker ? Py_NewRef(Py_None) : PyUnicode_FromStringAndSize((const char *)worker, worker_end - worker);
    PyObject *note = PyObject_CallFunction(note_type, "s{sNsN}", "claim", "object_key", name, "worker", taker);
    return note;
}

/* Split control lines from records, which stay in `found`. Return notes and stamps, two lists; NULL with an error. What is no
   usual claim is told by its bytes. */
static PyObject *split_controls(Found *found, const uint8_t *data, PyObject *note_type)
{
    PyObject *notes = PyList_New(0), *stamps = PyList_New(0);
    size_t kept = 0;
    for (size_t index = 0; notes && stamps && index < found->count; index++) {
        const Line *line = &found->lines[index];
        if (line->key != 0) {
            found->lines[kept++] = *line;
            continue;
        }
        found->event_bytes -= line->event_size;
        PyObject *note = line->meta_size != 0 ? NULL : claim_of(data + line->event, line->event_size, note_type);
        if (!note && !PyErr_Occurred())
            note = PyBytes_FromStringAndSize((const char *)data + line->event, line->event_size);
        PyObject *stamp = PyLong_FromUnsignedLongLong(line->stamp_us);
        if (!note || !stamp || PyList_Append(notes, note) < 0 || PyList_Append(stamps, stamp) < 0)
            Py_CLEAR(notes);
        Py_XDECREF(note);
        Py_XDECREF(stamp);
    }
    PyObject *result = notes && stamps ? PyTuple_Pack(2, notes, stamps) : NULL;
    Py_XDECREF(notes);
    Py_XDECREF(stamps);
    found->count = found->whole = kept;
    found->has_controls = 0;
    return result;
}

/* The columns of records, the notes, and what is after the last line; None where not all lines are whole batches. */
static PyObject *records_of(Found *found, const uint8_t *data, PyObject *note_type)
{
    if (found->count == 0 || found->whole != found->count)
        Py_RETURN_NONE;
    const Line last = found->lines[found->count - 1];
    uint64_t durable = 0;
    for (size_t index = 0; index < found->count; index++)
        if (found->lines[index].durable > durable)
            durable = found->lines[index].durable;
    PyObject *controls = split_controls(found, data, note_type);
    PyObject *columns = controls ? columns_of(found, data) : NULL, *result = NULL;
    if (columns)
        result = Py_BuildValue("(OO(KkK)K)", columns, controls, (unsigned long long)last.end, (unsigned long)last.crc,
            (unsigned long long)last.stamp_us, (unsigned long long)durable);
    Py_XDECREF(columns);
    Py_XDECREF(controls);
    return result;
}

PyObject *records(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Given given;
    PyObject *note_type = PyTuple_Size(arguments) == 6 ? PyTuple_GetItem(arguments, 5) : NULL;
    PyObject *others = note_type ? PyTuple_GetSlice(arguments, 0, 5) : NULL;
    if (!others) {
        PyErr_Clear();
        PyErr_SetString(PyExc_TypeError, "records() takes exactly 6 arguments");
        return NULL;
    }
    int is_beyond = take_given(others, "SKIKK:records", &given);
    Py_DECREF(others);
    if (is_beyond < 0)
        return NULL;
    if (is_beyond)
        Py_RETURN_NONE;
    Found found = {0};
    PyObject *result;
    if (prove_lines(given.data, given.size, &given.start, &found) < 0)
        result = PyErr_NoMemory();
    else
        result = records_of(&found, given.data, note_type);
    free_found(&found);
    return result;
}
