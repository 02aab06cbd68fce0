/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/machine.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/machine_start.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { REPORT_MAX = 4096, LOG_MAX = 16 << 20 };

/* What a machine's process is given of the caller's environment. */
static const char *const kept_variables[] = {"XDG_RUNTIME_DIR", "STASIS_INDEX_MEMORY",
                                             "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"};

static void build_environment(char *environment[ARRAY_LEN(kept_variables) + 2])
{
    size_t n = 0;

    environment[n++] = io_format("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    for (size_t i = 0; i < ARRAY_LEN(kept_variables); i++) {
        const char *value = getenv(kept_variables[i]);
        if (value != NULL)
            environment[n++] = io_format("%s=%s", kept_variables[i], value);
    }
    environment[n] = NULL;
}

/* In the child: a session of its own, its log for output, nothing else open. */
static void become_machine(const struct home *home, const char *name, const char *log_path,
                           int ready_fd)
{
    char *environment[ARRAY_LEN(kept_variables) + 2];
    sigset_t none;

    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDONLY);
    int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (null_fd < 0 || log_fd < 0)
        _exit(1);
    dup2(ready_fd, 3);
    fcntl(3, F_SETFD, 0);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    close_range(4, ~0u, 0);
    build_environment(environment);
    if (chdir("/") == 0)
        execle("/proc/self/exe", "stasis", "machine-process", home->root, name, "3", NULL,
               environment);
    _exit(1);
}

/* Twice, so that the machine is nobody's child to be waited for. */
static int fork_machine(const struct home *home, const char *name, const char *log_path,
                        int ready_fd, struct error *err)
{
    int status;

    pid_t pid = fork();
    if (pid < 0)
        return error_errno(err, errno, "cannot start a process");
    if (pid == 0) {
        pid_t machine = fork();
        if (machine == 0)
            become_machine(home, name, log_path, ready_fd);
        _exit(machine < 0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_errno(err, EAGAIN, "cannot start a process");
    return 0;
}

/* What it wrote last; "" if that cannot be read. The log may be gone in a moment. */
static char *last_line(const char *log_path)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    if (io_read_file(AT_FDCWD, log_path, LOG_MAX, &text, &length) < 0)
        return io_format("%s", "");
    while (length > 0 && text[length - 1] == '\n')
        text[--length] = '\0';
    const char *newline = strrchr(text, '\n');
    return io_format(": %.300s", newline != NULL ? newline + 1 : text);
}

/* Reads the one line of the process until it closes the pipe. */
static int read_report(int fd, const char *log_path, struct error *err)
{
    char text[REPORT_MAX];
    size_t length = 0;

    while (length < sizeof(text)) {
        ssize_t n = read(fd, text + length, sizeof(text) - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        length += (size_t)n;
    }
    _cleanup_json_ json_t *report = json_loadb(text, length, 0, NULL);
    if (json_is_true(json_object_get(report, "ok")))
        return 0;
    const char *message = json_string_value(json_object_get(report, "message"));
    if (message == NULL) {
        _cleanup_free_ char *last = last_line(log_path);
        error_set(err, STATUS_FAILED, ECHILD, "the machine's process died while it started%s",
                  last);
        error_hint(err, "see %s", log_path);
        return -ECHILD;
    }
    int errnum = (int)json_integer_value(json_object_get(report, "errno"));
    const char *hint = json_string_value(json_object_get(report, "hint"));
    error_set(err, (enum error_status)json_integer_value(json_object_get(report, "status")),
              errnum > 0 ? errnum : EIO, "%s", message);
    if (hint != NULL && hint[0] != '\0')
        error_hint(err, "%s", hint);
    return errnum > 0 ? -errnum : -EIO;
}

/* One start at a time: what start.json says must be what this process asked for.
 * *fd_out holds on to it until it is closed. */
static int take_start(const char *dir, const char *name, int *fd_out, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/starting", dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    if (machine_lock_take(fd) < 0) {
        error_set(err, STATUS_BUSY, EBUSY, "%s is just being started", name);
        error_hint(err, "try again in a moment");
        return -EBUSY;
    }
    *fd_out = steal_fd(&fd);
    return 0;
}

/* Addresses of its own a machine keeps, however it is connected. */
static int write_net(const char *dir, const struct net_settings *net, struct error *err)
{
    struct net_settings settings = *net, before;
    struct error ignored;

    if (!net->has_mac && net_settings_read(dir, &before, &ignored) == 0 && before.has_mac) {
        settings.has_mac = true;
        memcpy(settings.mac, before.mac, sizeof(settings.mac));
    }
    return net_settings_write(dir, &settings, err);
}

int machine_spawn(const struct home *home, const char *name, const struct machine_start *start,
                  struct error *err)
{
    _cleanup_free_ char *dir = home_machine_dir(home, name);
    _cleanup_free_ char *log_path = io_format("%s/machine.log", dir);
    _cleanup_close_ int starting = -1;
    int pipe_fds[2];

    int r = io_make_dirs(dir, 0700);
    if (r < 0)
        return error_errno(err, -r, "cannot make the directory %s", dir);
    if ((r = take_start(dir, name, &starting, err)) < 0)
        return r;
    if (machine_is_running(home, name))
        return error_set(err, STATUS_BUSY, EBUSY, "%s is running already", name);
    if ((start->net != NULL && (r = write_net(dir, start->net, err)) < 0) ||
        (r = machine_start_write(dir, start, err)) < 0)
        return r;
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot start a process");
    r = fork_machine(home, name, log_path, pipe_fds[1], err);
    close(pipe_fds[1]);
    if (r == 0)
        r = read_report(pipe_fds[0], log_path, err);
    close(pipe_fds[0]);
    return r;
}

/* The lock's file, or -1 when there is none. */
static int open_lock(const struct home *home, const char *name)
{
    _cleanup_free_ char *dir = home_machine_dir(home, name);
    _cleanup_free_ char *path = io_format("%s/lock", dir);

    return open(path, O_RDWR | O_CLOEXEC); /* F_OFD_GETLK of a write lock wants O_RDWR */
}

/* Open-file-description locks, because they can be looked at without being taken:
 * a look at a machine must not keep it from starting. */
static struct flock whole_file(void)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

int machine_lock_take(int fd)
{
    struct flock lock = whole_file();

    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

bool machine_is_running(const struct home *home, const char *name)
{
    _cleanup_close_ int fd = open_lock(home, name);
    struct flock lock = whole_file();

    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static pid_t lock_owner(const struct home *home, const char *name)
{
    _cleanup_close_ int fd = open_lock(home, name);
    char text[16] = {0};

    if (fd < 0 || pread(fd, text, sizeof(text) - 1, 0) <= 0)
        return -1;
    return (pid_t)strtol(text, NULL, 10);
}

int machine_wait(const struct home *home, const char *name, int timeout_ms)
{
    while (machine_is_running(home, name)) {
        pid_t pid = lock_owner(home, name);
        if (pid <= 0 && machine_is_running(home, name))
            return -ESRCH;
        if (pid <= 0)
            continue; /* it has just gone, and been removed */
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (fd < 0 && errno == ESRCH)
            continue; /* it has just gone, the lock goes with it */
        if (fd < 0)
            return -errno;
        if (!machine_is_running(home, name) || lock_owner(home, name) != pid)
            continue; /* the pid may be somebody else's by now */
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        int n = poll(&poll_fd, 1, timeout_ms);
        if (n == 0)
            return -ETIMEDOUT;
        if (n < 0 && errno == EINTR)
            return -EINTR;
    }
    return 0;
}
