/* SPDX-License-Identifier: Apache-2.0 */
/* Machines, checkpoints, images, and what a reference means. */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>

static struct digest commit_text(struct fixture *f, const char *text, const char *machine,
                                 const char *name)
{
    return commit_disk(f->store, text, strlen(text), machine, name);
}

static void make_machine(struct fixture *f, const char *name, const struct digest *origin)
{
    struct error err = ERROR_INIT;

    must(catalogue_machine_create(f->store, name, origin, &err), &err);
}

static void tag(struct fixture *f, const struct digest *id, const char *name, const char *tag_name)
{
    struct error err = ERROR_INIT;

    must(catalogue_image_set(f->store, name, tag_name, id, false, &err), &err);
}

static void assert_resolves(struct fixture *f, const char *reference, const struct digest *id)
{
    struct error err = ERROR_INIT;
    struct digest found;

    must(catalogue_resolve(f->store, reference, &found, &err), &err);
    assert_memory_equal(&found, id, sizeof(found));
}

static void assert_unknown(struct fixture *f, const char *reference)
{
    struct error err = ERROR_INIT;
    struct digest found;

    assert_int_equal(catalogue_resolve(f->store, reference, &found, &err), -ENOENT);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_string_not_equal(err.hint, "");
}

static void a_new_machine_has_its_origin_as_head(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_text(f, "a", NULL, NULL);
    struct error err = ERROR_INIT;
    struct catalogue_machine *m;

    make_machine(f, "web", &id);
    fixture_reopen(f);
    must(catalogue_machine_get(f->store, "web", &m, &err), &err);
    assert_string_equal(m->name, "web");
    assert_true(m->has_head);
    assert_memory_equal(&m->head, &id, sizeof(id));
    assert_memory_equal(&m->origin, &id, sizeof(id));
    catalogue_machines_free(m, 1);
}

static void a_machine_needs_a_checkpoint_and_a_free_valid_name(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_text(f, "a", NULL, NULL), none = digest_of("none", 4);
    struct error err = ERROR_INIT;

    assert_int_equal(catalogue_machine_create(f->store, "web", &none, &err), -ENOENT);
    make_machine(f, "web", &id);
    assert_int_equal(catalogue_machine_create(f->store, "web", &id, &err), -EEXIST);
    assert_int_equal(err.status, STATUS_EXISTS);
    assert_int_equal(catalogue_machine_create(f->store, "../x", &id, &err), -EINVAL);
}

static void a_commit_moves_the_head_when_told(void **state)
{
    struct fixture *f = *state;
    struct digest first = commit_text(f, "a", NULL, NULL), second;
    struct error err = ERROR_INIT;
    struct catalogue_machine *m;

    make_machine(f, "web", &first);
    second = commit_text(f, "b", "web", "later");
    must(catalogue_machine_get(f->store, "web", &m, &err), &err);
    assert_memory_equal(&m->head, &second, sizeof(second));
    assert_memory_equal(&m->origin, &first, sizeof(first));
    catalogue_machines_free(m, 1);
    must(catalogue_machine_set_head(f->store, "web", &first, &err), &err);
    assert_resolves(f, "web", &first);
    assert_int_equal(catalogue_machine_set_head(f->store, "www", &first, &err), -ENOENT);
}

static void committing_to_an_unknown_machine_is_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct digest root, id;
    struct manifest m;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, "x", 1, &root, &err), &err);
    make_manifest(&m, &root, 1);
    struct ingest_commit commit = {.manifest = &m, .machine = "web", .name = "a"};

    assert_int_equal(ingest_commit(in, &commit, &id, &err), -ENOENT);
    ingest_free(in);
}

