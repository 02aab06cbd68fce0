/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STEP_MS = 20 };

static const char *const directories[] = {
    "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin",
};

static int find(const char *name, char *path, size_t size)
{
    for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++) {
        snprintf(path, size, "%s/%s", directories[i], name);
        if (access(path, X_OK) == 0)
            return 0;
    }
    return -ENOENT;
}

static void __attribute__((noreturn)) run_child(const char *path, const char *const *argv)
{
    sigset_t none;
    int null = open("/dev/null", O_RDWR);

    for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    setsid();
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(path, (char *const *)argv);
    _exit(127);
}

int program_run(const char *const *argv, int timeout_ms)
{
    const struct timespec nap = {.tv_nsec = STEP_MS * 1000000L};
    char path[256];
    int status;

    int r = find(argv[0], path, sizeof(path));
    if (r < 0)
        return r;
    pid_t pid = fork();
    if (pid == 0)
        run_child(path, argv);
    if (pid < 0)
        return -errno;
    for (; waitpid(pid, &status, WNOHANG) == 0; timeout_ms -= STEP_MS) {
        if (timeout_ms <= 0) {
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -ETIMEDOUT;
        }
        nanosleep(&nap, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}
