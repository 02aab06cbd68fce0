/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's disk: what its checkpoint's map says, under overlays (disk_layer.h) that
 * hold what was written since.
 *
 * Writes go to the newest overlay. A checkpoint freezes it and puts a new one on
 * top; when the frozen ones are in the store, disk_rebase() drops them. A flush
 * makes all writes durable that had returned when it began.
 *
 * Threads: reading, writing, zeroing and flushing are for any number at once, and beside
 * the functions for checkpoints, which are for one thread at a time. disk_frozen_each()
 * may run in another, but not beside disk_freeze(), disk_rebase() and disk_reset(). What
 * two that write the same bytes at once leave there is one or the other.
 */
#ifndef STASIS_VMM_DEVICES_DISK_H
#define STASIS_VMM_DEVICES_DISK_H

#include "base/error.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

/* Overlays a disk keeps when one save after the other fails; from then on the
 * newest two become one. */
#define DISK_OVERLAYS_MAX 16u

struct disk;

/*
 * Opens disk `index` of the machine in dir over base (owned by the disk from then
 * on, also on failure). keep: go on with the overlays that are there, else they are
 * removed. A read-only disk has no overlays.
 */
int disk_open(const char *dir, unsigned index, struct space *base, bool read_only, bool keep,
              struct disk **out, struct error *err);

/* Makes what was written durable, as far as that is possible, and frees the disk. */
void disk_close(struct disk *disk);

uint64_t disk_size_bytes(const struct disk *disk);
bool disk_is_read_only(const struct disk *disk);

/* Byte ranges inside the disk, in sectors' multiples or not. */
int disk_read(struct disk *disk, uint64_t offset, void *buf, size_t length);
/* The same without waiting for a device or computing much, or -EAGAIN; buf may hold part
 * of it then. */
int disk_read_cached(struct disk *disk, uint64_t offset, void *buf, size_t length);
int disk_write(struct disk *disk, uint64_t offset, const void *buf, size_t length);
/* The range reads as zeros afterwards; whole pages of it take no space, and where
 * there were zeros already nothing is done. */
int disk_zero(struct disk *disk, uint64_t offset, uint64_t length);

/* A flush that has failed once fails for ever: what was lost stays lost, though the
 * kernel would call the next one a success. */
int disk_flush(struct disk *disk);

/* ---- checkpoints ---- */

/* Does what disk_freeze() would need time for: makes the next overlay's files. */
int disk_prepare_freeze(struct disk *disk, struct error *err);

/* Freezes what was written so far. The frozen set grows until disk_rebase(). */
int disk_freeze(struct disk *disk, struct error *err);

/* Calls visit for each page of the frozen overlays, ascending, newest content;
 * bytes is NULL for a page of zeros. Stops at its first non-zero return. */
int disk_frozen_each(struct disk *disk,
                     int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                     struct error *err);
bool disk_has_frozen(const struct disk *disk);

/* The frozen overlays are in base now (owned by the disk from then on). */
void disk_rebase(struct disk *disk, struct space *base);

/* Puts the disk to base (owned by the disk from then on) and forgets all overlays,
 * durably. */
int disk_reset(struct disk *disk, struct space *base, struct error *err);

/* Removes the overlays of all disks of the machine in dir, durably. */
int disk_remove_overlays(const char *dir, struct error *err);

#endif
