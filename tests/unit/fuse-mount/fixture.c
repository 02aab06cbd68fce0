/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->fd = -1;
    snprintf(f->dir, sizeof(f->dir), "/tmp/stasis-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    *state = f;
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;

    if (f->fd >= 0)
        close(f->fd);
    io_remove_tree(f->dir);
    free(f);
    return 0;
}

static int shell(const char *dir, const char *command)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
        if (chdir(dir) < 0)
            _exit(126);
        int log = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (log < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
            _exit(126);
        execl("/bin/bash", "bash", "-e", "-c", command, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

void fixture_run(struct fixture *f, const char *fmt, ...)
{
    _cleanup_free_ char *command = NULL;
    va_list args;

    va_start(args, fmt);
    assert_true(vasprintf(&command, fmt, args) >= 0);
    va_end(args);
    if (shell(f->dir, command) != 0) {
        _cleanup_free_ char *path = io_format("%s/log", f->dir), *log = NULL;
        size_t length;

        (void)io_read_file(AT_FDCWD, path, 1 << 20, &log, &length);
        fail_msg("command failed: %s\n%s", command, log != NULL ? log : "");
    }
}

bool fixture_try(struct fixture *f, const char *fmt, ...)
{
    _cleanup_free_ char *command = NULL;
    va_list args;

    va_start(args, fmt);
    assert_true(vasprintf(&command, fmt, args) >= 0);
    va_end(args);
    return shell(f->dir, command) == 0;
}

struct source fixture_source(struct fixture *f, const char *name)
{
    _cleanup_free_ char *path = io_format("%s/%s", f->dir, name);
    struct stat st;

    if (f->fd >= 0)
        close(f->fd);
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(f->fd >= 0);
    assert_int_equal(fstat(f->fd, &st), 0);
    return source_of_file(&f->fd, (uint64_t)st.st_size);
}

void fixture_make_tree(struct fixture *f, unsigned files)
{
    fixture_run(f,
                "mkdir -p tree/etc/deep/deeper tree/many 'tree/odd name'\n"
                "printf 'hello\\n' > tree/etc/small\n"
                "printf x > tree/etc/one; : > tree/empty\n"
                "head -c 5000001 /dev/urandom > tree/etc/deep/large\n"
                "truncate -s 60M tree/sparse\n"
                "printf 'in the middle' | dd of=tree/sparse bs=1 seek=30000123 conv=notrunc "
                "status=none\n"
                "printf end >> tree/sparse\n"
                "ln -s small tree/etc/fast; ln -s /etc/small tree/etc/absolute\n"
                "ln -s $(printf '0123456789/%%.0s' {1..30})x tree/etc/slow\n"
                "ln tree/etc/one tree/etc/hard\n"
                "printf z > \"$(printf 'tree/odd name/\\\\xff\\\\n\\\\t')\"\n"
                "chmod 4751 tree/etc/small; chmod 1777 tree/many\n"
                "touch -d '2001-02-03 04:05:06.789' tree/etc/small\n"
                "touch -d '2030-02-03 04:05:06' tree/empty\n"
                "mkfifo tree/fifo\n"
                "cd tree/many; for ((i = 1; i <= %u; i++)); do : > file-with-a-name-$i; done\n",
                files);
}

static void compare_content(struct ext *fs, uint32_t inode, const char *path)
{
    static uint8_t ours[1 << 20], theirs[1 << 20];
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct ext_file *file = NULL;
    uint64_t offset = 0;

    assert_true(fd >= 0);
    assert_int_equal(ext_file_open(fs, inode, &file), 0);
    for (;;) {
        size_t done = 0;
        ssize_t n = pread(fd, theirs, sizeof(theirs), (off_t)offset);

        assert_true(n >= 0);
        assert_int_equal(ext_file_read(file, offset, ours, sizeof(ours), &done), 0);
        assert_int_equal(done, n);
        if (memcmp(ours, theirs, done) != 0)
            fail_msg("content of %s differs", path);
        if (n == 0)
            break;
        offset += done;
    }
    ext_file_close(file);
}

static void compare_link(struct ext *fs, uint32_t inode, const char *path)
{
    _cleanup_free_ char *ours = NULL;
    char theirs[PATH_MAX + 1] = {0};

    assert_true(readlink(path, theirs, PATH_MAX) > 0);
    assert_int_equal(ext_readlink(fs, inode, &ours), 0);
    assert_string_equal(ours, theirs);
}

static void compare_stat(const struct stat *a, const struct stat *b, const char *path)
{
    if (a->st_mode != b->st_mode || a->st_uid != b->st_uid || a->st_gid != b->st_gid)
        fail_msg("mode or owner of %s differs: %o %o", path, a->st_mode, b->st_mode);
    if (!S_ISDIR(a->st_mode) && (a->st_size != b->st_size || a->st_nlink != b->st_nlink))
        fail_msg("size or links of %s differ", path);
    if (a->st_mtim.tv_sec != b->st_mtim.tv_sec)
        fail_msg("time of %s differs: %ld %ld", path, (long)a->st_mtim.tv_sec,
                 (long)b->st_mtim.tv_sec);
}

static size_t host_entries(const char *path)
{
    _cleanup_closedir_ DIR *dir = opendir(path);
    size_t count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        count++;
    return count - 2; /* . and .. */
}

void fixture_compare(struct ext *fs, uint32_t inode, const char *path)
{
    struct listing list = {0};
    size_t count = 0;

    assert_int_equal(ext_list(fs, inode, &list), 0);
    for (size_t i = 0; i < list.count; i++) {
        const char *name = listing_name(&list, i);
        _cleanup_free_ char *child = io_format("%s/%s", path, name);
        uint32_t found = 0, number = (uint32_t)list.entries[i].inode;
        struct stat ours, theirs;

        if (inode == EXT_ROOT_INODE && strcmp(name, "lost+found") == 0)
            continue;
        count++;
        if (i % 100 == 0) { /* looking up is linear */
            assert_int_equal(ext_lookup(fs, inode, name, &found), 0);
            assert_int_equal(found, number);
        }
        assert_int_equal(ext_stat(fs, number, &ours), 0);
        assert_int_equal(lstat(child, &theirs), 0);
        compare_stat(&ours, &theirs, child);
        if (list.entries[i].mode != 0)
            assert_int_equal(list.entries[i].mode, ours.st_mode & S_IFMT);
        if (S_ISDIR(ours.st_mode)) {
            assert_int_equal(ext_check_parent(fs, number, inode), 0);
            fixture_compare(fs, number, child);
        } else if (S_ISREG(ours.st_mode)) {
            compare_content(fs, number, child);
        } else if (S_ISLNK(ours.st_mode)) {
            compare_link(fs, number, child);
        }
    }
    assert_int_equal(count, host_entries(path));
    listing_clear(&list);
}
