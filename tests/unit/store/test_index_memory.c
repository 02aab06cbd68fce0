/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory: that of the index keeps to its limit, everything is found however little it may
 * be, and neighbours are asked first; an ingest takes little. The packs of the index are
 * real but for their pages: all have the same bytes and made-up references, which
 * nobody here reads.
 */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/private.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PACKS = 20, GROUPS = 1024, GROUP_PAGES = 16, PACK_PAGES_COUNT = GROUPS * GROUP_PAGES };
#define INDEXED ((uint32_t)PACKS * PACK_PAGES_COUNT)
#define MIB (UINT64_C(1) << 20)

DEFINE_CLEANUP(struct pack_encoder, pack_encoder_free)
DEFINE_CLEANUP(struct pack_writer, pack_writer_free)

/* Page `n` of all. */
static struct page_ref made_up(uint32_t n)
{
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15) * (n + 1);

    return page_ref_with_variant((struct page_ref){random_next(&seed), random_next(&seed)}, 0);
}

static void make_pack(struct store *store, unsigned number, const struct pack_encoded *group)
{
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    struct pack_object_id ids[GROUP_PAGES];
    struct error err = ERROR_INIT;
    char name[PACK_NAME_SIZE];
    uint32_t at;
    int fd = store_create_pack(store, name, &err);

    assert_true(fd >= 0);
    must(pack_writer_open(fd, PACK_PAGES, 1, &w, &err), &err);
    for (uint32_t g = 0; g < GROUPS; g++) {
        for (uint32_t i = 0; i < GROUP_PAGES; i++)
            page_ref_store(made_up(number * PACK_PAGES_COUNT + g * GROUP_PAGES + i), ids[i].bytes);
        must(pack_writer_append(w, group, ids, &at, &err), &err);
    }
    must(pack_writer_finish(w, &err), &err);
    must(store_seal_pack(store, fd, pack_writer_index(w)->id, name, &err), &err);
    must(store_insert_pack(&store->db, pack_writer_index(w), &err), &err);
    close(fd);
}

/* 320 thousand pages, of which the index has 9 MiB. */
static void fill_store(struct fixture *f)
{
    static uint8_t raw[GROUP_PAGES * STASIS_PAGE_SIZE], room[sizeof(raw)];
    _cleanup_(pack_encoder_freep) struct pack_encoder *e = NULL;
    struct error err = ERROR_INIT;
    struct pack_encoded group;

    memset(raw, 1, sizeof(raw));
    must(pack_encoder_new(1, &e, &err), &err);
    must(pack_group_encode(e, raw, sizeof(raw), GROUP_PAGES, room, &group, &err), &err);
    must(db_begin(&f->store->db, &err), &err);
    for (unsigned p = 0; p < PACKS; p++)
        make_pack(f->store, p, &group);
    must(db_commit(&f->store->db, &err), &err);
    fixture_reopen(f);
    must(store_index_rebuild(f->store, &err), &err);
    fixture_reopen(f);
}

/* In bytes, of mapped files. */
static uint64_t resident(void)
{
    FILE *status = fopen("/proc/self/status", "re");
    char line[128];
    uint64_t kib = 0;

    assert_non_null(status);
    while (fgets(line, sizeof(line), status) != NULL)
        if (strncmp(line, "RssFile:", 8) == 0)
            kib = strtoull(line + 8, NULL, 10);
    fclose(status);
    assert_int_not_equal(kib, 0);
    return kib * 1024;
}

static void assert_found(struct store *store, const struct location *at, uint32_t n)
{
    assert_int_not_equal(at->pack, PACK_NONE);
    assert_true(page_ref_equal(at->id, made_up(n)));
    assert_int_equal(at->pack, n / PACK_PAGES_COUNT);
    assert_int_equal(at->object, n % PACK_PAGES_COUNT);
    assert_int_equal(packs_state(&store->packs, at->pack), PACK_LIVE);
}

/* Looks up pages from anywhere; the most memory that was in use. */
static uint64_t look_anywhere(struct store *store, unsigned rounds)
{
    enum { COUNT = 32 };
    uint64_t seed = 1, most = 0;

    for (unsigned round = 0; round < rounds; round++) {
        struct page_ref keys[COUNT];
        struct location at[COUNT];
        uint32_t numbers[COUNT];

        for (unsigned i = 0; i < COUNT; i++) {
            numbers[i] = (uint32_t)(random_next(&seed) % INDEXED);
            keys[i] = made_up(numbers[i]);
            /* And some that are not there. */
            if (i % 4 == 3)
                keys[i].lo = ~keys[i].lo;
        }
        packs_find_batch(&store->packs, PACK_PAGES, keys, COUNT, PACK_NONE, at);
        for (unsigned i = 0; i < COUNT; i++) {
            if (i % 4 == 3)
                assert_int_equal(at[i].pack, PACK_NONE);
            else
                assert_found(store, &at[i], numbers[i]);
        }
        most = packs_memory(&store->packs) > most ? packs_memory(&store->packs) : most;
    }
    return most;
}

