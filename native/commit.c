/* How an append becomes durable: GroupCommit in C (mpcheckpoint/_logfile/group_commit.py), with the same system calls in the
   same order. One thread of a process has the turn to sync; the others sleep until it has ended, and look whether that
   covered them. The one whose turn it is waits for the process that leads a group, or leads.

   A sync that failed is Python's: it is final, and has to be told to every process before any other can lead. */

#define _GNU_SOURCE /* statx */
#include "state.h"

#ifdef HAS_APPEND

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOOK_AGAIN_NS 10000000
#define WAITS_BELIEVED 2
#define TRIES 4

/* What a sync can fail by; OpenLog.fail_sync knows these numbers. */
enum failure { OWN_SYNC, LOOK, OTHER_FILE, OTHERS_SYNC };

/* One thread's turn to sync: plain memory, for use without the interpreter's lock. */
struct turn {
    AppendState *state; /* what is atomic alone */
    const struct files *files;
    int64_t offset, end;      /* to be covered; and how far the log goes */
    int64_t durable, covered; /* known before, and what this turn has learned */
    struct page page;
    int is_patient, is_leading, is_page_proven, is_there, syncs, error;
    enum failure failure;
    uint32_t group;
    double took_s;
};

/* How many names an open file has; -1 if it is not the one that was opened, and -2 if it cannot be looked at. A filter of
   system calls may forbid statx. */
static int links_of(const struct opened *opened)
{
    struct statx status;
    if (statx(opened->fd, "", AT_EMPTY_PATH, STATX_WANTED, &status) == 0)
        return is_file(&status, opened) ? (int)status.stx_nlink : -1;
    struct stat old;
    if ((errno != EPERM && errno != ENOSYS) || fstat(opened->fd, &old) != 0)
        return -2;
    return old.st_dev == opened->device && old.st_ino == opened->inode ? (int)old.st_nlink : -1;
}

int is_there(const struct files *files)
{
    return links_of(&files->log) > 0;
}

/* Make all durable that was written. */
static enum outcome sync_log(struct turn *turn, int64_t end)
{
    int64_t began_ns = monotonic_ns();
    int synced;
    UNINTERRUPTED(synced, fdatasync(turn->files->log.fd));
    if (synced != 0) {
        turn->failure = OWN_SYNC;
        turn->error = errno;
        return NOT_SYNCED;
    }
    int links = links_of(&turn->files->log);
    if (links < 0) {
        turn->failure = links == -1 ? OTHER_FILE : LOOK;
        turn->error = errno;
        return NOT_SYNCED;
    }
    turn->is_there = links > 0;
    turn->covered = end;
    turn->syncs++;
    double took_s = (double)(monotonic_ns() - began_ns) / 1e9;
    if (took_s >= turn->files->slow_sync_s)
        turn->took_s = took_s;
    return DURABLE;
}

/* Write hints; nothing where that cannot be done, which costs others time alone. */
static void write_hints(struct turn *turn, const char *data, size_t size, off_t at)
{
    if (!turn->is_page_proven && links_of(&turn->files->page) < 0)
        return; /* somebody closed our descriptor, and its number stands for another file */
    turn->is_page_proven = 1;
    ssize_t written;
    UNINTERRUPTED(written, pwrite(turn->files->page.fd, data, size, at));
}

