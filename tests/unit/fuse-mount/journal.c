/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replaying journals that debugfs wrote. The reference is e2fsck's replay of a
 * copy: afterwards every block must be the same (but for the superblock, in which
 * e2fsck notes that it was there, and for the journal itself).
 */
#include "fuse-mount/journal.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "fixture.h"
#include "fuse-mount/ext_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct ext *open_dirty(struct fixture *f, const char *name)
{
    struct source src = fixture_source(f, name);
    struct error err = ERROR_INIT;
    struct ext *fs = NULL;

    if (ext_open(&src, &fs, &err) < 0)
        fail_msg("%s", err.message);
    assert_non_null(ext_journal_report(fs));
    return fs;
}

/* A file system with a few files, and "spare": blocks to journal into. */
static void make_image(struct fixture *f, const char *options)
{
    fixture_run(f,
                "mkdir -p tree/dir; echo old > tree/dir/file\n"
                "head -c 400000 /dev/zero | tr '\\0' o > tree/spare\n"
                "mke2fs -q -F -t ext4 -b 4096 -J size=4 %s -d tree image 40M\n"
                "debugfs -R 'blocks /spare' image > blocks\n"
                "for n in 1 2 3 4; do head -c 16384 /dev/urandom > data$n; done\n"
                "read -ra b < blocks",
                options);
}

/* Marks of the shell: B0.. are blocks of /spare. */
static void journal_write(struct fixture *f, const char *script)
{
    fixture_run(f,
                "read -ra b < blocks\n"
                "B0=${b[0]} B1=${b[1]} B2=${b[2]} B3=${b[3]} B8=${b[8]} B9=${b[9]}\n"
                "cat > script <<END\n%s\nEND\n"
                "debugfs -w -f script image\n"
                "debugfs -R features image | grep -q needs_recovery\n"
                "cp image replayed; e2fsck -y -E journal_only replayed || "
                "[ $? -lt 4 ]\n"
                "! debugfs -R features replayed | grep -q needs_recovery",
                script);
}

#define JOURNAL_BLOCKS 1024u

/* Where the blocks of the journal lie; they are not one run. */
static void journal_blocks(struct ext *fs, uint64_t out[JOURNAL_BLOCKS])
{
    struct ext2_inode inode;

    assert_int_equal(ext2fs_read_inode(fs->fs, EXT2_JOURNAL_INO, &inode), 0);
    assert_int_equal(EXT2_I_SIZE(&inode), JOURNAL_BLOCKS * 4096);
    for (uint32_t i = 0; i < JOURNAL_BLOCKS; i++) {
        blk64_t block = 0;

        assert_int_equal(ext2fs_bmap2(fs->fs, EXT2_JOURNAL_INO, &inode, NULL, 0, i, NULL, &block),
                         0);
        out[i] = block;
    }
}

static bool is_journal(const uint64_t *blocks, uint64_t block)
{
    for (uint32_t i = 0; i < JOURNAL_BLOCKS; i++)
        if (blocks[i] == block)
            return true;
    return false;
}

static void compare_with_replayed(struct fixture *f, struct ext *fs)
{
    _cleanup_free_ char *path = io_format("%s/replayed", f->dir);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t journal[JOURNAL_BLOCKS];
    uint8_t ours[4096], theirs[4096];

    journal_blocks(fs, journal);
    for (uint64_t block = 1; block < fs->device.src.size_bytes / 4096; block++) {
        if (is_journal(journal, block))
            continue;
        assert_int_equal(
            overlay_read(&fs->device.src, &fs->overlay, block * 4096, ours, sizeof(ours)), 0);
        assert_int_equal(io_pread_full(fd, theirs, sizeof(theirs), block * 4096), 0);
        if (memcmp(ours, theirs, sizeof(ours)) != 0)
            fail_msg("block %lu differs from e2fsck's replay", (unsigned long)block);
    }
}

static void check_replay(void **state, const char *mkfs, const char *open_options)
{
    struct fixture *f = *state;
    _cleanup_free_ char *script = io_format(
        "jo %s\njw -b $B0,$B1 data1\njw -b $B1,$B2,$B3 data2\njw -b $B8 data3\njc", open_options);
    struct ext *fs;

    make_image(f, mkfs);
    journal_write(f, script);
    fs = open_dirty(f, "image");
    assert_int_equal(ext_journal_report(fs)->transactions, 3);
    assert_int_equal(ext_journal_report(fs)->blocks, 6);
    assert_int_equal(ext_journal_report(fs)->damaged, 0);
    assert_int_equal(fs->overlay.count, 5); /* one of them twice */
    compare_with_replayed(f, fs);
    ext_close(fs);
}

