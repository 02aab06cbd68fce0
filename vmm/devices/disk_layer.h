/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One overlay of a disk: the pages written to it, and which they are.
 *
 *   DIR/diskN.K      sparse file, page p of the disk at offset 4096 p
 *   DIR/diskN.K.map  one bit a page: is it in this overlay?
 *
 * After a crash an overlay holds what it held at its last flush, and later writes
 * to pages it had by then.
 *
 * Threads: any number may read, write and punch at once. Noting pages is for one at a
 * time, under a lock of the caller's, which disk_layer_flush() takes for a moment, too;
 * and one at a time flushes. The rest is for one thread alone.
 */
#ifndef STASIS_VMM_DEVICES_DISK_LAYER_H
#define STASIS_VMM_DEVICES_DISK_LAYER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk_layer {
    unsigned number; /* K */
    int data_fd;
    int map_fd;
    uint64_t pages;
    uint64_t *bits;    /* the map as it shall be */
    uint64_t *changed; /* one bit a page of the map's file that must be written */
    /* The same two as the flush under way found them: of what was noted later, the data
     * may not be durable when it writes the map. */
    uint64_t *flush_bits;
    uint64_t *flush_changed;
    bool used;     /* has a page */
    bool written;  /* its file may hold bytes, be they of pages that it has or not */
    bool unsynced; /* data was written since the last flush */
};

/* Opens overlay `number` of disk `disk` in dir, which is there, or makes it anew
 * (create). On failure *out is not to be used. */
int disk_layer_open(const char *dir, unsigned disk, unsigned number, uint64_t pages, bool create,
                    struct disk_layer *out);
void disk_layer_close(struct disk_layer *overlay);

/* Removes its files; the map first, without which the data is nothing. -ENOENT is
 * fine. */
int disk_layer_unlink(const char *dir, unsigned disk, unsigned number);

struct disk_layer_name {
    unsigned disk;
    unsigned number;
};

/* Lists the overlays of all disks in dir, by disk, oldest first; the caller frees. */
int disk_layer_list(const char *dir, struct disk_layer_name **out, size_t *count_out);

static inline uint64_t disk_layer_words(const struct disk_layer *overlay)
{
    return overlay->pages / 64 + (overlay->pages % 64 != 0);
}

static inline bool disk_layer_has(const struct disk_layer *overlay, uint64_t page)
{
    /* Acquire: the data was written before the page was noted. */
    return (__atomic_load_n(&overlay->bits[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1) != 0;
}

static inline bool disk_layer_is_used(const struct disk_layer *overlay)
{
    return __atomic_load_n(&overlay->used, __ATOMIC_ACQUIRE);
}

/* Must a page that is noted and was not written be punched before, to read as zeros? What
 * a machine wrote that was killed, or a write that failed half-way, is in the file, too. */
static inline bool disk_layer_is_written(const struct disk_layer *overlay)
{
    return __atomic_load_n(&overlay->written, __ATOMIC_ACQUIRE);
}

/* Notes the pages 64 word + n, for each bit n of mask, as present. */
void disk_layer_mark(struct disk_layer *overlay, uint64_t word, uint64_t mask);
void disk_layer_mark_pages(struct disk_layer *overlay, uint64_t first, uint64_t count);

/* Writes data without noting pages: that comes after, when all of a page is there. */
int disk_layer_write(struct disk_layer *overlay, uint64_t offset, const void *buf, size_t length);
/* The same with zeros, which take no space. */
int disk_layer_punch(struct disk_layer *overlay, uint64_t offset, uint64_t length);
int disk_layer_read(const struct disk_layer *overlay, uint64_t offset, void *buf, size_t length);
/* The same if it is in memory; else -EAGAIN, and buf may hold part of it. */
int disk_layer_read_cached(const struct disk_layer *overlay, uint64_t offset, void *buf,
                           size_t length);

/* Makes durable what was written and noted before: the data, then the changed part of
 * the map. marks: the lock for noting pages. After a failure nothing is durable that
 * was not before, and the next flush does not know of it. */
int disk_layer_flush(struct disk_layer *overlay, pthread_mutex_t *marks);

/* Copies all pages of `from` into `into`, which then has them durably. */
int disk_layer_merge(const struct disk_layer *from, struct disk_layer *into,
                     pthread_mutex_t *marks);

#endif
