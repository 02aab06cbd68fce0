/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/messages.h"
#include "agent/tree.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

enum { TEMPORARY_SIZE = 32, ATTEMPTS = 16 };

/* A directory that is being filled. */
struct open_directory {
    int fd;
    bool ours; /* made by us: mode and time are set when it is full */
    mode_t mode;
    struct timespec mtime;
};

struct receiver {
    struct channel *ch;
    const struct tree_options *options;
    const char *path;
    struct error *err;
    struct open_directory *stack; /* [0]: where the first entry goes */
    unsigned depth;               /* used ones */
    char first[NAME_MAX + 1];     /* the first entry's name, if the path tells it */
    bool named;
    char *asked;  /* what the first entry must be called, or NULL */
    bool started; /* the first entry has come */
    /* the file that is being written */
    int file; /* -1: none */
    char temporary[TEMPORARY_SIZE];
    char name[NAME_MAX + 1];
    mode_t mode;
    struct timespec mtime;
    uint64_t written_end;
    uint64_t size_bytes; /* as announced: no more is taken */
    uint64_t done_bytes;
    uint64_t total_bytes;
};

static int top(const struct receiver *rx)
{
    return rx->stack[rx->depth - 1].fd;
}

static int protocol_error(struct receiver *rx)
{
    return tree_channel_error(-EBADMSG, rx->err);
}

/* A name that nobody has: what is not whole must not be taken for what it is to be. */
static void temporary_name(char out[TEMPORARY_SIZE])
{
    uint32_t random[2] = {0};

    (void)!getrandom(random, sizeof(random), GRND_NONBLOCK);
    snprintf(out, TEMPORARY_SIZE, ".stasis-%08x%08x", random[0], random[1]);
}

/* ---- where the first entry goes ---- */

static int push(struct receiver *rx, int fd, const struct open_directory *what)
{
    if (rx->depth >= TREE_DEPTH_MAX) {
        close(fd);
        return error_set(rx->err, STATUS_FAILED, ELOOP, "directories are more than %u deep",
                         TREE_DEPTH_MAX);
    }
    rx->stack[rx->depth] = *what;
    rx->stack[rx->depth++].fd = fd;
    return 0;
}

