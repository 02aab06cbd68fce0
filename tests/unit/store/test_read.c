/* SPDX-License-Identifier: Apache-2.0 */
/* Reading whole spaces in order, with several threads. */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/private.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 2500 };

DEFINE_CLEANUP(struct pack_writer, pack_writer_free)
DEFINE_CLEANUP(struct space, space_close)

/* Some zeros, some pages that repeat. */
static uint8_t *sparse_pages(void)
{
    uint8_t *data = make_pages(PAGES, 1);

    for (size_t i = 0; i < PAGES; i++) {
        if (i % 7 == 0)
            memset(data + i * STASIS_PAGE_SIZE, 0, STASIS_PAGE_SIZE);
        else if (i % 5 == 0)
            fill_page(data + i * STASIS_PAGE_SIZE, i % 11);
    }
    return data;
}

static struct space *open_disk(struct store *store, const struct digest *id)
{
    struct error err = ERROR_INIT;
    struct space *space;
    struct manifest m;

    must(catalogue_manifest_read(store, id, &m, &err), &err);
    must(space_open(store, &m.spaces[0].root, m.spaces[0].size_bytes, &space, &err), &err);
    return space;
}

struct reader {
    const uint8_t *data;
    uint64_t next; /* pages below are done */
    uint64_t count;
    uint64_t stop; /* at this page */
    bool wrong;
};

static int check_page(uint64_t page, const void *bytes, void *context)
{
    struct reader *r = context;

    for (; r->next < page; r->next++)
        r->wrong |= !page_is_zero(r->data + r->next * STASIS_PAGE_SIZE);
    r->wrong |= memcmp(bytes, r->data + page * STASIS_PAGE_SIZE, STASIS_PAGE_SIZE) != 0;
    r->next = page + 1;
    r->count++;
    return page >= r->stop ? 77 : 0;
}

static void all_pages_come_in_order_however_many_threads(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = sparse_pages();
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;

    for (unsigned threads = 1; threads <= 5; threads += 2) {
        struct reader r = {.data = data, .stop = UINT64_MAX};

        fixture_reopen(f);
        store_limit_threads(f->store, threads);
        _cleanup_(space_closep) struct space *space = open_disk(f->store, &id);

        must(space_each_page(space, check_page, &r, &err), &err);
        assert_false(r.wrong);
        assert_int_equal(r.count, PAGES - (PAGES + 6) / 7);
        space_close(steal_pointer(space));
    }
}

/* Nothing but the reader itself keeps what it has decoded. */
static void pages_come_in_order_without_a_cache(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = sparse_pages();
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct reader r = {.data = data, .stop = UINT64_MAX};
    struct error err = ERROR_INIT;
    struct space *space = open_disk(f->store, &id);

    store_limit_cache(f->store, 0);
    must(space_each_page(space, check_page, &r, &err), &err);
    assert_false(r.wrong);
    assert_int_equal(r.count, PAGES - (PAGES + 6) / 7);
    space_close(space);
}

static bool first_group_is_kept(struct store *store)
{
    _cleanup_(cached_group_releasep) struct cached_group *g =
        group_cache_peek(store->cache, group_cache_key(0, 0));

    return g != NULL;
}

static void a_limit_lets_go_of_what_is_beyond_it(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(16, 1);
    struct digest id = commit_disk(f->store, data, 16 * STASIS_PAGE_SIZE, NULL, NULL);
    struct reader r = {.data = data, .stop = UINT64_MAX};
    struct error err = ERROR_INIT;

    fixture_reopen(f);
    struct space *space = open_disk(f->store, &id);

    must(space_each_page(space, check_page, &r, &err), &err);
    assert_true(first_group_is_kept(f->store));
    store_limit_cache(f->store, 0);
    assert_false(first_group_is_kept(f->store));
    space_close(space);
}

