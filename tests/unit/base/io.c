/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

static int set_up(void **state)
{
    char *dir = io_format("/tmp/stasis-io-XXXXXX");

    *state = dir;
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int tear_down(void **state)
{
    io_remove_tree(*state);
    free(*state);
    return 0;
}

static unsigned entries_of(const char *path)
{
    _cleanup_closedir_ DIR *dir = opendir(path);
    unsigned n = 0;

    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
        n += e->d_name[0] != '.';
    return n;
}

static void reads_back_a_written_file(void **state)
{
    _cleanup_free_ char *path = io_format("%s/f", (char *)*state);
    _cleanup_free_ char *text = NULL;
    size_t length;
    struct stat st;

    assert_int_equal(io_write_file(AT_FDCWD, path, "hello", 5, 0640), 0);
    assert_int_equal(io_read_file(AT_FDCWD, path, 5, &text, &length), 0);
    assert_int_equal(length, 5);
    assert_string_equal(text, "hello");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777 & ~0640, 0);
    assert_int_equal(entries_of(*state), 1);
}

static void replacing_a_file_leaves_old_readers_alone(void **state)
{
    _cleanup_free_ char *path = io_format("%s/f", (char *)*state);
    char seen[3];

    assert_int_equal(io_write_file(AT_FDCWD, path, "old", 3, 0600), 0);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(io_write_file(AT_FDCWD, path, "new", 3, 0600), 0);
    assert_int_equal(io_pread_full(fd, seen, 3, 0), 0);
    assert_memory_equal(seen, "old", 3);
}

static void failing_to_replace_leaves_no_temporary_file(void **state)
{
    _cleanup_free_ char *path = io_format("%s/d", (char *)*state);
    _cleanup_free_ char *inner = io_format("%s/d/x", (char *)*state);

    assert_int_equal(io_make_dirs(inner, 0700), 0);
    assert_true(io_write_file(AT_FDCWD, path, "x", 1, 0600) < 0);
    assert_int_equal(entries_of(*state), 1);
}

static void too_large_a_file_is_not_read(void **state)
{
    _cleanup_free_ char *path = io_format("%s/f", (char *)*state);
    char *text = NULL;
    size_t length;

    assert_int_equal(io_write_file(AT_FDCWD, path, "hello", 5, 0600), 0);
    assert_int_equal(io_read_file(AT_FDCWD, path, 4, &text, &length), -EFBIG);
    assert_null(text);
}

static void reading_what_is_no_file_fails(void **state)
{
    _cleanup_free_ char *path = io_format("%s/missing", (char *)*state);
    char *text = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, path, 9, &text, &length), -ENOENT);
    assert_int_equal(io_read_file(AT_FDCWD, *state, 9, &text, &length), -EINVAL);
}

static void a_short_file_is_no_data(void **state)
{
    _cleanup_free_ char *path = io_format("%s/f", (char *)*state);
    char buf[8];

    assert_int_equal(io_write_file(AT_FDCWD, path, "hello", 5, 0600), 0);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(io_pread_full(fd, buf, 6, 0), -ENODATA);
    assert_int_equal(io_pread_full(fd, buf, 1, 5), -ENODATA);
    assert_int_equal(io_pread_full(fd, buf, 4, 1), 0);
    assert_memory_equal(buf, "ello", 4);
    assert_int_equal(io_read_full(fd, buf, 6), -ENODATA);
}

struct transfer {
    int fd;
    const uint8_t *data;
    size_t length;
    int result;
};

static void *transfer_run(void *arg)
{
    struct transfer *t = arg;

    t->result = io_write_full(t->fd, t->data, t->length);
    close(t->fd);
    return NULL;
}

