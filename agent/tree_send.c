/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/messages.h"
#include "agent/tree.h"
#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

enum { QUEUE_HIGH = 128 << 10 };

/* Where we are: a list upwards, for messages. */
struct level {
    const struct level *up;
    const char *name;
    unsigned depth;
};

struct sender {
    struct channel *ch;
    const struct tree_options *options;
    struct error *err;
    uint64_t done_bytes;
    uint64_t total_bytes;
};

int tree_channel_error(int r, struct error *err)
{
    switch (r) {
    case -EBADMSG:
        return error_set(err, STATUS_CORRUPT, EBADMSG,
                         "what the other end says is no answer of an agent");
    case -ETIMEDOUT:
        return error_set(err, STATUS_FAILED, ETIMEDOUT, "the other end does not answer");
    case -EINTR:
        return error_set(err, STATUS_INTERRUPTED, EINTR, "interrupted");
    case -EPIPE:
    case -ECONNRESET:
        return error_set(err, STATUS_FAILED, ECONNRESET, "the connection was lost");
    default:
        return error_errno(err, -r, "the connection failed");
    }
}

int tree_peer_error(const struct frame *frame, struct error *err)
{
    struct agent_failure failure;

    if (agent_failure_decode(frame, &failure) < 0)
        return tree_channel_error(-EBADMSG, err);
    const int errnum = failure.errnum > 0 && failure.errnum < 4096 ? (int)failure.errnum : EIO;
    return error_set(err, error_status_of_errno(errnum), errnum, "%s", failure.message);
}

/* "a/b/c", as much of it as fits. */
static void level_path(const struct level *level, const char *name, char *out, size_t size)
{
    if (level != NULL)
        level_path(level->up, level->name, out, size);
    else
        out[0] = '\0';
    const size_t used = strlen(out);
    snprintf(out + used, size - used, "%s%s", used > 0 ? "/" : "", name);
}

static int skip(struct sender *s, const struct level *level, const char *name, const char *why)
{
    char path[512];
    char text[640];

    level_path(level, name, path, sizeof(path));
    snprintf(text, sizeof(text), "%s is left out: %s", path, why);
    if (s->options->warn != NULL)
        s->options->warn(text, s->options->context);
    return 0;
}

/* Has the other end said why it does not go on? */
static int hear(struct sender *s)
{
    struct frame frame;

    int r = channel_fill(s->ch);
    if (r == -EAGAIN)
        return 0;
    if (r > 0 && (r = channel_next(s->ch, &frame)) == 0)
        return 0;
    if (r > 0 && frame.type == AGENT_ERROR)
        return tree_peer_error(&frame, s->err);
    return tree_channel_error(r == 0 ? -ECONNRESET : r > 0 ? -EBADMSG : r, s->err);
}

/* A frame behind the others, which are sent when enough has come together. */
static int put(struct sender *s, enum agent_frame type, const void *head, size_t head_length,
               const void *payload, size_t length)
{
    int r = channel_queue(s->ch, type, head, head_length, payload, length);
    if (r >= 0 && channel_queued(s->ch) < QUEUE_HIGH)
        return 0;
    if (r >= 0)
        r = channel_send_all(s->ch);
    int heard = r >= 0 || r == -EPIPE || r == -ECONNRESET ? hear(s) : 0;
    if (heard < 0)
        return heard;
    return r < 0 ? tree_channel_error(r, s->err) : 0;
}

static int put_entry(struct sender *s, enum agent_frame type, const struct stat *st,
                     const char *name, const char *target)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};

    int r = agent_entry_encode_stat(type, st, name, target, &payload);
    if (r < 0)
        return error_errno(s->err, -r, "cannot send %s", name);
    return put(s, type, NULL, 0, payload.data, payload.length);
}

static int step(struct sender *s, uint64_t more)
{
    s->done_bytes += more;
    if (s->options->progress != NULL &&
        s->options->progress(s->done_bytes, s->total_bytes, s->options->context) != 0)
        return tree_channel_error(-EINTR, s->err);
    return 0;
}

/* ---- a file ---- */

