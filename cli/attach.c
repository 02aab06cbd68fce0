/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/attach.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "cli/machines.h"
#include "vmm/control/client.h"

#include <errno.h>

enum { LINGER_MS = 10000 };

static int open_console(struct cli *cli, const char *machine, bool replay, int *fd_out,
                        struct error *err)
{
    _cleanup_json_ json_t *args = json_pack("{s:b}", "replay", (int)replay);
    _cleanup_free_ char *path = home_machine_socket(&cli->home, machine);
    _cleanup_close_ int fd = -1;

    int r = control_connect(path, -1, &fd, err);
    if (r >= 0)
        r = control_call(fd, "console", args, NULL, err);
    if (r < 0) {
        error_prefix(err, "cannot attach to the console of %s", machine);
        return r;
    }
    *fd_out = steal_fd(&fd);
    return 0;
}

/* On a terminal the cursor is still behind what the guest printed. */
static void say(const char *machine, enum terminal_end end, bool person)
{
    const char *begin = person ? "\n" : "";

    switch (end) {
    case TERMINAL_MACHINE_ENDED:
        fprintf(stderr, "%s%s has ended\n", begin, machine);
        break;
    case TERMINAL_DETACHED:
        fprintf(stderr, "%sdetached; stasis console %s attaches again\n", begin, machine);
        break;
    default:
        break;
    }
}

/* The line is closed a moment before the machine is gone. That it was closed alone is
 * nothing to pass over: whoever reads what is printed would take it for the end. */
static int await_end(struct cli *cli, const char *machine, struct error *err)
{
    if (machine_wait(&cli->home, machine, LINGER_MS) != -ETIMEDOUT)
        return 0;
    _cleanup_json_ json_t *status = machines_status(cli, machine);
    if (status == NULL)
        return 0; /* it serves nobody any more: a slow end is one too */
    error_set(err, STATUS_FAILED, ECONNRESET, "%s goes on, but has closed its console", machine);
    error_hint(err, "stasis console %s attaches again; machine.log may say why", machine);
    return -ECONNRESET;
}

/* It was over before anybody could attach: what it printed is in its log. */
static int print_log(struct cli *cli, const char *machine, struct error *err)
{
    char chunk[4096];
    size_t n;
    _cleanup_free_ char *dir = home_machine_dir(&cli->home, machine);
    _cleanup_free_ char *path = io_format("%s/console.log", dir);
    _cleanup_fclose_ FILE *log = fopen(path, "re");

    while (log != NULL && (n = fread(chunk, 1, sizeof(chunk), log)) > 0) {
        int r = io_write_full(STDOUT_FILENO, chunk, n);
        if (r < 0)
            return error_errno(err, -r, "cannot print what the machine printed");
    }
    return 0;
}

int attach_console(struct cli *cli, const char *machine, bool replay,
                   const struct terminal_options *options, enum terminal_end *end_out,
                   struct error *err)
{
    _cleanup_close_ int fd = -1;
    const bool person = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1;

    int r = open_console(cli, machine, replay, &fd, err);
    if (r < 0 && replay && !machine_is_running(&cli->home, machine)) {
        *end_out = TERMINAL_MACHINE_ENDED;
        return print_log(cli, machine, err);
    }
    if (r < 0)
        return r;
    if (person && options->escape > 0)
        fprintf(stderr, "attached to %s; Ctrl-%c d detaches\n", machine,
                (options->escape | 0x40) + (options->escape <= 26 ? 0x20 : 0));
    r = terminal_join(fd, options, end_out, err);
    if (r >= 0 && *end_out == TERMINAL_MACHINE_ENDED)
        r = await_end(cli, machine, err);
    if (r >= 0)
        say(machine, *end_out, person);
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
