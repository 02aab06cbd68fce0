/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/mount.h"
#include "cli/verbs/verbs.h"

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const struct mount_options options = {.foreground = arguments_has(args, "foreground")};

    /* The mount's own process opens the store: it is only made here. */
    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    store_close(cli->store);
    cli->store = NULL;
    return mount_serve(cli->home.store, arguments_operand(args, 0), &options, err);
}

static const struct option_spec options[] = {
    {.name = "foreground", .letter = 'F', .help = "serve until it is unmounted"},
    {0},
};

const struct command command_mount = {
    .name = "mount",
    .summary = "Show all checkpoints as files, read-only",
    .usage = "mount DIR [--foreground]",
    .details = "Below DIR are images/NAME/TAG, machines/M/latest, machines/M/checkpoints/NAME and "
               "by-id/ID. Each is a directory with manifest.json, memory.raw, disk0.raw, and the "
               "files of the disk's partitions in disk0/p1 and so on.",
    .example = "mkdir past && stasis mount past",
    .options = options,
    .operands = {{.name = "DIR", .completion = COMPLETE_DIRECTORY}},
    .run = run,
};
