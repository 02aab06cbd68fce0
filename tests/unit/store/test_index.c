/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of a store: its files may be missing, stale, torn, damaged or lie, and
 * change under readers and writers. Nothing of that loses a page or gives a wrong
 * one.
 */
#include "helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/private.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { PAGES = 60 };

/* From here on every commit writes a run. */
static void write_always(struct fixture *f)
{
    f->store->packs.run_weight = 1;
}

static void reopen(struct fixture *f)
{
    fixture_reopen(f);
    write_always(f);
}

struct saved {
    struct digest id;
    uint8_t *data;
};

static struct saved save(struct store *store, uint64_t seed)
{
    struct saved saved = {.data = make_pages(PAGES, seed * 1000)};

    saved.id = commit_disk(store, saved.data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    return saved;
}

static void saved_clear(struct saved *saved)
{
    free(saved->data);
}

static void assert_saved(struct store *store, const struct saved *saved)
{
    assert_disk(store, &saved->id, saved->data, PAGES * STASIS_PAGE_SIZE);
}

/* The names of the runs, sorted; returns how many there are. */
static size_t list_runs(const struct fixture *f, char names[][32], size_t max)
{
    _cleanup_free_ char *path = io_format("%s/index", f->store_dir);
    _cleanup_closedir_ DIR *dir = opendir(path);
    const struct dirent *entry;
    size_t count = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strstr(entry->d_name, ".run") == NULL)
            continue;
        assert_true(count < max);
        snprintf(names[count++], sizeof(names[0]), "%.31s", entry->d_name);
    }
    return count;
}

static char *only_run(const struct fixture *f)
{
    char names[2][32];

    assert_int_equal(list_runs(f, names, 2), 1);
    return io_format("%s/index/%s", f->store_dir, names[0]);
}

static unsigned indexed_by_runs(struct store *store)
{
    unsigned count = 0;

    for (unsigned i = 0; i < store->packs.run_count; i++)
        for (uint32_t p = 0; p < store->packs.runs[i]->pack_count; p++)
            count += store->packs.runs[i]->packs[p].number != PACK_NONE;
    return count;
}

static struct page_ref *refs_of(const struct saved *saved)
{
    struct page_ref *refs = malloc(PAGES * sizeof(*refs));

    for (unsigned i = 0; i < PAGES; i++)
        refs[i] = page_ref_of(saved->data + i * STASIS_PAGE_SIZE);
    return refs;
}

struct counter {
    unsigned count;
    char file[64];
};

static void count_finding(const struct verify_finding *finding, void *context)
{
    struct counter *c = context;

    c->count++;
    snprintf(c->file, sizeof(c->file), "%s", finding->file);
    assert_int_equal(finding->checkpoint_count, 0);
}

static struct counter verify(struct store *store)
{
    struct counter c = {0};
    struct verify_options options = {.finding = count_finding, .context = &c};
    struct error err = ERROR_INIT;
    struct verify_result result;

    must(store_verify(store, &options, &result, &err), &err);
    return c;
}

/* ---- what runs are for ---- */

static void a_small_store_has_no_run(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = save(f->store, 1);
    char names[1][32];

    fixture_reopen(f);
    assert_saved(f->store, &saved);
    assert_int_equal(list_runs(f, names, 1), 0);
}

static void a_run_is_read_by_who_opens_the_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = {0};

    write_always(f);
    saved = save(f->store, 1);
    reopen(f);
    assert_int_equal(indexed_by_runs(f->store), 2);
    assert_saved(f->store, &saved);
    assert_null(f->store->packs.tail);
    assert_store_is_sound(f->store);
}

static void opening_reads_no_pack(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = {0};

    write_always(f);
    saved = save(f->store, 1);
    reopen(f);
    for (uint32_t i = 0; i < packs_count(&f->store->packs); i++) {
        assert_null(packs_get(&f->store->packs, i)->index);
        assert_null(packs_get(&f->store->packs, i)->ids);
    }
}

