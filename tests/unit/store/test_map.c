/* SPDX-License-Identifier: Apache-2.0 */
/* Maps against a plain array: whatever is done to both, they say the same. */
#include "helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/private.h"

#include <errno.h>
#include <string.h>

enum { POOL = 48 }; /* different pages that maps are made of */

struct model {
    uint64_t page_count;
    struct page_ref *pages;
};

static struct model model_new(uint64_t page_count)
{
    struct model m = {page_count, calloc(page_count + 1, sizeof(struct page_ref))};

    assert_non_null(m.pages);
    return m;
}

static struct model model_resize(const struct model *old, uint64_t page_count)
{
    struct model m = model_new(page_count);

    memcpy(m.pages, old->pages, min_u64(page_count, old->page_count) * sizeof(*m.pages));
    return m;
}

/* Commits the pool and gives the references of its pages. */
static void make_pool(struct store *store, struct page_ref pool[POOL])
{
    _cleanup_free_ uint8_t *data = make_pages(POOL, 1000);
    struct error err = ERROR_INIT;
    struct digest id = commit_disk(store, data, POOL * STASIS_PAGE_SIZE, NULL, NULL);
    struct space *space;
    struct manifest m;

    must(catalogue_manifest_read(store, &id, &m, &err), &err);
    must(space_open(store, &m.spaces[0].root, m.spaces[0].size_bytes, &space, &err), &err);
    for (uint64_t i = 0; i < POOL; i++)
        must(space_page_ref(space, i, &pool[i], &err), &err);
    space_close(space);
}

static struct digest build_whole(struct ingest *in, const struct model *m)
{
    struct error err = ERROR_INIT;
    struct map_builder *b;
    struct digest root;

    must(map_builder_begin(in, NULL, 0, m->page_count, &b, &err), &err);
    for (uint64_t i = 0; i < m->page_count; i++)
        if (!page_ref_is_zero(m->pages[i]))
            must(map_builder_set(b, i, m->pages[i], &err), &err);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    return root;
}

/* Sets pages at random, in the model and in a map that builds on `base`. */
static struct digest change(struct ingest *in, const struct digest *base, uint64_t base_pages,
                            struct model *m, const struct page_ref pool[POOL], uint64_t *seed)
{
    uint64_t step = 1 + random_next(seed) % (m->page_count / (1 + random_next(seed) % 300) + 1);
    struct error err = ERROR_INIT;
    struct map_builder *b;
    struct digest root;

    must(map_builder_begin(in, base, base_pages, m->page_count, &b, &err), &err);
    for (uint64_t i = random_next(seed) % step; i < m->page_count;
         i += 1 + random_next(seed) % step) {
        uint64_t pick = random_next(seed) % (POOL * 2);

        m->pages[i] = pick < POOL ? pool[pick] : (struct page_ref){0};
        must(map_builder_set(b, i, m->pages[i], &err), &err);
    }
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    return root;
}

static void commit_root(struct ingest *in, const struct digest *root, uint64_t pages)
{
    struct error err = ERROR_INIT;
    struct manifest m;
    struct digest id;

    make_manifest(&m, root, pages * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_commit(in, &commit, &id, &err), &err);
}

static void assert_space_is(struct store *store, const struct digest *root, const struct model *m)
{
    struct error err = ERROR_INIT;
    struct space *space;
    struct page_ref ref;
    uint64_t page, next = 0;
    int r;

    must(space_open(store, root, m->page_count * STASIS_PAGE_SIZE, &space, &err), &err);
    while ((r = space_next(space, next, &page, &ref, &err)) == 1) {
        for (; next < page; next++)
            assert_true(page_ref_is_zero(m->pages[next]));
        assert_true(page_ref_equal(ref, m->pages[page]));
        must(space_page_ref(space, page, &ref, &err), &err);
        assert_true(page_ref_equal(ref, m->pages[page]));
        next = page + 1;
    }
    must(r, &err);
    for (; next < m->page_count; next++)
        assert_true(page_ref_is_zero(m->pages[next]));
    space_close(space);
}

