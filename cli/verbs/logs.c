/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/interrupt.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>

enum { CHECK_MS = 500, CHUNK_SIZE = 65536 };

/* Prints what there is from where the file stands. */
static int print_rest(int fd, struct error *err)
{
    char chunk[CHUNK_SIZE];
    ssize_t n;

    while ((n = read(fd, chunk, sizeof(chunk))) > 0) {
        int r = io_write_full(STDOUT_FILENO, chunk, (size_t)n);
        if (r < 0)
            return error_errno(err, -r, "cannot print the log");
    }
    return n < 0 && errno != EINTR ? error_errno(err, errno, "cannot read the log") : 0;
}

/* Wakes at every change of the file, and now and then to see whether the machine
 * is still there. */
static int follow(struct cli *cli, const char *name, const char *path, int fd, struct error *err)
{
    char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    _cleanup_close_ int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

    if (watch < 0 || inotify_add_watch(watch, path, IN_MODIFY) < 0)
        return error_errno(err, errno, "cannot watch %s", path);
    interrupt_catch();
    for (;;) {
        /* Asked before reading: what was printed before the end is not lost. */
        const bool running = machine_is_running(&cli->home, name);
        int r = print_rest(fd, err);
        if (r < 0 || !running)
            return r;
        if (interrupt_pending())
            return STATUS_INTERRUPTED; /* the usual way to end it: nothing to explain */
        struct pollfd wait = {.fd = watch, .events = POLLIN};
        if (poll(&wait, 1, CHECK_MS) > 0 && read(watch, events, sizeof(events)) < 0 &&
            errno != EAGAIN && errno != EINTR)
            return error_errno(err, errno, "cannot watch %s", path);
    }
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *name = arguments_operand(args, 0);

    int r = machines_require(cli, name, err);
    if (r < 0)
        return r;
    _cleanup_free_ char *dir = home_machine_dir(&cli->home, name);
    _cleanup_free_ char *path =
        io_format("%s/%s", dir, arguments_has(args, "process") ? "machine.log" : "console.log");
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0; /* it has not said anything yet */
    if (fd < 0)
        return error_errno(err, errno, "cannot read %s", path);
    return arguments_has(args, "follow") ? follow(cli, name, path, fd, err) : print_rest(fd, err);
}

static const struct option_spec options[] = {
    {.name = "follow", .letter = 'f', .help = "go on as it prints more, until it ends"},
    {.name = "process", .help = "what the machine's process says, not the guest"},
    {0},
};

const struct command command_logs = {
    .name = "logs",
    .summary = "Print what a machine's console printed",
    .usage = "logs MACHINE [-f] [--process]",
    .example = "stasis logs web",
    .options = options,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_MACHINE}},
    .run = run,
};
