/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever byte goes bad: verify finds it and says whom it hits, and reading gives
 * an error, never wrong bytes. */
#include "helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

struct report {
    unsigned findings;
    char file[128]; /* of the first */
    uint64_t offset;
    char what[512];
    size_t hit_count;
    struct digest hits[8];
};

static void take_finding(const struct verify_finding *finding, void *context)
{
    struct report *report = context;

    if (report->findings++ != 0)
        return;
    snprintf(report->file, sizeof(report->file), "%s", finding->file);
    snprintf(report->what, sizeof(report->what), "%s", finding->what);
    report->offset = finding->offset;
    for (size_t i = 0; i < finding->checkpoint_count && i < 8; i++)
        report->hits[report->hit_count++] = finding->checkpoints[i];
}

static struct report verify(struct store *store)
{
    struct report report = {0};
    struct verify_options options = {.finding = take_finding, .context = &report};
    struct error err = ERROR_INIT;
    struct verify_result result;

    must(store_verify(store, &options, &result, &err), &err);
    assert_int_equal(result.findings, report.findings);
    return report;
}

/* Three pages of little entropy, so that packs are small. */
static uint8_t *plain_pages(uint8_t seed)
{
    uint8_t *data = malloc(3 * STASIS_PAGE_SIZE);

    for (size_t i = 0; i < 3 * STASIS_PAGE_SIZE; i++)
        data[i] = (uint8_t)(seed + i / 100);
    return data;
}

