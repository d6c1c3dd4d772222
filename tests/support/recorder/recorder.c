/* A recorder below the C library: what a process asks of the files of one directory, and faults at calls of choice.
 *
 * Loaded with LD_PRELOAD, it stands in for the functions of the C library that open, read, write, lock, sync, name, map
 * and wait on files: Python's own calls come through here, those through ctypes, and those of a C extension. Each call
 * on a file below the given directory becomes a line of the record, written at once: a process that is killed leaves a
 * whole record. Everything else passes unchanged. A path counts as it is written: through ".." or a link, it leads
 * elsewhere. native/README.md tells how to debug with it.
 *
 * A line has eight fields, divided by tabs: thread (0: the first), name, path from the directory, arguments, result,
 * errno, bytes in hexadecimal (written or read; of a look at a file its inode, links and size), and which rule acted.
 *
 * Rules make calls go another way. One a line, or divided by semicolons: NAME PATH N[xTIMES] ACTION[=VALUE]. NAME and
 * PATH are patterns as of a shell; N counts the calls that fit, from 1; the first rule that is due acts:
 *   fail=ERRNO, fail-after=ERRNO   fail instead of the call, or once it was done
 *   answer=NUMBER                  return that without doing anything
 *   short=BYTES                    read or write so many bytes at most
 *   kill, kill-after               SIGKILL to this process, before the call or after it
 *   delay=MILLISECONDS, stop       before the call wait so long, or, stopped by SIGSTOP, for a SIGCONT
 *
 * The record begins with recorder_begin(), or with the process where RECORDER_BELOW is set and RECORDER_OUT names what
 * is not there yet; RECORDER_RULES, RECORDER_TIME_US and RECORDER_SEED count then. In a forked child nothing is
 * recorded, and no rule acts, until it begins a record of its own.
 *
 * Linux with glibc, 64 bits. A call is made as a system call, never through the function that is stood in for. Variadic
 * functions are defined without the dots, which is the same for whole numbers and pointers on these machines.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_HEX = 4096, MOST_RULES = 32, MOST_MAPS = 64, LONGEST_PATH = 1024, FIRST_FD = 900 };

/* A call before it is made. */
struct call {
    const char *name;
    long number;        /* of the system call */
    long argument[6];
    int at;             /* the open file, or, with a path, the directory that it begins in */
    const char *path, *to;
    int to_at;
    const void *given;  /* the bytes to be written: as many as argument[2] says */
    const void *taken;  /* where bytes are read to: as many as the result says */
    const struct stat *status;
    const struct statx *statx;
};
enum action { NONE, FAIL, FAIL_AFTER, ANSWER, SHORT, KILL, KILL_AFTER, DELAY, STOP };
static const char *const ACTIONS[] = {
    "", "fail", "fail-after", "answer", "short", "kill", "kill-after", "delay", "stop",
};

struct rule {
    char name[32], path[256];
    long first, times, value;
    enum action action;
    atomic_long seen;
};

/* A part of a file that is mapped: what is waited on is told by its address only. */
static struct map {
    uintptr_t start;
    size_t length;
    long offset;
    char path[LONGEST_PATH];
} maps[MOST_MAPS];
static atomic_flag maps_busy = ATOMIC_FLAG_INIT;
static atomic_int owner; /* the process that is recorded; 0: none */
static int out = -1;
static char below[LONGEST_PATH];
static struct rule rules[MOST_RULES];
static int rule_count;
static atomic_llong fixed_us = -1;
static atomic_ullong chance; /* 0: as the system gives it */

/* --- the system itself ----------------------------------------------------------------------------------------- */

static long (*library_syscall(void))(long, ...)
{
    static long (*found)(long, ...);
    if (found == NULL)
        found = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return found;
}
#define ask(...) library_syscall()(__VA_ARGS__)

