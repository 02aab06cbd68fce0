/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the tree_*.c files only. A node number is either
 *
 *   bits 63-44 view index + 1 | 43-32 depth | 31-0 inode    something in a guest's file system
 *   bits 63-44 zero           | 43-0 index into tree.nodes  something of our own
 *
 * so the first kind needs no table. depth counts the directories between the
 * partition's root and the node (for directories and links; 0 for the rest, so
 * that hard links are one node). It is what links are confined by, so it comes
 * from the way the kernel took, never from the guest's "..".
 */
#ifndef STASIS_FUSE_MOUNT_TREE_INTERNAL_H
#define STASIS_FUSE_MOUNT_TREE_INTERNAL_H

#include "fuse-mount/tree.h"
#include "fuse-mount/volume.h"
#include "imgfmt/manifest.h"

#include <pthread.h>
#include <stdbool.h>

enum node_kind {
    NODE_ROOT,
    NODE_IMAGES,    /* a folder of images/, that itself included */
    NODE_IMAGE_TAG, /* a link */
    NODE_MACHINES,
    NODE_MACHINE,
    NODE_LATEST,          /* a link */
    NODE_CHECKPOINTS,     /* of a machine */
    NODE_CHECKPOINT_NAME, /* a link */
    NODE_BY_ID,
    NODE_PREFIX, /* a link to a checkpoint with that beginning */
    NODE_CHECKPOINT,
    NODE_MANIFEST,
    NODE_PARENT, /* a link */
    NODE_RAW,    /* a space's bytes */
    NODE_DISK,
    NODE_PARTITION_RAW,
    NODE_PARTITION_NOTE,
};

/* What the tree keeps of a checkpoint. */
struct tree_checkpoint {
    struct store_pin *pin; /* as long as the mount: its files may be open */
    struct digest id;
    int64_t created_us;
    bool has_parent;
    struct digest parent;
    char *manifest; /* canonical JSON */
    size_t manifest_bytes;
    uint32_t space_count;
    struct tree_space {
        char name[MANIFEST_SPACE_NAME_MAX + 1];
        struct volume *volume;
    } spaces[];
};

struct node {
    enum node_kind kind;
    uint32_t index;
    uint32_t parent;
    char *name;
    struct node *next;                  /* in its hash chain */
    struct tree_checkpoint *checkpoint; /* of NODE_CHECKPOINT, which owns it, and below */
    struct volume *volume;              /* NODE_RAW, NODE_DISK */
    struct view *view;                  /* NODE_PARTITION_... */
};

#define TREE_HASH_SIZE 4096u

struct tree {
    struct store *store;
    struct pool *pool;
    int64_t opened_us;
    uid_t uid;
    gid_t gid;
    pthread_mutex_t lock; /* nodes; a node does not change once it is there */
    struct node **nodes;
    uint32_t count, capacity;
    struct node *hash[TREE_HASH_SIZE];
};

#define GUEST_DEPTH_MAX 2048u /* a path of PATH_MAX has no more components */

static inline bool node_is_guest(uint64_t node)
{
    return node >> 44 != 0;
}

/* The node of that number; NULL if there is none or it is a guest's. */
struct node *tree_node(struct tree *tree, uint64_t number);

/* Finds the child node of that name, or makes it as a copy of proto (of which
 * kind, checkpoint, volume and view count). -ENOMEM. *made_out may be NULL. */
int tree_intern(struct tree *tree, const struct node *parent, const char *name,
                const struct node *proto, struct node **out, bool *made_out);
/* Only finds: NULL if nobody has asked for it yet. */
struct node *tree_interned(struct tree *tree, const struct node *parent, const char *name,
                           enum node_kind kind);

/* ---- tree_names.c: images/, machines/, the listing of by-id/ ---- */

/* What kind of node a name is. -ENOENT. */
int names_lookup(struct tree *tree, const struct node *parent, const char *name, struct node **out);
int names_list(struct tree *tree, const struct node *node, struct listing *out);
int names_readlink(struct tree *tree, const struct node *node, char **out);

/* ---- tree_checkpoint.c: by-id/ID and below, down to the partitions ---- */

int checkpoint_node(struct tree *tree, const struct node *by_id, const struct digest *id,
                    struct node **out);
void checkpoint_free(struct tree_checkpoint *checkpoint);
/* *guest_out is a guest's node (a partition's root) if *out is NULL. */
int checkpoint_lookup(struct tree *tree, const struct node *parent, const char *name,
                      struct node **out, uint64_t *guest_out);
int checkpoint_list(struct tree *tree, const struct node *node, struct listing *out);

/* ---- tree_guest.c: inside a partition ---- */

uint64_t guest_root(const struct view *view);
int guest_lookup(struct tree *tree, uint64_t parent, const char *name, struct tree_entry *out);
int guest_stat(struct tree *tree, uint64_t node, struct tree_entry *out);
int guest_list(struct tree *tree, uint64_t directory, struct listing *out);
int guest_listed(struct tree *tree, uint64_t directory, uint64_t inode, struct tree_entry *out);
int guest_readlink(struct tree *tree, uint64_t node, char **out);
/* Opens a regular file; *view_out is held for it until view_drop(). */
int guest_open(struct tree *tree, uint64_t node, struct view **view_out, struct ext_file **out);

#endif
