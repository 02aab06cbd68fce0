/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/machines.h"
#include "cli/verbs/verbs.h"

static int kill_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    (void)context;
    int r = machines_require(cli, name, err);
    return r < 0 ? r : machines_kill(cli, name, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    return cli_each_operand(cli, args, kill_one, NULL, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_kill = {
    .name = "kill",
    .summary = "End machines at once, like pulling the plug",
    .usage = "kill MACHINE...",
    .details = "Memory that was not saved is lost; disks keep what the guest has flushed. A "
               "process that does not answer is ended by SIGKILL.",
    .example = "stasis kill web",
    .options = options,
    .operands = {{.name = "MACHINE", .repeats = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
