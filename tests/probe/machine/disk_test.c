/* SPDX-License-Identifier: Apache-2.0 */
/* Disks keep what they must: through saves, restores, stops, and pulled plugs. */
#include "harness.h"

#include "base/io.h"

#include <fcntl.h>
#include <stdlib.h>

enum { MEMORY_MIB = 8, PER_PAGE = 8 };

/* What disk 0 (seed 11) holds, sector by sector: the seed, or 0. */
struct content {
    uint64_t seed[DISK_SECTORS];
};

static struct content *content_new(uint64_t seed)
{
    struct content *content = malloc(sizeof(*content));

    assert_non_null(content);
    for (unsigned i = 0; i < DISK_SECTORS; i++)
        content->seed[i] = seed;
    return content;
}

static void set(struct content *content, unsigned lba, unsigned count, uint64_t seed)
{
    for (unsigned i = 0; i < count; i++)
        content->seed[lba + i] = seed;
}

static uint64_t sum_of(const struct content *content, unsigned lba, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = lba; i < lba + count; i++)
        sum += content->seed[i] != 0 ? expected_disk_sum(i, 1, content->seed[i])
                                     : expected_zero_sum(i, 1);
    return sum;
}

/* Page by page, so that a failure tells where. */
static void assert_content(struct guest *guest, const struct content *content)
{
    if (ask_number(guest, "sum", 16, "blk sum 0 %d", DISK_SECTORS) ==
        sum_of(content, 0, DISK_SECTORS))
        return;
    for (unsigned lba = 0; lba < DISK_SECTORS; lba++)
        if (ask_number(guest, "sum", 16, "blk sum %u 1", lba) != sum_of(content, lba, 1))
            fail_msg("sector %u is not what was written", lba);
    fail_msg("the disk's sum changes while it is read");
}

static void write_both(struct guest *guest, struct content *content, unsigned lba, unsigned count,
                       uint64_t seed)
{
    ask_ok(guest, "blk write %u %u %llu", lba, count, (unsigned long long)seed);
    set(content, lba, count, seed);
}

static void zero_both(struct guest *guest, struct content *content, unsigned lba, unsigned count)
{
    ask_ok(guest, "blk zero %u %u", lba, count);
    set(content, lba, count, 0);
}

/* Whole pages, parts of pages, over page and group borders, zeroes over data and
 * data over zeroes. A discarded sector may read as anything, but here it is zero. */
static void scribble(struct guest *guest, struct content *content, uint64_t seed)
{
    write_both(guest, content, 0, 1, seed);
    write_both(guest, content, PER_PAGE * 3 + 5, 1, seed + 1);
    write_both(guest, content, PER_PAGE * 5 + 7, 2, seed + 2);
    write_both(guest, content, PER_PAGE * 16 - 3, PER_PAGE * 20 + 6, seed + 3);
    zero_both(guest, content, PER_PAGE * 20 + 1, PER_PAGE * 4);
    write_both(guest, content, PER_PAGE * 22 + 2, 3, seed + 4);
    zero_both(guest, content, PER_PAGE * 100, PER_PAGE * 100);
    write_both(guest, content, DISK_SECTORS - 1, 1, seed + 5);
    ask_ok(guest, "blk discard %u %u", PER_PAGE * 300 + 3, PER_PAGE * 10);
    set(content, PER_PAGE * 300 + 3, PER_PAGE * 10, 0);
}

static void sectors_hold_what_was_written(void **state)
{
    struct guest guest;
    struct content *content = content_new(11);

    guest_boot(&guest, *state, "m", MEMORY_MIB, 1);
    assert_content(&guest, content);
    scribble(&guest, content, 100);
    assert_content(&guest, content);
    ask_ok(&guest, "blk flush");
    assert_content(&guest, content);
    scribble(&guest, content, 200);
    assert_content(&guest, content);
    guest_detach(&guest);
    free(content);
}

static void disks_go_back_and_forth_with_the_machine(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct content *one = content_new(11);

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    scribble(&guest, one, 100);
    stasis_ok(site, "save m@one");
    assert_content(&guest, one);
    struct content *two = malloc(sizeof(*two));
    assert_non_null(two);
    *two = *one;
    scribble(&guest, two, 200);
    write_both(&guest, two, 1, 1, 201); /* a part of a page that is in the checkpoint */
    assert_content(&guest, two);
    stasis_ok(site, "save m@two");
    write_both(&guest, two, 40, 500, 300);
    assert_content(&guest, two);
    stasis_ok(site, "save m@three");

    stasis_ok(site, "restore m@one --discard");
    assert_content(&guest, one);
    write_both(&guest, one, 2, 3, 301);
    assert_content(&guest, one);
    stasis_ok(site, "restore m@three --discard");
    assert_content(&guest, two);
    guest_detach(&guest);
    free(one);
    free(two);
}

