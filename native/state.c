/* AppendState: mpcheckpoint/_logfile/append_state.py has the same in Python, and says what its attributes mean. */

#include "state.h"

#ifdef HAS_APPEND

#include <stdlib.h>
#include <structmember.h>

/* --- which files --------------------------------------------------------------------------------------------------- */

struct files *use_files(AppendState *state)
{
    if (state->files)
        state->files->users++;
    return state->files;
}

void leave_files(struct files *files)
{
    if (!files || --files->users > 0)
        return;
    PyObject *objects[] = {
        files->told, files->mutex_take, files->mutex_release, files->turn_take, files->turn_release, files->turn_wake,
    };
    for (size_t at = 0; at < sizeof objects / sizeof *objects; at++)
        Py_XDECREF(objects[at]);
    free(files);
}

/* attach(told): the files are open, the end was found, and nothing unusual is known. Which files these are is told by a
   tuple, which OpenLog.attach makes (mpcheckpoint/_logfile/opened.py). */
static PyObject *attach(PyObject *self, PyObject *told)
{
    AppendState *state = (AppendState *)self;
    PyObject *generation, *bound, *writer, *path, *mutex, *turn, *turn_lock, *clock, *descriptor;
    struct files *files = calloc(1, sizeof *files);
    if (!files)
        return PyErr_NoMemory();
    files->users = 1;
    Py_INCREF(told);
    files->told = told;
    if (!PyArg_ParseTuple(
            told, "OO(i(KK))dO(i(KK))OO(KK)OiOOO(i(KK))OOOO(i(KK)):attach", &path, &descriptor, &files->log.fd,
            &files->log.device, &files->log.inode, &files->slow_sync_s, &descriptor, &files->page.fd, &files->page.device,
            &files->page.inode, &generation, &bound, &files->words[0], &files->words[1], &writer,
            &files->most_extensions, &clock, &mutex, &descriptor, &files->lock.fd, &files->lock.device,
            &files->lock.inode, &turn, &turn_lock, &files->sleepers, &descriptor, &files->leader.fd,
            &files->leader.device, &files->leader.inode)
        || !(files->path = bytes_of(path, -1)) || !(files->generation = bytes_of(generation, GENERATION_BYTES))
        || !(files->bound = bytes_of(bound, BOUND_BYTES)) || !(files->writer = bytes_of(writer, WRITER_BYTES)))
        goto refused;
    PyTypeObject *stamp_type = ((State *)PyType_GetModuleState(Py_TYPE(self)))->highest_stamp;
    if (!PyObject_TypeCheck(clock, stamp_type)) {
        PyErr_SetString(PyExc_TypeError, "the clock keeps no highest stamp");
        goto refused;
    }
    files->clock = (HighestStamp *)clock;
    if (!(files->mutex_take = PyObject_GetAttrString(mutex, "acquire"))
        || !(files->mutex_release = PyObject_GetAttrString(mutex, "release"))
        || !(files->turn_take = PyObject_GetAttrString(turn_lock, "acquire"))
        || !(files->turn_release = PyObject_GetAttrString(turn_lock, "release"))
        || !(files->turn_wake = PyObject_GetAttrString(turn, "wake")))
        goto refused;
    struct files *old = state->files;
    state->files = files;
    state->attachments++;
    state->is_ready = 1;
    leave_files(old);
    Py_RETURN_NONE;
refused:
    leave_files(files);
    return NULL;
}

/* detach(): Python is at work. The files are let go of, so that they are closed when Python lets go of them. */
static PyObject *detach(PyObject *self, PyObject *Py_UNUSED(none))
{
    AppendState *state = (AppendState *)self;
    struct files *old = state->files;
    state->is_ready = 0;
    state->files = NULL;
    leave_files(old);
    Py_RETURN_NONE;
}

int try_take(PyObject *take)
{
    PyObject *taken = PyObject_CallFunctionObjArgs(take, Py_False, NULL);
    if (!taken)
        return -1;
    int is_taken = taken == Py_True;
    Py_DECREF(taken);
    return is_taken;
}

