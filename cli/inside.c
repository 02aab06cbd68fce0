/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/inside.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/interrupt.h"
#include "cli/reference.h"
#include "fuse-mount/sandbox.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

enum {
    LINKS_MAX = 40, /* followed for one path; as the kernel does */
    DEPTH_MAX = 4096,
    NS_PER_US = 1000,
    US_PER_S = 1000000,
};

/* ---- references ---- */

/* 0, or the error of the last reference that was tried. */
static int try_split(struct cli *cli, const char *text, size_t length, struct inside_path *out,
                     struct error *err)
{
    _cleanup_free_ char *reference = io_format("%.*s", (int)length, text);

    int r = reference_resolve(cli, reference, &out->id, err);
    if (r < 0)
        return r;
    out->text = steal_pointer(reference);
    out->path = io_format("%s", text[length] == ':' ? text + length + 1 : "");
    return 0;
}

int inside_path_resolve(struct cli *cli, const char *text, struct inside_path *out,
                        struct error *err)
{
    size_t at = strlen(text);

    int r = try_split(cli, text, at, out, err);
    while (r < 0 && at > 0) {
        while (--at > 0 && text[at] != ':')
            continue;
        if (at > 0)
            r = try_split(cli, text, at, out, err);
    }
    return r;
}

void inside_path_clear(struct inside_path *path)
{
    free(path->text);
    free(path->path);
    *path = (struct inside_path){0};
}

int inside_open(struct cli *cli, struct tree **out, struct error *err)
{
    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    /* Its threads, if it has started any, would stay outside of the sandbox. */
    store_close(steal_pointer(cli->store));
    if ((r = mount_sandbox_enter(cli->home.store, err)) < 0 || (r = cli_store(cli, err)) < 0)
        return r;
    r = tree_open(cli->store, out);
    return r < 0 ? error_errno(err, -r, "cannot look inside") : 0;
}

/* ---- finding ---- */

/* The way from the tree's root to where one is. */
struct trail {
    struct tree *tree;
    uint64_t nodes[DEPTH_MAX];
    unsigned depth; /* of nodes */
    unsigned floor; /* ".." leads no higher */
    unsigned links;
};

static int follow(struct trail *trail, const char *path);

static int enter(struct trail *trail, const char *name)
{
    struct tree_entry entry;

    int r = tree_lookup(trail->tree, trail->nodes[trail->depth - 1], name, &entry);
    if (r < 0)
        return r;
    if (S_ISLNK(entry.st.st_mode)) {
        _cleanup_free_ char *target = NULL;
        if (++trail->links > LINKS_MAX)
            return -ELOOP;
        r = tree_readlink(trail->tree, entry.node, &target);
        return r < 0 ? r : follow(trail, target);
    }
    if (trail->depth == DEPTH_MAX)
        return -ENAMETOOLONG;
    trail->nodes[trail->depth++] = entry.node;
    return 0;
}

static int follow(struct trail *trail, const char *path)
{
    char name[NAME_MAX + 1];

    for (size_t length; *path != '\0'; path += length) {
        length = strcspn(path, "/");
        if (length > NAME_MAX)
            return -ENAMETOOLONG;
        snprintf(name, sizeof(name), "%.*s", (int)length, path);
        int r = 0;
        if (strcmp(name, "..") == 0)
            trail->depth -= trail->depth > trail->floor;
        else if (length > 0 && strcmp(name, ".") != 0)
            r = enter(trail, name);
        if (r < 0)
            return r;
        length += path[length] == '/';
    }
    return 0;
}

/* What may be meant by "/". */
struct roots {
    unsigned count;
    unsigned with_etc;
    char first[64]; /* its path below the checkpoint */
    char etc[64];
    char all[256]; /* for a hint */
};

static void add_root(struct trail *trail, const struct tree_entry *disk_entry, const char *disk,
                     const char *partition, struct roots *roots)
{
    struct tree_entry entry;
    const size_t used = strlen(roots->all);

    snprintf(roots->all + used, sizeof(roots->all) - used, "%s%s/%s", used > 0 ? ", " : "", disk,
             partition);
    if (roots->count++ == 0)
        snprintf(roots->first, sizeof(roots->first), "%s/%s", disk, partition);
    if (tree_lookup(trail->tree, disk_entry->node, partition, &entry) == 0 &&
        tree_lookup(trail->tree, entry.node, "etc", &entry) == 0 && roots->with_etc++ == 0)
        snprintf(roots->etc, sizeof(roots->etc), "%s/%s", disk, partition);
}

