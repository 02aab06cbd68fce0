/* SPDX-License-Identifier: Apache-2.0 */
/* Collecting garbage: what goes, what stays, and who keeps it. */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/gc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define PAGE STASIS_PAGE_SIZE

/* ---- what the tests do again and again ---- */

static struct gc_result collect(struct store *store)
{
    struct error err = ERROR_INIT;
    struct gc_result result;

    must(store_gc(store, NULL, &result, &err), &err);
    return result;
}

static struct ingest *begin(struct store *store)
{
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;

    must(ingest_begin(store, &in, &err), &err);
    return in;
}

static struct digest write_pages(struct ingest *in, const uint8_t *data, size_t pages)
{
    struct error err = ERROR_INIT;
    struct digest root;

    must(ingest_memory(in, data, pages * PAGE, &root, &err), &err);
    return root;
}

static int commit_root(struct ingest *in, const struct digest *root, size_t pages, const char *tag,
                       struct digest *id_out, struct error *err)
{
    struct manifest m;
    int r;

    make_manifest(&m, root, pages * PAGE);
    struct ingest_commit commit = {.manifest = &m, .image = "i", .tag = tag, .replace_tag = true};
    r = ingest_commit(in, &commit, id_out, err);
    ingest_free(in);
    return r;
}

/* Image "i:TAG" with these pages. */
static struct digest put_image(struct store *store, const uint8_t *data, size_t pages,
                               const char *tag)
{
    struct ingest *in = begin(store);
    struct digest root = write_pages(in, data, pages);
    struct error err = ERROR_INIT;
    struct digest id;

    must(commit_root(in, &root, pages, tag, &id, &err), &err);
    return id;
}

static void drop_image(struct store *store, const char *tag)
{
    struct error err = ERROR_INIT;

    must(catalogue_image_remove(store, "i", tag, &err), &err);
}

static bool is_there(struct store *store, const struct digest *id)
{
    struct error err = ERROR_INIT;
    struct manifest m;

    return catalogue_manifest_read(store, id, &m, &err) == 0;
}

static struct store *open_again(const struct fixture *f)
{
    struct error err = ERROR_INIT;
    struct store *store;

    must(store_open(f->store_dir, false, &store, &err), &err);
    return store;
}

static void sql(const struct fixture *f, const char *text)
{
    _cleanup_free_ char *path = io_format("%s/catalogue.db", f->store_dir);
    sqlite3 *db;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, 0, 0, 0), SQLITE_OK);
    sqlite3_close(db);
}

/* ---- what goes ---- */

static void what_is_needed_stays(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct digest id = put_image(f->store, data, 100, "a");
    size_t before = count_files(f, ".pack");
    struct gc_result result = collect(f->store);

    assert_int_equal(result.packs_dead + result.packs_sparse + result.packs_removed, 0);
    assert_int_equal(result.checkpoints, 0);
    assert_int_equal(count_files(f, ".pack"), before);
    assert_disk(f->store, &id, data, 100 * PAGE);
}

static void what_nothing_needs_goes(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *a = make_pages(100, 1), *b = make_pages(100, 1000);
    struct digest gone = put_image(f->store, a, 100, "a"), kept = put_image(f->store, b, 100, "b");
    struct gc_result result;

    drop_image(f->store, "a");
    fixture_reopen(f);
    result = collect(f->store);
    assert_int_equal(result.checkpoints, 1);
    assert_int_equal(result.packs_removed, 2);
    assert_true(result.freed_bytes > 100 * PAGE / 4);
    assert_int_equal(count_files(f, ".pack"), 2);
    assert_false(is_there(f->store, &gone));
    assert_disk(f->store, &kept, b, 100 * PAGE);
    assert_store_is_sound(f->store);
    assert_dir_is_sound(f->store_dir);
}

static void a_dry_run_tells_and_changes_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *a = make_pages(100, 1);
    struct gc_options options = {.dry_run = true};
    struct digest id = put_image(f->store, a, 100, "a");
    struct error err = ERROR_INIT;
    struct gc_result dry, wet;

    drop_image(f->store, "a");
    must(store_gc(f->store, &options, &dry, &err), &err);
    assert_int_equal(dry.checkpoints, 1);
    assert_int_equal(dry.packs_dead, 2);
    assert_int_equal(dry.packs_removed + dry.freed_bytes, 0);
    assert_int_equal(count_files(f, ".pack"), 2);
    assert_disk(f->store, &id, a, 100 * PAGE);
    wet = collect(f->store);
    assert_int_equal(wet.freed_bytes, dry.freeable_bytes);
}

