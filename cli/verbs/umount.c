/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/verbs/verbs.h"
#include "fuse-mount/mount.h"

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    (void)cli;
    return mount_end(arguments_operand(args, 0), err);
}

const struct command command_umount = {
    .name = "umount",
    .summary = "Unmount what mount has mounted",
    .usage = "umount DIR",
    .example = "stasis umount past",
    .operands = {{.name = "DIR", .completion = COMPLETE_DIRECTORY}},
    .run = run,
};
