/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thread model: libfuse's loop calls these operations from several threads at
 * once; the tree is thread-safe and a request touches nothing else, but for open
 * directories and files, which one request at a time changes (they do not change
 * after opening).
 *
 * Permissions are not checked: the mount is its user's alone (no allow_other),
 * who owns the store and may read every byte in it. Nothing can be written.
 */
#define FUSE_USE_VERSION 312
#include "fuse-mount/serve.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>

#define SECONDS_A_DAY 86400.0
#define SECONDS_REMOVABLE 1.0
#define READ_BYTES_MAX (1u << 20) /* the kernel asks for no more at a time */
#define THREADS_MAX 8u

static double seconds_of(enum tree_lifetime lifetime)
{
    switch (lifetime) {
    case TREE_IMMUTABLE:
        return SECONDS_A_DAY;
    case TREE_REMOVABLE:
        return SECONDS_REMOVABLE;
    default:
        return 0;
    }
}

static struct tree *tree_of(fuse_req_t req)
{
    return ((const struct serve *)fuse_req_userdata(req))->tree;
}

static void *to_pointer(uint64_t handle)
{
    return (void *)(uintptr_t)handle;
}

static struct fuse_entry_param entry_param(const struct tree_entry *e)
{
    return (struct fuse_entry_param){
        .ino = e->node,
        .attr = e->st,
        .attr_timeout = seconds_of(e->attr_lifetime),
        .entry_timeout = seconds_of(e->name_lifetime),
    };
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    struct serve *serve = userdata;

    conn->max_readahead = READ_BYTES_MAX;
    if (serve->ready != NULL)
        serve->ready(serve->context);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct tree_entry e;
    struct fuse_entry_param param;
    int r = tree_lookup(tree_of(req), parent, name, &e);

    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    param = entry_param(&e);
    fuse_reply_entry(req, &param);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
    struct tree_entry e;
    int r = tree_stat(tree_of(req), node, &e);

    (void)file;
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_attr(req, &e.st, seconds_of(e.attr_lifetime));
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
    _cleanup_free_ char *target = NULL;
    int r = tree_readlink(tree_of(req), node, &target);

    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_readlink(req, target);
}

/* ---- directories ---- */

struct open_directory {
    struct listing list;
    enum tree_lifetime lifetime;
};

static void op_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
    struct open_directory *dir = calloc(1, sizeof(*dir));
    struct tree_entry e;
    int r = dir == NULL ? -ENOMEM : tree_stat(tree_of(req), node, &e);

    if (r == 0)
        r = tree_list(tree_of(req), node, &dir->list);
    if (r < 0) {
        free(dir);
        fuse_reply_err(req, -r);
        return;
    }
    dir->lifetime = e.attr_lifetime;
    file->fh = (uintptr_t)dir;
    file->cache_readdir = file->keep_cache = dir->lifetime == TREE_IMMUTABLE;
    if (fuse_reply_open(req, file) < 0) { /* interrupted: nobody will release it */
        listing_clear(&dir->list);
        free(dir);
    }
}

static void op_releasedir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
    struct open_directory *dir = to_pointer(file->fh);

    (void)node;
    listing_clear(&dir->list);
    free(dir);
    fuse_reply_err(req, 0);
}

struct directory_reply {
    fuse_req_t req;
    fuse_ino_t node;
    char *buf;
    size_t size, used;
    bool plus;
};

/* Offsets: 0 and 1 are "." and "..", the rest indices + 2. False: no more room. */
static bool reply_add(struct directory_reply *reply, const char *name, uint64_t offset,
                      const struct fuse_entry_param *param)
{
    char *at = reply->buf + reply->used;
    size_t room = reply->size - reply->used, need;

    if (reply->plus)
        need = fuse_add_direntry_plus(reply->req, at, room, name, param, (off_t)offset + 1);
    else
        need = fuse_add_direntry(reply->req, at, room, name, &param->attr, (off_t)offset + 1);
    if (need > room)
        return false;
    reply->used += need;
    return true;
}

static struct fuse_entry_param listed_param(struct directory_reply *reply,
                                            const struct listing *list, size_t index)
{
    const struct listing_entry *entry = &list->entries[index];
    struct tree_entry e;

    /* A damaged one is listed without attributes; looking it up gives the error. */
    if (reply->plus && tree_listed(tree_of(reply->req), reply->node, list, index, &e) == 0)
        return entry_param(&e);
    return (struct fuse_entry_param){
        .attr = {.st_ino = entry->inode != 0 ? entry->inode : UINT32_MAX, .st_mode = entry->mode}};
}

