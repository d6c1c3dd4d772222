/* The module mpcheckpoint._native: what Python sees of the core. */

#include "core.h"
#include "state.h"

static PyObject *crc32(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer data;
    unsigned int crc = 0;
    if (!PyArg_ParseTuple(arguments, "y*|I:crc32", &data, &crc))
        return NULL;
    crc = crc_of(data.buf, (size_t)data.len, crc);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef functions[] = {
    {"crc32", crc32, METH_VARARGS, "crc32(data, crc=0): the CRC of zlib."},
    {"scan", scan, METH_VARARGS,
        "scan(data, offset, stored_crc, stamp_us, most_batch_bytes): the lines at the start of some bytes that are in\n"
        "the writer's form, as (how many are whole batches, columns ...); None if there is none. See\n"
        "mpcheckpoint._format.columns."},
    {"records", records, METH_VARARGS,
        "records(data, offset, stored_crc, stamp_us, most_batch_bytes, note_type): the same of records alone, what the\n"
        "control lines say, and the end after all of them; None where a batch is not whole. See\n"
        "mpcheckpoint._format.columns."},
    {"block", block, METH_VARARGS,
        "block(data, offset, stored_crc, stamp_us, most_batch_bytes): the whole batches among the lines that `scan` would\n"
        "take, as a Block and what is known of it; None if there is none. See mpcheckpoint._format.blocks."},
    {"count", count, METH_VARARGS,
        "count(data, offset, stored_crc, stamp_us, most_batch_bytes): what the lines come to that `scan` would take; None\n"
        "if there is none. See mpcheckpoint._format.count."},
    {"recode", recode, METH_VARARGS,
     "recode(data, base, starts, ends, stamps_us, mores, fates, placeholder, offset, crc, stamp_us): lines written anew in "
     "another place, or None: mpcheckpoint/_format/recode.py."},
    {"recode_block", recode_block, METH_VARARGS,
     "recode_block(block, fates, placeholder, offset, crc, stamp_us): the same of the lines of a block."},
    {"bodies", bodies, METH_VARARGS,
        "bodies(data, ends, stamps_us, counts): the lines of batches that a server keeps, as `scan` gives lines: their\n"
        "bodies, with commas between and a newline at the end; of each its place, its stamp and how many lines it has,\n"
        "packed. None if any is not in the writer's form. See mpcheckpoint._postgres.rows."},
    {"index", index_objects, METH_VARARGS,
        "index(objects, keys, first): add records, numbered from `first`, to a dict of object key -> number or Numbers."},
    {"last_records", last_records, METH_VARARGS,
        "last_records(objects, keys, ends, events, starts, stamps): of each key the stamp and the event of its last "
        "record, or None. All but the first two are columns of Records, packed."},
    {"shifted", shifted, METH_VARARGS, "shifted(places, by): packed numbers of 64 bits, each raised by `by`."},
    {"payload", payload, METH_VARARGS,
        "payload(type, key, event, record_id, most_bytes): a record as a `type` of three pieces of JSON; None if it is\n"
        "not simple, or takes more bytes."},
    {"payloads", payloads, METH_VARARGS,
        "payloads(type, records, most_bytes): what payload returns, for a list of (key, event); None if it is for any."},
    {"batch", batch, METH_VARARGS,
        "batch(payloads, stored_crc, stamp_us, durable): the lines of a batch and the last crc field; None if something\n"
        "in the list is no payload."},
    {"parts_bytes", parts_bytes, METH_O,
        "parts_bytes(payloads): how many bytes all parts have; None if something in the list is no payload."},
#ifdef HAS_APPEND
    {"await_group", await_group, METH_VARARGS, "Wait for the sync of others: mpcheckpoint/_logfile/page.py."},
    {"file_facts", file_facts, METH_VARARGS, "statx without times: mpcheckpoint/_system/statx.py."},
    {"futex_wait", futex_wait, METH_VARARGS, "Wait on a word: mpcheckpoint/_system/futex.py."},
    {"futex_wake", futex_wake, METH_VARARGS, "Wake those who wait: mpcheckpoint/_system/futex.py."},
    {"lock_in_child", lock_in_child, METH_O, "Have another process ask for a lock: mpcheckpoint/_system/locks.py."},
#endif
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module)
{
    State *state = PyModule_GetState(module);
    prepare_crc();
    state->numbers = (PyTypeObject *)PyType_FromModuleAndSpec(module, &numbers_spec, NULL);
    state->block = (PyTypeObject *)PyType_FromModuleAndSpec(module, &block_spec, NULL);
    state->tally = (PyTypeObject *)PyType_FromModuleAndSpec(module, &tally_spec, NULL);
    state->null_meta = PyBytes_FromString("null");
    if (state->numbers == NULL || state->null_meta == NULL || PyModule_AddType(module, state->numbers) < 0
        || state->block == NULL || PyModule_AddType(module, state->block) < 0
        || state->tally == NULL || PyModule_AddType(module, state->tally) < 0)
        return -1;
#ifdef HAS_APPEND
    state->append_state = (PyTypeObject *)PyType_FromModuleAndSpec(module, &append_state_spec, NULL);
    state->highest_stamp = (PyTypeObject *)PyType_FromModuleAndSpec(module, &highest_stamp_spec, NULL);
    if (state->append_state == NULL || state->highest_stamp == NULL
        || PyModule_AddType(module, state->append_state) < 0 || PyModule_AddType(module, state->highest_stamp) < 0)
        return -1;
#endif
    PyObject *limits = Py_BuildValue("IIKIII", MIN_LINE_BYTES, MAX_LINE_BYTES, (unsigned long long)MAX_STAMP_US,
        MAX_DEPTH, LENGTH_END, CLOSING_BYTES);
    if (limits == NULL || PyModule_AddObjectRef(module, "LIMITS", limits) < 0) {
        Py_XDECREF(limits);
        return -1;
    }
    Py_DECREF(limits);
    return PyModule_AddIntConstant(module, "VERSION", CORE_VERSION);
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((State *)PyModule_GetState(module))->numbers);
    Py_VISIT(((State *)PyModule_GetState(module))->block);
    Py_VISIT(((State *)PyModule_GetState(module))->tally);
    Py_VISIT(((State *)PyModule_GetState(module))->null_meta);
    Py_VISIT(((State *)PyModule_GetState(module))->append_state);
    Py_VISIT(((State *)PyModule_GetState(module))->highest_stamp);
    return 0;
}

static int clear(PyObject *module)
{
    Py_CLEAR(((State *)PyModule_GetState(module))->numbers);
    Py_CLEAR(((State *)PyModule_GetState(module))->block);
    Py_CLEAR(((State *)PyModule_GetState(module))->tally);
    Py_CLEAR(((State *)PyModule_GetState(module))->null_meta);
    Py_CLEAR(((State *)PyModule_GetState(module))->append_state);
    Py_CLEAR(((State *)PyModule_GetState(module))->highest_stamp);
    return 0;
}

/* In steps, and with state of its own: so each interpreter that shares this one's lock may have a module of its own.
   One with its own lock refuses to load it, and runs as pure Python. */
static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpcheckpoint._native",
    .m_doc = "The native core. It has no say: mpcheckpoint._core decides whether it runs.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
