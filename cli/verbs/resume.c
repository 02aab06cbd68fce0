/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/machines.h"
#include "cli/network.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

/* Its disks go on from where they were; its memory is gone and begins anew. */
static int boot_stopped(struct cli *cli, const char *name, const struct net_settings *net,
                        struct error *err)
{
    struct catalogue_machine *machine = NULL;
    struct machine_start start = {.keep_overlays = true, .boot = true, .net = net};

    int r = catalogue_machine_get(cli->store, name, &machine, err);
    if (r < 0)
        return r;
    start.checkpoint = machine->has_head ? machine->head : machine->origin;
    catalogue_machines_free(machine, 1);
    r = machine_spawn(&cli->home, name, &start, err);
    if (r < 0)
        return r;
    cli_note(cli,
             "%s was stopped: it boots again from its disks (stasis restore %s goes back to "
             "its last checkpoint)",
             name, name);
    return 0;
}

struct request {
    const struct net_settings *net; /* or NULL: as before */
    const char *clock;              /* or NULL: as it was put to its present instant */
};

static int resume_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    const struct request *request = context;
    const struct net_settings *net = request->net;

    int r = machines_require(cli, name, err);
    if (r < 0)
        return r;
    if (!machine_is_running(&cli->home, name))
        return boot_stopped(cli, name, net, err);
    if ((r = network_refuse_running(name, net != NULL, err)) < 0)
        return r;
    _cleanup_json_ json_t *args = json_pack("{s:s*}", "clock", request->clock);
    return machines_call(cli, name, "resume", args, -1, NULL, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct net_settings net;
    bool connected;

    int r = network_settings(args, &net, &connected, err);
    struct request request = {connected ? &net : NULL, arguments_text(args, "clock", NULL)};
    return r < 0 ? r : cli_each_operand(cli, args, resume_one, &request, err);
}

static const struct option_spec options[] = {
    NETWORK_OPTIONS,
    MACHINES_OPTION_CLOCK,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_resume = {
    .name = "resume",
    .summary = "Let paused machines go on, or start stopped ones",
    .usage = "resume MACHINE... [--clock MODE] [-p PORTS]...",
    .details =
        "A paused machine goes on where it was, and so does its time, unless --clock host is "
        "given here or was when it was restored or cloned with --paused. A stopped one boots "
        "again: its disks are "
        "as it left them, its memory starts fresh, its network is connected as before unless "
        "--net or -p are given.",
    .example = "stasis resume web",
    .options = options,
    .operands = {{.name = "MACHINE", .repeats = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