static void checkpoints_of_machines_stay(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(40, 1);
    struct error err = ERROR_INIT;
    struct digest origin = put_image(f->store, data, 10, "a"), old, head;

    must(catalogue_machine_create(f->store, "web", &origin, &err), &err);
    drop_image(f->store, "a");
    old = commit_disk(f->store, data + 10 * PAGE, 10 * PAGE, "web", NULL);
    head = commit_disk(f->store, data + 20 * PAGE, 10 * PAGE, "web", NULL);
    assert_int_equal(collect(f->store).packs_removed, 0);
    assert_disk(f->store, &origin, data, 10 * PAGE);
    assert_disk(f->store, &old, data + 10 * PAGE, 10 * PAGE);
    assert_disk(f->store, &head, data + 20 * PAGE, 10 * PAGE);
    must(catalogue_machine_remove(f->store, "web", &err), &err);
    assert_int_equal(collect(f->store).checkpoints, 1);
    assert_int_equal(count_files(f, ".pack"), 0);
}

/* rm of a machine keeps what clones of it build on; when they are gone, so is that. */
static void what_a_clone_built_on_goes_with_the_clone(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(20, 1);
    struct digest origin = put_image(f->store, data, 10, "a"), cloned;
    struct error err = ERROR_INIT;

    must(catalogue_machine_create(f->store, "web", &origin, &err), &err);
    cloned = commit_disk(f->store, data + 10 * PAGE, 10 * PAGE, "web", "x");
    must(catalogue_machine_create(f->store, "clone", &cloned, &err), &err);
    must(catalogue_machine_remove(f->store, "web", &err), &err);
    collect(f->store);
    assert_disk(f->store, &cloned, data + 10 * PAGE, 10 * PAGE);
    must(catalogue_machine_remove(f->store, "clone", &err), &err);
    assert_int_equal(collect(f->store).checkpoints, 1);
    assert_false(is_there(f->store, &cloned));
    assert_disk(f->store, &origin, data, 10 * PAGE);
}

static void a_checkpoint_without_a_name_stays_as_long_as_its_maker(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(10, 1);
    struct store *other = open_again(f);
    struct digest id = commit_disk(other, data, 10 * PAGE, NULL, NULL);

    assert_int_equal(collect(f->store).checkpoints, 0);
    assert_disk(f->store, &id, data, 10 * PAGE);
    store_close(other);
    assert_int_equal(collect(f->store).checkpoints, 1);
    assert_false(is_there(f->store, &id));
    assert_int_equal(count_files(f, ".pack"), 0);
}

static void device_states_go_with_their_checkpoints(void **state)
{
    struct fixture *f = *state;

    sql(f, "INSERT INTO blob VALUES(zeroblob(32), 'x')");
    collect(f->store);
    sql(f, "INSERT INTO blob VALUES(zeroblob(32), 'x')"); /* or this would not be unique */
}

/* ---- packs of which little is needed ---- */

static void a_sparse_pack_is_written_again(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(600, 1);
    struct store *reader = open_again(f);
    struct error err = ERROR_INIT;
    struct store_usage before, after;
    struct manifest old, new;
    struct gc_result result;
    struct digest id;

    put_image(f->store, data, 600, "a");
    id = put_image(f->store, data + 100 * PAGE, 50, "b");
    must(catalogue_manifest_read(reader, &id, &old, &err), &err);
    drop_image(f->store, "a");
    must(store_usage_get(f->store, &before, &err), &err);
    result = collect(f->store);
    assert_int_equal(result.packs_sparse, 1);
    assert_true(result.copied_bytes > 0);
    must(store_usage_get(f->store, &after, &err), &err);
    assert_true(after.stored_bytes < before.stored_bytes / 4);
    /* Maps are what they were, for those as well who knew the old packs. */
    assert_disk(f->store, &id, data + 100 * PAGE, 50 * PAGE);
    assert_disk(reader, &id, data + 100 * PAGE, 50 * PAGE);
    must(catalogue_manifest_read(reader, &id, &new, &err), &err);
    assert_memory_equal(&old.spaces[0].root, &new.spaces[0].root, sizeof(old.spaces[0].root));
    assert_store_is_sound(f->store);
    assert_dir_is_sound(f->store_dir);
    /* And then there is nothing left to do. */
    result = collect(f->store);
    assert_int_equal(result.packs_sparse + result.packs_dead + result.packs_removed, 0);
    store_close(reader);
}

