/* System calls that fail on demand: a library for LD_PRELOAD.
 *
 * The program under test arms it through ctypes: "the first-th call of `name` from now on fails with
 * `error`, and so does each `step`-th one after it, `limit` times in all". Only calls from the
 * shared library whose path contains `caller` count, if one is given. Standard streams and spared
 * descriptors, which a test needs itself, are never affected.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* What an armed call does instead of its work; positive numbers are errnos. */
enum { SHORT = -1, MIXED = -2 };

#define NAMES(X)                                                                                  \
    X(recv) X(recvfrom) X(recvmsg) X(send) X(sendto) X(sendmsg) X(read) X(write) X(writev)         \
    X(accept) X(accept4) X(connect) X(socket) X(socketpair) X(getsockopt) X(setsockopt)            \
    X(getsockname) X(getpeername) X(shutdown) X(close) X(epoll_create1) X(epoll_add) X(epoll_mod)  \
    X(epoll_del) X(epoll_wait) X(epoll_pwait2) X(eventfd) X(pipe2) X(dup3) X(fcntl) X(ioctl)       \
    X(fstat) X(poll) X(ppoll) X(waitid) X(waitpid) X(pidfd_open) X(sendfile) X(getaddrinfo)        \
    X(pthread_create)

#define ENUM(name) CALL_##name,
enum call { NAMES(ENUM) CALLS };
#define TEXT(name) #name,
static const char *const names[CALLS] = {NAMES(TEXT)};

enum { DESCRIPTORS = 65536 };
static unsigned char spared[DESCRIPTORS];
static long seen[CALLS];

static struct {
    int armed, error;
    unsigned char chosen[CALLS];
    long first, step, limit, count, hits;
    uint64_t state;
} fault;

static uintptr_t caller_start, caller_end;

static int find_caller(struct dl_phdr_info *info, size_t size, void *part)
{
    (void)size;
    if (!strstr(info->dlpi_name, part))
        return 0;
    caller_start = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD)
            continue;
        uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        uintptr_t end = start + info->dlpi_phdr[i].p_memsz;
        caller_start = start < caller_start ? start : caller_start;
        caller_end = end > caller_end ? end : caller_end;
    }
    return 1;
}

/* A name that ends with a star matches all names with that prefix. */
static int choose(const char *name)
{
    size_t length = strlen(name);
    int chosen = 0, prefix = length && name[length - 1] == '*';
    for (int call = 0; call < CALLS; call++) {
        int equal = prefix ? !strncmp(names[call], name, length - 1) : !strcmp(names[call], name);
        fault.chosen[call] = equal;
        chosen += equal;
    }
    return chosen;
}

/* Returns 0, or -1 if there is no such call or caller. */
int shim_arm(const char *name, int error, long first, long step, long limit, const char *caller)
{
    fault.armed = 0;
    if (!choose(name))
        return -1;
    caller_start = caller_end = 0;
    if (*caller && !dl_iterate_phdr(find_caller, (void *)caller))
        return -1;
    memset(seen, 0, sizeof seen);
    fault.error = error;
    fault.first = first;
    fault.step = step;
    fault.limit = limit;
    fault.count = fault.hits = 0;
    fault.state = (uint64_t)first * 0x9e3779b97f4a7c15u + 1;
    __sync_synchronize();
    fault.armed = 1;
    return 0;
}

/* Returns how many calls have failed. */
long shim_disarm(void)
{
    fault.armed = 0;
    return fault.hits;
}

void shim_spare(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS)
        spared[fd] = 1;
}

/* The number of calls since the shim was armed. */
long shim_seen(int call)
{
    return call >= 0 && call < CALLS ? seen[call] : -1;
}

const char *shim_name(int call)
{
    return call >= 0 && call < CALLS ? names[call] : 0;
}

static uint64_t next_random(void)
{
    fault.state ^= fault.state << 13;
    fault.state ^= fault.state >> 7;
    fault.state ^= fault.state << 17;
    return fault.state;
}

