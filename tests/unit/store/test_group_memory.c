/* SPDX-License-Identifier: Apache-2.0 */
#include "store/group_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define GROUP ((size_t)64 << 10)
#define MANY 100u /* more than three chunks have */

static void take_many(struct group_memory *m, struct group_bytes *groups)
{
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(group_memory_take(m, GROUP, &groups[i]), 0);
        memset(groups[i].bytes, (int)i, GROUP);
    }
}

static void check_many(const struct group_bytes *groups)
{
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(groups[i].bytes[0], i);
        assert_memory_equal(groups[i].bytes, groups[i].bytes + 1, GROUP - 1);
    }
}

static void groups_do_not_overlap(void **state)
{
    struct group_memory *m = group_memory_new();
    struct group_bytes groups[MANY];

    (void)state;
    assert_non_null(m);
    take_many(m, groups);
    check_many(groups);
    for (unsigned i = 0; i < MANY; i++)
        group_memory_give(m, &groups[i]);
    group_memory_release(m);
}

static void what_was_given_back_is_taken_first(void **state)
{
    struct group_memory *m = group_memory_new();
    struct group_bytes groups[MANY], again;

    (void)state;
    take_many(m, groups);
    group_memory_give(m, &groups[70]);
    group_memory_give(m, &groups[3]);
    assert_int_equal(group_memory_take(m, GROUP, &again), 0);
    assert_ptr_equal(again.bytes, groups[3].bytes);
    assert_int_equal(group_memory_take(m, GROUP - 4096, &groups[3]), 0);
    assert_ptr_equal(groups[3].bytes, groups[70].bytes);
    groups[70] = again;
    memset(groups[70].bytes, 70, GROUP);
    memset(groups[3].bytes, 3, GROUP);
    check_many(groups);
    for (unsigned i = 0; i < MANY; i++)
        group_memory_give(m, &groups[i]);
    group_memory_release(m);
}

static void trimming_takes_nothing_from_who_holds_a_group(void **state)
{
    struct group_memory *m = group_memory_new();
    struct group_bytes groups[MANY];

    (void)state;
    take_many(m, groups);
    /* The second chunk is empty then, and no other. */
    for (unsigned i = 32; i < 64; i++)
        group_memory_give(m, &groups[i]);
    group_memory_trim(m);
    for (unsigned i = 32; i < 64; i++) {
        assert_int_equal(group_memory_take(m, GROUP, &groups[i]), 0);
        memset(groups[i].bytes, (int)i, GROUP);
    }
    check_many(groups);
    for (unsigned i = 0; i < MANY; i++)
        group_memory_give(m, &groups[i]);
    group_memory_trim(m);
    group_memory_release(m);
}

static void groups_outlive_the_cache(void **state)
{
    struct group_memory *m = group_memory_new();
    struct group_bytes groups[MANY];

    (void)state;
    take_many(m, groups);
    group_memory_release(m);
    check_many(groups);
    for (unsigned i = 0; i < MANY; i++)
        group_memory_give(m, &groups[i]);
}

static void other_sizes_have_memory_of_their_own(void **state)
{
    static const size_t sizes[] = {0, 1, 100, GROUP / 2, GROUP + 1, 16 * GROUP};
    struct group_memory *m = group_memory_new();

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct group_bytes g;

        assert_int_equal(group_memory_take(m, sizes[i], &g), 0);
        assert_int_equal(g.chunk, GROUP_ALONE);
        memset(g.bytes, 1, sizes[i]);
        group_memory_give(m, &g);
    }
    group_memory_release(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_do_not_overlap),
        cmocka_unit_test(what_was_given_back_is_taken_first),
        cmocka_unit_test(trimming_takes_nothing_from_who_holds_a_group),
        cmocka_unit_test(groups_outlive_the_cache),
        cmocka_unit_test(other_sizes_have_memory_of_their_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
