/* SPDX-License-Identifier: Apache-2.0 */
/* Writers while another process collects garbage without a pause, and while none
 * does, in turns. */
#include "base/cleanup.h"
#include "benchmarks/store_bench.h"
#include "store/catalogue.h"
#include "store/gc.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define CHUNK_PAGES 4096u
#define ROUNDS 5
#define ROUND_SECONDS 2.0

/* As the verb does: in a process of its own that lets others go first. */
static pid_t start_collector(const char *dir)
{
    pid_t pid = fork();

    if (pid < 0)
        fail("cannot fork");
    if (pid != 0)
        return pid;
    struct store *store = open_store(dir);

    setpriority(PRIO_PROCESS, 0, 10);
    for (;;) {
        struct error err = ERROR_INIT;
        struct gc_result result;

        need(store_gc(store, NULL, &result, &err), &err, "collecting");
    }
}

static void end_collector(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

struct writer {
    struct store *store;
    const uint8_t *data;
    uint64_t pages;
    uint64_t next;  /* page of data that comes next */
    uint64_t stamp; /* makes pages new */
    uint8_t *chunk;
};

/* Real pages, each a little different from all before. */
static void fill_chunk(struct writer *w)
{
    for (unsigned i = 0; i < CHUNK_PAGES; w->next = (w->next + 1) % w->pages) {
        const uint8_t *page = w->data + w->next * PAGE;

        if (page_is_zero(page))
            continue;
        memcpy(w->chunk + i * PAGE, page, PAGE);
        w->stamp++;
        memcpy(w->chunk + i++ * PAGE, &w->stamp, sizeof(w->stamp));
    }
}

/* The image before becomes garbage with it. */
static void write_chunk(struct writer *w)
{
    _cleanup_free_ struct manifest *m = calloc(1, sizeof(*m));
    struct ingest_commit commit = {
        .manifest = m, .image = "bench", .tag = "now", .replace_tag = true};
    struct error err = ERROR_INIT;
    struct digest root, id;
    struct ingest *in;

    if (m == NULL)
        fail("out of memory");
    need(ingest_begin(w->store, &in, &err), &err, "beginning");
    need(ingest_memory(in, w->chunk, CHUNK_PAGES * PAGE, &root, &err), &err, "writing");
    m->kind = CHECKPOINT_COLD;
    m->created_us = (int64_t)w->stamp;
    m->config.vcpus = 1;
    m->config.memory_bytes = 256u << 20;
    m->config.disk_count = 1;
    need(manifest_space_set(m, "disk0", CHUNK_PAGES * PAGE, &root), NULL, "naming a disk");
    need(ingest_commit(in, &commit, &id, &err), &err, "committing");
    ingest_free(in);
}

/* MB/s of writing, commits included. */
static double write_for(struct writer *w, double seconds)
{
    double spent = 0;
    uint64_t chunks = 0;

    for (; spent < seconds; chunks++) {
        double begun;

        fill_chunk(w);
        begun = seconds_now();
        write_chunk(w);
        spent += seconds_now() - begun;
    }
    return (double)(chunks * CHUNK_PAGES * PAGE) / spent / 1e6;
}

/* What there is to mark: all of the memory, as one checkpoint. */
static void keep_something(struct store *store, const uint8_t *data, uint64_t pages)
{
    struct error err = ERROR_INIT;
    struct digest root, id;
    struct ingest *in;

    need(ingest_begin(store, &in, &err), &err, "beginning");
    need(ingest_memory(in, data, pages * PAGE, &root, &err), &err, "writing");
    id = commit_map(in, &root, pages * PAGE);
    ingest_free(in);
    need(catalogue_image_set(store, "bench", "kept", &id, true, &err), &err, "naming");
}

void bench_gc(const char *work, const uint8_t *data, uint64_t pages)
{
    _cleanup_free_ char *dir = work_path(work, "gc");
    _cleanup_free_ uint8_t *chunk = malloc(CHUNK_PAGES * PAGE);
    struct writer w = {.data = data, .pages = pages, .chunk = chunk};
    struct runs runs = {0};

    if (chunk == NULL)
        fail("out of memory");
    w.store = open_store(dir);
    keep_something(w.store, data, pages);
    write_for(&w, ROUND_SECONDS / 4);
    for (unsigned i = 0; i < ROUNDS; i++) {
        double without = write_for(&w, ROUND_SECONDS), with;
        pid_t collector = start_collector(dir);

        with = write_for(&w, ROUND_SECONDS);
        end_collector(collector);
        runs_add(&runs, with, without);
    }
    print_runs("store.gc", &runs, 0.7, "higher", "MB/s");
    store_close(w.store);
    remove_tree(dir);
}