/* `stop` is for systems that listen; the plug is pulled in an orderly way here. */
static void disks_outlive_an_end_and_a_boot(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct content *content = content_new(11);

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    scribble(&guest, content, 100);
    stasis_ok(site, "save m@one");
    scribble(&guest, content, 200); /* not flushed: an orderly end loses nothing */
    guest_detach(&guest);
    stasis_ok(site, "kill m");
    for (unsigned i = 0; i < 3; i++) {
        guest_boot_again(&guest, site, "m", 1);
        assert_content(&guest, content);
        write_both(&guest, content, 1000 + i, 1, 400 + i);
        guest_detach(&guest);
        stasis_ok(site, "kill m");
    }
    stasis_ok(site, "clone m c"); /* of a stopped machine: its disks as they are */
    stasis_ok(site, "kill c");
    guest_boot_again(&guest, site, "c", 1);
    assert_content(&guest, content);
    guest_detach(&guest);
    free(content);
}

static void flushed_data_outlives_kill_9(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct content *content = content_new(11);

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    for (unsigned i = 0; i < 4; i++) {
        scribble(&guest, content, 100 * (i + 1));
        if (i % 2 == 1)
            stasis_ok(site, "save m@s%u", i);
        write_both(&guest, content, 2000 + 10 * i, 5, 17 + i);
        ask_ok(&guest, "blk flush");
        ask_ok(&guest, "blk write 4000 9 99"); /* this one may get lost */
        machine_kill9(site, "m");
        guest_detach(&guest);
        guest_boot_again(&guest, site, "m", 1);
        ask_ok(&guest, "blk write 4000 9 11");
        assert_content(&guest, content);
    }
    guest_detach(&guest);
    stasis_ok(site, "verify");
    free(content);
}

static void disks_of_clones_are_their_own(void **state)
{
    struct site *site = *state;
    struct guest guest, one, two;
    struct content *parent = content_new(11);

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    scribble(&guest, parent, 100);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c -n 2");
    guest_attach(&one, site, "c-1", 1);
    guest_attach(&two, site, "c-2", 1);
    struct content *first = malloc(sizeof(*first));
    assert_non_null(first);
    *first = *parent;
    scribble(&one, first, 500);
    ask_ok(&one, "blk flush");
    assert_content(&two, parent);
    assert_content(&guest, parent);
    stasis_ok(site, "save c-1@mine");
    write_both(&guest, parent, 77, 7, 77);
    assert_content(&one, first);
    set(parent, 77, 7, 11);
    assert_content(&two, parent);
    guest_detach(&one);
    guest_detach(&two);
    guest_detach(&guest);
    free(first);
    free(parent);
}

static bool same_files(const char *a, const char *b)
{
    char *left = NULL, *right = NULL;
    size_t left_length, right_length;

    assert_int_equal(io_read_file(AT_FDCWD, a, DISK_BYTES, &left, &left_length), 0);
    assert_int_equal(io_read_file(AT_FDCWD, b, DISK_BYTES, &right, &right_length), 0);
    bool same = left_length == right_length && memcmp(left, right, left_length) == 0;
    free(left);
    free(right);
    return same;
}

/* The file that was given is read once and never again. */
static void the_file_given_is_not_changed(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *path = site_path(site, "0.raw");
    char *same = site_path(site, "same.raw");

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    ask_ok(&guest, "blk write 0 100 5");
    ask_ok(&guest, "blk flush");
    stasis_ok(site, "save m@one");
    free(site_disk(site, "same.raw", 11));
    assert_true(same_files(path, same));
    guest_detach(&guest);
    free(path);
    free(same);
}

static void beyond_the_end_is_refused(void **state)
{
    struct guest guest;
    struct content *content = content_new(11);

    guest_boot(&guest, *state, "m", MEMORY_MIB, 1);
    assert_int_equal(strncmp(ask(&guest, "blk write %d 2 5", DISK_SECTORS - 1), "error", 5), 0);
    assert_int_equal(strncmp(ask(&guest, "blk read %d 1", DISK_SECTORS), "error", 5), 0);
    assert_int_equal(strncmp(ask(&guest, "blk zero %d 9", DISK_SECTORS - 8), "error", 5), 0);
    assert_content(&guest, content);
    guest_detach(&guest);
    free(content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(sectors_hold_what_was_written),
        MACHINE_TEST(disks_go_back_and_forth_with_the_machine),
        MACHINE_TEST(disks_outlive_an_end_and_a_boot),
        MACHINE_TEST(flushed_data_outlives_kill_9),
        MACHINE_TEST(disks_of_clones_are_their_own),
        MACHINE_TEST(the_file_given_is_not_changed),
        MACHINE_TEST(beyond_the_end_is_refused),
    };

    return HARNESS_RUN(tests);
}