static long made(const struct call *call)
{
    const long *a = call->argument;
    return ask(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Nothing that is recorded can be trusted once this is not so. */
static void require(int is_so, const char *what)
{
    if (!is_so) {
        ask(SYS_write, 2, what, strlen(what));
        ask(SYS_exit_group, 70);
    }
}

/* --- which file ------------------------------------------------------------------------------------------------- */

static int path_of_fd(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, fd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", fd);
    long length = ask(SYS_readlinkat, AT_FDCWD, (long)link, (long)path, LONGEST_PATH - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int full_path(int at, const char *name, char *path)
{
    if (name == NULL || name[0] == 0)
        return path_of_fd(at, path);
    if (name[0] == '/')
        return snprintf(path, LONGEST_PATH, "%s", name) < LONGEST_PATH;
    if (!path_of_fd(at, path))
        return 0;
    size_t length = strlen(path);
    return snprintf(path + length, LONGEST_PATH - length, "/%s", name) < (int)(LONGEST_PATH - length);
}

/* Return the path relative to the directory of the record; NULL if it is not below it. */
static const char *relative(const char *path)
{
    size_t length = strlen(below);
    if (strncmp(path, below, length) != 0 || (path[length] != 0 && path[length] != '/'))
        return NULL;
    return path[length] == 0 ? "." : path + length + 1;
}

static int is_on(void)
{
    int recorded = atomic_load(&owner);
    return recorded != 0 && recorded == ask(SYS_getpid);
}

/* --- rules ------------------------------------------------------------------------------------------------------ */

static struct rule *due(const char *name, const char *path)
{
    struct rule *found = NULL;
    for (int at = 0; at < rule_count; at++) {
        struct rule *rule = &rules[at];
        if (fnmatch(rule->name, name, 0) != 0 || fnmatch(rule->path, path, 0) != 0)
            continue;
        long number = atomic_fetch_add(&rule->seen, 1) + 1;
        if (found == NULL && number >= rule->first && number < rule->first + rule->times)
            found = rule;
    }
    return found;
}

static void send_itself(int signal_number) { ask(SYS_kill, ask(SYS_getpid), signal_number); }

/* --- the record ------------------------------------------------------------------------------------------------- */

static int hex(char *to, const unsigned char *bytes, long length)
{
    static const char digits[] = "0123456789abcdef";
    if (length > LONGEST_HEX) {
        uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
        for (long at = 0; at < length; at++)
            hash = (hash ^ bytes[at]) * 0x100000001b3;
        return sprintf(to, "length=%ld hash=%016llx", length, (unsigned long long)hash);
    }
    for (long at = 0; at < length; at++)
        to[2 * at] = digits[bytes[at] >> 4], to[2 * at + 1] = digits[bytes[at] & 15];
    return length < 0 ? 0 : (int)(2 * length);
}

static void write_line(const struct call *call, const char *path, const char *arguments, long asked, long result,
                       int error, const char *note)
{
    char line[2 * LONGEST_HEX + 2 * LONGEST_PATH + 1024];
    long process = ask(SYS_getpid), thread = ask(SYS_gettid);
    int at = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%ld\t%d\t", thread == process ? 0 : thread, call->name, path,
                      arguments, result, error);
    if (call->given != NULL)
        at += hex(line + at, call->given, asked);
    else if (call->taken != NULL && result > 0)
        at += hex(line + at, call->taken, result);
    else if (call->status != NULL && result == 0)
        at += sprintf(line + at, "inode=%lu links=%lu size=%ld", (long)call->status->st_ino,
                      (long)call->status->st_nlink, (long)call->status->st_size);
    else if (call->statx != NULL && result == 0)
        at += sprintf(line + at, "inode=%llu links=%u size=%llu", (unsigned long long)call->statx->stx_ino,
                      call->statx->stx_nlink, (unsigned long long)call->statx->stx_size);
    at += sprintf(line + at, "\t%s\n", note);
    require(ask(SYS_write, out, (long)line, at) == at, "the record cannot be written");
}

/* Make a call, and record it if it is about a file below the directory. The format is that of the arguments. */
static __attribute__((format(printf, 2, 3))) long seen(struct call call, const char *format, ...)
{
    char path[LONGEST_PATH], to[LONGEST_PATH] = "", arguments[LONGEST_PATH + 256];
    int before = errno;
    if (!is_on() || !full_path(call.at, call.path, path) || (call.to && !full_path(call.to_at, call.to, to))
        || (relative(path) == NULL && relative(to) == NULL)) {
        errno = before;
        return made(&call);
    }
    va_list list;
    va_start(list, format);
    int length = vsnprintf(arguments, 256, format, list);
    va_end(list);
    const char *name = relative(path) ? relative(path) : path;
    if (call.to != NULL)
        snprintf(arguments + length, LONGEST_PATH, " to=%s", relative(to) ? relative(to) : to);
    long asked = call.argument[2];
    struct rule *rule = due(call.name, name);
    enum action action = rule ? rule->action : NONE;
    const char *note = ACTIONS[action];
    if (action == KILL) {
        write_line(&call, name, arguments, asked, -1, 0, note);
        send_itself(SIGKILL);
    }
    if (action == DELAY)
        ask(SYS_nanosleep, &(struct timespec){rule->value / 1000, rule->value % 1000 * 1000000}, NULL);
    if (action == STOP)
        send_itself(SIGSTOP); /* goes on with SIGCONT */
    if (action == SHORT && (call.given != NULL || call.taken != NULL) && asked > rule->value)
        call.argument[2] = rule->value;
    errno = before;
    long result = action == FAIL ? -1 : action == ANSWER ? rule->value : made(&call);
    int error = result == -1 ? errno : 0;
    if (action == FAIL || action == FAIL_AFTER) {
        result = -1;
        error = (int)rule->value;
    }
    write_line(&call, name, arguments, asked, result, error, note);
    if (action == KILL_AFTER)
        send_itself(SIGKILL);
    errno = error ? error : before;
    return result;
}

/* --- what is stood in for --------------------------------------------------------------------------------------- */

/* A function under its name in the C library, which the headers declare in another way. */
#define FUNCTION(symbol, parameters) \
    long seen_##symbol parameters __asm__(#symbol) __attribute__((visibility("default"))); \
    long seen_##symbol parameters
/* And under others: those for 64 bits, and those that check buffers first, are the same here. */
#define ALSO(of, symbol) \
    extern __typeof(seen_##of) seen_##symbol __asm__(#symbol) __attribute__((alias(#of), visibility("default")));

FUNCTION(openat, (int at, const char *path, int flags, unsigned mode))
{
    mode = flags & (O_CREAT | __O_TMPFILE) ? mode : 0; /* else nothing was given there */
    return seen((struct call){"open", SYS_openat, {at, (long)path, flags, mode}, .at = at, .path = path},
                "flags=%#x mode=%#o", flags, mode);
}
FUNCTION(open, (const char *path, int flags, unsigned mode)) { return seen_openat(AT_FDCWD, path, flags, mode); }
ALSO(openat, openat64) ALSO(open, open64)
FUNCTION(pread, (int fd, void *into, size_t length, long offset))
{ return seen((struct call){"pread", SYS_pread64, {fd, (long)into, (long)length, offset}, .at = fd, .taken = into},
              "offset=%ld length=%zu", offset, length); }
ALSO(pread, pread64) ALSO(pread, __pread_chk) ALSO(pread, __pread64_chk)
FUNCTION(pwrite, (int fd, const void *bytes, size_t length, long offset))
{ return seen((struct call){"pwrite", SYS_pwrite64, {fd, (long)bytes, (long)length, offset}, .at = fd,
              .given = bytes}, "offset=%ld length=%zu", offset, length); }
ALSO(pwrite, pwrite64)
FUNCTION(read, (int fd, void *into, size_t length))
{ return seen((struct call){"read", SYS_read, {fd, (long)into, (long)length}, .at = fd, .taken = into},
              "length=%zu", length); }
ALSO(read, __read_chk)
FUNCTION(write, (int fd, const void *bytes, size_t length))
{ return seen((struct call){"write", SYS_write, {fd, (long)bytes, (long)length}, .at = fd, .given = bytes},
              "length=%zu", length); }

/* A call on an open file whose other arguments are numbers. */
#define ON_FILE(symbol, ...) seen((struct call){#symbol, SYS_##symbol, {fd, __VA_ARGS__}, .at = fd}
FUNCTION(close, (int fd)) { return ON_FILE(close, 0), "%s", ""); }
FUNCTION(fdatasync, (int fd)) { return ON_FILE(fdatasync, 0), "%s", ""); }
FUNCTION(fsync, (int fd)) { return ON_FILE(fsync, 0), "%s", ""); }
FUNCTION(flock, (int fd, int operation)) { return ON_FILE(flock, operation), "operation=%d", operation & 15); }
FUNCTION(ftruncate, (int fd, long length)) { return ON_FILE(ftruncate, length), "length=%ld", length); }
FUNCTION(truncate, (const char *path, long length))
{ return seen((struct call){"truncate", SYS_truncate, {(long)path, length}, .at = AT_FDCWD, .path = path},
              "length=%ld", length); }
