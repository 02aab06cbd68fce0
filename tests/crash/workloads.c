/* SPDX-License-Identifier: Apache-2.0 */
#include "workloads.h"

#include "shim.h"
#include "witness.h"

#include "../unit/store/helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/gc.h"

#include <sys/stat.h>
#include <sys/wait.h>

enum { PAGES = 40 };

/* ---- calls, announced ---- */

static struct store *open_store(const char *dir, bool create)
{
    struct error err = ERROR_INIT;
    struct store *store;

    must(store_open(dir, create, &store, &err), &err);
    return store;
}

/* A disk of PAGES pages: `first` and up, some zeros. */
static struct disk make_disk(uint32_t seeds[PAGES], uint32_t first)
{
    for (unsigned i = 0; i < PAGES; i++)
        seeds[i] = i % 8 == 7 ? 0 : first + i;
    return (struct disk){PAGES, seeds};
}

static struct digest put(struct store *store, const struct disk *disk, const char *machine,
                         const char *name, const char *image)
{
    struct put how = {machine, name, image};
    struct error err = ERROR_INIT;
    struct digest id;
    uint64_t call = call_begin();

    must(put_disk(store, disk, &how, &id, &err), &err);
    call_content(&id, disk);
    call_end(call, store);
    return id;
}

#define ANNOUNCED(store, expression)                                                               \
    do {                                                                                           \
        struct error err = ERROR_INIT;                                                             \
        uint64_t call = call_begin();                                                              \
                                                                                                   \
        must((expression), &err);                                                                  \
        call_end(call, (store));                                                                   \
    } while (0)

/* ---- workloads ---- */

static void first_checkpoint(const char *dir)
{
    struct store *store = open_store(dir, true);
    uint32_t seeds[PAGES];
    struct disk disk = make_disk(seeds, 1);

    put(store, &disk, NULL, NULL, "base");
    store_close(store);
}

/* A machine, checkpoints of it that share pages, names that move and go. */
static void life_of_a_machine(const char *dir)
{
    struct store *store = open_store(dir, true);
    uint32_t seeds[PAGES];
    struct disk disk = make_disk(seeds, 1);
    struct digest base = put(store, &disk, NULL, NULL, "base"), one;

    ANNOUNCED(store, catalogue_machine_create(store, "web", &base, &err));
    seeds[3] = 500;
    seeds[20] = 501;
    one = put(store, &disk, "web", "one", NULL);
    seeds[4] = seeds[3];
    seeds[21] = 0;
    put(store, &disk, "web", "two", "base");
    ANNOUNCED(store, catalogue_image_set(store, "kept", "1", &one, true, &err));
    store_close(store);
    store = open_store(dir, false);
    seeds[0] = 502;
    put(store, &disk, "web", NULL, NULL);
    ANNOUNCED(store, catalogue_image_remove(store, "kept", "1", &err));
    ANNOUNCED(store, catalogue_checkpoint_remove(store, &one, &err));
    ANNOUNCED(store, catalogue_machine_remove(store, "web", &err));
    seeds[1] = 503;
    put(store, &disk, NULL, NULL, "late");
    store_close(store);
}

/* Begins an ingest and writes a disk into it; the commit is for later. */
static struct ingest *begin(struct store *store, const struct disk *disk, struct digest *root)
{
    _cleanup_free_ uint8_t *bytes = calloc(disk->pages, STASIS_PAGE_SIZE);
    struct error err = ERROR_INIT;
    struct ingest *in;

    for (unsigned i = 0; i < disk->pages; i++)
        if (disk->seeds[i] != 0)
            fill_page(bytes + (size_t)i * STASIS_PAGE_SIZE, disk->seeds[i]);
    must(ingest_begin(store, &in, &err), &err);
    must(ingest_memory(in, bytes, (uint64_t)disk->pages * STASIS_PAGE_SIZE, root, &err), &err);
    return in;
}

static void end(struct store *store, struct ingest *in, const struct disk *disk,
                const struct digest *root, const char *image)
{
    struct error err = ERROR_INIT;
    struct digest id;
    struct manifest m;

    make_manifest(&m, root, (uint64_t)disk->pages * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m, .image = image, .tag = "1"};
    uint64_t call = call_begin();

    must(ingest_commit(in, &commit, &id, &err), &err);
    call_content(&id, disk);
    call_end(call, store);
    ingest_free(in);
}

/* Two processes as one: two stores on one directory, whose ingests overlap; with
 * short keys the second to commit has to rename pages. One more is given up. */
static void writers_that_overlap(const char *dir)
{
    struct store *a = open_store(dir, true), *b = open_store(dir, false);
    uint32_t seeds_a[PAGES], seeds_b[PAGES], seeds_c[PAGES];
    struct disk disk_a = make_disk(seeds_a, 1), disk_b = make_disk(seeds_b, 30);
    struct disk disk_c = make_disk(seeds_c, 2000);
    struct digest root_a, root_b, root_c;
    struct ingest *in_a = begin(a, &disk_a, &root_a), *in_b = begin(b, &disk_b, &root_b);
    struct ingest *in_c = begin(b, &disk_c, &root_c);

    end(a, in_a, &disk_a, &root_a, "a");
    ingest_free(in_c);
    end(b, in_b, &disk_b, &root_b, "b");
    in_a = begin(a, &disk_b, &root_a);
    end(a, in_a, &disk_b, &root_a, "c");
    store_close(a);
    put(b, &disk_c, NULL, NULL, "d");
    store_close(b);
}

