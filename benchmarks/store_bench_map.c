/* SPDX-License-Identifier: Apache-2.0 */
/* What maps and the index cost. Their pages' references are made up: maps do not
 * ask what they refer to, and so 8 GiB need not be stored to have a map of them. */
#include "base/cleanup.h"
#include "base/io.h"
#include "benchmarks/store_bench.h"
#include "store/private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <zstd.h>

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define GIB_PAGES (UINT64_C(1) << 18)
#define CHANGED 1000u
#define COMMIT_RUNS 15u

DEFINE_CLEANUP(struct ingest, ingest_free)
DEFINE_CLEANUP(struct map_builder, map_builder_free)

static struct page_ref random_ref(uint64_t *random)
{
    struct page_ref ref = {.lo = random_next(random), .hi = random_next(random)};

    return page_ref_with_variant(ref, 0);
}

/* A map of `pages` pages, all present, committed. */
static struct digest full_map(struct store *store, uint64_t pages)
{
    _cleanup_(ingest_freep) struct ingest *in = NULL;
    _cleanup_(map_builder_freep) struct map_builder *b = NULL;
    struct error err = ERROR_INIT;
    uint64_t random = pages;
    struct digest root;

    need(ingest_begin(store, &in, &err), &err, "beginning");
    need(map_builder_begin(in, NULL, 0, pages, &b, &err), &err, "beginning a map");
    for (uint64_t i = 0; i < pages; i++)
        need(map_builder_set(b, i, random_ref(&random), &err), &err, "making a map");
    need(map_builder_finish(b, &root, &err), &err, "making a map");
    commit_map(in, &root, pages * PAGE);
    return root;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* `count` different page numbers below `limit` in ascending order. */
static void choose_pages(uint64_t *out, unsigned count, uint64_t limit, uint64_t *random)
{
    unsigned have = 0;

    while (have < count) {
        unsigned kept = 0;

        while (have < count)
            out[have++] = random_next(random) % limit;
        qsort(out, count, sizeof(*out), compare_numbers);
        for (unsigned i = 0; i < count; i++)
            if (kept == 0 || out[kept - 1] != out[i])
                out[kept++] = out[i];
        have = kept;
    }
}

/* ---- commit ---- */

/* Records changed pages anywhere in the map; milliseconds. */
static double record(struct store *store, const struct digest *base, uint64_t pages,
                     const uint8_t *changed, uint64_t *random)
{
    _cleanup_(ingest_freep) struct ingest *in = NULL;
    _cleanup_(map_builder_freep) struct map_builder *b = NULL;
    struct error err = ERROR_INIT;
    uint64_t numbers[CHANGED];
    struct digest root;
    double begin;

    choose_pages(numbers, CHANGED, pages, random);
    begin = seconds_now();
    need(ingest_begin(store, &in, &err), &err, "beginning");
    need(map_builder_begin(in, base, pages, pages, &b, &err), &err, "beginning a map");
    for (unsigned i = 0; i < CHANGED; i++)
        need(map_builder_put(b, numbers[i], changed + i * PAGE, true, &err), &err,
             "changing a map");
    need(map_builder_finish(b, &root, &err), &err, "changing a map");
    commit_map(in, &root, pages * PAGE);
    return (seconds_now() - begin) * 1e3;
}

/* The page data alone, compressed, written and durable: milliseconds. */
static double write_pages(const char *work, const uint8_t *changed)
{
    enum { GROUP = 16 };
    _cleanup_free_ char *path = work_path(work, "pages");
    size_t bound = ZSTD_compressBound(GROUP * PAGE);
    _cleanup_free_ uint8_t *stored = malloc(bound);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    double begin = seconds_now(), end;

    if (fd < 0 || stored == NULL)
        fail("cannot make %s", path);
    for (unsigned i = 0; i < CHANGED; i += GROUP) {
        size_t raw = (CHANGED - i < GROUP ? CHANGED - i : GROUP) * PAGE;
        size_t n = ZSTD_compress(stored, bound, changed + i * PAGE, raw, 1);

        if (ZSTD_isError(n) || write(fd, stored, n) != (ssize_t)n)
            fail("cannot write %s: %s", path, strerror(errno));
    }
    if (fdatasync(fd) < 0)
        fail("cannot write %s: %s", path, strerror(errno));
    end = seconds_now();
    unlink(path);
    return (end - begin) * 1e3;
}

/* Makes each page one that was never stored. */
static void freshen(uint8_t *pages)
{
    static uint64_t number;

    for (unsigned i = 0; i < CHANGED; i++) {
        number++;
        memcpy(pages + i * PAGE, &number, sizeof(number));
    }
}

void bench_commit(const char *work, const uint8_t *pages)
{
    _cleanup_free_ char *dir = work_path(work, "commit");
    _cleanup_free_ uint8_t *changed = malloc(CHANGED * PAGE);
    struct store *store = open_store(dir);
    struct digest small = full_map(store, GIB_PAGES), large = full_map(store, 8 * GIB_PAGES);
    struct runs sizes = {0}, beyond = {0};
    uint64_t random = 3;

    if (changed == NULL)
        fail("out of memory");
    memcpy(changed, pages, CHANGED * PAGE);
    for (unsigned i = 0; i < COMMIT_RUNS; i++) {
        double of_small, of_large;

        freshen(changed);
        of_small = record(store, &small, GIB_PAGES, changed, &random);
        freshen(changed);
        of_large = record(store, &large, 8 * GIB_PAGES, changed, &random);
        runs_add(&sizes, of_large, of_small);
        runs_add(&beyond, of_large, write_pages(work, changed));
    }
    store_close(store);
    remove_tree(dir);
    print_runs("store.commit", &sizes, 1 / 1.2, "lower", "ms");
    /* The limit is what counts here: at most 5 ms more than the page data. */
    print_figure("store.commit.beyond-data",
                 median_of(beyond.ours, beyond.count) - median_of(beyond.reference, beyond.count),
                 5, 1, "lower", "ms");
}

/* ---- the share of metadata ---- */

static uint64_t bytes_of_packs(struct store *store)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < packs_count(&store->packs); i++)
        bytes += packs_get(&store->packs, i)->bytes;
    return bytes;
}

