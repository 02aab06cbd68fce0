/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/verbs/verbs.h"
#include "store/usage.h"

static const struct output_column columns[] = {
    {"machines", "machine_count", OUTPUT_COUNT},
    {"checkpoints", "checkpoint_count", OUTPUT_COUNT},
    {"images", "image_count", OUTPUT_COUNT},
    {"logical", "logical_bytes", OUTPUT_BYTES},
    {"unique", "unique_bytes", OUTPUT_BYTES},
    {"stored", "stored_bytes", OUTPUT_BYTES},
    {"of it metadata", "metadata_bytes", OUTPUT_BYTES},
    {"garbage", "garbage_bytes", OUTPUT_BYTES},
    {"packs", "pack_count", OUTPUT_COUNT},
    {"free", "free_bytes", OUTPUT_BYTES},
    {NULL, NULL, 0},
};

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct store_usage u;

    (void)args;
    int r = cli_store(cli, err);
    if (r < 0 || (r = store_usage_get(cli->store, &u, err)) < 0)
        return r;
    _cleanup_json_ json_t *result = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "machine_count",
        output_uint(u.machines), "checkpoint_count", output_uint(u.checkpoints), "image_count",
        output_uint(u.images), "logical_bytes", output_uint(u.logical_bytes), "unique_bytes",
        output_uint(u.unique_bytes), "stored_bytes", output_uint(u.stored_bytes), "metadata_bytes",
        output_uint(u.metadata_bytes), "garbage_bytes", output_uint(u.garbage_bytes), "pack_count",
        output_uint(u.packs), "free_bytes", output_uint(u.free_bytes));
    return output_object(cli, columns, result, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_df = {
    .name = "df",
    .summary = "Show what the store holds and what it costs",
    .usage = "df [--json]",
    .details = "logical is what all checkpoints show, added up; unique counts each page once; "
               "stored is what that takes on disk, compressed; garbage are stored pages no "
               "checkpoint refers to any more; free is left on the store's file system.",
    .example = "stasis df",
    .options = options,
    .run = run,
};
