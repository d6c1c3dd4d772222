/* Numbers: the record numbers of one object, four bytes each. And the loop that adds the records of a chunk to the index
   of objects, which is a dict of Python's (mpcheckpoint/_view/records.py). */

#include "core.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 4

/* Invariant: `count` numbers of `room` stand in `numbers`. They are only added, never changed or removed. */
typedef struct {
    PyObject_HEAD
    uint32_t *numbers;
    uint32_t count, room;
} Numbers;

static void numbers_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(((Numbers *)self)->numbers);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type); /* an instance holds its type, which was made at run time */
}

static int add_number(Numbers *self, uint32_t number)
{
    if (self->count == self->room) {
        if (self->room > UINT32_MAX / 2) {
            PyErr_NoMemory();
            return -1;
        }
        uint32_t room = self->room ? self->room * 2 : FIRST_ROOM;
        uint32_t *numbers = realloc(self->numbers, room * sizeof(uint32_t));
        if (numbers == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->numbers = numbers;
        self->room = room;
    }
    self->numbers[self->count++] = number;
    return 0;
}

static PyObject *make_numbers(PyTypeObject *type)
{
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return make(type, 0); /* zeroed: no numbers, no room */
}

static Py_ssize_t numbers_length(PyObject *self)
{
    return ((Numbers *)self)->count;
}

static PyObject *numbers_item(PyObject *self, Py_ssize_t index)
{
    Numbers *numbers = (Numbers *)self;
    if (index < 0 || index >= (Py_ssize_t)numbers->count) {
        PyErr_SetString(PyExc_IndexError, "index out of range");
        return NULL;
    }
    return PyLong_FromUnsignedLong(numbers->numbers[index]);
}

static PyObject *part_of(Numbers *numbers, PyObject *slice)
{
    Py_ssize_t start, stop, step;
    if (PySlice_Unpack(slice, &start, &stop, &step) < 0)
        return NULL;
    Py_ssize_t count = PySlice_AdjustIndices(numbers->count, &start, &stop, step);
    Numbers *part = (Numbers *)make_numbers(Py_TYPE((PyObject *)numbers));
    for (Py_ssize_t index = 0; part != NULL && index < count; index++)
        if (add_number(part, numbers->numbers[start + index * step]) < 0)
            Py_CLEAR(part);
    return (PyObject *)part;
}

static PyObject *numbers_subscript(PyObject *self, PyObject *key)
{
    if (PySlice_Check(key))
        return part_of((Numbers *)self, key);
    if (!PyIndex_Check(key)) {
        PyErr_SetString(PyExc_TypeError, "indices must be integers or slices");
        return NULL;
    }
    Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    return numbers_item(self, index < 0 ? index + (Py_ssize_t)((Numbers *)self)->count : index);
}

/* A snapshot that is pickled holds Numbers. What comes out is an array, as without this core: who reads it may have none. */
static PyObject *numbers_reduce(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    PyObject *module = PyImport_ImportModule("array");
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, "array");
    Numbers *numbers = (Numbers *)self;
    const char *packed = numbers->count ? (char *)numbers->numbers : "";
    PyObject *result = type == NULL
        ? NULL
        : Py_BuildValue("O(sN)", type, "I", new_bytes(packed, numbers->count * sizeof(uint32_t)));
    Py_XDECREF(module);
    Py_XDECREF(type);
    return result;
}

