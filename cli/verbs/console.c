/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/attach.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *machine = arguments_operand(args, 0);
    struct terminal_options options = {
        .wait = !arguments_has(args, "no-wait"),
        .timeout_ms =
            arguments_has(args, "timeout") ? (int)arguments_number(args, "timeout", 0) : -1,
    };
    enum terminal_end end;

    int r = terminal_parse_escape(arguments_text(args, "escape", "ctrl-a"), &options.escape, err);
    if (r < 0 || (r = machines_require_running(cli, machine, err)) < 0 ||
        (r = attach_console(cli, machine, arguments_has(args, "replay"), &options, &end, err)) < 0)
        return r;
    return attach_result(machine, end, err);
}

static const struct option_spec options_list[] = {
    ATTACH_OPTION_ESCAPE,
    {.name = "replay", .help = "begin with what it has printed before"},
    {.name = "no-wait", .help = "end with the input, do not wait for the machine"},
    {.name = "timeout",
     .type = OPTION_DURATION,
     .value = "TIME",
     .max = 86400000,
     .help = "end after this time, with exit code 1"},
    {0},
};

const struct command command_console = {
    .name = "console",
    .summary = "Attach to the serial console of a machine",
    .usage = "console MACHINE [--escape KEY] [--timeout TIME] [--no-wait]",
    .details = "Ctrl-a d detaches and leaves the machine as it is; Ctrl-a a sends Ctrl-a. When "
               "standard input is not a terminal it is sent as it is, and output is printed "
               "until the machine ends.",
    .example = "stasis console web",
    .options = options_list,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_MACHINE}},
    .run = run,
};
