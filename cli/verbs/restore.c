/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/guest.h"
#include "cli/machines.h"
#include "cli/network.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"

#include <errno.h>

/* The checkpoint named, or the machine's last one. */
static int find_checkpoint(struct cli *cli, const char *reference,
                           const struct machine_reference *ref, struct digest *out,
                           struct error *err)
{
    int r = machines_require(cli, ref->machine, err);
    if (r < 0)
        return r;
    return reference_resolve(cli, reference, out, err);
}

static int restore_running(struct cli *cli, const char *name, const struct machine_start *start,
                           struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    _cleanup_json_ json_t *args =
        json_pack("{s:s, s:s, s:b}", "checkpoint", digest_hex(&start->checkpoint, hex), "clock",
                  machines_clock_choices[start->clock], "paused", start->paused);

    return machines_call(cli, name, "restore", args, -1, NULL, err);
}

static int report(struct cli *cli, const char *name, const struct digest *id,
                  const struct digest *saved, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];

    if (cli->json) {
        _cleanup_json_ json_t *result =
            json_pack("{s:s, s:o, s:o}", "name", name, "id", output_id(id), "saved",
                      saved != NULL ? output_id(saved) : json_null());
        return output_json(result, err);
    }
    if (saved != NULL)
        cli_note(cli, "the state before is %.*s (stasis history %s)", OUTPUT_SHORT_ID,
                 digest_hex(saved, hex), name);
    return 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(machine_reference_clear) struct machine_reference ref = {0};
    const char *reference = arguments_operand(args, 0);
    const bool discard = arguments_has(args, "discard");
    struct machine_start start = {
        .clock = machines_clock(args),
        .paused = arguments_has(args, "paused"),
    };
    struct net_settings net;
    struct digest saved;
    bool connected;

    int r = machine_reference_parse(reference, &ref, err);
    if (r < 0 || (r = network_settings(args, &net, &connected, err)) < 0 ||
        (r = find_checkpoint(cli, reference, &ref, &start.checkpoint, err)) < 0)
        return r;
    if (connected)
        start.net = &net;
    if (machine_is_running(&cli->home, ref.machine) &&
        (r = network_refuse_running(ref.machine, connected, err)) < 0)
        return r;
    if (!discard && (r = machines_checkpoint(cli, ref.machine, &saved, err)) < 0) {
        error_prefix(err, "cannot save the present state first");
        if (err->hint[0] == '\0')
            error_hint(err, "give --discard to go back without");
        return r;
    }
    r = machine_is_running(&cli->home, ref.machine)
            ? restore_running(cli, ref.machine, &start, err)
            : machine_spawn(&cli->home, ref.machine, &start, err);
    if (r < 0)
        return r;
    guest_settle(cli, ref.machine, NULL, &start, NULL);
    return report(cli, ref.machine, &start.checkpoint, discard ? NULL : &saved, err);
}

static const struct option_spec options[] = {
    {.name = "discard", .help = "do not save the present state first"},
    NETWORK_OPTIONS,
    MACHINES_OPTION_CLOCK,
    MACHINES_OPTION_PAUSED,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_restore = {
    .name = "restore",
    .summary = "Put a machine back to one of its checkpoints",
    .usage = "restore M[@NAME] [--discard] [--clock continue|host] [--paused]",
    .details = "Memory, devices and disks go back together. The present state becomes a "
               "checkpoint first, so that restore can be undone, unless --discard is given. A "
               "stopped machine is started, its network connected as before unless --net or -p are "
               "given. Connections that were open then are reset. Without @NAME it is the last "
               "checkpoint. A paused machine stays paused.",
    .example = "stasis restore web@before",
    .options = options,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_REFERENCE}},
    .run = run,
};
