/* SPDX-License-Identifier: Apache-2.0 */
/* Many pages at once mean what the same pages one by one mean. */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

enum { PAGES = 3000 };

DEFINE_CLEANUP(struct ingest, ingest_free)

/* Some pages that repeat, near and far, some zeros, many of their own. */
static uint8_t *mixed_pages(size_t pages, uint64_t seed)
{
    uint8_t *data = malloc(pages * STASIS_PAGE_SIZE);
    uint64_t state = seed;

    assert_non_null(data);
    for (size_t i = 0; i < pages; i++) {
        uint64_t pick = random_next(&state);
        uint8_t *page = data + i * STASIS_PAGE_SIZE;

        if (pick % 16 == 0)
            memset(page, 0, STASIS_PAGE_SIZE);
        else if (pick % 16 < 4 && i > 0)
            memcpy(page, data + pick / 16 % i * STASIS_PAGE_SIZE, STASIS_PAGE_SIZE);
        else
            fill_page(page, seed * 1000000 + i);
    }
    return data;
}

static void list_pages(const uint8_t *data, size_t count, const void **out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = data + i * STASIS_PAGE_SIZE;
}

static struct ingest *begin(struct store *store)
{
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;

    must(ingest_begin(store, &in, &err), &err);
    return in;
}

static void put_pages(struct ingest *in, const uint8_t *data, size_t count, struct page_ref *refs)
{
    _cleanup_free_ const void **pages = malloc(count * sizeof(*pages));
    struct error err = ERROR_INIT;

    list_pages(data, count, pages);
    must(ingest_pages(in, pages, count, refs, &err), &err);
}

static void put_singly(struct ingest *in, const uint8_t *data, size_t count, struct page_ref *refs)
{
    struct error err = ERROR_INIT;

    for (size_t i = 0; i < count; i++)
        must(ingest_page(in, data + i * STASIS_PAGE_SIZE, &refs[i], &err), &err);
}

/* Commits a map of these references, ends the ingest and reads the map back. */
static void commit_and_compare(struct fixture *f, struct ingest **io, const struct page_ref *refs,
                               const uint8_t *data, size_t count)
{
    struct ingest *in = *io;
    struct error err = ERROR_INIT;
    struct map_builder *b = NULL;
    struct digest root, id;
    struct manifest m;

    must(map_builder_begin(in, NULL, 0, count, &b, &err), &err);
    for (size_t i = 0; i < count; i++)
        must(map_builder_set(b, i, refs[i], &err), &err);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    make_manifest(&m, &root, count * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(steal_pointer(*io));
    fixture_reopen(f);
    assert_disk(f->store, &id, data, count * STASIS_PAGE_SIZE);
    assert_store_is_sound(f->store);
}

/* ---- the same as single pages ---- */

static void a_batch_gives_the_references_of_single_pages(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = mixed_pages(PAGES, 1);
    _cleanup_free_ struct page_ref *one = calloc(PAGES, sizeof(*one));
    _cleanup_free_ struct page_ref *many = calloc(PAGES, sizeof(*many));
    _cleanup_(ingest_freep) struct ingest *a = begin(f->store), *b = begin(f->store);
    struct ingest_stats stats_a, stats_b;

    put_singly(a, data, PAGES, one);
    put_pages(b, data, PAGES, many);
    assert_memory_equal(one, many, PAGES * sizeof(*one));
    ingest_get_stats(a, &stats_a);
    ingest_get_stats(b, &stats_b);
    assert_int_equal(stats_a.pages, stats_b.pages);
    assert_int_equal(stats_a.pages_new, stats_b.pages_new);
}

static void batches_and_single_pages_mix(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = mixed_pages(PAGES, 2);
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);
    size_t sizes[] = {1, 7, 300, 1, 1500, 64, 65, 1, 0, 400}, done = 0;

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        const uint8_t *from = data + done * STASIS_PAGE_SIZE;

        if (sizes[i] == 1)
            put_singly(in, from, 1, refs + done);
        else
            put_pages(in, from, sizes[i], refs + done);
        done += sizes[i];
    }
    put_singly(in, data + done * STASIS_PAGE_SIZE, PAGES - done, refs + done);
    commit_and_compare(f, &in, refs, data, PAGES);
}