static void runs_stay_few_however_many_commits_there_are(void **state)
{
    struct fixture *f = *state;
    enum { COMMITS = 40 };
    struct saved saved[COMMITS];
    char names[8][32];

    write_always(f);
    for (unsigned i = 0; i < COMMITS; i++) {
        saved[i] = save(f->store, i);
        assert_true(list_runs(f, names, 8) <= 5);
    }
    assert_int_equal(indexed_by_runs(f->store), 2 * COMMITS);
    reopen(f);
    for (unsigned i = 0; i < COMMITS; i++) {
        assert_saved(f->store, &saved[i]);
        saved_clear(&saved[i]);
    }
    assert_store_is_sound(f->store);
}

static void pages_in_a_run_are_not_stored_again(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved first = {0}, again = {0};
    uint32_t packs;

    write_always(f);
    first = save(f->store, 1);
    reopen(f);
    packs = packs_count(&f->store->packs);
    again = save(f->store, 1);
    assert_int_equal(packs_count(&f->store->packs), packs);
    assert_saved(f->store, &again);
}

/* ---- batches ---- */

static void a_batch_finds_what_single_lookups_find(void **state)
{
    struct fixture *f = *state;
    struct saved saved[3];
    uint32_t to;

    write_always(f);
    saved[0] = save(f->store, 1);
    saved[1] = save(f->store, 2);
    to = packs_count(&f->store->packs);
    /* One part in a run, one in the tail, one beyond what is asked for. */
    f->store->packs.run_weight = UINT64_MAX;
    saved[2] = save(f->store, 3);
    for (unsigned s = 0; s < 4; s++) {
        _cleanup_(saved_clear) struct saved other = {.data = make_pages(PAGES, 900000)};
        _cleanup_free_ struct page_ref *refs = refs_of(s < 3 ? &saved[s] : &other);
        struct location batch[PAGES], one[64];

        for (uint32_t limit = to; limit <= to + 2; limit += 2) {
            packs_find_batch(&f->store->packs, PACK_PAGES, refs, PAGES, limit, batch);
            for (unsigned i = 0; i < PAGES; i++) {
                unsigned n =
                    packs_find(&f->store->packs, PACK_PAGES, refs[i], true, 0, limit, one, 64);
                bool listed = false;

                assert_int_equal(batch[i].pack == PACK_NONE, n == 0);
                for (unsigned k = 0; k < n && k < 64; k++)
                    listed |= one[k].pack == batch[i].pack && one[k].object == batch[i].object &&
                              page_ref_equal(one[k].id, batch[i].id);
                assert_true(n == 0 || listed);
            }
        }
    }
    for (unsigned s = 0; s < 3; s++)
        saved_clear(&saved[s]);
}

static void a_batch_prefers_live_packs(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = save(f->store, 1);
    _cleanup_free_ struct page_ref *refs = refs_of(&saved);
    struct packs *packs = &f->store->packs;
    struct location at[PAGES];
    uint32_t old, fresh;

    packs_find_batch(packs, PACK_PAGES, refs, 1, UINT32_MAX, at);
    old = at[0].pack;
    packs_set_state(packs, old, PACK_CONDEMNED);
    packs_find_batch(packs, PACK_PAGES, refs, 1, UINT32_MAX, at);
    assert_int_equal(at[0].pack, old);

    /* A copy of the pack under another name. */
    struct pack_row row = {.seq = 1000,
                           .kind = PACK_PAGES,
                           .bytes = packs_get(packs, old)->bytes,
                           .groups = packs_get(packs, old)->groups,
                           .objects = packs_get(packs, old)->objects};
    struct error err = ERROR_INIT;

    memcpy(row.id, packs_get(packs, old)->id, PACK_ID_SIZE);
    must(packs_add(packs, &row, &err), &err);
    fresh = packs_number_of(packs, 1000);
    packs_find_batch(packs, PACK_PAGES, refs, PAGES, UINT32_MAX, at);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(at[i].pack, fresh);
    packs_set_state(packs, old, PACK_FORGOTTEN);
    packs_set_state(packs, fresh, PACK_FORGOTTEN);
    packs_find_batch(packs, PACK_PAGES, refs, PAGES, UINT32_MAX, at);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(at[i].pack, PACK_NONE);
}

