/* SPDX-License-Identifier: Apache-2.0 */
/* Files and directories to the real agent and back. */
#include "fixture.h"

#include "agent/tree.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static unsigned warnings;
static uint64_t last_done, last_total;

static void count_warning(const char *text, void *context)
{
    (void)text;
    (void)context;
    warnings++;
}

static int note_progress(uint64_t done_bytes, uint64_t total_bytes, void *context)
{
    (void)context;
    last_done = done_bytes;
    last_total = total_bytes;
    return 0;
}

static const struct tree_options options = {
    .mode_mask = 0777, .progress = note_progress, .warn = count_warning};

static void ask(const struct fixture *f, enum agent_frame type, const char *path,
                struct channel *ch)
{
    const struct agent_copy request = {.path = path};
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct error err = ERROR_INIT;

    warnings = 0;
    fixture_connect(f, ch);
    assert_int_equal(agent_copy_encode(&request, &payload), 0);
    assert_int_equal(agent_request(ch, type, &payload, &err), 0);
}

static int copy_in(const struct fixture *f, const char *from, const char *to, struct error *err)
{
    _cleanup_free_ char *source = fixture_path(f, from);
    _cleanup_free_ char *destination = fixture_path(f, to);
    struct channel ch;

    ask(f, AGENT_COPY_IN, destination, &ch);
    int r = tree_send(&ch, source, &options, err);
    if (r == 0)
        r = agent_await_done(&ch, count_warning, NULL, err);
    channel_clear(&ch);
    return r;
}

static int copy_out(const struct fixture *f, const char *from, const char *to, struct error *err)
{
    _cleanup_free_ char *source = fixture_path(f, from);
    _cleanup_free_ char *destination = fixture_path(f, to);
    struct channel ch;

    struct tree_options asking = options;

    asking.asked = source;
    ask(f, AGENT_COPY_OUT, source, &ch);
    int r = tree_receive(&ch, destination, &asking, err);
    channel_clear(&ch);
    return r;
}

static struct stat stat_of(const struct fixture *f, const char *name)
{
    _cleanup_free_ char *path = fixture_path(f, name);
    struct stat st;

    assert_int_equal(lstat(path, &st), 0);
    return st;
}

static bool is_there(const struct fixture *f, const char *name)
{
    _cleanup_free_ char *path = fixture_path(f, name);
    struct stat st;

    return lstat(path, &st) == 0;
}

static void make_dir(const struct fixture *f, const char *name)
{
    _cleanup_free_ char *path = fixture_path(f, name);

    assert_int_equal(mkdir(path, 0755), 0);
}

static void make_link(const struct fixture *f, const char *target, const char *name)
{
    _cleanup_free_ char *path = fixture_path(f, name);

    assert_int_equal(symlink(target, path), 0);
}

static void set_mode(const struct fixture *f, const char *name, mode_t mode, time_t mtime)
{
    _cleanup_free_ char *path = fixture_path(f, name);
    const struct timespec times[2] = {{.tv_sec = mtime}, {.tv_sec = mtime, .tv_nsec = 123456789}};

    assert_int_equal(chmod(path, mode), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void assert_content(const struct fixture *f, const char *name, const char *text)
{
    _cleanup_free_ char *content = fixture_read(f, name);

    assert_string_equal(content, text);
}

/* ---- files ---- */

static void a_file_goes_in_and_out(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "a", "hello", 5);
    set_mode(*state, "a", 0640, 1500000000);
    assert_int_equal(copy_in(*state, "a", "b", &err), 0);
    assert_int_equal(copy_out(*state, "b", "c", &err), 0);
    assert_content(*state, "c", "hello");
    struct stat st = stat_of(*state, "c");
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(st.st_mtim.tv_sec, 1500000000);
    assert_int_equal(st.st_mtim.tv_nsec, 123456789);
}

static void an_empty_file_is_a_file(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "empty", "", 0);
    assert_int_equal(copy_in(*state, "empty", "empty-too", &err), 0);
    assert_int_equal(stat_of(*state, "empty-too").st_size, 0);
}

static void a_big_file_tells_how_far_it_is(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "big", NULL, 20 << 20);
    assert_int_equal(copy_in(*state, "big", "big-in", &err), 0);
    assert_int_equal(last_done, 20 << 20);
    assert_int_equal(last_total, 20 << 20);
    last_done = 0;
    assert_int_equal(copy_out(*state, "big-in", "big-out", &err), 0);
    assert_int_equal(last_done, 20 << 20);
    assert_int_equal(last_total, 20 << 20);
    assert_true(fixture_same(*state, "big", "big-out"));
}

static void holes_stay_holes(void **state)
{
    _cleanup_free_ char *path = fixture_path(*state, "sparse");
    struct error err = ERROR_INIT;

    fixture_write(*state, "sparse", "begin", 5);
    assert_int_equal(truncate(path, 1 << 30), 0);
    assert_int_equal(copy_in(*state, "sparse", "sparse-in", &err), 0);
    struct stat st = stat_of(*state, "sparse-in");
    assert_int_equal(st.st_size, 1 << 30);
    assert_in_range(st.st_blocks, 0, 1024);
}

