/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/attach.h"

#include "base/cleanup.h"
#include "cli/machines.h"
#include "vmm/control/client.h"

#include <errno.h>

static int open_console(struct cli *cli, const char *machine, int *fd_out, struct error *err)
{
    _cleanup_free_ char *path = home_machine_socket(&cli->home, machine);
    _cleanup_close_ int fd = -1;

    int r = control_connect(path, &fd, err);
    if (r >= 0)
        r = control_call(fd, "console", NULL, NULL, err);
    if (r < 0) {
        error_prefix(err, "cannot attach to the console of %s", machine);
        return r;
    }
    *fd_out = steal_fd(&fd);
    return 0;
}

static void say(const char *machine, enum terminal_end end)
{
    switch (end) {
    case TERMINAL_MACHINE_ENDED:
        fprintf(stderr, "\n%s has ended\n", machine);
        break;
    case TERMINAL_DETACHED:
        fprintf(stderr, "\ndetached; stasis console %s attaches again\n", machine);
        break;
    default:
        break;
    }
}

int attach_console(struct cli *cli, const char *machine, const struct terminal_options *options,
                   enum terminal_end *end_out, struct error *err)
{
    _cleanup_close_ int fd = -1;
    const bool person = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1;

    int r = open_console(cli, machine, &fd, err);
    if (r < 0)
        return r;
    if (person && options->escape > 0)
        fprintf(stderr, "attached to %s; Ctrl-%c d detaches\n", machine,
                (options->escape | 0x40) + (options->escape <= 26 ? 0x20 : 0));
    r = terminal_join(fd, options, end_out, err);
    if (r >= 0 && person)
        say(machine, *end_out);
    return r;
}

int attach_result(const char *machine, enum terminal_end end, struct error *err)
{
    switch (end) {
    case TERMINAL_TIMED_OUT:
        error_set(err, STATUS_FAILED, ETIMEDOUT, "%s goes on, but the time given is over", machine);
        return -ETIMEDOUT;
    case TERMINAL_INTERRUPTED:
        error_set(err, STATUS_INTERRUPTED, EINTR, "interrupted; %s goes on", machine);
        return -EINTR;
    default:
        return 0;
    }
}