static void a_visitor_can_stop(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = sparse_pages();
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct reader r = {.data = data, .stop = 1000};
    struct error err = ERROR_INIT;
    struct space *space = open_disk(f->store, &id);

    assert_int_equal(space_each_page(space, check_page, &r, &err), 77);
    assert_int_equal(r.next, 1001);
    /* In the last pages, too. */
    r = (struct reader){.data = data, .stop = PAGES - 2};
    assert_int_equal(space_each_page(space, check_page, &r, &err), 77);
    assert_false(r.wrong);
    space_close(space);
}

/* Groups that are read ahead must be there when their pages' turn comes, whoever has
 * pushed them out of the cache. */
static void pages_stay_until_their_turn_however_small_the_cache(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = sparse_pages();
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct reader r = {.data = data, .stop = UINT64_MAX};
    struct error err = ERROR_INIT;
    struct space *space;

    fixture_reopen(f);
    group_cache_free(f->store->cache);
    assert_int_equal(group_cache_new(1, &f->store->cache), 0);
    f->store->packs.cache = f->store->cache;
    store_limit_threads(f->store, 1);
    space = open_disk(f->store, &id);
    must(space_each_page(space, check_page, &r, &err), &err);
    assert_false(r.wrong);
    space_close(space);
}

static bool is_decoded(struct store *store, struct page_ref ref)
{
    struct cached_group *g = NULL;
    struct location at;

    assert_int_equal(packs_find(&store->packs, PACK_PAGES, ref, false, 0, UINT32_MAX, &at, 1), 1);
    for (uint32_t group = 0; group <= at.object && g == NULL; group++) {
        g = group_cache_peek(store->cache, group_cache_key(at.pack, group));
        if (g != NULL &&
            (at.object < g->first_object || at.object - g->first_object >= g->object_count)) {
            cached_group_release(g);
            g = NULL;
        }
    }
    cached_group_release(g);
    return g != NULL;
}

/* A whole disk passes through, and what somebody works with stays. (Not so where keys
 * collide or the index does without memory: then pages are read one by one.) */
#ifndef STASIS_KEY_BITS
static void reading_in_order_pushes_nothing_out(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct reader r = {.data = data, .stop = UINT64_MAX};
    struct error err = ERROR_INIT;
    struct page_ref used, passed;
    uint8_t byte;

    fixture_reopen(f);
    store_limit_cache(f->store, 1 << 20);
    store_limit_threads(f->store, 1);
    packs_limit_memory(&f->store->packs, PACKS_MEMORY_DEFAULT);
    _cleanup_(space_closep) struct space *space = open_disk(f->store, &id);
    must(space_page_ref(space, 40, &used, &err), &err);
    must(space_page_ref(space, PAGES - 1, &passed, &err), &err);
    must(space_read(space, 40 * STASIS_PAGE_SIZE, &byte, 1, &err), &err);
    must(space_each_page(space, check_page, &r, &err), &err);
    assert_false(r.wrong);
    assert_true(is_decoded(f->store, used));
    /* What has passed last is there, and stays from the moment it is wanted. */
    assert_true(is_decoded(f->store, passed));
    r = (struct reader){.data = data, .stop = UINT64_MAX};
    must(space_each_page(space, check_page, &r, &err), &err);
    assert_true(is_decoded(f->store, passed));
    assert_true(is_decoded(f->store, used));
}
#endif

/* Whoever reads one page here and there has the others of its group for nothing, and so
 * has whoever else has the same pages. */
