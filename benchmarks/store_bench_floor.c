/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the work costs at least: the same steps as bare loops over memory, with
 * the libraries' own functions and nothing around them.
 */
#include "base/cleanup.h"
#include "benchmarks/store_bench.h"

#include <string.h>
/* Inlined, it uses the vectors that this file is compiled for. */
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#define PAGE ((size_t)STASIS_PAGE_SIZE)
#define GROUP_BYTES (16 * PAGE)

/* As large as the store's own entries. */
struct slot {
    uint64_t lo, hi, where; /* where: 0 is empty */
};

struct table {
    struct slot *slots;
    uint64_t mask;
};

static struct table table_new(uint64_t entries)
{
    struct table t = {.mask = 1};

    while (t.mask < entries + entries / 3)
        t.mask *= 2;
    t.slots = calloc(t.mask, sizeof(*t.slots));
    if (t.slots == NULL)
        fail("out of memory");
    /* Touched once, so that the kernel's zeroing is nobody's cost. */
    memset(t.slots, 0, t.mask * sizeof(*t.slots));
    t.mask--;
    return t;
}

/* The entry's slot, or the empty one where it would be. */
static struct slot *table_find(const struct table *t, uint64_t lo, uint64_t hi)
{
    uint64_t i = lo & t->mask;

    while (t->slots[i].where != 0 && (t->slots[i].lo != lo || t->slots[i].hi != hi))
        i = (i + 1) & t->mask;
    return &t->slots[i];
}

static bool is_zero(const uint8_t *page)
{
    for (size_t i = 0; i < PAGE; i += 256) {
        uint64_t any = 0;

        for (size_t k = 0; k < 256; k += 8) {
            uint64_t word;

            memcpy(&word, page + i + k, sizeof(word));
            any |= word;
        }
        if (any != 0)
            return false;
    }
    return true;
}

struct packer {
    struct floor_groups *out;
    ZSTD_CCtx *zstd;
    uint8_t *raw;
    size_t used;
    size_t capacity;
};

static void pack_group(struct packer *p)
{
    struct floor_groups *g = p->out;
    size_t n;

    if (p->used == 0)
        return;
    n = ZSTD_compressCCtx(p->zstd, g->stored + g->stored_bytes, p->capacity - g->stored_bytes,
                          p->raw, p->used, 1);
    if (ZSTD_isError(n))
        fail("zstd: %s", ZSTD_getErrorName(n));
    g->raw_bytes[g->count++] = (uint32_t)p->used;
    g->offsets[g->count] = g->stored_bytes += n;
    p->used = 0;
}

static void packer_begin(struct packer *p, uint64_t pages, struct floor_groups *out)
{
    size_t groups = (size_t)(pages / 16 + 1);

    *out = (struct floor_groups){0};
    p->out = out;
    p->used = 0;
    p->capacity = groups * ZSTD_compressBound(GROUP_BYTES);
    p->zstd = ZSTD_createCCtx();
    p->raw = malloc(GROUP_BYTES);
    out->stored = malloc(p->capacity);
    out->offsets = calloc(groups + 1, sizeof(*out->offsets));
    out->raw_bytes = calloc(groups, sizeof(*out->raw_bytes));
    out->firsts = calloc(groups, sizeof(*out->firsts));
    if (p->zstd == NULL || p->raw == NULL || out->stored == NULL || out->offsets == NULL ||
        out->raw_bytes == NULL || out->firsts == NULL)
        fail("out of memory");
}

void floor_pack(const uint8_t *data, uint64_t pages, struct floor_groups *out)
{
    struct table table = table_new(pages);
    struct packer p;

    packer_begin(&p, pages, out);
    for (uint64_t i = 0; i < pages; i++) {
        const uint8_t *page = data + i * PAGE;
        XXH128_hash_t key;
        struct slot *slot;

        if (is_zero(page))
            continue;
        out->pages++;
        key = XXH3_128bits(page, PAGE);
        slot = table_find(&table, key.low64, key.high64);
        if (slot->where != 0)
            continue;
        *slot = (struct slot){key.low64, key.high64, i + 1};
        if (p.used == GROUP_BYTES)
            pack_group(&p);
        if (p.used == 0)
            out->firsts[out->count] = i;
        memcpy(p.raw + p.used, page, PAGE);
        p.used += PAGE;
    }
    pack_group(&p);
    ZSTD_freeCCtx(p.zstd);
    free(p.raw);
    free(table.slots);
}

void floor_groups_clear(struct floor_groups *g)
{
    free(g->stored);
    free(g->offsets);
    free(g->raw_bytes);
    free(g->firsts);
    *g = (struct floor_groups){0};
}

uint64_t floor_unpack(const struct floor_groups *g, const size_t *order, size_t first, size_t count)
{
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    _cleanup_free_ uint8_t *raw = malloc(GROUP_BYTES);
    uint64_t bytes = 0;

    if (zstd == NULL || raw == NULL)
        fail("out of memory");
    for (size_t k = first; k < first + count; k++) {
        size_t i = order != NULL ? order[k] : k;
        size_t n = ZSTD_decompressDCtx(zstd, raw, GROUP_BYTES, g->stored + g->offsets[i],
                                       g->offsets[i + 1] - g->offsets[i]);

        if (ZSTD_isError(n) || n != g->raw_bytes[i])
            fail("zstd does not give back what it got");
        bytes += n;
    }
    ZSTD_freeDCtx(zstd);
    return bytes;
}

double floor_compare(const uint8_t *data, const uint8_t *twice, uint64_t pages)
{
    struct table table = table_new(pages);
    uint64_t equal = 0, present = 0;
    double begin;

    for (uint64_t i = 0; i < pages; i++) {
        XXH128_hash_t key = XXH3_128bits(twice + i * PAGE, PAGE);
        struct slot *slot = table_find(&table, key.low64, key.high64);

        *slot = (struct slot){key.low64, key.high64, i + 1};
    }
    begin = cpu_seconds();
    for (uint64_t i = 0; i < pages; i++) {
        const uint8_t *page = data + i * PAGE;
        XXH128_hash_t key;
        const struct slot *slot;

        if (is_zero(page))
            continue;
        present++;
        key = XXH3_128bits(page, PAGE);
        slot = table_find(&table, key.low64, key.high64);
        equal += slot->where != 0 && memcmp(twice + (slot->where - 1) * PAGE, page, PAGE) == 0;
    }
    begin = cpu_seconds() - begin;
    if (equal != present)
        fail("the same pages are not the same");
    free(table.slots);
    return begin;
}

double floor_lookups(const struct page_ref *ids, uint64_t count)
{
    enum { BATCH = 32 };
    struct table table = table_new(count);
    uint64_t found = 0, done = 0, random = 1;
    double begin;

    for (uint64_t i = 0; i < count; i++)
        *table_find(&table, ids[i].lo, ids[i].hi) = (struct slot){ids[i].lo, ids[i].hi, i + 1};
    begin = cpu_seconds();
    for (; done < count; done += BATCH) {
        const struct page_ref *batch[BATCH];

        for (unsigned i = 0; i < BATCH; i++) {
            batch[i] = &ids[random_next(&random) % count];
            __builtin_prefetch(&table.slots[batch[i]->lo & table.mask]);
        }
        for (unsigned i = 0; i < BATCH; i++)
            found += table_find(&table, batch[i]->lo, batch[i]->hi)->where != 0;
    }
    begin = cpu_seconds() - begin;
    if (found != done)
        fail("what is in the table is not found");
    free(table.slots);
    return (double)done / begin * 1e-6;
}