static void a_pipe_carries_more_than_it_holds(void **state)
{
    enum { LENGTH = 1 << 20 };
    _cleanup_free_ uint8_t *sent = malloc(LENGTH);
    _cleanup_free_ uint8_t *got = malloc(LENGTH);
    pthread_t thread;
    int fds[2];

    (void)state;
    for (size_t i = 0; i < LENGTH; i++)
        sent[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(pipe(fds), 0);
    struct transfer t = {.fd = fds[1], .data = sent, .length = LENGTH};
    assert_int_equal(pthread_create(&thread, NULL, transfer_run, &t), 0);
    assert_int_equal(io_read_full(fds[0], got, LENGTH), 0);
    assert_int_equal(io_read_full(fds[0], got, 1), -ENODATA);
    pthread_join(thread, NULL);
    close(fds[0]);
    assert_int_equal(t.result, 0);
    assert_memory_equal(sent, got, LENGTH);
}

static void writes_land_at_their_offset(void **state)
{
    _cleanup_free_ char *path = io_format("%s/f", (char *)*state);
    char buf[6];

    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(io_pwrite_full(fd, "def", 3, 3), 0);
    assert_int_equal(io_pwrite_full(fd, "abc", 3, 0), 0);
    assert_int_equal(io_pread_full(fd, buf, 6, 0), 0);
    assert_memory_equal(buf, "abcdef", 6);
    assert_int_equal(io_pwrite_full(-1, "x", 1, 0), -EBADF);
}

static void directories_are_made_down_the_path(void **state)
{
    _cleanup_free_ char *path = io_format("%s/a/b//c", (char *)*state);
    _cleanup_free_ char *file = io_format("%s/file", (char *)*state);
    _cleanup_free_ char *below = io_format("%s/file/x", (char *)*state);

    assert_int_equal(io_make_dirs(path, 0700), 0);
    assert_int_equal(io_make_dirs(path, 0700), 0);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(io_write_file(AT_FDCWD, file, "", 0, 0600), 0);
    assert_int_equal(io_make_dirs(below, 0700), -ENOTDIR);
    assert_int_equal(io_make_dirs(file, 0700), -ENOTDIR);
}

static void a_directory_without_a_name_is_not_made(void **state)
{
    (void)state;
    assert_int_equal(io_make_dirs("", 0700), -ENOENT);
    assert_int_equal(io_make_dirs("/", 0700), 0);
}

static void removing_a_tree_does_not_follow_links(void **state)
{
    _cleanup_free_ char *keep = io_format("%s/keep/file", (char *)*state);
    _cleanup_free_ char *keep_dir = io_format("%s/keep", (char *)*state);
    _cleanup_free_ char *tree = io_format("%s/tree", (char *)*state);
    _cleanup_free_ char *deep = io_format("%s/tree/a/b", (char *)*state);
    _cleanup_free_ char *link = io_format("%s/tree/link", (char *)*state);

    assert_int_equal(io_make_dirs(keep_dir, 0700), 0);
    assert_int_equal(io_write_file(AT_FDCWD, keep, "x", 1, 0600), 0);
    assert_int_equal(io_make_dirs(deep, 0700), 0);
    assert_int_equal(symlink(keep_dir, link), 0);
    assert_int_equal(io_remove_tree(tree), 0);
    assert_int_equal(access(tree, F_OK), -1);
    assert_int_equal(access(keep, F_OK), 0);
    assert_int_equal(io_remove_tree(tree), 0);
}

static void cleanup_steals_and_closes(void **state)
{
    int fds[2];
    int kept;
    char byte;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    {
        _cleanup_close_ int writer = fds[1];
        _cleanup_close_ int reader = fds[0];
        assert_int_equal(io_write_full(writer, "x", 1), 0);
        kept = steal_fd(&reader);
        assert_int_equal(reader, -1);
    }
    assert_int_equal(io_read_full(kept, &byte, 1), 0);
    assert_int_equal(io_read_full(kept, &byte, 1), -ENODATA);
    close(kept);
    _cleanup_free_ char *text = io_format("%d", 42);
    _cleanup_free_ char *stolen = steal_pointer(text);
    assert_null(text);
    assert_string_equal(stolen, "42");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reads_back_a_written_file),
        TEST(replacing_a_file_leaves_old_readers_alone),
        TEST(failing_to_replace_leaves_no_temporary_file),
        TEST(too_large_a_file_is_not_read),
        TEST(reading_what_is_no_file_fails),
        TEST(a_short_file_is_no_data),
        TEST(a_pipe_carries_more_than_it_holds),
        TEST(writes_land_at_their_offset),
        TEST(directories_are_made_down_the_path),
        cmocka_unit_test(a_directory_without_a_name_is_not_made),
        TEST(removing_a_tree_does_not_follow_links),
        TEST(cleanup_steals_and_closes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
