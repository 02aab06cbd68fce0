/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/machines.h"
#include "cli/verbs/verbs.h"

static int pause_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    (void)context;
    int r = machines_require_running(cli, name, err);
    return r < 0 ? r : machines_call(cli, name, "pause", NULL, -1, NULL, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    return cli_each_operand(cli, args, pause_one, NULL, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_pause = {
    .name = "pause",
    .summary = "Hold machines still, in memory",
    .usage = "pause MACHINE...",
    .details = "The guest stops between two instructions and does not notice; resume lets it go "
               "on. Nothing is written to disk: that is what save does.",
    .example = "stasis pause web",
    .options = options,
    .operands = {{.name = "MACHINE", .repeats = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
