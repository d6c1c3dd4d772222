/* What append.c and page.c share: where things lie in the page, and a few small helpers. */

#ifndef MPCHECKPOINT_PAGE_H
#define MPCHECKPOINT_PAGE_H

#include "core.h"

#include <errno.h>
#include <string.h>

/* What is asked of statx: no times; mpcheckpoint/_system/statx.py says why. */
#define STATX_WANTED (STATX_NLINK | STATX_INO | STATX_SIZE | STATX_BTIME)

/* A system call once more for each signal that comes, as Python does it. */
#define UNINTERRUPTED(result, call) \
    do { \
        (result) = (call); \
    } while ((result) < 0 && errno == EINTR)

/* The page: docs/format.md has the layout. Numbers are little-endian, and so is every processor that this is built for. */
#define PAGE_READ_BYTES 184
#define END_AT 0
#define END_BODY_BYTES 52
#define KNOWN_AT 64
#define KNOWN_BODY_BYTES 40
#define WORDS_AT 128
#define GROUP_AT 136
#define FOLLOWED_AT 152
#define POISON_AT 160
#define GENERATION_BYTES 16
#define WRITER_BYTES 8
#define BOUND_BYTES 32
#define POISON_BODY_BYTES 20
#define POISONED 1

static inline uint64_t number_at(const char *at)
{
    uint64_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

static inline uint32_t word_at(const char *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint32_t crc_of_text(const char *bytes, size_t size, uint32_t crc)
{
    return crc_of((const uint8_t *)bytes, size, crc);
}

/* Write the check of some bytes after them. */
static inline void put_check(char *bytes, size_t size)
{
    uint32_t check = crc_of_text(bytes, size, 0);
    memcpy(bytes + size, &check, sizeof check);
}

/* Write what the page says of a file: below which offset it is durable. */
static inline void put_known(char *at, const char *bound, uint64_t durable)
{
    memcpy(at, bound, BOUND_BYTES);
    memcpy(at + BOUND_BYTES, &durable, sizeof durable);
    put_check(at, KNOWN_BODY_BYTES);
}

/* Whether two bindings, each of a generation and the file that it stands in, can be those of one file. */
static inline int is_about(const char *own, const char *bound)
{
    if (memcmp(bound, own, GENERATION_BYTES + 8) != 0)
        return 0;
    /* A time of birth that is not known fits any. */
    uint64_t born_ns = number_at(bound + GENERATION_BYTES + 8), own_born_ns = number_at(own + GENERATION_BYTES + 8);
    return born_ns == own_born_ns || born_ns == 0 || own_born_ns == 0;
}

static inline const char *bytes_of(PyObject *object, Py_ssize_t size)
{
    char *bytes;
    Py_ssize_t found;
    if (PyBytes_AsStringAndSize(object, &bytes, &found) != 0)
        return NULL;
    if (size >= 0 && found != size) {
        PyErr_SetString(PyExc_ValueError, "bytes of another length");
        return NULL;
    }
    return bytes;
}

/* What the page says to those who wait for a sync: page.c. */
struct page {
    int fd;
    const char *generation, *bound;
    char look[PAGE_READ_BYTES];
    int is_read, is_proven, is_poisoned;
    uint64_t durable, target;
    uint32_t words[2], group;
};

void read_page(struct page *page);
void wait_for_group(const struct page *page, uint64_t offset, const uint64_t *addresses, int64_t pause_ns);
int wait_while_led(struct page *page, uint64_t offset, const uint64_t *addresses, int most, int64_t pause_ns);
void wake_group(const uint64_t *addresses, uint32_t group);
PyObject *known_of(const struct page *page);

static inline PyObject *truth(int is_true)
{
    return is_true ? Py_True : Py_False;
}

#endif
