/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded groups, least recently used dropped first. Entries are counted: who
 * holds one may use its bytes however long, whatever the cache does. Thread-safe.
 *
 * Who reads much, each page once, would fill it with what nobody asks for again, and
 * memory that is touched for the first time costs as much as decoding: his groups have
 * an eighth of the room to pass through, and stay if somebody else wants them.
 */
#ifndef STASIS_STORE_CACHE_H
#define STASIS_STORE_CACHE_H

#include "imgfmt/pack.h"
#include "store/group_memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct group_cache;
struct node_sum;

struct cached_group {
    uint64_t key;
    atomic_uint references;
    uint32_t raw_bytes;
    uint32_t first_object; /* its number in the pack */
    uint32_t object_count;
    uint8_t *raw;          /* of the memory below */
    uint32_t *offsets;     /* nodes: where each begins, and the end; NULL for pages */
    struct node_sum *sums; /* nodes: of those that were asked for; NULL for pages */
    atomic_bool *checked;  /* pages: which are known to be what the footer says */
    /* the cache's own */
    struct group_memory *memory;
    struct group_bytes bytes;
    struct cached_group *newer;
    struct cached_group *older;
    struct cached_group *bucket_next;
    bool passing;
};

enum cache_use {
    CACHE_KEEP, /* may be wanted again */
    CACHE_PASS, /* one of many that are read in order */
};

int group_cache_new(size_t limit_bytes, struct group_cache **out);
void group_cache_free(struct group_cache *cache);
/* Drops everything that nobody holds. Any thread. */
void group_cache_clear(struct group_cache *cache);

/* Keeps so many bytes at most from now on. */
void group_cache_limit(struct group_cache *cache, size_t limit_bytes);

void cached_group_release(struct cached_group *g); /* NULL is fine */

/* One reference more to a group that the caller holds. */
static inline struct cached_group *cached_group_hold(struct cached_group *g)
{
    atomic_fetch_add_explicit(&g->references, 1, memory_order_relaxed);
    return g;
}

static inline void cached_group_releasep(struct cached_group **g)
{
    cached_group_release(*g);
}

/* The key of group `group` of the pack that the caller numbers `owner`. */
static inline uint64_t group_cache_key(uint32_t owner, uint32_t group)
{
    return (uint64_t)owner << 32 | group;
}

static inline uint32_t group_cache_owner(uint64_t key)
{
    return (uint32_t)(key >> 32);
}

/* The decoded group, from the cache or from fd; the caller releases it. The
 * arguments after key are as for pack_group_read(). */
int group_cache_get(struct group_cache *cache, uint64_t key, int fd, const char *name,
                    const struct pack_index *index, uint32_t group, enum cache_use use,
                    struct cached_group **out, struct error *err);

/* Has a page of a group been compared with its key since it was decoded? */
static inline bool cached_group_is_checked(const struct cached_group *g, uint32_t position)
{
    return atomic_load_explicit(&g->checked[position], memory_order_relaxed);
}

static inline void cached_group_set_checked(struct cached_group *g, uint32_t position)
{
    atomic_store_explicit(&g->checked[position], true, memory_order_relaxed);
}

/* Only if it is there. */
struct cached_group *group_cache_peek(struct group_cache *cache, uint64_t key);

/* The bytes of one object of a group: 0, or -EBADMSG if it has no such object. */
int cached_group_object(const struct cached_group *g, uint32_t position, const uint8_t **bytes_out,
                        size_t *length_out);

/* The SHA-256 of a node, one of those that cached_group_object() gives: summed up the
 * first time, for a node near the root is read again and again. */
struct digest cached_group_digest(struct cached_group *g, uint32_t position);

#endif
