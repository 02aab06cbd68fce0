/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of a store of ten million pages. Its packs are real, but for their pages:
 * all have the same bytes and made-up references, which nobody here reads.
 */
#include "base/cleanup.h"
#include "benchmarks/store_bench.h"
#include "store/private.h"
#include "store/usage.h"

#include <fcntl.h>
#include <malloc.h>
#include <string.h>

enum {
    PACKS = 250,
    GROUPS = 2500,
    GROUP_PAGES = PACK_HOT_GROUP_PAGES,
    RUNS = 7,
    BATCH = 256,
};
#define INDEXED ((uint64_t)PACKS * GROUPS * GROUP_PAGES)

DEFINE_CLEANUP(struct pack_encoder, pack_encoder_free)
DEFINE_CLEANUP(struct pack_writer, pack_writer_free)

static void encode(struct pack_encoder *e, struct pack_encoded *out)
{
    static uint8_t raw[GROUP_PAGES * STASIS_PAGE_SIZE], room[sizeof(raw)];
    struct error err = ERROR_INIT;

    memset(raw, 1, sizeof(raw));
    need(pack_group_encode(e, raw, sizeof(raw), GROUP_PAGES, room, out, &err), &err, "compressing");
}

static void make_pack(struct store *store, const struct pack_encoded *group, struct page_ref *ids)
{
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    _cleanup_free_ char *tmp = work_path(store->dir, "packs/new.tmp"), *path = NULL;
    _cleanup_close_ int fd = open(tmp, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct pack_object_id list[GROUP_PAGES];
    struct error err = ERROR_INIT;
    char name[PACK_NAME_SIZE];
    uint32_t number;

    need(pack_writer_open(fd, PACK_PAGES, 1, &w, &err), &err, "making a pack");
    for (unsigned g = 0; g < GROUPS; g++) {
        for (unsigned i = 0; i < GROUP_PAGES; i++)
            page_ref_store(ids[g * GROUP_PAGES + i], list[i].bytes);
        need(pack_writer_append(w, group, list, &number, &err), &err, "making a pack");
    }
    need(pack_writer_finish(w, &err), &err, "making a pack");
    packs_name(pack_writer_index(w)->id, name);
    path = work_path(store->dir, name);
    if (rename(tmp, path) < 0)
        fail("cannot rename %s", tmp);
    need(store_insert_pack(&store->db, pack_writer_index(w), &err), &err, "listing a pack");
}

static struct page_ref *fill_store(const char *dir)
{
    _cleanup_(pack_encoder_freep) struct pack_encoder *e = NULL;
    struct page_ref *ids = calloc(INDEXED, sizeof(*ids));
    struct store *store = open_store(dir);
    struct error err = ERROR_INIT;
    struct pack_encoded group;
    uint64_t random = 1;

    if (ids == NULL)
        fail("out of memory");
    for (uint64_t i = 0; i < INDEXED; i++)
        ids[i] =
            page_ref_with_variant((struct page_ref){random_next(&random), random_next(&random)}, 0);
    need(pack_encoder_new(1, &e, &err), &err, "compressing");
    encode(e, &group);
    need(db_begin(&store->db, &err), &err, "listing packs");
    for (unsigned p = 0; p < PACKS; p++)
        make_pack(store, &group, ids + (size_t)p * GROUPS * GROUP_PAGES);
    need(db_commit(&store->db, &err), &err, "listing packs");
    store_close(store);
    store = open_store(dir);
    need(store_index_rebuild(store, &err), &err, "writing the index");
    store_close(store);
    return ids;
}

/* What the process keeps for itself, and the files of the index, which all share. */
static double memory_in_use(const struct store *store)
{
    struct mallinfo2 info = mallinfo2();
    double bytes = (double)info.uordblks + (double)info.hblkhd;

    for (unsigned i = 0; store != NULL && i < store->packs.run_count; i++)
        bytes += (double)store->packs.runs[i]->map_bytes;
    return bytes;
}

static double lookups(struct store *store, const struct page_ref *ids, bool there)
{
    uint64_t random = 1, found = 0, done = 0;
    struct page_ref keys[BATCH];
    struct location at[BATCH];
    double begin = cpu_seconds();

    for (; done < INDEXED / 4; done += BATCH) {
        for (unsigned i = 0; i < BATCH; i++) {
            keys[i] = ids[random_next(&random) % INDEXED];
            if (!there)
                keys[i].lo = ~keys[i].lo;
        }
        packs_find_batch(&store->packs, PACK_PAGES, keys, BATCH, PACK_NONE, at);
        for (unsigned i = 0; i < BATCH; i++)
            found += at[i].pack != PACK_NONE;
    }
    begin = cpu_seconds() - begin;
    if (found != (there ? done : 0))
        fail("what is in the store is not found, or what is not is");
    return (double)done / begin * 1e-6;
}

void bench_index(const char *work)
{
    _cleanup_free_ char *dir = work_path(work, "index");
    _cleanup_free_ struct page_ref *ids = fill_store(dir);
    struct runs hit = {0}, miss = {0}, open = {0};
    double bytes = 0;

    for (unsigned i = 0; i < RUNS; i++) {
        double before = memory_in_use(NULL), begin = seconds_now(), bare;
        struct store *store = open_store(dir);

        runs_add(&open, (seconds_now() - begin) * 1e3, 100);
        lookups(store, ids, true); /* from here on all footers are loaded */
        bytes = (memory_in_use(store) - before) / (double)INDEXED;
        bare = floor_lookups(ids, INDEXED);
        runs_add(&hit, lookups(store, ids, true), bare);
        runs_add(&miss, lookups(store, ids, false), bare);
        store_close(store);
    }
    remove_tree(dir);
    print_figure("store.index.bytes-a-page", bytes, 16, 1, "lower", "B");
    print_runs("store.index.open-10M-pages", &open, 1, "lower", "ms");
    print_runs_limit("store.index.lookups", &hit, 20, "higher", "M/s");
    print_runs_limit("store.index.lookups-new", &miss, 20, "higher", "M/s");
}
