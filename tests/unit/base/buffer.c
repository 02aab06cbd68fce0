/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/cleanup.h"

#include <errno.h>

static void keeps_what_was_appended(void **state)
{
    _cleanup_(buffer_clear) struct buffer buf = {0};

    (void)state;
    assert_int_equal(buffer_append(&buf, "abc", 3), 0);
    assert_int_equal(buffer_append_u8(&buf, 0x01), 0);
    assert_int_equal(buffer_append_le16(&buf, 0x0203), 0);
    assert_int_equal(buffer_append_le32(&buf, 0x04050607), 0);
    assert_int_equal(buffer_append_le64(&buf, 0x08090a0b0c0d0e0f), 0);
    assert_int_equal(buf.length, 18);
    assert_memory_equal(buf.data, "abc\x01\x03\x02\x07\x06\x05\x04\x0f\x0e\x0d\x0c\x0b\x0a\x09\x08",
                        18);
}

static void keeps_its_bytes_while_it_grows(void **state)
{
    _cleanup_(buffer_clear) struct buffer buf = {0};

    (void)state;
    for (uint32_t i = 0; i < 5000; i++)
        assert_int_equal(buffer_append_le32(&buf, i), 0);
    assert_int_equal(buf.length, 20000);
    assert_true(buf.capacity >= buf.length);
    assert_memory_equal(buf.data + 4 * 0x1234, "\x34\x12\0\0", 4);
}

static void appends_nothing_from_nowhere(void **state)
{
    struct buffer buf = {0};

    (void)state;
    assert_int_equal(buffer_append(&buf, NULL, 0), 0);
    assert_int_equal(buf.length, 0);
    buffer_clear(&buf);
}

static void refuses_a_length_that_overflows(void **state)
{
    _cleanup_(buffer_clear) struct buffer buf = {0};

    (void)state;
    assert_int_equal(buffer_append(&buf, "x", 1), 0);
    assert_int_equal(buffer_reserve(&buf, SIZE_MAX), -ENOMEM);
    assert_int_equal(buffer_reserve(&buf, SIZE_MAX - 1), -ENOMEM);
    assert_int_equal(buf.length, 1);
}

static void is_empty_and_usable_after_clear(void **state)
{
    struct buffer buf = {0};

    (void)state;
    assert_int_equal(buffer_append(&buf, "x", 1), 0);
    buffer_clear(&buf);
    assert_null(buf.data);
    assert_int_equal(buf.length, 0);
    assert_int_equal(buffer_append(&buf, "y", 1), 0);
    assert_int_equal(buf.data[0], 'y');
    buffer_clear(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_was_appended),
        cmocka_unit_test(keeps_its_bytes_while_it_grows),
        cmocka_unit_test(appends_nothing_from_nowhere),
        cmocka_unit_test(refuses_a_length_that_overflows),
        cmocka_unit_test(is_empty_and_usable_after_clear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
