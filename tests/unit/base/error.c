/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"

#include <errno.h>
#include <string.h>

static void records_and_returns(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(error_set(&err, STATUS_BUSY, EBUSY, "machine %s is running", "a"), -EBUSY);
    assert_int_equal(err.status, STATUS_BUSY);
    assert_int_equal(err.errnum, EBUSY);
    assert_string_equal(err.message, "machine a is running");
    assert_string_equal(err.hint, "");
}

static void can_be_told_nothing(void **state)
{
    (void)state;
    assert_int_equal(error_set(NULL, STATUS_FAILED, EIO, "x"), -EIO);
    assert_int_equal(error_errno(NULL, EIO, "x"), -EIO);
    assert_int_equal(error_corrupt(NULL, "x"), -EBADMSG);
    error_hint(NULL, "x");
    error_prefix(NULL, "x");
}

static void system_errors_name_their_cause(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(error_errno(&err, ENOENT, "cannot open %s", "/x"), -ENOENT);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_string_equal(err.message, "cannot open /x: No such file or directory");
}

static void no_space_says_what_to_do(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    error_errno(&err, ENOSPC, "cannot write");
    assert_non_null(strstr(err.hint, "stasis df"));
}

static void corrupt_is_corrupt(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(error_corrupt(&err, "group %d", 7), -EBADMSG);
    assert_int_equal(err.status, STATUS_CORRUPT);
    assert_int_equal(err.errnum, EBADMSG);
    assert_string_equal(err.message, "group 7");
}

static void a_new_error_forgets_the_old_hint(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    error_set(&err, STATUS_FAILED, EIO, "first");
    error_hint(&err, "try %d", 1);
    assert_string_equal(err.hint, "try 1");
    error_set(&err, STATUS_FAILED, EIO, "second");
    assert_string_equal(err.hint, "");
}

static void a_prefix_keeps_status_and_hint(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    error_set(&err, STATUS_BUSY, EBUSY, "why");
    error_hint(&err, "what next");
    error_prefix(&err, "machine %s", "a");
    assert_string_equal(err.message, "machine a: why");
    assert_string_equal(err.hint, "what next");
    assert_int_equal(err.status, STATUS_BUSY);
}

static void too_long_a_text_is_cut(void **state)
{
    struct error err = ERROR_INIT;
    char text[2000];

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    error_errno(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    error_prefix(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    error_hint(&err, "%s", text);
    assert_int_equal(strlen(err.hint), sizeof(err.hint) - 1);
}

static void statuses_are_the_contract(void **state)
{
    (void)state;
    assert_int_equal(error_status_of_errno(ENOENT), 10);
    assert_int_equal(error_status_of_errno(EBUSY), 11);
    assert_int_equal(error_status_of_errno(EEXIST), 12);
    assert_int_equal(error_status_of_errno(EBADMSG), 13);
    assert_int_equal(STATUS_HOST_CANNOT, 14);
    assert_int_equal(error_status_of_errno(EINTR), 130);
    assert_int_equal(error_status_of_errno(EIO), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_and_returns),
        cmocka_unit_test(can_be_told_nothing),
        cmocka_unit_test(system_errors_name_their_cause),
        cmocka_unit_test(no_space_says_what_to_do),
        cmocka_unit_test(corrupt_is_corrupt),
        cmocka_unit_test(a_new_error_forgets_the_old_hint),
        cmocka_unit_test(a_prefix_keeps_status_and_hint),
        cmocka_unit_test(too_long_a_text_is_cut),
        cmocka_unit_test(statuses_are_the_contract),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
