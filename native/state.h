/* What one process knows of a log that it appends to, and which files it appends to it with. */

#ifndef MPCHECKPOINT_STATE_H
#define MPCHECKPOINT_STATE_H

#include "page.h"

#ifdef HAS_APPEND

#include <pthread.h>
#include <sys/sysmacros.h>
#include <time.h>

#define MOST_AT_ONCE 64
#ifndef LONGEST_NAP_NS /* else a test says it */
#define LONGEST_NAP_NS 50000000
#endif

struct end {
    int64_t offset, stamp_us;
    uint32_t crc;
};

/* A file as a process has it open: the number of the descriptor, and which file that is to be. */
struct opened {
    int fd;
    uint64_t device, inode;
};

/* The highest stamp that this process has given out or seen: mpcheckpoint/_logfile/clock.py. */
typedef struct {
    PyObject_HEAD
    long long highest_us; /* changed by one uninterruptible step, also without the interpreter's lock */
} HighestStamp;

/* A batch of another thread, which waits for the thread that is inside to write it. It lies in memory of its own, and is
   freed by the last one that looks at it: the thread that waits may be interrupted, and leave. */
enum status { QUEUED, TAKEN, APPENDED, GIVEN_BACK };

struct request {
    struct request *next;
    Piece *texts; /* three a record */
    Py_ssize_t records;
    size_t size; /* at most so many bytes are written for it */
    const struct end *seen; /* it is written only if the log ends there; NULL: wherever it ends */
    struct end after;
    enum status status; /* changed under `queue_mutex` */
    int users;          /* as well */
};

/* Which files an open log consists of, and what keeps its threads apart. Set under the append lock, and never changed in
   a `files` that somebody uses: a new one takes its place. */
struct files {
    int users;         /* changed with the interpreter's lock only */
    PyObject *told;    /* the tuple that it was made from: it keeps the descriptors open */
    const char *path, *generation, *bound, *writer;
    struct opened log, page, lock, leader;
    uint64_t words[2]; /* addresses, of an even and of an odd group */
    int most_extensions;
    double slow_sync_s; /* from then on a sync is told of */
    PyObject *mutex_take, *mutex_release, *turn_take, *turn_release, *turn_wake, *sleepers;
    HighestStamp *clock;
};

/* Invariant: Python and native code read and write the same fields; there is no copy of them. They change under the append
   lock, but for `durable`, which only grows, `syncs`, `is_patient`, `is_leading`, which belong to the thread whose turn it
   is to sync, and what says that it is atomic. */
typedef struct {
    PyObject_HEAD
    /* Where the log ends, and what of it is durable. */
    struct end end;
    PyObject *end_object; /* the same for Python, made when it asks; or NULL */
    PyObject *end_type;
    long long allocated, durable;
    int beginning; /* another number whenever the end was found from the header on */
    char is_alone, is_followed, is_page_proven, is_patient;
    /* What this process left in the page last, and how often it has appended since; below 0, how many more appends in a row it
       is to tell of each. */
    char left[PAGE_READ_BYTES];
    size_t left_bytes;
    int unpublished, extensions;
    long long appends, syncs;
    /* For native code: whether nothing unusual is known, and the files. */
    char is_ready; /* atomic */
    struct files *files;
    int attachments; /* how often they were set: at least 1 once native code was ready */
    /* For forks, and for whoever watches long waits. Atomic. */
    char is_inside, is_leading, is_watched;
    long long waiting_since_ns;
    /* What Python has to settle: a write, or a sync, that failed. */
    PyObject *failed_write, *failed_sync;
    double slow_sync_s;
    /* Threads that wait: for the one that is inside, or for the end of a sync. */
    uint32_t gate; /* atomic: another number whenever one of the two has ended */
    int waiters;   /* atomic */
    int has_next;  /* atomic: a thread that waited for a sync goes for the turn now */
    pthread_mutex_t queue_mutex;
    struct request *first, *last;
    struct request *taken[MOST_AT_ONCE];
    int taken_count;
} AppendState;

enum outcome { NOT_OURS, CONTENDED, WRITTEN, DURABLE, NOT_WRITTEN, NOT_SYNCED, INTERRUPTED, FAILED };

/* --- state.c ------------------------------------------------------------------------------------------------------- */

extern PyType_Spec append_state_spec, highest_stamp_spec;

struct files *use_files(AppendState *state);
void leave_files(struct files *files);

/* Take a lock of Python's if it is free: 1, or 0 if not; -1 with an exception. */
int try_take(PyObject *take);
int release(PyObject *release);

/* Take an end that Python tells: 0; -1 with an exception. */
int take_end(PyObject *value, struct end *end);
/* Where the log ends now. */
void set_end(AppendState *state, const struct end *end);
int64_t next_stamp_us(HighestStamp *clock, int64_t wall_us, int64_t after_us);

/* Tell threads what became of the batches that were taken from them. Requires: the append lock, the interpreter's lock. */
void settle_taken(AppendState *state);
void wake_threads(AppendState *state);
/* What a thread waits for: a batch of its own that is QUEUED or TAKEN; that `offset` is durable. And what `gate` was, when
   there was nothing else to do. `waiters` tells of it from before it was looked at. */
struct wait {
    uint32_t gate;
    int64_t offset;
    int is_durable; /* whether the batch is to be durable, not only written */
    const struct files *files;
    int is_there; /* what came of it: that it is durable, in the log that stands there */
};

/* Sleep until there may be something to do for this thread, or a moment has passed. Requires: the interpreter's lock, and
   gives it away meanwhile. Return WRITTEN; FAILED with an exception, of a signal handler; NOT_OURS in a child that it has
   forked. */
enum outcome wait_for_others(AppendState *state, struct request *mine, struct wait *wait);

/* Whether this is the file that was opened. */
#define is_file(status, opened) \
    (makedev((status)->stx_dev_major, (status)->stx_dev_minor) == (opened)->device \
        && (status)->stx_ino == (opened)->inode)
/* Whether a descriptor is still that of a lock file, and others can find that file. */
int is_lock_file(const struct opened *opened);

static inline int64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* --- append.c, queued.c, commit.c -------------------------------------------------------------------------------------------- */

/* Append as the thread that has the append mutex, and give that back; not where a write failed: Python goes on there.

   Where this thread syncs next it wakes nobody: the end of a sync wakes all. Those whose batches it wrote have nothing to
   do until then, and those that come meanwhile are written together. */
enum outcome append_inside(
    AppendState *state, struct files *files, struct request *own, int may_wait, int is_durable);
/* Have another thread write a batch, or write it when that is no longer inside. */
enum outcome append_queued(
    AppendState *state, struct files *files, struct request *own, PyObject *told, int is_durable);
size_t take_queued(AppendState *state);

PyObject *state_append(PyObject *self, PyObject *arguments);
PyObject *state_make_durable(PyObject *self, PyObject *arguments);

/* Whether the log is what it was, and has a name still. */
int is_there(const struct files *files);
/* Make all durable below an offset that this process has written. Requires: the interpreter's lock. */
enum outcome make_durable(AppendState *state, int64_t offset, int beginning);

#endif
#endif
