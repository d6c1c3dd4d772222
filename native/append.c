/* The common append, under the append lock: lock, end, write, page, unlock; OpenLog and LogWriter do the same in Python
   (mpcheckpoint/_logfile/opened.py, append.py), and the same system calls in the same order.

   Only where nothing is unusual. Whatever is, is left to Python before anything was changed: another log at the path,
   a page that is void or tells of poison, an end that the log does not bear out, no padding left, a clock out of range.
   The kernel's lock may be held then; to take it once more, as Python does, changes nothing.

   Runs without the interpreter's lock from the first system call to the last: other threads must not keep this one,
   and with it every process that waits for the append lock, from going on. */

#define _GNU_SOURCE /* statx */
#include "core.h"
#include "page.h"

#ifdef HAS_APPEND

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define MARGIN_BYTES 96 /* of a line: brackets, quotes, commas, two crcs and three numbers */
#define SMALL_BYTES 4096
#define YEAR_2200_US INT64_C(7258118400000000)
#define MOST_UNPUBLISHED 15
#define LONGEST_FOLLOWED_NS (INT64_C(600) * 1000000000)
#define LARGEST_OFFSET (INT64_C(1) << 62)

enum outcome { NOT_OURS, CONTENDED, WRITTEN, NOT_WRITTEN };

struct end {
    int64_t offset, stamp_us;
    uint32_t crc;
};

/* Everything that an append needs to know, and what came of it. */
struct append {
    /* Which files. */
    const char *log_path;
    int log_fd, page_fd, lock_fd;
    uint64_t log_device, log_inode, lock_device, lock_inode;
    const char *generation, *bound, *writer;
    /* What this process knows. */
    struct end own;
    int64_t allocated, durable, highest_stamp_us;
    Piece left;
    int unpublished, is_page_proven, is_locked, may_extend;
    /* What is to be written: three texts a record. */
    Piece *texts;
    Py_ssize_t records;
    uint8_t *line;
    /* What came of it. */
    struct end before, after;
    size_t line_bytes;
    int is_alone, is_followed, is_published, is_unlocked, is_extended, error;
    ssize_t written;
    char published[KNOWN_AT + KNOWN_BODY_BYTES + 4];
    size_t published_bytes;
};

/* --- lock ------------------------------------------------------------------------------------------------------- */

/* Take the kernel's lock if it is free, after its descriptor was shown to be the lock file. */
static enum outcome lock(struct append *append)
{
    struct stat status;
    int locked;
    if (append->is_locked)
        return WRITTEN;
    if (fstat(append->lock_fd, &status) != 0 || status.st_dev != append->lock_device
        || status.st_ino != append->lock_inode || status.st_nlink == 0)
        return NOT_OURS;
    UNINTERRUPTED(locked, flock(append->lock_fd, LOCK_EX | LOCK_NB));
    if (locked == 0)
        return WRITTEN;
    return errno == EWOULDBLOCK ? CONTENDED : NOT_OURS;
}

/* Whether the open log is what stands at its path. No times are asked for: mpcheckpoint/_system/statx.py says why. */
static int is_current(const struct append *append)
{
    struct statx status;
    if (statx(AT_FDCWD, append->log_path, AT_SYMLINK_NOFOLLOW, STATX_NLINK | STATX_INO | STATX_SIZE | STATX_BTIME, &status) != 0)
        return 0;
    return makedev(status.stx_dev_major, status.stx_dev_minor) == append->log_device && status.stx_ino == append->log_inode;
}

/* --- end -------------------------------------------------------------------------------------------------------- */

