/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <string.h>

static uint64_t disk_bytes(const struct manifest *manifest)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < manifest->space_count; i++)
        if (strncmp(manifest->spaces[i].name, "disk", 4) == 0)
            sum += manifest->spaces[i].size_bytes;
    return sum;
}

/* An image whose manifest cannot be read is listed too, without what it says:
 * the list must not hide it. */
static json_t *describe(struct cli *cli, const struct catalogue_image *image,
                        struct manifest *manifest)
{
    struct error ignored;
    _cleanup_free_ char *full = io_format("%s:%s", image->name, image->tag);
    json_t *item = json_pack("{s:s, s:s, s:s, s:o, s:o}", "image", full, "name", image->name, "tag",
                             image->tag, "id", output_id(&image->id), "created",
                             output_time(image->created_us));

    const bool good = catalogue_manifest_read(cli->store, &image->id, manifest, &ignored) >= 0;
    const bool warm = good && manifest->kind == CHECKPOINT_WARM;
    json_object_set_new(item, "kind", json_string(!good ? "damaged" : warm ? "warm" : "cold"));
    json_object_set_new(item, "memory_bytes",
                        output_uint(good ? manifest->config.memory_bytes : 0));
    json_object_set_new(item, "disk_bytes", output_uint(good ? disk_bytes(manifest) : 0));
    return item;
}

static const struct output_column columns[] = {
    {"IMAGE", "image", OUTPUT_TEXT},
    {"ID", "id", OUTPUT_ID},
    {"KIND", "kind", OUTPUT_TEXT},
    {"AGE", "created", OUTPUT_AGE},
    {"MEMORY", "memory_bytes", OUTPUT_BYTES},
    {"DISKS", "disk_bytes", OUTPUT_BYTES},
    {NULL, NULL, 0},
};

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_json_ json_t *items = json_array();
    _cleanup_free_ struct manifest *manifest = malloc(sizeof(*manifest));
    struct catalogue_image *list = NULL;
    size_t count = 0;

    (void)args;
    if (manifest == NULL)
        return error_errno(err, ENOMEM, "cannot list the images");
    int r = cli_store(cli, err);
    if (r < 0 || (r = catalogue_image_list(cli->store, &list, &count, err)) < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(items, describe(cli, &list[i], manifest));
    catalogue_images_free(list, count);
    return output_items(cli, &(struct output_list){.columns = columns, .name_key = "image"}, items,
                        err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_QUIET,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_images = {
    .name = "images",
    .summary = "List images",
    .usage = "images [-q] [--json]",
    .details = "A cold image boots; a warm one goes on where it was saved.",
    .example = "stasis images",
    .options = options,
    .run = run,
};