static void an_open_space_survives_that_its_packs_are_written_again(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(600, 1), *buf = malloc(50 * PAGE);
    struct store *reader = open_again(f);
    struct error err = ERROR_INIT;
    struct space *space;
    struct manifest m;
    struct digest id;

    put_image(f->store, data, 600, "a");
    id = put_image(f->store, data, 50, "b");
    must(catalogue_manifest_read(reader, &id, &m, &err), &err);
    must(space_open(reader, &m.spaces[0].root, 50 * PAGE, &space, &err), &err);
    drop_image(f->store, "a");
    assert_true(collect(f->store).packs_removed > 0);
    must(space_read(space, 0, buf, 50 * PAGE, &err), &err);
    assert_memory_equal(buf, data, 50 * PAGE);
    space_close(space);
    store_close(reader);
}

/* Of every pack that is as large as that; more than parity can mend. to 0: cuts them
 * off there. */
static void spoil_packs(const struct fixture *f, off_t from, off_t to)
{
    _cleanup_free_ char *path = io_format("%s/packs", f->store_dir);
    _cleanup_closedir_ DIR *dir = opendir(path);
    _cleanup_free_ char *rubbish = calloc(1, (size_t)to + 1);
    const struct dirent *entry;

    while ((entry = readdir(dir)) != NULL) {
        _cleanup_close_ int fd = openat(dirfd(dir), entry->d_name, O_RDWR);

        if (fd >= 0 && to == 0)
            assert_int_equal(ftruncate(fd, from), 0);
        else if (fd >= 0 && lseek(fd, 0, SEEK_END) >= to)
            assert_int_equal(pwrite(fd, rubbish, (size_t)(to - from), from), to - from);
    }
}

static void a_store_with_damaged_maps_is_left_alone(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(600, 1);
    struct error err = ERROR_INIT;
    struct gc_result result;

    put_image(f->store, data, 600, "a");
    put_image(f->store, data, 50, "b");
    drop_image(f->store, "a");
    spoil_packs(f, 100, 0);
    fixture_reopen(f);
    assert_int_equal(store_gc(f->store, NULL, &result, &err), -EBADMSG);
    assert_int_equal(err.status, STATUS_CORRUPT);
    assert_string_not_equal(err.hint, "");
    assert_int_equal(result.packs_removed, 0);
}

static void a_sparse_pack_that_cannot_be_read_is_left_alone(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(600, 1);
    struct error err = ERROR_INIT;
    struct gc_result result;
    struct space *space;
    struct manifest m;
    struct digest id;
    uint8_t page[PAGE];

    put_image(f->store, data, 600, "a");
    id = put_image(f->store, data, 250, "b");
    drop_image(f->store, "a");
    spoil_packs(f, 200000, 600000);
    fixture_reopen(f);
    result = collect(f->store);
    assert_int_equal(result.packs_sparse, 2); /* pages, and the nodes of the map */
    assert_true(result.packs_removed < 2);
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, 250 * PAGE, &space, &err), &err);
    must(space_read(space, 0, page, PAGE, &err), &err);
    assert_memory_equal(page, data, PAGE);
    space_close(space);
}

static void a_damaged_entry_of_a_pack_stops_it(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(20, 1);
    struct error err = ERROR_INIT;
    struct gc_result result;
    struct digest id = put_image(f->store, data, 20, "a");

    sql(f, "UPDATE pack SET bytes = bytes + 1 WHERE seq = 1");
    assert_int_equal(store_gc(f->store, NULL, &result, &err), -EBADMSG);
    sql(f, "UPDATE pack SET bytes = bytes - 1 WHERE seq = 1");
    collect(f->store);
    assert_disk(f->store, &id, data, 20 * PAGE);
}