/* Take over the end that another writer left in the page; return whether it is one to go on from. */
static int take_over(struct append *append, const char *look)
{
    if (memcmp(look, append->generation, GENERATION_BYTES) != 0
        || word_at(look + END_BODY_BYTES) != crc_of_text(look, END_BODY_BYTES, 0))
        return 0;
    struct end end = {
        .offset = (int64_t)number_at(look + GENERATION_BYTES + WRITER_BYTES),
        .stamp_us = (int64_t)number_at(look + GENERATION_BYTES + WRITER_BYTES + 8),
        .crc = word_at(look + GENERATION_BYTES + WRITER_BYTES + 24),
    };
    const struct end *own = &append->own;
    if (end.offset < own->offset || end.offset >= LARGEST_OFFSET || end.stamp_us < 0 || end.stamp_us > (int64_t)MAX_STAMP_US)
        return 0;
    if (end.offset == own->offset && (end.crc != own->crc || end.stamp_us != own->stamp_us))
        return 0;
    const char *known = look + KNOWN_AT;
    int64_t durable = (int64_t)number_at(known + BOUND_BYTES);
    if (!is_about(append->bound, known) || word_at(known + KNOWN_BODY_BYTES) != crc_of_text(known, KNOWN_BODY_BYTES, 0)
        || durable <= 0 || durable > end.offset)
        return 0;
    append->before = end;
    append->allocated = (int64_t)number_at(look + GENERATION_BYTES + WRITER_BYTES + 16);
    append->durable = durable > append->durable ? durable : append->durable;
    append->is_alone = memcmp(look + GENERATION_BYTES, append->writer, WRITER_BYTES) == 0;
    append->is_page_proven = 1;
    return append->allocated >= 0;
}

/* Find where the log ends: from the page, borne out by the log's own bytes. */
static int find_end(struct append *append)
{
    char look[PAGE_READ_BYTES], found[CLOSING_BYTES + 1];
    uint8_t closing[CLOSING_BYTES];
    static const char nothing[PAGE_READ_BYTES];
    ssize_t size;
    UNINTERRUPTED(size, pread(append->page_fd, look, sizeof look, 0));
    if (size != sizeof look)
        return 0;
    if (memcmp(look + POISON_AT, nothing, PAGE_READ_BYTES - POISON_AT) != 0)
        return 0;
    append->before = append->own;
    /* If the page is as this process left it, nobody wrote since. */
    if (append->left.size > 0 && memcmp(look, append->left.bytes, append->left.size) == 0)
        append->is_alone = 1;
    else if (!take_over(append, look))
        return 0;
    put_closing(closing, append->before.crc);
    UNINTERRUPTED(size, pread(append->log_fd, found, sizeof found, append->before.offset - CLOSING_BYTES));
    if (size < CLOSING_BYTES || memcmp(found, closing, CLOSING_BYTES) != 0)
        return 0;
    /* A write begins right after the end. If there is no byte, or padding, nothing was written. */
    if (size > CLOSING_BYTES && found[CLOSING_BYTES] != '\n')
        return 0;
    uint64_t until_ns = number_at(look + FOLLOWED_AT);
    if (until_ns != 0) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t left_ns = (int64_t)(until_ns - ((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec));
        append->is_followed = until_ns <= INT64_MAX && left_ns > 0 && left_ns < LONGEST_FOLLOWED_NS;
    }
    return 1;
}

/* --- write ------------------------------------------------------------------------------------------------------ */

/* The stamp of this append: above all that this process has seen, and above that of the line before. */
static int64_t next_stamp_us(const struct append *append)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t wall_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, stamp_us = wall_us;
    if (wall_us < 0 || wall_us >= YEAR_2200_US)
        return -1;
    if (stamp_us <= append->highest_stamp_us)
        stamp_us = append->highest_stamp_us + 1;
    if (stamp_us <= append->before.stamp_us)
        stamp_us = append->before.stamp_us + 1;
    return stamp_us <= (int64_t)MAX_STAMP_US ? stamp_us : -1;
}

/* Make the bytes of one batch, and the end state after it. */
static void encode(struct append *append, int64_t stamp_us)
{
    struct end after = append->before;
    int64_t durable = append->durable < after.offset ? append->durable : after.offset;
    char digits[48];
    Piece numbers = {digits, (size_t)snprintf(digits, sizeof digits, "%lld,%lld", (long long)stamp_us, (long long)durable)};
    uint8_t *at = append->line, closing[CLOSING_BYTES];
    put_closing(closing, after.crc);
    for (Py_ssize_t record = 0; record < append->records; record++) {
        uint8_t *line = at;
        at = put_line(at, &numbers, (uint64_t)(append->records - 1 - record), append->texts + 3 * record);
        /* From one crc field to the next: the earlier one stands for every byte before it. */
        after.crc = crc_of(closing, CLOSING_BYTES, after.crc);
        after.crc = crc_of(line, (size_t)(at - line), after.crc);
        put_closing(closing, after.crc);
        at = put_closing(at, after.crc);
    }
    append->line_bytes = (size_t)(at - append->line);
    after.offset += (int64_t)append->line_bytes;
    after.stamp_us = stamp_us;
    append->after = after;
}