/* The end that a writer left in the page, if the log bears it out and goes on to there. */
static int64_t end_left(struct turn *turn, int64_t end)
{
    const char *look = turn->page.look;
    struct page again = turn->page;
    int is_end = memcmp(look, turn->files->generation, GENERATION_BYTES) == 0
        && word_at(look + END_BODY_BYTES) == crc_of_text(look, END_BODY_BYTES, 0);
    if (turn->page.is_read)
        turn->is_page_proven = is_end || turn->page.durable > 0;
    if (!is_end || !turn->page.durable) { /* it may just have been written */
        read_page(&again);
        look = again.look;
        is_end = again.is_read && memcmp(look, turn->files->generation, GENERATION_BYTES) == 0
            && word_at(look + END_BODY_BYTES) == crc_of_text(look, END_BODY_BYTES, 0);
        if (again.is_read)
            turn->is_page_proven = is_end || again.durable > 0;
    }
    uint64_t offset = number_at(look + GENERATION_BYTES + WRITER_BYTES);
    if (!is_end || offset >= (UINT64_C(1) << 62) || (int64_t)offset <= end)
        return end;
    uint8_t closing[CLOSING_BYTES], found[CLOSING_BYTES];
    put_closing(closing, word_at(look + GENERATION_BYTES + WRITER_BYTES + 24));
    ssize_t size;
    UNINTERRUPTED(size, pread(turn->files->log.fd, found, sizeof found, (off_t)offset - CLOSING_BYTES));
    return size == CLOSING_BYTES && memcmp(found, closing, CLOSING_BYTES) == 0 ? (int64_t)offset : end;
}

/* Say which sync begins, and how far it will reach. */
static void begin_group(struct turn *turn, int64_t target)
{
    char data[16] = {0};
    memcpy(data, &turn->group, 4);
    memcpy(data + 8, &target, 8);
    write_hints(turn, data, sizeof data, GROUP_AT);
}

/* Say what came of the sync of a group, and change its word from what it was. */
static void end_group(struct turn *turn)
{
    char data[GROUP_AT + 16 - KNOWN_AT] = {0};
    int64_t durable = turn->covered > turn->durable ? turn->covered : turn->durable;
    if ((int64_t)turn->page.durable > durable)
        durable = (int64_t)turn->page.durable;
    put_known(data, turn->files->bound, (uint64_t)durable);
    uint32_t words[2] = {turn->page.words[0], turn->page.words[1]};
    words[turn->group % 2]++;
    memcpy(data + WORDS_AT - KNOWN_AT, words, sizeof words);
    memcpy(data + GROUP_AT - KNOWN_AT, &turn->group, 4);
    turn->is_page_proven = 0; /* a sync takes its time: somebody may have closed this file meanwhile */
    write_hints(turn, data, sizeof data, KNOWN_AT);
}

/* Whether somebody's sync has covered us: DURABLE; WRITTEN if not. */
static enum outcome covered(struct turn *turn)
{
    if (!turn->page.is_read)
        return WRITTEN;
    turn->is_page_proven = turn->page.is_proven;
    if (turn->page.is_poisoned) {
        turn->failure = OTHERS_SYNC;
        return NOT_SYNCED;
    }
    if ((int64_t)turn->page.durable < turn->offset)
        return WRITTEN;
    turn->covered = (int64_t)turn->page.durable;
    turn->is_patient = 1;
    return DURABLE;
}

static void stop_leading(struct turn *turn, int is_begun)
{
    int unlocked;
    __atomic_store_n(&turn->state->is_leading, 0, __ATOMIC_SEQ_CST);
    UNINTERRUPTED(unlocked, flock(turn->files->leader.fd, LOCK_UN));
    if (is_begun)
        wake_group(turn->files->words, turn->group);
    turn->is_patient = 1;
}

