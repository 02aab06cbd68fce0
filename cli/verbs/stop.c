/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/guest.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"

#include <errno.h>

enum { DEFAULT_MS = 30000, SLACK_MS = 2000 };

static int timed_out(const char *name, struct error *err)
{
    error_set(err, STATUS_FAILED, ETIMEDOUT, "%s was asked to stop, but has not", name);
    error_hint(err, "wait longer with --timeout, or stasis kill %s", name);
    return -ETIMEDOUT;
}

struct request {
    int timeout_ms;
    bool kill; /* when the time is over */
};

/* The agent knows how this guest is shut down; without one there is a key that most
 * listen to. */
static int ask(struct cli *cli, const char *name, int timeout_ms, struct error *err)
{
    _cleanup_json_ json_t *args = json_pack("{s:i}", "timeout_ms", timeout_ms);
    struct error ignored;

    if (guest_shut_down(cli, name, &ignored) == 0)
        return 0;
    return machines_call(cli, name, "stop", args, timeout_ms + SLACK_MS, NULL, err);
}

static int stop_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    const struct request *request = context;

    int r = machines_require(cli, name, err);
    if (r < 0 || !machine_is_running(&cli->home, name))
        return r;
    r = ask(cli, name, request->timeout_ms, err);
    if (!machine_is_running(&cli->home, name))
        return 0; /* it may end before it has answered */
    if (r >= 0 && machine_wait(&cli->home, name, request->timeout_ms) >= 0)
        return 0;
    if (request->kill)
        return machines_kill(cli, name, err);
    return r < 0 && r != -ETIMEDOUT ? r : timed_out(name, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct request request = {
        .timeout_ms = (int)arguments_number(args, "timeout", DEFAULT_MS),
        .kill = arguments_has(args, "kill"),
    };

    return cli_each_operand(cli, args, stop_one, &request, err);
}

static const struct option_spec options[] = {
    {.name = "timeout",
     .letter = 't',
     .type = OPTION_DURATION,
     .value = "TIME",
     .max = 86400000,
     .help = "how long to wait for the guest (default: 30s)"},
    {.name = "kill", .help = "end it when it has not by then, or does not listen"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_stop = {
    .name = "stop",
    .summary = "Ask guests to shut down, and wait until they have",
    .usage = "stop MACHINE... [--timeout TIME] [--kill]",
    .details =
        "The agent in the guest is asked, or if there is none the guest by Ctrl-Alt-Del. One "
        "that does not listen is not harmed, unless --kill is given: stop then fails. "
        "The disks stay; stasis resume boots the machine again.",
    .example = "stasis stop web",
    .options = options,
    .operands = {{.name = "MACHINE", .repeats = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
