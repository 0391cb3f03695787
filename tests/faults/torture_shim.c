/* Preloaded into a node: makes the disk fail while a file of the fault's name is in the folder ZMQBROKER_FAULTS.

   fsync: fsync and fdatasync fail with EIO. short-write: a vectored write takes half of its first buffer only. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_set(const char *fault)
{
    char path[4096];
    const char *folder = getenv("ZMQBROKER_FAULTS");
    int saved = errno, found;
    if (folder == NULL)
        return 0;
    snprintf(path, sizeof path, "%s/%s", folder, fault);
    found = access(path, F_OK) == 0;
    errno = saved;
    return found;
}

#define SYNC(name)                                              \
    int name(int fd)                                            \
    {                                                           \
        static int (*real)(int);                                \
        if (real == NULL)                                       \
            real = (int (*)(int))dlsym(RTLD_NEXT, #name);       \
        if (is_set("fsync")) {                                  \
            errno = EIO;                                        \
            return -1;                                          \
        }                                                       \
        return real(fd);                                        \
    }

SYNC(fsync)
SYNC(fdatasync)

typedef ssize_t (*writer)(int, const struct iovec *, int, off64_t, int);
typedef ssize_t (*plain_writer)(int, const struct iovec *, int, off64_t);

static struct iovec half(const struct iovec *buffers)
{
    struct iovec first = buffers[0];
    first.iov_len = first.iov_len > 1 ? first.iov_len / 2 : first.iov_len;
    return first;
}

#define WRITE(name)                                                                             \
    ssize_t name(int fd, const struct iovec *buffers, int count, off64_t at, int flags)         \
    {                                                                                           \
        static writer real;                                                                     \
        struct iovec first;                                                                     \
        if (real == NULL)                                                                       \
            real = (writer)dlsym(RTLD_NEXT, #name);                                             \
        if (count == 0 || !is_set("short-write"))                                               \
            return real(fd, buffers, count, at, flags);                                         \
        first = half(buffers);                                                                  \
        return real(fd, &first, 1, at, flags);                                                  \
    }

#define PLAIN_WRITE(name)                                                                       \
    ssize_t name(int fd, const struct iovec *buffers, int count, off64_t at)                    \
    {                                                                                           \
        static plain_writer real;                                                               \
        struct iovec first;                                                                     \
        if (real == NULL)                                                                       \
            real = (plain_writer)dlsym(RTLD_NEXT, #name);                                       \
        if (count == 0 || !is_set("short-write"))                                               \
            return real(fd, buffers, count, at);                                                \
        first = half(buffers);                                                                  \
        return real(fd, &first, 1, at);                                                         \
    }

WRITE(pwritev2)
WRITE(pwritev64v2)
PLAIN_WRITE(pwritev)
PLAIN_WRITE(pwritev64)
