/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"
#include "store/usage.h"

#include <errno.h>

/* RAM by its configuration, of which a running machine uses a part. */
static uint64_t configured_memory(struct cli *cli, const struct catalogue_machine *machine,
                                  struct manifest *manifest)
{
    struct error ignored;
    const struct digest *id = machine->has_head ? &machine->head : &machine->origin;

    if (catalogue_manifest_read(cli->store, id, manifest, &ignored) < 0)
        return 0;
    return manifest->config.memory_bytes;
}

static json_t *describe(struct cli *cli, const struct catalogue_machine *machine,
                        struct manifest *manifest)
{
    struct error ignored;
    uint64_t unique = 0;
    _cleanup_json_ json_t *status = machines_status(cli, machine->name);

    store_usage_machine(cli->store, machine->name, &unique, &ignored);
    return json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o}", "name", machine->name, "state",
        machines_state(cli, machine->name, status), "created", output_time(machine->created_us),
        "memory_bytes", output_uint(configured_memory(cli, machine, manifest)), "unique_bytes",
        output_uint(unique), "head", machine->has_head ? output_id(&machine->head) : json_null());
}

static const struct output_column columns[] = {
    {"NAME", "name", OUTPUT_TEXT},
    {"STATE", "state", OUTPUT_STATE},
    {"AGE", "created", OUTPUT_AGE},
    {"MEMORY", "memory_bytes", OUTPUT_BYTES},
    {"UNIQUE", "unique_bytes", OUTPUT_BYTES},
    {"HEAD", "head", OUTPUT_ID},
    {NULL, NULL, 0},
};

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_json_ json_t *items = json_array();
    _cleanup_free_ struct manifest *manifest = malloc(sizeof(*manifest));
    struct catalogue_machine *list = NULL;
    size_t count = 0;

    (void)args;
    if (manifest == NULL)
        return error_errno(err, ENOMEM, "cannot list the machines");
    int r = cli_store(cli, err);
    if (r < 0 || (r = catalogue_machine_list(cli->store, &list, &count, err)) < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(items, describe(cli, &list[i], manifest));
    catalogue_machines_free(list, count);
    return output_items(cli, &(struct output_list){.columns = columns, .name_key = "name"}, items,
                        err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_QUIET,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_ls = {
    .name = "ls",
    .summary = "List machines",
    .usage = "ls [-q] [--json]",
    .details = "MEMORY is the RAM a machine has. UNIQUE is what removing it would free: pages "
               "that only its checkpoints refer to. HEAD is the checkpoint its present state "
               "builds on.",
    .example = "stasis ls",
    .options = options,
    .run = run,
};
