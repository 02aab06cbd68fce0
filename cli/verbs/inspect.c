/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/machines.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "imgfmt/state.h"
#include "store/catalogue.h"
#include "store/usage.h"

#include <errno.h>
#include <string.h>

/* ---- checkpoints ---- */

static int add_record(const struct state_record *record, void *context)
{
    json_t *list = context;

    return json_array_append_new(
        list, json_pack("{s:s, s:i, s:i, s:o}", "what", state_type_name(record->type), "instance",
                        (int)record->instance, "version", (int)record->version, "bytes",
                        output_uint(record->length)));
}

/* The records of the device state; their contents are for the machine alone. */
static int describe_state(struct cli *cli, const struct manifest *m, json_t *out, struct error *err)
{
    _cleanup_free_ void *data = NULL;
    size_t length = 0;
    json_t *list = json_array();

    json_object_set_new(out, "device_state", list);
    if (!m->has_state)
        return 0;
    int r = store_blob_read(cli->store, &m->state, &data, &length, err);
    if (r < 0 || (r = state_check(data, length, err)) < 0)
        return r;
    return state_each(data, length, add_record, list);
}

static json_t *describe_spaces(const struct manifest *m)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < m->space_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:o}", "name", m->spaces[i].name, "bytes",
                                              output_uint(m->spaces[i].size_bytes), "root",
                                              output_id(&m->spaces[i].root)));
    return list;
}

/* Names the catalogue has for the checkpoint: web@patched, debian:12. */
static int describe_names(struct cli *cli, const struct digest *id, json_t *out, struct error *err)
{
    struct catalogue_checkpoint *checkpoints = NULL;
    struct catalogue_image *images = NULL;
    size_t count = 0;
    json_t *names = json_array();
    json_t *machine = json_null();

    json_object_set_new(out, "names", names);
    int r = catalogue_checkpoint_list(cli->store, NULL, &checkpoints, &count, err);
    for (size_t i = 0; r >= 0 && i < count; i++) {
        if (!digest_equal(&checkpoints[i].id, id) || checkpoints[i].machine == NULL)
            continue;
        machine = json_string(checkpoints[i].machine);
        if (checkpoints[i].name != NULL)
            json_array_append_new(
                names, json_sprintf("%s@%s", checkpoints[i].machine, checkpoints[i].name));
    }
    json_object_set_new(out, "machine", machine);
    catalogue_checkpoints_free(checkpoints, count);
    if (r < 0 || (r = catalogue_image_list(cli->store, &images, &count, err)) < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        if (digest_equal(&images[i].id, id))
            json_array_append_new(names, json_sprintf("%s:%s", images[i].name, images[i].tag));
    catalogue_images_free(images, count);
    return 0;
}

static int inspect_checkpoint(struct cli *cli, const struct digest *id, json_t *out,
                              struct error *err)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));

    if (m == NULL)
        return error_errno(err, ENOMEM, "cannot inspect");
    int r = catalogue_manifest_read(cli->store, id, m, err);
    if (r < 0)
        return r;
    json_object_set_new(out, "type", json_string("checkpoint"));
    json_object_set_new(out, "id", output_id(id));
    json_object_set_new(out, "kind", json_string(m->kind == CHECKPOINT_WARM ? "warm" : "cold"));
    json_object_set_new(out, "created", output_time(m->created_us));
    json_object_set_new(out, "parent", m->has_parent ? output_id(&m->parent) : json_null());
    json_object_set_new(out, "config", machine_config_to_json(&m->config));
    json_object_set_new(out, "spaces", describe_spaces(m));
    if ((r = describe_names(cli, id, out, err)) < 0)
        return r;
    return describe_state(cli, m, out, err);
}

/* ---- machines ---- */

static int describe_checkpoints(struct cli *cli, const char *name, json_t *out, struct error *err)
{
    struct catalogue_checkpoint *list = NULL;
    size_t count = 0;
    json_t *items = json_array();

    json_object_set_new(out, "checkpoints", items);
    int r = catalogue_checkpoint_list(cli->store, name, &list, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(items, json_pack("{s:o, s:o, s:o}", "id", output_id(&list[i].id),
                                               "name", output_text_or_null(list[i].name), "created",
                                               output_time(list[i].created_us)));
    catalogue_checkpoints_free(list, count);
    return 0;
}

static int inspect_machine(struct cli *cli, const struct catalogue_machine *machine, json_t *out,
                           struct error *err)
{
    uint64_t unique = 0;
    json_t *status = machines_status(cli, machine->name);
    _cleanup_free_ char *dir = home_machine_dir(&cli->home, machine->name);
    _cleanup_free_ char *socket = home_machine_socket(&cli->home, machine->name);

    json_object_set_new(out, "type", json_string("machine"));
    json_object_set_new(out, "name", json_string(machine->name));
    json_object_set_new(out, "state", json_string(machines_state(cli, machine->name, status)));
    json_t *pid = json_object_get(status, "pid");
    json_object_set(out, "pid", json_is_integer(pid) ? pid : json_null());
    json_object_set_new(out, "process", status != NULL ? status : json_null());
    json_object_set_new(out, "created", output_time(machine->created_us));
    json_object_set_new(out, "origin", output_id(&machine->origin));
    json_object_set_new(out, "head", machine->has_head ? output_id(&machine->head) : json_null());
    json_object_set_new(out, "directory", output_text(dir));
    json_object_set_new(out, "socket", output_text(socket));
    int r = store_usage_machine(cli->store, machine->name, &unique, err);
    if (r < 0)
        return r;
    json_object_set_new(out, "unique_bytes", output_uint(unique));
    return describe_checkpoints(cli, machine->name, out, err);
}

/* 1 if it was a machine. */
static int try_machine(struct cli *cli, const char *name, json_t *out, struct error *err)
{
    struct catalogue_machine *machine = NULL;

    if (!home_name_is_valid(name))
        return 0;
    int r = catalogue_machine_get(cli->store, name, &machine, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = inspect_machine(cli, machine, out, err);
    catalogue_machines_free(machine, 1);
    return r < 0 ? r : 1;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *reference = arguments_operand(args, 0);
    _cleanup_json_ json_t *out = json_object();
    struct digest id;

    int r = cli_store(cli, err);
    if (r < 0 || (r = try_machine(cli, reference, out, err)) < 0)
        return r;
    if (r == 0) {
        r = reference_resolve(cli, reference, &id, err);
        if (r < 0 || (r = inspect_checkpoint(cli, &id, out, err)) < 0)
            return r;
    }
    return output_json(out, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_inspect = {
    .name = "inspect",
    .summary = "Print everything known about a machine or checkpoint as JSON",
    .usage = "inspect REF",
    .details = "The result is JSON with or without --json.",
    .example = "stasis inspect web@patched",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE}},
    .run = run,
};
