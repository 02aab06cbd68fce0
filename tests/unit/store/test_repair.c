/* SPDX-License-Identifier: Apache-2.0 */
/* What parity cannot mend is mended from elsewhere or told; and how verify goes
 * about a store that is large. */
#include "helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "imgfmt/pack.h"
#include "store/private.h"
#include "store/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { PAGES = 200, BYTES = PAGES * STASIS_PAGE_SIZE };

struct tally {
    unsigned lost, mendable, mended;
    size_t hits; /* of the last */
};

static void take_finding(const struct verify_finding *finding, void *context)
{
    struct tally *tally = context;

    tally->lost += finding->state == VERIFY_LOST;
    tally->mendable += finding->state == VERIFY_MENDABLE;
    tally->mended += finding->state == VERIFY_MENDED;
    tally->hits = finding->checkpoint_count;
}

static struct tally run(struct store *store, struct verify_options options)
{
    struct tally tally = {0};
    struct error err = ERROR_INIT;
    struct verify_result result;

    options.finding = take_finding;
    options.context = &tally;
    must(store_verify(store, &options, &result, &err), &err);
    assert_int_equal(result.findings, tally.lost + tally.mendable + tally.mended);
    assert_int_equal(result.mended, tally.mended);
    assert_int_equal(result.mendable, tally.mendable);
    return tally;
}

static struct tally repair(struct store *store, struct store *source)
{
    struct store *const sources[] = {source};

    return run(store, (struct verify_options){
                          .repair = true, .sources = sources, .source_count = source != NULL});
}

/* The path of the largest file in packs/: the one with the pages. */
static char *pages_pack(const char *store_dir)
{
    _cleanup_free_ char *dir = io_format("%s/packs", store_dir);
    _cleanup_closedir_ DIR *d = opendir(dir);
    const struct dirent *entry;
    char *best = NULL;
    off_t most = 0;
    struct stat st;

    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        char *path = io_format("%s/%s", dir, entry->d_name);

        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > most) {
            most = st.st_size;
            free(best);
            best = path;
        } else {
            free(path);
        }
    }
    return best;
}

static void overwrite(const char *path, uint64_t offset, size_t length)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    _cleanup_free_ uint8_t *junk = malloc(length);

    memset(junk, 0x5a, length);
    assert_int_equal(io_pwrite_full(fd, junk, length, offset), 0);
}

static void copy_file(const char *from, const char *to)
{
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, from, 1 << 26, &bytes, &length), 0);
    assert_int_equal(io_write_file(AT_FDCWD, to, bytes, length, 0600), 0);
}

static void assert_same_file(const char *a, const char *b)
{
    _cleanup_free_ char *x = NULL, *y = NULL;
    size_t n, m;

    assert_int_equal(io_read_file(AT_FDCWD, a, 1 << 26, &x, &n), 0);
    assert_int_equal(io_read_file(AT_FDCWD, b, 1 << 26, &y, &m), 0);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
}

struct other {
    char *dir;
    struct store *store;
};

static void other_open(struct fixture *f, struct other *o)
{
    struct error err = ERROR_INIT;

    o->dir = io_format("%s/other", f->dir);
    must(store_open(o->dir, true, &o->store, &err), &err);
}

static void other_close(struct other *o)
{
    store_close(o->store);
    free(o->dir);
}

/* ---- mending ---- */

static void damage_that_parity_covers_is_mended(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir), *good = io_format("%s/good", f->dir);
    struct tally tally;

    copy_file(path, good);
    overwrite(path, 100000, 4096);
    tally = run(f->store, (struct verify_options){0});
    assert_int_equal(tally.mended + tally.lost, 0);
    assert_true(tally.mendable > 0);
    assert_int_equal(tally.hits, 1);
    assert_disk(f->store, &id, data, BYTES);
    tally = repair(f->store, NULL);
    assert_int_equal(tally.mendable + tally.lost, 0);
    assert_true(tally.mended > 0);
    assert_same_file(path, good);
    assert_store_is_sound(f->store);
    assert_int_equal(count_files(f, ".tmp"), 0);
}