struct expected_diff {
    const struct model *a;
    const struct model *b;
    uint64_t next;
};

static struct page_ref model_at(const struct model *m, uint64_t page)
{
    return page < m->page_count ? m->pages[page] : (struct page_ref){0};
}

static int check_diff(uint64_t page, struct page_ref in_a, struct page_ref in_b, void *context)
{
    struct expected_diff *e = context;

    for (; e->next < page; e->next++)
        assert_true(page_ref_equal(model_at(e->a, e->next), model_at(e->b, e->next)));
    assert_true(page_ref_equal(in_a, model_at(e->a, page)));
    assert_true(page_ref_equal(in_b, model_at(e->b, page)));
    assert_false(page_ref_equal(in_a, in_b));
    e->next = page + 1;
    return 0;
}

static void assert_diff(struct store *store, const struct digest *root_a, const struct model *a,
                        const struct digest *root_b, const struct model *b)
{
    struct expected_diff e = {a, b, 0};
    struct error err = ERROR_INIT;
    struct space *space_a, *space_b;

    must(space_open(store, root_a, a->page_count * STASIS_PAGE_SIZE, &space_a, &err), &err);
    must(space_open(store, root_b, b->page_count * STASIS_PAGE_SIZE, &space_b, &err), &err);
    must(space_diff(space_a, space_b, check_diff, &e, &err), &err);
    for (; e.next < a->page_count || e.next < b->page_count; e.next++)
        assert_true(page_ref_equal(model_at(a, e.next), model_at(b, e.next)));
    space_close(space_a);
    space_close(space_b);
}

/* One change, of content and perhaps of size, checked in every way. */
static void one_round(struct store *store, struct digest *root, struct model *m,
                      const struct page_ref pool[POOL], uint64_t page_count, uint64_t *seed)
{
    struct model next = model_resize(m, page_count);
    struct error err = ERROR_INIT;
    struct digest changed, whole;
    struct ingest *in = NULL;

    must(ingest_begin(store, &in, &err), &err);
    changed = change(in, root, m->page_count, &next, pool, seed);
    whole = build_whole(in, &next);
    assert_memory_equal(&changed, &whole, sizeof(whole));
    commit_root(in, &changed, page_count);
    ingest_free(in);
    assert_space_is(store, &changed, &next);
    assert_diff(store, root, m, &changed, &next);
    assert_diff(store, &changed, &next, root, m);
    free(m->pages);
    *m = next;
    *root = changed;
}

static void random_rounds(struct fixture *f, uint64_t max_pages, unsigned rounds, bool resize,
                          uint64_t seed)
{
    struct model m = model_new(max_pages);
    struct error err = ERROR_INIT;
    struct page_ref pool[POOL];
    struct ingest *in = NULL;
    struct digest root;

    make_pool(f->store, pool);
    must(ingest_begin(f->store, &in, &err), &err);
    root = build_whole(in, &m);
    commit_root(in, &root, m.page_count);
    ingest_free(in);
    for (unsigned i = 0; i < rounds; i++)
        one_round(f->store, &root, &m, pool,
                  resize ? 1 + random_next(&seed) % max_pages : max_pages, &seed);
    free(m.pages);
}

static void a_changed_map_equals_one_built_anew(void **state)
{
    random_rounds(*state, 10000, 40, false, 1);
}

static void a_small_map_equals_one_built_anew(void **state)
{
    random_rounds(*state, 70, 60, true, 2);
}

static void maps_can_grow_and_shrink(void **state)
{
    random_rounds(*state, 9000, 40, true, 3);
}

static void large_maps_can_grow_and_shrink(void **state)
{
    random_rounds(*state, 600000, 8, true, 4);
}

