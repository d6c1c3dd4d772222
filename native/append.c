/* The common append, under the append lock: lock, end, write, page, unlock; OpenLog and LogWriter do the same in Python
   (mpcheckpoint/_logfile/opened.py, append.py), and the same system calls in the same order. And the batches of threads
   that wait meanwhile, each with a stamp of its own, by the same write, as mpcheckpoint/_logfile/queued.py has it.

   Only where nothing is unusual. Whatever is, is left to Python before anything was changed: another log at the path,
   a page that is void or tells of poison, an end that the log does not bear out, no padding left, a clock out of range.

   Runs without the interpreter's lock from the first system call to the last: other threads must not keep this one,
   and with it every process that waits for the append lock, from going on. */

#define _GNU_SOURCE /* statx */
#include "state.h"

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
#define LARGEST_QUEUED_BYTES (16 * 1024)
#define YEAR_2200_US INT64_C(7258118400000000)
#define MOST_UNPUBLISHED 15
#define LONGEST_FOLLOWED_NS (INT64_C(60) * 1000000000)
#define LARGEST_OFFSET (INT64_C(1) << 62)

/* Everything that an append needs to know, and what came of it: plain memory, for use without the interpreter's lock. */
struct append {
    AppendState *state; /* its queue, and what is atomic, alone */
    const struct files *files;
    struct request *own;
    /* What this process knows, and then what it has learned. */
    struct end before, after;
    int64_t allocated, durable;
    char left[PAGE_READ_BYTES];
    size_t left_bytes;
    int unpublished, extensions;
    int is_alone, is_followed, is_page_proven, may_block, is_locked;
    /* What was written. */
    uint8_t small[SMALL_BYTES], *data;
    size_t data_bytes;
    ssize_t written;
    int error;
};

/* --- lock ------------------------------------------------------------------------------------------------------- */

/* Whether a descriptor is still that of a lock file, and others can find that file. */
int is_lock_file(const struct opened *opened)
{
    struct stat status;
    return fstat(opened->fd, &status) == 0 && status.st_dev == opened->device && status.st_ino == opened->inode
        && status.st_nlink > 0;
}

/* For a fork: nobody waits for the kernel's lock in there. */
static void set_inside(struct append *append, int is_inside)
{
    __atomic_store_n(&append->state->is_inside, (char)is_inside, __ATOMIC_SEQ_CST);
}

/* Take the kernel's lock, after its descriptor was shown to be the lock file; and wait for it, if somebody watches that. */
static enum outcome lock(struct append *append)
{
    const struct opened *file = &append->files->lock;
    AppendState *state = append->state;
    int locked;
    if (!is_lock_file(file))
        return NOT_OURS;
    set_inside(append, 1);
    UNINTERRUPTED(locked, flock(file->fd, LOCK_EX | LOCK_NB));
    if (locked != 0) {
        if (errno != EWOULDBLOCK)
            return NOT_OURS;
        if (!append->may_block)
            return CONTENDED;
        set_inside(append, 0);
        __atomic_store_n(&state->waiting_since_ns, monotonic_ns(), __ATOMIC_SEQ_CST);
        /* If nobody watches any more, nobody looks at that time either: Python waits then. */
        if (!__atomic_load_n(&state->is_watched, __ATOMIC_SEQ_CST))
            locked = -1, errno = EWOULDBLOCK;
        else
            locked = flock(file->fd, LOCK_EX); /* a signal ends it: Python's handlers run then */
        int error = errno;
        __atomic_store_n(&state->waiting_since_ns, 0, __ATOMIC_SEQ_CST);
        if (locked != 0)
            return error == EINTR ? INTERRUPTED : error == EWOULDBLOCK ? CONTENDED : NOT_OURS;
        set_inside(append, 1);
        append->is_locked = 1;
        return is_lock_file(file) ? WRITTEN : NOT_OURS;
    }
    append->is_locked = 1;
    return WRITTEN;
}