static void journal_without_checksums_is_replayed(void **state)
{
    check_replay(state, "-O ^metadata_csum,^64bit", "");
}

static void journal_of_64_bits_is_replayed(void **state)
{
    check_replay(state, "-O ^metadata_csum,64bit", "");
}

static void journal_with_v3_checksums_is_replayed(void **state)
{
    check_replay(state, "-O metadata_csum,64bit", "-c");
}

static void journal_with_v3_checksums_of_32_bits_is_replayed(void **state)
{
    check_replay(state, "-O metadata_csum,^64bit", "-c");
}

static void journal_with_v2_checksums_is_replayed(void **state)
{
    check_replay(state, "-O metadata_csum,64bit", "-c -v 2");
}

static void revoked_blocks_are_not_replayed(void **state)
{
    struct fixture *f = *state;
    struct ext *fs;

    make_image(f, "-O metadata_csum,64bit");
    journal_write(f, "jo -c\njw -b $B0,$B1 data1\njw -r $B0\njw -b $B8 data2\njc");
    fs = open_dirty(f, "image");
    assert_int_equal(ext_journal_report(fs)->revoked, 1);
    assert_int_equal(fs->overlay.count, 2);
    compare_with_replayed(f, fs);
    ext_close(fs);
}

static void block_written_again_after_its_revoke_is_replayed(void **state)
{
    struct fixture *f = *state;
    struct ext *fs;

    make_image(f, "-O ^metadata_csum,64bit");
    journal_write(f, "jo\njw -b $B0,$B1 data1\njw -r $B0,$B1\njw -b $B0 data2\njc");
    fs = open_dirty(f, "image");
    assert_int_equal(ext_journal_report(fs)->revoked, 2);
    assert_int_equal(fs->overlay.count, 1);
    compare_with_replayed(f, fs);
    ext_close(fs);
}

static void escaped_blocks_get_their_magic_back(void **state)
{
    struct fixture *f = *state;
    struct ext *fs;

    make_image(f, "-O metadata_csum,64bit");
    fixture_run(f, "printf '\\xc0\\x3b\\x39\\x98' | dd of=data1 conv=notrunc status=none");
    journal_write(f, "jo -c\njw -b $B0,$B1 data1\njc");
    fs = open_dirty(f, "image");
    assert_true(fs->overlay.blocks[0].escaped);
    assert_false(fs->overlay.blocks[1].escaped);
    compare_with_replayed(f, fs);
    ext_close(fs);
}

static void journal_of_image(struct fixture *f, uint64_t out[JOURNAL_BLOCKS])
{
    struct ext *fs = open_dirty(f, "image");

    journal_blocks(fs, out);
    ext_close(fs);
}

/* debugfs always begins at the log's first block: moves what it wrote so that the
 * log begins three blocks before the journal's end and goes on at its beginning. */