/* Directories of a disk are its partitions with a file system that can be read. */
static int add_disk(struct trail *trail, const struct tree_entry *entry, const char *disk,
                    struct roots *roots)
{
    _cleanup_(listing_clear) struct listing list = {0};

    int r = tree_list(trail->tree, entry->node, &list);
    for (size_t i = 0; r == 0 && i < list.count; i++)
        if (S_ISDIR(list.entries[i].mode))
            add_root(trail, entry, disk, listing_name(&list, i), roots);
    return r;
}

static int find_roots(struct trail *trail, struct roots *roots)
{
    struct tree_entry entry;
    char disk[MANIFEST_SPACE_NAME_MAX + 1];

    for (unsigned i = 0; i < MANIFEST_DISKS_MAX; i++) {
        snprintf(disk, sizeof(disk), "disk%u", i);
        int r = tree_lookup(trail->tree, trail->nodes[trail->depth - 1], disk, &entry);
        if (r == -ENOENT)
            break;
        if (r < 0 || (r = add_disk(trail, &entry, disk, roots)) < 0)
            return r;
    }
    return 0;
}

/* From the checkpoint to the root of the guest's file system. */
static int enter_root(struct trail *trail, const struct inside_path *path, struct error *err)
{
    struct roots roots = {0};

    int r = find_roots(trail, &roots);
    if (r < 0)
        return inside_error(r, path, err);
    if (roots.count == 0) {
        error_set(err, STATUS_NOT_FOUND, ENOENT, "%s has no file system that can be read",
                  path->text);
        error_hint(err, "ext2, ext3 and ext4 can; stasis tree %s: shows what is there", path->text);
        return -ENOENT;
    }
    if (roots.count > 1 && roots.with_etc != 1) {
        error_set(err, STATUS_USAGE, EINVAL, "%s has several file systems: %s", path->text,
                  roots.all);
        error_hint(err, "say which: %s:%s%s", path->text, roots.first, path->path);
        return -EINVAL;
    }
    r = follow(trail, roots.count == 1 ? roots.first : roots.etc);
    trail->floor = trail->depth;
    return r < 0 ? inside_error(r, path, err) : 0;
}

/* "p1/etc" is of the first disk. */
static bool names_partition(const char *path)
{
    return path[0] == 'p' && isdigit((unsigned char)path[1]);
}

int inside_find(struct tree *tree, const struct inside_path *path, struct tree_entry *out,
                struct error *err)
{
    _cleanup_free_ struct trail *trail = calloc(1, sizeof(*trail));
    char hex[DIGEST_HEX_SIZE];

    if (trail == NULL)
        return error_errno(err, ENOMEM, "cannot look inside");
    trail->tree = tree;
    trail->nodes[trail->depth++] = TREE_ROOT;
    trail->floor = 1;
    int r = follow(trail, "by-id");
    if (r == 0)
        r = follow(trail, digest_hex(&path->id, hex));
    trail->floor = trail->depth;
    if (r == 0 && path->path[0] == '/' && (r = enter_root(trail, path, err)) < 0)
        return r;
    if (r == 0 && names_partition(path->path))
        r = follow(trail, "disk0");
    if (r == 0)
        r = follow(trail, path->path);
    if (r == 0)
        r = tree_stat(tree, trail->nodes[trail->depth - 1], out);
    return r < 0 ? inside_error(r, path, err) : 0;
}

int inside_error(int r, const struct inside_path *path, struct error *err)
{
    const char *place = path->path[0] != '\0' ? path->path : "that";

    switch (r) {
    case -ENOENT:
    case -ENOTDIR:
        error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no %s in %s", place, path->text);
        error_hint(err, "stasis tree %s: shows what is there", path->text);
        break;
    case -EISDIR:
        error_set(err, STATUS_USAGE, EISDIR, "%s in %s is a directory", place, path->text);
        error_hint(err, "stasis tree %s:%s lists it", path->text, path->path);
        break;
    case -EUCLEAN:
        error_set(err, STATUS_CORRUPT, EUCLEAN, "the file system of %s is damaged at %s",
                  path->text, place);
        error_hint(err, "it was so in the machine: run fsck there");
        break;
    case -ENOKEY:
        error_set(err, STATUS_FAILED, ENOKEY, "%s in %s is encrypted", place, path->text);
        break;
    default:
        error_errno(err, -r, "cannot read %s in %s", place, path->text);
    }
    return r;
}

/* ---- walking ---- */

const char *inside_type(const struct tree_entry *entry)
{
    if (S_ISREG(entry->st.st_mode))
        return "file";
    if (S_ISDIR(entry->st.st_mode))
        return "directory";
    return S_ISLNK(entry->st.st_mode) ? "link" : "other";
}