static void set_user_id_stays_in_the_guest(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "suid", "x", 1);
    set_mode(*state, "suid", 04755, 1500000000);
    assert_int_equal(copy_in(*state, "suid", "suid-in", &err), 0);
    assert_int_equal(stat_of(*state, "suid-in").st_mode & 07777, 04755);
    assert_int_equal(copy_out(*state, "suid-in", "suid-out", &err), 0);
    assert_int_equal(stat_of(*state, "suid-out").st_mode & 07777, 0755);
}

static void what_is_replaced_keeps_its_owner(void **state)
{
    _cleanup_free_ char *path = fixture_path(*state, "owned");
    struct error err = ERROR_INIT;

    if (getuid() != 0)
        skip();
    fixture_write(*state, "owned", "old", 3);
    assert_int_equal(chown(path, 1234, 1235), 0);
    fixture_write(*state, "newer", "new", 3);
    assert_int_equal(copy_in(*state, "newer", "owned", &err), 0);
    assert_content(*state, "owned", "new");
    assert_int_equal(stat_of(*state, "owned").st_uid, 1234);
    assert_int_equal(stat_of(*state, "owned").st_gid, 1235);
}

static void a_link_that_is_named_is_followed(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "target", "pointed at", 10);
    make_link(*state, "target", "pointer");
    assert_int_equal(copy_out(*state, "pointer", "followed", &err), 0);
    assert_content(*state, "followed", "pointed at");
    /* As a destination, too: the link stays. */
    fixture_write(*state, "other", "written", 7);
    assert_int_equal(copy_in(*state, "other", "pointer", &err), 0);
    assert_true(S_ISLNK(stat_of(*state, "pointer").st_mode));
    assert_content(*state, "target", "written");
}

/* ---- where it goes ---- */

static void a_directory_takes_it_under_its_name(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "leaf", "leaf", 4);
    make_dir(*state, "into");
    assert_int_equal(copy_in(*state, "leaf", "into", &err), 0);
    assert_content(*state, "into/leaf", "leaf");
    make_dir(*state, "back");
    assert_int_equal(copy_out(*state, "into/leaf", "back/", &err), 0);
    assert_content(*state, "back/leaf", "leaf");
}

static void a_missing_directory_is_told(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "lost", "x", 1);
    assert_int_equal(copy_in(*state, "lost", "no/such/place", &err), -ENOENT);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_non_null(strstr(err.message, "no/such/place"));
    assert_int_equal(copy_out(*state, "lost", "no/such/place", &err), -ENOENT);
}

static void a_missing_source_is_told(void **state)
{
    struct error err = ERROR_INIT;

    assert_int_equal(copy_out(*state, "not-there", "here", &err), -ENOENT);
    assert_non_null(strstr(err.message, "not-there"));
    assert_false(is_there(*state, "here"));
    err = ERROR_INIT;
    assert_int_equal(copy_in(*state, "not-there", "here", &err), -ENOENT);
    assert_false(is_there(*state, "here"));
}

static void a_failure_far_away_ends_a_long_copy(void **state)
{
    struct error err = ERROR_INIT;

    fixture_write(*state, "long", NULL, 30 << 20);
    make_dir(*state, "dest");
    make_dir(*state, "dest/long"); /* a directory where the file is to be */
    assert_true(copy_in(*state, "long", "dest", &err) < 0);
    assert_int_equal(err.errnum, EISDIR);
}

/* ---- trees ---- */

static void make_tree(const struct fixture *f)
{
    make_dir(f, "tree");
    make_dir(f, "tree/sub");
    make_dir(f, "tree/sub/empty");
    fixture_write(f, "tree/one", "1", 1);
    fixture_write(f, "tree/sub/two", "22", 2);
    fixture_write(f, "tree/sub/name with spaces\n", "3", 1);
    make_link(f, "../one", "tree/sub/link");
    make_link(f, "/nowhere/at/all", "tree/dangling");
    set_mode(f, "tree/one", 0755, 1400000000);
    set_mode(f, "tree/sub", 0700, 1300000000);
}

static void assert_tree(const struct fixture *f, const char *root)
{
    char target[64] = "";
    char name[128];

    snprintf(name, sizeof(name), "%s/one", root);
    assert_content(f, name, "1");
    assert_int_equal(stat_of(f, name).st_mode & 07777, 0755);
    snprintf(name, sizeof(name), "%s/sub/two", root);
    assert_content(f, name, "22");
    snprintf(name, sizeof(name), "%s/sub/name with spaces\n", root);
    assert_content(f, name, "3");
    snprintf(name, sizeof(name), "%s/sub/empty", root);
    assert_true(S_ISDIR(stat_of(f, name).st_mode));
    snprintf(name, sizeof(name), "%s/sub", root);
    assert_int_equal(stat_of(f, name).st_mode & 07777, 0700);
    assert_int_equal(stat_of(f, name).st_mtim.tv_sec, 1300000000);
    snprintf(name, sizeof(name), "%s/sub/link", root);
    _cleanup_free_ char *path = fixture_path(f, name);
    assert_int_equal(readlink(path, target, sizeof(target) - 1), 6);
    assert_string_equal(target, "../one");
    snprintf(name, sizeof(name), "%s/dangling", root);
    assert_true(S_ISLNK(stat_of(f, name).st_mode));
}