/* Percent of the changed pages' bytes that packs of map nodes grow by. */
static double overhead(struct store *store, const struct digest *base, const uint64_t *numbers,
                       unsigned count)
{
    _cleanup_(ingest_freep) struct ingest *in = NULL;
    _cleanup_(map_builder_freep) struct map_builder *b = NULL;
    struct error err = ERROR_INIT;
    uint64_t random = 11, before = bytes_of_packs(store);
    struct digest root;

    need(ingest_begin(store, &in, &err), &err, "beginning");
    need(map_builder_begin(in, base, GIB_PAGES, GIB_PAGES, &b, &err), &err, "beginning a map");
    for (unsigned i = 0; i < count; i++)
        need(map_builder_set(b, numbers[i], random_ref(&random), &err), &err, "changing a map");
    need(map_builder_finish(b, &root, &err), &err, "changing a map");
    commit_map(in, &root, GIB_PAGES * PAGE);
    return 100.0 * (double)(bytes_of_packs(store) - before) / ((double)count * (double)PAGE);
}

void bench_map_overhead(const char *work)
{
    enum { DIRTY = 10000 };
    _cleanup_free_ char *dir = work_path(work, "overhead");
    _cleanup_free_ uint64_t *numbers = calloc(DIRTY, sizeof(*numbers));
    struct store *store = open_store(dir);
    struct digest base = full_map(store, GIB_PAGES);
    uint64_t random = 5;

    if (numbers == NULL)
        fail("out of memory");
    choose_pages(numbers, DIRTY, GIB_PAGES, &random);
    /* The limits are what counts here: percent of the pages' bytes. */
    print_figure("store.map.scattered", overhead(store, &base, numbers, DIRTY), 15, 1, "lower",
                 "%");
    for (unsigned i = 0; i < DIRTY; i++)
        numbers[i] = 12345 + i;
    print_figure("store.map.clustered", overhead(store, &base, numbers, DIRTY), 2, 1, "lower", "%");
    store_close(store);
    remove_tree(dir);
}