/* Calls that transfer bytes, and that may return EINTR or EAGAIN. */
static int may_be_interrupted(enum call call)
{
    return call == CALL_recv || call == CALL_recvfrom || call == CALL_recvmsg ||
           call == CALL_send || call == CALL_sendto || call == CALL_sendmsg || call == CALL_read ||
           call == CALL_write || call == CALL_writev || call == CALL_accept ||
           call == CALL_accept4 || call == CALL_epoll_wait || call == CALL_epoll_pwait2;
}

/* 0: make the real call; positive: fail with that errno; SHORT: transfer fewer bytes. */
static int injected(enum call call, int fd, void *from)
{
    if (!fault.armed)
        return 0;
    if (fd >= 0 && fd < DESCRIPTORS && (fd < 3 || spared[fd]))
        return 0;
    if (caller_end && ((uintptr_t)from < caller_start || (uintptr_t)from >= caller_end))
        return 0;
    __sync_add_and_fetch(&seen[call], 1);
    if (fault.error == MIXED) {
        if (!may_be_interrupted(call))
            return 0;
        uint64_t number = next_random();
        if ((number >> 8) % 1000 >= (uint64_t)fault.step)
            return 0;
        __sync_add_and_fetch(&fault.hits, 1);
        int sleeps = call == CALL_epoll_wait || call == CALL_epoll_pwait2;
        switch ((number >> 40) % 3) {
        case 0:
            return EINTR;
        case 1:
            return sleeps ? EINTR : EAGAIN;
        default:
            return SHORT;
        }
    }
    if (!fault.chosen[call])
        return 0;
    long count = __sync_add_and_fetch(&fault.count, 1);
    if (count < fault.first || fault.hits >= fault.limit)
        return 0;
    if (count != fault.first && (!fault.step || (count - fault.first) % fault.step))
        return 0;
    __sync_add_and_fetch(&fault.hits, 1);
    return fault.error;
}