static void checkpoints_are_listed_oldest_first(void **state)
{
    struct fixture *f = *state;
    struct digest first = commit_text(f, "a", NULL, NULL);
    struct error err = ERROR_INIT;
    struct catalogue_checkpoint *list;
    size_t count;

    make_machine(f, "web", &first);
    commit_text(f, "b", "web", "one");
    commit_text(f, "c", "web", "two");
    must(catalogue_checkpoint_list(f->store, "web", &list, &count, &err), &err);
    assert_int_equal(count, 2);
    assert_string_equal(list[0].name, "one");
    assert_string_equal(list[1].name, "two");
    assert_string_equal(list[1].machine, "web");
    catalogue_checkpoints_free(list, count);
    must(catalogue_checkpoint_list(f->store, NULL, &list, &count, &err), &err);
    assert_int_equal(count, 3);
    assert_null(list[0].machine);
    catalogue_checkpoints_free(list, count);
}

static void removing_a_machine_removes_its_checkpoints_only(void **state)
{
    struct fixture *f = *state;
    struct digest first = commit_text(f, "a", NULL, NULL), gone, tagged, cloned;
    struct error err = ERROR_INIT;
    struct manifest m;

    make_machine(f, "web", &first);
    gone = commit_text(f, "b", "web", "gone");
    tagged = commit_text(f, "c", "web", "tagged");
    cloned = commit_text(f, "d", "web", "cloned");
    tag(f, &tagged, "kept", "1");
    make_machine(f, "clone", &cloned);
    must(catalogue_machine_remove(f->store, "web", &err), &err);
    assert_store_is_sound(f->store);
    assert_int_equal(catalogue_manifest_read(f->store, &gone, &m, &err), -ENOENT);
    must(catalogue_manifest_read(f->store, &tagged, &m, &err), &err);
    must(catalogue_manifest_read(f->store, &cloned, &m, &err), &err);
    must(catalogue_manifest_read(f->store, &first, &m, &err), &err);
    assert_unknown(f, "web@tagged");
    assert_resolves(f, "kept:1", &tagged);
    assert_int_equal(catalogue_machine_remove(f->store, "web", &err), -ENOENT);
}

static void a_checkpoint_in_use_cannot_be_removed(void **state)
{
    struct fixture *f = *state;
    struct digest origin = commit_text(f, "a", NULL, NULL), old;
    struct error err = ERROR_INIT;

    make_machine(f, "web", &origin);
    old = commit_text(f, "b", "web", "old");
    assert_int_equal(catalogue_checkpoint_remove(f->store, &old, &err), -EBUSY);
    commit_text(f, "c", "web", "new");
    tag(f, &old, "img", "1");
    assert_int_equal(catalogue_checkpoint_remove(f->store, &old, &err), -EBUSY);
    must(catalogue_image_remove(f->store, "img", "1", &err), &err);
    must(catalogue_checkpoint_remove(f->store, &old, &err), &err);
    assert_int_equal(catalogue_checkpoint_remove(f->store, &old, &err), -ENOENT);
    assert_int_equal(catalogue_checkpoint_remove(f->store, &origin, &err), -EBUSY);
    assert_unknown(f, "web@old");
}

static void a_tag_is_moved_only_when_told(void **state)
{
    struct fixture *f = *state;
    struct digest a = commit_text(f, "a", NULL, NULL), b = commit_text(f, "b", NULL, NULL);
    struct error err = ERROR_INIT;

    tag(f, &a, "debian", "12");
    /* To the same checkpoint is no move. */
    tag(f, &a, "debian", "12");
    assert_int_equal(catalogue_image_set(f->store, "debian", "12", &b, false, &err), -EEXIST);
    assert_resolves(f, "debian:12", &a);
    must(catalogue_image_set(f->store, "debian", "12", &b, true, &err), &err);
    assert_resolves(f, "debian:12", &b);
    assert_int_equal(catalogue_image_remove(f->store, "debian", "13", &err), -ENOENT);
}

