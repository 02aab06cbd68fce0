/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/unpack.h"

#include "agent/messages.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "cli/inside.h"
#include "cli/interrupt.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { QUEUE_HIGH = 128 << 10 };

/* ---- the process that reads ---- */

struct packer {
    struct channel ch;
    struct tree *tree;
    const struct inside_path *path;
    unsigned open; /* directories below PATH that have not been ended */
    struct error err;
};

static int put(struct packer *p, enum agent_frame type, const void *head, size_t head_length,
               const void *payload, size_t length)
{
    int r = channel_queue(&p->ch, type, head, head_length, payload, length);
    if (r >= 0 && channel_queued(&p->ch) >= QUEUE_HIGH)
        r = channel_send_all(&p->ch);
    return r < 0 ? tree_channel_error(r, &p->err) : 0;
}

static int put_entry(struct packer *p, enum agent_frame type, const struct stat *st,
                     const char *name, const char *target)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};

    int r = agent_entry_encode_stat(type, st, name, target, &payload);
    return r < 0 ? error_errno(&p->err, -r, "cannot copy %s", name)
                 : put(p, type, NULL, 0, payload.data, payload.length);
}

static int put_warning(struct packer *p, const char *name, const char *why)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};
    char text[512];

    snprintf(text, sizeof(text), "%s is left out: %s", name, why);
    int r = agent_text_encode(text, &payload);
    return r < 0 ? error_errno(&p->err, -r, "cannot copy %s", name)
                 : put(p, AGENT_WARNING, NULL, 0, payload.data, payload.length);
}

/* One stretch of data that begins at or behind *offset; 0 when there is none. */
static int put_stretch(struct packer *p, struct tree_file *file, uint64_t *offset)
{
    uint8_t chunk[AGENT_CHUNK_SIZE], head[8];
    size_t n;

    int r = tree_file_seek(file, *offset, true, offset);
    if (r == -ENXIO)
        return 0;
    if (r >= 0)
        r = tree_file_read(file, *offset, chunk, sizeof(chunk), &n);
    if (r < 0)
        return inside_error(r, p->path, &p->err);
    if (n == 0)
        return 0;
    store_le64(head, *offset);
    *offset += n;
    r = put(p, AGENT_DATA, head, sizeof(head), chunk, n);
    return r < 0 ? r : 1;
}

static int put_file(struct packer *p, const struct tree_entry *entry, const char *name)
{
    struct tree_file *file;
    uint8_t end[8];
    uint64_t offset = 0;

    int r = tree_file_open(p->tree, entry->node, &file);
    if (r < 0)
        return put_warning(p, name, strerror(-r));
    r = put_entry(p, AGENT_FILE, &entry->st, name, NULL);
    while (r >= 0 && offset < (uint64_t)entry->st.st_size &&
           (r = put_stretch(p, file, &offset)) > 0)
        continue;
    tree_file_close(file);
    store_le64(end, (uint64_t)entry->st.st_size);
    return r < 0 ? r : put(p, AGENT_FILE_END, NULL, 0, end, sizeof(end));
}

static int end_directories(struct packer *p, unsigned down_to)
{
    int r = 0;

    for (; r >= 0 && p->open > down_to; p->open--)
        r = put(p, AGENT_DIRECTORY_END, NULL, 0, NULL, 0);
    return r;
}

static int put_item(const struct inside_item *item, void *context)
{
    struct packer *p = context;
    const mode_t mode = item->entry->st.st_mode;

    int r = end_directories(p, item->depth - 1);
    if (r < 0)
        return r;
    if (S_ISDIR(mode)) {
        p->open++;
        return put_entry(p, AGENT_DIRECTORY, &item->entry->st, item->name, NULL);
    }
    if (S_ISREG(mode))
        return put_file(p, item->entry, item->name);
    if (item->target != NULL && item->target[0] != '\0')
        return put_entry(p, AGENT_LINK, &item->entry->st, item->name, item->target);
    return put_warning(p, item->path, "it is neither a file, a directory nor a link");
}

static int put_directory(struct packer *p, const struct tree_entry *entry, const char *name)
{
    struct inside_walk walk = {
        .tree = p->tree,
        .path = p->path,
        .depth_max = TREE_DEPTH_MAX - 2,
        .item = put_item,
        .context = p,
    };

    int r = put_entry(p, AGENT_DIRECTORY, &entry->st, name, NULL);
    if (r >= 0)
        r = inside_walk(&walk, entry, &p->err);
    if (r >= 0 && walk.failures > 0)
        r = put_warning(p, name, "parts of it cannot be read");
    if (r >= 0)
        r = end_directories(p, 0);
    return r < 0 ? r : put(p, AGENT_DIRECTORY_END, NULL, 0, NULL, 0);
}

static int pack(struct packer *p)
{
    struct tree_entry entry;

    int r = inside_find(p->tree, p->path, &entry, &p->err);
    if (r < 0)
        return r;
    _cleanup_free_ char *name = tree_name(p->path->path);
    if (name == NULL)
        return error_errno(&p->err, ENOMEM, "cannot copy");
    if (S_ISDIR(entry.st.st_mode))
        r = put_directory(p, &entry, name);
    else if (S_ISREG(entry.st.st_mode))
        r = put_file(p, &entry, name);
    else
        r = error_set(&p->err, STATUS_FAILED, EINVAL, "%s is neither a file nor a directory", name);
    if (r >= 0)
        r = put(p, AGENT_TREE_END, NULL, 0, NULL, 0);
    if (r >= 0 && (r = channel_send_all(&p->ch)) < 0)
        tree_channel_error(r, &p->err);
    return r;
}

static void tell_failure(struct packer *p)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};
    const struct agent_failure failure = {
        .errnum = (uint32_t)p->err.errnum,
        .message = p->err.message,
    };

    if (agent_failure_encode(&failure, &payload) == 0)
        channel_send(&p->ch, AGENT_ERROR, payload.data, payload.length);
}

static void __attribute__((noreturn)) run_packer(struct cli *cli, const char *reference, int fd)
{
    struct inside_path path = {0};
    struct packer p = {.path = &path, .err = ERROR_INIT};

    channel_init(&p.ch, fd, -1);
    int r = inside_path_resolve(cli, reference, &path, &p.err);
    if (r >= 0)
        r = inside_open(cli, &p.tree, &p.err);
    if (r >= 0)
        r = pack(&p);
    if (r < 0)
        tell_failure(&p);
    _exit(0);
}

/* ---- the process that writes ---- */

int unpack_checkpoint(struct cli *cli, const char *reference, const char *to,
                      const struct tree_options *options, struct error *err)
{
    struct channel ch;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return error_errno(err, errno, "cannot copy");
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        run_packer(cli, reference, fds[1]);
    }
    close(fds[1]);
    channel_init(&ch, fds[0], -1);
    ch.give_up = interrupt_pending;
    int r = pid < 0 ? error_errno(err, errno, "cannot start a process")
                    : tree_receive(&ch, to, options, err);
    channel_clear(&ch);
    /* What it still has to say goes nowhere: it ends. */
    if (pid > 0)
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    return r;
}
