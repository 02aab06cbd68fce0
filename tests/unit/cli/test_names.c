/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/names.h"

#include "test.h"

#include <string.h>

static void made_names_are_valid_and_short(void **state)
{
    char name[MACHINE_NAME_MAX + 1];

    (void)state;
    for (unsigned i = 0; i < 1024; i++) {
        assert_true(home_name_is_valid(names_make(i, i * 7, 0, name)));
        assert_true(strlen(name) < 16);
    }
}

static void after_many_tries_a_number_makes_names_differ(void **state)
{
    char a[MACHINE_NAME_MAX + 1];
    char b[MACHINE_NAME_MAX + 1];

    (void)state;
    names_make(1, 2, 100, a);
    names_make(1, 2, 101, b);
    assert_string_not_equal(a, b);
}

static void assert_from(const char *reference, const char *wanted)
{
    char name[MACHINE_NAME_MAX + 1];

    assert_string_equal(names_from_reference(reference, name), wanted);
    assert_true(home_name_is_valid(name));
}

static void clones_are_named_after_what_they_come_from(void **state)
{
    (void)state;
    assert_from("web", "web");
    assert_from("web@patched", "web");
    assert_from("debian:12", "debian");
    assert_from("registry.example:5000/team/debian:12", "debian");
    assert_from("0123456789abcdef", "clone");
    assert_from("@", "clone");
    assert_from("", "clone");
}

static void long_references_leave_room_for_a_suffix(void **state)
{
    char reference[300];
    char name[MACHINE_NAME_MAX + 1];

    (void)state;
    memset(reference, 'w', sizeof(reference) - 1);
    reference[sizeof(reference) - 1] = '\0';
    assert_true(strlen(names_from_reference(reference, name)) <= MACHINE_NAME_MAX - 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_names_are_valid_and_short),
        cmocka_unit_test(after_many_tries_a_number_makes_names_differ),
        cmocka_unit_test(clones_are_named_after_what_they_come_from),
        cmocka_unit_test(long_references_leave_room_for_a_suffix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
