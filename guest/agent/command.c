/* SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

#include "base/bytes.h"
#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum stage { STAGE_USER, STAGE_DIRECTORY, STAGE_TERMINAL, STAGE_PROGRAM, STAGE_COUNT };

static const char *const stage_names[STAGE_COUNT] = {
    [STAGE_USER] = "cannot become the user",
    [STAGE_DIRECTORY] = "cannot go to the directory",
    [STAGE_TERMINAL] = "cannot open a terminal",
    [STAGE_PROGRAM] = "cannot run the program",
};

/* What the child says before it is gone. */
struct report {
    uint32_t stage;
    int32_t errnum;
};

/* The child's ends, and the pipe it reports by, which closes when it runs. */
struct ends {
    int in, out, err, report;
};

/* ---- in the child ---- */

static void __attribute__((noreturn)) give_up(const struct ends *ends, enum stage stage, int errnum)
{
    const struct report report = {.stage = stage, .errnum = errnum};

    (void)!write(ends->report, &report, sizeof(report));
    _exit(AGENT_EXIT_CANNOT_RUN);
}

static void default_signals(void)
{
    sigset_t none;

    for (int n = 1; n < NSIG; n++)
        signal(n, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void set_environment(const struct user *user, const char *const *assignments)
{
    clearenv();
    setenv("PATH", DEFAULT_PATH, 1);
    setenv("HOME", user->home, 1);
    setenv("USER", user->name, 1);
    setenv("LOGNAME", user->name, 1);
    setenv("SHELL", user->shell, 1);
    for (; *assignments != NULL; assignments++)
        putenv((char *)*assignments);
}

static void set_streams(const struct ends *ends)
{
    dup2(ends->in, STDIN_FILENO);
    dup2(ends->out, STDOUT_FILENO);
    dup2(ends->err, STDERR_FILENO);
    /* All others close when the program starts. */
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        fcntl(fd, F_SETFD, 0);
}

/* As login does: a name that begins with a dash. */
static void run_shell(const struct user *user)
{
    const char *slash = strrchr(user->shell, '/');
    char name[64];
    char *const argv[] = {name, NULL};

    snprintf(name, sizeof(name), "-%s", slash + 1);
    execv(user->shell, argv);
}

static void __attribute__((noreturn))
run_child(const struct agent_exec *request, const struct user *user, const struct ends *ends)
{
    default_signals();
    setsid();
    if ((request->flags & AGENT_EXEC_TTY) != 0 && ioctl(ends->in, TIOCSCTTY, 0) < 0)
        give_up(ends, STAGE_TERMINAL, errno);
    if ((request->flags & AGENT_EXEC_TTY) != 0)
        (void)!fchown(ends->in, user->uid, (gid_t)-1);
    set_streams(ends);
    umask(022);
    int r = user_become(user);
    if (r < 0)
        give_up(ends, STAGE_USER, -r);
    if (request->directory[0] != '\0' && chdir(request->directory) < 0)
        give_up(ends, STAGE_DIRECTORY, errno);
    if (request->directory[0] == '\0' && chdir(user->home) < 0 && chdir("/") < 0)
        give_up(ends, STAGE_DIRECTORY, errno);
    set_environment(user, request->environment);
    if (request->argv[0] == NULL)
        run_shell(user);
    else
        execvp(request->argv[0], (char *const *)request->argv);
    give_up(ends, STAGE_PROGRAM, errno);
}

/* ---- in the parent ---- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void command_close(struct command *c)
{
    if (c->out == c->in)
        c->out = -1;
    close_fd(&c->in);
    close_fd(&c->out);
    close_fd(&c->err);
}

static void close_ends(struct ends *ends)
{
    if (ends->out == ends->in)
        ends->out = -1;
    if (ends->err == ends->in)
        ends->err = -1;
    close_fd(&ends->in);
    close_fd(&ends->out);
    close_fd(&ends->err);
    close_fd(&ends->report);
}

static int open_terminal(const struct agent_exec *request, struct command *c, struct ends *ends)
{
    const struct winsize size = {.ws_row = request->rows, .ws_col = request->columns};
    char name[64];

    c->in = c->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (c->in < 0 || grantpt(c->in) < 0 || unlockpt(c->in) < 0 ||
        ptsname_r(c->in, name, sizeof(name)) != 0)
        return -errno;
    ends->in = ends->out = ends->err = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (ends->in < 0)
        return -errno;
    if (size.ws_row > 0 && size.ws_col > 0)
        ioctl(c->in, TIOCSWINSZ, &size);
    return 0;
}

static int open_pipe(int *ours, int *theirs, bool to_child)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    *ours = fds[to_child ? 1 : 0];
    *theirs = fds[to_child ? 0 : 1];
    fcntl(*ours, F_SETFL, O_NONBLOCK);
    return 0;
}

static int open_pipes(const struct agent_exec *request, struct command *c, struct ends *ends)
{
    int r = 0;

    if ((request->flags & AGENT_EXEC_INPUT) != 0)
        r = open_pipe(&c->in, &ends->in, true);
    else if ((ends->in = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
        r = -errno;
    if (r == 0)
        r = open_pipe(&c->out, &ends->out, false);
    if (r == 0)
        r = open_pipe(&c->err, &ends->err, false);
    return r;
}

static int open_streams(const struct agent_exec *request, struct command *c, struct ends *ends,
                        int *report_out)
{
    int fds[2];

    int r = (request->flags & AGENT_EXEC_TTY) != 0 ? open_terminal(request, c, ends)
                                                   : open_pipes(request, c, ends);
    if (r < 0)
        return r;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    *report_out = fds[0];
    ends->report = fds[1];
    return 0;
}

/* Nothing comes if the program runs. */
static int read_report(int fd, pid_t pid, struct command_failure *why)
{
    struct report report;
    ssize_t n;

    do
        n = read(fd, &report, sizeof(report));
    while (n < 0 && errno == EINTR);
    if (n != sizeof(report))
        return 0;
    waitpid(pid, NULL, 0);
    const bool program = report.stage == STAGE_PROGRAM;
    why->code = program && report.errnum == ENOENT ? AGENT_EXIT_NOT_FOUND : AGENT_EXIT_CANNOT_RUN;
    why->errnum = report.errnum;
    why->what = stage_names[report.stage < STAGE_COUNT ? report.stage : STAGE_PROGRAM];
    return -report.errnum;
}

static int failed(struct command_failure *why, int r, unsigned code, const char *what)
{
    *why = (struct command_failure){.code = code, .errnum = -r, .what = what};
    return r;
}

int command_start(const struct agent_exec *request, struct command *out,
                  struct command_failure *why)
{
    struct command c = {.in = -1, .out = -1, .err = -1};
    struct ends ends = {.in = -1, .out = -1, .err = -1, .report = -1};
    struct user user;
    int report = -1;

    int r = user_find(request->user, &user);
    if (r < 0)
        return failed(why, r, AGENT_EXIT_CANNOT_RUN, "there is no such user");
    r = open_streams(request, &c, &ends, &report);
    if (r == 0 && (c.pid = fork()) == 0)
        run_child(request, &user, &ends);
    if (r == 0 && c.pid < 0)
        r = -errno;
    close_ends(&ends);
    if (r < 0)
        failed(why, r, AGENT_EXIT_CANNOT_RUN, "cannot start a process");
    else
        r = read_report(report, c.pid, why);
    close_fd(&report);
    if (r < 0)
        command_close(&c);
    else
        *out = c;
    return r;
}
