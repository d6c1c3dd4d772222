/* Proven lines as numbers for Python: how many there are, where they end, and of each no more than the control lines. */

#include "core.h"

/* Of a control line: its key is None. */
PyObject *fields_of(const Line *line, const uint8_t *data)
{
    return Py_BuildValue("KKKKIONNI", (unsigned long long)line->start, (unsigned long long)line->end,
        (unsigned long long)line->stamp_us, (unsigned long long)line->durable, line->more, Py_None,
        new_bytes(data + line->event, line->event_size),
        line->meta_size != 0 ? new_bytes(data + line->meta, line->meta_size) : new_bytes("null", 4), line->crc);
}

static PyObject *controls_of(const Found *controls, const uint8_t *data)
{
    PyObject *made = PyList_New((Py_ssize_t)controls->count);
    for (size_t index = 0; made != NULL && index < controls->count; index++) {
        PyObject *fields = fields_of(&controls->lines[index], data);
        if (fields == NULL || PyList_SetItem(made, (Py_ssize_t)index, fields) < 0)
            Py_CLEAR(made);
    }
    return made;
}

static PyObject *handed_out(const Counts *counts, const uint8_t *data)
{
    PyObject *controls = controls_of(&counts->controls, data);
    if (controls == NULL)
        return NULL;
    PyObject *result = Py_BuildValue("nnnKIKKKOO", (Py_ssize_t)counts->proven, (Py_ssize_t)counts->lines,
        (Py_ssize_t)counts->records, (unsigned long long)counts->end, counts->stored_crc,
        (unsigned long long)counts->stamp_us, (unsigned long long)counts->first_us, (unsigned long long)counts->durable,
        counts->has_batches ? Py_True : Py_False, controls);
    Py_DECREF(controls);
    return result;
}

PyObject *count(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Given given;
    int is_beyond = take_given(arguments, "SKIKK:count", &given);
    if (is_beyond < 0)
        return NULL;
    if (is_beyond)
        Py_RETURN_NONE;
    Counts counts;
    int counted;
    if (given.size < WORTH_UNLOCKING_BYTES) {
        counted = count_lines(given.data, given.size, &given.start, &counts);
    } else {
        /* The bytes cannot change or go away meanwhile, as in `scan`. */
        Py_BEGIN_ALLOW_THREADS
        counted = count_lines(given.data, given.size, &given.start, &counts);
        Py_END_ALLOW_THREADS
    }
    if (counted < 0)
        return PyErr_NoMemory();
    PyObject *result = counts.proven == 0 ? Py_NewRef(Py_None) : handed_out(&counts, given.data);
    free_found(&counts.controls);
    return result;
}
