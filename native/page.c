/* The page of a log, as those read it who wait for a sync: Page.known and Page.await_group
   (mpcheckpoint/_logfile/page.py). */

#define _GNU_SOURCE /* syscall */
#include "core.h"
#include "page.h"

#ifdef HAS_APPEND

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void read_page(struct page *page)
{
    const char *look = page->look, *known = look + KNOWN_AT, *poison = look + POISON_AT;
    ssize_t size;
    UNINTERRUPTED(size, pread(page->fd, page->look, sizeof page->look, 0));
    page->is_read = size == sizeof page->look;
    if (!page->is_read) { /* then it says nothing */
        page->is_poisoned = 0;
        page->durable = page->target = 0;
        page->words[0] = page->words[1] = page->group = 0;
        return;
    }
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

/* Wait for the end of the sync that covers an offset. A signal ends it: Python's handlers run then. */
void wait_for_group(const struct page *page, uint64_t offset, const uint64_t *addresses, int64_t pause_ns)
{
    struct timespec pause = {.tv_sec = pause_ns / 1000000000, .tv_nsec = pause_ns % 1000000000};
    /* The present leader covers us, or began too early for that: then the next one does. */
    uint32_t group = page->target >= offset ? page->group : page->group + 1;
    void *word = (void *)(uintptr_t)addresses[group % 2];
    if (syscall(SYS_futex, word, FUTEX_WAIT, page->words[group % 2], &pause, NULL, 0) != 0 && errno != EAGAIN
        && errno != ETIMEDOUT && errno != EINTR)
        nanosleep(&pause, NULL); /* waiting is impossible, perhaps because the file was cut off: do not spin */
}

/* Wait while somebody leads, at most so often; return how often. */
int wait_while_led(struct page *page, uint64_t offset, const uint64_t *addresses, int most, int64_t pause_ns)
{
    for (int waits = 0;; waits++) {
        read_page(page);
        if (waits == most || !page->is_read || page->is_poisoned || page->durable >= offset || page->target == 0)
            return waits;
        wait_for_group(page, offset, addresses, pause_ns);
    }
}

/* Wake those who wait for this group, in every process, and one of those who wait for the next. */
void wake_group(const uint64_t *addresses, uint32_t group)
{
    syscall(SYS_futex, (void *)(uintptr_t)addresses[group % 2], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    syscall(SYS_futex, (void *)(uintptr_t)addresses[1 - group % 2], FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* What the page said, as Page.known returns it. */
PyObject *known_of(const struct page *page)
{
    return Py_BuildValue(
        "(KO(II)IKN)", (unsigned long long)page->durable, truth(page->is_poisoned), page->words[0], page->words[1],
        page->group, (unsigned long long)page->target, new_bytes(page->look, sizeof page->look));
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
    waits = wait_while_led(&page, offset, addresses, most, (int64_t)(pause_s * 1e9));
    Py_END_ALLOW_THREADS;
    if (!page.is_read)
        Py_RETURN_NONE;
    return Py_BuildValue("iNO", waits, known_of(&page), truth(page.is_proven));
}

#endif