static void fill_directory(struct directory_reply *reply, const struct listing *list,
                           uint64_t offset)
{
    static const char *const dots[] = {".", ".."};

    for (; offset < list->count + 2; offset++) {
        struct fuse_entry_param param = {
            .attr = {.st_ino = offset == 0 ? reply->node : UINT32_MAX, .st_mode = S_IFDIR}};
        const char *name = offset < 2 ? dots[offset] : listing_name(list, offset - 2);

        if (offset >= 2)
            param = listed_param(reply, list, offset - 2);
        if (!reply_add(reply, name, offset, &param))
            return;
    }
}

static void reply_directory(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                            struct fuse_file_info *file, bool plus)
{
    const struct open_directory *dir = to_pointer(file->fh);
    _cleanup_free_ char *buf = NULL;
    struct directory_reply reply = {.req = req, .node = node, .plus = plus};

    size = min_u64(size, READ_BYTES_MAX);
    buf = malloc(size);
    if (buf == NULL) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    reply.buf = buf;
    reply.size = size;
    fill_directory(&reply, &dir->list, (uint64_t)offset);
    fuse_reply_buf(req, buf, reply.used);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                       struct fuse_file_info *file)
{
    reply_directory(req, node, size, offset, file, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                           struct fuse_file_info *file)
{
    reply_directory(req, node, size, offset, file, true);
}

/* ---- files ---- */

static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
    struct tree_file *f = NULL;
    int r;

    if ((file->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EROFS);
        return;
    }
    r = tree_file_open(tree_of(req), node, &f);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    file->fh = (uintptr_t)f;
    file->keep_cache = 1; /* every regular file here is immutable */
    if (fuse_reply_open(req, file) < 0)
        tree_file_close(f);
}

static void op_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    tree_file_close(to_pointer(file->fh));
    fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *file)
{
    _cleanup_free_ char *buf = NULL;
    size_t done = 0;
    int r;

    (void)node;
    size = min_u64(size, READ_BYTES_MAX);
    buf = malloc(size);
    r = buf == NULL ? -ENOMEM
                    : tree_file_read(to_pointer(file->fh), (uint64_t)offset, buf, size, &done);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_buf(req, buf, done);
}

static void op_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
                     struct fuse_file_info *file)
{
    uint64_t found = 0;
    int r = -EINVAL;

    (void)node;
    if (whence == SEEK_DATA || whence == SEEK_HOLE)
        r = tree_file_seek(to_pointer(file->fh), (uint64_t)offset, whence == SEEK_DATA, &found);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_lseek(req, (off_t)found);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
    const struct statvfs st = {
        .f_bsize = STASIS_PAGE_SIZE,
        .f_frsize = STASIS_PAGE_SIZE,
        .f_namemax = 255,
        .f_flag = ST_RDONLY | ST_NOSUID,
    };

    (void)node;
    fuse_reply_statfs(req, &st);
}

/* No forget: node numbers need no memory that could be given back. */
static const struct fuse_lowlevel_ops operations = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .readlink = op_readlink,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .releasedir = op_releasedir,
    .open = op_open,
    .read = op_read,
    .lseek = op_lseek,
    .release = op_release,
    .statfs = op_statfs,
};

struct fuse_session *serve_session_new(struct serve *serve, struct error *err)
{
    char *argv[] = {"stasis", "-o", "ro,nosuid,nodev,fsname=stasis,subtype=stasis"};
    struct fuse_args args = FUSE_ARGS_INIT(ARRAY_LEN(argv), argv);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), serve);

    fuse_opt_free_args(&args);
    if (session == NULL)
        error_set(err, STATUS_FAILED, EIO, "libfuse cannot make a session");
    return session;
}

int serve_loop(struct fuse_session *session, struct error *err)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int r;

    if (config == NULL)
        return error_errno(err, ENOMEM, "cannot serve the mount");
    fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
    r = fuse_set_signal_handlers(session);
    if (r == 0) {
        r = fuse_session_loop_mt(session, config);
        fuse_remove_signal_handlers(session);
    }
    fuse_loop_cfg_destroy(config);
    if (r < 0) /* positive: the signal that ended it */
        return error_errno(err, -r, "the connection to the kernel's FUSE broke");
    return 0;
}
