/* The module mpcheckpoint._native: what Python sees of the core. */

#include "core.h"

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
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module)
{
    return PyModule_AddIntConstant(module, "VERSION", CORE_VERSION);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpcheckpoint._native",
    .m_doc = "The native core. It has no say: mpcheckpoint._core decides whether it runs.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
