/* Tally: how many records each object has, and which of them are to be dropped (mpcheckpoint/_compaction/tally.py). */

#include "core.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 64
/* So many keys are looked up at once, that their places are fetched from memory meanwhile. */
#define AT_ONCE 16

/* What is known of one object. Its key stands in `texts`, as UTF-8. */
typedef struct {
    uint64_t hash, key, last_us;
    uint64_t count, old;
    uint32_t key_size;
    uint32_t is_gone; /* removed: what comes of the object later is counted anew, as another entry */
} Entry;

/* Where the number of an entry stands, one more than it is, beside the high bits of its hash: those of another entry are told
   apart without a look at it. */
typedef struct {
    uint32_t tag, number; /* 0: free */
} Slot;

/* Invariant: `slots` has a power of two of them, half of them free. */
typedef struct {
    PyObject_HEAD
    Entry *entries;
    size_t count, room;
    uint8_t *texts;
    size_t texts_size, texts_room;
    Slot *slots;
    size_t slots_count;
    uint8_t *scratch; /* a key with escapes, without them */
    size_t scratch_room;
    uint64_t seed;
} Tally;

static void tally_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Tally *tally = (Tally *)self;
    free(tally->entries);
    free(tally->texts);
    free(tally->slots);
    free(tally->scratch);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* --- the table ------------------------------------------------------------------------------------------------------ */

static inline uint64_t mixed(uint64_t value)
{
    value = (value ^ value >> 32) * UINT64_C(0x9E3779B97F4A7C15);
    return value ^ value >> 29;
}

static uint64_t hash_of(const Tally *tally, const uint8_t *key, size_t size)
{
    uint64_t hash = tally->seed ^ size, word;
    for (; size >= 8; key += 8, size -= 8) {
        memcpy(&word, key, 8);
        hash = mixed(hash ^ word);
    }
    word = 0;
    for (size_t at = 0; at < size; at++)
        word = word << 8 | key[at];
    hash = mixed(hash ^ word) * UINT64_C(0xD6E8FEB86659FD93);
    return hash ^ hash >> 32;
}

/* Room for `wanted` items of that many bytes; returns -1 with an error if there is none. */
static int make_room(void *memory, size_t *room, size_t wanted, size_t item_bytes)
{
    if (wanted <= *room)
        return 0;
    size_t more = *room * 2 < FIRST_ROOM ? FIRST_ROOM : *room * 2;
    if (more < wanted)
        more = wanted;
    void *grown = realloc(*(void **)memory, more * item_bytes);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *(void **)memory = grown;
    *room = more;
    return 0;
}

static int spread(Tally *tally, size_t slots_count)
{
    if (tally->slots_count == 0) { /* as the interpreter does: nobody can choose keys that lie in one place */
        PyObject *text = PyUnicode_FromString("Tally");
        tally->seed = text == NULL ? 0 : (uint64_t)PyObject_Hash(text);
        Py_XDECREF(text);
        if (text == NULL)
            return -1;
    }
    Slot *slots = calloc(slots_count, sizeof *slots);
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t number = 0; number < tally->count; number++) {
        const Entry *entry = &tally->entries[number];
        if (entry->is_gone)
            continue;
        size_t at = entry->hash & (slots_count - 1);
        while (slots[at].number != 0)
            at = (at + 1) & (slots_count - 1);
        slots[at] = (Slot){(uint32_t)(entry->hash >> 32), (uint32_t)number + 1};
    }
    free(tally->slots);
    tally->slots = slots;
    tally->slots_count = slots_count;
    return 0;
}

/* The slot of the object's entry, or the free one where it belongs. Requires: there are slots. */
static Slot *slot_of(const Tally *tally, uint64_t hash, const uint8_t *key, size_t size)
{
    for (size_t at = hash;; at++) {
        Slot *slot = &tally->slots[at & (tally->slots_count - 1)];
        if (slot->number == 0)
            return slot;
        if (slot->tag != (uint32_t)(hash >> 32))
            continue;
        const Entry *entry = &tally->entries[slot->number - 1];
        if (entry->hash == hash && entry->key_size == size && memcmp(tally->texts + entry->key, key, size) == 0)
            return slot;
    }
}

