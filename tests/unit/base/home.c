/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/home.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

struct fixture {
    char dir[64];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    snprintf(f->dir, sizeof(f->dir), "/tmp/stasis-home-XXXXXX");
    if (mkdtemp(f->dir) == NULL)
        return -1;
    _cleanup_free_ char *runtime = io_format("%s/run", f->dir);
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    unsetenv("STASIS_HOME");
    unsetenv("XDG_DATA_HOME");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    io_remove_tree(f->dir);
    free(f);
    return 0;
}

static void open_at(const char *override, struct home *home)
{
    struct error err = ERROR_INIT;

    if (home_open(override, home, &err) < 0)
        fail_msg("%s", err.message);
}

static void makes_its_directories_private(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *root = io_format("%s/a/b", f->dir);
    _cleanup_(home_clear) struct home home = {0};
    struct stat st;

    open_at(root, &home);
    assert_string_equal(home.root, root);
    assert_int_equal(stat(home.store, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(stat(home.machines, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(stat(home.runtime, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
}

static void the_environment_is_asked_in_order(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *by_home = io_format("%s/home", f->dir);
    _cleanup_free_ char *by_data = io_format("%s/data", f->dir);
    _cleanup_free_ char *by_stasis = io_format("%s/stasis-home", f->dir);
    _cleanup_free_ char *want_home = io_format("%s/.local/share/stasis", by_home);
    _cleanup_free_ char *want_data = io_format("%s/stasis", by_data);
    _cleanup_(home_clear) struct home first = {0};
    _cleanup_(home_clear) struct home second = {0};
    _cleanup_(home_clear) struct home third = {0};

    setenv("HOME", by_home, 1);
    open_at(NULL, &first);
    assert_string_equal(first.root, want_home);
    setenv("XDG_DATA_HOME", by_data, 1);
    open_at(NULL, &second);
    assert_string_equal(second.root, want_data);
    setenv("STASIS_HOME", by_stasis, 1);
    open_at(NULL, &third);
    assert_string_equal(third.root, by_stasis);
}

static void one_home_has_one_runtime_by_any_path(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *real = io_format("%s/real", f->dir);
    _cleanup_free_ char *link = io_format("%s/link", f->dir);
    _cleanup_free_ char *other = io_format("%s/other", f->dir);
    _cleanup_(home_clear) struct home a = {0};
    _cleanup_(home_clear) struct home b = {0};
    _cleanup_(home_clear) struct home c = {0};

    open_at(real, &a);
    assert_int_equal(symlink(real, link), 0);
    open_at(link, &b);
    open_at(other, &c);
    assert_string_equal(a.runtime, b.runtime);
    assert_string_not_equal(a.runtime, c.runtime);
}

static void a_file_in_the_way_is_an_error_with_a_hint(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/file", f->dir);
    struct home home = {0};
    struct error err = ERROR_INIT;

    assert_int_equal(io_write_file(AT_FDCWD, path, "", 0, 0600), 0);
    assert_true(home_open(path, &home, &err) < 0);
    assert_non_null(strstr(err.message, path));
    assert_true(err.hint[0] != '\0');
    assert_null(home.root);
}

static void names_its_machines(void **state)
{
    struct fixture *f = *state;
    _cleanup_(home_clear) struct home home = {0};

    open_at(f->dir, &home);
    _cleanup_free_ char *dir = home_machine_dir(&home, "web");
    _cleanup_free_ char *want_dir = io_format("%s/machines/web", f->dir);
    _cleanup_free_ char *sock = home_machine_socket(&home, "web");
    _cleanup_free_ char *want_sock = io_format("%s/web.sock", home.runtime);
    assert_string_equal(dir, want_dir);
    assert_string_equal(sock, want_sock);
}

static void names_are_host_name_like(void **state)
{
    char longest[MACHINE_NAME_MAX + 2];

    (void)state;
    assert_true(home_name_is_valid("a"));
    assert_true(home_name_is_valid("web-1.test_x"));
    assert_true(home_name_is_valid("9lives"));
    assert_false(home_name_is_valid(""));
    assert_false(home_name_is_valid(".."));
    assert_false(home_name_is_valid("-a"));
    assert_false(home_name_is_valid("a/b"));
    assert_false(home_name_is_valid("a b"));
    assert_false(home_name_is_valid("a\n"));
    assert_false(home_name_is_valid("\xc3\xa4"));
    memset(longest, 'a', sizeof(longest));
    longest[MACHINE_NAME_MAX + 1] = '\0';
    assert_false(home_name_is_valid(longest));
    longest[MACHINE_NAME_MAX] = '\0';
    assert_true(home_name_is_valid(longest));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(makes_its_directories_private),
        TEST(the_environment_is_asked_in_order),
        TEST(one_home_has_one_runtime_by_any_path),
        TEST(a_file_in_the_way_is_an_error_with_a_hint),
        TEST(names_its_machines),
        cmocka_unit_test(names_are_host_name_like),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
