/* SPDX-License-Identifier: Apache-2.0 */
#include "store/cache.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "imgfmt/map.h"
#include "imgfmt/pack_mend.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define CACHE_BUCKETS 4096u

/* A process that may keep less reads little, and counts what it costs. */
#define HUGE_FROM_BYTES ((size_t)64 << 20)

enum sum_state {
    SUM_UNKNOWN,
    SUM_COMING, /* a thread is about to store it */
    SUM_KNOWN,
};

struct node_sum {
    _Atomic enum sum_state state;
    struct digest digest;
};

/* Groups by when they were used last. */
struct order {
    size_t limit_bytes;
    size_t used_bytes;
    struct cached_group *newest;
    struct cached_group *oldest;
};

struct group_cache {
    struct group_memory *memory;
    pthread_mutex_t lock;
    struct order kept;
    struct order passing;
    struct cached_group *buckets[CACHE_BUCKETS];
};

static void set_limits(struct group_cache *cache, size_t limit_bytes)
{
    cache->passing.limit_bytes = limit_bytes / 8;
    cache->kept.limit_bytes = limit_bytes - limit_bytes / 8;
    group_memory_set_huge(cache->memory, limit_bytes >= HUGE_FROM_BYTES);
}

int group_cache_new(size_t limit_bytes, struct group_cache **out)
{
    struct group_cache *cache = calloc(1, sizeof(*cache));

    if (cache == NULL)
        return -ENOMEM;
    cache->memory = group_memory_new();
    if (cache->memory == NULL) {
        free(cache);
        return -ENOMEM;
    }
    set_limits(cache, limit_bytes);
    pthread_mutex_init(&cache->lock, NULL);
    *out = cache;
    return 0;
}

void cached_group_release(struct cached_group *g)
{
    if (g == NULL || atomic_fetch_sub_explicit(&g->references, 1, memory_order_acq_rel) != 1)
        return;
    if (g->raw != NULL)
        group_memory_give(g->memory, &g->bytes);
    free(g->checked);
    free(g->offsets);
    free(g->sums);
    free(g);
}

static struct cached_group **bucket_of(struct group_cache *cache, uint64_t key)
{
    uint64_t h = key * UINT64_C(0x9e3779b97f4a7c15);

    return &cache->buckets[h >> 52];
}

static struct order *order_of(struct group_cache *cache, const struct cached_group *g)
{
    return g->passing ? &cache->passing : &cache->kept;
}

static void unlink_from_order(struct group_cache *cache, struct cached_group *g)
{
    struct order *order = order_of(cache, g);

    if (g->newer != NULL)
        g->newer->older = g->older;
    else
        order->newest = g->older;
    if (g->older != NULL)
        g->older->newer = g->newer;
    else
        order->oldest = g->newer;
    g->newer = g->older = NULL;
    order->used_bytes -= g->raw_bytes;
}

static void make_newest(struct group_cache *cache, struct cached_group *g)
{
    struct order *order = order_of(cache, g);

    g->older = order->newest;
    if (order->newest != NULL)
        order->newest->newer = g;
    else
        order->oldest = g;
    order->newest = g;
    order->used_bytes += g->raw_bytes;
}

static void evict_oldest(struct group_cache *cache, struct order *order)
{
    struct cached_group *g = order->oldest;
    struct cached_group **link = bucket_of(cache, g->key);

    while (*link != g)
        link = &(*link)->bucket_next;
    *link = g->bucket_next;
    unlink_from_order(cache, g);
    cached_group_release(g);
}

static void evict_all(struct group_cache *cache)
{
    while (cache->kept.oldest != NULL)
        evict_oldest(cache, &cache->kept);
    while (cache->passing.oldest != NULL)
        evict_oldest(cache, &cache->passing);
}

void group_cache_free(struct group_cache *cache)
{
    if (cache == NULL)
        return;
    evict_all(cache);
    pthread_mutex_destroy(&cache->lock);
    group_memory_release(cache->memory);
    free(cache);
}

static void evict_to_limit_locked(struct group_cache *cache, struct order *order,
                                  const struct cached_group *keep)
{
    while (order->used_bytes > order->limit_bytes && order->oldest != keep)
        evict_oldest(cache, order);
}

void group_cache_clear(struct group_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    evict_all(cache);
    pthread_mutex_unlock(&cache->lock);
    group_memory_trim(cache->memory);
}

void group_cache_limit(struct group_cache *cache, size_t limit_bytes)
{
    pthread_mutex_lock(&cache->lock);
    set_limits(cache, limit_bytes);
    evict_to_limit_locked(cache, &cache->kept, NULL);
    evict_to_limit_locked(cache, &cache->passing, NULL);
    pthread_mutex_unlock(&cache->lock);
    group_memory_trim(cache->memory);
}

static struct cached_group *find_locked(struct group_cache *cache, uint64_t key, enum cache_use use)
{
    struct cached_group *g = *bucket_of(cache, key);
    bool stays;

    while (g != NULL && g->key != key)
        g = g->bucket_next;
    if (g == NULL)
        return NULL;
    atomic_fetch_add_explicit(&g->references, 1, memory_order_relaxed);
    stays = g->passing && use == CACHE_KEEP;
    if (stays || g != order_of(cache, g)->newest) {
        unlink_from_order(cache, g);
        g->passing = g->passing && !stays;
        make_newest(cache, g);
    }
    if (stays)
        evict_to_limit_locked(cache, &cache->kept, g);
    return g;
}

static struct cached_group *find(struct group_cache *cache, uint64_t key, enum cache_use use)
{
    struct cached_group *g;

    pthread_mutex_lock(&cache->lock);
    g = find_locked(cache, key, use);
    pthread_mutex_unlock(&cache->lock);
    return g;
}

