/* Preloaded into a process: makes the n-th call that changes the file system below a folder fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { REFUSED, SHORT, LOST };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[4096];
static long countdown = -1, calls, forever;
static int kind, number, hit;
static char is_below[65536];

void fault_arm(const char *folder, long at, int how, int error, int stays) {
    pthread_mutex_lock(&lock);
    strncpy(root, folder, sizeof root - 1);
    countdown = at; kind = how; number = error; forever = stays;
    if (folder[0]) { calls = 0; hit = 0; }
    pthread_mutex_unlock(&lock);
}
long fault_calls(void) { return calls; }
int fault_hit(void) { return hit; }

static int below(const char *path) { return root[0] && path && strncmp(path, root, strlen(root)) == 0; }
static int below_fd(int fd) {
    struct stat status; /* a number may have come to mean an event or a socket */
    return fd >= 0 && fd < (int)sizeof is_below && is_below[fd] && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}
static void note(int fd, const char *path) { if (fd >= 0 && fd < (int)sizeof is_below) is_below[fd] = below(path); }

/* What is to become of this call: -1 it goes its way, else a kind of fault. */
static int fate(void) {
    int found = -1;
    pthread_mutex_lock(&lock);
    if (root[0]) {
        calls++;
        if (countdown > 0 && --countdown == 0) { found = kind; hit = 1; countdown = forever ? 1 : 0; }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
/* A call without a length: refused, or done and its answer lost. */
#define GUARD(condition, call)                                       \
    do {                                                             \
        int how = (condition) ? fate() : -1;                         \
        if (how == -1) return call;                                  \
        if (how == LOST) { (void)!(call); }                          \
        errno = number;                                              \
        return -1;                                                   \
    } while (0)

static ssize_t guarded(int fd, const void *data, size_t length, off_t at, int is_at) {
    ssize_t (*plain)(int, const void *, size_t) = REAL(write);
    ssize_t (*placed)(int, const void *, size_t, off_t) = REAL(pwrite);
    int how = below_fd(fd) ? fate() : -1;
    if (how == REFUSED) { errno = number; return -1; }
    if (how == SHORT) length = length / 2 ? length / 2 : length;
    ssize_t done = is_at ? placed(fd, data, length, at) : plain(fd, data, length);
    if (how == LOST) { errno = number; return -1; }
    return done;
}
ssize_t write(int fd, const void *data, size_t length) { return guarded(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return guarded(fd, data, length, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) { return guarded(fd, data, length, at, 1); }
ssize_t writev(int fd, const struct iovec *parts, int count) { GUARD(below_fd(fd), REAL(writev)(fd, parts, count)); }

static int opened(int directory, const char *path, int flags, mode_t mode) {
    int (*real)(int, const char *, int, ...) = REAL(openat);
    int how = below(path) && (flags & (O_CREAT | O_WRONLY | O_RDWR)) ? fate() : -1;
    if (how == REFUSED || how == SHORT) { errno = number; return -1; }
    int fd = real(directory, path, flags, mode);
    note(fd, path);
    if (how == LOST && fd >= 0) { REAL(close)(fd); errno = number; return -1; }
    return fd;
}
#define MODE va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more)
int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int openat(int directory, const char *path, int flags, ...) { MODE; return opened(directory, path, flags, mode); }
int openat64(int directory, const char *path, int flags, ...) { MODE; return opened(directory, path, flags, mode); }
int close(int fd) { note(fd, NULL); return REAL(close)(fd); }
int rename(const char *from, const char *to) { GUARD(below(to), REAL(rename)(from, to)); }
int link(const char *from, const char *to) { GUARD(below(to), REAL(link)(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) { GUARD(below(to), REAL(linkat)(a, from, b, to, flags)); }
/* A full disk does not keep anybody from deleting. */
int unlink(const char *path) { GUARD(below(path) && !forever, REAL(unlink)(path)); }
int mkdir(const char *path, mode_t mode) { GUARD(below(path), REAL(mkdir)(path, mode)); }
int fsync(int fd) { GUARD(below_fd(fd), REAL(fsync)(fd)); }
int fdatasync(int fd) { GUARD(below_fd(fd), REAL(fdatasync)(fd)); }
int ftruncate(int fd, off_t length) { GUARD(below_fd(fd), REAL(ftruncate)(fd, length)); }
int ftruncate64(int fd, off_t length) { GUARD(below_fd(fd), REAL(ftruncate64)(fd, length)); }
