/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/guest.h"
#include "cli/interrupt.h"
#include "cli/machines.h"
#include "cli/names.h"
#include "cli/network.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <string.h>

enum { CLONES_MAX = 10000 };

struct plan {
    const struct arguments *args;
    struct machine_start start;
    struct net_settings net;
    bool connected; /* net was asked for */
    bool new_mac;   /* each its own */
    uint64_t count;
    char base[MACHINE_NAME_MAX + 1];
    bool numbered;     /* names are BASE-1, BASE-2, ... */
    bool pick;         /* names are ours: those that are taken are passed over */
    uint64_t next;     /* number to try next */
    uint64_t failures; /* so far */
    struct error last;
};

/* A machine is cloned as it is now, a checkpoint as it was. */
static int find_source(struct cli *cli, const char *reference, struct digest *out,
                       struct error *err)
{
    struct catalogue_machine *machine = NULL;

    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    if (!home_name_is_valid(reference) ||
        catalogue_machine_get(cli->store, reference, &machine, NULL) < 0)
        return reference_resolve(cli, reference, out, err);
    catalogue_machines_free(machine, 1);
    return machines_checkpoint(cli, reference, out, err);
}

/* Adds to an error what to do about it here. */
static int taken(const char *name, int r, struct error *err)
{
    if (r == -EEXIST)
        error_hint(err, "choose another NEW, or remove that one: stasis rm %s", name);
    return r;
}

static int launch_one(struct cli *cli, struct plan *plan, char **name_out, struct error *err)
{
    if (!plan->numbered) {
        *name_out = io_format("%s", plan->base);
        char *made = NULL;
        int r = machines_launch(cli, plan->base, &plan->start, &made, err);
        free(made);
        return taken(plan->base, r, err);
    }
    for (;;) {
        _cleanup_free_ char *name =
            io_format("%s-%llu", plan->base, (unsigned long long)plan->next++);
        char *made = NULL;
        int r = machines_launch(cli, name, &plan->start, &made, err);
        free(made);
        if (r == -EEXIST && plan->pick && err->status == STATUS_EXISTS && plan->next < UINT32_MAX)
            continue;
        *name_out = steal_pointer(name);
        return taken(*name_out, r, err);
    }
}

static json_t *clone_one(struct cli *cli, struct plan *plan)
{
    _cleanup_free_ char *name = NULL;
    struct error one = ERROR_INIT;

    if (plan->new_mac)
        net_mac_make(plan->net.mac);
    int r = launch_one(cli, plan, &name, &one);
    json_t *item = json_pack("{s:s, s:b, s:o}", "name", name, "ok", r >= 0, "id",
                             output_id(&plan->start.checkpoint));
    if (r >= 0 && guest_settle(cli, name, plan->args, &plan->start, &one) >= 0)
        return item;
    json_object_set_new(item, "status", json_integer(one.status));
    json_object_set_new(item, "message", output_text(one.message));
    if (plan->count > 1)
        cli_print_error(&one);
    plan->failures++;
    plan->last = one;
    return item;
}

static int clone_all(struct cli *cli, struct plan *plan, json_t *items, struct error *err)
{
    interrupt_catch();
    for (uint64_t i = 0; i < plan->count; i++) {
        if (interrupt_pending())
            return error_set(err, STATUS_INTERRUPTED, EINTR, "interrupted after %llu clones",
                             (unsigned long long)i);
        json_array_append_new(items, clone_one(cli, plan));
    }
    return 0;
}

static int print_clones(struct cli *cli, json_t *items, struct error *err)
{
    size_t i;
    json_t *item;

    if (cli->json)
        return output_json(items, err);
    json_array_foreach(items, i, item) if (json_is_true(json_object_get(item, "ok")))
        puts(json_string_value(json_object_get(item, "name")));
    return 0;
}

static int check_names(const struct plan *plan, struct error *err)
{
    char longest[MACHINE_NAME_MAX + 32];

    snprintf(longest, sizeof(longest), plan->numbered ? "%s-%llu" : "%s", plan->base,
             (unsigned long long)plan->count);
    if (home_name_is_valid(longest))
        return 0;
    error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be the name of a machine", longest);
    error_hint(err, "names are letters, digits, '-', '_' and '.', %d at most", MACHINE_NAME_MAX);
    return -EINVAL;
}

