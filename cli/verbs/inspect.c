/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/machines.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "imgfmt/state.h"
#include "store/catalogue.h"
#include "store/usage.h"
#include "vmm/net/settings.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

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

static void put_usage(json_t *out, uint64_t logical_bytes, uint64_t unique_bytes)
{
    json_object_set_new(out, "logical_bytes", output_uint(logical_bytes));
    json_object_set_new(out, "unique_bytes", output_uint(unique_bytes));
    json_object_set_new(out, "shared_bytes", output_uint(logical_bytes - unique_bytes));
}

static json_t *describe_spaces(const struct manifest *m, const struct checkpoint_usage *usage)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < m->space_count; i++) {
        json_t *space =
            json_pack("{s:s, s:o, s:o}", "name", m->spaces[i].name, "bytes",
                      output_uint(m->spaces[i].size_bytes), "root", output_id(&m->spaces[i].root));
        put_usage(space, usage->spaces[i].logical_bytes, usage->spaces[i].unique_bytes);
        json_array_append_new(list, space);
    }
    return list;
}

/* What the machine of a manifest is made of; for checkpoints and machines alike. */
static void describe_hardware(const struct manifest *m, json_t *out)
{
    const struct machine_config *config = &m->config;
    char mac[MANIFEST_MAC_TEXT_SIZE];
    char name[MANIFEST_SPACE_NAME_MAX + 1];
    json_t *disks = json_array();
    json_t *nets = json_array();

    for (uint32_t i = 0; i < config->disk_count; i++) {
        snprintf(name, sizeof(name), "disk%u", i);
        const struct manifest_space *space = manifest_space_find(m, name);
        json_array_append_new(disks, json_pack("{s:s, s:o, s:b}", "name", name, "bytes",
                                               output_uint(space != NULL ? space->size_bytes : 0),
                                               "read_only", config->disks[i].read_only));
    }
    for (uint32_t i = 0; i < config->net_count; i++)
        json_array_append_new(nets, json_pack("{s:o, s:s}", "name", json_sprintf("net%u", i), "mac",
                                              manifest_mac_text(config->nets[i].mac, mac)));
    json_object_set_new(out, "config", machine_config_to_json(config));
    json_object_set_new(out, "memory_bytes", output_uint(config->memory_bytes));
    json_object_set_new(out, "vcpus", output_uint(config->vcpus));
    json_object_set_new(out, "disks", disks);
    json_object_set_new(out, "nets", nets);
}

static const struct catalogue_checkpoint *find_checkpoint(const struct catalogue_checkpoint *list,
                                                          size_t count, const struct digest *id)
{
    for (size_t i = 0; i < count; i++)
        if (digest_equal(&list[i].id, id))
            return &list[i];
    return NULL;
}

/* Where it comes from, nearest first, as far as the store knows. */
static int describe_parents(struct cli *cli, const struct digest *id, json_t *out,
                            struct error *err)
{
    struct catalogue_checkpoint *list = NULL;
    size_t count = 0;
    json_t *parents = json_array();

    json_object_set_new(out, "parents", parents);
    int r = catalogue_checkpoint_list(cli->store, NULL, &list, &count, err);
    if (r < 0)
        return r;
    const struct catalogue_checkpoint *at = find_checkpoint(list, count, id);
    for (; at != NULL && at->has_parent && json_array_size(parents) < count;
         at = find_checkpoint(list, count, &at->parent))
        json_array_append_new(parents, output_id(&at->parent));
    catalogue_checkpoints_free(list, count);
    return 0;
}

/* What a host must have for the machine to go on. */
static json_t *describe_cpu(const struct manifest *m)
{
    json_t *list = json_array();

    for (const char *text = m->cpu_features; text[0] != '\0';) {
        size_t length = strcspn(text, " ");
        json_array_append_new(list, json_stringn(text, length));
        text += length + (text[length] == ' ');
    }
    return list;
}

/* Names the catalogue has for the checkpoint: web@patched, debian:12. */
static int describe_names(struct cli *cli, const struct digest *id, json_t *out, struct error *err)
{
    struct catalogue_checkpoint *checkpoints = NULL;
    struct catalogue_image *images = NULL;
    size_t count = 0;
    json_t *names = json_array();
    json_t *tags = json_array();
    json_t *machine = json_null();

    json_object_set_new(out, "names", names);
    json_object_set_new(out, "images", tags);
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
            json_array_append_new(tags, json_sprintf("%s:%s", images[i].name, images[i].tag));
    json_array_extend(names, tags);
    catalogue_images_free(images, count);
    return 0;
}

