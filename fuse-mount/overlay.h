/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a file system's newest blocks are: what replaying its journal would have
 * written, as a list of "read block B from block J of the journal instead". The
 * data itself stays in the checkpoint.
 */
#ifndef STASIS_FUSE_MOUNT_OVERLAY_H
#define STASIS_FUSE_MOUNT_OVERLAY_H

#include "fuse-mount/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct overlay_block {
    uint64_t block;   /* of the file system */
    uint64_t replica; /* block of the same file system that holds its content */
    bool escaped;     /* the first 4 bytes are JBD2's magic number there (zero in the replica) */
};

/* Zero-initialised is empty and valid. */
struct overlay {
    uint32_t block_size;
    size_t count;
    struct overlay_block *blocks; /* ascending, unique, after overlay_seal() */
    size_t capacity;
};

/* Adds a replica; a later one of the same block replaces an earlier one. -ENOMEM. */
int overlay_add(struct overlay *o, struct overlay_block block);
/* Sorts; call once after the last overlay_add() and before reading. -ENOMEM. */
int overlay_seal(struct overlay *o);
void overlay_clear(struct overlay *o);

/* As source_read() with the overlay's blocks in place of the source's. o may be
 * NULL. Thread-safe. */
int overlay_read(const struct source *src, const struct overlay *o, uint64_t offset, void *buf,
                 size_t length);

#endif
