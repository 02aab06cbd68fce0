/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/process.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

enum { CMDLINE_SIZE = 512 };

/* Reads at most size - 1 bytes and puts a NUL behind them; files in /proc have no
 * size to be read by. */
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

bool process_is_machine(const char *cmdline, size_t length)
{
    static const char verb[] = "machine-process";
    const char *end = memchr(cmdline, '\0', length);

    if (end == NULL)
        return false;
    const size_t left = length - (size_t)(end + 1 - cmdline);
    return left >= sizeof(verb) && memcmp(end + 1, verb, sizeof(verb)) == 0;
}

static pid_t lock_owner(const char *machine_dir)
{
    char text[32];
    uint64_t pid;
    _cleanup_free_ char *path = io_format("%s/lock", machine_dir);

    read_some(path, text, sizeof(text));
    text[strcspn(text, "\n")] = '\0';
    if (text_parse_number(text, &pid) < 0 || pid == 0 || pid > INT_MAX)
        return 0;
    return (pid_t)pid;
}

int process_kill_machine(const char *machine_dir, struct error *err)
{
    char cmdline[CMDLINE_SIZE];
    const pid_t pid = lock_owner(machine_dir);

    if (pid == 0)
        return error_set(err, STATUS_FAILED, ESRCH, "%s/lock does not tell its process",
                         machine_dir);
    /* The descriptor first: what is found out then is true of the process that
     * gets the signal, whoever has its number later. */
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ESRCH)
        return 0;
    if (fd < 0)
        return error_errno(err, errno, "cannot reach process %d", (int)pid);
    _cleanup_free_ char *path = io_format("/proc/%d/cmdline", (int)pid);
    size_t length = read_some(path, cmdline, sizeof(cmdline));
    if (length == 0)
        return 0; /* it is dying: its memory is gone, its lock will be */
    if (!process_is_machine(cmdline, length)) {
        error_set(err, STATUS_FAILED, EPERM, "%s/lock names process %d, which is no machine",
                  machine_dir, (int)pid);
        error_hint(err, "who holds the lock? fuser %s/lock tells", machine_dir);
        return -EPERM;
    }
    if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return error_errno(err, errno, "cannot end process %d", (int)pid);
    return 0;
}