/* A clone takes none of its original's ports: they are taken. */
static int plan_network(const struct arguments *args, struct plan *plan, struct error *err)
{
    int r = network_settings(args, &plan->net, &plan->connected, err);
    if (r < 0)
        return r;
    if (plan->count > 1 && plan->net.mode == NET_MODE_TAP)
        return error_set(err, STATUS_USAGE, EINVAL, "%s is for one clone, not for %llu",
                         plan->net.tap, (unsigned long long)plan->count);
    if (plan->count > 1 && plan->net.forward_count > 0)
        return error_set(err, STATUS_USAGE, EINVAL, "a port leads to one clone, not to %llu",
                         (unsigned long long)plan->count);
    plan->new_mac = arguments_has(args, "new-mac");
    plan->net.has_mac = plan->new_mac;
    if (plan->connected || plan->new_mac)
        plan->start.net = &plan->net;
    return 0;
}

static int make_plan(const struct arguments *args, struct plan *plan, struct error *err)
{
    const char *wanted = arguments_operand(args, 1);

    plan->args = args;
    plan->count = arguments_number(args, "count", 1);
    plan->next = 1;
    plan->pick = wanted == NULL;
    plan->numbered = wanted == NULL || plan->count > 1;
    plan->start.clock = machines_clock(args);
    plan->start.paused = arguments_has(args, "paused");
    int r = plan_network(args, plan, err);
    if (r < 0 || (r = guest_check_identity(args, plan->count, err)) < 0)
        return r;
    if (wanted == NULL)
        names_from_reference(arguments_operand(args, 0), plan->base);
    else if (strlen(wanted) <= MACHINE_NAME_MAX)
        snprintf(plan->base, sizeof(plan->base), "%s", wanted);
    else
        return error_set(err, STATUS_USAGE, EINVAL, "'%s' is too long for a name", wanted);
    return check_names(plan, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_json_ json_t *items = json_array();
    struct plan plan = {0};

    const char *source = arguments_operand(args, 0);
    int r = make_plan(args, &plan, err);
    if (r < 0 || (r = cli_home(cli, err)) < 0 ||
        (r = network_refuse_shared_tap(&cli->home, source, plan.connected, err)) < 0 ||
        (r = find_source(cli, source, &plan.start.checkpoint, err)) < 0)
        return r;
    int stopped = clone_all(cli, &plan, items, err);
    r = print_clones(cli, items, stopped < 0 ? NULL : err);
    if (stopped < 0 || r < 0)
        return stopped < 0 ? stopped : r;
    if (plan.failures == 0)
        return 0;
    *err = plan.last;
    if (plan.failures < plan.count)
        error_set(err, STATUS_PARTLY, EIO, "%llu of %llu clones could not be made",
                  (unsigned long long)plan.failures, (unsigned long long)plan.count);
    else if (plan.count > 1)
        error_set(err, plan.last.status, EIO, "none of %llu clones could be made",
                  (unsigned long long)plan.count);
    return -EIO;
}

static const struct option_spec options[] = {
    {.name = "count",
     .letter = 'n',
     .type = OPTION_NUMBER,
     .value = "N",
     .min = 1,
     .max = CLONES_MAX,
     .help = "how many (default: 1); names then end in -1, -2, ..."},
    NETWORK_OPTIONS,
    {.name = "new-mac", .help = "give its network card an address of its own"},
    MACHINES_OPTION_CLOCK,
    MACHINES_OPTION_PAUSED,
    GUEST_OPTION_IDENTITY,
    GUEST_OPTION_HOSTNAME,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_clone = {
    .name = "clone",
    .summary = "Make new running machines from a checkpoint, image or machine",
    .usage = "clone REF [NEW] [-n N] [-p PORTS]... [--identity] [--new-mac]",
    .details = "Each goes on from the same instant, with memory and disks of its own that take "
               "space only as they change. A running machine is saved first and goes on. Prints "
               "the names; ends with exit code 3 if only some could be made. Clones have the same "
               "addresses, each in a network of its own; ports of the host lead to one only if "
               "-p says so. A tap device, too, is for one machine: whoever clones one that has "
               "it says with --net how the clone is connected. An agent in the guest reseeds its "
               "random numbers, and with --identity makes it known by another name; else the "
               "clone believes to be the original. "
               "With --new-mac each has another hardware address, for good; its "
               "driver learns of it when it is bound again: in Linux, write the device's name, "
               "like virtio2, to unbind and then to bind in /sys/bus/virtio/drivers/virtio_net.",
    .example = "stasis clone web@before test -n 3",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE},
                 {.name = "NEW", .optional = true}},
    .run = run,
};
