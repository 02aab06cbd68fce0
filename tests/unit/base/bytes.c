/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"

static void loads_and_stores_are_of_the_order_they_name(void **state)
{
    uint8_t p[9] = {0};

    (void)state;
    store_le16(p + 1, 0x0102);
    assert_memory_equal(p + 1, "\x02\x01", 2);
    assert_int_equal(load_le16(p + 1), 0x0102);
    assert_int_equal(load_be16(p + 1), 0x0201);
    store_le32(p + 1, 0x01020304);
    assert_memory_equal(p + 1, "\x04\x03\x02\x01", 4);
    assert_int_equal(load_le32(p + 1), 0x01020304);
    store_be32(p + 1, 0x01020304);
    assert_memory_equal(p + 1, "\x01\x02\x03\x04", 4);
    assert_int_equal(load_be32(p + 1), 0x01020304);
    store_le64(p + 1, UINT64_C(0x0102030405060708));
    assert_memory_equal(p + 1, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
    assert_true(load_le64(p + 1) == UINT64_C(0x0102030405060708));
    store_be64(p + 1, UINT64_C(0x0102030405060708));
    assert_true(load_be64(p + 1) == UINT64_C(0x0102030405060708));
    assert_int_equal(p[0], 0);
}

static void range_fits_only_when_its_end_is_inside(void **state)
{
    (void)state;
    assert_true(range_fits(0, 0, 0));
    assert_true(range_fits(10, 0, 10));
    assert_true(range_fits(4, 6, 10));
    assert_false(range_fits(4, 7, 10));
    assert_false(range_fits(11, 0, 10));
}

static void range_fits_does_not_wrap_around(void **state)
{
    (void)state;
    assert_false(range_fits(UINT64_MAX, 2, 10));
    assert_false(range_fits(2, UINT64_MAX, 10));
    assert_false(range_fits(UINT64_MAX, UINT64_MAX, UINT64_MAX));
    assert_true(range_fits(0, UINT64_MAX, UINT64_MAX));
}

static void overflow_is_told(void **state)
{
    uint32_t small;
    uint64_t big;

    (void)state;
    assert_true(add_overflows(UINT32_MAX, 1u, &small));
    assert_false(add_overflows(UINT32_MAX, 0u, &small));
    assert_true(mul_overflows(UINT64_MAX, UINT64_C(2), &big));
    assert_false(mul_overflows(UINT64_C(1) << 32, UINT64_C(1) << 31, &big));
    assert_true(big == UINT64_C(1) << 63);
}

static void alignment_and_division_round_as_they_say(void **state)
{
    (void)state;
    assert_true(align_down(4097, 4096) == 4096);
    assert_true(align_up(4097, 4096) == 8192);
    assert_true(align_up(4096, 4096) == 4096);
    assert_true(align_up(0, 4096) == 0);
    assert_true(div_round_up(0, 512) == 0);
    assert_true(div_round_up(513, 512) == 2);
    assert_true(div_round_up(UINT64_MAX, 2) == UINT64_C(1) << 63);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_and_stores_are_of_the_order_they_name),
        cmocka_unit_test(range_fits_only_when_its_end_is_inside),
        cmocka_unit_test(range_fits_does_not_wrap_around),
        cmocka_unit_test(overflow_is_told),
        cmocka_unit_test(alignment_and_division_round_as_they_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
