/* What the files of the native core share. README.md beside this file says what the core does, and what it must not. */

#ifndef MPCHECKPOINT_CORE_H
#define MPCHECKPOINT_CORE_H

/* No format has a "#" in it: what Python 3.13 compiles it to is refused by 3.12 and before, in the middle of an append. */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000 /* Python 3.11: the first whose stable ABI has the buffer protocol */
#endif
#include <Python.h>

/* From 3.12 on None counts no references, and the headers count none where it is returned. Used by 3.11 such a build takes one
   reference too many at each call, until that Python aborts. */
#undef Py_RETURN_NONE
#define Py_RETURN_NONE return Py_NewRef(Py_None)

#include <stddef.h>
#include <stdint.h>

/* Raised by one whenever what Python and C say to each other changes: a build that is older or newer than the package
   beside it is then not used (mpcheckpoint/_core.py). */
#define CORE_VERSION 10

/* New bytes, for an N of Py_BuildValue: that passes on a NULL. */
static inline PyObject *new_bytes(const void *data, size_t size)
{
    return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
}

/* The bounds of mpcheckpoint/_format/frame.py. A test compares them: the module hands them out as LIMITS. */
#define MIN_LINE_BYTES 40
#define MAX_LINE_BYTES (64u * 1024 * 1024)
#define MAX_STAMP_US ((UINT64_C(1) << 53) - 1)
#define MAX_DEPTH 128
#define LENGTH_END 10
#define CLOSING_BYTES 12

/* --- crc.c: the CRC of zlib, with zlib's way of going on: crc is that of all bytes before. ----------------------- */

void prepare_crc(void); /* once before all others, by each module that is loaded */
uint32_t crc_of(const uint8_t *data, size_t size, uint32_t crc);

/* Of eight bytes at once: the high bits of those that a string of JSON cannot hold as they are, a quote, a backslash or a
   control; bits of the bytes above the first such one may be set as well, and those of bytes that are not ASCII. A
   subtraction borrows from the byte above only where it is so, so the lowest one is right among ASCII. */
#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

static inline uint64_t may_need_escape(uint64_t word)
{
    uint64_t quote = (word ^ EACH('"')) - EACH(1), backslash = (word ^ EACH('\\')) - EACH(1);
    return (quote | backslash | (word - EACH(0x20))) & EACH(0x80);
}

/* --- json.c: JSON as our writer makes it ---------------------------------------------------------------------------

   Each function takes where something begins, and returns where it ends, or NULL if it is not in the writer's form.
   Requires: a newline stands at `end - 1`, and `at` is below `end`. No function passes a newline. */

/* A string, from after its opening quote to after its closing one. Sets *has_escapes if there are any, else leaves it. */
const uint8_t *string_end(const uint8_t *at, const uint8_t *end, int *has_escapes);

/* Any value. */
const uint8_t *value_end(const uint8_t *at, const uint8_t *end);

/* The text of a string with escapes, without its quotes: writes at most `size` bytes, returns how many.
   Requires: string_end has taken the string. */
size_t unescaped(const uint8_t *string, size_t size, uint8_t *text);

/* --- lines.c: lines as our writer makes them, proven without any object of Python --------------------------------- */

/* One proven line. What it holds is told by places in the bytes that were scanned. */
typedef struct {
    uint64_t start, end; /* offsets in the file */
    uint64_t stamp_us, durable;
    uint32_t more, crc;
    uint32_t numbers, numbers_size; /* stamp and durable, each with its comma */
    uint32_t key, key_size; /* inside of the quotes; key is 0 in a control line */
    uint32_t event, event_size;
    uint32_t meta, meta_size; /* meta_size is 0 where the meta is null */
    uint32_t has_escapes;     /* the key */
} Line;

/* What a scan has found: `count` lines, of which the first `whole` are whole batches. */
typedef struct {
    Line *lines;
    size_t count, whole, room;
    uint64_t event_bytes;
    int has_metas, has_controls;
} Found;

/* What stands before the bytes that are scanned, and how long a batch may be. */
typedef struct {
    uint64_t offset, stamp_us, most_batch_bytes;
    uint32_t stored_crc;
} Start;

/* The key of a line, which is null in a control line, the comma after it, and the event: as the functions of json.c. */
const uint8_t *key_and_event_end(const uint8_t *data, const uint8_t *at, const uint8_t *end, Line *line);

/* Prove lines from the start of `data` up to the first that is not in the writer's form, or not in its place. Returns
   0, or -1 if memory ran out. Touches no object of Python. `found` is the caller's to free, with free_found. */
int prove_lines(const uint8_t *data, size_t size, const Start *start, Found *found);
void free_found(Found *found);

