/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/reference.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "registry/registry.h"

#include <errno.h>

static int report(struct cli *cli, const struct registry_result *pulled, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    char got[TEXT_SIZE];
    char total[TEXT_SIZE];

    if (!cli->json) {
        puts(digest_hex(&pulled->checkpoint, hex));
        cli_note(cli, "%s of %s fetched", text_bytes(pulled->transferred_bytes, got),
                 text_bytes(pulled->total_bytes, total));
        return 0;
    }
    _cleanup_json_ json_t *result =
        json_pack("{s:o, s:o, s:o, s:o}", "id", output_id(&pulled->checkpoint), "digest",
                  json_sprintf("sha256:%s", digest_hex(&pulled->manifest, hex)), "bytes",
                  output_uint(pulled->total_bytes), "transferred_bytes",
                  output_uint(pulled->transferred_bytes));
    return output_json(result, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(image_reference_clear) struct image_reference image = {0};
    const char *source = arguments_operand(args, 0);
    const char *name = arguments_operand(args, 1);
    struct registry_result result = {0};
    struct progress progress;
    int r;

    if (!registry_is_reference(source)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' is neither a registry nor a layout", source);
        error_hint(err, "write HOST[:PORT]/REPO[:TAG] or oci:DIR[:TAG]");
        return -EINVAL;
    }
    if ((name != NULL && (r = image_reference_parse(name, &image, err)) < 0) ||
        (r = cli_store(cli, err)) < 0)
        return r;
    progress_begin(&progress, "pulling", 0);
    const struct registry_options options = {
        .progress = progress_what,
        .context = &progress,
        .plain_http = arguments_has(args, "plain-http"),
        .replace_tag = arguments_has(args, "replace"),
    };
    r = registry_pull(cli->store, source, image.name, image.tag, &options, &result, err);
    progress_end(&progress);
    if (r == -EEXIST && err->hint[0] == '\0')
        error_hint(err, "choose another name, or give --replace to move this one");
    return r < 0 ? r : report(cli, &result, err);
}

static const struct option_spec options[] = {
    {.name = "plain-http", .help = "speak HTTP, not HTTPS (always so on localhost)"},
    {.name = "replace", .help = "move the tag if IMAGE is there"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_pull = {
    .name = "pull",
    .summary = "Download a checkpoint from an OCI registry",
    .usage = "pull HOST[:PORT]/REPO[:TAG] [IMAGE] [--replace]\n"
             "pull oci:DIR[:TAG] [IMAGE] [--replace]",
    .details = "It becomes an image: IMAGE, or one named after the source. Pulling a source again "
               "moves the tag that is named after it; an IMAGE that is something else already "
               "stays, unless --replace is given. Everything is checked from the OCI manifest "
               "down, and nothing of it is visible before all of it has come. Prints the id of "
               "the checkpoint.",
    .example = "stasis pull oci:layout:web web:2",
    .options = options,
    .operands = {{.name = "SOURCE"},
                 {.name = "IMAGE", .optional = true, .completion = COMPLETE_IMAGE}},
    .run = run,
};
