/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/verbs/verbs.h"
#include "store/gc.h"
#include "store/usage.h"

#include <errno.h>

static const struct output_column columns[] = {
    {"machines", "machine_count", OUTPUT_COUNT},
    {"checkpoints", "checkpoint_count", OUTPUT_COUNT},
    {"images", "image_count", OUTPUT_COUNT},
    {"logical", "logical_bytes", OUTPUT_BYTES},
    {"unique", "unique_bytes", OUTPUT_BYTES},
    {"stored", "stored_bytes", OUTPUT_BYTES},
    {"of it metadata", "metadata_bytes", OUTPUT_BYTES},
    {"garbage", "garbage_bytes", OUTPUT_BYTES},
    {"gc would free", "freeable_bytes", OUTPUT_BYTES},
    {"packs", "pack_count", OUTPUT_COUNT},
    {"free", "free_bytes", OUTPUT_BYTES},
    {NULL, NULL, 0},
};

/* Of a damaged store nothing would be. */
static int freeable(struct cli *cli, uint64_t *bytes_out, struct error *err)
{
    const struct gc_options options = {.dry_run = true};
    struct gc_result result;
    int r = store_gc(cli->store, &options, &result, err);

    if (r == 0)
        *bytes_out = result.freeable_bytes;
    return r == -EBADMSG ? 0 : r;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct store_usage u;
    uint64_t free_by_gc = 0;

    (void)args;
    int r = cli_store(cli, err);
    if (r < 0 || (r = store_usage_get(cli->store, &u, err)) < 0 ||
        (r = freeable(cli, &free_by_gc, err)) < 0)
        return r;
    _cleanup_json_ json_t *result = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "machine_count",
        output_uint(u.machines), "checkpoint_count", output_uint(u.checkpoints), "image_count",
        output_uint(u.images), "logical_bytes", output_uint(u.logical_bytes), "unique_bytes",
        output_uint(u.unique_bytes), "stored_bytes", output_uint(u.stored_bytes), "metadata_bytes",
        output_uint(u.metadata_bytes), "garbage_bytes", output_uint(u.garbage_bytes),
        "freeable_bytes", output_uint(free_by_gc), "pack_count", output_uint(u.packs), "free_bytes",
        output_uint(u.free_bytes));
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
    .details =
        "logical is what all checkpoints show, added up; unique counts each page once; "
        "stored is what that takes on disk, compressed; garbage are stored pages no "
        "checkpoint refers to any more, uncompressed; what stasis gc would free of that is on "
        "disk; free is left on the store's file system.",
    .example = "stasis df",
    .options = options,
    .run = run,
};
