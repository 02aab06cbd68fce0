/* SPDX-License-Identifier: Apache-2.0 */
/* Pages and spaces go in and come back; equal ones are stored once. */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void a_page_comes_back_after_reopening(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(3, 7);
    struct digest id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);

    assert_disk(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
    fixture_reopen(f);
    assert_disk(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
}

static void equal_pages_are_stored_once_across_spaces(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    struct ingest *in = NULL;
    struct digest memory, disk;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, data, 100 * STASIS_PAGE_SIZE, &memory, &err), &err);
    /* The disk has the same pages in another place. */
    must(ingest_memory(in, data + 10 * STASIS_PAGE_SIZE, 50 * STASIS_PAGE_SIZE, &disk, &err), &err);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages, 150);
    assert_int_equal(stats.pages_new, 100);
    ingest_free(in);
}

static void equal_pages_are_found_in_what_was_committed(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(1000, 1);
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    struct ingest *in = NULL;
    struct digest root;

    commit_disk(f->store, data, 1000 * STASIS_PAGE_SIZE, NULL, NULL);
    fixture_reopen(f);
    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, data, 1000 * STASIS_PAGE_SIZE, &root, &err), &err);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages_new, 0);
    assert_int_equal(stats.nodes_new, 0);
    assert_int_equal(stats.stored_bytes, 0);
    ingest_free(in);
}

static void zero_pages_are_never_stored(void **state)
{
    struct fixture *f = *state;
    uint8_t page[STASIS_PAGE_SIZE] = {0};
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    struct ingest *in = NULL;
    struct page_ref ref;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_page(in, page, &ref, &err), &err);
    assert_true(page_ref_is_zero(ref));
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages, 0);
    ingest_free(in);
    memset(page, 1, sizeof(page));
    must(store_page_read(f->store, ref, page, &err), &err);
    assert_true(page_is_zero(page));
}

static void a_space_of_zeros_reads_as_zeros(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = calloc(1, 1 << 20);
    struct digest id = commit_disk(f->store, data, (1 << 20) - 100, NULL, NULL);

    assert_disk(f->store, &id, data, (1 << 20) - 100);
}

static void a_size_that_is_no_multiple_of_a_page_is_kept(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(70, 3);
    struct digest id = commit_disk(f->store, data, 69 * STASIS_PAGE_SIZE + 1, NULL, NULL);

    assert_disk(f->store, &id, data, 69 * STASIS_PAGE_SIZE + 1);
}

static void an_empty_space_is_possible(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_disk(f->store, "", 0, NULL, NULL);

    assert_disk(f->store, &id, "", 0);
}

static void a_file_with_holes_equals_the_same_bytes_in_memory(void **state)
{
    struct fixture *f = *state;
    enum { SIZE = 9 << 20 };
    _cleanup_free_ uint8_t *data = calloc(1, SIZE);
    _cleanup_free_ char *path = io_format("%s/file", f->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct error err = ERROR_INIT;
    struct digest from_file, from_memory;
    struct ingest *in = NULL;

    fill_page(data + 5 * STASIS_PAGE_SIZE, 1);
    fill_page(data + (4 << 20), 2);
    memset(data + SIZE - 3, 9, 3);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(io_pwrite_full(fd, data + 5 * STASIS_PAGE_SIZE, 4096, 5 * 4096), 0);
    assert_int_equal(io_pwrite_full(fd, data + (4 << 20), 4096, 4 << 20), 0);
    assert_int_equal(io_pwrite_full(fd, data + SIZE - 3, 3, SIZE - 3), 0);
    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_file(in, fd, SIZE, NULL, NULL, &from_file, &err), &err);
    must(ingest_memory(in, data, SIZE, &from_memory, &err), &err);
    assert_true(digest_equal(&from_file, &from_memory));
    ingest_free(in);
}

static void a_file_that_is_too_short_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/file", f->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct digest root;

    assert_int_equal(ftruncate(fd, 5000), 0);
    must(ingest_begin(f->store, &in, &err), &err);
    assert_int_equal(ingest_file(in, fd, 9000, NULL, NULL, &root, &err), -ENODATA);
    ingest_free(in);
}

static int cancel(uint64_t done, void *context)
{
    (void)done;
    (void)context;
    return 1;
}

static void progress_can_cancel(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/file", f->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct digest root;

    assert_int_equal(io_pwrite_full(fd, "x", 1, 100), 0);
    must(ingest_begin(f->store, &in, &err), &err);
    assert_int_equal(ingest_file(in, fd, 101, cancel, NULL, &root, &err), -ECANCELED);
    ingest_free(in);
}