static void an_unchanged_map_keeps_its_root_and_writes_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(300, 1);
    struct error err = ERROR_INIT;
    struct digest id = commit_disk(f->store, data, 300 * STASIS_PAGE_SIZE, NULL, NULL), root;
    struct ingest_stats stats;
    struct ingest *in = NULL;
    struct map_builder *b;
    struct manifest m;
    struct page_ref ref;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(ingest_begin(f->store, &in, &err), &err);
    must(map_builder_begin(in, &m.spaces[0].root, 300, 300, &b, &err), &err);
    must(ingest_page(in, data + 77 * STASIS_PAGE_SIZE, &ref, &err), &err);
    must(map_builder_set(b, 77, ref, &err), &err);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    ingest_get_stats(in, &stats);
    ingest_free(in);
    assert_memory_equal(&root, &m.spaces[0].root, sizeof(root));
    assert_int_equal(stats.nodes_new, 0);
}

static void one_changed_page_writes_one_node_a_level(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(5000, 1);
    struct digest id = commit_disk(f->store, data, 5000 * STASIS_PAGE_SIZE, NULL, NULL), root;
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    struct ingest *in = NULL;
    struct map_builder *b;
    struct manifest m;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(ingest_begin(f->store, &in, &err), &err);
    must(map_builder_begin(in, &m.spaces[0].root, 5000, 5000, &b, &err), &err);
    must(map_builder_set(b, 2500, (struct page_ref){0}, &err), &err);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    ingest_get_stats(in, &stats);
    ingest_free(in);
    assert_int_equal(stats.nodes_new, 3);
}

static void pages_out_of_order_are_refused(void **state)
{
    struct fixture *f = *state;
    struct page_ref ref = {.lo = 1, .hi = 0};
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct map_builder *b;

    must(ingest_begin(f->store, &in, &err), &err);
    must(map_builder_begin(in, NULL, 0, 100, &b, &err), &err);
    must(map_builder_set(b, 5, ref, &err), &err);
    assert_int_equal(map_builder_set(b, 5, ref, &err), -EINVAL);
    assert_int_equal(map_builder_set(b, 4, ref, &err), -EINVAL);
    assert_int_equal(map_builder_set(b, 100, ref, &err), -EINVAL);
    map_builder_free(b);
    ingest_free(in);
}

static int stop_at_second(uint64_t page, const void *bytes, void *context)
{
    (void)bytes;
    *(uint64_t *)context += 1;
    return page == 1 ? 77 : 0;
}

static void a_visitor_can_stop_the_walk(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(10, 1);
    struct digest id = commit_disk(f->store, data, 10 * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;
    struct space *space;
    struct manifest m;
    uint64_t calls = 0;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, m.spaces[0].size_bytes, &space, &err), &err);
    assert_int_equal(space_each_page(space, stop_at_second, &calls, &err), 77);
    assert_int_equal(calls, 2);
    space_close(space);
}

static void reading_beyond_the_end_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[16];
    struct digest id = commit_disk(f->store, "abcde", 5, NULL, NULL);
    struct error err = ERROR_INIT;
    struct space *space;
    struct manifest m;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, 5, &space, &err), &err);
    must(space_read(space, 1, buf, 4, &err), &err);
    assert_memory_equal(buf, "bcde", 4);
    assert_int_equal(space_read(space, 1, buf, 5, &err), -EINVAL);
    assert_int_equal(space_read(space, UINT64_MAX, buf, 5, &err), -EINVAL);
    space_close(space);
}

static int count_difference(uint64_t page, struct page_ref a, struct page_ref b, void *context)
{
    (void)a;
    (void)b;
    assert_true(page < 5);
    ++*(unsigned *)context;
    return 0;
}