/* Give the kernel's lock back; return whether that was done. */
static int unlock(struct append *append)
{
    int unlocked;
    UNINTERRUPTED(unlocked, flock(append->files->lock.fd, LOCK_UN));
    append->is_locked = unlocked != 0;
    return unlocked == 0;
}

/* Whether the open log is what stands at its path. No times are asked for: mpcheckpoint/_system/statx.py says why. */
static int is_current(const struct append *append)
{
    struct statx status;
    if (statx(AT_FDCWD, append->files->path, AT_SYMLINK_NOFOLLOW, STATX_WANTED, &status) != 0)
        return 0;
    return is_file(&status, &append->files->log);
}

/* --- end -------------------------------------------------------------------------------------------------------- */

/* Take over the end that another writer left in the page; return whether it is one to go on from. */
static int take_over(struct append *append, const char *look)
{
    if (memcmp(look, append->files->generation, GENERATION_BYTES) != 0
        || word_at(look + END_BODY_BYTES) != crc_of_text(look, END_BODY_BYTES, 0))
        return 0;
    struct end end = {
        .offset = (int64_t)number_at(look + GENERATION_BYTES + WRITER_BYTES),
        .stamp_us = (int64_t)number_at(look + GENERATION_BYTES + WRITER_BYTES + 8),
        .crc = word_at(look + GENERATION_BYTES + WRITER_BYTES + 24),
    };
    const struct end *own = &append->before;
    if (end.offset < own->offset || end.offset >= LARGEST_OFFSET || end.stamp_us < 0 || end.stamp_us > (int64_t)MAX_STAMP_US)
        return 0;
    if (end.offset == own->offset && (end.crc != own->crc || end.stamp_us != own->stamp_us))
        return 0;
    const char *known = look + KNOWN_AT;
    int64_t durable = (int64_t)number_at(known + BOUND_BYTES);
    if (!is_about(append->files->bound, known) || word_at(known + KNOWN_BODY_BYTES) != crc_of_text(known, KNOWN_BODY_BYTES, 0)
        || durable <= 0 || durable > end.offset)
        return 0;
    append->before = end;
    append->allocated = (int64_t)number_at(look + GENERATION_BYTES + WRITER_BYTES + 16);
    append->durable = durable > append->durable ? durable : append->durable;
    append->is_alone = memcmp(look + GENERATION_BYTES, append->files->writer, WRITER_BYTES) == 0;
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
    UNINTERRUPTED(size, pread(append->files->page.fd, look, sizeof look, 0));
    if (size != sizeof look)
        return 0;
    if (memcmp(look + POISON_AT, nothing, PAGE_READ_BYTES - POISON_AT) != 0)
        return 0;
    /* If the page is as this process left it, nobody wrote since. */
    if (append->left_bytes > 0 && memcmp(look, append->left, append->left_bytes) == 0)
        append->is_alone = 1;
    else if (!take_over(append, look))
        return 0;
    put_closing(closing, append->before.crc);
    UNINTERRUPTED(size, pread(append->files->log.fd, found, sizeof found, append->before.offset - CLOSING_BYTES));
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

/* Whether the log ends where it did when the condition of the append was judged, if it has one. Two ends are equal only if
   all bytes before them are: the crc runs over the whole file. */
static int is_as_seen(const struct append *append)
{
    const struct end *seen = append->own->seen, *end = &append->before;
    return !seen || (seen->offset == end->offset && seen->crc == end->crc && seen->stamp_us == end->stamp_us);
}

/* --- write ------------------------------------------------------------------------------------------------------ */

/* The stamp of a batch: above all that this process has seen, and above that of the line before. */
static int64_t stamp_after(const struct append *append, int64_t after_us)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t wall_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    return wall_us < 0 || wall_us >= YEAR_2200_US ? -1 : next_stamp_us(append->files->clock, wall_us, after_us);
}