struct cached_group *group_cache_peek(struct group_cache *cache, uint64_t key)
{
    return find(cache, key, CACHE_KEEP);
}

/* Takes over `fresh` and returns what the cache then has under its key: the
 * same, or what another thread put there first. */
static struct cached_group *insert(struct group_cache *cache, struct cached_group *fresh,
                                   enum cache_use use)
{
    struct cached_group *g;

    pthread_mutex_lock(&cache->lock);
    g = find_locked(cache, fresh->key, use);
    if (g == NULL) {
        struct cached_group **bucket = bucket_of(cache, fresh->key);

        g = steal_pointer(fresh);
        atomic_fetch_add_explicit(&g->references, 1, memory_order_relaxed);
        g->bucket_next = *bucket;
        *bucket = g;
        g->passing = use == CACHE_PASS;
        make_newest(cache, g);
        evict_to_limit_locked(cache, order_of(cache, g), g);
    }
    pthread_mutex_unlock(&cache->lock);
    cached_group_release(fresh);
    return g;
}

/* Nodes lie end to end: find where each begins, once for all readers. */
static int find_nodes(struct cached_group *g, const char *name, const struct pack_group *info,
                      struct error *err)
{
    size_t offset = 0;

    g->offsets = malloc(sizeof(*g->offsets) * (g->object_count + 1u));
    g->sums = calloc(g->object_count + 1u, sizeof(*g->sums));
    if (g->offsets == NULL || g->sums == NULL)
        return error_errno(err, ENOMEM, "reading %s", name);
    for (uint32_t i = 0; i < g->object_count; i++) {
        size_t length = map_node_length(g->raw + offset, g->raw_bytes - offset);

        if (length == 0 || length > g->raw_bytes - offset)
            return error_corrupt(err, "%s: the group at offset %llu does not hold %u map nodes",
                                 name, (unsigned long long)info->offset, g->object_count);
        g->offsets[i] = (uint32_t)offset;
        offset += length;
    }
    g->offsets[g->object_count] = (uint32_t)offset;
    return 0;
}

/* Whoever reads goes on where the pack's parity allows. It is said once, not for
 * each group: verify knows it all. */
static int read_group(int fd, const char *name, const struct pack_index *index, uint32_t group,
                      void *raw, struct error *err)
{
    static atomic_bool said;
    struct error cause = ERROR_INIT;
    int r = pack_group_read(fd, name, index, group, raw, &cause);

    if ((r != -EBADMSG && r != -EIO) || index->parity_bytes == 0) {
        if (r < 0 && err != NULL)
            *err = cause;
        return r;
    }
    if (pack_group_rescue(fd, name, index, group, raw, NULL) < 0) {
        if (err != NULL)
            *err = cause;
        return r;
    }
    if (!atomic_exchange(&said, true))
        log_event("%s; made good from its parity (mend the file: stasis repair)", cause.message);
    return 0;
}

int group_cache_get(struct group_cache *cache, uint64_t key, int fd, const char *name,
                    const struct pack_index *index, uint32_t group, enum cache_use use,
                    struct cached_group **out, struct error *err)
{
    const struct pack_group *info = &index->groups[group];
    _cleanup_(cached_group_releasep) struct cached_group *g = find(cache, key, use);
    int r;

    if (g != NULL) {
        *out = steal_pointer(g);
        return 0;
    }
    g = calloc(1, sizeof(*g));
    if (g == NULL)
        return error_errno(err, ENOMEM, "reading %s", name);
    atomic_init(&g->references, 1);
    g->key = key;
    g->raw_bytes = info->raw_bytes;
    g->first_object = info->first_object;
    g->object_count = info->object_count;
    g->checked = calloc(info->object_count + 1u, sizeof(*g->checked));
    if (g->checked == NULL || group_memory_take(cache->memory, info->raw_bytes, &g->bytes) < 0)
        return error_errno(err, ENOMEM, "reading %s", name);
    g->memory = cache->memory;
    g->raw = g->bytes.bytes;
    r = read_group(fd, name, index, group, g->raw, err);
    if (r == 0 && index->kind == PACK_NODES)
        r = find_nodes(g, name, info, err);
    if (r < 0)
        return r;
    *out = insert(cache, steal_pointer(g), use);
    return 0;
}

int cached_group_object(const struct cached_group *g, uint32_t position, const uint8_t **bytes_out,
                        size_t *length_out)
{
    uint64_t offset = (uint64_t)position * STASIS_PAGE_SIZE;

    if (position >= g->object_count)
        return -EBADMSG;
    if (g->offsets != NULL) {
        *bytes_out = g->raw + g->offsets[position];
        *length_out = g->offsets[position + 1] - g->offsets[position];
        return 0;
    }
    if (offset + STASIS_PAGE_SIZE > g->raw_bytes)
        return -EBADMSG;
    *bytes_out = g->raw + offset;
    *length_out = STASIS_PAGE_SIZE;
    return 0;
}

struct digest cached_group_digest(struct cached_group *g, uint32_t position)
{
    struct node_sum *sum = &g->sums[position];
    enum sum_state state = atomic_load_explicit(&sum->state, memory_order_acquire);
    struct digest digest;

    if (state == SUM_KNOWN)
        return sum->digest;
    digest =
        digest_of(g->raw + g->offsets[position], g->offsets[position + 1] - g->offsets[position]);
    /* Of several threads one stores it; the others have theirs. */
    if (state == SUM_UNKNOWN && atomic_compare_exchange_strong(&sum->state, &state, SUM_COMING)) {
        sum->digest = digest;
        atomic_store_explicit(&sum->state, SUM_KNOWN, memory_order_release);
    }
    return digest;
}