/* The id in the row is another, so the file looks like one that nobody lists. */
static void a_damaged_entry_costs_no_file(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(20, 1);
    struct digest id = put_image(f->store, data, 20, "a");

    sql(f, "ALTER TABLE pack ADD COLUMN was BLOB; UPDATE pack SET was = id, id = zeroblob(16)"
           " WHERE seq = 1");
    fixture_reopen(f);
    assert_int_equal(count_files(f, ".pack"), 2);
    sql(f, "UPDATE pack SET id = was WHERE seq = 1");
    fixture_reopen(f);
    assert_disk(f->store, &id, data, 20 * PAGE);
}

/* ---- writers ---- */

static void a_writer_from_before_keeps_what_it_found(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct error err = ERROR_INIT;
    struct gc_result result;
    struct ingest *in;
    struct digest root, id;

    put_image(f->store, data, 100, "a");
    fixture_reopen(f);
    in = begin(f->store);
    root = write_pages(in, data, 100); /* all of it is there */
    drop_image(f->store, "a");
    result = collect(f->store);
    assert_int_equal(result.packs_removed, 0);
    assert_int_equal(result.packs_waiting, 2);
    must(commit_root(in, &root, 100, "b", &id, &err), &err);
    result = collect(f->store);
    assert_int_equal(result.packs_removed + result.packs_dead, 0);
    assert_int_equal(count_files(f, ".pack"), 2);
    assert_disk(f->store, &id, data, 100 * PAGE);
    assert_dir_is_sound(f->store_dir);
}

static void a_writer_that_gives_up_keeps_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct ingest *in;

    put_image(f->store, data, 100, "a");
    fixture_reopen(f);
    in = begin(f->store);
    write_pages(in, data, 100);
    drop_image(f->store, "a");
    assert_int_equal(collect(f->store).packs_waiting, 2);
    ingest_free(in);
    assert_int_equal(collect(f->store).packs_removed, 2);
    assert_int_equal(count_files(f, ".pack"), 0);
}

static void a_writer_from_after_stores_it_again(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct error err = ERROR_INIT;
    struct ingest_stats stats;
    struct ingest *old, *in;
    struct digest root, id;

    put_image(f->store, data, 100, "a");
    fixture_reopen(f);
    old = begin(f->store);
    drop_image(f->store, "a");
    assert_int_equal(collect(f->store).packs_waiting, 2);
    in = begin(f->store);
    root = write_pages(in, data, 100);
    ingest_get_stats(in, &stats);
    assert_int_equal(stats.pages_new, 100);
    must(commit_root(in, &root, 100, "b", &id, &err), &err);
    ingest_free(old);
    assert_int_equal(collect(f->store).packs_removed, 2);
    assert_disk(f->store, &id, data, 100 * PAGE);
    assert_dir_is_sound(f->store_dir);
}

/* A machine's next save builds on the last, whose maps it never looks at. */
static void a_base_that_was_kept_by_another_writer_is_safe(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(300, 1);
    struct error err = ERROR_INIT;
    struct ingest *first, *second;
    struct map_builder *b;
    struct digest root, base, id;

    put_image(f->store, data, 300, "a");
    fixture_reopen(f);
    first = begin(f->store);
    root = write_pages(first, data, 300);
    drop_image(f->store, "a");
    assert_int_equal(collect(f->store).packs_waiting, 2);
    must(commit_root(first, &root, 300, "base", &base, &err), &err);
    second = begin(f->store);
    must(map_builder_begin(second, &root, 300, 300, &b, &err), &err);
    must(map_builder_set(b, 7, (struct page_ref){0}, &err), &err);
    drop_image(f->store, "base");
    collect(f->store);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    must(commit_root(second, &root, 300, "c", &id, &err), &err);
    collect(f->store);
    memset(data + 7 * PAGE, 0, PAGE);
    assert_disk(f->store, &id, data, 300 * PAGE);
    assert_dir_is_sound(f->store_dir);
}

