/* SPDX-License-Identifier: Apache-2.0 */
/* Guests' file systems, made by mke2fs, read by us, compared with what went in. */
#include "fuse-mount/ext.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

static struct ext *open_image(struct fixture *f, const char *name)
{
    struct source src = fixture_source(f, name);
    struct error err = ERROR_INIT;
    struct ext *fs = NULL;

    assert_true(ext_is_present(&src));
    if (ext_open(&src, &fs, &err) < 0)
        fail_msg("%s", err.message);
    return fs;
}

static void compare_image(struct fixture *f, const char *mkfs, const char *type)
{
    _cleanup_free_ char *tree = io_format("%s/tree", f->dir);
    struct ext *fs;

    fixture_make_tree(f, 300);
    fixture_run(f, "truncate -s 120M image; %s image", mkfs);
    fs = open_image(f, "image");
    assert_string_equal(ext_type(fs), type);
    assert_null(ext_journal_report(fs));
    fixture_compare(fs, EXT_ROOT_INODE, tree);
    ext_close(fs);
}

static void ext4_reads_as_it_was_made(void **state)
{
    compare_image(*state, "mke2fs -q -F -t ext4 -O 64bit,metadata_csum -L disk -d tree", "ext4");
}

static void ext4_with_inline_data_reads_as_it_was_made(void **state)
{
    compare_image(*state, "mke2fs -q -F -t ext4 -O inline_data,metadata_csum -I 256 -d tree",
                  "ext4");
}

static void ext4_with_small_blocks_reads_as_it_was_made(void **state)
{
    compare_image(*state, "mke2fs -q -F -t ext4 -b 1024 -N 8000 -d tree", "ext4");
}

static void ext4_with_clusters_reads_as_it_was_made(void **state)
{
    compare_image(*state, "mke2fs -q -F -t ext4 -O bigalloc -C 16384 -N 8000 -d tree", "ext4");
}

static void ext3_reads_as_it_was_made(void **state)
{
    compare_image(*state, "mke2fs -q -F -t ext3 -I 256 -j -d tree", "ext3");
}

static void ext2_with_indirect_blocks_reads_as_it_was_made(void **state)
{
    compare_image(*state, "mke2fs -q -F -t ext2 -b 1024 -I 256 -N 8000 -d tree", "ext2");
}

static void hashed_directory_lists_every_name(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *tree = io_format("%s/tree", f->dir);
    uint32_t inode = 0;
    struct ext *fs;

    fixture_make_tree(f, 5000);
    fixture_run(f, "mke2fs -q -F -t ext4 -O dir_index -d tree image 120M\n"
                   "e2fsck -fyD image || [ $? -lt 4 ]\n"
                   "debugfs -R 'htree_dump /many' image | grep -q 'Root node'");
    fs = open_image(f, "image");
    fixture_compare(fs, EXT_ROOT_INODE, tree);
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "many", &inode), 0);
    assert_int_equal(ext_lookup(fs, inode, "file-with-a-name-5001", &inode), -ENOENT);
    ext_close(fs);
}

static void preallocated_blocks_read_as_zeros(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[8192];
    uint32_t inode = 0;
    struct ext_file *file;
    size_t done;
    struct ext *fs;

    fixture_run(f, "mkdir tree; mke2fs -q -F -t ext4 -d tree image 16M\n"
                   "tr '\\0' 'x' < /dev/zero | dd of=image bs=1M seek=8 count=8 conv=notrunc "
                   "iflag=fullblock status=none\n"
                   "printf 'write /dev/null file\\nfallocate /file 0 3\\n"
                   "set_inode_field /file size 16384\\n' > script\n"
                   "debugfs -w -f script image");
    fs = open_image(f, "image");
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "file", &inode), 0);
    assert_int_equal(ext_file_open(fs, inode, &file), 0);
    assert_int_equal(ext_file_read(file, 4000, buf, sizeof(buf), &done), 0);
    assert_int_equal(done, sizeof(buf));
    for (size_t i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 0);
    ext_file_close(file);
    ext_close(fs);
}