int release(PyObject *release)
{
    PyObject *none = PyObject_CallNoArgs(release);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* --- where it ends, and the clock ------------------------------------------------------------------------------------ */

void set_end(AppendState *state, const struct end *end)
{
    PyObject *old = state->end_object;
    state->end = *end;
    state->end_object = NULL;
    Py_XDECREF(old);
}

static PyObject *get_end(PyObject *self, void *Py_UNUSED(closure))
{
    AppendState *state = (AppendState *)self;
    if (!state->end_object) {
        PyObject *values = Py_BuildValue(
            "(LkL)", (long long)state->end.offset, (unsigned long)state->end.crc, (long long)state->end.stamp_us);
        if (values)
            state->end_object = PyObject_CallMethod(state->end_type, "_make", "(O)", values);
        Py_XDECREF(values);
    }
    Py_XINCREF(state->end_object);
    return state->end_object;
}

int take_end(PyObject *value, struct end *end)
{
    long long offset, stamp_us;
    unsigned long crc;
    if (!value || !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "an end is an offset, a crc and a stamp");
        return -1;
    }
    if (!PyArg_ParseTuple(value, "LkL:end", &offset, &crc, &stamp_us))
        return -1;
    *end = (struct end){.offset = offset, .stamp_us = stamp_us, .crc = (uint32_t)crc};
    return 0;
}

static int put_end(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    AppendState *state = (AppendState *)self;
    struct end end;
    if (take_end(value, &end) != 0)
        return -1;
    set_end(state, &end);
    Py_INCREF(value);
    state->end_object = value;
    return 0;
}

static PyObject *get_left(PyObject *self, void *Py_UNUSED(closure))
{
    AppendState *state = (AppendState *)self;
    return PyBytes_FromStringAndSize(state->left, (Py_ssize_t)state->left_bytes);
}

static int put_left(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    AppendState *state = (AppendState *)self;
    const char *bytes = value ? bytes_of(value, -1) : NULL;
    if (!bytes || (size_t)PyBytes_Size(value) > sizeof state->left) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "what is left in a page is some of its bytes");
        return -1;
    }
    state->left_bytes = (size_t)PyBytes_Size(value);
    memcpy(state->left, bytes, state->left_bytes);
    return 0;
}