static void a_base_that_is_gone_is_an_error_and_not_a_hole(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(5000, 1);
    struct error err = ERROR_INIT;
    struct map_builder *b = NULL;
    struct manifest m;
    struct ingest *in;
    struct digest id, root;
    int r;

    id = put_image(f->store, data, 5000, "a");
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    drop_image(f->store, "a");
    fixture_reopen(f);
    collect(f->store);
    in = begin(f->store);
    r = map_builder_begin(in, &m.spaces[0].root, 5000, 5000, &b, &err);
    if (r == 0)
        r = map_builder_finish(b, &root, &err);
    map_builder_free(b);
    if (r == 0)
        r = commit_root(in, &root, 5000, "b", &id, &err);
    else
        ingest_free(in);
    assert_true(r < 0);
    assert_dir_is_sound(f->store_dir);
}

static void a_writer_without_its_lease_does_not_commit(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(10, 1);
    struct ingest *in = begin(f->store);
    struct digest root = write_pages(in, data, 10), id;
    struct error err = ERROR_INIT;

    sql(f, "DELETE FROM lease");
    assert_int_equal(commit_root(in, &root, 10, "a", &id, &err), -ESTALE);
    assert_string_not_equal(err.hint, "");
    assert_int_equal(count_files(f, ".pack") + count_files(f, ".tmp"), 0);
}

/* ---- readers ---- */

static void a_pin_keeps_what_was_removed(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1), *buf = malloc(100 * PAGE);
    struct error err = ERROR_INIT;
    struct store *other = open_again(f);
    struct store_pin *pin = NULL;
    struct space *space;
    struct manifest m;
    struct digest id = put_image(f->store, data, 100, "a");

    must(store_pin(other, &id, &pin, &err), &err);
    must(catalogue_manifest_read(other, &id, &m, &err), &err);
    drop_image(f->store, "a");
    must(catalogue_checkpoint_remove(f->store, &id, &err), &err);
    assert_int_equal(collect(f->store).packs_removed, 0);
    must(space_open(other, &m.spaces[0].root, 100 * PAGE, &space, &err), &err);
    must(space_read(space, 0, buf, 100 * PAGE, &err), &err);
    assert_memory_equal(buf, data, 100 * PAGE);
    space_close(space);
    store_unpin(pin);
    assert_int_equal(collect(f->store).packs_removed, 2);
    assert_int_equal(store_pin(other, &id, &pin, &err), -ENOENT);
    store_close(other);
}

static void a_pin_keeps_no_writer_waiting(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *a = make_pages(10, 1), *b = make_pages(10, 100);
    struct digest id = put_image(f->store, a, 10, "a");
    struct error err = ERROR_INIT;
    struct store_pin *pin;
    struct gc_result result;

    must(store_pin(f->store, &id, &pin, &err), &err);
    put_image(f->store, b, 10, "b");
    drop_image(f->store, "b");
    result = collect(f->store);
    assert_int_equal(result.packs_removed, 2);
    assert_int_equal(result.packs_waiting, 0);
    store_unpin(pin);
}

/* With short keys the new page takes the reference that the old one had. */
static void a_reference_that_was_free_again_is_read_right_by_all(void **state)
{
    struct fixture *f = *state;
    struct store *reader = open_again(f);
    struct error err = ERROR_INIT;

    for (uint64_t round = 0; round < 4; round++) {
        _cleanup_free_ uint8_t *data = make_pages(300, 1 + 1000 * round);
        struct digest id = put_image(f->store, data, 300, "a");
        _cleanup_free_ uint8_t *buf = NULL;
        uint64_t size;

        must(read_disk(reader, &id, &buf, &size, &err), &err);
        assert_memory_equal(buf, data, size);
        collect(f->store);
    }
    store_close(reader);
    assert_store_is_sound(f->store);
}

/* ---- the dead ---- */