static Entry *known(const Tally *tally, uint64_t hash, const uint8_t *key, size_t size)
{
    if (tally->count == 0)
        return NULL;
    const Slot *slot = slot_of(tally, hash, key, size);
    return slot->number == 0 || tally->entries[slot->number - 1].is_gone ? NULL : &tally->entries[slot->number - 1];
}

/* The entry of an object, made if there is none; NULL with an error. */
static Entry *entry_of(Tally *tally, uint64_t hash, const uint8_t *key, size_t size)
{
    Slot *slot = slot_of(tally, hash, key, size);
    if (slot->number != 0 && !tally->entries[slot->number - 1].is_gone)
        return &tally->entries[slot->number - 1];
    if (tally->count >= UINT32_MAX - 1) {
        PyErr_SetString(PyExc_OverflowError, "more objects than 32 bits count");
        return NULL;
    }
    if (make_room(&tally->entries, &tally->room, tally->count + 1, sizeof(Entry)) < 0
        || make_room(&tally->texts, &tally->texts_room, tally->texts_size + size + 1, 1) < 0)
        return NULL;
    memcpy(tally->texts + tally->texts_size, key, size);
    Entry *entry = &tally->entries[tally->count++];
    *entry = (Entry){.hash = hash, .key = tally->texts_size, .key_size = (uint32_t)size};
    tally->texts_size += size;
    *slot = (Slot){(uint32_t)(hash >> 32), (uint32_t)tally->count};
    return entry;
}

/* Have room for so many more objects. Returns -1 with an error if there is none. */
static int ready(Tally *tally, size_t more)
{
    size_t wanted = tally->slots_count ? tally->slots_count : 2 * FIRST_ROOM;
    while (wanted < 2 * (tally->count + more))
        wanted *= 2;
    return wanted == tally->slots_count ? 0 : spread(tally, wanted);
}

/* --- lines ---------------------------------------------------------------------------------------------------------- */

/* The keys of some lines: those of a block, or a list. */
typedef struct {
    const Block *block;
    PyObject *list;
    size_t count;
} Keys;

static int keys_in(PyObject *self, PyObject *given, Keys *keys)
{
    State *state = PyType_GetModuleState(Py_TYPE(self));
    *keys = (Keys){0};
    if (Py_TYPE(given) == state->block) {
        keys->block = (Block *)given;
        keys->count = keys->block->found.count;
    } else if (PyList_CheckExact(given)) {
        keys->list = given;
        keys->count = (size_t)PyList_Size(given);
    } else {
        PyErr_SetString(PyExc_TypeError, "a block or a list of keys is wanted");
        return -1;
    }
    return 0;
}

/* A key as UTF-8. Returns its bytes; NULL where the line is a control line, or with an error. */
static const uint8_t *key_at(Tally *tally, const Keys *keys, size_t index, size_t *size)
{
    if (keys->block == NULL) {
        PyObject *key = PyList_GetItem(keys->list, (Py_ssize_t)index);
        Py_ssize_t length = 0;
        const char *text = key == NULL || key == Py_None ? NULL : PyUnicode_AsUTF8AndSize(key, &length);
        *size = (size_t)length;
        return (const uint8_t *)text;
    }
    const Line *line = &keys->block->found.lines[index];
    if (line->key == 0)
        return NULL;
    const uint8_t *key = bytes_in(keys->block) + line->key;
    *size = line->key_size;
    if (!line->has_escapes)
        return key;
    if (make_room(&tally->scratch, &tally->scratch_room, line->key_size, 1) < 0)
        return NULL;
    *size = unescaped(key, line->key_size, tally->scratch);
    return tally->scratch;
}