/* Say in the page where the log ends; a sole writer does so at every 16th append only. */
static void publish(struct append *append)
{
    append->is_published = !append->is_alone || append->unpublished >= MOST_UNPUBLISHED;
    if (!append->is_published)
        return;
    char *data = append->published;
    uint64_t numbers[3] = {
        (uint64_t)append->after.offset, (uint64_t)append->after.stamp_us, (uint64_t)append->allocated,
    };
    memset(data, 0, sizeof append->published);
    memcpy(data, append->generation, GENERATION_BYTES);
    memcpy(data + GENERATION_BYTES, append->writer, WRITER_BYTES);
    memcpy(data + GENERATION_BYTES + WRITER_BYTES, numbers, sizeof numbers);
    memcpy(data + END_BODY_BYTES - 4, &append->after.crc, 4);
    uint32_t check = crc_of_text(data, END_BODY_BYTES, 0);
    memcpy(data + END_BODY_BYTES, &check, 4);
    append->published_bytes = END_BODY_BYTES + 4;
    if (append->is_alone) { /* what is durable goes with it, which saves a write */
        char *known = data + KNOWN_AT;
        memcpy(known, append->bound, BOUND_BYTES);
        memcpy(known + BOUND_BYTES, &append->durable, 8);
        check = crc_of_text(known, KNOWN_BODY_BYTES, 0);
        memcpy(known + KNOWN_BODY_BYTES, &check, 4);
        append->published_bytes = sizeof append->published;
    }
    ssize_t written;
    UNINTERRUPTED(written, pwrite(append->page_fd, data, append->published_bytes, END_AT));
    if (written < 0)
        append->published_bytes = 0; /* what stood there is checked before it is believed */
}

/* Do it all; what is changed is changed here. */
static enum outcome run(struct append *append)
{
    enum outcome locked = lock(append);
    if (locked != WRITTEN)
        return locked;
    if (!is_current(append) || !find_end(append))
        return NOT_OURS;
    int64_t stamp_us = next_stamp_us(append);
    if (stamp_us < 0)
        return NOT_OURS;
    encode(append, stamp_us);
    /* To make padding, and to show that the page's descriptor is the page, is Python's. */
    append->is_extended = append->after.offset > append->allocated;
    if ((append->is_extended && !append->may_extend) || !append->is_page_proven)
        return NOT_OURS;
    UNINTERRUPTED(append->written, pwrite(append->log_fd, append->line, append->line_bytes, append->before.offset));
    if (append->written != (ssize_t)append->line_bytes) {
        append->error = append->written < 0 ? errno : 0;
        return NOT_WRITTEN;
    }
    publish(append);
    int unlocked;
    UNINTERRUPTED(unlocked, flock(append->lock_fd, LOCK_UN));
    append->is_unlocked = unlocked == 0;
    return WRITTEN;
}

/* --- as Python calls it ----------------------------------------------------------------------------------------- */

/* Find the texts of all records: bytes, which nobody can change. The caller's list keeps them alive, and is the caller's alone. */
static int texts_of(struct append *append, PyObject *payloads, Piece *few, size_t most_few, size_t *size)
{
    Py_ssize_t records = PyList_Size(payloads);
    if (records < 0)
        return -1;
    append->records = records;
    append->texts = few;
    if ((size_t)records > most_few && !(append->texts = malloc((size_t)records * 3 * sizeof *append->texts))) {
        PyErr_NoMemory();
        return -1;
    }
    *size = 0;
    for (Py_ssize_t record = 0; record < records; record++) {
        PyObject *payload = PyList_GetItem(payloads, record);
        if (!payload || !PyTuple_Check(payload) || PyTuple_Size(payload) != 3) {
            PyErr_SetString(PyExc_TypeError, "a payload is three texts");
            return -1;
        }
        for (Py_ssize_t part = 0; part < 3; part++) {
            PyObject *object = PyTuple_GetItem(payload, part);
            Piece *text = append->texts + 3 * record + part;
            if (!object || !(text->bytes = bytes_of(object, -1)))
                return -1;
            text->size = (size_t)PyBytes_Size(object);
            *size += text->size;
        }
        *size += MARGIN_BYTES;
    }
    return 0;
}