static void rotate_log(struct fixture *f, uint32_t used)
{
    _cleanup_free_ char *path = io_format("%s/image", f->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    const uint32_t start = JOURNAL_BLOCKS - 3;
    uint64_t journal[JOURNAL_BLOCKS];
    uint8_t log[16][4096], field[4];

    journal_of_image(f, journal);
    assert_true(used <= ARRAY_LEN(log));
    for (uint32_t i = 0; i < used; i++)
        assert_int_equal(io_pread_full(fd, log[i], 4096, journal[1 + i] * 4096), 0);
    for (uint32_t i = 0; i < used; i++) {
        uint64_t to = journal[1 + (start - 1 + i) % (JOURNAL_BLOCKS - 1)];

        assert_int_equal(io_pwrite_full(fd, log[i], 4096, to * 4096), 0);
    }
    store_be32(field, start);
    assert_int_equal(io_pwrite_full(fd, field, 4, journal[0] * 4096 + 0x1c), 0);
}

static void journal_that_wraps_round_is_replayed(void **state)
{
    struct fixture *f = *state;
    struct ext *fs;

    make_image(f, "-O ^metadata_csum,64bit");
    journal_write(f, "jo\njw -b $B0,$B1 data1\njw -b $B1,$B2,$B3 data2\njc");
    rotate_log(f, 9);
    fixture_run(f, "cp image replayed; e2fsck -y -E journal_only replayed || [ $? -lt 4 ]");
    fs = open_dirty(f, "image");
    assert_int_equal(ext_journal_report(fs)->transactions, 2);
    assert_int_equal(ext_journal_report(fs)->blocks, 5);
    compare_with_replayed(f, fs);
    ext_close(fs);
}

static void uncommitted_transaction_is_left_out(void **state)
{
    struct fixture *f = *state;
    struct ext *fs;

    make_image(f, "-O metadata_csum,64bit");
    journal_write(f, "jo -c\njw -b $B0,$B1 data1\njw -c -b $B8 data2\njc");
    fs = open_dirty(f, "image");
    assert_int_equal(ext_journal_report(fs)->transactions, 1);
    assert_int_equal(fs->overlay.count, 2);
    compare_with_replayed(f, fs);
    ext_close(fs);
}

/* ---- damage ---- */

struct patched {
    int fd;
    uint64_t at;
    uint8_t mask;
};

static int patched_read(void *context, uint64_t offset, void *buf, size_t length)
{
    const struct patched *x = context;
    int r = io_pread_full(x->fd, buf, length, offset);

    if (r == 0 && x->at >= offset && x->at - offset < length)
        ((uint8_t *)buf)[x->at - offset] ^= x->mask;
    return r;
}

/* Opens the image with one byte of its journal changed. */
static struct ext *open_patched(struct fixture *f, struct patched *context, uint64_t at)
{
    struct source src = fixture_source(f, "image");
    struct error err = ERROR_INIT;
    struct ext *fs = NULL;

    *context = (struct patched){.fd = f->fd, .at = at, .mask = 0x10};
    src.read = patched_read;
    src.context = context;
    (void)ext_open(&src, &fs, &err);
    return fs;
}

static void damaged_block_of_a_transaction_is_left_out_and_counted(void **state)
{
    struct fixture *f = *state;
    struct patched context;
    struct ext *fs;
    uint64_t journal[JOURNAL_BLOCKS];

    make_image(f, "-O metadata_csum,64bit");
    journal_write(f, "jo -c\njw -b $B0,$B1 data1\njc");
    journal_of_image(f, journal);
    fs = open_patched(f, &context, journal[2] * 4096 + 77); /* superblock, descriptor, data */
    assert_non_null(fs);
    assert_int_equal(ext_journal_report(fs)->damaged, 1);
    assert_int_equal(fs->overlay.count, 1);
    ext_close(fs);
}

static void damaged_commit_ends_the_log(void **state)
{
    struct fixture *f = *state;
    struct patched context;
    struct ext *fs;
    uint64_t journal[JOURNAL_BLOCKS];

    make_image(f, "-O metadata_csum,64bit");
    journal_write(f, "jo -c\njw -b $B0,$B1 data1\njw -b $B8 data2\njc");
    journal_of_image(f, journal);
    fs = open_patched(f, &context, journal[4] * 4096 + 50);
    assert_non_null(fs);
    assert_int_equal(ext_journal_report(fs)->transactions, 0);
    assert_true(ext_journal_report(fs)->stopped_by_damage);
    ext_close(fs);
}

static void damage_anywhere_in_a_journal_does_no_harm(void **state)
{
    struct fixture *f = *state;
    struct patched context;
    uint32_t random = 7;
    uint64_t journal[JOURNAL_BLOCKS];

    make_image(f, "-O ^metadata_csum,64bit"); /* nothing but the checks of values helps */
    journal_write(f, "jo\njw -b $B0,$B1 data1\njw -r $B0\njw -b $B8 data2\njc");
    journal_of_image(f, journal);
    for (unsigned i = 0; i < 400; i++) {
        random = random * 1664525u + 1013904223u;
        uint64_t at = (random >> 8) % (i % 2 ? 160 : 8 * 4096);

        ext_close(open_patched(f, &context, journal[at / 4096] * 4096 + at % 4096));
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(journal_without_checksums_is_replayed),
        TEST(journal_of_64_bits_is_replayed),
        TEST(journal_with_v3_checksums_is_replayed),
        TEST(journal_with_v3_checksums_of_32_bits_is_replayed),
        TEST(journal_with_v2_checksums_is_replayed),
        TEST(revoked_blocks_are_not_replayed),
        TEST(block_written_again_after_its_revoke_is_replayed),
        TEST(escaped_blocks_get_their_magic_back),
        TEST(journal_that_wraps_round_is_replayed),
        TEST(uncommitted_transaction_is_left_out),
        TEST(damaged_block_of_a_transaction_is_left_out_and_counted),
        TEST(damaged_commit_ends_the_log),
        TEST(damage_anywhere_in_a_journal_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