FUNCTION(lseek, (int fd, long by, int from)) { return ON_FILE(lseek, by, from), "offset=%ld whence=%d", by, from); }
ALSO(ftruncate, ftruncate64) ALSO(truncate, truncate64) ALSO(lseek, lseek64)
FUNCTION(fstat, (int fd, struct stat *status))
{ return seen((struct call){"fstat", SYS_fstat, {fd, (long)status}, .at = fd, .status = status}, "%s", ""); }
FUNCTION(fstatat, (int at, const char *path, struct stat *status, int flags))
{ return seen((struct call){"stat", SYS_newfstatat, {at, (long)path, (long)status, flags}, .at = at, .path = path,
              .status = status}, "flags=%#x", flags); }
FUNCTION(stat, (const char *path, struct stat *status)) { return seen_fstatat(AT_FDCWD, path, status, 0); }
FUNCTION(lstat, (const char *path, struct stat *status))
{ return seen_fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW); }
ALSO(fstat, fstat64) ALSO(fstatat, fstatat64) ALSO(stat, stat64) ALSO(lstat, lstat64)
FUNCTION(statx, (int at, const char *path, int flags, unsigned mask, struct statx *status))
{ return seen((struct call){"statx", SYS_statx, {at, (long)path, flags, mask, (long)status}, .at = at, .path = path,
              .statx = status}, "flags=%#x mask=%#x", flags, mask); }
