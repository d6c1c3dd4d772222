/* System calls that Python has no function for: statx and futex, each once; without these, they are called through
   ctypes (mpcheckpoint/_system/statx.py and futex.py). What an error means is judged there. And clone, for a process
   that asks for a lock: without it, an interpreter is started for that (mpcheckpoint/_system/locks.py). */

#define _GNU_SOURCE /* statx, syscall, clone */
#include "core.h"

#ifdef HAS_APPEND

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000

static PyObject *facts_of(const struct statx *status)
{
    long long born_ns = 0;
    if (status->stx_mask & STATX_BTIME)
        born_ns = (long long)status->stx_btime.tv_sec * NS + status->stx_btime.tv_nsec;
    return Py_BuildValue(
        "(KKILL)", (unsigned long long)makedev(status->stx_dev_major, status->stx_dev_minor),
        (unsigned long long)status->stx_ino, (unsigned)status->stx_nlink, (long long)status->stx_size,
        born_ns > 0 ? born_ns : 0);
}

/* file_facts(fd, path, flags) -> (device, inode, links, size, born), or the number of the error. */
PyObject *file_facts(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int fd, flags, failed;
    PyObject *path;
    char *path_bytes;
    struct statx status;
    if (!PyArg_ParseTuple(arguments, "iO!i:file_facts", &fd, &PyBytes_Type, &path, &flags)
        || PyBytes_AsStringAndSize(path, &path_bytes, NULL) != 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = statx(fd, path_bytes, flags, STATX_NLINK | STATX_INO | STATX_SIZE | STATX_BTIME, &status) == 0 ? 0 : errno;
    Py_END_ALLOW_THREADS;
    return failed ? PyLong_FromLong(failed) : facts_of(&status);
}

/* futex_wait(address, value, timeout_s) -> 0 or the number of the error. A signal ends it: Python's handlers run then. */
PyObject *futex_wait(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    unsigned long long address;
    unsigned int value;
    double timeout_s;
    long result;
    if (!PyArg_ParseTuple(arguments, "KId:futex_wait", &address, &value, &timeout_s))
        return NULL;
    double whole_s = floor(timeout_s);
    struct timespec timeout = {.tv_sec = (time_t)whole_s, .tv_nsec = (long)((timeout_s - whole_s) * NS)};
    Py_BEGIN_ALLOW_THREADS;
    result = syscall(SYS_futex, (void *)(uintptr_t)address, FUTEX_WAIT, value, &timeout, NULL, 0) == 0 ? 0 : errno;
    Py_END_ALLOW_THREADS;
    return PyLong_FromLong(result);
}

/* futex_wake(address, most) wakes so many waiters. */
PyObject *futex_wake(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    unsigned long long address;
    int most;
    if (!PyArg_ParseTuple(arguments, "Ki:futex_wake", &address, &most))
        return NULL;
    syscall(SYS_futex, (void *)(uintptr_t)address, FUTEX_WAKE, most, NULL, NULL, 0);
    Py_RETURN_NONE;
}

/* --- another process ------------------------------------------------------------------------------------------ */

#define CHILD_STACK_BYTES (64 * 1024)
#define UNANSWERED (-1)

struct lock_request {
    const char *path;
    int answer; /* 0 or the number of the error; UNANSWERED unless the file was opened */
};

/* Runs in the child, which has our memory, while this thread waits for its end: it makes two system calls, and changes the
   answer alone. Its end closes the file. */
static int ask_for_lock(void *argument)
{
    struct lock_request *request = argument;
    int fd = open(request->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
        request->answer = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    return 0;
}

/* Have a process of its own, with descriptors of its own, do that. Nobody else notices it: it sends no signal when it ends,
   so a `wait` for any child does not return it, and no handler runs in it, since all signals are blocked. */
static void ask_in_child(struct lock_request *request, char *stack)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = clone(ask_for_lock, stack + CHILD_STACK_BYTES, CLONE_VM | CLONE_VFORK, request);
    while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* lock_in_child(path) -> 0 if another process was given the lock of that file, else the number of the error; None if it
   could not ask. */
PyObject *lock_in_child(PyObject *Py_UNUSED(module), PyObject *path)
{
    struct lock_request request = {.path = PyBytes_AsString(path), .answer = UNANSWERED};
    char *stack = request.path == NULL ? NULL : malloc(CHILD_STACK_BYTES);
    if (stack == NULL)
        return request.path == NULL ? NULL : PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    ask_in_child(&request, stack);
    Py_END_ALLOW_THREADS;
    free(stack);
    if (request.answer == UNANSWERED)
        Py_RETURN_NONE;
    return PyLong_FromLong(request.answer);
}

#endif