static void a_tree_goes_in_and_out(void **state)
{
    struct error err = ERROR_INIT;

    make_tree(*state);
    assert_int_equal(copy_in(*state, "tree", "tree-in", &err), 0);
    assert_tree(*state, "tree-in");
    assert_int_equal(copy_out(*state, "tree-in", "tree-out", &err), 0);
    assert_tree(*state, "tree-out");
    assert_int_equal(warnings, 0);
    /* Once more: into it, as with cp. */
    assert_int_equal(copy_out(*state, "tree-in", "tree-out", &err), 0);
    assert_tree(*state, "tree-out/tree-in");
    /* The content of it: over what is there. */
    fixture_write(*state, "tree-in/one", "new", 3);
    assert_int_equal(copy_out(*state, "tree-in/.", "tree-out", &err), 0);
    assert_content(*state, "tree-out/one", "new");
    assert_int_equal(copy_in(*state, "tree/.", "fresh", &err), 0);
    assert_tree(*state, "fresh");
}

static void what_is_no_file_is_left_out_and_told(void **state)
{
    struct error err = ERROR_INIT;

    make_dir(*state, "odd");
    _cleanup_free_ char *path = fixture_path(*state, "odd/fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    fixture_write(*state, "odd/file", "x", 1);
    assert_int_equal(copy_out(*state, "odd", "odd-out", &err), 0);
    assert_int_equal(warnings, 1);
    assert_content(*state, "odd-out/file", "x");
    assert_false(is_there(*state, "odd-out/fifo"));
    assert_int_equal(copy_in(*state, "odd", "odd-in", &err), 0);
    assert_int_equal(warnings, 1);
}

static void a_fifo_is_no_source(void **state)
{
    struct error err = ERROR_INIT;
    _cleanup_free_ char *path = fixture_path(*state, "lone-fifo");

    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(copy_out(*state, "lone-fifo", "x", &err), -EINVAL);
}

static void links_on_the_way_are_not_followed(void **state)
{
    struct error err = ERROR_INIT;

    make_dir(*state, "outside");
    make_dir(*state, "inside");
    make_dir(*state, "inside/d");
    fixture_write(*state, "inside/d/evil", "x", 1);
    make_dir(*state, "victim");
    make_dir(*state, "victim/inside");
    make_link(*state, "../../outside", "victim/inside/d");
    assert_true(copy_out(*state, "inside", "victim", &err) < 0);
    assert_false(is_there(*state, "outside/evil"));
}

static void nothing_unfinished_is_left(void **state)
{
    struct fixture *f = *state;
    struct channel ch;
    struct error err = ERROR_INIT;
    _cleanup_(buffer_clear) struct buffer bytes = {0}, payload = {0};
    const struct agent_entry entry = {.mode = 0644, .size_bytes = 100, .name = "half"};
    _cleanup_free_ char *dir = fixture_path(f, "halves");
    int fds[2];

    make_dir(f, "halves");
    fixture_pair(fds);
    assert_int_equal(agent_entry_encode(&entry, &payload), 0);
    fixture_frame(&bytes, AGENT_FILE, payload.data, payload.length);
    fixture_frame(&bytes, AGENT_DATA, "\0\0\0\0\0\0\0\0half", 12);
    assert_int_equal(io_write_full(fds[1], bytes.data, bytes.length), 0);
    close(fds[1]);
    channel_init(&ch, fds[0], 1000);
    assert_int_equal(tree_receive(&ch, dir, &options, &err), -ECONNRESET);
    channel_clear(&ch);
    assert_int_equal(rmdir(dir), 0); /* it is empty */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_goes_in_and_out),
        cmocka_unit_test(an_empty_file_is_a_file),
        cmocka_unit_test(a_big_file_tells_how_far_it_is),
        cmocka_unit_test(holes_stay_holes),
        cmocka_unit_test(set_user_id_stays_in_the_guest),
        cmocka_unit_test(what_is_replaced_keeps_its_owner),
        cmocka_unit_test(a_link_that_is_named_is_followed),
        cmocka_unit_test(a_directory_takes_it_under_its_name),
        cmocka_unit_test(a_missing_directory_is_told),
        cmocka_unit_test(a_missing_source_is_told),
        cmocka_unit_test(a_failure_far_away_ends_a_long_copy),
        cmocka_unit_test(a_tree_goes_in_and_out),
        cmocka_unit_test(what_is_no_file_is_left_out_and_told),
        cmocka_unit_test(a_fifo_is_no_source),
        cmocka_unit_test(links_on_the_way_are_not_followed),
        cmocka_unit_test(nothing_unfinished_is_left),
    };

    return cmocka_run_group_tests(tests, fixture_start, fixture_stop);
}
