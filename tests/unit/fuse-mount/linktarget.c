/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/linktarget.h"

#include "base/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void check(const char *target, unsigned depth, const char *expected)
{
    _cleanup_free_ char *out = NULL;

    assert_int_equal(linktarget_confine(target, depth, &out), 0);
    assert_string_equal(out, expected);
}

static void harmless_targets_stay_as_they_are(void **state)
{
    (void)state;
    check("file", 0, "file");
    check("../lib/file", 1, "../lib/file");
    check("./a//b/", 0, "./a//b/");
    check("..", 1, "..");
    check("...", 0, "...");
}

static void absolute_targets_become_relative_to_the_root(void **state)
{
    (void)state;
    check("/etc/hosts", 0, "etc/hosts");
    check("/etc/hosts", 3, "../../../etc/hosts");
    check("/", 0, ".");
    check("/", 2, "../..");
    check("//usr//lib", 1, "../usr/lib");
    check("/../../etc", 1, "../etc");
}

static void targets_above_the_root_stop_at_the_root(void **state)
{
    (void)state;
    check("../../../etc/passwd", 0, "etc/passwd");
    check("../../../etc/passwd", 2, "../../etc/passwd");
    check("..", 0, ".");
}

static void dots_behind_a_name_are_resolved(void **state)
{
    (void)state;
    check("a/../../../etc/passwd", 1, "../etc/passwd");
    check("a/..", 0, ".");
    check("a/./../b", 0, "b");
}

static void too_long_a_target_is_refused(void **state)
{
    char target[PATH_MAX + 1], *out;

    (void)state;
    memset(target, 'a', PATH_MAX);
    target[PATH_MAX] = '\0';
    assert_int_equal(linktarget_confine(target, 0, &out), -ENAMETOOLONG);
    target[PATH_MAX - 1] = '\0';
    target[0] = '/';
    assert_int_equal(linktarget_confine(target, 100, &out), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harmless_targets_stay_as_they_are),
        cmocka_unit_test(absolute_targets_become_relative_to_the_root),
        cmocka_unit_test(targets_above_the_root_stop_at_the_root),
        cmocka_unit_test(dots_behind_a_name_are_resolved),
        cmocka_unit_test(too_long_a_target_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
