/* SPDX-License-Identifier: Apache-2.0 */
/* Partition tables that sfdisk wrote. */
#include "fuse-mount/partition.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "fixture.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MIB UINT64_C(1048576)

static struct partition_table read_table(struct fixture *f)
{
    struct source src = fixture_source(f, "disk");
    struct partition_table table;

    assert_int_equal(partition_table_read(&src, &table), 0);
    return table;
}

static void expect_part(const struct partition *part, uint32_t number, uint64_t start,
                        uint64_t size_bytes)
{
    assert_int_equal(part->number, number);
    assert_int_equal(part->start, start);
    assert_int_equal(part->size_bytes, size_bytes);
}

static void make_gpt(struct fixture *f)
{
    fixture_run(f, "truncate -s 64M disk\n"
                   "printf 'label: gpt\\nstart=1MiB,size=10MiB\\nstart=20MiB,size=30MiB\\n' | "
                   "sfdisk disk");
}

static void gpt_gives_its_partitions(void **state)
{
    struct partition_table table;

    make_gpt(*state);
    table = read_table(*state);
    assert_int_equal(table.scheme, PARTITION_GPT);
    assert_false(table.from_backup);
    assert_int_equal(table.count, 2);
    expect_part(&table.parts[0], 1, MIB, 10 * MIB);
    expect_part(&table.parts[1], 2, 20 * MIB, 30 * MIB);
}

static void gpt_numbers_survive_gaps(void **state)
{
    struct partition_table table;

    make_gpt(*state);
    fixture_run(*state, "sfdisk --delete disk 1");
    table = read_table(*state);
    assert_int_equal(table.count, 1);
    expect_part(&table.parts[0], 2, 20 * MIB, 30 * MIB);
}

static void damaged_gpt_is_read_from_its_backup(void **state)
{
    struct partition_table table;

    make_gpt(*state);
    fixture_run(*state, "printf x | dd of=disk bs=1 seek=$((512 + 72)) conv=notrunc");
    table = read_table(*state);
    assert_int_equal(table.scheme, PARTITION_GPT);
    assert_true(table.from_backup);
    assert_int_equal(table.count, 2);
}

static void gpt_with_damaged_entries_is_read_from_its_backup(void **state)
{
    struct partition_table table;

    make_gpt(*state);
    fixture_run(*state, "printf x | dd of=disk bs=1 seek=$((1024 + 33)) conv=notrunc");
    table = read_table(*state);
    assert_true(table.from_backup);
    assert_int_equal(table.count, 2);
    expect_part(&table.parts[0], 1, MIB, 10 * MIB);
}

static void gpt_partition_past_the_end_is_left_out(void **state)
{
    struct partition_table table;

    make_gpt(*state);
    fixture_run(*state, "truncate -s 25M disk");
    table = read_table(*state);
    assert_int_equal(table.count, 1);
    expect_part(&table.parts[0], 1, MIB, 10 * MIB);
}

static void mbr_gives_primary_and_logical_partitions(void **state)
{
    struct partition_table table;

    fixture_run(*state, "truncate -s 64M disk\n"
                        "printf 'label: dos\\nstart=1MiB,size=10MiB,type=83\\n"
                        "start=20MiB,size=40MiB,type=5\\nstart=21MiB,size=5MiB\\n"
                        "start=30MiB,size=6MiB\\n' | sfdisk disk");
    table = read_table(*state);
    assert_int_equal(table.scheme, PARTITION_MBR);
    assert_int_equal(table.count, 3);
    expect_part(&table.parts[0], 1, MIB, 10 * MIB);
    expect_part(&table.parts[1], 5, 21 * MIB, 5 * MIB);
    expect_part(&table.parts[2], 6, 30 * MIB, 6 * MIB);
}

static void logical_partitions_in_a_circle_end(void **state)
{
    struct partition_table table;

    /* The second record of the list leads back to the first one that has a next. */
    fixture_run(*state,
                "truncate -s 64M disk\n"
                "printf 'label: dos\\nstart=1MiB,size=60MiB,type=5\\nstart=2MiB,size=5MiB\\n"
                "start=10MiB,size=6MiB\\n' | sfdisk disk\n"
                "dd if=disk of=link bs=1 skip=$((1048576 + 462)) count=16\n"
                "lba=$(od -An -tu4 -j 8 -N 4 link); at=$(( (lba + 2048) * 512 ))\n"
                "dd if=link of=disk bs=1 seek=$((at + 462)) conv=notrunc");
    table = read_table(*state);
    assert_int_equal(table.scheme, PARTITION_MBR);
    assert_in_range(table.count, 2, PARTITIONS_MAX);
}

static void disk_without_table_is_one_partition_zero(void **state)
{
    struct partition_table table;

    fixture_run(*state, "mke2fs -q -F -t ext4 disk 16M");
    table = read_table(*state);
    assert_int_equal(table.scheme, PARTITION_NONE);
    assert_int_equal(table.count, 1);
    expect_part(&table.parts[0], 0, 0, 16 * MIB);
}

static void boot_sector_of_a_file_system_is_not_a_table(void **state)
{
    struct partition_table table;

    /* Boot code where entries would be, and the signature, as FAT has them. */
    fixture_run(*state, "truncate -s 16M disk\n"
                        "head -c 64 /dev/zero | tr '\\0' 'M' | dd of=disk bs=1 seek=446 "
                        "conv=notrunc\n"
                        "printf '\\x55\\xaa' | dd of=disk bs=1 seek=510 conv=notrunc");
    table = read_table(*state);
    assert_int_equal(table.scheme, PARTITION_NONE);
}

static void tiny_and_empty_disks_are_no_trouble(void **state)
{
    struct partition_table table;

    fixture_run(*state, "truncate -s 0 disk");
    table = read_table(*state);
    assert_int_equal(table.count, 0);
    fixture_run(*state, "truncate -s 512 disk");
    table = read_table(*state);
    assert_int_equal(table.count, 1);
}

static void no_damage_to_tables_reads_outside_the_disk(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = io_format("%s/disk", f->dir);
    _cleanup_close_ int fd = -1;
    uint32_t random = 3;

    make_gpt(f);
    fd = open(path, O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < 2000; i++) {
        struct partition_table table;
        uint64_t at;
        uint8_t byte, changed;

        random = random * 1664525u + 1013904223u;
        at = (random >> 8) % 1536;
        assert_int_equal(io_pread_full(fd, &byte, 1, at), 0);
        changed = (uint8_t)(byte ^ (1u << (random & 7)));
        assert_int_equal(io_pwrite_full(fd, &changed, 1, at), 0);
        table = read_table(f);
        for (uint32_t p = 0; p < table.count; p++)
            assert_true(range_fits(table.parts[p].start, table.parts[p].size_bytes, 64 * MIB));
        assert_int_equal(io_pwrite_full(fd, &byte, 1, at), 0);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(gpt_gives_its_partitions),
        TEST(gpt_numbers_survive_gaps),
        TEST(damaged_gpt_is_read_from_its_backup),
        TEST(gpt_with_damaged_entries_is_read_from_its_backup),
        TEST(gpt_partition_past_the_end_is_left_out),
        TEST(mbr_gives_primary_and_logical_partitions),
        TEST(logical_partitions_in_a_circle_end),
        TEST(disk_without_table_is_one_partition_zero),
        TEST(boot_sector_of_a_file_system_is_not_a_table),
        TEST(tiny_and_empty_disks_are_no_trouble),
        TEST(no_damage_to_tables_reads_outside_the_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
