/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
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

static int stop_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    const int timeout_ms = *(const int *)context;
    _cleanup_json_ json_t *args = json_pack("{s:i}", "timeout_ms", timeout_ms);

    int r = machines_require(cli, name, err);
    if (r < 0 || !machine_is_running(&cli->home, name))
        return r;
    r = machines_call(cli, name, "stop", args, timeout_ms + SLACK_MS, NULL, err);
    if (!machine_is_running(&cli->home, name))
        return 0; /* it may end before it has answered */
    if (r == -ETIMEDOUT)
        return timed_out(name, err);
    if (r < 0)
        return r;
    return machine_wait(&cli->home, name, timeout_ms) < 0 ? timed_out(name, err) : 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    int timeout_ms = (int)arguments_number(args, "timeout", DEFAULT_MS);

    return cli_each_operand(cli, args, stop_one, &timeout_ms, err);
}

static const struct option_spec options[] = {
    {.name = "timeout",
     .letter = 't',
     .type = OPTION_DURATION,
     .value = "TIME",
     .max = 86400000,
     .help = "how long to wait for the guest (default: 30s)"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_stop = {
    .name = "stop",
    .summary = "Ask guests to shut down, and wait until they have",
    .usage = "stop MACHINE... [--timeout TIME]",
    .details = "A guest that does not listen is not harmed: stop then fails, and kill ends it. "
               "The disks stay; stasis resume boots the machine again.",
    .example = "stasis stop web",
    .options = options,
    .operands = {{.name = "MACHINE", .repeats = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
