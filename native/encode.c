/* What records say, as JSON, and lines around it: the same bytes as Python's way gives, or None for what is not simple.

   The proof that a value comes back as it was lies in what is taken: values of exactly the types that JSON has, integers
   of 64 bits, finite numbers in the shortest digits that give them back, text without surrogates, no deeper than
   MAX_DEPTH. So nothing is decoded again. No code of anybody else's runs meanwhile: nothing changes under our hands. */

#include "core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the functions here return that may find something that is not theirs. */
enum { FAILED = -1, NOT_MINE = 0, TAKEN = 1 };

/* Bytes that grow. Invariant: `size` of `room` are written. */
typedef struct {
    uint8_t *bytes;
    size_t size, room;
} Text;

static int reserve(Text *text, size_t more)
{
    if (text->room - text->size >= more)
        return TAKEN;
    size_t room = text->room * 2 + more + 64;
    uint8_t *bytes = realloc(text->bytes, room);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    text->bytes = bytes;
    text->room = room;
    return TAKEN;
}

static inline int put(Text *text, const char *bytes, size_t size)
{
    if (text->room - text->size < size && reserve(text, size) != TAKEN)
        return FAILED;
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    return TAKEN;
}

/* A number in decimal digits, written backwards up to `end`; returns where it begins. 20 bytes are enough. */
char *digits_before(char *end, uint64_t number)
{
    do {
        *--end = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    return end;
}

static int put_integer(Text *text, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow)
        return NOT_MINE;
    char digits[21], *end = digits + sizeof digits;
    char *start = digits_before(end, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
    if (number < 0)
        *--start = '-';
    return put(text, start, (size_t)(end - start));
}

/* Python's digits are those of the encoder that Python's way uses. Exponents are written in another way. */
static int put_float(Text *text, PyObject *value)
{
    double number = PyFloat_AsDouble(value);
    if (!isfinite(number))
        return NOT_MINE;
    char *digits = PyOS_double_to_string(number, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    if (digits == NULL)
        return FAILED;
    char *exponent = strchr(digits, 'e');
    int result;
    if (exponent == NULL) {
        result = put(text, digits, strlen(digits));
    } else if (strcmp(exponent, "e-05") == 0) {
        result = NOT_MINE; /* the only one that the encoder writes without an exponent */
    } else {
        int is_negative = exponent[1] == '-';
        result = put(text, digits, (size_t)(exponent - digits) + 1);
        for (exponent += 2; *exponent == '0'; exponent++)
            ;
        if (result == TAKEN && is_negative)
            result = put(text, "-", 1);
        if (result == TAKEN)
            result = put(text, exponent, strlen(exponent));
    }
    PyMem_Free(digits);
    return result;
}

/* A character that cannot stand in a string of JSON. */
static int put_escaped(Text *text, uint8_t byte)
{
    static const char letters[] = "\"\\bfnrt", meanings[] = "\"\\\b\f\n\r\t";
    const char *found = memchr(meanings, byte, sizeof meanings - 1);
    char escape[8];
    int size = found != NULL ? snprintf(escape, sizeof escape, "\\%c", letters[found - meanings])
                             : snprintf(escape, sizeof escape, "\\u%04x", byte);
    return put(text, escape, (size_t)size);
}

/* The first byte that a string of JSON cannot hold as it is: a quote, a backslash or a control. */
static const uint8_t *unescaped_end(const uint8_t *at, const uint8_t *end)
{
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        if (may_need_escape(word))
            break;
    }
    while (at < end && *at >= 0x20 && *at != '"' && *at != '\\')
        at++;
    return at;
}

static int put_string(Text *text, PyObject *value)
{
    Py_ssize_t size;
    const uint8_t *at = (const uint8_t *)PyUnicode_AsUTF8AndSize(value, &size);
    if (at == NULL) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError))
            return FAILED;
        PyErr_Clear(); /* a lone surrogate */
        return NOT_MINE;
    }
    const uint8_t *end = at + size;
    int result = reserve(text, (size_t)size + 2); /* mostly all that it takes */
    if (result == TAKEN)
        result = put(text, "\"", 1);
    while (result == TAKEN && at < end) {
        const uint8_t *plain = at;
        at = unescaped_end(at, end);
        result = put(text, (const char *)plain, (size_t)(at - plain));
        if (result == TAKEN && at < end)
            result = put_escaped(text, *at++);
    }
    return result == TAKEN ? put(text, "\"", 1) : result;
}