static pid_t hold_in_child(const struct fixture *f, int ready, const struct digest *pin_id)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err = ERROR_INIT;
        struct store *store;
        struct store_pin *pin;
        struct ingest *in;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (store_open(f->store_dir, false, &store, &err) < 0 ||
            (pin_id != NULL ? store_pin(store, pin_id, &pin, &err)
                            : ingest_begin(store, &in, &err)) < 0 ||
            write(ready, "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    return pid;
}

static void leases_end_with_their_process(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(10, 1);
    struct error err = ERROR_INIT;

    for (int pinned = 0; pinned < 2; pinned++) {
        struct digest id = put_image(f->store, data, 10, "a");
        char word;
        pid_t pid;
        int fds[2];

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        pid = hold_in_child(f, fds[1], pinned ? &id : NULL);
        assert_int_equal(read(fds[0], &word, 1), 1);
        drop_image(f->store, "a");
        must(catalogue_checkpoint_remove(f->store, &id, &err), &err);
        assert_int_equal(collect(f->store).packs_removed, 0);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(collect(f->store).packs_removed, 2);
        close(fds[0]);
        close(fds[1]);
    }
    assert_int_equal(count_files(f, ".pack"), 0);
}

/* ---- the collector itself ---- */

struct stopper {
    struct fixture *f;
    unsigned left;
    unsigned calls;
    int other;
};

static int stop_later(const char *what, uint64_t done, uint64_t total, void *context)
{
    struct stopper *s = context;

    (void)what;
    (void)done;
    (void)total;
    s->calls++;
    return s->left == 0 || --s->left == 0;
}

static void cancelled_anywhere_it_loses_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(6000, 1);
    struct stopper s = {.f = f};
    struct gc_options options = {.progress = stop_later, .context = &s};
    struct digest id = {0};
    unsigned cancelled = 0;

    for (unsigned stop = 1;; stop++) {
        struct error err = ERROR_INIT;
        struct gc_result result;
        int r;

        put_image(f->store, data, 6000, "a");
        id = put_image(f->store, data + 500 * PAGE, 500, "b");
        drop_image(f->store, "a");
        s.left = stop;
        s.calls = 0;
        r = store_gc(f->store, &options, &result, &err);
        assert_disk(f->store, &id, data + 500 * PAGE, 500 * PAGE);
        assert_int_equal(count_files(f, ".tmp"), 0);
        if (r == 0)
            break;
        assert_int_equal(r, -ECANCELED);
        assert_int_equal(err.status, STATUS_INTERRUPTED);
        cancelled++;
    }
    assert_true(cancelled > 0);
    collect(f->store);
    assert_disk(f->store, &id, data + 500 * PAGE, 500 * PAGE);
    assert_dir_is_sound(f->store_dir);
}

static int collect_too(const char *what, uint64_t done, uint64_t total, void *context)
{
    struct stopper *s = context;
    struct store *other = open_again(s->f);
    struct error err = ERROR_INIT;
    struct gc_result result;

    (void)what;
    (void)done;
    (void)total;
    s->other = store_gc(other, NULL, &result, &err);
    s->calls++;
    store_close(other);
    return 0;
}

static void one_collects_at_a_time(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(5000, 1);
    struct stopper s = {.f = f};
    struct gc_options options = {.progress = collect_too, .context = &s};
    struct error err = ERROR_INIT;
    struct gc_result result;

    put_image(f->store, data, 5000, "a");
    must(store_gc(f->store, &options, &result, &err), &err);
    assert_true(s.calls > 0);
    assert_int_equal(s.other, -EBUSY);
    collect(f->store);
}

static void a_full_disk_can_be_collected(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(600, 1);
    _cleanup_free_ char *dir = io_format("%s/small", f->dir);
    _cleanup_free_ char *store_dir = io_format("%s/store", dir);
    _cleanup_free_ char *filler = io_format("%s/filler", dir);
    struct error err = ERROR_INIT;
    struct store *store;
    struct digest id;
    char block[4096] = {1};

    assert_int_equal(mkdir(dir, 0700), 0);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", dir, "tmpfs", 0, "size=16m") < 0) {
        print_message("skipped: mounting a tmpfs is not permitted: %s\n", strerror(errno));
        skip();
    }
    must(store_open(store_dir, true, &store, &err), &err);
    id = put_image(store, data, 50, "a");
    put_image(store, data + 50 * PAGE, 550, "b");
    drop_image(store, "b");
    store_close(store);
    int fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    while (write(fd, block, sizeof(block)) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
    must(store_open(store_dir, false, &store, &err), &err);
    assert_true(collect(store).packs_removed > 0);
    assert_disk(store, &id, data, 50 * PAGE);
    assert_store_is_sound(store);
    store_close(store);
    umount2(dir, MNT_DETACH);
}

