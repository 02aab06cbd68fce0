/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transactions that the catalogue once had and has lost. That each byte of SQLite's log is
 * noticed is test_corrupt's matter.
 */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct report {
    unsigned findings;
    char file[64];
    char what[256];
    enum verify_state state;
};

static void take_finding(const struct verify_finding *finding, void *context)
{
    struct report *report = context;

    report->findings++;
    snprintf(report->file, sizeof(report->file), "%s", finding->file);
    snprintf(report->what, sizeof(report->what), "%s", finding->what);
    report->state = finding->state;
}

static struct report verify(struct fixture *f, bool repair)
{
    struct report report = {0};
    struct verify_options options = {.finding = take_finding, .context = &report, .repair = repair};
    struct error err = ERROR_INIT;
    struct verify_result result;

    must(store_verify(f->store, &options, &result, &err), &err);
    return report;
}

static int64_t commits(struct fixture *f)
{
    struct error err = ERROR_INIT;
    int64_t value;

    must(
        db_get_int(&f->store->db, &value, &err, "SELECT value FROM meta WHERE key = 'commits'", ""),
        &err);
    return value;
}

static void write_mark(struct fixture *f, const void *bytes, size_t length)
{
    _cleanup_free_ char *path = io_format("%s/commits", f->store_dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(io_pwrite_full(fd, bytes, length, 0), 0);
    close(fd);
}

static char *read_mark(struct fixture *f)
{
    _cleanup_free_ char *path = io_format("%s/commits", f->store_dir);
    size_t length;
    char *bytes;

    assert_int_equal(io_read_file(AT_FDCWD, path, 100, &bytes, &length), 0);
    assert_int_equal(length, 24);
    return bytes;
}

/* The catalogue goes back by two transactions. */
static void lose_two(struct fixture *f)
{
    struct error err = ERROR_INIT;

    must(db_run(&f->store->db, &err, "UPDATE meta SET value = value - 2 WHERE key = 'commits'", ""),
         &err);
}

static void what_is_lost_is_named_until_repair_forgets_it(void **state)
{
    struct fixture *f = *state;
    struct report report;
    int64_t before;

    for (unsigned i = 0; i < 3; i++)
        commit_disk(f->store, "abc", i + 1, NULL, NULL);
    assert_int_equal(verify(f, false).findings, 0);
    before = commits(f);
    lose_two(f);
    for (unsigned i = 0; i < 3; i++) {
        /* Also when the store has been written to since. */
        fixture_reopen(f);
        assert_int_equal(commits(f), before + 1 + i);
        report = verify(f, false);
        assert_int_equal(report.findings, 1);
        assert_string_equal(report.file, "catalogue.db-wal");
        assert_non_null(strstr(report.what, "the last 2 changes"));
        commit_disk(f->store, "y", 1, NULL, NULL);
    }
    report = verify(f, true);
    assert_int_equal(report.findings, 1);
    assert_int_equal(report.state, VERIFY_LOST);
    assert_int_equal(verify(f, false).findings, 0);
    fixture_reopen(f);
    assert_int_equal(verify(f, false).findings, 0);
}

static void a_mark_that_is_behind_means_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *old = NULL;

    commit_disk(f->store, "x", 1, NULL, NULL);
    old = read_mark(f);
    commit_disk(f->store, "y", 1, NULL, NULL);
    write_mark(f, old, 24);
    fixture_reopen(f);
    assert_int_equal(verify(f, false).findings, 0);
}

static void a_mark_that_a_crash_has_not_let_be_means_nothing(void **state)
{
    static const char zeros[24];
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/commits", f->store_dir);

    commit_disk(f->store, "x", 1, NULL, NULL);
    write_mark(f, "", 0);
    fixture_reopen(f);
    assert_int_equal(verify(f, false).findings, 0);
    write_mark(f, zeros, sizeof(zeros));
    fixture_reopen(f);
    assert_int_equal(verify(f, false).findings, 0);
    assert_int_equal(unlink(path), 0);
    fixture_reopen(f);
    assert_int_equal(verify(f, false).findings, 0);
}

static void a_damaged_mark_is_named_and_mended(void **state)
{
    struct fixture *f = *state;
    struct report report;

    for (unsigned i = 0; i < 24; i++) {
        _cleanup_free_ char *mark = NULL;

        commit_disk(f->store, "x", 1, NULL, NULL);
        mark = read_mark(f);
        mark[i] ^= 1;
        write_mark(f, mark, 24);
        fixture_reopen(f);
        report = verify(f, false);
        assert_int_equal(report.findings, 1);
        assert_string_equal(report.file, "commits");
        assert_int_equal(report.state, VERIFY_MENDABLE);
        assert_int_equal(verify(f, true).state, VERIFY_MENDED);
        assert_int_equal(verify(f, false).findings, 0);
    }
}

static void a_new_store_has_nothing_to_do_with_an_old_mark(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *catalogue = io_format("%s/catalogue.db", f->store_dir);
    _cleanup_free_ char *packs = io_format("%s/packs", f->store_dir);
    struct error err = ERROR_INIT;

    for (unsigned i = 0; i < 5; i++)
        commit_disk(f->store, "x", 1, NULL, NULL);
    store_close(f->store);
    assert_int_equal(unlink(catalogue), 0);
    assert_int_equal(io_remove_tree(packs), 0);
    must(store_open(f->store_dir, true, &f->store, &err), &err);
    assert_int_equal(verify(f, false).findings, 0);
}

/* A lease need not survive a power cut. */
static void leases_are_not_counted(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct ingest *in;
    int64_t before;

    commit_disk(f->store, "x", 1, NULL, NULL);
    before = commits(f);
    must(ingest_begin(f->store, &in, &err), &err);
    ingest_free(in);
    assert_int_equal(commits(f), before);
    commit_disk(f->store, "y", 1, NULL, NULL);
    assert_int_equal(commits(f), before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_lost_is_named_until_repair_forgets_it),
        TEST(a_mark_that_is_behind_means_nothing),
        TEST(a_mark_that_a_crash_has_not_let_be_means_nothing),
        TEST(a_damaged_mark_is_named_and_mended),
        TEST(a_new_store_has_nothing_to_do_with_an_old_mark),
        TEST(leases_are_not_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