/* Make the bytes of one batch, and the end state after it; return whether there was a stamp for it. */
static int encode(struct append *append, struct request *request)
{
    struct end after = append->after;
    int64_t durable = append->durable < after.offset ? append->durable : after.offset;
    int64_t stamp_us = stamp_after(append, after.stamp_us);
    if (stamp_us < 0)
        return 0;
    char digits[48];
    Piece numbers = {digits, (size_t)snprintf(digits, sizeof digits, "%lld,%lld", (long long)stamp_us, (long long)durable)};
    uint8_t *start = append->data + append->data_bytes, *at = start, closing[CLOSING_BYTES];
    put_closing(closing, after.crc);
    for (Py_ssize_t record = 0; record < request->records; record++) {
        uint8_t *line = at;
        at = put_line(at, &numbers, (uint64_t)(request->records - 1 - record), request->texts + 3 * record);
        /* From one crc field to the next: the earlier one stands for every byte before it. */
        after.crc = crc_of(closing, CLOSING_BYTES, after.crc);
        after.crc = crc_of(line, (size_t)(at - line), after.crc);
        put_closing(closing, after.crc);
        at = put_closing(at, after.crc);
    }
    append->data_bytes += (size_t)(at - start);
    after.offset += at - start;
    after.stamp_us = stamp_us;
    append->after = request->after = after;
    return 1;
}

/* Make the bytes of all batches; return whether they can be written. */
static int encode_all(struct append *append)
{
    AppendState *state = append->state;
    size_t size = append->own->size + take_queued(state);
    append->data = size <= sizeof append->small ? append->small : malloc(size);
    append->after = append->before;
    if (!append->data || !encode(append, append->own))
        return 0;
    for (int at = 0; at < state->taken_count; at++)
        if (!encode(append, state->taken[at]))
            return 0;
    return 1;
}

/* Say in the page where the log ends; a sole writer does so at every 16th append only. */
static void publish(struct append *append)
{
    if (append->is_alone && append->unpublished >= 0 && append->unpublished < MOST_UNPUBLISHED) {
        append->unpublished++;
        return;
    }
    char data[KNOWN_AT + KNOWN_BODY_BYTES + 4] = {0};
    uint64_t numbers[3] = {
        (uint64_t)append->after.offset, (uint64_t)append->after.stamp_us, (uint64_t)append->allocated,
    };
    memcpy(data, append->files->generation, GENERATION_BYTES);
    memcpy(data + GENERATION_BYTES, append->files->writer, WRITER_BYTES);
    memcpy(data + GENERATION_BYTES + WRITER_BYTES, numbers, sizeof numbers);
    memcpy(data + END_BODY_BYTES - 4, &append->after.crc, 4);
    put_check(data, END_BODY_BYTES);
    size_t size = END_BODY_BYTES + 4;
    if (append->is_alone) { /* what is durable goes with it, which saves a write */
        put_known(data + KNOWN_AT, append->files->bound, (uint64_t)append->durable);
        size = sizeof data;
    }
    ssize_t written;
    UNINTERRUPTED(written, pwrite(append->files->page.fd, data, size, END_AT));
    append->left_bytes = written < 0 ? 0 : size; /* what stood there is checked before it is believed */
    memcpy(append->left, data, size);
    if (!append->is_alone)
        append->unpublished = -MOST_UNPUBLISHED;
    else
        append->unpublished = append->unpublished < 0 ? append->unpublished + 1 : 0;
}