static void device_nodes_keep_their_numbers(void **state)
{
    struct fixture *f = *state;
    uint32_t inode = 0;
    struct stat st;
    struct ext *fs;

    fixture_run(f, "mkdir tree; mke2fs -q -F -t ext4 -d tree image 16M\n"
                   "printf 'mknod null c 1 3\\nmknod disk b 8 17\\n' > script\n"
                   "debugfs -w -f script image");
    fs = open_image(f, "image");
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "null", &inode), 0);
    assert_int_equal(ext_stat(fs, inode, &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(st.st_rdev, makedev(1, 3));
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "disk", &inode), 0);
    assert_int_equal(ext_stat(fs, inode, &st), 0);
    assert_true(S_ISBLK(st.st_mode));
    assert_int_equal(st.st_rdev, makedev(8, 17));
    ext_close(fs);
}

static void wrong_kinds_are_refused(void **state)
{
    struct fixture *f = *state;
    struct listing list = {0};
    struct ext_file *file;
    uint32_t inode = 0;
    struct stat st;
    struct ext *fs;
    char *target;

    fixture_run(f, "mkdir tree; echo x > tree/file; mke2fs -q -F -t ext4 -d tree image 16M");
    fs = open_image(f, "image");
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "file", &inode), 0);
    assert_int_equal(ext_list(fs, inode, &list), -ENOTDIR);
    assert_int_equal(ext_lookup(fs, inode, "x", &inode), -ENOTDIR);
    assert_int_equal(ext_readlink(fs, inode, &target), -EINVAL);
    assert_int_equal(ext_file_open(fs, EXT_ROOT_INODE, &file), -EISDIR);
    assert_int_equal(ext_stat(fs, inode + 1, &st), -ENOENT); /* free */
    assert_true(ext_stat(fs, 0, &st) < 0);
    assert_true(ext_stat(fs, UINT32_MAX, &st) < 0);
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "..", &inode), -ENOENT);
    ext_close(fs);
}

static void directory_linked_into_itself_is_not_entered(void **state)
{
    struct fixture *f = *state;
    uint32_t a = 0, b = 0, loop = 0, root = 0;
    struct ext *fs;

    fixture_run(f, "mkdir -p tree/a/b; mke2fs -q -F -t ext4 -d tree image 16M\n"
                   "printf 'link /a /a/b/loop\\nlink / /a/root\\n' > script\n"
                   "debugfs -w -f script image");
    fs = open_image(f, "image");
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "a", &a), 0);
    assert_int_equal(ext_check_parent(fs, a, EXT_ROOT_INODE), 0);
    assert_int_equal(ext_lookup(fs, a, "b", &b), 0);
    assert_int_equal(ext_check_parent(fs, b, a), 0);
    assert_int_equal(ext_lookup(fs, b, "loop", &loop), 0);
    assert_int_equal(loop, a);
    assert_int_equal(ext_check_parent(fs, loop, b), -EUCLEAN);
    assert_int_equal(ext_lookup(fs, a, "root", &root), 0);
    assert_int_equal(ext_check_parent(fs, root, a), -EUCLEAN);
    ext_close(fs);
}

static void file_system_larger_than_its_disk_is_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct ext *fs = NULL;
    struct source src;

    fixture_run(f, "mke2fs -q -F -t ext4 image 16M; truncate -s 15M image");
    src = fixture_source(f, "image");
    assert_int_equal(ext_open(&src, &fs, &err), -EBADMSG);
    assert_int_equal(err.status, STATUS_CORRUPT);
    assert_non_null(strstr(err.message, "larger than"));
}

/* Reads all that can be reached and takes any error but not a crash or a hang. */
static void walk_anything(struct ext *fs, uint32_t inode, unsigned depth)
{
    static uint8_t buf[1 << 16];
    struct listing list = {0};

    if (depth > 8 || ext_list(fs, inode, &list) < 0)
        return;
    for (size_t i = 0; i < list.count && i < 200; i++) {
        uint32_t number = (uint32_t)list.entries[i].inode;
        struct ext_file *file = NULL;
        struct stat st;
        char *target = NULL;
        size_t done;

        if (ext_stat(fs, number, &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode) && ext_check_parent(fs, number, inode) == 0)
            walk_anything(fs, number, depth + 1);
        if (ext_readlink(fs, number, &target) == 0)
            free(target);
        if (ext_file_open(fs, number, &file) < 0)
            continue;
        (void)ext_file_read(file, 0, buf, sizeof(buf), &done);
        (void)ext_file_read(file, ext_file_size(file) / 2, buf, sizeof(buf), &done);
        ext_file_close(file);
    }
    listing_clear(&list);
}