/* More than the parity is long. */
static void lost_groups_come_from_another_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir), *good = io_format("%s/good", f->dir);
    _cleanup_(other_close) struct other o = {0};
    struct tally tally;

    other_open(f, &o);
    /* The same pages, in other groups and packs. */
    commit_disk(o.store, data + 7 * STASIS_PAGE_SIZE, BYTES - 7 * STASIS_PAGE_SIZE, NULL, NULL);
    commit_disk(o.store, data, 7 * STASIS_PAGE_SIZE, NULL, NULL);
    copy_file(path, good);
    overwrite(path, 50000, 200000);
    fixture_reopen(f);
    tally = repair(f->store, NULL);
    assert_true(tally.lost > 0);
    assert_int_equal(tally.mended, 0);
    tally = repair(f->store, o.store);
    assert_int_equal(tally.lost + tally.mendable, 0);
    assert_same_file(path, good);
    fixture_reopen(f);
    assert_disk(f->store, &id, data, BYTES);
}

static void lost_groups_come_from_copies_in_this_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir), *good = io_format("%s/good", f->dir);
    struct tally tally;

    copy_file(path, good);
    overwrite(path, 50000, 200000);
    fixture_reopen(f);
    /* What cannot be read is stored anew, as other variants. */
    commit_disk(f->store, data, BYTES, NULL, NULL);
    tally = repair(f->store, NULL);
    assert_int_equal(tally.lost + tally.mendable, 0);
    assert_true(tally.mended > 0);
    assert_same_file(path, good);
    fixture_reopen(f);
    assert_disk(f->store, &id, data, BYTES);
}

static void a_lost_pack_comes_from_a_copy_of_the_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir);
    _cleanup_free_ char *copy = io_format("%s/other/packs/%s", f->dir, strrchr(path, '/') + 1);
    _cleanup_(other_close) struct other o = {0};
    struct tally tally;

    other_open(f, &o);
    copy_file(path, copy);
    assert_int_equal(unlink(path), 0);
    fixture_reopen(f);
    tally = repair(f->store, o.store);
    assert_int_equal(tally.mended, 1);
    assert_same_file(path, copy);
    fixture_reopen(f);
    assert_disk(f->store, &id, data, BYTES);
}

static void a_copy_that_is_damaged_too_is_not_taken(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);

    commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir), *bad = io_format("%s/bad", f->dir);
    _cleanup_free_ char *copy = io_format("%s/other/packs/%s", f->dir, strrchr(path, '/') + 1);
    _cleanup_(other_close) struct other o = {0};
    struct tally tally;

    other_open(f, &o);
    overwrite(path, 50000, 200000);
    copy_file(path, copy);
    copy_file(path, bad);
    fixture_reopen(f);
    tally = repair(f->store, o.store);
    assert_int_equal(tally.mended + tally.mendable, 0);
    assert_true(tally.lost > 0);
    assert_int_equal(tally.hits, 1);
    assert_same_file(path, bad);
}

static void lost_nodes_come_from_another_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = calloc(1, STASIS_PAGE_SIZE);
    _cleanup_(other_close) struct other o = {0};

    data[0] = 1;
    struct digest id = commit_disk(f->store, data, STASIS_PAGE_SIZE, NULL, NULL);
    other_open(f, &o);
    commit_disk(o.store, data, STASIS_PAGE_SIZE, NULL, NULL);
    _cleanup_free_ char *dir = io_format("%s/packs", f->store_dir);
    _cleanup_closedir_ DIR *d = opendir(dir);
    const struct dirent *entry;

    /* Both packs: their groups and, with them, half their parity. */
    while ((entry = readdir(d)) != NULL) {
        _cleanup_free_ char *path = io_format("%s/%s", dir, entry->d_name);
        struct stat st;

        if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
            overwrite(path, PACK_HEADER_SIZE, (size_t)min_u64((uint64_t)st.st_size / 3, 100));
    }
    struct tally tally = repair(f->store, o.store);
    assert_int_equal(tally.lost + tally.mendable, 0);
    fixture_reopen(f);
    assert_disk(f->store, &id, data, STASIS_PAGE_SIZE);
    assert_store_is_sound(f->store);
}