static void forgotten_packs_leave_the_index(void **state)
{
    struct fixture *f = *state;
    struct saved saved[2];
    struct error err = ERROR_INIT;

    write_always(f);
    saved[0] = save(f->store, 1);
    saved[1] = save(f->store, 2);
    packs_set_state(&f->store->packs, 0, PACK_FORGOTTEN);
    must(packs_write_runs(&f->store->packs, true, &err), &err);
    assert_int_equal(indexed_by_runs(f->store), 3);
    assert_saved(f->store, &saved[1]);
    saved_clear(&saved[0]);
    saved_clear(&saved[1]);
}

/* ---- files that are not what they should be ---- */

static void a_missing_run_is_done_without(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = {0};
    _cleanup_free_ char *path = NULL;

    write_always(f);
    saved = save(f->store, 1);
    path = only_run(f);
    assert_int_equal(unlink(path), 0);
    /* Who has it mapped does not notice. */
    assert_saved(f->store, &saved);
    fixture_reopen(f);
    assert_int_equal(f->store->packs.run_count, 0);
    assert_saved(f->store, &saved);
    assert_store_is_sound(f->store);
}

static void copy_file(const char *from, const char *to)
{
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, from, 1 << 24, &bytes, &length), 0);
    assert_int_equal(io_write_file(AT_FDCWD, to, bytes, length, 0600), 0);
}

static void a_stale_run_only_adds(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved first = {0}, second = {0};
    _cleanup_free_ char *old = NULL, *kept = io_format("%s/kept", f->dir), *fresh = NULL;
    struct error err = ERROR_INIT;
    char names[8][32];

    write_always(f);
    first = save(f->store, 1);
    old = only_run(f);
    copy_file(old, kept);
    second = save(f->store, 2);
    must(store_index_rebuild(f->store, &err), &err);
    fresh = only_run(f);

    /* The old one beside the new one: nothing is found twice. */
    copy_file(kept, old);
    reopen(f);
    assert_saved(f->store, &first);
    assert_saved(f->store, &second);
    assert_int_equal(indexed_by_runs(f->store), 4);

    /* The old one in the place of the new one: the rest comes from footers. */
    assert_int_equal(rename(kept, fresh), 0);
    unlink(old);
    reopen(f);
    assert_saved(f->store, &first);
    assert_saved(f->store, &second);
    assert_store_is_sound(f->store);
    assert_true(list_runs(f, names, 8) >= 1);
}

static void flip(const char *path, uint64_t offset, uint8_t mask)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_int_equal(io_pread_full(fd, &byte, 1, offset), 0);
    byte ^= mask;
    assert_int_equal(io_pwrite_full(fd, &byte, 1, offset), 0);
}

static void a_flipped_byte_anywhere_costs_nothing_and_is_named(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = {0};
    _cleanup_free_ char *path = NULL;
    struct stat st;

    write_always(f);
    saved = save(f->store, 1);
    path = only_run(f);
    assert_int_equal(stat(path, &st), 0);
    for (off_t i = 0; i < st.st_size; i += 1 + i % 41) {
        struct counter c;

        flip(path, (uint64_t)i, (uint8_t)(1u << i % 8));
        fixture_reopen(f);
        /* Closing must not mend it. */
        f->store->packs.run_weight = UINT64_MAX;
        assert_saved(f->store, &saved);
        c = verify(f->store);
        if (c.count == 0)
            fail_msg("byte %lld of the run was flipped unnoticed", (long long)i);
        assert_string_equal(c.file, path + strlen(f->store_dir) + 1);
        atomic_store(&f->store->packs.doubtful, false);
        flip(path, (uint64_t)i, (uint8_t)(1u << i % 8));
    }
    fixture_reopen(f);
    assert_store_is_sound(f->store);
}

static void a_damaged_run_is_replaced_by_the_next_commit(void **state)
{
    struct fixture *f = *state;
    struct saved saved[2];
    _cleanup_free_ char *path = NULL;

    write_always(f);
    saved[0] = save(f->store, 1);
    path = only_run(f);
    flip(path, 4096 + 3000, 4);
    fixture_reopen(f);
    assert_saved(f->store, &saved[0]);
    saved[1] = save(f->store, 2);
    assert_store_is_sound(f->store);
    for (unsigned i = 0; i < 2; i++) {
        assert_saved(f->store, &saved[i]);
        saved_clear(&saved[i]);
    }
}