/* What came of it, as mpcheckpoint/_logfile/native_outcome.py reads it. */
static PyObject *told_of(const struct append *append, enum outcome outcome)
{
    const struct end *before = &append->before, *after = &append->after;
    int is_written = outcome == WRITTEN;
    Piece left = append->left, none = {NULL, 0};
    if (append->is_published)
        left = (Piece){append->published, append->published_bytes};
    Piece data = is_written ? none : (Piece){(const char *)append->line, append->line_bytes};
    return Py_BuildValue(
        "(O(LkL)(LkL)LLOOy#iOOiy#)", truth(is_written), (long long)before->offset, (unsigned long)before->crc,
        (long long)before->stamp_us, (long long)after->offset, (unsigned long)after->crc, (long long)after->stamp_us,
        (long long)append->allocated, (long long)append->durable, truth(append->is_alone), truth(append->is_followed),
        left.size ? left.bytes : "", (Py_ssize_t)left.size,
        append->is_published ? 0 : append->unpublished + is_written, truth(append->is_unlocked), truth(append->is_extended),
        append->error,
        data.size ? data.bytes : "", (Py_ssize_t)data.size);
}

PyObject *append_batch(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    struct append append = {0};
    Piece few[3 * 4];
    uint8_t small[SMALL_BYTES];
    PyObject *path, *generation, *bound, *writer, *left, *payloads, *told;
    long long offset, stamp_us, allocated, durable, highest_us;
    unsigned long long log_device, log_inode, lock_device, lock_inode;
    unsigned long crc;
    if (!PyArg_ParseTuple(
            arguments, "((OiKKiOOO)(LkL)LLLOipp)i(KK)O!O!p:append_batch", &path, &append.log_fd, &log_device,
            &log_inode, &append.page_fd, &generation, &bound, &writer, &offset, &crc, &stamp_us, &allocated, &durable,
            &highest_us, &left, &append.unpublished, &append.is_page_proven, &append.may_extend, &append.lock_fd, &lock_device, &lock_inode,
            &PyList_Type, &payloads, &PyList_Type, &told, &append.is_locked))
        return NULL;
    append.own = (struct end){.offset = offset, .stamp_us = stamp_us, .crc = (uint32_t)crc};
    append.allocated = allocated;
    append.durable = durable;
    append.highest_stamp_us = highest_us;
    append.log_device = log_device;
    append.log_inode = log_inode;
    append.lock_device = lock_device;
    append.lock_inode = lock_inode;
    size_t size = 0;
    PyObject *result = NULL;
    if (!(append.log_path = bytes_of(path, -1)) || !(append.generation = bytes_of(generation, GENERATION_BYTES))
        || !(append.bound = bytes_of(bound, BOUND_BYTES)) || !(append.writer = bytes_of(writer, WRITER_BYTES))
        || !(append.left.bytes = bytes_of(left, -1)))
        return NULL;
    append.left.size = (size_t)PyBytes_Size(left);
    if (append.left.size > PAGE_READ_BYTES) {
        PyErr_SetString(PyExc_ValueError, "more than a page was left");
        return NULL;
    }
    if (texts_of(&append, payloads, few, sizeof few / sizeof *few / 3, &size) != 0)
        goto end;
    append.line = size <= sizeof small ? small : malloc(size);
    if (!append.line) {
        PyErr_NoMemory();
        goto end;
    }
    enum outcome outcome;
    Py_INCREF(payloads); /* the texts are its */
    Py_BEGIN_ALLOW_THREADS;
    outcome = append.records > 0 ? run(&append) : NOT_OURS;
    Py_END_ALLOW_THREADS;
    Py_DECREF(payloads);
    /* Into the caller's list, not returned alone: a Ctrl-C right after this call would take what it returns. */
    if (outcome == WRITTEN || outcome == NOT_WRITTEN) {
        PyObject *what = told_of(&append, outcome);
        if (!what || PyList_Append(told, what) != 0) {
            Py_XDECREF(what);
            goto end;
        }
        Py_DECREF(what);
    }
    result = PyLong_FromLong((long)outcome);
end:
    if (append.line != small)
        free(append.line);
    if (append.texts != few)
        free(append.texts);
    return result;
}

#endif