/* Visitors keep a bit or a slot for each page of the larger space. */
static void comparing_never_visits_pages_beyond_the_end(void **state)
{
    struct fixture *f = *state;
    struct map_node leaf = {.level = 0, .present = 1 << 4 | 1 << 20};
    _cleanup_free_ uint8_t *data = make_pages(2, 1);
    struct digest small, large, id;
    struct error err = ERROR_INIT;
    struct space *a, *b, *c;
    struct ingest *in = NULL;
    unsigned visits = 0;
    struct manifest m;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, data, STASIS_PAGE_SIZE, &small, &err), &err);
    must(ingest_page(in, data + STASIS_PAGE_SIZE, &leaf.pages[4], &err), &err);
    leaf.pages[20] = leaf.pages[4];
    must(ingest_node(in, &leaf, &large, &err), &err);
    make_manifest(&m, &small, STASIS_PAGE_SIZE);
    must(manifest_space_set(&m, "kernel", 5 * STASIS_PAGE_SIZE, &large), &err);
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(in);
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &small, STASIS_PAGE_SIZE, &a, &err), &err);
    must(space_open(f->store, &large, 5 * STASIS_PAGE_SIZE, &b, &err), &err);
    must(space_open(f->store, &small, 5 * STASIS_PAGE_SIZE, &c, &err), &err);
    assert_int_equal(space_diff(a, b, count_difference, &visits, &err), -EBADMSG);
    assert_int_equal(space_diff(b, a, count_difference, &visits, &err), -EBADMSG);
    assert_int_equal(visits, 4);
    must(space_diff(a, c, count_difference, &visits, &err), &err);
    assert_int_equal(visits, 4);
    space_close(a);
    space_close(b);
    space_close(c);
}

static int count_any(uint64_t page, struct page_ref a, struct page_ref b, void *context)
{
    (void)page;
    (void)a;
    (void)b;
    ++*(unsigned *)context;
    return 0;
}

/* Made up: maps do not ask what they refer to. */
static struct page_ref some_ref(uint64_t number)
{
    return (struct page_ref){.lo = number * 7 + 1, .hi = UINT64_C(1) << 16};
}

/* Compares the map with one in which `count` pages, far from each other, are others:
 * how many nodes that reads. */
static uint64_t nodes_of_diff(struct store *store, const struct digest *base, uint64_t pages,
                              unsigned count)
{
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct space *a, *b;
    struct map_builder *builder;
    struct digest changed;
    unsigned visits = 0;
    uint64_t before;

    must(ingest_begin(store, &in, &err), &err);
    must(map_builder_begin(in, base, pages, pages, &builder, &err), &err);
    for (unsigned i = 0; i < count; i++)
        must(map_builder_set(builder, pages / count * i, some_ref(pages + i), &err), &err);
    must(map_builder_finish(builder, &changed, &err), &err);
    map_builder_free(builder);
    commit_root(in, &changed, pages);
    ingest_free(in);
    must(space_open(store, base, pages * STASIS_PAGE_SIZE, &a, &err), &err);
    must(space_open(store, &changed, pages * STASIS_PAGE_SIZE, &b, &err), &err);
    before = store->nodes_read;
    must(space_diff(a, b, count_any, &visits, &err), &err);
    assert_int_equal(visits, count);
    space_close(a);
    space_close(b);
    return store->nodes_read - before;
}

/* Of 1 GiB: 8739 nodes in five levels. */
static void comparing_reads_what_differs_and_nothing_else(void **state)
{
    enum { GIB_PAGES = 1 << 18, LEVELS = 5 };
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct map_builder *b;
    struct digest root;

    must(ingest_begin(f->store, &in, &err), &err);
    must(map_builder_begin(in, NULL, 0, GIB_PAGES, &b, &err), &err);
    for (uint64_t i = 0; i < GIB_PAGES; i++)
        must(map_builder_set(b, i, some_ref(i), &err), &err);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    commit_root(in, &root, GIB_PAGES);
    ingest_free(in);
    assert_int_equal(nodes_of_diff(f->store, &root, GIB_PAGES, 1), 2 * LEVELS);
    /* The root, its two children, and three nodes on the way to each page, of both maps. */
    assert_int_equal(nodes_of_diff(f->store, &root, GIB_PAGES, 20), 2 * (1 + 2 + 3 * 20));
}