/* What went is collected; what a writer still relies on is not, and a sparse pack is
 * written again. */
static void garbage_goes(const char *dir)
{
    struct store *store = open_store(dir, true);
    uint32_t seeds[PAGES], wide_seeds[PAGES];
    struct disk disk = make_disk(seeds, 1), wide = make_disk(wide_seeds, 100);
    struct gc_result result;
    struct digest root;
    struct ingest *in;

    put(store, &disk, NULL, NULL, "base");
    put(store, &wide, NULL, NULL, "wide");
    memset(wide_seeds + PAGES / 4, 0, sizeof(wide_seeds) - sizeof(wide_seeds) / 4);
    put(store, &wide, NULL, NULL, "slim");
    in = begin(store, &disk, &root);
    ANNOUNCED(store, catalogue_image_remove(store, "base", "1", &err));
    ANNOUNCED(store, catalogue_image_remove(store, "wide", "1", &err));
    ANNOUNCED(store, store_gc(store, NULL, &result, &err));
    end(store, in, &disk, &root, "again");
    ANNOUNCED(store, store_gc(store, NULL, &result, &err));
    ANNOUNCED(store, catalogue_image_remove(store, "again", "1", &err));
    ANNOUNCED(store, store_gc(store, NULL, &result, &err));
    put(store, &disk, NULL, NULL, "late");
    store_close(store);
}

static int repair(struct store *store, struct error *err)
{
    struct verify_options options = {.repair = true};
    struct verify_result result;
    int r = store_verify(store, &options, &result, err);

    assert_true(r < 0 || result.mended > 1);
    return r;
}

static void repaired(const char *dir)
{
    struct store *store = open_store(dir, true);
    uint32_t seeds[PAGES];
    struct disk disk = make_disk(seeds, 1);

    put(store, &disk, NULL, NULL, "a");
    store_close(store);
    damage_packs(dir);
    store = open_store(dir, false);
    ANNOUNCED(store, repair(store, &err));
    store_close(store);
}

/* What a commit of an image changes, for a writer who is not alone. */
static void tell(uint64_t call, const struct digest *id, const char *image)
{
    char hex[DIGEST_HEX_SIZE];
    _cleanup_free_ char *lines = NULL;

    digest_hex(id, hex);
    lines = io_format("+checkpoint %s -@-\n+image %s:1 %s\n", hex, image, hex);
    call_end_with(call, lines);
}

static void write_some(const char *dir, uint32_t number)
{
    struct store *store = open_store(dir, false);

    for (uint32_t i = 0; i < 3; i++) {
        _cleanup_free_ char *image = io_format("p%u-%u", number, i);
        uint32_t seeds[PAGES];
        struct disk disk = make_disk(seeds, number * 1000 + i * 5);
        struct put how = {.image = image};
        struct error err = ERROR_INIT;
        uint64_t call = call_begin();
        struct digest id;

        must(put_disk(store, &disk, &how, &id, &err), &err);
        call_content(&id, &disk);
        tell(call, &id, image);
    }
    store_close(store);
}

/* There is none, but it has to find that out beside writers. */
static void collect_some(const char *dir)
{
    struct store *store = open_store(dir, false);

    for (uint32_t i = 0; i < 3; i++) {
        uint64_t call = call_begin();
        struct error err = ERROR_INIT;
        struct gc_result result;

        must(store_gc(store, NULL, &result, &err), &err);
        call_end_with(call, "");
    }
    store_close(store);
}

static void processes_at_once(const char *dir)
{
    enum { PROCESSES = 3 };
    pid_t pids[PROCESSES];

    store_close(open_store(dir, true));
    for (uint32_t i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            if (i == 0)
                collect_some(dir);
            else
                write_some(dir, i);
            _exit(0);
        }
    }
    for (uint32_t i = 0; i < PROCESSES; i++) {
        int status;

        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
}

const struct workload workloads[] = {
    {"first", first_checkpoint}, {"machine", life_of_a_machine}, {"overlap", writers_that_overlap},
    {"garbage", garbage_goes},   {"repair", repaired},           {"processes", processes_at_once},
};
const size_t workload_count = ARRAY_LEN(workloads);

void workload_record(const struct workload *workload, const char *root)
{
    _cleanup_free_ char *disk = io_format("%s/disk", root);
    _cleanup_free_ char *store = io_format("%s/store", disk);

    assert_int_equal(mkdir(disk, 0700), 0);
    shim_root(disk);
    calls_reset();
    shim_record(true);
    workload->run(store);
    shim_record(false);
}