static void it_keeps_to_its_limit_and_finds_everything(void **state)
{
    struct fixture *f = *state;
    uint64_t before;

    fill_store(f);
    packs_limit_memory(&f->store->packs, 2 * MIB);
    look_anywhere(f->store, 1);
    before = resident();
    assert_true(look_anywhere(f->store, 60) <= 2 * MIB);
    assert_in_range(resident(), 0, before + 2 * MIB);
    /* Without one, all of it comes into memory. */
    packs_limit_memory(&f->store->packs, PACKS_MEMORY_DEFAULT);
    assert_true(look_anywhere(f->store, 600) > 6 * MIB);
    /* And goes again. */
    packs_limit_memory(&f->store->packs, 2 * MIB);
    assert_in_range(packs_memory(&f->store->packs), 0, 2 * MIB);
    assert_in_range(resident(), 0, before + 2 * MIB);
}

static void neighbours_need_no_look_into_the_index(void **state)
{
    enum { FROM = 3 * PACK_PAGES_COUNT, COUNT = 4000 };
    struct fixture *f = *state;
    struct page_ref *keys = calloc(COUNT, sizeof(*keys));
    struct location *at = calloc(COUNT, sizeof(*at));
    uint64_t touched = 0;

    fill_store(f);
    packs_limit_memory(&f->store->packs, 9 * MIB);
    assert_true(packs_are_crowded(&f->store->packs));
    /* Pages in the order they were stored in, some of which have changed since. */
    for (uint32_t i = 0; i < COUNT; i++) {
        keys[i] = made_up(FROM + i);
        if (i % 1000 == 999)
            keys[i].hi = ~keys[i].hi;
    }
    packs_find_batch(&f->store->packs, PACK_PAGES, keys, COUNT, PACK_NONE, at);
    for (uint32_t i = 0; i < COUNT; i++) {
        if (i % 1000 == 999)
            assert_int_equal(at[i].pack, PACK_NONE);
        else
            assert_found(f->store, &at[i], FROM + i);
    }
    for (unsigned i = 0; i < f->store->packs.run_count; i++)
        touched += f->store->packs.runs[i]->touched;
    /* One look for the first page and one for each that has changed, each of which may
     * lie on both sides of a border. */
    assert_in_range(touched, 1, 2 * 5 * 65536);
    free(keys);
    free(at);
}

static void nobody_is_stopped_by_a_limit_of_nothing(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;

    fill_store(f);
    packs_limit_memory(&f->store->packs, 0);
    look_anywhere(f->store, 3);
    must(store_index_rebuild(f->store, &err), &err);
    look_anywhere(f->store, 3);
    assert_in_range(packs_memory(&f->store->packs), 0, MIB / 2);
}

static void a_limit_that_is_none_is_refused(void **state)
{
    struct fixture *f = *state;

    for (const char *const *bad =
             (const char *const[]){"much", "1G", "-1", " 5", "99999999999999999999", NULL};
         *bad != NULL; bad++) {
        struct error err = ERROR_INIT;
        struct store *store;

        setenv("STASIS_INDEX_MEMORY", *bad, 1);
        assert_int_equal(store_open(f->store_dir, false, &store, &err), -EINVAL);
        assert_non_null(strstr(err.message, "STASIS_INDEX_MEMORY"));
    }
    setenv("STASIS_INDEX_MEMORY", "7", 1);
    fixture_reopen(f);
    unsetenv("STASIS_INDEX_MEMORY");
    assert_int_equal(f->store->packs.memory_max, 7 * MIB);
}

/* All checksums are right, and still it is another page. */
static void a_page_that_is_not_what_its_footer_says_is_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    uint8_t page[STASIS_PAGE_SIZE];

    fill_store(f);
    assert_int_equal(store_page_read(f->store, made_up(5), page, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "not the page that its footer says"));
}

/* ---- ingest ---- */

static uint64_t allocated(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

static int note_most(uint64_t done, void *context)
{
    uint64_t *most = context, now = allocated();

    (void)done;
    *most = now > *most ? now : *most;
    return 0;
}

/* Batches are of 8 MiB, and nobody waits for the disk with more than some of them. What
 * grows is 50 bytes a page, and what was decoded to be compared, as far as the cache
 * may: with keys that collide that is all. (Sanitizers have an allocator of their own
 * and say 0.) */
static void storing_much_takes_little_memory(void **state)
{
    enum { BYTES = 192 << 20, CHUNK = 1 << 20, CACHE = 8 << 20 };
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/file", f->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    _cleanup_free_ uint8_t *chunk = malloc(CHUNK);
    struct error err = ERROR_INIT;
    uint64_t before, most = 0;
    struct ingest_stats stats;
    struct ingest *in;
    struct digest root;

    for (uint64_t at = 0; at < BYTES; at += CHUNK) {
        for (uint64_t i = 0; i < CHUNK; i += STASIS_PAGE_SIZE)
            fill_page(chunk + i, at + i);
        assert_int_equal(io_pwrite_full(fd, chunk, CHUNK, at), 0);
    }
    store_limit_cache(f->store, CACHE);
    before = allocated();
    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_file(in, fd, BYTES, note_most, &most, &root, &err), &err);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages_new, BYTES / STASIS_PAGE_SIZE);
    ingest_free(in);
    assert_true(most == 0 || most - before < 40 * MIB + CACHE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_keeps_to_its_limit_and_finds_everything),
        TEST(neighbours_need_no_look_into_the_index),
        TEST(nobody_is_stopped_by_a_limit_of_nothing),
        TEST(a_limit_that_is_none_is_refused),
        TEST(a_page_that_is_not_what_its_footer_says_is_refused),
        TEST(storing_much_takes_little_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