static void a_page_brings_its_neighbours(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(64, 1);
    struct digest id = commit_disk(f->store, data, 64 * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;
    struct page_ref refs[64];
    uint8_t byte;

    fixture_reopen(f);
    _cleanup_(space_closep) struct space *space = open_disk(f->store, &id);
    for (uint64_t i = 0; i < 64; i++)
        must(space_page_ref(space, i, &refs[i], &err), &err);
    assert_false(is_decoded(f->store, refs[20]));
    must(space_read(space, 20 * STASIS_PAGE_SIZE, &byte, 1, &err), &err);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(is_decoded(f->store, refs[i]), i / PACK_HOT_GROUP_PAGES == 1);
    space_close(steal_pointer(space));
}

/* Stored by another process while this one has the store open: not in its index yet. */
static void pages_of_younger_packs_are_found(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = sparse_pages();
    struct reader r = {.data = data, .stop = UINT64_MAX};
    struct error err = ERROR_INIT;
    struct store *other;
    struct digest id;

    must(store_open(f->store_dir, false, &other, &err), &err);
    id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct space *space = open_disk(other, &id);

    must(space_each_page(space, check_page, &r, &err), &err);
    assert_false(r.wrong);
    space_close(space);
    store_close(other);
}

/* What is in memory can be had without waiting, and is in memory until it is forgotten. */
static void pages_are_cached_until_they_are_forgotten(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = sparse_pages();
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    const size_t at = 1000 * STASIS_PAGE_SIZE + 77, length = 40 * STASIS_PAGE_SIZE;
    _cleanup_free_ uint8_t *got = malloc(length);
    struct error err = ERROR_INIT;

    fixture_reopen(f);
    _cleanup_(space_closep) struct space *space = open_disk(f->store, &id);
    assert_int_equal(space_read_cached(space, at, got, length), -EAGAIN);
    for (unsigned i = 0; i < 2; i++) {
        must(space_read(space, at, got, length, &err), &err);
        assert_memory_equal(got, data + at, length);
        memset(got, 0, length);
        assert_int_equal(space_read_cached(space, at, got, length), 0);
        assert_memory_equal(got, data + at, length);
        store_forget_pages(f->store);
        assert_int_equal(space_read_cached(space, at, got, length), -EAGAIN);
    }
    assert_int_equal(space_read_cached(space, PAGES * STASIS_PAGE_SIZE, got, 1), -EAGAIN);
}

/* A pack in which one node bears another's name; all its checksums are right. */
static struct digest put_misnamed_node(struct store *store)
{
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    const struct map_node node = {.present = 1, .pages[0] = {.lo = 1}};
    struct digest wanted = digest_of("another", 7);
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct error err = ERROR_INIT;
    struct pack_object_id id;
    char name[PACK_NAME_SIZE];
    uint32_t group;
    _cleanup_close_ int fd = store_create_pack(store, name, &err);

    assert_true(fd >= 0);
    page_ref_store(node_id(&wanted), id.bytes);
    must(pack_writer_open(fd, PACK_NODES, 1, &w, &err), &err);
    must(pack_writer_group(w, bytes, map_node_encode(&node, bytes), &id, 1, &group, &err), &err);
    must(pack_writer_finish(w, &err), &err);
    must(store_seal_pack(store, fd, pack_writer_index(w)->id, name, &err), &err);
    must(db_begin(&store->db, &err), &err);
    must(store_insert_pack(&store->db, pack_writer_index(w), &err), &err);
    must(db_commit(&store->db, &err), &err);
    return wanted;
}

static void a_node_that_is_not_what_its_footer_says_is_refused(void **state)
{
    struct fixture *f = *state;
    struct digest wanted = put_misnamed_node(f->store);
    struct error err = ERROR_INIT;
    struct map_node node;

    fixture_reopen(f);
    for (unsigned i = 0; i < 2; i++) { /* also when its sum is known */
        assert_int_equal(store_node_read(f->store, &wanted, &node, &err), -EBADMSG);
        assert_non_null(strstr(err.message, "not the map node that its footer says"));
        err = (struct error)ERROR_INIT;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(all_pages_come_in_order_however_many_threads),
        TEST(pages_are_cached_until_they_are_forgotten),
        TEST(pages_come_in_order_without_a_cache),
        TEST(a_limit_lets_go_of_what_is_beyond_it),
        TEST(a_visitor_can_stop),
#ifndef STASIS_KEY_BITS
        TEST(reading_in_order_pushes_nothing_out),
#endif
        TEST(a_page_brings_its_neighbours),
        TEST(a_node_that_is_not_what_its_footer_says_is_refused),
        TEST(pages_stay_until_their_turn_however_small_the_cache),
        TEST(pages_of_younger_packs_are_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