json_t *inside_item_json(const struct inside_item *item)
{
    const struct stat *st = &item->entry->st;
    const int64_t modified_us =
        (int64_t)st->st_mtim.tv_sec * US_PER_S + st->st_mtim.tv_nsec / NS_PER_US;

    return json_pack("{s:o, s:s, s:o, s:i, s:i, s:i, s:o, s:o}", "path", output_text(item->path),
                     "type", inside_type(item->entry), "bytes", output_uint((uint64_t)st->st_size),
                     "mode", (int)(st->st_mode & 07777), "uid", (int)st->st_uid, "gid",
                     (int)st->st_gid, "modified", output_time(modified_us), "target",
                     output_text_or_null(item->target));
}

void inside_print_name(const char *text)
{
    const bool person = isatty(STDOUT_FILENO) == 1;

    for (; *text != '\0'; text++)
        putchar(person && iscntrl((unsigned char)*text) ? '?' : *text);
}

static int compare_names(const void *a, const void *b, void *listing)
{
    return strcmp(listing_name(listing, *(const size_t *)a),
                  listing_name(listing, *(const size_t *)b));
}

/* Indices of the names, in order; the caller frees. */
static size_t *order_of(const struct listing *list)
{
    size_t *order = calloc(list->count + 1, sizeof(*order));

    for (size_t i = 0; order != NULL && i < list->count; i++)
        order[i] = i;
    if (order != NULL)
        qsort_r(order, list->count, sizeof(*order), compare_names, (void *)list);
    return order;
}

static void tell_failure(struct inside_walk *walk, const char *path, int r)
{
    const struct inside_path at = {.text = walk->path->text, .path = (char *)path};
    struct error err = ERROR_INIT;

    inside_error(r, &at, &err);
    err.hint[0] = '\0';
    cli_print_error(&err);
    walk->failures++;
}

static int walk_directory(struct inside_walk *walk, uint64_t node, const char *path,
                          unsigned depth);

/* One name of a directory, and what is below it. */
static int walk_item(struct inside_walk *walk, struct inside_item *item)
{
    _cleanup_free_ char *target = NULL;

    if (S_ISLNK(item->entry->st.st_mode)) {
        int r = tree_readlink(walk->tree, item->entry->node, &target);
        if (r < 0)
            tell_failure(walk, item->path, r);
    }
    item->target = target;
    int r = walk->item(item, walk->context);
    if (r != 0 || !S_ISDIR(item->entry->st.st_mode) || item->depth >= walk->depth_max)
        return r;
    return walk_directory(walk, item->entry->node, item->path, item->depth + 1);
}

static int walk_directory(struct inside_walk *walk, uint64_t node, const char *path, unsigned depth)
{
    _cleanup_(listing_clear) struct listing list = {0};
    _cleanup_free_ size_t *order = NULL;

    int r = depth > DEPTH_MAX ? -ENAMETOOLONG : tree_list(walk->tree, node, &list);
    if (r < 0) {
        tell_failure(walk, path, r);
        return 0;
    }
    if ((order = order_of(&list)) == NULL)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < list.count; i++) {
        const char *name = listing_name(&list, order[i]);
        const char *slash = path[0] == '\0' || path[strlen(path) - 1] == '/' ? "" : "/";
        _cleanup_free_ char *full = io_format("%s%s%s", path, slash, name);
        struct tree_entry entry;
        struct inside_item item = {.path = full,
                                   .name = name,
                                   .entry = &entry,
                                   .depth = depth,
                                   .last = i + 1 == list.count};
        if (interrupt_pending())
            return -ECANCELED;
        if ((r = tree_listed(walk->tree, node, &list, order[i], &entry)) == 0) {
            r = walk_item(walk, &item);
        } else {
            tell_failure(walk, full, r);
            r = 0;
        }
    }
    return r;
}

int inside_walk(struct inside_walk *walk, const struct tree_entry *directory, struct error *err)
{
    interrupt_catch();
    int r = walk_directory(walk, directory->node, walk->path->path, 1);
    if (r == -ECANCELED)
        return error_set(err, STATUS_INTERRUPTED, ECANCELED, "interrupted");
    if (r < 0)
        return error_errno(err, -r, "cannot list %s", walk->path->text);
    if (walk->failures > 0)
        return error_set(err, STATUS_PARTLY, EIO, "%llu places in %s could not be read",
                         walk->failures, walk->path->text);
    return 0;
}