static void nothing_is_read_to_find_no_difference(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct digest id = commit_disk(f->store, data, 100 * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;
    struct space *a, *b;
    unsigned visits = 0;
    struct manifest m;
    uint64_t before;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, m.spaces[0].size_bytes, &a, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, m.spaces[0].size_bytes, &b, &err), &err);
    before = f->store->nodes_read;
    must(space_diff(a, b, count_any, &visits, &err), &err);
    assert_int_equal(visits, 0);
    assert_int_equal(f->store->nodes_read, before);
    space_close(a);
    space_close(b);
}

static void an_exported_space_has_its_bytes_holes_and_size(void **state)
{
    struct fixture *f = *state;
    enum { SIZE = (3 << 20) + 100 };
    _cleanup_free_ uint8_t *data = calloc(1, SIZE), *back = calloc(1, SIZE);
    FILE *file = tmpfile();
    struct error err = ERROR_INIT;
    struct space *space;
    struct manifest m;
    struct digest id;

    fill_page(data, 1);
    fill_page(data + (2 << 20), 2);
    memset(data + SIZE - 100, 5, 100);
    id = commit_disk(f->store, data, SIZE, NULL, NULL);
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, SIZE, &space, &err), &err);
    /* What the file held before does not show. */
    assert_int_equal(fwrite("old old old", 1, 11, file), 11);
    fflush(file);
    must(space_export(space, fileno(file), &err), &err);
    assert_int_equal(lseek(fileno(file), 0, SEEK_END), SIZE);
    assert_int_equal(pread(fileno(file), back, SIZE, 0), SIZE);
    assert_memory_equal(back, data, SIZE);
    assert_int_equal(lseek(fileno(file), 1 << 20, SEEK_DATA), 2 << 20);
    fclose(file);
    space_close(space);
}

/* Reading costs the same at any depth: the map of a checkpoint is complete. */
static void history_depth_does_not_matter(void **state)
{
    struct fixture *f = *state;
    enum { PAGES = 200, DEPTH = 300 };
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL), root;
    struct error err = ERROR_INIT;
    struct manifest m;

    for (uint64_t depth = 0; depth < DEPTH; depth++) {
        uint64_t page = depth * 7 % PAGES;
        struct ingest *in = NULL;
        struct map_builder *b;
        struct page_ref ref;

        fill_page(data + page * STASIS_PAGE_SIZE, 10000 + depth);
        must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
        must(ingest_begin(f->store, &in, &err), &err);
        must(ingest_page(in, data + page * STASIS_PAGE_SIZE, &ref, &err), &err);
        must(map_builder_begin(in, &m.spaces[0].root, PAGES, PAGES, &b, &err), &err);
        must(map_builder_set(b, page, ref, &err), &err);
        must(map_builder_finish(b, &root, &err), &err);
        map_builder_free(b);
        make_manifest(&m, &root, PAGES * STASIS_PAGE_SIZE);
        m.has_parent = true;
        m.parent = id;
        struct ingest_commit commit = {.manifest = &m};

        must(ingest_commit(in, &commit, &id, &err), &err);
        ingest_free(in);
    }
    fixture_reopen(f);
    assert_disk(f->store, &id, data, PAGES * STASIS_PAGE_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_changed_map_equals_one_built_anew),
        TEST(a_small_map_equals_one_built_anew),
        TEST(maps_can_grow_and_shrink),
        TEST(large_maps_can_grow_and_shrink),
        TEST(an_unchanged_map_keeps_its_root_and_writes_nothing),
        TEST(one_changed_page_writes_one_node_a_level),
        TEST(pages_out_of_order_are_refused),
        TEST(a_visitor_can_stop_the_walk),
        TEST(reading_beyond_the_end_is_refused),
        TEST(comparing_never_visits_pages_beyond_the_end),
        TEST(comparing_reads_what_differs_and_nothing_else),
        TEST(nothing_is_read_to_find_no_difference),
        TEST(an_exported_space_has_its_bytes_holes_and_size),
        TEST(history_depth_does_not_matter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