/* The hashes of the next keys, whose slots are fetched from memory meanwhile. Returns how many; 0 with an error. */
static size_t hashes_of(Tally *tally, const Keys *keys, size_t index, uint64_t hashes[AT_ONCE])
{
    size_t count = keys->count - index < AT_ONCE ? keys->count - index : AT_ONCE;
    for (size_t each = 0; each < count; each++) {
        size_t size;
        const uint8_t *key = key_at(tally, keys, index + each, &size);
        if (key == NULL && PyErr_Occurred())
            return 0;
        hashes[each] = key == NULL ? 0 : hash_of(tally, key, size);
        __builtin_prefetch(&tally->slots[hashes[each] & (tally->slots_count - 1)]);
    }
    return count;
}

static int count_all(Tally *tally, const Keys *keys, const uint64_t *stamps_us, uint64_t old_below_us, size_t *old)
{
    uint64_t hashes[AT_ONCE];
    for (size_t index = 0, stop = 0; index < keys->count; index++) {
        if (index == stop) {
            if (ready(tally, AT_ONCE) < 0 || (stop += hashes_of(tally, keys, index, hashes)) == index)
                return -1;
        }
        uint64_t stamp_us = stamps_us == NULL ? keys->block->found.lines[index].stamp_us : stamps_us[index];
        size_t size;
        const uint8_t *key = key_at(tally, keys, index, &size);
        *old += stamp_us < old_below_us;
        if (key == NULL)
            continue;
        Entry *entry = entry_of(tally, hashes[index % AT_ONCE], key, size);
        if (entry == NULL)
            return -1;
        entry->count++;
        entry->old += stamp_us < old_below_us;
        entry->last_us = stamp_us;
    }
    return 0;
}

static PyObject *add(PyObject *self, PyObject *arguments)
{
    PyObject *given;
    Py_buffer stamps_us;
    unsigned long long old_below_us;
    if (!PyArg_ParseTuple(arguments, "Oy*K:add", &given, &stamps_us, &old_below_us))
        return NULL;
    Keys keys;
    size_t old = 0;
    int failed = keys_in(self, given, &keys) < 0;
    if (!failed && keys.list != NULL && (size_t)stamps_us.len != keys.count * sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "one stamp a key is wanted");
        failed = 1;
    }
    failed = failed || count_all((Tally *)self, &keys, keys.list ? stamps_us.buf : NULL, old_below_us, &old) < 0;
    PyBuffer_Release(&stamps_us);
    return failed ? NULL : PyLong_FromSize_t(old);
}

static int drop_all(Tally *tally, const Keys *keys, uint8_t *fates)
{
    uint64_t hashes[AT_ONCE];
    for (size_t index = 0, stop = 0; index < keys->count && tally->count != 0; index++) {
        if (index == stop && (stop += hashes_of(tally, keys, index, hashes)) == index)
            return -1;
        size_t size;
        const uint8_t *key = fates[index] == DROP ? NULL : key_at(tally, keys, index, &size);
        Entry *entry = key == NULL ? NULL : known(tally, hashes[index % AT_ONCE], key, size);
        if (entry == NULL || entry->count == 0)
            continue;
        entry->count--;
        fates[index] = DROP;
    }
    return 0;
}

