/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/machines.h"
#include "cli/verbs/verbs.h"

#include <errno.h>

static int wait_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    int r = machines_require(cli, name, err);
    if (r < 0)
        return r;
    r = machine_wait(&cli->home, name, *(const int *)context);
    if (r >= 0)
        return 0;
    if (r != -ETIMEDOUT)
        return error_errno(err, -r, "cannot wait for %s", name);
    error_set(err, STATUS_FAILED, ETIMEDOUT, "%s is still running", name);
    error_hint(err, "stasis stop %s asks it to end", name);
    return -ETIMEDOUT;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    int timeout_ms =
        arguments_has(args, "timeout") ? (int)arguments_number(args, "timeout", 0) : -1;

    return cli_each_operand(cli, args, wait_one, &timeout_ms, err);
}

static const struct option_spec options[] = {
    {.name = "timeout",
     .letter = 't',
     .type = OPTION_DURATION,
     .value = "TIME",
     .max = 86400000,
     .help = "give up after this time, with exit code 1"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_wait = {
    .name = "wait",
    .summary = "Wait until machines have ended",
    .usage = "wait MACHINE... [--timeout TIME]",
    .example = "stasis wait web --timeout 60s",
    .options = options,
    .operands = {{.name = "MACHINE", .repeats = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
