/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading files inside checkpoints without a mount, for `cat`, `tree` and `find`.
 *
 * REF:/etc/hosts is in the file system of the guest: the only one that can be read, or
 * else the only one that has an /etc. REF:p1/etc/hosts names a partition of the first
 * disk, REF:disk1/p1/... of another one; in general what does not begin with a slash is
 * as in by-id/ID of a mount (fuse-mount/mount.h): REF:manifest.json, REF:disk0/p1.note.
 *
 * What guests have written is parsed in this very process, which locks itself up before
 * (fuse-mount/sandbox.h): whatever it needs from elsewhere has to be there by then.
 */
#ifndef STASIS_CLI_INSIDE_H
#define STASIS_CLI_INSIDE_H

#include "cli/app.h"
#include "fuse-mount/tree.h"

/* REF:PATH, resolved. */
struct inside_path {
    char *text; /* as it was given, without the PATH */
    char *path; /* "" without one */
    struct digest id;
};

/* The longest beginning that is a reference counts, so names of images and of files may
 * hold colons. STATUS_NOT_FOUND, STATUS_USAGE. */
int inside_path_resolve(struct cli *cli, const char *text, struct inside_path *out,
                        struct error *err);
void inside_path_clear(struct inside_path *path);

/* Locks the process up and opens the tree; every reference was resolved before. Close
 * with tree_close(), before the store is. */
int inside_open(struct cli *cli, struct tree **out, struct error *err);

/* What is there; links are followed, those of guests within their partition. */
int inside_find(struct tree *tree, const struct inside_path *path, struct tree_entry *out,
                struct error *err);

/* Says what a failed call of tree.h means to a user, about PATH of REF. Returns r. */
int inside_error(int r, const struct inside_path *path, struct error *err);

/* ---- walking ---- */

struct inside_item {
    const char *path; /* of the item, with PATH in front */
    const char *name; /* its last part */
    const struct tree_entry *entry;
    const char *target; /* of a link; else NULL */
    unsigned depth;     /* 1 for what is in PATH itself */
    bool last;          /* in its directory */
};

struct inside_walk {
    struct tree *tree;
    const struct inside_path *path;
    unsigned depth_max;
    /* Each item, a directory before what is in it, by name. Non-zero ends the walk. */
    int (*item)(const struct inside_item *item, void *context);
    void *context;
    unsigned long long failures; /* directories and files that could not be read */
};

/* Walks what is below a directory. What is damaged is told on standard error, counted,
 * and passed over. -ECANCELED after Ctrl-C. */
int inside_walk(struct inside_walk *walk, const struct tree_entry *directory, struct error *err);

/* "file", "directory", "link", "other". */
const char *inside_type(const struct tree_entry *entry);

/* One item as JSON, the same in all verbs; a new reference. */
json_t *inside_item_json(const struct inside_item *item);

/* The text as a terminal can bear it: control characters become '?'. On a pipe it is
 * written as it is. */
void inside_print_name(const char *text);

#endif
