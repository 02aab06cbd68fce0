/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/overlay.h"

#include "base/bytes.h"
#include "fuse-mount/journal.h"

#include <errno.h>
#include <stdlib.h>

int overlay_add(struct overlay *o, struct overlay_block block)
{
    if (o->count == o->capacity) {
        size_t capacity = o->capacity == 0 ? 256 : o->capacity * 2;
        struct overlay_block *grown = reallocarray(o->blocks, capacity, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        o->blocks = grown;
        o->capacity = capacity;
    }
    o->blocks[o->count++] = block;
    return 0;
}

/* Merge sort (glibc's qsort falls back to an unstable one): the order of replay
 * must survive among replicas of one block. */
static void sort_stable(struct overlay_block *a, size_t count, struct overlay_block *scratch)
{
    size_t half = count / 2, i = 0, j = half;

    if (count < 2)
        return;
    sort_stable(a, half, scratch);
    sort_stable(a + half, count - half, scratch);
    memcpy(scratch, a, count * sizeof(*a));
    for (size_t k = 0; k < count; k++) {
        bool left = j == count || (i < half && scratch[i].block <= scratch[j].block);

        a[k] = left ? scratch[i++] : scratch[j++];
    }
}

int overlay_seal(struct overlay *o)
{
    struct overlay_block *scratch;
    size_t kept = 0;

    if (o->count == 0)
        return 0;
    scratch = calloc(o->count, sizeof(*scratch));
    if (scratch == NULL)
        return -ENOMEM;
    sort_stable(o->blocks, o->count, scratch);
    free(scratch);
    for (size_t i = 0; i < o->count; i++) {
        if (i + 1 == o->count || o->blocks[i + 1].block != o->blocks[i].block)
            o->blocks[kept++] = o->blocks[i];
    }
    o->count = kept;
    return 0;
}

void overlay_clear(struct overlay *o)
{
    free(o->blocks);
    *o = (struct overlay){0};
}

/* Index of the first replica at or after a block. */
static size_t overlay_find(const struct overlay *o, uint64_t block)
{
    size_t low = 0, high = o->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (o->blocks[middle].block < block)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Reads part of one replica. */
static int replica_read(const struct source *src, uint32_t block_size,
                        const struct overlay_block *b, uint32_t within, uint8_t *buf, size_t length)
{
    uint8_t magic[4];
    uint64_t at;
    int r;

    if (mul_overflows(b->replica, block_size, &at) || add_overflows(at, within, &at))
        return -ERANGE;
    r = source_read(src, at, buf, length);
    if (r < 0 || !b->escaped)
        return r;
    store_be32(magic, JOURNAL_MAGIC);
    for (uint32_t i = within; i < sizeof(magic) && i - within < length; i++)
        buf[i - within] = magic[i];
    return 0;
}

int overlay_read(const struct source *src, const struct overlay *o, uint64_t offset, void *buf,
                 size_t length)
{
    uint8_t *to = buf;
    size_t next;

    if (o == NULL || o->count == 0)
        return source_read(src, offset, buf, length);
    if (!range_fits(offset, length, src->size_bytes))
        return -ERANGE;
    next = overlay_find(o, offset / o->block_size);
    while (length > 0) {
        uint64_t block = offset / o->block_size;
        uint32_t within = (uint32_t)(offset % o->block_size);
        size_t piece = length;
        int r;

        if (next < o->count && o->blocks[next].block == block) {
            piece = min_u64(length, o->block_size - within);
            r = replica_read(src, o->block_size, &o->blocks[next++], within, to, piece);
        } else {
            if (next < o->count)
                piece = min_u64(length, (o->blocks[next].block - block) * o->block_size - within);
            r = source_read(src, offset, to, piece);
        }
        if (r < 0)
            return r;
        to += piece;
        offset += piece;
        length -= piece;
    }
    return 0;
}
