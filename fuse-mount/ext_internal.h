/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the ext_*.c files only. */
#ifndef STASIS_FUSE_MOUNT_EXT_INTERNAL_H
#define STASIS_FUSE_MOUNT_EXT_INTERNAL_H

#include "fuse-mount/ext.h"
#include "fuse-mount/overlay.h"

#include <ext2fs/ext2fs.h>
#include <pthread.h>

/* Blocks one call may read: a directory of ten million names, an extent tree of a
 * heavily fragmented disk image; at 1 us each a circle ends in a quarter second. */
#define EXT_CALL_BLOCKS_MAX (1u << 18)
/* Opening reads all group descriptors. */
#define EXT_OPEN_BLOCKS_MAX (1u << 20)

#define EXT_CACHE_SLOTS 1024u

/* What libext2fs reads from: a source, an overlay, a cache of metadata blocks and
 * a budget. One user at a time: the file system's lock. */
struct ext_device {
    struct source src;
    const struct overlay *overlay;    /* or NULL */
    int64_t budget;                   /* blocks the present call may still read */
    int error;                        /* negative errno of the last failed read, else 0 */
    uint32_t block_size;              /* of what the cache holds */
    uint64_t cached[EXT_CACHE_SLOTS]; /* block + 1, 0 if empty */
    uint8_t *cache;
};

/* Opens the file system on the device, which must outlive it. Returns an error
 * of libext2fs. */
errcode_t ext_device_open(struct ext_device *dev, int flags, ext2_filsys *out);
void ext_device_clear(struct ext_device *dev);

struct ext {
    pthread_mutex_t lock; /* over fs and device; all else is constant once open */
    struct ext_device device;
    struct overlay overlay;
    ext2_filsys fs;
    bool has_report;
    struct journal_report report;
    const char *type;
    char label[17];
};

/* Begins a call: lock held, budget full. */
void ext_begin(struct ext *fs);
/* Ends it and turns libext2fs's error into a negative errno. */
int ext_end(struct ext *fs, errcode_t error);

/* ---- block maps; lock held ---- */

struct ext_run {
    uint64_t physical; /* block, 0: a hole */
    uint64_t count;
};

struct ext_map {
    uint32_t inode_number;
    struct ext2_inode inode;
    ext2_extent_handle_t extents; /* NULL: indirect blocks */
    char *scratch;                /* two blocks for bmap */
};

/* *out must stay where it is until ext_map_close(), also after a failure. */
errcode_t ext_map_open(struct ext *fs, uint32_t inode_number, const struct ext2_inode *inode,
                       struct ext_map *out);
void ext_map_close(struct ext_map *map);
/* Where logical blocks [first, first + count) lie, as at most count runs. */
errcode_t ext_map_range(struct ext *fs, struct ext_map *map, uint64_t first, uint64_t count,
                        struct ext_run *runs, size_t *run_count_out);

#endif