static void an_ingest_that_is_freed_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(500, 1);
    _cleanup_free_ char *packs = io_format("%s/packs", f->store_dir);
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct digest root;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, data, 500 * STASIS_PAGE_SIZE, &root, &err), &err);
    ingest_free(in);
    /* rmdir() works on an empty directory only. */
    assert_int_equal(rmdir(packs), 0);
    assert_int_equal(mkdir(packs, 0700), 0);
}

static void a_blob_comes_back(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *page = make_pages(1, 1);
    _cleanup_free_ void *data = NULL;
    struct error err = ERROR_INIT;
    struct digest root, blob, id;
    struct ingest *in = NULL;
    struct manifest m;
    size_t length;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, page, STASIS_PAGE_SIZE, &root, &err), &err);
    must(ingest_blob(in, "state", 5, &blob, &err), &err);
    make_manifest(&m, &root, STASIS_PAGE_SIZE);
    m.kind = CHECKPOINT_WARM;
    m.has_state = true;
    m.state = blob;
    m.state_bytes = 5;
    m.config.memory_bytes = STASIS_PAGE_SIZE;
    assert_int_equal(manifest_space_set(&m, "memory", STASIS_PAGE_SIZE, &root), 0);
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(in);
    fixture_reopen(f);
    must(store_blob_read(f->store, &blob, &data, &length, &err), &err);
    assert_int_equal(length, 5);
    assert_memory_equal(data, "state", 5);
    /* It goes with the last checkpoint that needs it. */
    must(catalogue_checkpoint_remove(f->store, &id, &err), &err);
    assert_int_equal(store_blob_read(f->store, &blob, &data, &length, &err), -EBADMSG);
}

static void a_manifest_whose_map_is_missing_is_refused(void **state)
{
    struct fixture *f = *state;
    struct digest root = digest_of("x", 1), id;
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct manifest m;

    make_manifest(&m, &root, STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_begin(f->store, &in, &err), &err);
    assert_int_equal(ingest_commit(in, &commit, &id, &err), -EBADMSG);
    ingest_free(in);
}

static void a_taken_name_can_be_replaced_by_another(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(3, 7), *other = make_pages(3, 70);
    struct digest first = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;
    struct digest root, id;
    struct ingest *in = NULL;
    struct manifest m;

    must(catalogue_machine_create(f->store, "web", &first, &err), &err);
    commit_disk(f->store, data, 2 * STASIS_PAGE_SIZE, "web", "a");
    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, other, 3 * STASIS_PAGE_SIZE, &root, &err), &err);
    make_manifest(&m, &root, 3 * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m, .machine = "web", .name = "a"};

    assert_int_equal(ingest_commit(in, &commit, &id, &err), -EEXIST);
    commit.name = "b";
    must(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(in);
    assert_disk(f->store, &id, other, 3 * STASIS_PAGE_SIZE);
}

static void packs_roll_over(void **state)
{
    struct fixture *f = *state;
    enum { PAGES = 40000 }; /* 160 MiB, half of which compresses */
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, (uint64_t)PAGES * STASIS_PAGE_SIZE, NULL, NULL);

    fixture_reopen(f);
    assert_disk(f->store, &id, data, (uint64_t)PAGES * STASIS_PAGE_SIZE);
}

/* No process can be made to run out of files at one moment alone: the limit is
 * what it has open, until the commit is over. */
static void a_commit_that_cannot_open_its_packs_can_be_read_later(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(3, 1);
    struct error err = ERROR_INIT;
    struct rlimit before, tight;
    struct ingest *in = NULL;
    struct digest root, id;
    struct manifest m;
    int r, next;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, data, 3 * STASIS_PAGE_SIZE, &root, &err), &err);
    make_manifest(&m, &root, 3 * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m};

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    next = dup(0);
    close(next);
    tight = (struct rlimit){(rlim_t)next, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    r = ingest_commit(in, &commit, &id, &err);
    setrlimit(RLIMIT_NOFILE, &before);
    ingest_free(in);
    must(r, &err);
    assert_disk(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_page_comes_back_after_reopening),
        TEST(equal_pages_are_stored_once_across_spaces),
        TEST(equal_pages_are_found_in_what_was_committed),
        TEST(zero_pages_are_never_stored),
        TEST(a_space_of_zeros_reads_as_zeros),
        TEST(a_size_that_is_no_multiple_of_a_page_is_kept),
        TEST(an_empty_space_is_possible),
        TEST(a_file_with_holes_equals_the_same_bytes_in_memory),
        TEST(a_file_that_is_too_short_is_refused),
        TEST(progress_can_cancel),
        TEST(an_ingest_that_is_freed_leaves_nothing),
        TEST(a_blob_comes_back),
        TEST(a_manifest_whose_map_is_missing_is_refused),
        TEST(a_taken_name_can_be_replaced_by_another),
        TEST(packs_roll_over),
        TEST(a_commit_that_cannot_open_its_packs_can_be_read_later),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