FUNCTION(faccessat, (int at, const char *path, int mode, int flags))
{ return seen((struct call){"access", SYS_faccessat2, {at, (long)path, mode, flags}, .at = at, .path = path},
              "mode=%d flags=%#x", mode, flags); }
FUNCTION(access, (const char *path, int mode)) { return seen_faccessat(AT_FDCWD, path, mode, 0); }

static long two_paths(const char *name, long number, int at, const char *path, int to_at, const char *to, int flags)
{
    return seen((struct call){name, number, {at, (long)path, to_at, (long)to, flags}, .at = at, .path = path,
                              .to_at = to_at, .to = to}, "flags=%#x", flags);
}
FUNCTION(renameat2, (int at, const char *path, int to_at, const char *to, unsigned flags))
{ return two_paths("rename", SYS_renameat2, at, path, to_at, to, (int)flags); }
FUNCTION(rename, (const char *path, const char *to)) { return seen_renameat2(AT_FDCWD, path, AT_FDCWD, to, 0); }
FUNCTION(linkat, (int at, const char *path, int to_at, const char *to, int flags))
{ return two_paths("link", SYS_linkat, at, path, to_at, to, flags); }
FUNCTION(link, (const char *path, const char *to)) { return seen_linkat(AT_FDCWD, path, AT_FDCWD, to, 0); }