static void image_names_stay_below_a_directory(void **state)
{
    struct fixture *f = *state;
    struct digest a = commit_text(f, "a", NULL, NULL);
    static const char *const bad[] = {"",    "..",  "/etc", "a/../b", "a//b",
                                      "a@b", "a b", ".x",   "a/",     "-x"};
    struct error err = ERROR_INIT;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(catalogue_image_set(f->store, bad[i], "1", &a, false, &err), -EINVAL);
    assert_int_equal(catalogue_image_set(f->store, "a", "x/y", &a, false, &err), -EINVAL);
    assert_int_equal(catalogue_image_set(f->store, "a", "", &a, false, &err), -EINVAL);
    tag(f, &a, "registry.example:5000/team/debian", "12");
    assert_resolves(f, "registry.example:5000/team/debian:12", &a);
}

static void images_are_listed_by_name(void **state)
{
    struct fixture *f = *state;
    struct digest a = commit_text(f, "a", NULL, NULL);
    struct error err = ERROR_INIT;
    struct catalogue_image *list;
    size_t count;

    tag(f, &a, "b", "1");
    tag(f, &a, "a", "2");
    tag(f, &a, "a", "1");
    must(catalogue_image_list(f->store, &list, &count, &err), &err);
    assert_int_equal(count, 3);
    assert_string_equal(list[0].name, "a");
    assert_string_equal(list[0].tag, "1");
    assert_string_equal(list[2].name, "b");
    catalogue_images_free(list, count);
}

static void references_mean_what_the_contract_says(void **state)
{
    struct fixture *f = *state;
    struct digest a = commit_text(f, "a", NULL, NULL), b, c = commit_text(f, "c", NULL, NULL);
    char hex[DIGEST_HEX_SIZE];

    make_machine(f, "web", &a);
    b = commit_text(f, "b", "web", "patched");
    tag(f, &c, "debian", "latest");
    tag(f, &c, "web", "latest");
    tag(f, &c, "host:5000/x", "latest");
    assert_resolves(f, "web@patched", &b);
    /* The machine wins over the image of its name. */
    assert_resolves(f, "web", &b);
    assert_resolves(f, "web:latest", &c);
    assert_resolves(f, "debian", &c);
    assert_resolves(f, "host:5000/x", &c);
    digest_hex(&a, hex);
    assert_resolves(f, hex, &a);
    hex[8] = '\0';
    assert_resolves(f, hex, &a);
    hex[7] = '\0';
    assert_unknown(f, hex);
    assert_unknown(f, "web@other");
    assert_unknown(f, "www@patched");
    assert_unknown(f, "00000000");
    assert_unknown(f, "");
    assert_unknown(f, "'; DROP TABLE machine; --");
}

static void two_stores_open_at_once_see_each_other(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct store *other;
    struct digest id;

    must(store_open(f->store_dir, false, &other, &err), &err);
    id = commit_text(f, "late", NULL, NULL);
    assert_disk(other, &id, "late", 4);
    store_close(other);
}

/* ---- opening ---- */

static void a_missing_store_is_not_made_unasked(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *dir = io_format("%s/none", f->dir);
    struct error err = ERROR_INIT;
    struct store *store;

    assert_int_equal(store_open(dir, false, &store, &err), -ENOENT);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_int_equal(access(dir, F_OK), -1);
}

static void close_store(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
}

static void assert_corrupt(struct fixture *f)
{
    struct error err = ERROR_INIT;
    struct store *store;

    assert_int_equal(store_open(f->store_dir, true, &store, &err), -EBADMSG);
    assert_int_equal(err.status, STATUS_CORRUPT);
    assert_string_not_equal(err.hint, "");
}

static void a_truncated_catalogue_is_corrupt(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir);

    commit_text(f, "x", NULL, NULL);
    close_store(f);
    assert_int_equal(truncate(path, 4096), 0);
    assert_corrupt(f);
    assert_int_equal(truncate(path, 100), 0);
    assert_corrupt(f);
}

static void an_emptied_catalogue_does_not_make_a_new_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir);

    commit_text(f, "x", NULL, NULL);
    close_store(f);
    assert_int_equal(truncate(path, 0), 0);
    assert_corrupt(f);
    assert_int_equal(unlink(path), 0);
    assert_corrupt(f);
}

