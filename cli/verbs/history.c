/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <string.h>

/* What names there are for checkpoints, looked up once. */
struct names {
    struct catalogue_image *images;
    size_t image_count;
    struct catalogue_machine *machines;
    size_t machine_count;
};

static void names_clear(struct names *names)
{
    catalogue_images_free(names->images, names->image_count);
    catalogue_machines_free(names->machines, names->machine_count);
}

static int names_read(struct cli *cli, struct names *out, struct error *err)
{
    int r = catalogue_image_list(cli->store, &out->images, &out->image_count, err);
    if (r < 0)
        return r;
    return catalogue_machine_list(cli->store, &out->machines, &out->machine_count, err);
}

static json_t *images_of(const struct names *names, const struct digest *id)
{
    json_t *list = json_array();

    for (size_t i = 0; i < names->image_count; i++) {
        if (!digest_equal(&names->images[i].id, id))
            continue;
        _cleanup_free_ char *full = io_format("%s:%s", names->images[i].name, names->images[i].tag);
        json_array_append_new(list, json_string(full));
    }
    return list;
}

/* Machines whose present state builds on it. */
static json_t *heads_of(const struct names *names, const struct digest *id)
{
    json_t *list = json_array();

    for (size_t i = 0; i < names->machine_count; i++)
        if (names->machines[i].has_head && digest_equal(&names->machines[i].head, id))
            json_array_append_new(list, json_string(names->machines[i].name));
    return list;
}

/* What a person would call it: web@patched, debian:12, or the first digits. */
static json_t *label_of(const struct catalogue_checkpoint *c, const json_t *images)
{
    char hex[DIGEST_HEX_SIZE];

    if (c->machine != NULL && c->name != NULL)
        return json_sprintf("%s@%s", c->machine, c->name);
    if (json_array_size(images) > 0)
        return json_string(json_string_value(json_array_get(images, 0)));
    digest_hex(&c->id, hex);
    if (c->machine != NULL)
        return json_sprintf("%s (%.*s)", c->machine, OUTPUT_SHORT_ID, hex);
    return json_sprintf("%.*s", OUTPUT_SHORT_ID, hex);
}

/* What another verb takes for it. */
static json_t *reference_of(const struct catalogue_checkpoint *c)
{
    if (c->machine != NULL && c->name != NULL)
        return json_sprintf("%s@%s", c->machine, c->name);
    return output_id(&c->id);
}

static json_t *describe(const struct names *names, const struct catalogue_checkpoint *c)
{
    json_t *images = images_of(names, &c->id);
    json_t *label = label_of(c, images);

    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o}", "label", label,
                     "reference", reference_of(c), "id", output_id(&c->id), "machine",
                     output_text_or_null(c->machine), "name", output_text_or_null(c->name),
                     "created", output_time(c->created_us), "parent",
                     c->has_parent ? output_id(&c->parent) : json_null(), "kind",
                     c->kind == CHECKPOINT_WARM ? "warm" : "cold", "memory_bytes",
                     output_uint(c->memory_bytes), "disk_bytes", output_uint(c->disk_bytes),
                     "images", images, "heads", heads_of(names, &c->id));
}

static const struct output_column columns[] = {
    {"CHECKPOINT", "label", OUTPUT_TEXT},
    {"ID", "id", OUTPUT_ID},
    {"KIND", "kind", OUTPUT_TEXT},
    {"AGE", "created", OUTPUT_AGE},
    {"MEMORY", "memory_bytes", OUTPUT_BYTES},
    {"DISKS", "disk_bytes", OUTPUT_BYTES},
    {"HEAD OF", "heads", OUTPUT_LIST},
    {NULL, NULL, 0},
};

static const struct output_list list_format = {
    .columns = columns,
    .name_key = "reference",
    .tree_id = "id",
    .tree_above = "parent",
};

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_json_ json_t *items = json_array();
    _cleanup_(names_clear) struct names names = {0};
    struct catalogue_checkpoint *list = NULL;
    size_t count = 0;
    const char *machine = arguments_operand(args, 0);

    int r = machine != NULL ? machines_require(cli, machine, err) : cli_store(cli, err);
    if (r < 0 || (r = names_read(cli, &names, err)) < 0 ||
        (r = catalogue_checkpoint_list(cli->store, machine, &list, &count, err)) < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(items, describe(&names, &list[i]));
    catalogue_checkpoints_free(list, count);
    return output_items(cli, &list_format, items, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_QUIET,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_history = {
    .name = "history",
    .summary = "Show checkpoints as a tree, by where they came from",
    .usage = "history [MACHINE] [-q] [--json]",
    .details = "Of one machine, or of the whole store. HEAD OF names the machines whose present "
               "state builds on a checkpoint.",
    .example = "stasis history",
    .options = options,
    .operands = {{.name = "MACHINE", .optional = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
