/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/process/console.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sys/stat.h>

enum {
    PENDING_MAX = 64 << 10, /* past this the printing vCPU writes for itself */
    PUNCH_STEP = 16u << 20, /* of the log, at a time */
};

struct console {
    int fd;
    void (*wake)(void *context);
    void *context;
    pthread_mutex_t lock;
    struct buffer pending; /* under lock */
    uint64_t length;       /* of the file; under lock */
    uint64_t punched;      /* under lock */
};

/* Where the part begins that an earlier process of this machine left. */
static uint64_t kept_from(int fd)
{
    off_t at = lseek(fd, 0, SEEK_DATA);

    return at > 0 ? align_down((uint64_t)at, PUNCH_STEP) : 0;
}

int console_open(const char *machine_dir, void (*wake)(void *context), void *context,
                 struct console **out, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/console.log", machine_dir);
    struct stat st;

    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int errnum = errno;
        cleanup_closep(&fd);
        return error_errno(err, errnum, "cannot open %s", path);
    }
    struct console *console = calloc(1, sizeof(*console));
    if (console == NULL) {
        close(fd);
        return error_errno(err, ENOMEM, "cannot open the console");
    }
    console->fd = fd;
    console->wake = wake;
    console->context = context;
    console->length = (uint64_t)st.st_size;
    console->punched = kept_from(fd);
    pthread_mutex_init(&console->lock, NULL);
    *out = console;
    return 0;
}

/* A full disk loses console output and nothing else. */
static void write_pending(struct console *console)
{
    int r = io_pwrite_full(console->fd, console->pending.data, console->pending.length,
                           console->length);
    if (r == 0)
        console->length += console->pending.length;
    console->pending.length = 0;
    uint64_t old = console->length > CONSOLE_KEEP_BYTES ? console->length - CONSOLE_KEEP_BYTES : 0;
    if (old >= console->punched + PUNCH_STEP &&
        fallocate(console->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  (off_t)align_down(old, PUNCH_STEP)) == 0)
        console->punched = align_down(old, PUNCH_STEP);
}

void console_output(struct console *console, const uint8_t *bytes, size_t length)
{
    pthread_mutex_lock(&console->lock);
    bool first = console->pending.length == 0;
    if (buffer_append(&console->pending, bytes, length) < 0 ||
        console->pending.length >= PENDING_MAX)
        write_pending(console);
    pthread_mutex_unlock(&console->lock);
    if (first)
        console->wake(console->context);
}

void console_flush(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    if (console->pending.length > 0)
        write_pending(console);
    pthread_mutex_unlock(&console->lock);
}

uint64_t console_length(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    uint64_t length = console->length;
    pthread_mutex_unlock(&console->lock);
    return length;
}

ssize_t console_read(struct console *console, uint64_t *offset, void *buf, size_t length)
{
    pthread_mutex_lock(&console->lock);
    uint64_t from = max_u64(*offset, console->punched);
    pthread_mutex_unlock(&console->lock);
    ssize_t n = pread(console->fd, buf, length, (off_t)from);
    if (n < 0)
        return -errno;
    *offset = from + (uint64_t)n;
    return n;
}

void console_close(struct console *console)
{
    if (console == NULL)
        return;
    console_flush(console);
    close(console->fd);
    buffer_clear(&console->pending);
    pthread_mutex_destroy(&console->lock);
    free(console);
}
