/* Block: proven lines of which no object of Python is made until it is asked for (mpcheckpoint/_format/blocks.py). */

#include "core.h"

#include <string.h>

static void block_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free_found(&((Block *)self)->found);
    Py_XDECREF(((Block *)self)->data);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type); /* an instance holds its type, which was made at run time */
}

/* Leave out the lines of a batch that is not whole. */
static void cut(Found *found)
{
    for (size_t index = found->whole; index < found->count; index++)
        found->event_bytes -= found->lines[index].event_size;
    found->count = found->whole;
}

static PyObject *columns(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    return columns_of(&((Block *)self)->found, bytes_in((Block *)self));
}

/* The control lines, each with its index and its fields. */
static PyObject *controls(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    const Found *found = &((Block *)self)->found;
    PyObject *made = PyList_New(0);
    for (size_t index = 0; made != NULL && found->has_controls && index < found->count; index++) {
        const Line *line = &found->lines[index];
        if (line->key != 0)
            continue;
        PyObject *each = Py_BuildValue("nN", (Py_ssize_t)index, fields_of(line, bytes_in((Block *)self)));
        if (each == NULL || PyList_Append(made, each) < 0)
            Py_CLEAR(made);
        Py_XDECREF(each);
    }
    return made;
}

/* Have placeholders stand for what leaves a batch of which other lines stay, as recode.py does. */
static PyObject *keep_places(PyObject *self, PyObject *arguments)
{
    const Found *found = &((Block *)self)->found;
    Py_buffer fates;
    if (!PyArg_ParseTuple(arguments, "w*:keep_places", &fates))
        return NULL;
    int fits = (size_t)fates.len == found->count;
    uint8_t *fate = fates.buf;
    for (size_t start = 0, stop; fits && start < found->count; start = stop) {
        stop = start + found->lines[start].more + 1; /* batches are whole */
        int is_kept = 0;
        for (size_t index = start; index < stop; index++)
            is_kept |= fate[index] != DROP;
        for (size_t index = start; is_kept && index < stop; index++)
            if (fate[index] == DROP)
                fate[index] = LEFT;
    }
    PyBuffer_Release(&fates);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "one fate a line is wanted");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"columns", columns, METH_NOARGS, "What `scan` returns."},
    {"controls", controls, METH_NOARGS, "The control lines: (index, fields) of each."},
    {"keep_places", keep_places, METH_VARARGS, "keep_places(fates): as mpcheckpoint._format.recode does."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Whole batches of proven lines. Only `block` makes it."},
    {Py_tp_dealloc, block_free},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec block_spec = {
    .name = "mpcheckpoint._native.Block",
    .basicsize = sizeof(Block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static int has_batches(const Found *found)
{
    for (size_t index = 0; index < found->count; index++)
        if (found->lines[index].more != 0)
            return 1;
    return 0;
}

/* The block, and what is known of its lines; frees what was found if there is none. */
static PyObject *handed_out(PyTypeObject *type, PyObject *data, Found *found)
{
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Block *block = (Block *)make(type, 0);
    if (block == NULL) {
        free_found(found);
        return NULL;
    }
    block->data = Py_NewRef(data);
    block->base = found->lines->start;
    block->found = *found;
    const Line *first = found->lines, *last = found->lines + found->count - 1;
    return Py_BuildValue("NnKKIKOOO", block, (Py_ssize_t)found->count, (unsigned long long)first->start,
        (unsigned long long)last->end, last->crc, (unsigned long long)last->stamp_us,
        found->has_controls ? Py_True : Py_False, found->has_metas ? Py_True : Py_False,
        has_batches(found) ? Py_True : Py_False);
}

PyObject *block(PyObject *module, PyObject *arguments)
{
    Given given;
    int is_beyond = take_given(arguments, "SKIKK:block", &given);
    if (is_beyond < 0)
        return NULL;
    if (is_beyond)
        Py_RETURN_NONE;
    Found found = {0};
    int proven;
    /* The bytes cannot change or go away meanwhile, as in `scan`. */
    Py_BEGIN_ALLOW_THREADS
    proven = prove_lines(given.data, given.size, &given.start, &found);
    Py_END_ALLOW_THREADS
    if (proven < 0) {
        free_found(&found);
        return PyErr_NoMemory();
    }
    cut(&found);
    if (found.count == 0) {
        free_found(&found);
        Py_RETURN_NONE;
    }
    return handed_out(((State *)PyModule_GetState(module))->block, PyTuple_GetItem(arguments, 0), &found);
}
