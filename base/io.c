/* SPDX-License-Identifier: Apache-2.0 */
#include "base/io.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

int io_read_full(int fd, void *buf, size_t length)
{
    uint8_t *p = buf;

    while (length > 0) {
        ssize_t n = read(fd, p, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        p += n;
        length -= (size_t)n;
    }
    return 0;
}

int io_pread_full(int fd, void *buf, size_t length, uint64_t offset)
{
    uint8_t *p = buf;

    while (length > 0) {
        ssize_t n = pread(fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        p += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int io_write_full(int fd, const void *buf, size_t length)
{
    const uint8_t *p = buf;

    while (length > 0) {
        ssize_t n = write(fd, p, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        length -= (size_t)n;
    }
    return 0;
}

int io_pwrite_full(int fd, const void *buf, size_t length, uint64_t offset)
{
    const uint8_t *p = buf;

    while (length > 0) {
        ssize_t n = pwrite(fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int io_read_file(int dirfd, const char *path, size_t max, char **buf_out, size_t *length_out)
{
    _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;

    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if ((uint64_t)st.st_size > max)
        return -EFBIG;

    size_t length = (size_t)st.st_size;
    _cleanup_free_ char *buf = malloc(length + 1);
    if (buf == NULL)
        return -ENOMEM;
    int r = io_pread_full(fd, buf, length, 0);
    if (r < 0)
        return r;
    buf[length] = '\0';
    *buf_out = steal_pointer(buf);
    *length_out = length;
    return 0;
}

int io_sync_dir(int dirfd)
{
    return fsync(dirfd) < 0 ? -errno : 0;
}

/* Writes and syncs the temporary file; the caller renames or unlinks it. */
static int write_durable(int dirfd, const char *path, const void *buf, size_t length, mode_t mode)
{
    _cleanup_close_ int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return -errno;
    int r = io_write_full(fd, buf, length);
    if (r < 0)
        return r;
    return fsync(fd) < 0 ? -errno : 0;
}

static int sync_parent(int dirfd, const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir =
        slash == NULL ? io_format(".") : io_format("%.*s", (int)(slash - path + 1), path);
    _cleanup_close_ int fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return io_sync_dir(fd);
}

int io_write_file(int dirfd, const char *path, const void *buf, size_t length, mode_t mode)
{
    _cleanup_free_ char *tmp = io_format("%s.tmp%d", path, (int)getpid());
    int r = write_durable(dirfd, tmp, buf, length, mode);
    if (r == 0 && renameat(dirfd, tmp, dirfd, path) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dirfd, tmp, 0);
        return r;
    }
    return sync_parent(dirfd, path);
}

/* A directory that exists is as good as a new one; another file is not. */
static int make_dir(const char *path, mode_t mode)
{
    struct stat st;

    if (mkdir(path, mode) == 0) {
        int r = sync_parent(AT_FDCWD, path);

        /* Where one may enter and not look, there is nothing to open. */
        return r == -EACCES ? 0 : r;
    }
    if (errno != EEXIST)
        return -errno;
    if (stat(path, &st) < 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int io_make_dirs(const char *path, mode_t mode)
{
    _cleanup_free_ char *copy = io_format("%s", path);
    size_t length = strlen(copy);

    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    for (char *p = copy; *p != '\0'; p++) {
        if (*p != '/' || p == copy)
            continue;
        *p = '\0';
        int r = make_dir(copy, mode);
        if (r < 0)
            return r;
        *p = '/';
    }
    return make_dir(copy, mode);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path) < 0 && errno != ENOENT ? -errno : 0;
}

int io_remove_tree(const char *path)
{
    enum { OPEN_DIRS_MAX = 16 };

    int r = nftw(path, remove_entry, OPEN_DIRS_MAX, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (r == -1)
        return errno == ENOENT ? 0 : -errno;
    return r;
}

char *io_format(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;

    va_start(args, fmt);
    int r = vasprintf(&text, fmt, args);
    va_end(args);
    if (r < 0)
        abort();
    return text;
}