static int put_value(Text *text, PyObject *value, int depth);

static int put_list(Text *text, PyObject *value, int depth)
{
    Py_ssize_t count = PyList_Size(value);
    int result = depth == 0 ? NOT_MINE : put(text, "[", 1);
    for (Py_ssize_t index = 0; result == TAKEN && index < count; index++) {
        if (index)
            result = put(text, ",", 1);
        if (result == TAKEN)
            result = put_value(text, PyList_GetItem(value, index), depth - 1);
    }
    return result == TAKEN ? put(text, "]", 1) : result;
}

static int put_dict(Text *text, PyObject *value, int depth)
{
    Py_ssize_t place = 0;
    PyObject *name, *member;
    int result = depth == 0 ? NOT_MINE : put(text, "{", 1), is_first = 1;
    while (result == TAKEN && PyDict_Next(value, &place, &name, &member)) {
        if (!is_first)
            result = put(text, ",", 1);
        is_first = 0;
        if (result == TAKEN)
            result = PyUnicode_CheckExact(name) ? put_string(text, name) : NOT_MINE;
        if (result == TAKEN)
            result = put(text, ":", 1);
        if (result == TAKEN)
            result = put_value(text, member, depth - 1);
    }
    return result == TAKEN ? put(text, "}", 1) : result;
}

/* Types are compared exactly: an IntEnum would come back as an int. */
static int put_value(Text *text, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value))
        return put_string(text, value);
    if (PyLong_CheckExact(value))
        return put_integer(text, value);
    if (PyDict_CheckExact(value))
        return put_dict(text, value, depth);
    if (PyList_CheckExact(value))
        return put_list(text, value, depth);
    if (PyFloat_CheckExact(value))
        return put_float(text, value);
    if (value == Py_None)
        return put(text, "null", 4);
    if (value == Py_True)
        return put(text, "true", 4);
    if (value == Py_False)
        return put(text, "false", 5);
    return NOT_MINE;
}