/* Do it all; what is changed is changed here. */
static enum outcome run(struct append *append)
{
    enum outcome locked = lock(append);
    if (locked != WRITTEN)
        return locked;
    /* To show that the page's descriptor is the page, and to make padding, is Python's. */
    if (!is_current(append) || !find_end(append) || !append->is_page_proven || !is_as_seen(append))
        return NOT_OURS;
    long long highest_us = __atomic_load_n(&append->files->clock->highest_us, __ATOMIC_SEQ_CST);
    int is_encoded = encode_all(append), is_extended = append->after.offset > append->allocated;
    if (!is_encoded || (is_extended && append->extensions >= append->files->most_extensions)) {
        /* The stamps that were not used, if none was given out since. */
        long long last_us = append->after.stamp_us;
        __atomic_compare_exchange_n(
            &append->files->clock->highest_us, &last_us, highest_us, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        return NOT_OURS;
    }
    UNINTERRUPTED(append->written, pwrite(append->files->log.fd, append->data, append->data_bytes, append->before.offset));
    if (append->written != (ssize_t)append->data_bytes) {
        append->error = append->written < 0 ? errno : 0;
        return NOT_WRITTEN;
    }
    append->extensions += is_extended;
    publish(append);
    unlock(append);
    return WRITTEN;
}

/* --- as Python calls it ----------------------------------------------------------------------------------------- */

/* What is known before, as plain memory. */
static void know(struct append *append, AppendState *state, struct files *files, struct request *own, int may_wait)
{
    append->state = state;
    append->files = files;
    append->own = own;
    append->before = state->end;
    append->allocated = state->allocated;
    append->durable = __atomic_load_n(&state->durable, __ATOMIC_SEQ_CST);
    memcpy(append->left, state->left, state->left_bytes);
    append->left_bytes = state->left_bytes;
    append->unpublished = state->unpublished;
    append->extensions = state->extensions;
    append->is_page_proven = state->is_page_proven;
    append->may_block = may_wait && __atomic_load_n(&state->is_watched, __ATOMIC_SEQ_CST);
}

/* Take note of what was learned, and done. */
static void note(struct append *append, int is_written)
{
    AppendState *state = append->state;
    set_end(state, is_written ? &append->after : &append->before);
    state->allocated = append->allocated;
    if (append->durable > state->durable)
        __atomic_store_n(&state->durable, append->durable, __ATOMIC_SEQ_CST);
    memcpy(state->left, append->left, append->left_bytes);
    state->left_bytes = append->left_bytes;
    state->unpublished = append->unpublished;
    state->extensions = append->extensions;
    state->is_page_proven = (char)append->is_page_proven;
    state->is_alone = (char)append->is_alone;
    state->is_followed = (char)append->is_followed;
    state->appends += is_written;
}

/* Have Python know of a write that failed: its bytes, where it began, where each batch of it would end, and the error. */
static int note_failed(struct append *append)
{
    AppendState *state = append->state;
    PyObject *ends = PyList_New(0), *failed = NULL;
    for (int at = -1; ends && at < state->taken_count; at++) {
        const struct end *end = at < 0 ? &append->own->after : &state->taken[at]->after;
        PyObject *object = Py_BuildValue("(LkL)", (long long)end->offset, (unsigned long)end->crc, (long long)end->stamp_us);
        if (!object || PyList_Append(ends, object) != 0)
            Py_CLEAR(ends);
        Py_XDECREF(object);
    }
    if (ends)
        failed = Py_BuildValue("(NOi)", new_bytes(append->data, append->data_bytes), ends, append->error);
    Py_XDECREF(ends);
    Py_XDECREF(state->failed_write);
    state->failed_write = failed;
    return failed ? 0 : -1;
}

enum outcome append_inside(
    AppendState *state, struct files *files, struct request *own, int may_wait, int is_durable)
{
    struct append append = {0};
    enum outcome outcome;
    pid_t pid = getpid();
    do {
        if (state->files != files || !state->is_ready || state->failed_write) { /* Python was inside meanwhile */
            outcome = NOT_OURS;
            break;
        }
        know(&append, state, files, own, may_wait);
        Py_BEGIN_ALLOW_THREADS;
        outcome = run(&append);
        if (append.is_locked && outcome != WRITTEN && outcome != NOT_WRITTEN)
            unlock(&append);
        if (outcome != NOT_WRITTEN)
            set_inside(&append, 0);
        Py_END_ALLOW_THREADS;
        if (outcome == INTERRUPTED && PyErr_CheckSignals() != 0)
            outcome = FAILED;
        else if (outcome == INTERRUPTED && getpid() != pid)
            outcome = NOT_OURS; /* a handler has forked, and this is the child */
    } while (outcome == INTERRUPTED);
    if (outcome == WRITTEN || outcome == NOT_WRITTEN)
        note(&append, outcome == WRITTEN);
    if (outcome == NOT_WRITTEN) {
        if (note_failed(&append) != 0)
            outcome = FAILED;
    } else {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        settle_taken(state);
        if (append.is_locked) /* to unlock it failed: to close it, which Python does, gives it back, too */
            state->is_ready = 0;
        else if (release(files->mutex_release) != 0)
            PyErr_Clear();
        if (outcome != WRITTEN || !is_durable || append.is_followed)
            wake_threads(state);
        PyErr_Restore(type, value, trace);
    }
    if (append.data != append.small)
        free(append.data);
    return outcome;
}

/* Find the texts of all records: bytes, which nobody can change. The caller's list keeps them alive, and is the caller's
   alone. Return 0; -1 with an exception. */
static int find_texts(struct request *request, PyObject *payloads, Piece *few, Py_ssize_t most_few)
{
    request->records = PyList_Size(payloads);
    request->texts = few;
    if (request->records > most_few && !(request->texts = malloc((size_t)request->records * 3 * sizeof *request->texts))) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t record = 0; record < request->records; record++) {
        PyObject *payload = PyList_GetItem(payloads, record);
        if (!payload || !PyTuple_Check(payload) || PyTuple_Size(payload) != 3) {
            PyErr_SetString(PyExc_TypeError, "a payload is three texts");
            return -1;
        }
        for (Py_ssize_t part = 0; part < 3; part++) {
            PyObject *object = PyTuple_GetItem(payload, part);
            Piece *text = request->texts + 3 * record + part;
            if (!object || !(text->bytes = bytes_of(object, -1)))
                return -1;
            text->size = (size_t)PyBytes_Size(object);
            request->size += text->size;
        }
        request->size += MARGIN_BYTES;
    }
    return 0;
}