static void sql(const char *store_dir, const char *text)
{
    _cleanup_free_ char *catalogue = io_format("%s/catalogue.db", store_dir);
    sqlite3 *db;

    assert_int_equal(sqlite3_open(catalogue, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void send_to(struct store *from, struct store *to, const struct digest *id)
{
    struct error err = ERROR_INIT;
    struct stream_result result;
    _cleanup_close_ int fd = memfd_create("stream", MFD_CLOEXEC);

    must(stream_send(from, id, fd, NULL, NULL, &result, &err), &err);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    must(stream_receive(to, fd, "copy", "1", false, NULL, NULL, &result, &err), &err);
    assert_memory_equal(&result.checkpoint, id, sizeof(*id));
}

static void manifests_and_device_state_come_from_another_store(void **state)
{
    static const char *const changes[] = {
        "UPDATE checkpoint SET manifest = x'7b7d'",
        "UPDATE blob SET data = x'00'",
        "DELETE FROM blob",
    };
    struct fixture *f = *state;
    struct digest id = commit_warm(f->store, NULL);
    _cleanup_(other_close) struct other o = {0};

    other_open(f, &o);
    send_to(f->store, o.store, &id);
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        sql(f->store_dir, changes[i]);
        struct tally tally = repair(f->store, NULL);

        assert_int_equal(tally.lost, 1);
        assert_int_equal(tally.hits, 1);
        tally = repair(f->store, o.store);
        assert_int_equal(tally.mended, 1);
        assert_int_equal(tally.lost, 0);
        assert_store_is_sound(f->store);
    }
}

static void writers_and_readers_go_on_while_packs_are_mended(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir);
    struct error err = ERROR_INIT;
    struct store *reader;

    must(store_open(f->store_dir, false, &reader, &err), &err);
    assert_disk(reader, &id, data, BYTES);
    overwrite(path, 100000, 1000);
    assert_true(repair(f->store, NULL).mended > 0);
    /* It has the old file open, and reads on. */
    assert_disk(reader, &id, data, BYTES);
    store_close(reader);
}

/* ---- how verify goes about it ---- */

static struct verify_result measure(struct store *store, struct verify_options options)
{
    struct error err = ERROR_INIT;
    struct verify_result result;

    must(store_verify(store, &options, &result, &err), &err);
    assert_int_equal(result.findings, 0);
    return result;
}

static void packs_found_good_recently_are_left_out(void **state)
{
    struct fixture *f = *state;
    const struct verify_options within_a_day = {.max_age_us = UINT64_C(86400000000)};
    struct verify_result result;

    commit_disk(f->store, "a", 1, NULL, NULL);
    result = measure(f->store, within_a_day);
    assert_int_equal(result.packs, 2);
    commit_disk(f->store, "b", 1, NULL, NULL);
    result = measure(f->store, within_a_day);
    assert_int_equal(result.packs, 2);
    assert_int_equal(result.packs_skipped, 2);
    result = measure(f->store, (struct verify_options){0});
    assert_int_equal(result.packs, 4);
}

static void a_damaged_pack_is_never_left_out(void **state)
{
    struct fixture *f = *state;
    const struct verify_options within_a_day = {.max_age_us = UINT64_C(86400000000)};
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);

    commit_disk(f->store, data, BYTES, NULL, NULL);
    _cleanup_free_ char *path = pages_pack(f->store_dir);
    overwrite(path, 100000, 1000);
    assert_true(run(f->store, within_a_day).mendable > 0);
    assert_true(run(f->store, within_a_day).mendable > 0);
}

struct order {
    char first[4][64];
    unsigned count;
};

static void note_order(const struct verify_finding *finding, void *context)
{
    struct order *order = context;

    assert_true(order->count < 4);
    snprintf(order->first[order->count++], sizeof(order->first[0]), "%s", finding->file);
}

