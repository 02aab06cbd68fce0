/* SPDX-License-Identifier: Apache-2.0 */
/* Real pages into the store and out again, beside the bare loops. */
#include "base/cleanup.h"
#include "benchmarks/store_bench.h"
#include "store/ingest_private.h"

#include <pthread.h>

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)

/* Odd numbers, so that a median is one of them. */
#define RUNS 5
#define RANDOM_READS 2000

static double gigabytes(uint64_t pages, double seconds)
{
    return (double)pages * (double)PAGE / seconds * 1e-9;
}

/* ---- ingest ---- */

/* What storing takes: of processors, and of time. */
struct spent {
    double cpu, wall;
};

static struct spent ingest_new(const char *dir, const uint8_t *data, uint64_t pages)
{
    struct store *store = open_store(dir);
    struct error err = ERROR_INIT;
    struct spent spent;
    struct ingest *in;
    struct digest root;

    need(ingest_begin(store, &in, &err), &err, "beginning");
    spent = (struct spent){cpu_seconds(), seconds_now()};
    need(ingest_memory(in, data, pages * PAGE, &root, &err), &err, "storing pages");
    need(ingest_flush(in, &err), &err, "storing pages");
    spent = (struct spent){cpu_seconds() - spent.cpu, seconds_now() - spent.wall};
    ingest_free(in);
    store_close(store);
    return spent;
}

static void bench_new(const char *work, const uint8_t *data, uint64_t pages)
{
    _cleanup_free_ char *dir = work_path(work, "new");
    struct runs cpu = {0}, wall = {0};

    for (unsigned i = 0; i < RUNS; i++) {
        struct spent floor = {cpu_seconds(), seconds_now()}, ours;
        struct floor_groups g;

        floor_pack(data, pages, &g);
        floor = (struct spent){cpu_seconds() - floor.cpu, seconds_now() - floor.wall};
        ours = ingest_new(dir, data, pages);
        runs_add(&cpu, gigabytes(g.pages, ours.cpu), gigabytes(g.pages, floor.cpu));
        runs_add(&wall, gigabytes(g.pages, ours.wall), gigabytes(g.pages, floor.wall));
        floor_groups_clear(&g);
        remove_tree(dir);
    }
    print_runs("store.ingest.new", &cpu, 0.7, "higher", "GB/s");
    /* One ingest with the threads of its store, where the bare loops have one: what
     * there is to gain is the cores, less what has to be done in order. */
    print_runs("store.ingest.new.wall", &wall, online_cpus() > 1 ? 1.2 : 0.7, "higher", "GB/s");
}

struct half {
    struct store *store;
    const uint8_t *data;
    uint64_t pages;
    const struct floor_groups *groups;
    size_t first_group, group_count;
};

static void *ingest_half(void *context)
{
    struct half *h = context;
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    struct ingest *in;
    struct digest root;

    need(ingest_begin(h->store, &in, &err), &err, "beginning");
    need(ingest_memory(in, h->data, h->pages * PAGE, &root, &err), &err, "storing pages again");
    ingest_get_stats(in, &stats);
    if (stats.pages_new != 0)
        fail("%llu pages were not found again", (unsigned long long)stats.pages_new);
    ingest_free(in);
    return NULL;
}

static void *unpack_half(void *context)
{
    struct half *h = context;

    floor_unpack(h->groups, NULL, h->first_group, h->group_count);
    return NULL;
}

/* What two threads take, each with one of the halves. */
static double on_two_cores(void *(*work)(void *), struct half halves[2])
{
    double begin = seconds_now();
    pthread_t other;

    if (pthread_create(&other, NULL, work, &halves[1]) != 0)
        fail("cannot start a thread");
    work(&halves[0]);
    pthread_join(other, NULL);
    return seconds_now() - begin;
}

/* The pages are in the store, but not in its cache. The reference only
 * decompresses what the pages have to be compared with. */
static void bench_dup(const char *dir, const uint8_t *data, uint64_t pages,
                      const struct floor_groups *g)
{
    /* Halves by what has to be looked at: zero pages cost nothing. */
    uint64_t middle = g->firsts[g->count / 2];
    struct runs runs = {0};

    for (unsigned i = 0; i < RUNS; i++) {
        struct store *store = open_store(dir);
        struct half halves[2] = {
            {store, data, middle, g, 0, g->count / 2},
            {store, data + middle * PAGE, pages - middle, g, g->count / 2, g->count - g->count / 2},
        };
        double floor = on_two_cores(unpack_half, halves);

        runs_add(&runs, gigabytes(g->pages, on_two_cores(ingest_half, halves)),
                 gigabytes(g->pages, floor));
        store_close(store);
    }
    print_runs_limit("store.ingest.dup", &runs, 1.5, "higher", "GB/s");
}