/* Sync for everybody, if nobody else does: WRITTEN if somebody does. */
static enum outcome lead(struct turn *turn)
{
    int locked;
    if (!is_lock_file(&turn->files->leader))
        return NOT_OURS;
    UNINTERRUPTED(locked, flock(turn->files->leader.fd, LOCK_EX | LOCK_NB));
    if (locked != 0)
        return WRITTEN;
    __atomic_store_n(&turn->state->is_leading, 1, __ATOMIC_SEQ_CST);
    read_page(&turn->page);
    enum outcome outcome = covered(turn); /* by the leader before us, meanwhile */
    if (outcome != WRITTEN) { /* where it has failed, Python has nothing to tell anybody */
        stop_leading(turn, 0);
        turn->is_there = outcome == DURABLE && is_there(turn->files);
        return outcome;
    }
    turn->group = turn->page.group + 1;
    /* Read before the sync begins, as is what others left. A power cut, or a backup, can leave an end in the page that the
       log has not reached: the log bears it out. */
    int64_t end = end_left(turn, __atomic_load_n(&turn->state->end.offset, __ATOMIC_SEQ_CST));
    begin_group(turn, end);
    outcome = sync_log(turn, end);
    if (outcome == NOT_SYNCED) {
        turn->is_leading = 1; /* Python tells everybody, and gives the lead back then */
        return NOT_SYNCED;
    }
    end_group(turn);
    stop_leading(turn, 1);
    return outcome;
}

/* Sync, or wait for those who do. Runs without the interpreter's lock. */
static enum outcome sync_together(struct turn *turn)
{
    const struct files *files = turn->files;
    /* While somebody leads, to try is in vain. If that process is dead, the page says so for ever. */
    wait_while_led(
        &turn->page, (uint64_t)turn->offset, files->words, turn->is_patient ? WAITS_BELIEVED : 0, LOOK_AGAIN_NS);
    for (int tries = 0; tries < TRIES; tries++) {
        enum outcome outcome = covered(turn);
        if (outcome == DURABLE)
            turn->is_there = is_there(files);
        if (outcome == WRITTEN)
            outcome = lead(turn);
        if (outcome != WRITTEN)
            return outcome;
        if (!turn->is_patient)
            break;
        wait_for_group(&turn->page, (uint64_t)turn->offset, files->words, LOOK_AGAIN_NS);
        read_page(&turn->page);
    }
    /* A stopped leader must stop nobody. Nothing is published: the next leader does. */
    turn->is_patient = 0;
    return sync_log(turn, __atomic_load_n(&turn->state->end.offset, __ATOMIC_SEQ_CST));
}

/* What has to be told where a sync has failed: the error, whether this process leads, in which group, and the page. */
static int note_failed(AppendState *state, const struct turn *turn)
{
    PyObject *failed = Py_BuildValue(
        "(iiOIN)", (int)turn->failure, turn->error, truth(turn->is_leading), turn->group, known_of(&turn->page));
    Py_XDECREF(state->failed_sync);
    state->failed_sync = failed;
    return failed ? 0 : -1;
}

/* Use this thread's turn, and give it back; not where a sync failed: Python goes on there. */
static enum outcome use_turn(AppendState *state, struct files *files, int64_t offset)
{
    struct turn turn = {
        .state = state, .files = files, .offset = offset, .durable = state->durable, .is_patient = state->is_patient,
        .is_page_proven = state->is_page_proven,
        .page = {.fd = files->page.fd, .generation = files->generation, .bound = files->bound},
    };
    int is_alone = state->is_alone, beginning = state->beginning;
    enum outcome outcome = NOT_OURS;
    int64_t end = state->end.offset;
    Py_BEGIN_ALLOW_THREADS;
    /* Alone, nobody wrote between our last two appends: nobody waits for us, and a process that comes now leads a group. Its
       sync and ours may run side by side. */
    if (is_alone)
        outcome = sync_log(&turn, end);
    else if (files->leader.fd >= 0) /* else the first lead, which opens that file, is Python's */
        outcome = sync_together(&turn);
    Py_END_ALLOW_THREADS;
    if (outcome == DURABLE && state->beginning == beginning && turn.covered > state->durable)
        __atomic_store_n(&state->durable, turn.covered, __ATOMIC_SEQ_CST);
    if (outcome == NOT_OURS)
        state->is_ready = 0; /* the file of the leader lock: Python opens it */
    state->is_patient = (char)turn.is_patient;
    state->is_page_proven = (char)turn.is_page_proven;
    state->syncs += turn.syncs;
    if (turn.took_s > 0)
        state->slow_sync_s = turn.took_s;
    if (outcome == NOT_SYNCED) {
        state->is_ready = 0;
        return note_failed(state, &turn) == 0 ? NOT_SYNCED : FAILED;
    }
    if (release(files->turn_release) != 0)
        PyErr_Clear();
    return outcome == DURABLE && turn.is_there && state->beginning == beginning ? DURABLE : NOT_OURS;
}