static void the_number_of_threads_changes_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = mixed_pages(PAGES, 3);
    _cleanup_free_ struct page_ref *first = calloc(PAGES, sizeof(*first));
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));

    for (unsigned threads = 1; threads <= 5; threads += 2) {
        _cleanup_(ingest_freep) struct ingest *in = NULL;

        store_limit_threads(f->store, threads);
        in = begin(f->store);
        put_pages(in, data, PAGES, refs);
        if (threads == 1)
            memcpy(first, refs, PAGES * sizeof(*refs));
        assert_memory_equal(first, refs, PAGES * sizeof(*refs));
    }
    store_limit_threads(f->store, 5);
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);

    put_pages(in, data, PAGES, refs);
    commit_and_compare(f, &in, refs, data, PAGES);
}

/* ---- what is stored ---- */

static void equal_pages_of_one_batch_are_stored_once(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = malloc(600 * STASIS_PAGE_SIZE);
    struct page_ref refs[600];
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);
    struct ingest_stats stats;

    for (size_t i = 0; i < 600; i++)
        fill_page(data + i * STASIS_PAGE_SIZE, i % 5);
    put_pages(in, data, 600, refs);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages, 600);
    assert_int_equal(stats.pages_new, 5);
    for (size_t i = 5; i < 600; i++)
        assert_true(page_ref_equal(refs[i], refs[i % 5]));
}

/* Where keys are short, many of these share one. */
static void different_pages_of_one_batch_have_different_references(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);
    struct ingest_stats stats;

    put_pages(in, data, PAGES, refs);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages_new, PAGES);
    for (size_t i = 0; i < PAGES; i++)
        for (size_t k = i + 1; k < PAGES; k++)
            if (page_ref_equal(refs[i], refs[k]))
                fail_msg("pages %zu and %zu have one reference", i, k);
    commit_and_compare(f, &in, refs, data, PAGES);
}

static void a_batch_finds_what_was_committed_in_any_order(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    _cleanup_free_ const void **pages = malloc(PAGES * sizeof(*pages));
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    uint64_t seed = 5;

    commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    fixture_reopen(f);
    list_pages(data, PAGES, pages);
    for (size_t i = PAGES - 1; i > 0; i--) {
        size_t k = random_next(&seed) % (i + 1);
        const void *page = pages[i];

        pages[i] = pages[k];
        pages[k] = page;
    }
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);

    must(ingest_pages(in, pages, PAGES, refs, &err), &err);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages_new, 0);
    for (size_t i = 0; i < PAGES; i++) {
        uint8_t page[STASIS_PAGE_SIZE];

        must(store_page_read(f->store, refs[i], page, &err), &err);
        assert_memory_equal(page, pages[i], sizeof(page));
    }
}

/* Of this ingest, written already or still waiting in memory. */
static void a_batch_finds_the_pages_of_the_last(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    _cleanup_free_ struct page_ref *first = calloc(PAGES, sizeof(*first));
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);
    struct ingest_stats stats;

    put_pages(in, data, PAGES, first);
    put_pages(in, data, PAGES, refs);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages_new, PAGES);
    assert_memory_equal(first, refs, PAGES * sizeof(*refs));
}

static void pages_are_not_needed_after_the_call(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1), *gone = make_pages(PAGES, 1);
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);

    for (size_t done = 0; done < PAGES; done += 500) {
        put_pages(in, gone + done * STASIS_PAGE_SIZE, 500, refs + done);
        memset(gone + done * STASIS_PAGE_SIZE, 0xee, 500 * STASIS_PAGE_SIZE);
    }
    commit_and_compare(f, &in, refs, data, PAGES);
}

/* ---- into maps ---- */

static void a_builder_stores_pages_in_batches(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;
    struct map_builder *b = NULL;
    struct digest root;
    struct manifest m;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);

    must(map_builder_begin(in, &m.spaces[0].root, PAGES, PAGES, &b, &err), &err);
    /* Every third page changes, to zeros or others; the last buffer is gone at once. */
    for (size_t i = 0; i < PAGES; i += 3) {
        uint8_t *page = data + i * STASIS_PAGE_SIZE, buf[STASIS_PAGE_SIZE];
        struct page_ref ref;

        if (i % 2 == 0)
            memset(page, 0, STASIS_PAGE_SIZE);
        else
            fill_page(page, 100000 + i);
        memcpy(buf, page, sizeof(buf));
        if (i % 50 == 0) {
            must(ingest_page(in, page, &ref, &err), &err);
            must(map_builder_set(b, i, ref, &err), &err);
        } else if (i % 4 == 0) {
            must(map_builder_put(b, i, NULL, false, &err), &err);
        } else {
            must(map_builder_put(b, i, i % 5 == 0 ? page : buf, i % 5 == 0, &err), &err);
        }
        memset(buf, 0xee, sizeof(buf));
    }
    assert_int_equal(map_builder_put(b, 3, data, true, &err), -EINVAL);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    m.spaces[0].root = root;
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_commit(in, &commit, &id, &err), &err);
    assert_disk(f->store, &id, data, PAGES * STASIS_PAGE_SIZE);
}