static void a_torn_run_is_removed_in_time(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved first = {0}, second = {0};
    _cleanup_free_ char *path = NULL, *tmp = NULL;

    write_always(f);
    first = save(f->store, 1);
    path = only_run(f);
    tmp = io_format("%s/index/00000000000000ff.run.tmp", f->store_dir);
    copy_file(path, tmp);
    assert_int_equal(truncate(path, 5000), 0);
    reopen(f);
    assert_saved(f->store, &first);
    second = save(f->store, 2);
    assert_int_equal(access(tmp, F_OK), -1);
    assert_saved(f->store, &second);
    assert_store_is_sound(f->store);
}

/* Ids that are nobody's. */
static const uint8_t *lie(void *context, const struct run_pack *pack, struct error *err)
{
    uint8_t *ids = context;

    (void)err;
    for (uint32_t i = 0; i < pack->objects; i++)
        page_ref_store((struct page_ref){i + 1, UINT64_C(77) << 32}, ids + i * 16);
    return ids;
}

/* A run whose sums are right and whose slots are not: all that it covers seems to be
 * missing. */
static void a_run_that_lies_loses_no_page(void **state)
{
    struct fixture *f = *state;
    _cleanup_(saved_clear) struct saved saved = {0};
    _cleanup_free_ char *path = NULL, *dir = io_format("%s/index", f->store_dir);
    _cleanup_free_ uint8_t *ids = calloc(1000, 16);
    struct error err = ERROR_INIT;
    struct run_pack list[2];
    int dirfd;

    write_always(f);
    saved = save(f->store, 1);
    path = only_run(f);
    memcpy(list, f->store->packs.runs[0]->packs, sizeof(list));
    dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(run_write(dirfd, strrchr(path, '/') + 1, list, 2, RUN_PIECE_SLOTS, lie, ids, &err), &err);
    close(dirfd);
    fixture_reopen(f);
    assert_int_equal(indexed_by_runs(f->store), 2);
    assert_saved(f->store, &saved);
    /* And that was noticed. */
    assert_true(f->store->packs.doubtful);
    assert_int_equal(verify(f->store).count, 1);
    assert_saved(f->store, &saved);
    fixture_reopen(f);
    assert_store_is_sound(f->store);
    assert_saved(f->store, &saved);
}

static void the_index_can_be_rebuilt(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct saved saved[3];
    _cleanup_free_ char *path = NULL;

    for (unsigned i = 0; i < 3; i++)
        saved[i] = save(f->store, i);
    must(store_index_rebuild(f->store, &err), &err);
    path = only_run(f);
    assert_int_equal(indexed_by_runs(f->store), 6);
    reopen(f);
    for (unsigned i = 0; i < 3; i++) {
        assert_saved(f->store, &saved[i]);
        saved_clear(&saved[i]);
    }
}

/* ---- packs that are not what they should be ---- */

static void a_missing_pack_costs_only_what_is_in_it(void **state)
{
    struct fixture *f = *state;
    struct saved saved[2];
    struct error err = ERROR_INIT;
    _cleanup_free_ char *path = NULL;
    uint64_t size;
    uint8_t *buf;

    for (unsigned with_run = 0; with_run < 2; with_run++) {
        f->store->packs.run_weight = with_run ? 1 : UINT64_MAX;
        saved[0] = save(f->store, 10 + with_run);
        saved[1] = save(f->store, 20 + with_run);
        path = io_format("%s/%s", f->store_dir,
                         packs_get(&f->store->packs, packs_count(&f->store->packs) - 2)->name);
        assert_int_equal(unlink(path), 0);
        free(steal_pointer(path));
        fixture_reopen(f);
        f->store->packs.run_weight = with_run ? 1 : UINT64_MAX;
        assert_saved(f->store, &saved[0]);
        assert_int_equal(read_disk(f->store, &saved[1].id, &buf, &size, &err), -EBADMSG);
        assert_non_null(strstr(err.message, ".pack"));
        /* And writing goes on. */
        free(saved[1].data);
        saved[1] = save(f->store, 30 + with_run);
        assert_saved(f->store, &saved[1]);
        saved_clear(&saved[0]);
        saved_clear(&saved[1]);
    }
}

