/* Faults of the operating system, put between the program and libc by LD_PRELOAD. What it is told by the environment
 * holds for this process alone: the variables, and LD_PRELOAD, are gone before anything else runs.
 *
 *   FAULT_KILL=N when [path]   SIGKILL at the Nth call that changes a file (with `path` in its own), `when` is before,
 *                       after or half (half of what a write was given is written)
 *   FAULT_FULL=N path   once N bytes were written to paths with `path` in them, what needs room there fails: ENOSPC
 *   FAULT_CLOCK=file    the wall clock is off by as many seconds as the file says, from moment to moment
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum when { NEVER, BEFORE, AFTER, HALF };
static atomic_long calls, room;
static long kill_at;
static enum when kill_when;
static char kill_path[PATH_MAX], full_path[PATH_MAX], clock_file[PATH_MAX];

__attribute__((constructor)) static void begin(void) {
    const char *kill = getenv("FAULT_KILL"), *full = getenv("FAULT_FULL"), *clock = getenv("FAULT_CLOCK");
    char when[16] = "";
    long bytes = 0;
    if (kill && sscanf(kill, "%ld %15s %4095s", &kill_at, when, kill_path) >= 2)
        kill_when = when[0] == 'b' ? BEFORE : when[0] == 'a' ? AFTER : HALF;
    if (full && sscanf(full, "%ld %4095s", &bytes, full_path) == 2)
        atomic_store(&room, bytes);
    if (clock)
        snprintf(clock_file, sizeof clock_file, "%s", clock);
    unsetenv("FAULT_KILL"), unsetenv("FAULT_FULL"), unsetenv("FAULT_CLOCK"), unsetenv("LD_PRELOAD");
}

static void die(void) { syscall(SYS_kill, syscall(SYS_getpid), SIGKILL), pause(); }

static int regular(int fd) {
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISREG(found.st_mode);
}

/* Whether what `fd` is open for has `text` in its path. */
static int leads_to(int fd, const char *text) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 0 && (path[length] = 0, strstr(path, text) != NULL);
}

static int below(const char *path) {
    return full_path[0] && strstr(path, full_path) != NULL;
}

/* Whether the call that begins, on a descriptor or on a path from it, is the one to die at. */
static int fatal(int fd, const char *path) {
    if (kill_when == NEVER || (kill_path[0] && !(path && strstr(path, kill_path)) && !leads_to(fd, kill_path)))
        return 0;
    if (atomic_fetch_add(&calls, 1) + 1 != kill_at)
        return 0;
    if (kill_when == BEFORE)
        die();
    return 1;
}

/* How many of `count` bytes there is room for; -1 where there is none. */
static ssize_t fitting(int fd, size_t count) {
    if (!full_path[0] || !regular(fd) || !leads_to(fd, full_path))
        return count;
    long left = atomic_fetch_sub(&room, (long)count);
    return left >= (long)count ? (ssize_t)count : left > 0 ? left : -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t count) {
    if (kill_when != NEVER && regular(fd) && fatal(fd, NULL)) {
        syscall(SYS_write, fd, data, kill_when == HALF ? count / 2 : count);
        die();
    }
    ssize_t fits = fitting(fd, count);
    if (fits < 0)
        return errno = ENOSPC, -1;
    return syscall(SYS_write, fd, data, fits);
}

/* A call that changes a file, done by the real one between the two moments to die at. */
#define WATCHED(name, fd, path, parameters, arguments) \
    int name parameters { \
        int last = fatal(fd, path); \
        int result = REAL(name) arguments; \
        int error = errno; \
        if (last) \
            die(); \
        return errno = error, result; \
    }

WATCHED(fsync, fd, NULL, (int fd), (fd))
WATCHED(ftruncate, fd, NULL, (int fd, off_t size), (fd, size))
WATCHED(ftruncate64, fd, NULL, (int fd, off64_t size), (fd, size))
WATCHED(fchmod, fd, NULL, (int fd, mode_t mode), (fd, mode))
WATCHED(rename, -1, to, (const char *from, const char *to), (from, to))
WATCHED(renameat, b, to, (int a, const char *from, int b, const char *to), (a, from, b, to))
WATCHED(linkat, b, to, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WATCHED(unlink, -1, path, (const char *path), (path))
WATCHED(unlinkat, at, path, (int at, const char *path, int flags), (at, path, flags))
WATCHED(rmdir, -1, path, (const char *path), (path))
WATCHED(mkdirat, at, path, (int at, const char *path, mode_t mode), (at, path, mode))

int mkdir(const char *path, mode_t mode) {
    int last = fatal(-1, path);
    if (below(path) && atomic_load(&room) <= 0)
        return errno = ENOSPC, -1;
    int result = REAL(mkdir)(path, mode), error = errno;
    if (last)
        die();
    return errno = error, result;
}

static long offset(void) {
    char text[32] = "";
    if (!clock_file[0])
        return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, clock_file, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        syscall(SYS_read, fd, text, sizeof text - 1);
        syscall(SYS_close, fd);
    }
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *when) {
    int result = syscall(SYS_clock_gettime, clock, when);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        when->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict when, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, when, zone);
    if (result == 0)
        when->tv_sec += offset();
    return result;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}
