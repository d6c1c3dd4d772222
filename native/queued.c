/* Appends of threads that wait for another thread of their process: the one that is inside writes them, too, and the one
   that syncs does so for all. mpcheckpoint/_logfile/queued.py does the same in Python. */

#define _GNU_SOURCE /* syscall */
#include "state.h"

#ifdef HAS_APPEND

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- by the thread that is inside ---------------------------------------------------------------------------------- */

/* Take what other threads have queued meanwhile, to be written by this one; return how many bytes that may take. */
size_t take_queued(AppendState *state)
{
    size_t size = 0;
    pthread_mutex_lock(&state->queue_mutex);
    while (state->first && state->taken_count < MOST_AT_ONCE) {
        struct request *request = state->first;
        state->first = request->next;
        request->status = TAKEN;
        request->users++;
        request->after.offset = 0;
        state->taken[state->taken_count++] = request;
        size += request->size;
    }
    if (!state->first)
        state->last = NULL;
    pthread_mutex_unlock(&state->queue_mutex);
    return size;
}

void wake_threads(AppendState *state)
{
    __atomic_add_fetch(&state->gate, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&state->waiters, __ATOMIC_SEQ_CST) > 0)
        syscall(SYS_futex, &state->gate, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Whether the batch of a thread is durable. */
static int is_covered(AppendState *state, struct request *mine, const struct wait *wait)
{
    int64_t offset = wait->offset;
    if (mine) {
        pthread_mutex_lock(&state->queue_mutex);
        offset = mine->status == APPENDED ? mine->after.offset : INT64_MAX;
        pthread_mutex_unlock(&state->queue_mutex);
    }
    return __atomic_load_n(&state->durable, __ATOMIC_SEQ_CST) >= offset;
}

/* What a thread waits for, if it has nothing to do: that another one writes its batch, or makes it durable. */
enum need { NOTHING, A_WRITE, A_SYNC };

static enum need need_of(AppendState *state, struct request *mine, const struct wait *wait)
{
    int64_t offset = wait->offset;
    if (mine) {
        pthread_mutex_lock(&state->queue_mutex);
        enum status status = mine->status;
        int is_first = state->first == mine;
        offset = mine->after.offset;
        pthread_mutex_unlock(&state->queue_mutex);
        if (status != APPENDED) /* the first one tries to get in, for all */
            return status == TAKEN || (status == QUEUED && !is_first) ? A_WRITE : NOTHING;
        if (!wait->is_durable)
            return NOTHING;
    }
    return __atomic_load_n(&state->durable, __ATOMIC_SEQ_CST) < offset ? A_SYNC : NOTHING;
}

/* Whether this thread is the one that goes for the turn to sync. A sync that has ended may have begun before what the threads
   wait for was written, and then nobody else would begin another. If all of them went, each would wait for the interpreter. */
static int is_next(AppendState *state)
{
    int none = 0;
    return __atomic_compare_exchange_n(&state->has_next, &none, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

enum outcome wait_for_others(AppendState *state, struct request *mine, struct wait *wait)
{
    int64_t until_ns = monotonic_ns() + LONGEST_NAP_NS, left_ns;
    uint32_t gate = wait->gate;
    enum need need = A_WRITE;
    int goes = 0;
    pid_t pid = getpid();
    Py_BEGIN_ALLOW_THREADS;
    do {
        left_ns = until_ns - monotonic_ns();
        struct timespec most = {0};
        if (left_ns > 0)
            most = (struct timespec){.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
        if (syscall(SYS_futex, &state->gate, FUTEX_WAIT_PRIVATE, gate, &most, NULL, 0) != 0 && errno == EINTR)
            break; /* Python's handlers run now */
        gate = __atomic_load_n(&state->gate, __ATOMIC_SEQ_CST);
        need = need_of(state, mine, wait);
        goes = need == A_SYNC && is_next(state);
    } while (left_ns > 0 && need != NOTHING && !goes);
    if (need == NOTHING && wait->is_durable && is_covered(state, mine, wait))
        wait->is_there = is_there(wait->files);
    Py_END_ALLOW_THREADS;
    int is_interrupted = PyErr_CheckSignals() != 0;
    if (goes) {
        __atomic_store_n(&state->has_next, 0, __ATOMIC_SEQ_CST);
        if (is_interrupted || need_of(state, mine, wait) != A_SYNC)
            wake_threads(state); /* it does not go after all: another one may have to */
    }
    if (is_interrupted)
        return FAILED;
    return getpid() == pid ? WRITTEN : NOT_OURS;
}

static void leave_request(struct request *request)
{
    if (--request->users == 0)
        free(request);
}

void settle_taken(AppendState *state)
{
    if (state->taken_count == 0)
        return;
    pthread_mutex_lock(&state->queue_mutex);
    for (int at = 0; at < state->taken_count; at++) {
        struct request *taken = state->taken[at];
        /* A batch is there if the log does not end before it. */
        taken->status = taken->after.offset > 0 && taken->after.offset <= state->end.offset ? APPENDED : GIVEN_BACK;
        state->appends += taken->status == APPENDED;
        leave_request(taken);
    }
    state->taken_count = 0;
    pthread_mutex_unlock(&state->queue_mutex);
}

/* --- by a thread that waits ------------------------------------------------------------------------------------- */

/* A copy of a batch of one record, for another thread to write; NULL without memory. */
static struct request *copied(const struct request *own)
{
    struct request *copy = calloc(1, sizeof *copy + 3 * sizeof(Piece) + own->size);
    if (!copy)
        return NULL;
    copy->texts = (Piece *)(copy + 1);
    char *at = (char *)(copy->texts + 3);
    for (int part = 0; part < 3; part++) {
        memcpy(at, own->texts[part].bytes, own->texts[part].size);
        copy->texts[part] = (Piece){at, own->texts[part].size};
        at += own->texts[part].size;
    }
    copy->records = 1;
    copy->size = own->size;
    copy->status = GIVEN_BACK;
    copy->users = 1;
    return copy;
}

static void join_queue(AppendState *state, struct request *request)
{
    pthread_mutex_lock(&state->queue_mutex);
    request->status = QUEUED;
    request->next = NULL;
    *(state->last ? &state->last->next : &state->first) = request;
    state->last = request;
    pthread_mutex_unlock(&state->queue_mutex);
}

/* What has become of a request, which leaves the queue if it is to. */
static enum status status_of(AppendState *state, struct request *request, int is_to_leave)
{
    pthread_mutex_lock(&state->queue_mutex);
    enum status status = request->status;
    if (is_to_leave && status == QUEUED) {
        struct request *before = NULL, **link = &state->first;
        for (; *link != request; link = &before->next)
            before = *link;
        *link = request->next;
        if (state->last == request)
            state->last = before;
        status = request->status = GIVEN_BACK;
    }
    pthread_mutex_unlock(&state->queue_mutex);
    return status;
}

/* Become the thread that is inside, with a batch that is in the queue, or was; WRITTEN if somebody else is. */
static enum outcome get_inside(AppendState *state, struct request *mine, int is_durable)
{
    struct files *files = use_files(state);
    int is_inside = files ? try_take(files->mutex_take) : 0;
    enum outcome outcome = is_inside < 0 ? FAILED : WRITTEN;
    if (is_inside > 0 && status_of(state, mine, 1) == GIVEN_BACK)
        outcome = append_inside(state, files, mine, 1, is_durable), mine->status = outcome == WRITTEN ? APPENDED : GIVEN_BACK;
    else if (is_inside > 0) { /* another thread has just taken it */
        outcome = release(files->mutex_release) == 0 ? WRITTEN : FAILED;
        wake_threads(state);
    }
    leave_files(files);
    return outcome;
}

/* Wait for the thread that is inside: it writes this batch as well, or lets this thread in. */
static enum outcome wait_in_queue(AppendState *state, struct files *files, struct request *mine, int is_durable)
{
    struct wait wait = {.is_durable = is_durable, .files = files};
    enum outcome outcome = WRITTEN;
    join_queue(state, mine);
    while (outcome == WRITTEN) {
        wait.gate = __atomic_load_n(&state->gate, __ATOMIC_SEQ_CST);
        enum status status = status_of(state, mine, 0);
        if (status == APPENDED)
            return wait.is_there ? DURABLE : WRITTEN;
        if (status != TAKEN && !state->is_ready) {
            if (status_of(state, mine, 1) == GIVEN_BACK)
                return NOT_OURS;
        } else if (status != TAKEN) {
            outcome = get_inside(state, mine, is_durable);
            if (outcome != WRITTEN || status_of(state, mine, 0) == APPENDED)
                break;
            if (status_of(state, mine, 0) == GIVEN_BACK)
                join_queue(state, mine);
        }
        outcome = wait_for_others(state, mine, &wait);
    }
    return outcome;
}

enum outcome append_queued(
    AppendState *state, struct files *files, struct request *own, PyObject *told, int is_durable)
{
    struct request *mine = copied(own);
    if (!mine)
        return NOT_OURS;
    __atomic_add_fetch(&state->waiters, 1, __ATOMIC_SEQ_CST);
    enum outcome outcome = wait_in_queue(state, files, mine, is_durable);
    __atomic_sub_fetch(&state->waiters, 1, __ATOMIC_SEQ_CST);
    if (outcome == FAILED && status_of(state, mine, 1) != GIVEN_BACK) {
        /* Another thread writes it, or has written it: the caller is to know. */
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        if (PyList_Append(told, Py_None) != 0)
            PyErr_Clear();
        PyErr_Restore(type, value, trace);
    }
    own->after = mine->after;
    pthread_mutex_lock(&state->queue_mutex);
    leave_request(mine);
    pthread_mutex_unlock(&state->queue_mutex);
    return outcome;
}

#endif