/* append(payloads, told, is_durable, may_wait, seen=None) -> one of `enum outcome`. Where the log ends then goes into the caller's
   list, and is not returned alone: a Ctrl-C right after this call would take what it returns. `seen` is None, or an end:
   where the log ends elsewhere, this is not ours. */
PyObject *state_append(PyObject *self, PyObject *arguments)
{
    AppendState *state = (AppendState *)self;
    PyObject *payloads, *told, *judged = Py_None;
    int is_durable, may_wait, beginning = state->beginning;
    if (!PyArg_ParseTuple(arguments, "O!O!pp|O:append", &PyList_Type, &payloads, &PyList_Type, &told, &is_durable,
            &may_wait, &judged))
        return NULL;
    Piece few[3 * 4];
    struct end seen;
    struct request own = {.seen = judged == Py_None ? NULL : &seen};
    enum outcome outcome = FAILED;
    if (own.seen && take_end(judged, &seen) != 0)
        goto end;
    if (find_texts(&own, payloads, few, sizeof few / sizeof *few / 3) != 0)
        goto end;
    struct files *files = use_files(state);
    int is_inside = own.records > 0 && files && state->is_ready ? try_take(files->mutex_take) : -2;
    if (is_inside == -2)
        outcome = NOT_OURS;
    else if (is_inside > 0)
        outcome = append_inside(state, files, &own, may_wait, is_durable);
    else if (is_inside == 0)
        outcome = may_wait && !own.seen && own.records == 1 && own.size <= LARGEST_QUEUED_BYTES + MARGIN_BYTES
            ? append_queued(state, files, &own, told, is_durable)
            : NOT_OURS;
    leave_files(files);
    if (outcome == WRITTEN || outcome == DURABLE) {
        PyObject *end = Py_BuildValue(
            "(LkL)", (long long)own.after.offset, (unsigned long)own.after.crc, (long long)own.after.stamp_us);
        if (!end || PyList_Append(told, end) != 0)
            outcome = FAILED;
        Py_XDECREF(end);
    }
    if (outcome == WRITTEN && is_durable && state->is_ready && !state->is_followed)
        outcome = make_durable(state, own.after.offset, beginning);
end:
    if (own.texts != few)
        free(own.texts);
    return outcome == FAILED ? NULL : PyLong_FromLong((long)outcome);
}

#endif
