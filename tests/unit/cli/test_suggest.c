/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/suggest.h"

#include "test.h"

static const char *nearest(const char *wanted)
{
    static const char *const names[] = {"run", "rm", "restore", "resume", "history", "ls", NULL};
    struct suggestion s = suggestion_begin(wanted);

    for (const char *const *n = names; *n != NULL; n++)
        suggestion_offer(&s, *n);
    return s.best;
}

static void edits_are_counted(void **state)
{
    (void)state;
    assert_int_equal(suggestion_distance("", ""), 0);
    assert_int_equal(suggestion_distance("save", "save"), 0);
    assert_int_equal(suggestion_distance("save", "sav"), 1);
    assert_int_equal(suggestion_distance("save", "svae"), 1);
    assert_int_equal(suggestion_distance("kitten", "sitting"), 3);
}

static void slips_of_the_hand_are_understood(void **state)
{
    (void)state;
    assert_string_equal(nearest("rnu"), "run");
    assert_string_equal(nearest("retsore"), "restore");
    assert_string_equal(nearest("resumme"), "resume");
}

static void beginnings_are_understood(void **state)
{
    (void)state;
    assert_string_equal(nearest("hist"), "history");
    assert_string_equal(nearest("rest"), "restore");
}

static void what_is_far_from_all_gets_no_suggestion(void **state)
{
    (void)state;
    assert_null(nearest("frobnicate"));
    assert_null(nearest("x"));
    assert_null(nearest(""));
}

static void very_long_names_do_no_harm(void **state)
{
    char name[1000];

    (void)state;
    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_null(nearest(name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edits_are_counted),
        cmocka_unit_test(slips_of_the_hand_are_understood),
        cmocka_unit_test(beginnings_are_understood),
        cmocka_unit_test(what_is_far_from_all_gets_no_suggestion),
        cmocka_unit_test(very_long_names_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
