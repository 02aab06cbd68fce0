/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/attach.h"
#include "cli/cold.h"
#include "cli/guest.h"
#include "cli/interrupt.h"
#include "cli/machines.h"
#include "cli/network.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <string.h>

static int check_usage(const struct arguments *args, struct error *err)
{
    const bool image = arguments_operand(args, 0) != NULL;
    const bool kernel = arguments_has(args, "kernel");

    if (image == kernel) {
        error_set(err, STATUS_USAGE, EINVAL, "run needs either an image or --kernel FILE");
        error_hint(err, "stasis images lists the images");
        return -EINVAL;
    }
    if (image && (arguments_has(args, "initrd") || arguments_has(args, "disk"))) {
        error_set(err, STATUS_USAGE, EINVAL, "an image has its initrd and disks already");
        error_hint(err, "use --initrd and --disk with --kernel");
        return -EINVAL;
    }
    if (arguments_has(args, "detach") && arguments_has(args, "rm")) {
        error_set(err, STATUS_USAGE, EINVAL, "--rm needs somebody to wait for the end");
        error_hint(err, "leave out -d, or remove the machine yourself: stasis rm");
        return -EINVAL;
    }
    return 0;
}

/* Says so before anything is imported. */
static int check_name(struct cli *cli, const char *name, struct error *err)
{
    struct catalogue_machine *machine = NULL;

    if (name == NULL)
        return 0;
    if (!home_name_is_valid(name)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be the name of a machine", name);
        error_hint(err, "names are letters, digits, '-', '_' and '.', and begin with a letter or "
                        "digit");
        return -EINVAL;
    }
    int r = catalogue_machine_get(cli->store, name, &machine, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    catalogue_machines_free(machine, 1);
    error_set(err, STATUS_EXISTS, EEXIST, "there is a machine %s already", name);
    error_hint(err, "choose another --name, or stasis resume %s", name);
    return -EEXIST;
}

/* What is made from a checkpoint of a machine is a clone of it. */
static int check_network(struct cli *cli, const struct arguments *args, bool connected,
                         struct error *err)
{
    const char *image = arguments_operand(args, 0);

    if (image == NULL || strchr(image, '@') == NULL)
        return 0;
    return network_refuse_shared_tap(&cli->home, image, connected, err);
}

/* The checkpoint to start from. *made_out: it was made for this, nobody else knows
 * it yet. */
static int find_start(struct cli *cli, const struct arguments *args, struct digest *out,
                      bool *made_out, struct error *err)
{
    struct cold_request request;
    const char *image = arguments_operand(args, 0);
    int r;

    if (image == NULL) {
        r = cold_request_from(args, &request, err);
        *made_out = true;
        return r < 0 ? r : cold_ingest(cli, &request, out, NULL, err);
    }
    r = reference_resolve(cli, image, out, err);
    if (r < 0)
        return r;
    const struct digest before = *out;
    r = cold_reconfigure(cli, args, out, err);
    *made_out = !digest_equal(&before, out);
    return r;
}

static int attach(struct cli *cli, const char *name, const struct arguments *args,
                  struct error *err)
{
    struct terminal_options options = {.wait = true, .timeout_ms = -1};
    enum terminal_end end;

    int r = terminal_parse_escape(arguments_text(args, "escape", "ctrl-a"), &options.escape, err);
    if (r < 0)
        return r;
    r = attach_console(cli, name, true, &options, &end, err);
    return r < 0 ? r : attach_result(name, end, err);
}

static int report_started(struct cli *cli, const char *name, const struct digest *id,
                          struct error *err)
{
    if (!cli->json) {
        puts(name);
        return 0;
    }
    _cleanup_json_ json_t *result = json_pack("{s:s, s:o}", "name", name, "id", output_id(id));
    return output_json(result, err);
}

/* made: its checkpoint was made for it alone and goes with it. */
static int remove_machine(struct cli *cli, const char *name, const struct digest *id, bool made,
                          struct error *err)
{
    int r = machines_forget(cli, name, err);
    if (r >= 0 && made)
        catalogue_checkpoint_remove(cli->store, id, NULL);
    return r;
}

static int follow_up(struct cli *cli, const char *name, const struct arguments *args,
                     const struct digest *id, bool made, struct error *err)
{
    int r = 0;

    if (arguments_has(args, "detach") || cli->json)
        r = report_started(cli, name, id, err);
    if (r < 0 || arguments_has(args, "detach"))
        return r;
    fflush(stdout); /* before what the console prints, which does not go through stdio */
    r = attach(cli, name, args, err);
    if (!arguments_has(args, "rm"))
        return r;
    if (machine_is_running(&cli->home, name)) {
        cli_note(cli, "%s goes on and is kept", name);
        return r;
    }
    int removed = remove_machine(cli, name, id, made, r < 0 ? NULL : err);
    return r < 0 ? r : removed;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_free_ char *name = NULL;
    struct machine_start start = {
        .clock = machines_clock(args),
        .paused = arguments_has(args, "paused"),
    };
    const char *wanted = arguments_text(args, "name", NULL);
    struct net_settings net;
    bool made = false, connected;
    int escape;

    int r = check_usage(args, err);
    if (r < 0 || (r = guest_check_identity(args, 1, err)) < 0 ||
        (r = terminal_parse_escape(arguments_text(args, "escape", "ctrl-a"), &escape, err)) < 0 ||
        (r = network_settings(args, &net, &connected, err)) < 0 || (r = cli_store(cli, err)) < 0 ||
        (r = check_name(cli, wanted, err)) < 0 ||
        (r = check_network(cli, args, connected, err)) < 0 ||
        (r = find_start(cli, args, &start.checkpoint, &made, err)) < 0)
        return r;
    if (interrupt_pending())
        return error_set(err, STATUS_INTERRUPTED, ECANCELED, "interrupted");
    if (connected)
        start.net = &net;
    r = machines_launch(cli, wanted, &start, &name, err);
    if (r < 0) {
        if (made)
            catalogue_checkpoint_remove(cli->store, &start.checkpoint, NULL);
        return r;
    }
    if ((r = guest_settle(cli, name, args, &start, err)) < 0)
        return r;
    return follow_up(cli, name, args, &start.checkpoint, made, err);
}

static const struct option_spec options[] = {
    {.name = "name", .type = OPTION_TEXT, .value = "M", .help = "the machine's name"},
    {.name = "detach", .letter = 'd', .help = "leave it running and print its name"},
    {.name = "rm", .help = "remove the machine when it has ended"},
    COLD_OPTIONS_FILES,
    COLD_OPTIONS_SIZE,
    NETWORK_OPTIONS,
    MACHINES_OPTION_CLOCK,
    MACHINES_OPTION_PAUSED,
    GUEST_OPTION_IDENTITY,
    GUEST_OPTION_HOSTNAME,
    ATTACH_OPTION_ESCAPE,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_run = {
    .name = "run",
    .summary = "Make a machine, start it and attach its console",
    .usage = "run IMAGE [--name M] [-d]\n"
             "run --kernel FILE [--initrd FILE] [--disk FILE]... [--name M] [-d]",
    .details = "A cold image boots, a warm one goes on where it was saved; IMAGE may also be a "
               "checkpoint or an id. Kernel and disk files are copied into the store first, as "
               "by import; they are not changed. Without a name one is chosen.\n"
               "With --net user the machine has a network of its own, 10.0.2.0/24: it gets "
               "10.0.2.15 by DHCP and reaches what this host reaches, and the host's own "
               "services at 10.0.2.2. Nobody reaches it but through ports given by -p.\n"
               "With --net tap=NAME its network card is the other end of a tap device, which "
               "must be there (ip tuntap add NAME mode tap user $USER) and is for one machine. "
               "What it is connected to, and who gives addresses there, is the host's matter. "
               "A machine that is restored there announces its addresses to its neighbours.",
    .example = "stasis run debian:12 --name web -d -p 8080:80",
    .options = options,
    .operands = {{.name = "IMAGE", .optional = true, .completion = COMPLETE_REFERENCE}},
    .run = run,
};