/* ---- all at once ---- */

enum { STORM_PAGES = 200, STORM_ROUNDS = 25 };

/* The pages of image N: some of its own, most that several images have. Whoever reads
 * it knows by its name what it must hold. */
static void storm_pages(uint8_t *data, uint64_t number)
{
    uint64_t state = number * 31 + 7;

    for (size_t i = 0; i < STORM_PAGES; i++) {
        uint64_t pick = random_next(&state);

        fill_page(data + i * PAGE, pick % 4 == 0 ? number * 1000 + i : i % 16 * 100 + pick / 4 % 8);
    }
}

static void require(int r, const char *what, const struct error *err)
{
    if (r == 0)
        return;
    print_error("%s: %d %s\n", what, r, err->message);
    _exit(1);
}

/* Writes images and removes old ones; always keeps the last three. */
static void storm_writer(struct store *store, uint64_t number)
{
    _cleanup_free_ uint8_t *data = malloc(STORM_PAGES * PAGE);

    for (uint64_t i = 0; i < STORM_ROUNDS; i++) {
        _cleanup_free_ char *tag = io_format("%llu", (unsigned long long)(number * 1000 + i));
        _cleanup_free_ char *old = io_format("%llu", (unsigned long long)(number * 1000 + i - 3));
        struct error err = ERROR_INIT;
        struct ingest *in;
        struct digest root, id;

        storm_pages(data, number * 1000 + i);
        require(ingest_begin(store, &in, &err), "begin", &err);
        require(ingest_memory(in, data, STORM_PAGES * PAGE, &root, &err), "write", &err);
        require(commit_root(in, &root, STORM_PAGES, tag, &id, &err), "commit", &err);
        if (i >= 3)
            require(catalogue_image_remove(store, "i", old, &err), "untag", &err);
    }
}

/* Each image it can pin must be what its name says. */
static void storm_reader(struct store *store, uint64_t number)
{
    _cleanup_free_ uint8_t *data = malloc(STORM_PAGES * PAGE);
    uint64_t read = 0;

    for (uint64_t i = 0; i < STORM_ROUNDS * 2; i++) {
        struct error err = ERROR_INIT;
        struct catalogue_image *list;
        size_t count;

        require(catalogue_image_list(store, &list, &count, &err), "list", &err);
        for (size_t k = i % 3; k < count; k += 3) {
            _cleanup_free_ uint8_t *buf = NULL;
            struct store_pin *pin;
            uint64_t size;

            if (store_pin(store, &list[k].id, &pin, &err) == 0) {
                require(read_disk(store, &list[k].id, &buf, &size, &err), "read", &err);
                storm_pages(data, strtoull(list[k].tag, NULL, 10));
                require(memcmp(buf, data, size) != 0, "compare", &err);
                read++;
                store_unpin(pin);
            }
        }
        catalogue_images_free(list, count);
    }
    (void)number;
    require(read == 0, "nothing was read", &ERROR_INIT);
}

static void storm_collector(struct store *store, uint64_t number)
{
    for (uint64_t i = 0; i < STORM_ROUNDS; i++) {
        struct error err = ERROR_INIT;
        struct gc_result result;
        int r = store_gc(store, NULL, &result, &err);

        if (r != -EBUSY)
            require(r, "collect", &err);
    }
    (void)number;
}

static pid_t storm_process(const struct fixture *f, void (*body)(struct store *, uint64_t),
                           uint64_t number)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err = ERROR_INIT;
        struct store *store = NULL;

        require(store_open(f->store_dir, false, &store, &err), "open", &err);
        store_limit_threads(store, 1); /* TSan knows no threads behind a fork */
        body(store, number);
        store_close(store);
        _exit(0);
    }
    return pid;
}

