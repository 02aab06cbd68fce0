/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/process.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* One line: "12: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF" (proc(5)). */
static pid_t match_line(const char *line, unsigned major, unsigned minor, unsigned long long inode)
{
    char kind[16];
    int pid;
    unsigned line_major;
    unsigned line_minor;
    unsigned long long line_inode;

    if (sscanf(line, "%*d: %15s %*s %*s %d %x:%x:%llu", kind, &pid, &line_major, &line_minor,
               &line_inode) != 5)
        return 0;
    if (strcmp(kind, "FLOCK") != 0 || line_major != major || line_minor != minor ||
        line_inode != inode || pid <= 0)
        return 0;
    return pid;
}

pid_t process_find_lock(const char *locks, unsigned major, unsigned minor, unsigned long long inode)
{
    while (*locks != '\0') {
        pid_t pid = match_line(locks, major, minor, inode);
        if (pid > 0)
            return pid;
        locks += strcspn(locks, "\n");
        locks += *locks == '\n';
    }
    return 0;
}

/* Files in /proc have no size to be read by. */
static size_t read_some(const char *path, char *buf, size_t size)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;

    while (fd >= 0 && used < size - 1) {
        ssize_t n = read(fd, buf + used, size - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    buf[used] = '\0';
    return used;
}

pid_t process_lock_owner(const char *machine_dir)
{
    enum { LOCKS_MAX = 1 << 20 };
    _cleanup_free_ char *path = io_format("%s/lock", machine_dir);
    _cleanup_free_ char *locks = malloc(LOCKS_MAX);
    struct stat st;

    if (locks == NULL || stat(path, &st) < 0)
        return 0;
    read_some("/proc/locks", locks, LOCKS_MAX);
    return process_find_lock(locks, major(st.st_dev), minor(st.st_dev), st.st_ino);
}

/* Who took the lock may have handed it on and ended, and its number may be
 * somebody else's by now. */
static bool is_machine_process(pid_t pid)
{
    char args[512];
    _cleanup_free_ char *path = io_format("/proc/%d/cmdline", (int)pid);

    size_t length = read_some(path, args, sizeof(args));
    const char *second = args + strlen(args) + 1;
    return second < args + length && strcmp(second, "machine-process") == 0;
}

int process_kill_lock_owner(const char *machine_dir, struct error *err)
{
    const pid_t pid = process_lock_owner(machine_dir);

    if (pid == 0)
        return 0;
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ESRCH)
        return 0;
    if (fd < 0)
        return error_errno(err, errno, "cannot reach process %d", (int)pid);
    if (!is_machine_process(pid)) {
        error_set(err, STATUS_FAILED, EPERM, "process %d holds %s/lock, but is no machine",
                  (int)pid, machine_dir);
        error_hint(err, "end it yourself if it should not be there");
        return -EPERM;
    }
    if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return error_errno(err, errno, "cannot end process %d", (int)pid);
    return 0;
}