/* Whatever may stop a run, what has waited longest has its turn. */
static void packs_verified_longest_ago_come_first(void **state)
{
    static const int64_t days_ago[4] = {1, 3, 4, 2}; /* of packs in the order of their rows */
    static const unsigned expected[4] = {2, 1, 3, 0};
    struct fixture *f = *state;
    struct order order = {0};
    struct verify_options options = {.finding = note_order, .context = &order};
    struct error err = ERROR_INIT;
    struct verify_result result;

    commit_disk(f->store, "a", 1, NULL, NULL);
    commit_disk(f->store, "b", 1, NULL, NULL);
    for (uint32_t i = 0; i < 4; i++) {
        const struct pack *pack = packs_get(&f->store->packs, i);
        _cleanup_free_ char *path = io_format("%s/%s", f->store_dir, pack->name);
        int64_t at = clock_wall_us() - days_ago[i] * INT64_C(86400000000);

        must(db_run(&f->store->db, &err, "INSERT INTO verified VALUES(?1, ?2, row_sum(?1, ?2))",
                    "ii", pack->seq, at),
             &err);
        overwrite(path, 64, 2);
    }
    must(store_verify(f->store, &options, &result, &err), &err);
    assert_int_equal(order.count, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_string_equal(order.first[i], packs_get(&f->store->packs, expected[i])->name);
}

struct stop {
    int calls;
    uint64_t done;
};

static int stop_at_the_third(uint64_t done, uint64_t total, void *context)
{
    struct stop *stop = context;

    (void)total;
    stop->done = done;
    return ++stop->calls == 5;
}

static void a_run_that_was_stopped_is_gone_on_with(void **state)
{
    struct fixture *f = *state;
    struct stop stop = {0};
    struct verify_options options = {
        .progress = stop_at_the_third, .context = &stop, .max_age_us = 1};
    struct error err = ERROR_INIT;
    struct verify_result result;

    for (unsigned i = 1; i <= 4; i++)
        commit_disk(f->store, &i, sizeof(i), NULL, NULL);
    assert_int_equal(store_verify(f->store, &options, &result, &err), -ECANCELED);
    result = measure(f->store, (struct verify_options){0});
    assert_in_range(result.packs_skipped, 1, 7);
    assert_int_equal(result.packs + result.packs_skipped, 8);
    /* That one came to its end: the next begins anew. */
    result = measure(f->store, (struct verify_options){0});
    assert_int_equal(result.packs, 8);
}

static void a_stopped_run_can_be_begun_anew(void **state)
{
    struct fixture *f = *state;
    struct stop stop = {0};
    struct verify_options options = {
        .progress = stop_at_the_third, .context = &stop, .max_age_us = 1};
    struct error err = ERROR_INIT;
    struct verify_result result;

    for (unsigned i = 1; i <= 4; i++)
        commit_disk(f->store, &i, sizeof(i), NULL, NULL);
    assert_int_equal(store_verify(f->store, &options, &result, &err), -ECANCELED);
    result = measure(f->store, (struct verify_options){.again = true});
    assert_int_equal(result.packs, 8);
}

static void verify_keeps_to_its_rate(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    uint64_t began;

    commit_disk(f->store, data, BYTES, NULL, NULL);
    began = clock_monotonic_ns();
    struct verify_result result =
        measure(f->store, (struct verify_options){.bytes_per_second = 2 << 20});

    assert_true(clock_monotonic_ns() - began >= result.bytes * 900000000 / (2 << 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(damage_that_parity_covers_is_mended),
        TEST(lost_groups_come_from_another_store),
        TEST(lost_groups_come_from_copies_in_this_store),
        TEST(a_lost_pack_comes_from_a_copy_of_the_store),
        TEST(a_copy_that_is_damaged_too_is_not_taken),
        TEST(lost_nodes_come_from_another_store),
        TEST(manifests_and_device_state_come_from_another_store),
        TEST(writers_and_readers_go_on_while_packs_are_mended),
        TEST(packs_found_good_recently_are_left_out),
        TEST(packs_verified_longest_ago_come_first),
        TEST(a_damaged_pack_is_never_left_out),
        TEST(a_run_that_was_stopped_is_gone_on_with),
        TEST(a_stopped_run_can_be_begun_anew),
        TEST(verify_keeps_to_its_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