#define REAL(result, name, ...)                                                                   \
    static result (*real)(__VA_ARGS__);                                                           \
    if (!real)                                                                                    \
        *(void **)&real = dlsym(RTLD_NEXT, #name)

#define INJECT(call, fd)                                                                          \
    int what = injected(CALL_##call, fd, __builtin_return_address(0));                            \
    if (what > 0) {                                                                               \
        errno = what;                                                                             \
        return -1;                                                                                \
    }

static size_t fewer(int what, size_t length)
{
    return what == SHORT && length > 1 ? (length > 21 ? length / 3 : 1) : length;
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
    REAL(ssize_t, recv, int, void *, size_t, int);
    INJECT(recv, fd)
    return real(fd, buffer, fewer(what, length), flags);
}

ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *from,
                 socklen_t *size)
{
    REAL(ssize_t, recvfrom, int, void *, size_t, int, struct sockaddr *, socklen_t *);
    INJECT(recvfrom, fd)
    return real(fd, buffer, length, flags, from, size);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REAL(ssize_t, recvmsg, int, struct msghdr *, int);
    INJECT(recvmsg, fd)
    return real(fd, message, flags);
}

/* A datagram is sent whole. */
static int is_stream(int fd)
{
    REAL(int, getsockopt, int, int, int, void *, socklen_t *);
    int type = SOCK_STREAM;
    socklen_t size = sizeof type;
    real(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    return type == SOCK_STREAM;
}

ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
    REAL(ssize_t, send, int, const void *, size_t, int);
    INJECT(send, fd)
    if (what == SHORT && !is_stream(fd))
        what = 0;
    return real(fd, buffer, fewer(what, length), flags);
}

ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *to,
               socklen_t size)
{
    REAL(ssize_t, sendto, int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    INJECT(sendto, fd)
    return real(fd, buffer, length, flags, to, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    INJECT(sendmsg, fd)
    if (what == SHORT && message->msg_iovlen && is_stream(fd)) {
        struct iovec first = message->msg_iov[0];
        struct msghdr part = *message;
        first.iov_len = fewer(what, first.iov_len);
        part.msg_iov = &first;
        part.msg_iovlen = 1;
        return real(fd, &part, flags);
    }
    return real(fd, message, flags);
}

ssize_t read(int fd, void *buffer, size_t length)
{
    REAL(ssize_t, read, int, void *, size_t);
    INJECT(read, fd)
    return real(fd, buffer, fewer(what, length));
}

ssize_t write(int fd, const void *buffer, size_t length)
{
    REAL(ssize_t, write, int, const void *, size_t);
    INJECT(write, fd)
    return real(fd, buffer, fewer(what, length));
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    INJECT(writev, fd)
    if (what == SHORT && count > 0) {
        struct iovec first = pieces[0];
        first.iov_len = fewer(what, first.iov_len);
        return real(fd, &first, 1);
    }
    return real(fd, pieces, count);
}

int accept(int fd, struct sockaddr *address, socklen_t *size)
{
    REAL(int, accept, int, struct sockaddr *, socklen_t *);
    INJECT(accept, fd)
    return real(fd, address, size);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    REAL(int, accept4, int, struct sockaddr *, socklen_t *, int);
    INJECT(accept4, fd)
    return real(fd, address, size, flags);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    REAL(int, connect, int, const struct sockaddr *, socklen_t);
    INJECT(connect, fd)
    return real(fd, address, size);
}

int socket(int family, int type, int protocol)
{
    REAL(int, socket, int, int, int);
    INJECT(socket, -1)
    return real(family, type, protocol);
}

int socketpair(int family, int type, int protocol, int pair[2])
{
    REAL(int, socketpair, int, int, int, int *);
    INJECT(socketpair, -1)
    return real(family, type, protocol, pair);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    REAL(int, getsockopt, int, int, int, void *, socklen_t *);
    INJECT(getsockopt, fd)
    return real(fd, level, name, value, size);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    REAL(int, setsockopt, int, int, int, const void *, socklen_t);
    INJECT(setsockopt, fd)
    return real(fd, level, name, value, size);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    REAL(int, getsockname, int, struct sockaddr *, socklen_t *);
    INJECT(getsockname, fd)
    return real(fd, address, size);
}

int getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    REAL(int, getpeername, int, struct sockaddr *, socklen_t *);
    INJECT(getpeername, fd)
    return real(fd, address, size);
}

int shutdown(int fd, int how)
{
    REAL(int, shutdown, int, int);
    INJECT(shutdown, fd)
    return real(fd, how);
}

/* Linux closes the descriptor whatever close() returns. */
int close(int fd)
{
    REAL(int, close, int);
    int what = injected(CALL_close, fd, __builtin_return_address(0));
    if (fd >= 0 && fd < DESCRIPTORS)
        spared[fd] = 0;
    int result = real(fd);
    if (what > 0) {
        errno = what;
        return -1;
    }
    return result;
}

int epoll_create1(int flags)
{
    REAL(int, epoll_create1, int);
    INJECT(epoll_create1, -1)
    return real(flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    REAL(int, epoll_ctl, int, int, int, struct epoll_event *);
    enum call call = operation == EPOLL_CTL_ADD   ? CALL_epoll_add
                     : operation == EPOLL_CTL_MOD ? CALL_epoll_mod
                                                  : CALL_epoll_del;
    int what = injected(call, -1, __builtin_return_address(0));
    if (what > 0) {
        /* A registration that cannot be removed, or is not found, no longer exists. */
        if (operation == EPOLL_CTL_DEL || (operation == EPOLL_CTL_MOD && what == ENOENT))
            real(epoll, EPOLL_CTL_DEL, fd, event);
        errno = what;
        return -1;
    }
    return real(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    REAL(int, epoll_wait, int, struct epoll_event *, int, int);
    INJECT(epoll_wait, -1)
    return real(epoll, events, what == SHORT ? 1 : most, timeout);
}

int eventfd(unsigned value, int flags)
{
    REAL(int, eventfd, unsigned, int);
    INJECT(eventfd, -1)
    int fd = real(value, flags);
    shim_spare(fd); /* reading and writing an eventfd cannot fail */
    return fd;
}

int pipe2(int ends[2], int flags)
{
    REAL(int, pipe2, int *, int);
    INJECT(pipe2, -1)
    return real(ends, flags);
}

int dup3(int from, int to, int flags)
{
    REAL(int, dup3, int, int, int);
    INJECT(dup3, -1)
    return real(from, to, flags);
}

static int injected_fcntl(void *from, int fd, int command, void *argument)
{
    REAL(int, fcntl64, int, int, ...);
    int what = injected(CALL_fcntl, fd, from);
    if (what > 0) {
        errno = what;
        return -1;
    }
    return real(fd, command, argument);
}

#define FCNTL(name)                                                                               \
    int name(int fd, int command, ...)                                                            \
    {                                                                                             \
        va_list list;                                                                             \
        va_start(list, command);                                                                  \
        void *argument = va_arg(list, void *);                                                    \
        va_end(list);                                                                             \
        return injected_fcntl(__builtin_return_address(0), fd, command, argument);                \
    }
FCNTL(fcntl)
int fcntl64(int fd, int command, ...);
FCNTL(fcntl64)

int ioctl(int fd, unsigned long request, ...)
{
    REAL(int, ioctl, int, unsigned long, ...);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    INJECT(ioctl, fd)
    return real(fd, request, argument);
}

int fstat(int fd, struct stat *status)
{
    REAL(int, fstat, int, struct stat *);
    INJECT(fstat, fd)
    return real(fd, status);
}

int fstat64(int fd, struct stat64 *status)
{
    REAL(int, fstat64, int, struct stat64 *);
    INJECT(fstat, fd)
    return real(fd, status);
}

int poll(struct pollfd *descriptors, nfds_t count, int timeout)
{
    REAL(int, poll, struct pollfd *, nfds_t, int);
    INJECT(poll, -1)
    return real(descriptors, count, timeout);
}

int ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout,
          const sigset_t *mask)
{
    REAL(int, ppoll, struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
    INJECT(ppoll, -1)
    return real(descriptors, count, timeout, mask);
}

int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
    REAL(int, waitid, idtype_t, id_t, siginfo_t *, int);
    INJECT(waitid, -1)
    return real(type, id, info, options);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    REAL(pid_t, waitpid, pid_t, int *, int);
    INJECT(waitpid, -1)
    return real(pid, status, options);
}

#define SENDFILE(name, offset_type)                                                               \
    ssize_t name(int to, int from, offset_type *offset, size_t count)                             \
    {                                                                                             \
        REAL(ssize_t, name, int, int, offset_type *, size_t);                                     \
        INJECT(sendfile, to)                                                                      \
        return real(to, from, offset, fewer(what, count));                                        \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    REAL(int, getaddrinfo, const char *, const char *, const struct addrinfo *,
         struct addrinfo **);
    int what = injected(CALL_getaddrinfo, -1, __builtin_return_address(0));
    if (what > 0) {
        errno = what;
        return what == ENOMEM ? EAI_MEMORY : what == EAGAIN ? EAI_AGAIN : EAI_SYSTEM;
    }
    return real(host, service, hints, found);
}

/* Returns its error and leaves errno unchanged. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument)
{
    REAL(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int what = injected(CALL_pthread_create, -1, __builtin_return_address(0));
    return what > 0 ? what : real(thread, attributes, start, argument);
}

long syscall(long number, ...)
{
    REAL(long, syscall, long, ...);
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_epoll_pwait2) {
        INJECT(epoll_pwait2, -1)
        if (what == SHORT)
            a[2] = 1;
    } else if (number == SYS_pidfd_open) {
        INJECT(pidfd_open, -1)
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