/* What the whole batches at the start of some bytes come to, and no more of each line. */
typedef struct {
    size_t lines, records;
    size_t proven; /* bytes of proven lines, those of a batch whose end is missing among them */
    uint64_t end, stamp_us; /* after the last whole batch; of the start if there is none */
    uint64_t first_us, durable; /* the stamp of the first line; the highest offset that a line calls durable */
    uint32_t stored_crc;
    int has_batches; /* of more lines than one */
    Found controls; /* the control lines: `count` of them, and nothing else */
} Counts;

/* Prove the lines that prove_lines proves, and count them. Returns as prove_lines does; then frees what is there itself
   where memory ran out, else it is the caller's to free, with free_found. */
int count_lines(const uint8_t *data, size_t size, const Start *start, Counts *counts);

/* --- columns.c: proven lines as columns for Python ----------------------------------------------------------------- */

PyObject *scan(PyObject *module, PyObject *arguments);
PyObject *records(PyObject *module, PyObject *arguments);

/* What both functions that prove lines are given. */
typedef struct {
    const uint8_t *data;
    size_t size;
    Start start;
} Given;

/* Take the arguments of such a function. Returns 0; 1 if the numbers are beyond what it works on; -1 with an error. */
int take_given(PyObject *arguments, const char *format, Given *given);

/* A scan of fewer bytes is done before another thread would have taken the interpreter's lock. */
#define WORTH_UNLOCKING_BYTES (64 * 1024)

/* The columns, as mpcheckpoint/_format/columns.py takes them. */
PyObject *columns_of(const Found *found, const uint8_t *data);

/* --- block.c: proven lines of which no object of Python is made until it is asked for ------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *data; /* bytes, */
    uint64_t base;  /* from this offset on */
    Found found;    /* whole batches, and at least one line */
} Block;

static inline const uint8_t *bytes_in(const Block *block)
{
    return (const uint8_t *)PyBytes_AsString(block->data);
}

extern PyType_Spec block_spec, tally_spec;
PyObject *block(PyObject *module, PyObject *arguments);

/* --- count.c: proven lines as numbers for Python -------------------------------------------------------------------- */

PyObject *count(PyObject *module, PyObject *arguments);

/* The fields of mpcheckpoint._format.frame.Line, in their order. */
PyObject *fields_of(const Line *line, const uint8_t *data);

/* --- recode.c: lines written anew in another place ------------------------------------------------------------------ */

/* What becomes of a line. LEFT: a placeholder stands for it. */
enum { DROP, KEEP, LEFT };

PyObject *recode(PyObject *module, PyObject *arguments);
PyObject *recode_block(PyObject *module, PyObject *arguments);

/* --- bodies.c: the lines of batches as a server keeps them ---------------------------------------------------------- */

PyObject *bodies(PyObject *module, PyObject *arguments);

/* --- numbers.c: the index of objects ------------------------------------------------------------------------------- */

/* What each module that is loaded keeps. */
typedef struct {
    PyTypeObject *numbers, *block, *tally, *append_state, *highest_stamp; /* the last two where HAS_APPEND */
    PyObject *null_meta; /* the meta of a record without one */
} State;

extern PyType_Spec numbers_spec;
PyObject *index_objects(PyObject *module, PyObject *arguments);
PyObject *shifted(PyObject *module, PyObject *arguments);
PyObject *last_records(PyObject *module, PyObject *arguments);
/* state.c, append.c, commit.c, page.c and system.c: where the C library has statx, and numbers lie in memory as they lie in the page. */
#if defined(__linux__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HAS_APPEND
PyObject *await_group(PyObject *module, PyObject *arguments);
PyObject *file_facts(PyObject *module, PyObject *arguments);
PyObject *lock_in_child(PyObject *module, PyObject *path);
PyObject *futex_wait(PyObject *module, PyObject *arguments);
PyObject *futex_wake(PyObject *module, PyObject *arguments);
#endif

/* --- encode.c: what is written -------------------------------------------------------------------------------------- */

PyObject *payload(PyObject *module, PyObject *arguments);
PyObject *payloads(PyObject *module, PyObject *arguments);
PyObject *batch(PyObject *module, PyObject *arguments);
PyObject *parts_bytes(PyObject *module, PyObject *payloads);

/* Bytes in the memory of somebody else. */
typedef struct {
    const char *bytes;
    size_t size;
} Piece;

/* Write a line up to its closing, of a batch of which `left` more follow; `numbers` is its stamp and its durable offset.
   Return where the closing belongs. */
uint8_t *put_line(uint8_t *at, const Piece *numbers, uint64_t left, const Piece *parts);

/* Write a number, decimal before `end`, and return where it begins; or as eight hexadecimal digits, and where they end. */
char *digits_before(char *end, uint64_t number);
uint8_t *put_hex(uint8_t *at, uint32_t number);

/* Write the CLOSING_BYTES of a line whose crc field is `crc`; return where they end. */
uint8_t *put_closing(uint8_t *at, uint32_t crc);

#endif