/* Wake threads that sleep in Python, and in native code, until a sync has ended. */
static int wake_all(AppendState *state, const struct files *files)
{
    wake_threads(state);
    if (PyObject_Size(files->sleepers) <= 0)
        return 0;
    return release(files->turn_wake);
}

/* Have this thread's turn, if it is free: WRITTEN if not. */
static enum outcome try_turn(AppendState *state, struct files *files, int64_t offset)
{
    int is_turn = try_take(files->turn_take);
    if (is_turn <= 0)
        return is_turn < 0 ? FAILED : WRITTEN;
    if (state->durable >= offset) { /* meanwhile */
        if (release(files->turn_release) != 0 || wake_all(state, files) != 0)
            return FAILED;
        return WRITTEN;
    }
    enum outcome outcome = use_turn(state, files, offset);
    if (outcome != NOT_SYNCED && outcome != FAILED && wake_all(state, files) != 0)
        return FAILED;
    return outcome;
}

static enum outcome wait_for_turn(AppendState *state, struct files *files, int64_t offset, int beginning)
{
    struct wait wait = {.offset = offset, .is_durable = 1, .files = files};
    enum outcome outcome = WRITTEN;
    __atomic_add_fetch(&state->waiters, 1, __ATOMIC_SEQ_CST);
    while (outcome == WRITTEN && state->durable < offset && state->is_ready && state->beginning == beginning) {
        wait.gate = __atomic_load_n(&state->gate, __ATOMIC_SEQ_CST);
        outcome = try_turn(state, files, offset);
        if (outcome == WRITTEN && state->durable < offset)
            outcome = wait_for_others(state, NULL, &wait);
    }
    __atomic_sub_fetch(&state->waiters, 1, __ATOMIC_SEQ_CST);
    return outcome == WRITTEN && wait.is_there ? DURABLE : outcome;
}

enum outcome make_durable(AppendState *state, int64_t offset, int beginning)
{
    struct files *files = use_files(state);
    if (!files || !state->is_ready || state->beginning != beginning) {
        leave_files(files);
        return WRITTEN;
    }
    enum outcome outcome = state->durable < offset ? try_turn(state, files, offset) : WRITTEN;
    if (outcome == WRITTEN)
        outcome = wait_for_turn(state, files, offset, beginning);
    if (outcome == WRITTEN && state->durable >= offset) { /* by somebody else's sync */
        int is_same;
        Py_BEGIN_ALLOW_THREADS;
        is_same = is_there(files);
        Py_END_ALLOW_THREADS;
        outcome = is_same ? DURABLE : NOT_OURS;
    }
    if (outcome == DURABLE && (!state->is_ready || state->beginning != beginning))
        outcome = NOT_OURS;
    if (state->first) /* nobody's sync may end soon: see append_inside */
        wake_threads(state);
    leave_files(files);
    return outcome == NOT_OURS ? WRITTEN : outcome;
}

/* make_durable(offset, beginning) -> one of `enum outcome`: DURABLE; WRITTEN where Python is to see to it. */
PyObject *state_make_durable(PyObject *self, PyObject *arguments)
{
    long long offset;
    int beginning;
    if (!PyArg_ParseTuple(arguments, "Li:make_durable", &offset, &beginning))
        return NULL;
    enum outcome outcome = make_durable((AppendState *)self, offset, beginning);
    return outcome == FAILED ? NULL : PyLong_FromLong((long)outcome);
}

#endif