/* ---- ends ---- */

/* Files may not grow beyond a limit: writing groups fails in the middle of a batch. */
static void a_failure_in_a_batch_leaves_nothing_behind(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    _cleanup_free_ const void **pages = malloc(PAGES * sizeof(*pages));
    _cleanup_free_ struct page_ref *refs = calloc(PAGES, sizeof(*refs));
    struct error err = ERROR_INIT;
    struct rlimit before, tight;
    struct digest root, id;
    struct manifest m;

    list_pages(data, PAGES, pages);
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    tight = (struct rlimit){1 << 20, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    assert_int_equal(ingest_pages(in, pages, PAGES, refs, &err), -EFBIG);
    setrlimit(RLIMIT_FSIZE, &before);
    root = digest_of("x", 1);
    make_manifest(&m, &root, STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m};

    assert_int_equal(ingest_commit(in, &commit, &id, &err), -EINVAL);
    ingest_free(steal_pointer(in));
    assert_int_equal(count_files(f, ".tmp"), 0);
    id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    assert_disk(f->store, &id, data, PAGES * STASIS_PAGE_SIZE);
}

struct patience {
    unsigned calls, left;
};

static int lose_patience(uint64_t done, void *context)
{
    struct patience *p = context;

    (void)done;
    p->calls++;
    return p->left-- == 0;
}

static void a_file_can_be_cancelled_between_batches(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    _cleanup_free_ char *path = io_format("%s/file", f->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct patience patience = {.left = 1};
    struct error err = ERROR_INIT;
    struct digest root;

    assert_int_equal(io_pwrite_full(fd, data, PAGES * STASIS_PAGE_SIZE, 0), 0);
    _cleanup_(ingest_freep) struct ingest *in = begin(f->store);

    assert_int_equal(
        ingest_file(in, fd, PAGES * STASIS_PAGE_SIZE, lose_patience, &patience, &root, &err),
        -ECANCELED);
    assert_int_equal(patience.calls, 2);
    ingest_free(steal_pointer(in));
    assert_int_equal(count_files(f, ".tmp"), 0);
}

/* ---- at the same time ---- */

struct worker {
    struct store *store;
    uint8_t *data;
    struct digest id;
};

static void *work(void *context)
{
    struct worker *w = context;

    w->id = commit_disk(w->store, w->data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    return NULL;
}

static void ingests_in_several_threads_share_the_store(void **state)
{
    struct fixture *f = *state;
    enum { WORKERS = 4 };
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];

    store_limit_threads(f->store, 3);
    for (unsigned i = 0; i < WORKERS; i++) {
        /* Two have the same pages. */
        workers[i] = (struct worker){.store = f->store, .data = mixed_pages(PAGES, i / 2 + 7)};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    fixture_reopen(f);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_disk(f->store, &workers[i].id, workers[i].data, PAGES * STASIS_PAGE_SIZE);
        free(workers[i].data);
    }
    assert_store_is_sound(f->store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_batch_gives_the_references_of_single_pages),
        TEST(batches_and_single_pages_mix),
        TEST(the_number_of_threads_changes_nothing),
        TEST(equal_pages_of_one_batch_are_stored_once),
        TEST(different_pages_of_one_batch_have_different_references),
        TEST(a_batch_finds_what_was_committed_in_any_order),
        TEST(a_batch_finds_the_pages_of_the_last),
        TEST(pages_are_not_needed_after_the_call),
        TEST(a_builder_stores_pages_in_batches),
        TEST(a_failure_in_a_batch_leaves_nothing_behind),
        TEST(a_file_can_be_cancelled_between_batches),
        TEST(ingests_in_several_threads_share_the_store),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