/* Splits the path of what is to be made; its directory must be there. */
static int open_parent(struct receiver *rx, const char *path)
{
    _cleanup_free_ char *parent = strdup(path);
    if (parent == NULL)
        return error_errno(rx->err, ENOMEM, "cannot copy");
    char *slash = strrchr(parent, '/');
    const char *base = slash != NULL ? slash + 1 : parent;
    if (strlen(base) > NAME_MAX)
        return error_errno(rx->err, ENAMETOOLONG, "cannot write %s", path);
    if (base[0] == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return error_errno(rx->err, ENOENT, "cannot write to %s", path);
    snprintf(rx->first, sizeof(rx->first), "%s", base);
    rx->named = true;
    if (slash != NULL)
        slash[slash == parent] = '\0'; /* "/x": its parent is "/" */
    int fd = open(slash != NULL ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(rx->err, errno, "cannot write %s", path);
    return push(rx, fd, &(struct open_directory){0});
}

/* The path is what our own side's user gave: links in it are followed. */
static int find_destination(struct receiver *rx)
{
    struct stat st;

    if (stat(rx->path, &st) < 0)
        return errno == ENOENT ? open_parent(rx, rx->path)
                               : error_errno(rx->err, errno, "cannot write %s", rx->path);
    if (S_ISDIR(st.st_mode)) {
        int fd = open(rx->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return error_errno(rx->err, errno, "cannot write to %s", rx->path);
        return push(rx, fd, &(struct open_directory){0});
    }
    if (!S_ISREG(st.st_mode))
        return error_set(rx->err, STATUS_FAILED, EINVAL, "%s is neither a file nor a directory",
                         rx->path);
    _cleanup_free_ char *real = realpath(rx->path, NULL);
    if (real == NULL)
        return error_errno(rx->err, errno, "cannot write %s", rx->path);
    return open_parent(rx, real);
}

/* ---- directories ---- */

static int enter_directory(struct receiver *rx, const struct agent_entry *entry, const char *name)
{
    const bool ours = mkdirat(top(rx), name, 0700) == 0;
    if (!ours && errno != EEXIST)
        return error_errno(rx->err, errno, "cannot make the directory %s", name);
    int fd = openat(top(rx), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return error_errno(rx->err, errno, "cannot write to the directory %s", name);
    const struct open_directory dir = {
        .ours = ours,
        .mode = (mode_t)entry->mode & rx->options->mode_mask,
        .mtime = {.tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns},
    };
    return push(rx, fd, &dir);
}

/* Content without a name: the destination is the directory, made if need be. */
static int enter_content(struct receiver *rx, const struct agent_entry *entry)
{
    if (rx->named)
        return enter_directory(rx, entry, rx->first);
    int fd = fcntl(top(rx), F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(rx->err, errno, "cannot write to %s", rx->path);
    return push(rx, fd, &(struct open_directory){0});
}

static int leave_directory(struct receiver *rx)
{
    if (rx->depth < 2 || rx->file >= 0)
        return protocol_error(rx);
    struct open_directory dir = rx->stack[--rx->depth];
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, dir.mtime};
    int r = 0;

    if (dir.ours && (fchmod(dir.fd, dir.mode) < 0 || futimens(dir.fd, times) < 0))
        r = error_errno(rx->err, errno, "cannot finish a directory");
    close(dir.fd);
    return r;
}

/* ---- files ---- */

static int begin_file(struct receiver *rx, const struct agent_entry *entry, const char *name)
{
    snprintf(rx->name, sizeof(rx->name), "%s", name);
    for (int i = 0; i < ATTEMPTS && rx->file < 0; i++) {
        temporary_name(rx->temporary);
        rx->file = openat(top(rx), rx->temporary,
                          O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (rx->file < 0 && errno != EEXIST)
            break;
    }
    if (rx->file < 0)
        return error_errno(rx->err, errno, "cannot write %s", name);
    rx->mode = (mode_t)entry->mode & rx->options->mode_mask;
    rx->mtime = (struct timespec){.tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns};
    rx->written_end = 0;
    rx->size_bytes = entry->size_bytes;
    if (rx->depth == 1)
        rx->total_bytes = entry->size_bytes;
    return 0;
}

static int write_data(struct receiver *rx, const struct frame *frame)
{
    struct agent_data data;

    if (rx->file < 0 || agent_data_decode(frame, &data) < 0 || data.offset < rx->written_end ||
        !range_fits(data.offset, data.length, rx->size_bytes))
        return protocol_error(rx);
    int r = io_pwrite_full(rx->file, data.bytes, data.length, data.offset);
    if (r < 0)
        return error_errno(rx->err, -r, "cannot write %s", rx->name);
    rx->written_end = data.offset + data.length;
    rx->done_bytes += data.length;
    if (rx->options->progress != NULL &&
        rx->options->progress(rx->done_bytes, rx->total_bytes, rx->options->context) != 0)
        return tree_channel_error(-EINTR, rx->err);
    return 0;
}

/* What is replaced keeps its owner; the mode comes after that, which clears bits. */
static int finish_file(struct receiver *rx, const struct frame *frame)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, rx->mtime};
    struct stat old;
    uint64_t size;

    if (rx->file < 0 || agent_u64_decode(frame, &size) < 0 || size < rx->written_end ||
        size > rx->size_bytes)
        return protocol_error(rx);
    if (fstatat(top(rx), rx->name, &old, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(old.st_mode))
        (void)!fchown(rx->file, old.st_uid, old.st_gid);
    if (ftruncate(rx->file, (off_t)size) < 0 || fchmod(rx->file, rx->mode) < 0 ||
        futimens(rx->file, times) < 0 || renameat(top(rx), rx->temporary, top(rx), rx->name) < 0)
        return error_errno(rx->err, errno, "cannot write %s", rx->name);
    close(steal_fd(&rx->file));
    return 0;
}

static int make_link(struct receiver *rx, const struct agent_entry *entry, const char *name)
{
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns},
    };
    char temporary[TEMPORARY_SIZE];

    temporary_name(temporary);
    if (symlinkat(entry->target, top(rx), temporary) < 0)
        return error_errno(rx->err, errno, "cannot make the link %s", name);
    utimensat(top(rx), temporary, times, AT_SYMLINK_NOFOLLOW);
    if (renameat(top(rx), temporary, top(rx), name) == 0)
        return 0;
    const int errnum = errno;
    unlinkat(top(rx), temporary, 0);
    return error_errno(rx->err, errnum, "cannot make the link %s", name);
}

/* ---- the stream ---- */

static int take_entry(struct receiver *rx, const struct frame *frame)
{
    struct agent_entry entry;
    const bool first = !rx->started;

    if (rx->file >= 0 || agent_entry_decode(frame, first, &entry) < 0 || (!first && rx->depth < 2))
        return protocol_error(rx);
    if (first && rx->asked != NULL && strcmp(entry.name, rx->asked) != 0)
        return error_set(rx->err, STATUS_CORRUPT, EBADMSG, "something else came than %s",
                         rx->options->asked);
    rx->started = true;
    const bool content = first && strcmp(entry.name, ".") == 0;
    if (content && frame->type != AGENT_DIRECTORY)
        return protocol_error(rx);
    if (content)
        return enter_content(rx, &entry);
    const char *name = first && rx->named ? rx->first : entry.name;
    switch (frame->type) {
    case AGENT_FILE:
        return begin_file(rx, &entry, name);
    case AGENT_DIRECTORY:
        return enter_directory(rx, &entry, name);
    default:
        return make_link(rx, &entry, name);
    }
}

static int take_warning(struct receiver *rx, const struct frame *frame)
{
    const char *text;

    if (agent_text_decode(frame, &text) < 0)
        return protocol_error(rx);
    if (rx->options->warn != NULL)
        rx->options->warn(text, rx->options->context);
    return 0;
}

/* 1 at the end. */
static int take_frame(struct receiver *rx, const struct frame *frame)
{
    switch (frame->type) {
    case AGENT_FILE:
    case AGENT_DIRECTORY:
    case AGENT_LINK:
        return take_entry(rx, frame);
    case AGENT_DATA:
        return write_data(rx, frame);
    case AGENT_FILE_END:
        return finish_file(rx, frame);
    case AGENT_DIRECTORY_END:
        return leave_directory(rx);
    case AGENT_WARNING:
        return take_warning(rx, frame);
    case AGENT_ERROR:
        return tree_peer_error(frame, rx->err);
    case AGENT_TREE_END:
        return rx->started && rx->depth == 1 && rx->file < 0 ? 1 : protocol_error(rx);
    default:
        return protocol_error(rx);
    }
}

static int receive_all(struct receiver *rx)
{
    struct frame frame;
    int r;

    do {
        r = channel_receive(rx->ch, &frame);
        r = r < 0 ? tree_channel_error(r, rx->err) : take_frame(rx, &frame);
    } while (r == 0);
    return r < 0 ? r : 0;
}

static void clear(struct receiver *rx)
{
    if (rx->file >= 0) {
        unlinkat(top(rx), rx->temporary, 0);
        close(rx->file);
    }
    while (rx->depth > 0)
        close(rx->stack[--rx->depth].fd);
    free(rx->stack);
    free(rx->asked);
}

int tree_receive(struct channel *ch, const char *path, const struct tree_options *options,
                 struct error *err)
{
    struct receiver rx = {.ch = ch, .options = options, .path = path, .err = err, .file = -1};

    rx.stack = calloc(TREE_DEPTH_MAX, sizeof(*rx.stack));
    if (options->asked != NULL)
        rx.asked = tree_name(options->asked);
    if (rx.stack == NULL || (options->asked != NULL && rx.asked == NULL)) {
        clear(&rx);
        return error_errno(err, ENOMEM, "cannot copy");
    }
    int r = find_destination(&rx);
    if (r >= 0)
        r = receive_all(&rx);
    clear(&rx);
    return r;
}