struct flipped {
    int fd;
    uint64_t at;
    uint8_t mask;
};

static int flipped_read(void *context, uint64_t offset, void *buf, size_t length)
{
    const struct flipped *x = context;
    int r = io_pread_full(x->fd, buf, length, offset);

    if (r == 0 && x->at >= offset && x->at - offset < length)
        ((uint8_t *)buf)[x->at - offset] ^= x->mask;
    return r;
}

static void damaged_metadata_gives_errors_not_crashes(void **state)
{
    struct fixture *f = *state;
    struct flipped context;
    struct source src;
    uint32_t random = 1;

    fixture_run(
        f, "mkdir -p tree/a/b; for i in {1..300}; do echo $i > tree/a/$i; done\n"
           "ln -s $(printf '0123456789/%%.0s' {1..30})x tree/a/slow\n"
           "head -c 3000000 /dev/urandom > tree/a/b/large\n"
           "mke2fs -q -F -t ext4 -O ^metadata_csum,inline_data -I 256 -b 1024 -d tree image 6M");
    src = fixture_source(f, "image");
    context.fd = f->fd;
    src.read = flipped_read;
    src.context = &context;
    for (unsigned i = 0; i < 1000; i++) {
        struct error err = ERROR_INIT;
        struct ext *fs = NULL;

        random = random * 1664525u + 1013904223u;
        context.at = 1024 + (random >> 8) % (i % 2 == 0 ? 2048u : 900u * 1024u);
        context.mask = (uint8_t)(1u << (random & 7));
        if (ext_open(&src, &fs, &err) < 0) {
            assert_true(err.message[0] != '\0');
            continue;
        }
        walk_anything(fs, EXT_ROOT_INODE, 0);
        ext_close(fs);
    }
}

static int failing_read(void *context, uint64_t offset, void *buf, size_t length)
{
    const struct flipped *x = context;

    return offset + length > x->at ? -EIO : io_pread_full(x->fd, buf, length, offset);
}

static void failure_to_read_is_an_io_error(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct flipped context;
    struct ext_file *file;
    struct ext *fs = NULL;
    struct source src;
    uint32_t inode = 0;
    uint8_t byte;
    size_t done;

    fixture_run(f, "mkdir tree; head -c 100000 /dev/urandom > tree/file\n"
                   "mke2fs -q -F -t ext4 -d tree image 16M");
    src = fixture_source(f, "image");
    context = (struct flipped){.fd = f->fd, .at = UINT64_MAX / 2};
    src.read = failing_read;
    src.context = &context;
    assert_int_equal(ext_open(&src, &fs, &err), 0);
    assert_int_equal(ext_lookup(fs, EXT_ROOT_INODE, "file", &inode), 0);
    assert_int_equal(ext_file_open(fs, inode, &file), 0);
    context.at = 1024;
    assert_int_equal(ext_file_read(file, 50000, &byte, 1, &done), -EIO);
    ext_file_close(file);
    ext_close(fs);
    assert_int_equal(ext_open(&src, &fs, &err), -EIO);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(ext4_reads_as_it_was_made),
        TEST(ext4_with_inline_data_reads_as_it_was_made),
        TEST(ext4_with_small_blocks_reads_as_it_was_made),
        TEST(ext4_with_clusters_reads_as_it_was_made),
        TEST(ext3_reads_as_it_was_made),
        TEST(ext2_with_indirect_blocks_reads_as_it_was_made),
        TEST(hashed_directory_lists_every_name),
        TEST(preallocated_blocks_read_as_zeros),
        TEST(device_nodes_keep_their_numbers),
        TEST(wrong_kinds_are_refused),
        TEST(directory_linked_into_itself_is_not_entered),
        TEST(file_system_larger_than_its_disk_is_refused),
        TEST(damaged_metadata_gives_errors_not_crashes),
        TEST(failure_to_read_is_an_io_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