/* The first page of a catalogue is written before its tables: with its log gone it
 * looks like one that is just being made. */
static void a_catalogue_without_its_tables_does_not_make_a_new_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir);
    sqlite3 *db;

    commit_text(f, "x", NULL, NULL);
    close_store(f);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA journal_mode=WAL", 0, 0, 0), SQLITE_OK);
    sqlite3_close(db);
    assert_corrupt(f);
    assert_int_equal(count_files(f, ".pack"), 2);
}

static void a_catalogue_of_rubbish_is_corrupt(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir);
    char rubbish[8192];

    close_store(f);
    memset(rubbish, 'x', sizeof(rubbish));
    assert_int_equal(io_write_file(AT_FDCWD, path, rubbish, sizeof(rubbish), 0600), 0);
    assert_corrupt(f);
}

static void a_newer_schema_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir);
    struct error err = ERROR_INIT;
    struct store *store;
    sqlite3 *db;

    close_store(f);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE meta SET value = 2 WHERE key = 'schema'", 0, 0, 0),
                     SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(store_open(f->store_dir, false, &store, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.message, "newer"));
}

static int commit_manifest(struct fixture *f, const struct manifest *m, const char *text,
                           const char *machine, const char *name, struct digest *id)
{
    struct ingest_commit commit = {.manifest = m, .machine = machine, .name = name};
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct digest root;
    int r;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, text, strlen(text), &root, &err), &err);
    r = ingest_commit(in, &commit, id, &err);
    if (r == -EEXIST)
        assert_string_not_equal(err.hint, "");
    ingest_free(in);
    return r;
}

static void the_same_checkpoint_may_get_a_name_later(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_text(f, "a", NULL, NULL), again;
    struct error err = ERROR_INIT;
    struct manifest m;

    make_machine(f, "web", &id);
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    assert_int_equal(commit_manifest(f, &m, "a", "web", "late", &again), 0);
    assert_memory_equal(&again, &id, sizeof(id));
    assert_resolves(f, "web@late", &id);
    assert_store_is_sound(f->store);
    assert_int_equal(commit_manifest(f, &m, "a", "web", "later", &again), -EEXIST);
}

static void a_whole_id_means_its_checkpoint_whatever_has_that_name(void **state)
{
    struct fixture *f = *state;
    struct digest id = commit_text(f, "a", NULL, NULL), other = commit_text(f, "b", NULL, NULL);
    char hex[DIGEST_HEX_SIZE];

    tag(f, &other, digest_hex(&id, hex), "latest");
    assert_resolves(f, hex, &id);
    /* Fewer digits may be a name, and names are what people type. */
    hex[12] = '\0';
    make_machine(f, hex, &other);
    assert_resolves(f, hex, &other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_new_machine_has_its_origin_as_head),
        TEST(a_machine_needs_a_checkpoint_and_a_free_valid_name),
        TEST(a_commit_moves_the_head_when_told),
        TEST(committing_to_an_unknown_machine_is_refused),
        TEST(checkpoints_are_listed_oldest_first),
        TEST(removing_a_machine_removes_its_checkpoints_only),
        TEST(a_checkpoint_in_use_cannot_be_removed),
        TEST(a_tag_is_moved_only_when_told),
        TEST(image_names_stay_below_a_directory),
        TEST(images_are_listed_by_name),
        TEST(references_mean_what_the_contract_says),
        TEST(two_stores_open_at_once_see_each_other),
        TEST(a_missing_store_is_not_made_unasked),
        TEST(a_truncated_catalogue_is_corrupt),
        TEST(an_emptied_catalogue_does_not_make_a_new_store),
        TEST(a_catalogue_without_its_tables_does_not_make_a_new_store),
        TEST(a_catalogue_of_rubbish_is_corrupt),
        TEST(a_newer_schema_is_refused),
        TEST(the_same_checkpoint_may_get_a_name_later),
        TEST(a_whole_id_means_its_checkpoint_whatever_has_that_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