static int inspect_checkpoint(struct cli *cli, const struct digest *id, json_t *out,
                              struct error *err)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    struct checkpoint_usage usage;

    if (m == NULL)
        return error_errno(err, ENOMEM, "cannot inspect");
    int r = catalogue_manifest_read(cli->store, id, m, err);
    if (r < 0 || (r = store_usage_checkpoint(cli->store, id, m, &usage, err)) < 0)
        return r;
    json_object_set_new(out, "type", json_string("checkpoint"));
    json_object_set_new(out, "id", output_id(id));
    json_object_set_new(out, "kind", json_string(m->kind == CHECKPOINT_WARM ? "warm" : "cold"));
    json_object_set_new(out, "created", output_time(m->created_us));
    json_object_set_new(out, "parent", m->has_parent ? output_id(&m->parent) : json_null());
    describe_hardware(m, out);
    json_object_set_new(out, "cpu_features", describe_cpu(m));
    json_object_set_new(out, "spaces", describe_spaces(m, &usage));
    put_usage(out, usage.logical_bytes, usage.unique_bytes);
    if ((r = describe_names(cli, id, out, err)) < 0 ||
        (r = describe_parents(cli, id, out, err)) < 0)
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

/* How its cards are connected: what its process says, or what the next one will. */
static int describe_net(const char *dir, const json_t *process, json_t *out, struct error *err)
{
    struct net_settings net;
    json_t *now = json_object_get(process, "net");

    if (now != NULL)
        return json_object_set(out, "net", now);
    int r = net_settings_read(dir, &net, err);
    if (r == 0)
        json_object_set_new(out, "net", net_settings_to_json(&net));
    return r;
}

/* What the disks hold beyond the head, on disk. */
static uint64_t overlay_bytes(const char *dir)
{
    _cleanup_closedir_ DIR *entries = opendir(dir);
    const struct dirent *entry;
    struct stat st;
    uint64_t sum = 0;

    while (entries != NULL && (entry = readdir(entries)) != NULL)
        if (strncmp(entry->d_name, "disk", 4) == 0 &&
            fstatat(dirfd(entries), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            sum += (uint64_t)st.st_blocks * 512;
    return sum;
}

/* By the checkpoint it builds on. */
static int describe_head(struct cli *cli, const struct catalogue_machine *machine, json_t *out,
                         struct error *err)
{
    const struct digest *id = machine->has_head ? &machine->head : &machine->origin;
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));

    if (m == NULL)
        return error_errno(err, ENOMEM, "cannot inspect");
    int r = catalogue_manifest_read(cli->store, id, m, err);
    if (r < 0)
        return r;
    describe_hardware(m, out);
    return describe_parents(cli, id, out, err);
}

/* What its process tells, stats and all; NULL if there is none or it hangs. */
static json_t *ask_process(struct cli *cli, const char *name)
{
    json_t *stats = NULL;
    struct error ignored;

    if (machine_is_running(&cli->home, name))
        machines_call(cli, name, "stats", NULL, MACHINES_STATUS_TIMEOUT_MS, &stats, &ignored);
    return stats;
}

static int inspect_machine(struct cli *cli, const struct catalogue_machine *machine, json_t *out,
                           struct error *err)
{
    uint64_t unique = 0;
    json_t *status = ask_process(cli, machine->name);
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
    json_object_set_new(out, "overlay_bytes", output_uint(overlay_bytes(dir)));
    int r = store_usage_machine(cli->store, machine->name, &unique, err);
    if (r < 0 || (r = describe_net(dir, status, out, err)) < 0 ||
        (r = describe_head(cli, machine, out, err)) < 0)
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
    .details =
        "The result is JSON with or without --json: type (machine or checkpoint), what the machine "
        "is made of (config, disks, nets, memory_bytes, vcpus), parents, and sizes: logical_bytes "
        "is what is not zero, unique_bytes what nothing else in the store has, shared_bytes the "
        "rest. Of a machine also its state, net, checkpoints, overlay_bytes (what its disks have "
        "changed since its head) and, while it runs, what its process has counted.",
    .example = "stasis inspect web@patched",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE}},
    .run = run,
};
