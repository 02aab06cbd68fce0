/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "vmm/machine.h"

#include <errno.h>
#include <limits.h>

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    uint64_t fd;

    (void)cli;
    if (text_parse_number(arguments_operand(args, 2), &fd) < 0 || fd > INT_MAX)
        return error_set(err, STATUS_USAGE, EINVAL, "machine-process: bad file descriptor");
    return machine_process_main(arguments_operand(args, 0), arguments_operand(args, 1), (int)fd);
}

const struct command command_machine_process = {
    .name = "machine-process",
    .summary = "Be a machine (started by other verbs)",
    .usage = "machine-process HOME NAME READY_FD",
    .example = "stasis run debian:12",
    .operands = {{.name = "HOME"}, {.name = "NAME"}, {.name = "READY_FD"}},
    .hidden = true,
    .run = run,
};