/* An instance of `type`, which is a tuple of three. Steals the parts. */
static PyObject *made(PyTypeObject *type, PyObject *parts[3])
{
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *tuple = parts[0] && parts[1] && parts[2] ? make(type, 3) : NULL;
    for (int index = 0; index < 3; index++) {
        if (tuple == NULL)
            Py_XDECREF(parts[index]);
        else if (PyTuple_SetItem(tuple, index, parts[index]) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

/* What is written to `text`, cut at two places: key, event and meta. A record without an id shares its meta. */
static PyObject *parts_made(PyTypeObject *type, const Text *text, size_t event, size_t meta, PyObject *null_meta)
{
    const char *bytes = (const char *)text->bytes;
    PyObject *parts[3] = {
        PyBytes_FromStringAndSize(bytes, (Py_ssize_t)event),
        PyBytes_FromStringAndSize(bytes + event, (Py_ssize_t)(meta - event)),
        null_meta != NULL ? Py_NewRef(null_meta)
                          : PyBytes_FromStringAndSize(bytes + meta, (Py_ssize_t)(text->size - meta)),
    };
    return made(type, parts);
}

/* What the records of one call share. */
typedef struct {
    PyTypeObject *type;
    PyObject *null_meta;
    size_t most_bytes;
    Text text; /* empty again after each record, its room kept for the next */
} Work;

/* Encode a record into *payload. */
static int encode_record(Work *work, PyObject *const record[3], PyObject **payload)
{
    PyObject *key = record[0], *event = record[1], *record_id = record[2];
    Text *text = &work->text;
    if (!PyUnicode_CheckExact(key) || !(record_id == Py_None || PyUnicode_CheckExact(record_id)))
        return NOT_MINE;
    text->size = 0;
    int result = put_string(text, key);
    size_t event_start = text->size;
    if (result == TAKEN)
        result = put_value(text, event, MAX_DEPTH);
    size_t meta_start = text->size, null_bytes = sizeof "null" - 1;
    if (result == TAKEN && record_id != Py_None) {
        null_bytes = 0;
        if ((result = put(text, "{\"id\":", 6)) == TAKEN && (result = put_string(text, record_id)) == TAKEN)
            result = put(text, "}", 1);
    }
    if (result != TAKEN || text->size + null_bytes > work->most_bytes)
        return result == FAILED ? FAILED : NOT_MINE;
    *payload = parts_made(work->type, text, event_start, meta_start, null_bytes ? work->null_meta : NULL);
    return *payload == NULL ? FAILED : TAKEN;
}

static int is_tuple_type(PyTypeObject *type)
{
    if (PyType_IsSubtype(type, &PyTuple_Type))
        return 1;
    PyErr_SetString(PyExc_TypeError, "the type of payloads must be a tuple");
    return 0;
}

PyObject *payload(PyObject *module, PyObject *arguments)
{
    Work work = {.null_meta = ((State *)PyModule_GetState(module))->null_meta};
    PyObject *record[3], *result = NULL;
    Py_ssize_t most_bytes;
    if (!PyArg_ParseTuple(arguments, "O!OOOn:payload", &PyType_Type, &work.type, &record[0], &record[1], &record[2],
            &most_bytes)
        || !is_tuple_type(work.type))
        return NULL;
    work.most_bytes = (size_t)most_bytes;
    if (encode_record(&work, record, &result) == NOT_MINE)
        result = Py_NewRef(Py_None);
    free(work.text.bytes);
    return result;
}

/* Encode the pairs of a list into one of payloads. */
static int encode_records(Work *work, PyObject *records, PyObject *list)
{
    int result = TAKEN;
    for (Py_ssize_t index = 0; result == TAKEN && index < PyList_Size(list); index++) {
        PyObject *pair = PyList_GetItem(records, index), *encoded = NULL;
        if (!PyTuple_CheckExact(pair) || PyTuple_Size(pair) != 2)
            return NOT_MINE;
        PyObject *record[3] = {PyTuple_GetItem(pair, 0), PyTuple_GetItem(pair, 1), Py_None};
        result = encode_record(work, record, &encoded);
        if (result == TAKEN && PyList_SetItem(list, index, encoded) < 0)
            result = FAILED;
    }
    return result;
}

PyObject *payloads(PyObject *module, PyObject *arguments)
{
    Work work = {.null_meta = ((State *)PyModule_GetState(module))->null_meta};
    PyObject *records;
    Py_ssize_t most_bytes;
    if (!PyArg_ParseTuple(arguments, "O!O!n:payloads", &PyType_Type, &work.type, &PyList_Type, &records, &most_bytes)
        || !is_tuple_type(work.type))
        return NULL;
    work.most_bytes = (size_t)most_bytes;
    PyObject *list = PyList_New(PyList_Size(records));
    int result = list == NULL ? FAILED : encode_records(&work, records, list);
    free(work.text.bytes);
    if (result == TAKEN)
        return list;
    Py_XDECREF(list);
    return result == FAILED ? NULL : Py_NewRef(Py_None);
}

/* --- lines -------------------------------------------------------------------------------------------------------- */

/* The bytes of a line that are not a payload's, without the digits of its numbers. */
#define FIXED_BYTES (LENGTH_END + sizeof "\",,,,,," - 1 + CLOSING_BYTES)

/* The parts of a payload; not 1 if it is none. */
static int parts_of(PyObject *payload, Piece parts[3])
{
    if (!PyTuple_Check(payload) || PyTuple_Size(payload) != 3)
        return 0;
    for (int index = 0; index < 3; index++) {
        PyObject *part = PyTuple_GetItem(payload, index);
        if (!PyBytes_CheckExact(part))
            return 0;
        parts[index] = (Piece){PyBytes_AsString(part), (size_t)PyBytes_Size(part)};
    }
    return 1;
}

static uint8_t *put_part(uint8_t *at, const char *part, size_t size)
{
    memcpy(at, part, size);
    at[size] = ',';
    return at + size + 1;
}

uint8_t *put_hex(uint8_t *at, uint32_t number)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        *at++ = (uint8_t)"0123456789abcdef"[number >> shift & 15];
    return at;
}

uint8_t *put_closing(uint8_t *at, uint32_t crc)
{
    *at++ = '"';
    at = put_hex(at, crc);
    memcpy(at, "\"]\n", 3);
    return at + 3;
}

uint8_t *put_line(uint8_t *at, const Piece *numbers, uint64_t left, const Piece *parts)
{
    char more[21], *end = more + sizeof more, *first = digits_before(end, left);
    size_t length = FIXED_BYTES + numbers->size + (size_t)(end - first) + parts[0].size + parts[1].size + parts[2].size;
    memcpy(at, "[\"", 2);
    at = put_hex(at + 2, (uint32_t)length);
    memcpy(at, "\",", 2);
    at = put_part(at + 2, numbers->bytes, numbers->size);
    at = put_part(at, first, (size_t)(end - first));
    for (int part = 0; part < 3; part++)
        at = put_part(at, parts[part].bytes, parts[part].size);
    return at;
}

static size_t digits_of(size_t number)
{
    size_t count = 1;
    for (; number >= 10; number /= 10)
        count++;
    return count;
}

/* How many bytes the lines of some payloads take; 0 if some are not payloads, or too long for any line. */
static size_t lines_size(PyObject *payloads, Py_ssize_t count, size_t numbers_size)
{
    size_t total = 0;
    for (Py_ssize_t index = 0; index < count; index++) {
        Piece parts[3];
        if (!parts_of(PyList_GetItem(payloads, index), parts))
            return 0;
        size_t sizes = parts[0].size + parts[1].size + parts[2].size;
        size_t line = FIXED_BYTES + numbers_size + digits_of((size_t)(count - 1 - index)) + sizes;
        if (line > UINT32_MAX)
            return 0;
        total += line;
    }
    return total;
}

PyObject *batch(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *payloads;
    unsigned int crc;
    unsigned long long stamp_us, durable;
    if (!PyArg_ParseTuple(arguments, "OIKK:batch", &payloads, &crc, &stamp_us, &durable))
        return NULL;
    if (!PyList_Check(payloads))
        Py_RETURN_NONE;
    char numbers[48];
    size_t numbers_size = (size_t)snprintf(numbers, sizeof numbers, "%llu,%llu", stamp_us, durable);
    Py_ssize_t count = PyList_Size(payloads);
    size_t size = lines_size(payloads, count, numbers_size);
    if (size == 0)
        Py_RETURN_NONE;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (data == NULL)
        return NULL;
    uint8_t closing[CLOSING_BYTES], *at = (uint8_t *)PyBytes_AsString(data);
    put_closing(closing, crc);
    crc = crc_of(closing, CLOSING_BYTES, crc);
    for (Py_ssize_t index = 0; index < count; index++) {
        Piece parts[3];
        parts_of(PyList_GetItem(payloads, index), parts);
        uint8_t *line = at;
        at = put_line(at, &(Piece){numbers, numbers_size}, (uint64_t)(count - 1 - index), parts);
        size_t length = (size_t)(at - line) + CLOSING_BYTES;
        /* From one crc field to the next: the earlier one stands for every byte before it. */
        crc = index ? crc_of(line - CLOSING_BYTES, length, crc) : crc_of(line, length - CLOSING_BYTES, crc);
        at = put_closing(at, crc);
    }
    return Py_BuildValue("NI", data, crc);
}

PyObject *parts_bytes(PyObject *Py_UNUSED(module), PyObject *payloads)
{
    size_t total = 0;
    for (Py_ssize_t index = 0; PyList_Check(payloads) && index < PyList_Size(payloads); index++) {
        Piece parts[3];
        if (!parts_of(PyList_GetItem(payloads, index), parts))
            Py_RETURN_NONE;
        total += parts[0].size + parts[1].size + parts[2].size;
    }
    return PyList_Check(payloads) ? PyLong_FromSize_t(total) : Py_NewRef(Py_None);
}