static void processes_write_read_remove_and_collect_at_once(void **state)
{
    struct fixture *f = *state;
    static void (*const bodies[])(struct store *, uint64_t) = {
        storm_writer, storm_writer, storm_reader, storm_collector, storm_collector, storm_reader,
    };
    enum { COUNT = sizeof(bodies) / sizeof(bodies[0]) };
    _cleanup_free_ uint8_t *data = malloc(STORM_PAGES * PAGE);
    struct error err = ERROR_INIT;
    struct catalogue_image *list;
    pid_t pids[COUNT];
    size_t count;

    storm_pages(data, 7);
    put_image(f->store, data, STORM_PAGES, "7"); /* for readers that are early */
    for (uint64_t i = 0; i < COUNT; i++)
        pids[i] = storm_process(f, bodies[i], i + 1);
    for (unsigned i = 0; i < COUNT; i++) {
        int status;

        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    collect(f->store);
    must(catalogue_image_list(f->store, &list, &count, &err), &err);
    assert_int_equal(count, 1 + 2 * 3);
    for (size_t i = 0; i < count; i++) {
        storm_pages(data, strtoull(list[i].tag, NULL, 10));
        assert_disk(f->store, &list[i].id, data, STORM_PAGES * PAGE);
    }
    catalogue_images_free(list, count);
    assert_store_is_sound(f->store);
    assert_dir_is_sound(f->store_dir);
    /* Nobody is left who could need more than that. */
    assert_int_equal(collect(f->store).packs_waiting, 0);
    assert_int_equal(count_files(f, ".tmp"), 0);
}

struct storm_thread {
    pthread_t thread;
    struct store *store;
    void (*body)(struct store *, uint64_t);
    uint64_t number;
};

static void *run_thread(void *context)
{
    struct storm_thread *t = context;

    t->body(t->store, t->number);
    return NULL;
}

static void threads_of_one_process_do_so_as_well(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = malloc(STORM_PAGES * PAGE);
    struct storm_thread threads[] = {
        {.body = storm_writer}, {.body = storm_writer},    {.body = storm_reader},
        {.body = storm_reader}, {.body = storm_collector},
    };
    enum { COUNT = sizeof(threads) / sizeof(threads[0]) };

    storm_pages(data, 7);
    put_image(f->store, data, STORM_PAGES, "7");
    for (unsigned i = 0; i < COUNT; i++) {
        threads[i].store = f->store;
        threads[i].number = i + 1;
        assert_int_equal(pthread_create(&threads[i].thread, NULL, run_thread, &threads[i]), 0);
    }
    for (unsigned i = 0; i < COUNT; i++)
        pthread_join(threads[i].thread, NULL);
    collect(f->store);
    assert_store_is_sound(f->store);
    assert_dir_is_sound(f->store_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_needed_stays),
        TEST(what_nothing_needs_goes),
        TEST(a_dry_run_tells_and_changes_nothing),
        TEST(checkpoints_of_machines_stay),
        TEST(what_a_clone_built_on_goes_with_the_clone),
        TEST(a_checkpoint_without_a_name_stays_as_long_as_its_maker),
        TEST(device_states_go_with_their_checkpoints),
        TEST(a_sparse_pack_is_written_again),
        TEST(an_open_space_survives_that_its_packs_are_written_again),
        TEST(a_store_with_damaged_maps_is_left_alone),
        TEST(a_sparse_pack_that_cannot_be_read_is_left_alone),
        TEST(a_damaged_entry_of_a_pack_stops_it),
        TEST(a_damaged_entry_costs_no_file),
        TEST(a_writer_from_before_keeps_what_it_found),
        TEST(a_writer_that_gives_up_keeps_nothing),
        TEST(a_writer_from_after_stores_it_again),
        TEST(a_base_that_was_kept_by_another_writer_is_safe),
        TEST(a_base_that_is_gone_is_an_error_and_not_a_hole),
        TEST(a_writer_without_its_lease_does_not_commit),
        TEST(a_pin_keeps_what_was_removed),
        TEST(a_pin_keeps_no_writer_waiting),
        TEST(a_reference_that_was_free_again_is_read_right_by_all),
        TEST(leases_end_with_their_process),
        TEST(cancelled_anywhere_it_loses_nothing),
        TEST(one_collects_at_a_time),
        TEST(a_full_disk_can_be_collected),
        TEST(processes_write_read_remove_and_collect_at_once),
        TEST(threads_of_one_process_do_so_as_well),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