FUNCTION(unlinkat, (int at, const char *path, int flags))
{
    return seen((struct call){flags & AT_REMOVEDIR ? "rmdir" : "unlink", SYS_unlinkat, {at, (long)path, flags},
                              .at = at, .path = path}, "%s", "");
}
FUNCTION(unlink, (const char *path)) { return seen_unlinkat(AT_FDCWD, path, 0); }
FUNCTION(rmdir, (const char *path)) { return seen_unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
FUNCTION(mkdirat, (int at, const char *path, unsigned mode))
{ return seen((struct call){"mkdir", SYS_mkdirat, {at, (long)path, mode}, .at = at, .path = path}, "mode=%#o", mode); }
FUNCTION(mkdir, (const char *path, unsigned mode)) { return seen_mkdirat(AT_FDCWD, path, mode); }

/* --- maps, and waiting on a word of one ------------------------------------------------------------------------- */

#define LOCK_MAPS() while (atomic_flag_test_and_set(&maps_busy)) {}
#define UNLOCK_MAPS() atomic_flag_clear(&maps_busy)
/* Also before the record begins: a log is opened before it is looked at. */
FUNCTION(mmap, (void *start, size_t length, int protection, int flags, int fd, long offset))
{
    struct call call = {.name = "mmap", .number = SYS_mmap, .at = fd,
                        .argument = {(long)start, (long)length, protection, flags, fd, offset}};
    if (fd < 0 || flags & MAP_ANONYMOUS)
        return made(&call);
    long address = seen(call, "length=%zu protection=%d flags=%#x offset=%ld", length, protection, flags, offset);
    int error = errno;
    LOCK_MAPS();
    for (int at = 0; address != -1 && at < MOST_MAPS; at++)
        if (maps[at].length == 0 && path_of_fd(fd, maps[at].path)) {
            maps[at].start = (uintptr_t)address;
            maps[at].offset = offset;
            maps[at].length = length;
            break;
        }
    UNLOCK_MAPS();
    errno = error;
    return address;
}
ALSO(mmap, mmap64)
FUNCTION(munmap, (void *start, size_t length))
{
    LOCK_MAPS();
    for (int at = 0; at < MOST_MAPS; at++)
        if (maps[at].start == (uintptr_t)start)
            maps[at].length = 0;
    UNLOCK_MAPS();
    return ask(SYS_munmap, (long)start, (long)length);
}

static long seen_futex(const long *a)
{
    char path[LONGEST_PATH] = "";
    long offset = 0;
    LOCK_MAPS();
    for (int at = 0; at < MOST_MAPS; at++)
        if ((uintptr_t)a[0] - maps[at].start < maps[at].length) {
            memcpy(path, maps[at].path, sizeof path);
            offset = maps[at].offset + (long)((uintptr_t)a[0] - maps[at].start);
        }
    UNLOCK_MAPS();
    int operation = (int)a[1] & FUTEX_CMD_MASK;
    const struct timespec *wait = operation == FUTEX_WAIT ? (const struct timespec *)a[3] : NULL;
    if (path[0] == 0)
        return ask(SYS_futex, a[0], a[1], a[2], a[3], a[4], a[5]);
    return seen((struct call){.name = "futex", .number = SYS_futex, .argument = {a[0], a[1], a[2], a[3], a[4], a[5]},
                              .at = -1, .path = path},
                "offset=%ld operation=%d value=%u wait_us=%ld", offset, operation, (unsigned)a[2],
                wait ? wait->tv_sec * 1000000 + wait->tv_nsec / 1000 : -1);
}

/* --- time and chance -------------------------------------------------------------------------------------------- */

FUNCTION(clock_gettime, (clockid_t clock, struct timespec *now))
{
    long long us = atomic_load(&fixed_us);
    if (us < 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return ask(SYS_clock_gettime, clock, now);
    *now = (struct timespec){us / 1000000, us % 1000000 * 1000};
    return 0;
}

FUNCTION(getrandom, (unsigned char *bytes, size_t length, unsigned flags))
{
    if (atomic_load(&chance) == 0)
        return ask(SYS_getrandom, (long)bytes, (long)length, flags);
    for (size_t at = 0; at < length; at++) {
        uint64_t number = atomic_fetch_add(&chance, 0x9e3779b97f4a7c15); /* splitmix64 */
        number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9;
        number = (number ^ number >> 27) * 0x94d049bb133111eb;
        bytes[at] = (unsigned char)(number >> 31);
    }
    return (long)length;
}

FUNCTION(syscall, (long number, long a, long b, long c, long d, long e, long f))
{
    switch (number) {
    case SYS_futex: return seen_futex((long[]){a, b, c, d, e, f});
    case SYS_statx: return seen_statx((int)a, (const char *)b, (int)c, (unsigned)d, (struct statx *)e);
    case SYS_getrandom: return seen_getrandom((unsigned char *)a, (size_t)b, (unsigned)c);
    default: return ask(number, a, b, c, d, e, f);
    }
}

/* --- begin and end ---------------------------------------------------------------------------------------------- */

#define EXPORTED __attribute__((visibility("default")))

/* Stop the wall clock at a time; a negative one lets it go on. */
EXPORTED void recorder_fix_time(long long time_us) { atomic_store(&fixed_us, time_us); }
/* Make chance repeatable; 0 has it as the system gives it. */
EXPORTED void recorder_fix_chance(unsigned long long seed) { atomic_store(&chance, seed); }

/* Put rules in the place of all earlier ones; return how many lines were no rules. */
EXPORTED int recorder_rules(const char *text)
{
    int refused = 0;
    rule_count = 0;
    for (const char *line = text; *line != 0; line += strcspn(line, "\n;"), line += *line != 0) {
        char copy[512], action[16] = "";
        struct rule rule = {.times = 1};
        snprintf(copy, sizeof copy, "%.*s", (int)strcspn(line, "\n;"), line);
        if (copy[strspn(copy, " ")] == 0)
            continue;
        if (sscanf(copy, "%31s %255s %ldx%ld %15[a-z-]=%ld", rule.name, rule.path, &rule.first, &rule.times, action,
                   &rule.value) < 5)
            sscanf(copy, "%31s %255s %ld %15[a-z-]=%ld", rule.name, rule.path, &rule.first, action, &rule.value);
        for (int at = FAIL; at <= STOP; at++)
            if (strcmp(action, ACTIONS[at]) == 0)
                rule.action = (enum action)at;
        if (rule.action != NONE && rule_count < MOST_RULES)
            rules[rule_count++] = rule;
        else
            refused++;
    }
    return refused;
}

/* Record what this process asks of files below a directory, given by its real path, from now on. */
EXPORTED void recorder_begin(const char *record, const char *directory)
{
    long fd = ask(SYS_openat, AT_FDCWD, (long)record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    require(fd >= 0, "the record cannot be opened");
    /* High up: the program is to get the same numbers for its files as without us. */
    long high = ask(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FIRST_FD);
    if (high >= 0)
        ask(SYS_close, fd);
    out = (int)(high >= 0 ? high : fd);
    snprintf(below, sizeof below, "%s", directory);
    atomic_store(&owner, (int)ask(SYS_getpid));
}

/* Record nothing more, and let no rule act. */
EXPORTED void recorder_end(void)
{
    if (is_on())
        ask(SYS_close, out);
    atomic_store(&owner, 0);
}

static __attribute__((constructor)) void begin_with_the_process(void)
{
    const char *record = getenv("RECORDER_OUT"), *directory = getenv("RECORDER_BELOW");
    const char *text = getenv("RECORDER_RULES"), *time_us = getenv("RECORDER_TIME_US"), *seed = getenv("RECORDER_SEED");
    recorder_fix_time(time_us ? atoll(time_us) : -1);
    recorder_fix_chance(seed ? strtoull(seed, NULL, 10) : 0);
    require(text == NULL || recorder_rules(text) == 0, "RECORDER_RULES has a line that is no rule");
    /* Not in programs that this one starts, which inherit all that: their calls would come in between. */
    if (record != NULL && directory != NULL && ask(SYS_faccessat, AT_FDCWD, record, F_OK) != 0)
        recorder_begin(record, directory);
}
