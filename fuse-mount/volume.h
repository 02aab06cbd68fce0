/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address spaces of checkpoints and what is on them, opened when somebody
 * looks and closed again when many are open. Everything here lives until its
 * pool is freed: a volume is small while nothing of it is open.
 *
 * All functions are thread-safe.
 */
#ifndef STASIS_FUSE_MOUNT_VOLUME_H
#define STASIS_FUSE_MOUNT_VOLUME_H

#include "fuse-mount/ext.h"
#include "fuse-mount/partition.h"
#include "store/store.h"

#define POOL_VOLUMES_OPEN 64u /* beyond these, unused ones are closed */
#define POOL_VIEWS_OPEN 32u

struct pool;
struct volume; /* one address space of one checkpoint */
struct view;   /* one partition of a volume */

/* The store must outlive the pool. -ENOMEM. */
int pool_new(struct store *store, struct pool **out);
void pool_free(struct pool *pool);

/* A volume over the map with that root. name: "disk0", for messages. Not looked
 * up: each call makes a new one, which the pool owns. -ENOMEM. */
int pool_add_volume(struct pool *pool, const char *name, const struct digest *root,
                    uint64_t size_bytes, struct volume **out);

/* The view with that index; NULL if there is none. */
struct view *pool_view(struct pool *pool, uint32_t index);

uint64_t volume_size(const struct volume *volume);
/* Reads exactly length bytes inside the size. -EIO. */
int volume_read(struct volume *volume, uint64_t offset, void *buf, size_t length);
/* As lseek(2) with SEEK_DATA or SEEK_HOLE in [0, end): the offset of the first
 * byte at or after offset that is data (in steps of pages), or not. *out is end
 * if there is none. */
int volume_seek(struct volume *volume, uint64_t offset, uint64_t end, bool data, uint64_t *out);

/* Its partitions; as many as the disk has, one for a disk without a table. The
 * views are the pool's. -EIO, -ENOMEM. */
int volume_views(struct volume *volume, struct view ***out, uint32_t *count_out);

const struct partition *view_partition(const struct view *view);
struct volume *view_volume(const struct view *view);
uint32_t view_index(const struct view *view); /* unique in the pool */

/* Opens the view's file system, or counts one more user of it. -ENOTSUP: it has
 * none that can be browsed; the note says why. Pair with view_drop(). */
int view_hold(struct view *view, struct ext **out);
void view_drop(struct view *view);

/* What there is to say about the partition: where it lies, what is on it, what
 * was done about its journal. Text that lives as long as the view. -ENOMEM. */
int view_note(struct view *view, const char **text_out);

#endif