int64_t next_stamp_us(HighestStamp *clock, int64_t wall_us, int64_t after_us)
{
    long long highest_us = __atomic_load_n(&clock->highest_us, __ATOMIC_SEQ_CST), stamp_us;
    do {
        stamp_us = wall_us > highest_us ? wall_us : highest_us + 1;
        if (stamp_us <= after_us)
            stamp_us = after_us + 1;
        if (stamp_us > (long long)MAX_STAMP_US)
            return -1;
    } while (!__atomic_compare_exchange_n(
        &clock->highest_us, &highest_us, stamp_us, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return stamp_us;
}

/* give(wall_us, after_us) -> a stamp above `after_us` and all others, at least `wall_us`; None if there is none left. */
static PyObject *stamp_give(PyObject *self, PyObject *arguments)
{
    long long wall_us, after_us;
    if (!PyArg_ParseTuple(arguments, "LL:give", &wall_us, &after_us))
        return NULL;
    int64_t stamp_us = next_stamp_us((HighestStamp *)self, wall_us, after_us);
    if (stamp_us < 0)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(stamp_us);
}

static PyObject *stamp_observe(PyObject *self, PyObject *argument)
{
    HighestStamp *clock = (HighestStamp *)self;
    long long stamp_us = PyLong_AsLongLong(argument);
    if (stamp_us == -1 && PyErr_Occurred())
        return NULL;
    long long highest_us = __atomic_load_n(&clock->highest_us, __ATOMIC_SEQ_CST);
    while (stamp_us > highest_us
        && !__atomic_compare_exchange_n(
            &clock->highest_us, &highest_us, stamp_us, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    Py_RETURN_NONE;
}

static PyObject *python_settle_taken(PyObject *self, PyObject *Py_UNUSED(none))
{
    settle_taken((AppendState *)self);
    wake_threads((AppendState *)self);
    Py_RETURN_NONE;
}

static PyObject *python_wake(PyObject *self, PyObject *Py_UNUSED(none))
{
    wake_threads((AppendState *)self);
    Py_RETURN_NONE;
}

/* --- the types --------------------------------------------------------------------------------------------------------- */

static PyObject *state_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(keywords))
{
    PyObject *end_type;
    if (!PyArg_ParseTuple(arguments, "O:AppendState", &end_type))
        return NULL;
    AppendState *state = (AppendState *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0); /* zeroed */
    if (!state)
        return NULL;
    Py_INCREF(end_type);
    state->end_type = end_type;
    state->is_patient = 1;
    pthread_mutex_init(&state->queue_mutex, NULL);
    return (PyObject *)state;
}

static void state_free(PyObject *self)
{
    AppendState *state = (AppendState *)self;
    PyTypeObject *type = Py_TYPE(self);
    leave_files(state->files);
    Py_XDECREF(state->end_object);
    Py_XDECREF(state->end_type);
    Py_XDECREF(state->failed_write);
    Py_XDECREF(state->failed_sync);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define MEMBER(name, kind) {#name, kind, offsetof(AppendState, name), 0, NULL}
static PyMemberDef state_members[] = {
    MEMBER(allocated, T_LONGLONG), MEMBER(durable, T_LONGLONG), MEMBER(beginning, T_INT), MEMBER(is_alone, T_BOOL),
    MEMBER(is_followed, T_BOOL), MEMBER(is_page_proven, T_BOOL), MEMBER(is_patient, T_BOOL),
    MEMBER(unpublished, T_INT), MEMBER(extensions, T_INT), MEMBER(appends, T_LONGLONG), MEMBER(syncs, T_LONGLONG),
    MEMBER(is_ready, T_BOOL), MEMBER(is_inside, T_BOOL), MEMBER(is_leading, T_BOOL), MEMBER(is_watched, T_BOOL),
    MEMBER(waiting_since_ns, T_LONGLONG), MEMBER(failed_write, T_OBJECT), MEMBER(failed_sync, T_OBJECT),
    MEMBER(slow_sync_s, T_DOUBLE), MEMBER(waiters, T_INT), MEMBER(attachments, T_INT), MEMBER(taken_count, T_INT),
    {NULL, 0, 0, 0, NULL},
};
#undef MEMBER

static PyGetSetDef state_values[] = {
    {"end", get_end, put_end, "Where the log ends.", NULL},
    {"left", get_left, put_left, "What this process left in the page last.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef state_methods[] = {
    {"attach", attach, METH_O, "attach(told): nothing unusual is known, and these are the files."},
    {"detach", detach, METH_NOARGS, "detach(): Python is at work, and may open other files."},
    {"append", state_append, METH_VARARGS, "append(payloads, told, is_durable, may_wait): see native_append.py."},
    {"make_durable", state_make_durable, METH_VARARGS, "make_durable(offset, beginning): see native_append.py."},
    {"settle_taken", python_settle_taken, METH_NOARGS, "Tell other threads what became of their batches."},
    {"wake", python_wake, METH_NOARGS, "Wake threads that wait for the append lock, or for a sync."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot state_slots[] = {
    {Py_tp_doc, "What one process knows of a log that it appends to."},
    {Py_tp_new, state_new},
    {Py_tp_dealloc, state_free},
    {Py_tp_members, state_members},
    {Py_tp_getset, state_values},
    {Py_tp_methods, state_methods},
    {0, NULL},
};

PyType_Spec append_state_spec = {
    .name = "mpcheckpoint._native.AppendState",
    .basicsize = sizeof(AppendState),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = state_slots,
};

static PyMemberDef stamp_members[] = {
    {"highest_us", T_LONGLONG, offsetof(HighestStamp, highest_us), 0, "The highest stamp, in microseconds."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef stamp_methods[] = {
    {"give", stamp_give, METH_VARARGS, "give(wall_us, after_us): the next stamp; None if there is none left."},
    {"observe", stamp_observe, METH_O, "observe(stamp_us): take note of a stamp that was read from a log."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stamp_slots[] = {
    {Py_tp_doc, "The highest stamp that this process has given out or seen."},
    {Py_tp_members, stamp_members},
    {Py_tp_methods, stamp_methods},
    {0, NULL},
};

PyType_Spec highest_stamp_spec = {
    .name = "mpcheckpoint._native.HighestStamp",
    .basicsize = sizeof(HighestStamp),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = stamp_slots,
};

#endif
