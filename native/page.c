/* The page of a log, as those read it who wait for a sync: Page.known and Page.await_group
   (mpcheckpoint/_logfile/page.py). */

#define _GNU_SOURCE /* syscall */
#include "core.h"
#include "page.h"

#ifdef HAS_APPEND

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct page {
    int fd;
    const char *generation, *bound;
    char look[PAGE_READ_BYTES];
    int is_read, is_proven, is_poisoned;
    uint64_t durable, target;
    uint32_t words[2], group;
};

static void read_page(struct page *page)
{
    const char *look = page->look, *known = look + KNOWN_AT, *poison = look + POISON_AT;
    ssize_t size;
    UNINTERRUPTED(size, pread(page->fd, page->look, sizeof page->look, 0));
    page->is_read = size == sizeof page->look;
    if (!page->is_read)
        return;
    page->is_proven = is_about(page->bound, known)
        && word_at(known + KNOWN_BODY_BYTES) == crc_of_text(known, KNOWN_BODY_BYTES, 0);
    page->durable = page->is_proven ? number_at(known + BOUND_BYTES) : 0; /* void, or just being written */
    page->is_poisoned = memcmp(poison, page->generation, GENERATION_BYTES) == 0
        && word_at(poison + GENERATION_BYTES) == POISONED
        && word_at(poison + POISON_BODY_BYTES) == crc_of_text(poison, POISON_BODY_BYTES, 0);
    page->words[0] = word_at(look + WORDS_AT);
    page->words[1] = word_at(look + WORDS_AT + 4);
    page->group = word_at(look + GROUP_AT);
    page->target = number_at(look + GROUP_AT + 8);
}

/* Wait while somebody leads, at most so often; return how often. A signal ends it: Python's handlers run then. */
static int wait_while_led(struct page *page, uint64_t offset, const uint64_t *addresses, int most, double pause_s)
{
    struct timespec pause = {.tv_sec = (time_t)pause_s, .tv_nsec = (long)((pause_s - (double)(time_t)pause_s) * 1e9)};
    for (int waits = 0;; waits++) {
        read_page(page);
        if (waits == most || !page->is_read || page->is_poisoned || page->durable >= offset || page->target == 0)
            return waits;
        /* The present leader covers us, or began too early for that: then the next one does. */
        uint32_t group = page->target >= offset ? page->group : page->group + 1;
        void *word = (void *)(uintptr_t)addresses[group % 2];
        if (syscall(SYS_futex, word, FUTEX_WAIT, page->words[group % 2], &pause, NULL, 0) != 0 && errno != EAGAIN
            && errno != ETIMEDOUT)
            return waits;
    }
}

/* await_group(fd, generation, bound, offset, addresses, most, pause_s) -> how often it waited, what the page said last as
   Page.known returns it, and whether that was proven; or None if the page cannot be read. */
PyObject *await_group(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    struct page page = {0};
    PyObject *generation, *bound;
    unsigned long long offset, even, odd;
    int most, waits;
    double pause_s;
    if (!PyArg_ParseTuple(
            arguments, "iOOK(KK)id:await_group", &page.fd, &generation, &bound, &offset, &even, &odd, &most, &pause_s)
        || !(page.generation = bytes_of(generation, GENERATION_BYTES)) || !(page.bound = bytes_of(bound, BOUND_BYTES)))
        return NULL;
    uint64_t addresses[2] = {even, odd};
    Py_BEGIN_ALLOW_THREADS;
    waits = wait_while_led(&page, offset, addresses, most, pause_s);
    Py_END_ALLOW_THREADS;
    if (!page.is_read)
        Py_RETURN_NONE;
    return Py_BuildValue(
        "i(KO(II)IKy#)O", waits, (unsigned long long)page.durable, truth(page.is_poisoned), page.words[0], page.words[1],
        page.group, (unsigned long long)page.target, page.look, (Py_ssize_t)sizeof page.look, truth(page.is_proven));
}

#endif