/* [offset, end) of the next stretch that is no hole, inside [0, size). */
static bool next_data(int fd, uint64_t size, uint64_t *offset, uint64_t *end)
{
    off_t data = lseek(fd, (off_t)*offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return false;
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (data >= 0)
        *offset = (uint64_t)data;
    *end = hole < 0 ? size : min_u64((uint64_t)hole, size);
    return *offset < *end;
}

/* A file that shrinks under our hands ends early; what it ends with is told. */
static int put_data(struct sender *s, int fd, uint64_t size, uint64_t *end_out)
{
    uint8_t chunk[AGENT_CHUNK_SIZE];
    uint8_t head[8];
    uint64_t offset = 0, end;

    *end_out = size;
    while (offset < size && next_data(fd, size, &offset, &end)) {
        while (offset < end) {
            ssize_t n = pread(fd, chunk, min_u64(sizeof(chunk), end - offset), (off_t)offset);
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                return error_errno(s->err, errno, "cannot read");
            if (n == 0) {
                *end_out = offset;
                return 0;
            }
            store_le64(head, offset);
            int r = put(s, AGENT_DATA, head, sizeof(head), chunk, (size_t)n);
            if (r < 0 || (r = step(s, (uint64_t)n)) < 0)
                return r;
            offset += (uint64_t)n;
        }
    }
    return 0;
}

static int send_file(struct sender *s, int fd, const struct stat *st, const char *name)
{
    uint8_t end[8];
    uint64_t size;

    int r = put_entry(s, AGENT_FILE, st, name, NULL);
    if (r < 0)
        return r;
    if ((r = put_data(s, fd, (uint64_t)st->st_size, &size)) < 0)
        return r;
    store_le64(end, size);
    return put(s, AGENT_FILE_END, NULL, 0, end, sizeof(end));
}

/* ---- a directory ---- */

static int send_opened(struct sender *s, int fd, const struct level *level, const char *name);

static int send_link(struct sender *s, int dir, const struct stat *st, const struct level *level,
                     const char *name)
{
    char target[PATH_MAX];

    ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
    if (n <= 0)
        return skip(s, level, name, n < 0 ? strerror(errno) : "an empty link");
    target[n] = '\0';
    return put_entry(s, AGENT_LINK, st, name, target);
}

static int send_child(struct sender *s, int dir, const struct level *level, const char *name)
{
    struct stat st;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : skip(s, level, name, strerror(errno));
    if (S_ISLNK(st.st_mode))
        return send_link(s, dir, &st, level, name);
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return skip(s, level, name, "it is neither a file, a directory nor a link");
    /* What is there may have changed: nothing may be waited for or followed. */
    _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : skip(s, level, name, strerror(errno));
    return send_opened(s, fd, level, name);
}

static int send_children(struct sender *s, int fd, const struct level *level)
{
    struct dirent *entry;
    int r = 0;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    _cleanup_closedir_ DIR *entries = copy < 0 ? NULL : fdopendir(copy);

    if (entries == NULL) {
        if (copy >= 0)
            close(copy);
        return error_errno(s->err, errno, "cannot list %s", level->name);
    }
    while (r >= 0 && (entry = readdir(entries)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = send_child(s, fd, level, entry->d_name);
    return r;
}

static int send_directory(struct sender *s, int fd, const struct stat *st,
                          const struct level *level, const char *name)
{
    const struct level below = {
        .up = level,
        .name = name,
        .depth = level != NULL ? level->depth + 1 : 1,
    };

    if (below.depth >= TREE_DEPTH_MAX)
        return skip(s, level, name, "it is too deep");
    int r = put_entry(s, AGENT_DIRECTORY, st, name, NULL);
    if (r < 0 || (r = send_children(s, fd, &below)) < 0)
        return r;
    return put(s, AGENT_DIRECTORY_END, NULL, 0, NULL, 0);
}

static int send_opened(struct sender *s, int fd, const struct level *level, const char *name)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_errno(s->err, errno, "cannot read %s", name);
    if (S_ISDIR(st.st_mode))
        return send_directory(s, fd, &st, level, name);
    if (!S_ISREG(st.st_mode))
        return error_set(s->err, STATUS_FAILED, EINVAL, "%s is neither a file nor a directory",
                         name);
    if (level == NULL)
        s->total_bytes = (uint64_t)st.st_size;
    int r = send_file(s, fd, &st, name);
    if (r < 0 && s->err->status == STATUS_OK)
        error_errno(s->err, -r, "cannot send %s", name);
    return r;
}

char *tree_name(const char *path)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t at = length;
    while (at > 0 && path[at - 1] != '/')
        at--;
    char *name = strndup(path + at, length - at);
    if (name == NULL || (name[0] != '\0' && strcmp(name, "..") != 0))
        return name;
    free(name);
    return strdup(".");
}

int tree_send(struct channel *ch, const char *path, const struct tree_options *options,
              struct error *err)
{
    struct error local = ERROR_INIT;
    struct sender s = {.ch = ch, .options = options, .err = &local};
    _cleanup_free_ char *name = tree_name(path);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    const int errnum = errno;

    if (name == NULL)
        return error_errno(err, ENOMEM, "cannot copy");
    if (fd < 0)
        return error_errno(err, errnum, "cannot read %s", path);
    int r = send_opened(&s, fd, NULL, name);
    if (r >= 0)
        r = put(&s, AGENT_TREE_END, NULL, 0, NULL, 0);
    if (r >= 0 && (r = channel_send_all(ch)) < 0)
        tree_channel_error(r, &local);
    if (r < 0 && err != NULL)
        *err = local;
    return r;
}
