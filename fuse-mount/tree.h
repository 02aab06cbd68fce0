/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree of the time-travel file system, without FUSE: nodes, their names,
 * attributes and content. A node number stays valid, and never means something
 * else, as long as the tree is open, so there is nothing to forget.
 *
 * All functions are thread-safe and return 0 or a negative errno for the kernel.
 */
#ifndef STASIS_FUSE_MOUNT_TREE_H
#define STASIS_FUSE_MOUNT_TREE_H

#include "fuse-mount/listing.h"
#include "store/store.h"

#include <stdint.h>
#include <sys/stat.h>

#define TREE_ROOT UINT64_C(1)

struct tree;

/* How long the kernel may believe an answer. */
enum tree_lifetime {
    TREE_CHANGES,   /* images/, machines/: ask every time */
    TREE_REMOVABLE, /* by-id/ID: may be removed, cannot change */
    TREE_IMMUTABLE, /* all below by-id/ID */
};

struct tree_entry {
    uint64_t node;
    struct stat st;
    enum tree_lifetime name_lifetime; /* of the name in its directory */
    enum tree_lifetime attr_lifetime;
};

/* The store must outlive the tree. -ENOMEM. */
int tree_open(struct store *store, struct tree **out);
void tree_close(struct tree *tree);

/* -ENOENT; for a parent that is TREE_IMMUTABLE that is final. */
int tree_lookup(struct tree *tree, uint64_t parent, const char *name, struct tree_entry *out);
int tree_stat(struct tree *tree, uint64_t node, struct tree_entry *out);
/* Names without "." and "..". inode is what st_ino will be, or 0 if not known. */
int tree_list(struct tree *tree, uint64_t directory, struct listing *out);
/* The entry of a name that tree_list() gave; cheaper than tree_lookup(). */
int tree_listed(struct tree *tree, uint64_t directory, const struct listing *list, size_t index,
                struct tree_entry *out);
/* The caller frees *out. */
int tree_readlink(struct tree *tree, uint64_t node, char **out);

struct tree_file;

int tree_file_open(struct tree *tree, uint64_t node, struct tree_file **out);
void tree_file_close(struct tree_file *file);
/* Reads at most length bytes; less only at the end. */
int tree_file_read(struct tree_file *file, uint64_t offset, void *buf, size_t length,
                   size_t *done_out);
/* As lseek(2) with SEEK_DATA or SEEK_HOLE. -ENXIO past the last data. */
int tree_file_seek(struct tree_file *file, uint64_t offset, bool data, uint64_t *out);

#endif
