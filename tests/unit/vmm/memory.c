/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vmm/layout.h"
#include "vmm/memory.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096ull
#define BIG (LAYOUT_HOLE_START + (16ull << 20)) /* reaches behind the hole */

DEFINE_CLEANUP(struct memory, memory_free)
#define _cleanup_memory_ _cleanup_(memory_freep)

static struct memory *make(uint64_t size)
{
    struct memory *mem = NULL;

    assert_int_equal(memory_create(size, &mem, NULL), 0);
    return mem;
}

static bool is_dirty(const struct memory *mem, uint64_t page)
{
    return mem->device_dirty[page / 64] >> (page % 64) & 1;
}

static unsigned dirty_count(const struct memory *mem)
{
    unsigned n = 0;

    for (uint64_t i = 0; i < mem->dirty_words; i++)
        n += (unsigned)__builtin_popcountll(mem->device_dirty[i]);
    return n;
}

static void small_memory_is_one_region(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);

    (void)state;
    assert_int_equal(mem->region_count, 1);
    assert_int_equal(mem->regions[0].gpa, 0);
    assert_int_equal(mem->regions[0].size_bytes, LAYOUT_MEMORY_MIN);
}

static void memory_up_to_the_hole_is_one_region(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_HOLE_START);

    (void)state;
    assert_int_equal(mem->region_count, 1);
    assert_null(memory_at(mem, LAYOUT_HOLE_START, 1));
    assert_non_null(memory_at(mem, LAYOUT_HOLE_START - 1, 1));
}

static void what_the_hole_displaces_lies_behind_4_gib(void **state)
{
    _cleanup_memory_ struct memory *mem = make(BIG);

    (void)state;
    assert_int_equal(mem->region_count, 2);
    assert_int_equal(mem->regions[1].gpa, LAYOUT_HIGH_START);
    assert_int_equal(mem->regions[1].size_bytes, 16 << 20);
    assert_int_equal(mem->regions[1].first_page, LAYOUT_HOLE_START / PAGE);
    assert_ptr_equal(mem->regions[1].hva, mem->hva + LAYOUT_HOLE_START);
}

static void refuses_sizes_no_machine_can_have(void **state)
{
    static const uint64_t sizes[] = {
        0,         PAGE, LAYOUT_MEMORY_MIN - PAGE, LAYOUT_MEMORY_MIN + 1, LAYOUT_MEMORY_MAX + PAGE,
        UINT64_MAX};
    struct memory *mem = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct error err = ERROR_INIT;

        assert_int_equal(memory_create(sizes[i], &mem, &err), -EINVAL);
        assert_int_equal(err.status, STATUS_USAGE);
        assert_string_not_equal(err.hint, "");
        assert_null(mem);
    }
}

static void reads_back_what_was_written_in_both_regions(void **state)
{
    static const uint64_t gpas[] = {0, 12345, LAYOUT_HOLE_START - 5, LAYOUT_HIGH_START,
                                    LAYOUT_HIGH_START + (16 << 20) - 5};
    _cleanup_memory_ struct memory *mem = make(BIG);
    char buf[5];

    (void)state;
    for (size_t i = 0; i < sizeof(gpas) / sizeof(gpas[0]); i++) {
        assert_int_equal(memory_write(mem, gpas[i], "12345", 5), 0);
        assert_int_equal(memory_read(mem, gpas[i], buf, 5), 0);
        assert_memory_equal(buf, "12345", 5);
    }
}

static void refuses_what_is_not_wholly_in_a_region(void **state)
{
    static const struct {
        uint64_t gpa, length;
    } bad[] = {
        {LAYOUT_HOLE_START, 1},
        {LAYOUT_HOLE_START - 1, 2},
        {LAYOUT_HOLE_START - 1, LAYOUT_HIGH_START - LAYOUT_HOLE_START + 2},
        {LAYOUT_HIGH_START - 1, 1},
        {LAYOUT_HIGH_START - 1, 2},
        {LAYOUT_HIGH_START + (16 << 20), 1},
        {LAYOUT_HIGH_START + (16 << 20) - 1, 2},
        {UINT64_MAX, 1},
        {UINT64_MAX, UINT64_MAX},
        {1, UINT64_MAX},
        {0, UINT64_MAX},
        {LAYOUT_HIGH_START, UINT64_MAX - LAYOUT_HIGH_START + 1},
    };
    _cleanup_memory_ struct memory *mem = make(BIG);
    char buf[2] = "x";

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_null(memory_at(mem, bad[i].gpa, bad[i].length));
        assert_int_equal(memory_read(mem, bad[i].gpa, buf, bad[i].length), -EFAULT);
        assert_int_equal(memory_write(mem, bad[i].gpa, buf, bad[i].length), -EFAULT);
        assert_int_equal(memory_zero(mem, bad[i].gpa, bad[i].length), -EFAULT);
    }
    assert_int_equal(dirty_count(mem), 0);
}

static void writes_mark_every_page_they_touch(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    char two_pages[2 * PAGE];

    (void)state;
    memset(two_pages, 1, sizeof(two_pages));
    assert_int_equal(memory_write(mem, 63 * PAGE - 1, two_pages, sizeof(two_pages)), 0);
    assert_true(is_dirty(mem, 62) && is_dirty(mem, 63) && is_dirty(mem, 64));
    assert_int_equal(dirty_count(mem), 3);
}