/* Few enough pages that the store still has them decoded. */
static void bench_dup_cached(const char *dir, const uint8_t *data, const struct floor_groups *g)
{
    uint64_t pages = g->firsts[g->count < 512 ? g->count - 1 : 511];
    _cleanup_free_ uint8_t *twice = malloc(pages * PAGE);
    struct store *store = open_store(dir);
    struct half all = {.store = store, .data = data, .pages = pages};
    struct runs runs = {0};
    uint64_t present = 0;

    if (twice == NULL)
        fail("out of memory");
    memcpy(twice, data, pages * PAGE);
    for (uint64_t i = 0; i < pages; i++)
        present += !page_is_zero(data + i * PAGE);
    ingest_half(&all);
    for (unsigned i = 0; i < 3 * RUNS; i++) {
        double ours = cpu_seconds();

        ingest_half(&all);
        ours = cpu_seconds() - ours;
        runs_add(&runs, gigabytes(present, ours),
                 gigabytes(present, floor_compare(data, twice, pages)));
    }
    store_close(store);
    print_runs_limit("store.ingest.dup.cached", &runs, 5, "higher", "GB/s");
}

/* ---- reading ---- */

static int count_page(uint64_t page, const void *bytes, void *context)
{
    (void)page;
    (void)bytes;
    ++*(uint64_t *)context;
    return 0;
}

static double read_all(const char *dir, const struct digest *root, uint64_t pages,
                       uint64_t *read_out)
{
    struct store *store = open_store(dir);
    struct error err = ERROR_INIT;
    struct space *space;
    double begin, end;

    need(space_open(store, root, pages * PAGE, &space, &err), &err, "opening a map");
    *read_out = 0;
    begin = cpu_seconds();
    need(space_each_page(space, count_page, read_out, &err), &err, "reading");
    end = cpu_seconds();
    space_close(space);
    store_close(store);
    return end - begin;
}

static void bench_read_seq(const char *dir, const struct digest *root, uint64_t pages,
                           const struct floor_groups *g)
{
    struct runs runs = {0};

    for (unsigned i = 0; i < RUNS; i++) {
        double floor = cpu_seconds(), ours;
        uint64_t unpacked = floor_unpack(g, NULL, 0, g->count) / PAGE;
        uint64_t count;

        floor = cpu_seconds() - floor;
        ours = read_all(dir, root, pages, &count);
        runs_add(&runs, gigabytes(count, ours), gigabytes(unpacked, floor));
    }
    print_runs("store.read.seq", &runs, 0.8, "higher", "GB/s");
}

/* Group numbers in no order, each once: no page is in a group that was read. */
static size_t *shuffled(size_t count)
{
    size_t *order = malloc(count * sizeof(*order));
    uint64_t random = 7;

    if (order == NULL)
        fail("out of memory");
    for (size_t i = 0; i < count; i++) {
        size_t other = (size_t)(random_next(&random) % (i + 1));

        order[i] = order[other];
        order[other] = i;
    }
    return order;
}

static double read_random(const char *dir, const struct digest *root, uint64_t pages,
                          const struct floor_groups *g, const size_t *order, size_t count)
{
    struct store *store = open_store(dir);
    struct error err = ERROR_INIT;
    struct space *space;
    uint8_t page[STASIS_PAGE_SIZE];
    double begin, end;

    need(space_open(store, root, pages * PAGE, &space, &err), &err, "opening a map");
    begin = cpu_seconds();
    for (size_t i = 0; i < count; i++)
        need(space_read(space, g->firsts[order[i]] * PAGE, page, sizeof(page), &err), &err,
             "reading a page");
    end = cpu_seconds();
    space_close(space);
    store_close(store);
    return (end - begin) / (double)count * 1e6;
}

static void bench_read_random(const char *dir, const struct digest *root, uint64_t pages,
                              const struct floor_groups *g)
{
    _cleanup_free_ size_t *order = shuffled(g->count);
    size_t count = g->count < RANDOM_READS ? g->count : RANDOM_READS;
    struct runs runs = {0};

    for (unsigned i = 0; i < RUNS; i++) {
        double floor = cpu_seconds();

        floor_unpack(g, order, 0, count);
        floor = (cpu_seconds() - floor) / (double)count * 1e6;
        runs_add(&runs, read_random(dir, root, pages, g, order, count), floor);
    }
    /* At most 1.5 times what decoding one group takes. */
    print_runs("store.read.random", &runs, 1 / 1.5, "lower", "us");
}

void bench_data(const char *work, const uint8_t *data, uint64_t pages)
{
    _cleanup_free_ char *dir = work_path(work, "data");
    struct store *store;
    struct error err = ERROR_INIT;
    struct floor_groups g;
    struct ingest *in;
    struct digest root;

    bench_new(work, data, pages);
    store = open_store(dir);
    need(ingest_begin(store, &in, &err), &err, "beginning");
    need(ingest_memory(in, data, pages * PAGE, &root, &err), &err, "storing pages");
    commit_map(in, &root, pages * PAGE);
    ingest_free(in);
    store_close(store);
    floor_pack(data, pages, &g);
    bench_dup(dir, data, pages, &g);
    bench_dup_cached(dir, data, &g);
    bench_read_seq(dir, &root, pages, &g);
    bench_read_random(dir, &root, pages, &g);
    floor_groups_clear(&g);
    remove_tree(dir);
}