static PyMethodDef methods[] = {
    {"__reduce__", numbers_reduce, METH_NOARGS, "What pickle makes of it: an array."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Numbers of 32 bits, in the order in which they were added. Only `index` makes and adds to them."},
    {Py_tp_dealloc, numbers_free},
    {Py_tp_methods, methods},
    {Py_sq_length, numbers_length},
    {Py_sq_item, numbers_item},
    {Py_mp_length, numbers_length},
    {Py_mp_subscript, numbers_subscript},
    {0, NULL},
};

PyType_Spec numbers_spec = {
    .name = "mpcheckpoint._native.Numbers",
    .basicsize = sizeof(Numbers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

/* Turn the one number that is known of an object into two. */
static int begin_numbers(PyTypeObject *type, PyObject *objects, PyObject *key, PyObject *known, uint32_t number)
{
    unsigned long first = PyLong_AsUnsignedLong(known);
    if (first == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    PyObject *numbers = make_numbers(type);
    if (numbers == NULL)
        return -1;
    int result = add_number((Numbers *)numbers, (uint32_t)first);
    if (result == 0)
        result = add_number((Numbers *)numbers, number);
    if (result == 0)
        result = PyDict_SetItem(objects, key, numbers);
    Py_DECREF(numbers);
    return result;
}

static int add_record(PyTypeObject *type, PyObject *objects, PyObject *key, uint32_t number)
{
    if (key == NULL || !PyUnicode_CheckExact(key)) { /* no code of anybody else's runs meanwhile */
        PyErr_SetString(PyExc_TypeError, "an object key must be a str");
        return -1;
    }
    PyObject *known = PyDict_GetItemWithError(objects, key);
    if (known == NULL) {
        PyObject *first = PyErr_Occurred() ? NULL : PyLong_FromUnsignedLong(number);
        int result = first == NULL ? -1 : PyDict_SetItem(objects, key, first);
        Py_XDECREF(first);
        return result;
    }
    if (PyLong_Check(known))
        return begin_numbers(type, objects, key, known, number);
    if (Py_TYPE(known) == type)
        return add_number((Numbers *)known, number);
    PyErr_SetString(PyExc_TypeError, "an object's numbers must be an int or Numbers");
    return -1;
}

PyObject *index_objects(PyObject *module, PyObject *arguments)
{
    PyObject *objects, *keys;
    Py_ssize_t first;
    if (!PyArg_ParseTuple(arguments, "O!O!n:index", &PyDict_Type, &objects, &PyList_Type, &keys, &first))
        return NULL;
    Py_ssize_t count = PyList_Size(keys);
    if (first < 0 || (uint64_t)first + (uint64_t)count > (uint64_t)UINT32_MAX + 1) {
        PyErr_SetString(PyExc_OverflowError, "more records than 32 bits count");
        return NULL;
    }
    PyTypeObject *type = ((State *)PyModule_GetState(module))->numbers;
    for (Py_ssize_t index = 0; index < count; index++)
        if (add_record(type, objects, PyList_GetItem(keys, index), (uint32_t)(first + index)) < 0)
            return NULL;
    Py_RETURN_NONE;
}

PyObject *shifted(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer places;
    unsigned long long by;
    if (!PyArg_ParseTuple(arguments, "y*K:shifted", &places, &by))
        return NULL;
    PyObject *result = NULL;
    if (places.len % sizeof(uint64_t) != 0)
        PyErr_SetString(PyExc_ValueError, "packed numbers of 64 bits are wanted");
    else
        result = PyBytes_FromStringAndSize(NULL, places.len);
    if (result != NULL) {
        char *to = PyBytes_AsString(result);
        for (Py_ssize_t at = 0; at < places.len; at += (Py_ssize_t)sizeof(uint64_t)) {
            uint64_t place;
            memcpy(&place, (char *)places.buf + at, sizeof place);
            place += by;
            memcpy(to + at, &place, sizeof place);
        }
    }
    PyBuffer_Release(&places);
    return result;
}

/* --- the last records of many objects ------------------------------------------------------------------------------ */

/* The columns of Records, in the order in which they are handed in: where the events end, and the events; the number and
   the stamp of the first record of each batch. */
enum { ENDS, EVENTS, STARTS, STAMPS, COLUMNS };

static uint64_t wide_at(const Py_buffer *column, Py_ssize_t index)
{
    uint64_t value;
    memcpy(&value, (char *)column->buf + index * (Py_ssize_t)sizeof value, sizeof value);
    return value;
}

static uint32_t narrow_at(const Py_buffer *column, Py_ssize_t index)
{
    uint32_t value;
    memcpy(&value, (char *)column->buf + index * (Py_ssize_t)sizeof value, sizeof value);
    return value;
}

/* The stamp of a record: that of the last batch that begins with it or before it. */
static uint64_t stamp_of(const Py_buffer *columns, uint32_t number)
{
    Py_ssize_t low = 0, high = columns[STARTS].len / (Py_ssize_t)sizeof(uint32_t);
    while (high - low > 1) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (narrow_at(&columns[STARTS], middle) <= number)
            low = middle;
        else
            high = middle;
    }
    return wide_at(&columns[STAMPS], low);
}

static PyObject *record_at(const Py_buffer *columns, uint32_t number)
{
    int is_known = number < columns[ENDS].len / (Py_ssize_t)sizeof(uint64_t) && columns[STARTS].len > 0
        && narrow_at(&columns[STARTS], 0) <= number;
    uint64_t start = is_known && number > 0 ? wide_at(&columns[ENDS], (Py_ssize_t)number - 1) : 0;
    uint64_t end = is_known ? wide_at(&columns[ENDS], number) : 0;
    if (!is_known || start > end || end > (uint64_t)columns[EVENTS].len) {
        PyErr_SetString(PyExc_ValueError, "the columns do not hold the record");
        return NULL;
    }
    PyObject *stamp = PyLong_FromUnsignedLongLong(stamp_of(columns, number));
    PyObject *event = new_bytes((char *)columns[EVENTS].buf + start, end - start);
    PyObject *record = stamp == NULL || event == NULL ? NULL : PyTuple_Pack(2, stamp, event);
    Py_XDECREF(stamp);
    Py_XDECREF(event);
    return record;
}

static PyObject *last_record(PyObject *objects, PyObject *key, const Py_buffer *columns)
{
    if (key == NULL || !PyUnicode_CheckExact(key)) { /* no code of anybody else's runs meanwhile */
        PyErr_SetString(PyExc_TypeError, "an object key must be a str");
        return NULL;
    }
    PyObject *known = PyDict_GetItemWithError(objects, key);
    if (known == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    PyObject *number = PyLong_Check(known) ? Py_NewRef(known) : PySequence_GetItem(known, -1);
    unsigned long last = number == NULL ? 0 : PyLong_AsUnsignedLong(number);
    Py_XDECREF(number);
    if (PyErr_Occurred())
        return NULL;
    if (last > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "more records than 32 bits count");
        return NULL;
    }
    return record_at(columns, (uint32_t)last);
}

PyObject *last_records(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *objects, *keys, *found = NULL;
    Py_buffer columns[COLUMNS];
    if (!PyArg_ParseTuple(arguments, "O!O!y*y*y*y*:last_records", &PyDict_Type, &objects, &PyList_Type, &keys,
            &columns[ENDS], &columns[EVENTS], &columns[STARTS], &columns[STAMPS]))
        return NULL;
    if (columns[STARTS].len % (Py_ssize_t)sizeof(uint32_t) != 0 || columns[STAMPS].len != 2 * columns[STARTS].len)
        PyErr_SetString(PyExc_ValueError, "a stamp for each batch is wanted");
    else
        found = PyList_New(PyList_Size(keys));
    for (Py_ssize_t index = 0; found != NULL && index < PyList_Size(keys); index++) {
        PyObject *record = last_record(objects, PyList_GetItem(keys, index), columns);
        if (record == NULL || PyList_SetItem(found, index, record) < 0)
            Py_CLEAR(found);
    }
    for (int column = 0; column < COLUMNS; column++)
        PyBuffer_Release(&columns[column]);
    return found;
}