static void zeroing_marks_and_zeroes(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    char buf[4];

    (void)state;
    assert_int_equal(memory_write(mem, 0, "abcd", 4), 0);
    assert_int_equal(memory_zero(mem, 1, 2), 0);
    assert_int_equal(memory_read(mem, 0, buf, 4), 0);
    assert_memory_equal(buf, "a\0\0d", 4);
    assert_int_equal(memory_zero(mem, PAGE * 9, 1), 0);
    assert_true(is_dirty(mem, 9));
}

static void reading_and_nothing_mark_nothing(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    char buf[4];

    (void)state;
    assert_int_equal(memory_read(mem, 0, buf, 4), 0);
    assert_int_equal(memory_write(mem, 0, buf, 0), 0);
    assert_int_equal(memory_zero(mem, 0, 0), 0);
    memory_mark_dirty(mem, 0, 0);
    assert_int_equal(dirty_count(mem), 0);
}

static void pages_are_numbered_through_both_regions(void **state)
{
    _cleanup_memory_ struct memory *mem = make(BIG);

    (void)state;
    assert_int_equal(memory_page_of(mem, 0), 0);
    assert_int_equal(memory_page_of(mem, PAGE), 1);
    assert_int_equal(memory_page_of(mem, LAYOUT_HOLE_START - 1), LAYOUT_HOLE_START / PAGE - 1);
    assert_int_equal(memory_page_of(mem, LAYOUT_HIGH_START), LAYOUT_HOLE_START / PAGE);
    assert_true(memory_page_of(mem, LAYOUT_HOLE_START) == UINT64_MAX);
    assert_true(memory_page_of(mem, UINT64_MAX) == UINT64_MAX);
}

static void high_pages_are_marked_behind_the_low_ones(void **state)
{
    _cleanup_memory_ struct memory *mem = make(BIG);

    (void)state;
    assert_int_equal(memory_write(mem, LAYOUT_HIGH_START + PAGE, "x", 1), 0);
    assert_true(is_dirty(mem, LAYOUT_HOLE_START / PAGE + 1));
    assert_int_equal(dirty_count(mem), 1);
}

static void discarded_pages_are_zero_and_dirty(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    uint64_t dropped = 0;

    (void)state;
    memset(mem->hva, 1, 4 * PAGE);
    assert_int_equal(memory_discard(mem, PAGE, 2 * PAGE, &dropped), 0);
    assert_int_equal(mem->hva[PAGE - 1], 1);
    assert_int_equal(mem->hva[PAGE], 0);
    assert_int_equal(mem->hva[3 * PAGE - 1], 0);
    assert_int_equal(mem->hva[3 * PAGE], 1);
    assert_int_equal(dropped, 2 * PAGE);
    assert_int_equal(dirty_count(mem), 2);
    assert_true(is_dirty(mem, 1) && is_dirty(mem, 2));
}

static void what_is_not_there_is_not_discarded(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    uint64_t dropped = 0;

    (void)state;
    mem->hva[700 * PAGE] = 1;
    assert_int_equal(memory_discard(mem, 0, LAYOUT_MEMORY_MIN, &dropped), 0);
    assert_true(is_dirty(mem, 700));
    /* With huge pages, its neighbours have come with it. */
    assert_in_range(dropped, PAGE, 512 * PAGE);
    assert_int_equal(dirty_count(mem), dropped / PAGE);
}

static void without_a_pagemap_all_that_is_discarded_is_dirty(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    uint64_t dropped = 0;

    (void)state;
    mem->pagemap_fd = -1;
    assert_int_equal(memory_discard(mem, 0, 600 * PAGE, &dropped), 0);
    assert_int_equal(dirty_count(mem), 600);
}

static void discarding_is_of_whole_pages_of_memory(void **state)
{
    _cleanup_memory_ struct memory *mem = make(LAYOUT_MEMORY_MIN);
    uint64_t dropped = 0;

    (void)state;
    mem->hva[0] = 1;
    assert_int_equal(memory_discard(mem, 1, PAGE, &dropped), -EFAULT);
    assert_int_equal(memory_discard(mem, 0, PAGE - 1, &dropped), -EFAULT);
    assert_int_equal(memory_discard(mem, LAYOUT_MEMORY_MIN, PAGE, &dropped), -EFAULT);
    assert_int_equal(memory_discard(mem, 0, LAYOUT_MEMORY_MIN + PAGE, &dropped), -EFAULT);
    assert_int_equal(memory_discard(mem, UINT64_MAX - PAGE + 1, PAGE, &dropped), -EFAULT);
    assert_int_equal(mem->hva[0], 1);
    assert_int_equal(dropped, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_memory_is_one_region),
        cmocka_unit_test(memory_up_to_the_hole_is_one_region),
        cmocka_unit_test(what_the_hole_displaces_lies_behind_4_gib),
        cmocka_unit_test(refuses_sizes_no_machine_can_have),
        cmocka_unit_test(reads_back_what_was_written_in_both_regions),
        cmocka_unit_test(refuses_what_is_not_wholly_in_a_region),
        cmocka_unit_test(writes_mark_every_page_they_touch),
        cmocka_unit_test(zeroing_marks_and_zeroes),
        cmocka_unit_test(reading_and_nothing_mark_nothing),
        cmocka_unit_test(pages_are_numbered_through_both_regions),
        cmocka_unit_test(high_pages_are_marked_behind_the_low_ones),
        cmocka_unit_test(discarded_pages_are_zero_and_dirty),
        cmocka_unit_test(what_is_not_there_is_not_discarded),
        cmocka_unit_test(without_a_pagemap_all_that_is_discarded_is_dirty),
        cmocka_unit_test(discarding_is_of_whole_pages_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