static PyObject *drop(PyObject *self, PyObject *arguments)
{
    PyObject *given;
    Py_buffer fates;
    if (!PyArg_ParseTuple(arguments, "Ow*:drop", &given, &fates))
        return NULL;
    Keys keys;
    int failed = keys_in(self, given, &keys) < 0;
    if (!failed && (size_t)fates.len != keys.count) {
        PyErr_SetString(PyExc_ValueError, "one fate a line is wanted");
        failed = 1;
    }
    failed = failed || drop_all((Tally *)self, &keys, fates.buf) < 0;
    PyBuffer_Release(&fates);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* --- objects -------------------------------------------------------------------------------------------------------- */

static Entry *entry_named(PyObject *self, PyObject *object_key)
{
    Py_ssize_t size;
    const char *key = PyUnicode_AsUTF8AndSize(object_key, &size);
    if (key == NULL)
        return NULL;
    uint64_t hash = hash_of((Tally *)self, (const uint8_t *)key, (size_t)size);
    return known((Tally *)self, hash, (const uint8_t *)key, (size_t)size);
}

static PyObject *get(PyObject *self, PyObject *object_key)
{
    const Entry *entry = entry_named(self, object_key);
    return entry == NULL && PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(entry == NULL ? 0 : entry->count);
}

static PyObject *pop(PyObject *self, PyObject *object_key)
{
    Entry *entry = entry_named(self, object_key);
    PyObject *count = get(self, object_key);
    if (entry != NULL && count != NULL)
        entry->is_gone = 1;
    return count;
}

static PyObject *set(PyObject *self, PyObject *given)
{
    Tally *tally = (Tally *)self;
    PyObject *object_key, *number;
    Py_ssize_t at = 0;
    if (!PyDict_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a dict of counts is wanted");
        return NULL;
    }
    while (PyDict_Next(given, &at, &object_key, &number)) {
        Py_ssize_t size;
        const char *key = PyUnicode_AsUTF8AndSize(object_key, &size);
        if (key == NULL || ready(tally, 1) < 0)
            return NULL;
        uint64_t hash = hash_of(tally, (const uint8_t *)key, (size_t)size);
        Entry *entry = entry_of(tally, hash, (const uint8_t *)key, (size_t)size);
        if (entry == NULL)
            return NULL;
        entry->count = PyLong_AsUnsignedLongLong(number);
        if (PyErr_Occurred())
            return NULL;
    }
    Py_RETURN_NONE;
}

/* A dict of a number that is known of each object; 0 is left out. */
static PyObject *numbers_of(const Tally *tally, size_t number_at)
{
    PyObject *made = PyDict_New();
    for (size_t index = 0; made != NULL && index < tally->count; index++) {
        const Entry *entry = &tally->entries[index];
        uint64_t number;
        memcpy(&number, (const char *)entry + number_at, sizeof number);
        if (entry->is_gone || number == 0)
            continue;
        PyObject *key = PyUnicode_FromStringAndSize((char *)tally->texts + entry->key, entry->key_size);
        PyObject *value = PyLong_FromUnsignedLongLong(number);
        if (key == NULL || value == NULL || PyDict_SetItem(made, key, value) < 0)
            Py_CLEAR(made);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return made;
}

static PyObject *counts(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    return numbers_of((Tally *)self, offsetof(Entry, count));
}

static PyObject *olds(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    return numbers_of((Tally *)self, offsetof(Entry, old));
}

static PyObject *lasts_us(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    return numbers_of((Tally *)self, offsetof(Entry, last_us));
}

static PyMethodDef methods[] = {
    {"add", add, METH_VARARGS, "add(block or keys, stamps_us, old_below_us): count lines; how many are old."},
    {"drop", drop, METH_VARARGS, "drop(block or keys, fates): of each object drop as many lines as are counted."},
    {"get", get, METH_O, "get(key): the count of an object."},
    {"pop", pop, METH_O, "pop(key): the same; it begins anew."},
    {"set", set, METH_O, "set(counts): take these counts."},
    {"counts", counts, METH_NOARGS, "The count of each object, in the order in which they came."},
    {"olds", olds, METH_NOARGS, "How many records of each object are old."},
    {"lasts_us", lasts_us, METH_NOARGS, "The stamp of the last record of each object."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What is counted by object."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, tally_free},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec tally_spec = {
    .name = "mpcheckpoint._native.Tally",
    .basicsize = sizeof(Tally),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