/* ---- several at once ---- */

struct reader {
    struct store *store;
    const struct saved *saved;
    atomic_bool *stop;
    unsigned rounds;
};

static void *read_on(void *context)
{
    struct reader *r = context;
    _cleanup_free_ struct page_ref *refs = refs_of(r->saved);
    struct location at[PAGES];
    uint8_t page[STASIS_PAGE_SIZE];

    while (!atomic_load(r->stop) || r->rounds == 0) {
        for (unsigned i = 0; i < PAGES; i++) {
            struct error err = ERROR_INIT;

            if (store_page_read(r->store, refs[i], page, &err) < 0)
                return (void *)"a page could not be read";
        }
        packs_find_batch(&r->store->packs, PACK_PAGES, refs, PAGES, UINT32_MAX, at);
        for (unsigned i = 0; i < PAGES; i++)
            if (at[i].pack == PACK_NONE)
                return (void *)"a page was not found";
        r->rounds++;
    }
    return NULL;
}

static void threads_read_while_runs_are_replaced(void **state)
{
    struct fixture *f = *state;
    enum { THREADS = 3 };
    _cleanup_(saved_clear) struct saved saved = {0};
    struct reader readers[THREADS];
    pthread_t threads[THREADS];
    struct error err = ERROR_INIT;
    atomic_bool stop = false;
    void *complaint;

    write_always(f);
    saved = save(f->store, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){f->store, &saved, &stop, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
    }
    for (uint64_t i = 0; i < 12; i++) {
        struct saved more = save(f->store, 100 + i);

        must(store_index_rebuild(f->store, &err), &err);
        saved_clear(&more);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &complaint);
        if (complaint != NULL)
            fail_msg("%s", (const char *)complaint);
    }
}

/* In a child: a failed check ends it with 1. */
static void check(int r, const struct error *err)
{
    if (r == 0)
        return;
    print_error("child: %s\n", err->message);
    _exit(1);
}

static void save_and_read(const char *dir, uint64_t number)
{
    struct error err = ERROR_INIT;
    struct store *store = NULL;

    check(store_open(dir, false, &store, &err), &err);
    store->packs.run_weight = 1;
    for (uint64_t i = 0; i < 6; i++) {
        struct saved saved = save(store, number * 100 + i);

        assert_saved(store, &saved);
        check(store_index_rebuild(store, &err), &err);
        assert_saved(store, &saved);
        saved_clear(&saved);
    }
    store_close(store);
}

static void processes_replace_runs_at_once(void **state)
{
    struct fixture *f = *state;
    enum { PROCESSES = 3 };
    pid_t pids[PROCESSES];
    int status;

    for (unsigned i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            save_and_read(f->store_dir, i + 1);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < PROCESSES; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_store_is_sound(f->store);
    assert_dir_is_sound(f->store_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_small_store_has_no_run),
        TEST(a_run_is_read_by_who_opens_the_store),
        TEST(opening_reads_no_pack),
        TEST(runs_stay_few_however_many_commits_there_are),
        TEST(pages_in_a_run_are_not_stored_again),
        TEST(a_batch_finds_what_single_lookups_find),
        TEST(a_batch_prefers_live_packs),
        TEST(forgotten_packs_leave_the_index),
        TEST(a_missing_run_is_done_without),
        TEST(a_stale_run_only_adds),
        TEST(a_flipped_byte_anywhere_costs_nothing_and_is_named),
        TEST(a_damaged_run_is_replaced_by_the_next_commit),
        TEST(a_torn_run_is_removed_in_time),
        TEST(a_run_that_lies_loses_no_page),
        TEST(the_index_can_be_rebuilt),
        TEST(a_missing_pack_costs_only_what_is_in_it),
        TEST(threads_read_while_runs_are_replaced),
        TEST(processes_replace_runs_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
