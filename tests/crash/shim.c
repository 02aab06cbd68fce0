/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls are made by syscall(2): there is no other definition to look for, and a
 * sanitizer's stays out of it. A lock in shared memory is held over a call and its
 * record, so that the log's order is the order in which things happened.
 */
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LOG_BYTES (UINT64_C(1) << 30) /* of address space; memory comes as it is used */

struct shared {
    pthread_mutex_t lock;
    char root[SHIM_PATH_MAX];
    size_t root_length;
    bool recording;
    bool skip_syncs;
    struct shim_fault fault;
    uint64_t counted;
    uint64_t failed;
    char failed_call[2 * SHIM_PATH_MAX];
    size_t used;
    _Alignas(8) uint8_t log[];
};

static struct shared *shared;

/* ---- the calls as they are ---- */

static long real_open(int dirfd, const char *path, int flags, mode_t mode)
{
    return syscall(SYS_openat, dirfd, path, flags, mode);
}

/* ---- settings ---- */

static void lock(void)
{
    /* Its holder was killed: what it guards is only ever appended to. */
    if (pthread_mutex_lock(&shared->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&shared->lock);
}

static void unlock(void)
{
    pthread_mutex_unlock(&shared->lock);
}

static void map_shared(void)
{
    pthread_mutexattr_t attributes;
    void *p = mmap(NULL, sizeof(struct shared) + LOG_BYTES, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        abort();
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    shared = p;
    pthread_mutex_init(&shared->lock, &attributes);
}

void shim_root(const char *root)
{
    if (shared == NULL)
        map_shared();
    lock();
    if (shared->used > 0) /* gives the memory back */
        madvise((uint8_t *)shared + 4096 * (1 + sizeof(struct shared) / 4096), LOG_BYTES - 4096,
                MADV_REMOVE);
    snprintf(shared->root, sizeof(shared->root), "%s", root);
    shared->root_length = strlen(shared->root);
    shared->used = 0;
    shared->recording = false;
    shared->skip_syncs = false;
    shared->fault = (struct shim_fault){0};
    unlock();
}

void shim_record(bool on)
{
    lock();
    shared->recording = on;
    unlock();
}

void shim_skip_syncs(bool on)
{
    shared->skip_syncs = on;
}

const uint8_t *shim_log(size_t *bytes_out)
{
    *bytes_out = shared->used;
    return shared->log;
}

void shim_fail(const struct shim_fault *fault)
{
    lock();
    shared->fault = *fault;
    shared->counted = 0;
    shared->failed = 0;
    shared->failed_call[0] = '\0';
    unlock();
}

uint64_t shim_counted(void)
{
    return shared->counted;
}

uint64_t shim_failed(void)
{
    return shared->failed;
}

const char *shim_failed_call(void)
{
    return shared->failed_call;
}

/* ---- where a call goes ---- */

static bool active(void)
{
    return shared != NULL && (shared->recording || shared->skip_syncs || shared->fault.classes);
}

/* The path below the root of an absolute one; false if it is elsewhere. */
static bool below_root(const char *path, char out[SHIM_PATH_MAX])
{
    static const char deleted[] = " (deleted)";
    size_t n = strlen(path), d = sizeof(deleted) - 1;

    if (shared->root_length == 0 || strncmp(path, shared->root, shared->root_length) != 0)
        return false;
    path += shared->root_length;
    if (*path != '/' && *path != '\0')
        return false;
    while (*path == '/')
        path++;
    snprintf(out, SHIM_PATH_MAX, "%s", path);
    n = strlen(out);
    if (n > d && strcmp(out + n - d, deleted) == 0)
        out[n - d] = '\0';
    n = strlen(out);
    if (n > 2 && strcmp(out + n - 2, "/.") == 0)
        out[n - 2] = '\0';
    return true;
}

static bool locate_fd(int fd, char out[SHIM_PATH_MAX])
{
    char link[32], path[PATH_MAX];
    int saved = errno;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof(path) - 1);
    errno = saved;
    if (n < 0)
        return false;
    path[n] = '\0';
    return below_root(path, out);
}

static bool locate(int dirfd, const char *path, char out[SHIM_PATH_MAX])
{
    char dir[SHIM_PATH_MAX], whole[SHIM_PATH_MAX * 2 + 2];

    if (path[0] == '/')
        return below_root(path, out);
    if (dirfd == AT_FDCWD || !locate_fd(dirfd, dir))
        return false;
    snprintf(whole, sizeof(whole), "%s/%s/%s", shared->root, dir, path);
    return below_root(whole, out);
}

static uint64_t file_of_fd(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static bool exists(int dirfd, const char *path, struct stat *st)
{
    int saved = errno;
    bool there = fstatat(dirfd, path, st, AT_SYMLINK_NOFOLLOW) == 0;

    errno = saved;
    return there;
}

/* ---- log ---- */

static struct shim_record *append(enum shim_kind kind, uint64_t file, const char *path,
                                  size_t length)
{
    size_t bytes = (sizeof(struct shim_record) + length + 7) / 8 * 8;
    struct shim_record *record = (struct shim_record *)(shared->log + shared->used);

    if (bytes > LOG_BYTES - shared->used)
        abort();
    *record = (struct shim_record){.bytes = (uint32_t)bytes,
                                   .kind = kind,
                                   .thread = (int32_t)syscall(SYS_gettid),
                                   .length = (uint32_t)length,
                                   .file = file};
    snprintf(record->path, sizeof(record->path), "%s", path);
    shared->used += bytes;
    return record;
}

static void note(enum shim_kind kind, uint64_t file, const char *path)
{
    if (shared->recording)
        append(kind, file, path, 0);
}

static void note_write(int fd, const char *path, const void *data, size_t length, uint64_t offset)
{
    struct shim_record *record;

    if (!shared->recording)
        return;
    record = append(SHIM_WRITE, file_of_fd(fd), path, length);
    record->offset = offset;
    memcpy(record->data, data, length);
}

static void note_size(int fd, const char *path, uint64_t size)
{
    if (shared->recording)
        append(SHIM_TRUNCATE, file_of_fd(fd), path, 0)->offset = size;
}

void shim_mark(uint64_t value, const char *text)
{
    lock();
    if (shared->recording) {
        struct shim_record *record = append(SHIM_MARK, 0, "", strlen(text) + 1);

        record->offset = value;
        memcpy(record->data, text, strlen(text) + 1);
    }
    unlock();
}

/* ---- faults ---- */

/* Is this call one that must fail? */
static bool chosen(unsigned class, const char *call, const char *path)
{
    const struct shim_fault *f = &shared->fault;

    if ((f->classes & class) == 0)
        return false;
    shared->counted++;
    if (f->at == 0 || shared->counted < f->at || shared->counted - f->at >= f->times)
        return false;
    shared->failed++;
    snprintf(shared->failed_call, sizeof(shared->failed_call), "%s %s", call, path);
    return true;
}

/* The same for calls that can only fail. */
static bool fails(unsigned class, const char *call, const char *path)
{
    if (!chosen(class, call, path) || shared->fault.errnum == 0)
        return false;
    errno = shared->fault.errnum;
    return true;
}

/* And for calls that no signal interrupts. */
static bool fails_at_once(unsigned class, const char *call, const char *path)
{
    return fails(class, call, path) && errno != EINTR;
}

/* ---- opening ---- */

static int open_below(int dirfd, const char *path, int flags, mode_t mode, const char *rel)
{
    struct stat st;
    bool there = exists(dirfd, path, &st);
    bool makes = (flags & O_CREAT) != 0 && !there;
    long fd;

    if (fails(makes ? SHIM_SPACE : SHIM_READ, "open", rel))
        return -1;
    fd = real_open(dirfd, path, flags, mode);
    if (fd >= 0 && makes)
        note(SHIM_CREATE, file_of_fd((int)fd), rel);
    else if (fd >= 0 && (flags & O_TRUNC) != 0 && st.st_size != 0)
        note_size((int)fd, rel, 0);
    return (int)fd;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode)
{
    char rel[SHIM_PATH_MAX];
    int fd;

    if (!active() || !locate(dirfd, path, rel))
        return (int)real_open(dirfd, path, flags, mode);
    lock();
    fd = open_below(dirfd, path, flags, mode, rel);
    unlock();
    return fd;
}

static mode_t mode_argument(int flags, va_list arguments)
{
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

#define OPEN_FUNCTION(name, dirfd, ...)                                                            \
    int name(__VA_ARGS__, int flags, ...);                                                         \
    int name(__VA_ARGS__, int flags, ...)                                                          \
    {                                                                                              \
        va_list arguments;                                                                         \
        mode_t mode;                                                                               \
                                                                                                   \
        va_start(arguments, flags);                                                                \
        mode = mode_argument(flags, arguments);                                                    \
        va_end(arguments);                                                                         \
        return open_at(dirfd, path, flags, mode);                                                  \
    }

#undef open
#undef open64
#undef openat
#undef openat64
OPEN_FUNCTION(open, AT_FDCWD, const char *path)
OPEN_FUNCTION(open64, AT_FDCWD, const char *path)
OPEN_FUNCTION(openat, at, int at, const char *path)
OPEN_FUNCTION(openat64, at, int at, const char *path)

/* ---- reading ---- */

static bool read_fails(int fd)
{
    char rel[SHIM_PATH_MAX];
    bool failing;

    if (!active() || (shared->fault.classes & SHIM_READ) == 0 || !locate_fd(fd, rel))
        return false;
    lock();
    failing = fails(SHIM_READ, "read", rel);
    unlock();
    return failing;
}

ssize_t read(int fd, void *buf, size_t length)
{
    return read_fails(fd) ? -1 : syscall(SYS_read, fd, buf, length);
}

#undef pread
#undef pread64
ssize_t pread(int fd, void *buf, size_t length, off_t offset)
{
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, buf, length, offset);
}

ssize_t pread64(int fd, void *buf, size_t length, off_t offset);
ssize_t pread64(int fd, void *buf, size_t length, off_t offset)
{
    return pread(fd, buf, length, offset);
}

/* ---- writing ---- */

static ssize_t write_below(int fd, const void *buf, size_t length, off_t offset, const char *rel)
{
    ssize_t n;

    if (chosen(SHIM_SPACE, "write", rel)) {
        if (shared->fault.errnum != 0) {
            errno = shared->fault.errnum;
            return -1;
        }
        length = length > 1 ? length / 2 : length;
    }
    n = syscall(SYS_pwrite64, fd, buf, length, offset);
    if (n > 0)
        note_write(fd, rel, buf, (size_t)n, (uint64_t)offset);
    return n;
}

#undef pwrite
#undef pwrite64
ssize_t pwrite(int fd, const void *buf, size_t length, off_t offset)
{
    char rel[SHIM_PATH_MAX];
    ssize_t n;

    if (!active() || !locate_fd(fd, rel))
        return syscall(SYS_pwrite64, fd, buf, length, offset);
    lock();
    n = write_below(fd, buf, length, offset, rel);
    unlock();
    return n;
}

ssize_t pwrite64(int fd, const void *buf, size_t length, off_t offset);
ssize_t pwrite64(int fd, const void *buf, size_t length, off_t offset)
{
    return pwrite(fd, buf, length, offset);
}

ssize_t write(int fd, const void *buf, size_t length)
{
    char rel[SHIM_PATH_MAX];
    off_t offset;
    ssize_t n;

    if (!active() || !locate_fd(fd, rel))
        return syscall(SYS_write, fd, buf, length);
    lock();
    offset = lseek(fd, 0, SEEK_CUR);
    n = write_below(fd, buf, length, offset, rel);
    if (n > 0)
        lseek(fd, offset + n, SEEK_SET);
    unlock();
    return n;
}

/* Several pieces are one write here: which of their blocks reach the disk is left to
 * the replay in any case. */
static ssize_t write_pieces(int fd, const struct iovec *pieces, int count, off_t offset)
{
    size_t length = 0, done = 0;
    uint8_t *all;
    ssize_t n;

    for (int i = 0; i < count; i++)
        length += pieces[i].iov_len;
    all = malloc(length + 1);
    if (all == NULL)
        abort();
    for (int i = 0; i < count; i++) {
        memcpy(all + done, pieces[i].iov_base, pieces[i].iov_len);
        done += pieces[i].iov_len;
    }
    n = offset < 0 ? write(fd, all, length) : pwrite(fd, all, length, offset);
    free(all);
    return n;
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    return write_pieces(fd, pieces, count, -1);
}

#undef pwritev
#undef pwritev64
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset)
{
    return write_pieces(fd, pieces, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off_t offset);
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off_t offset)
{
    return write_pieces(fd, pieces, count, offset);
}

/* ---- sizes ---- */

static int resize_below(int fd, off_t size, const char *rel)
{
    struct stat st;
    bool grows = fstat(fd, &st) == 0 && size > st.st_size;
    int r;

    if (fails(grows ? SHIM_SPACE : SHIM_SHRINK, "ftruncate", rel))
        return -1;
    r = (int)syscall(SYS_ftruncate, fd, size);
    if (r == 0)
        note_size(fd, rel, (uint64_t)size);
    return r;
}

#undef ftruncate
#undef ftruncate64
int ftruncate(int fd, off_t size)
{
    char rel[SHIM_PATH_MAX];
    int r;

    if (!active() || !locate_fd(fd, rel))
        return (int)syscall(SYS_ftruncate, fd, size);
    lock();
    r = resize_below(fd, size, rel);
    unlock();
    return r;
}

int ftruncate64(int fd, off_t size);
int ftruncate64(int fd, off_t size)
{
    return ftruncate(fd, size);
}

/* Of its modes only growing is known to the replay; others would be a hole in it. */
static int allocate_below(int fd, int mode, off_t offset, off_t length, const char *rel)
{
    struct stat st;
    int r;

    if (fails(SHIM_SPACE, "fallocate", rel))
        return -1;
    if (shared->recording && (mode & ~FALLOC_FL_KEEP_SIZE) != 0)
        abort();
    r = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (r == 0 && mode == 0 && fstat(fd, &st) == 0 && st.st_size == offset + length)
        note_size(fd, rel, (uint64_t)st.st_size);
    return r;
}

#undef fallocate
#undef fallocate64
#undef posix_fallocate
#undef posix_fallocate64
int fallocate(int fd, int mode, off_t offset, off_t length)
{
    char rel[SHIM_PATH_MAX];
    int r;

    if (!active() || !locate_fd(fd, rel))
        return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    lock();
    r = allocate_below(fd, mode, offset, length, rel);
    unlock();
    return r;
}

int fallocate64(int fd, int mode, off_t offset, off_t length);
int fallocate64(int fd, int mode, off_t offset, off_t length)
{
    return fallocate(fd, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    return fallocate(fd, 0, offset, length) < 0 ? errno : 0;
}

int posix_fallocate64(int fd, off_t offset, off_t length);
int posix_fallocate64(int fd, off_t offset, off_t length)
{
    return posix_fallocate(fd, offset, length);
}

/* ---- names ---- */

static int rename_below(int from, const char *old, int to, const char *new, unsigned flags,
                        const char *rel, const char *rel2)
{
    struct stat st = {0};
    int r;

    if (fails_at_once(SHIM_SPACE, "rename", rel))
        return -1;
    exists(from, old, &st);
    r = (int)syscall(SYS_renameat2, from, old, to, new, flags);
    if (r == 0 && shared->recording)
        snprintf(append(SHIM_RENAME, st.st_ino, rel, 0)->path2, SHIM_PATH_MAX, "%s", rel2);
    return r;
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    char rel[SHIM_PATH_MAX], rel2[SHIM_PATH_MAX];
    int r;

    if (!active() || !locate(from, old, rel) || !locate(to, new, rel2))
        return (int)syscall(SYS_renameat2, from, old, to, new, flags);
    lock();
    r = rename_below(from, old, to, new, flags, rel, rel2);
    unlock();
    return r;
}

int renameat(int from, const char *old, int to, const char *new)
{
    return renameat2(from, old, to, new, 0);
}

int rename(const char *old, const char *new)
{
    return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0);
}

static int link_below(int from, const char *old, int to, const char *new, int flags,
                      const char *rel, const char *rel2)
{
    struct stat st = {0};
    int r;

    if (fails_at_once(SHIM_SPACE, "link", rel))
        return -1;
    exists(from, old, &st);
    r = (int)syscall(SYS_linkat, from, old, to, new, flags);
    if (r == 0 && shared->recording)
        snprintf(append(SHIM_LINK, st.st_ino, rel, 0)->path2, SHIM_PATH_MAX, "%s", rel2);
    return r;
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    char rel[SHIM_PATH_MAX], rel2[SHIM_PATH_MAX];
    int r;

    if (!active() || !locate(from, old, rel) || !locate(to, new, rel2))
        return (int)syscall(SYS_linkat, from, old, to, new, flags);
    lock();
    r = link_below(from, old, to, new, flags, rel, rel2);
    unlock();
    return r;
}

int link(const char *old, const char *new)
{
    return linkat(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int unlinkat(int dirfd, const char *path, int flags)
{
    bool dir = (flags & AT_REMOVEDIR) != 0;
    char rel[SHIM_PATH_MAX];
    int r = -1;

    if (!active() || !locate(dirfd, path, rel))
        return (int)syscall(SYS_unlinkat, dirfd, path, flags);
    lock();
    if (!fails(SHIM_SHRINK, dir ? "rmdir" : "unlink", rel)) {
        r = (int)syscall(SYS_unlinkat, dirfd, path, flags);
        if (r == 0)
            note(dir ? SHIM_RMDIR : SHIM_UNLINK, 0, rel);
    }
    unlock();
    return r;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int dirfd, const char *path, mode_t mode)
{
    char rel[SHIM_PATH_MAX];
    int r = -1;

    if (!active() || !locate(dirfd, path, rel))
        return (int)syscall(SYS_mkdirat, dirfd, path, mode);
    lock();
    if (!fails_at_once(SHIM_SPACE, "mkdir", rel)) {
        r = (int)syscall(SYS_mkdirat, dirfd, path, mode);
        if (r == 0)
            note(SHIM_MKDIR, 0, rel);
    }
    unlock();
    return r;
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

/* ---- syncing ---- */

static int sync_fd(int fd, long call)
{
    char rel[SHIM_PATH_MAX];
    struct stat st;
    int r = -1;

    if (!active() || !locate_fd(fd, rel))
        return (int)syscall(call, fd);
    lock();
    if (!fails(SHIM_FLUSH, "fsync", rel)) {
        r = shared->skip_syncs ? 0 : (int)syscall(call, fd);
        if (r == 0 && fstat(fd, &st) == 0)
            note(S_ISDIR(st.st_mode) ? SHIM_SYNC_DIR : SHIM_SYNC, st.st_ino, rel);
    }
    unlock();
    return r;
}

int fsync(int fd)
{
    return sync_fd(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_fd(fd, SYS_fdatasync);
}

/* Starts writing and promises nothing. */
int sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
    if (active() && shared->skip_syncs)
        return 0;
    return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}
