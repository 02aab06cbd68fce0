/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/help.h"
#include "cli/verbs/verbs.h"

#include <errno.h>

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *name = arguments_operand(args, 0);

    (void)cli;
    if (name == NULL) {
        help_print_overview(stdout);
        return 0;
    }
    const struct command *command = command_find(name);
    if (command == NULL) {
        const char *near = command_nearest(name);
        error_set(err, STATUS_USAGE, EINVAL, "there is no verb '%s'", name);
        if (near != NULL)
            error_hint(err, "did you mean %s?", near);
        return -EINVAL;
    }
    help_print_command(stdout, command);
    return 0;
}

const struct command command_help = {
    .name = "help",
    .summary = "Explain the program or a verb",
    .usage = "help [VERB]",
    .example = "stasis help save",
    .operands = {{.name = "VERB", .optional = true, .completion = COMPLETE_VERB}},
    .run = run,
};