/* The path of the nth pack in the order of the catalogue. */
static char *pack_path(const struct fixture *f, unsigned n)
{
    _cleanup_free_ char *catalogue = io_format("%s/catalogue.db", f->store_dir);
    sqlite3_stmt *stmt;
    sqlite3 *db;
    char *path;

    assert_int_equal(sqlite3_open(catalogue, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT lower(hex(id)) FROM pack ORDER BY seq", -1, &stmt, NULL),
        SQLITE_OK);
    for (unsigned i = 0; i <= n; i++)
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    path = io_format("%s/packs/%s.pack", f->store_dir, sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return path;
}

static void sql(const struct fixture *f, const char *text)
{
    _cleanup_free_ char *catalogue = io_format("%s/catalogue.db", f->store_dir);
    sqlite3 *db;

    assert_int_equal(sqlite3_open(catalogue, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void flip(const char *path, uint64_t offset, uint8_t mask)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_int_equal(io_pread_full(fd, &byte, 1, offset), 0);
    byte ^= mask;
    assert_int_equal(io_pwrite_full(fd, &byte, 1, offset), 0);
}

static uint64_t file_size(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* Reads give an error or the very bytes. */
static void assert_never_wrong(struct store *store, const struct digest *id, const void *data,
                               uint64_t size)
{
    struct error err = ERROR_INIT;
    uint64_t length;
    uint8_t *buf;
    int r = read_disk(store, id, &buf, &length, &err);

    if (r == 0) {
        assert_int_equal(length, size);
        assert_memory_equal(buf, data, size);
    } else {
        assert_int_equal(err.status, STATUS_CORRUPT);
    }
    free(buf);
}

/* ---- packs ---- */

static void a_sound_store_has_no_findings(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(200, 1);
    struct error err = ERROR_INIT;
    struct verify_result result;

    commit_disk(f->store, data, 200 * STASIS_PAGE_SIZE, NULL, NULL);
    must(store_verify(f->store, NULL, &result, &err), &err);
    assert_int_equal(result.findings, 0);
    assert_int_equal(result.packs, 2);
    assert_int_equal(result.pages, 200);
    assert_int_equal(result.nodes, 8);
    assert_int_equal(result.checkpoints, 1);
    assert_true(result.bytes > 200 * 2048);
}

static void every_flipped_byte_of_a_pack_is_found(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = plain_pages(1);
    struct digest id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);

    for (unsigned n = 0; n < 2; n++) {
        _cleanup_free_ char *path = pack_path(f, n);
        uint64_t size = file_size(path);

        for (uint64_t offset = 0; offset < size; offset++) {
            uint8_t mask = (uint8_t)(1u << offset % 8);
            struct report report;

            flip(path, offset, mask);
            fixture_reopen(f);
            report = verify(f->store);
            if (report.findings == 0)
                fail_msg("byte %llu of pack %u was flipped unnoticed", (unsigned long long)offset,
                         n);
            assert_string_equal(report.file, path + strlen(f->store_dir) + 1);
            assert_int_equal(report.hit_count, 1);
            assert_memory_equal(&report.hits[0], &id, sizeof(id));
            assert_never_wrong(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
            flip(path, offset, mask);
        }
    }
    fixture_reopen(f);
    assert_disk(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
}

static void every_truncated_pack_is_found(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = plain_pages(1);
    struct digest id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    _cleanup_free_ char *path = pack_path(f, 0);

    for (uint64_t size = file_size(path); size-- > 0;) {
        assert_int_equal(truncate(path, (off_t)size), 0);
        fixture_reopen(f);
        assert_true(verify(f->store).findings >= 1);
        assert_never_wrong(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
    }
}

static void bytes_behind_a_pack_are_found(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = NULL;

    commit_disk(f->store, "x", 1, NULL, NULL);
    path = pack_path(f, 0);
    assert_int_equal(truncate(path, (off_t)file_size(path) + 1), 0);
    fixture_reopen(f);
    assert_int_equal(verify(f->store).findings, 1);
}

static void a_missing_pack_is_found(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_disk(f->store, "x", 1, NULL, NULL);
    _cleanup_free_ char *path = pack_path(f, 0);
    struct error err = ERROR_INIT;
    struct report report;
    uint64_t length;
    uint8_t *buf;

    assert_int_equal(unlink(path), 0);
    fixture_reopen(f);
    report = verify(f->store);
    assert_int_equal(report.findings, 1);
    assert_string_equal(report.file, path + strlen(f->store_dir) + 1);
    assert_int_equal(report.hit_count, 1);
    assert_memory_equal(&report.hits[0], &id, sizeof(id));
    assert_int_equal(read_disk(f->store, &id, &buf, &length, &err), -EBADMSG);
    /* The message leads to the pack. */
    assert_non_null(strstr(err.message, report.file));
}

static void only_the_checkpoints_that_are_hit_are_named(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct digest first = commit_disk(f->store, data, 50 * STASIS_PAGE_SIZE, NULL, NULL);
    struct digest second = commit_disk(f->store, data, 100 * STASIS_PAGE_SIZE, NULL, NULL);
    _cleanup_free_ char *old_pages = pack_path(f, 0), *new_pages = pack_path(f, 2);
    struct report report;

    /* The second has all pages of the first and some of its own. */
    flip(new_pages, 100, 1);
    fixture_reopen(f);
    report = verify(f->store);
    assert_int_equal(report.findings, 1);
    assert_int_equal(report.hit_count, 1);
    assert_memory_equal(&report.hits[0], &second, sizeof(second));
    assert_disk(f->store, &first, data, 50 * STASIS_PAGE_SIZE);
    flip(new_pages, 100, 1);
    flip(old_pages, 100, 1);
    fixture_reopen(f);
    report = verify(f->store);
    assert_int_equal(report.hit_count, 2);
    /* The first group begins behind the header. */
    assert_int_equal(report.offset, 64);
}

static void what_a_process_has_cached_does_not_hide_damage(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = plain_pages(1);
    struct digest id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);

    assert_disk(f->store, &id, data, 3 * STASIS_PAGE_SIZE);
    for (unsigned n = 0; n < 2; n++) {
        _cleanup_free_ char *path = pack_path(f, n);
        uint64_t offsets[] = {70, file_size(path) - 70};

        for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
            struct report report;

            flip(path, offsets[i], 0x10);
            report = verify(f->store);
            assert_int_equal(report.findings, 1);
            assert_int_equal(report.hit_count, 1);
            flip(path, offsets[i], 0x10);
        }
    }
    assert_store_is_sound(f->store);
}

static void a_damaged_page_that_comes_again_heals_what_is_new(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = plain_pages(1);
    struct digest again;
    _cleanup_free_ char *path = NULL;

    commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    path = pack_path(f, 0);
    flip(path, 70, 1);
    fixture_reopen(f);
    /* The bytes cannot be compared with, so they are stored anew. */
    again = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    assert_disk(f->store, &again, data, 3 * STASIS_PAGE_SIZE);
}

/* ---- catalogue ---- */

static void a_changed_manifest_is_found(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_disk(f->store, "x", 1, NULL, NULL);
    struct report report;

    sql(f, "UPDATE checkpoint SET manifest = CAST(replace(CAST(manifest AS TEXT), 'cold', 'warm')"
           " AS BLOB)");
    report = verify(f->store);
    assert_int_equal(report.findings, 1);
    assert_string_equal(report.file, "catalogue.db");
    assert_memory_equal(&report.hits[0], &id, sizeof(id));
    assert_never_wrong(f->store, &id, "x", 1);
}

static void a_changed_row_is_found(void **state)
{
    struct fixture *f = *state;
    static const char *const changes[] = {
        "UPDATE machine SET name = 'wec'",      "UPDATE machine SET created_us = 5",
        "UPDATE checkpoint SET name = 'b'",     "UPDATE checkpoint SET created_us = 7",
        "UPDATE checkpoint SET machine = NULL", "UPDATE image SET tag = '2'",
        "UPDATE image SET created_us = 1",      "UPDATE checkpoint SET state = x'00'",
        "UPDATE machine SET head = origin",     "UPDATE machine SET created_us = '5'",
    };
    struct digest first = commit_disk(f->store, "x", 1, NULL, NULL), second;
    struct error err = ERROR_INIT;

    must(catalogue_machine_create(f->store, "web", &first, &err), &err);
    second = commit_disk(f->store, "y", 1, "web", "a");
    must(catalogue_image_set(f->store, "img", "1", &second, false, &err), &err);
    must(catalogue_image_set(f->store, "img", "1", &first, true, &err), &err);
    assert_store_is_sound(f->store);
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        sql(f, "DROP TABLE IF EXISTS m; CREATE TABLE m AS SELECT * FROM machine;"
               "DROP TABLE IF EXISTS c; CREATE TABLE c AS SELECT * FROM checkpoint;"
               "DROP TABLE IF EXISTS i; CREATE TABLE i AS SELECT * FROM image;");
        sql(f, changes[i]);
        if (verify(f->store).findings == 0)
            fail_msg("unnoticed: %s", changes[i]);
        sql(f, "DELETE FROM machine; INSERT INTO machine SELECT * FROM m;"
               "DELETE FROM checkpoint; INSERT INTO checkpoint SELECT * FROM c;"
               "DELETE FROM image; INSERT INTO image SELECT * FROM i;");
    }
    assert_store_is_sound(f->store);
}

static void an_image_without_its_checkpoint_is_found(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_disk(f->store, "x", 1, NULL, NULL);
    struct error err = ERROR_INIT;
    struct report report;

    must(catalogue_image_set(f->store, "img", "1", &id, false, &err), &err);
    sql(f, "DELETE FROM checkpoint");
    report = verify(f->store);
    assert_int_equal(report.findings, 1);
    assert_non_null(strstr(report.what, "img:1"));
}

static void flipped_bytes_of_the_catalogue_never_crash(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = plain_pages(1);
    struct digest id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir), *good = NULL;
    uint64_t seed = 5;
    size_t size;

    store_close(f->store);
    f->store = NULL;
    assert_int_equal(io_read_file(AT_FDCWD, path, 1 << 20, &good, &size), 0);
    for (unsigned i = 0; i < 500; i++) {
        struct error err = ERROR_INIT, read_err = ERROR_INIT;
        struct verify_result result;
        struct store *store;
        uint64_t length;
        uint8_t *buf;

        assert_int_equal(io_write_file(AT_FDCWD, path, good, size, 0600), 0);
        flip(path, random_next(&seed) % size, (uint8_t)(1u << i % 8));
        if (store_open(f->store_dir, false, &store, &err) < 0)
            continue;
        store_verify(store, NULL, &result, &err);
        if (read_disk(store, &id, &buf, &length, &read_err) == 0)
            assert_memory_equal(buf, data, 3 * STASIS_PAGE_SIZE);
        free(buf);
        store_close(store);
    }
    /* Nor has opening it removed anything. */
    assert_int_equal(io_write_file(AT_FDCWD, path, good, size, 0600), 0);
    assert_dir_is_sound(f->store_dir);
}

static void a_machine_without_its_origin_is_found(void **state)
{
    struct fixture *f = *state;
    struct digest first = commit_disk(f->store, "abc", 3, NULL, NULL);
    struct error err = ERROR_INIT;

    must(catalogue_machine_create(f->store, "web", &first, &err), &err);
    commit_disk(f->store, "abcd", 4, "web", NULL);
    sql(f, "DELETE FROM checkpoint WHERE id = (SELECT origin FROM machine)");
    struct report report = verify(f->store);

    assert_int_equal(report.findings, 1);
    assert_non_null(strstr(report.what, "web"));
}

/* No column says NULL in a good catalogue; in a damaged one any may. */
static void entries_that_have_lost_their_names_are_found(void **state)
{
    struct fixture *f = *state;

    commit_disk(f->store, "abc", 3, NULL, NULL);
    sql(f, "DROP TABLE image; CREATE TABLE image(name, tag, id, created_us, sum);"
           "INSERT INTO image SELECT NULL, NULL, id, 1, 2 FROM checkpoint");
    assert_int_equal(verify(f->store).findings, 1);
}

static bool has_blob(struct fixture *f, const struct digest *digest)
{
    _cleanup_free_ void *data = NULL;
    size_t length;

    return store_blob_read(f->store, digest, &data, &length, NULL) == 0;
}

static void a_changed_row_costs_no_device_state(void **state)
{
    struct fixture *f = *state;
    struct digest first = commit_disk(f->store, "a", 1, NULL, NULL), blob;
    struct digest second = commit_disk(f->store, "b", 1, NULL, NULL);
    struct error err = ERROR_INIT;

    commit_warm(f->store, &blob);
    must(catalogue_checkpoint_remove(f->store, &first, &err), &err);
    assert_true(has_blob(f, &blob));
    sql(f, "UPDATE checkpoint SET state = zeroblob(32) WHERE state IS NOT NULL");
    must(catalogue_checkpoint_remove(f->store, &second, &err), &err);
    assert_true(has_blob(f, &blob));
}

static int cancel(uint64_t done, uint64_t total, void *context)
{
    assert_true(done <= total);
    return ++*(int *)context == 2;
}

static void verify_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(200, 1);
    int calls = 0;
    struct verify_options options = {.progress = cancel, .context = &calls};
    struct error err = ERROR_INIT;
    struct verify_result result;

    commit_disk(f->store, data, 200 * STASIS_PAGE_SIZE, NULL, NULL);
    assert_int_equal(store_verify(f->store, &options, &result, &err), -ECANCELED);
    assert_int_equal(calls, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_sound_store_has_no_findings),
        TEST(every_flipped_byte_of_a_pack_is_found),
        TEST(every_truncated_pack_is_found),
        TEST(bytes_behind_a_pack_are_found),
        TEST(a_missing_pack_is_found),
        TEST(only_the_checkpoints_that_are_hit_are_named),
        TEST(what_a_process_has_cached_does_not_hide_damage),
        TEST(a_damaged_page_that_comes_again_heals_what_is_new),
        TEST(a_changed_manifest_is_found),
        TEST(a_changed_row_is_found),
        TEST(an_image_without_its_checkpoint_is_found),
        TEST(a_machine_without_its_origin_is_found),
        TEST(a_changed_row_costs_no_device_state),
        TEST(entries_that_have_lost_their_names_are_found),
        TEST(flipped_bytes_of_the_catalogue_never_crash),
        TEST(verify_can_be_cancelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
