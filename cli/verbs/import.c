/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/cold.h"
#include "cli/reference.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>

/* Says so before anything is read, not after. */
static int check_free(struct cli *cli, const struct image_reference *image, struct error *err)
{
    struct digest there;

    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    r = catalogue_image_get(cli->store, image->name, image->tag, &there, err);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    error_set(err, STATUS_EXISTS, EEXIST, "there is an image %s:%s already", image->name,
              image->tag);
    error_hint(err, "choose another tag, or give --replace to move this one");
    return -EEXIST;
}

static int report(struct cli *cli, const struct image_reference *image, const struct digest *id,
                  const struct ingest_stats *stats, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    char size[TEXT_SIZE];

    if (cli->json) {
        _cleanup_json_ json_t *result = json_pack(
            "{s:s, s:s, s:o, s:o, s:o, s:o}", "name", image->name, "tag", image->tag, "id",
            output_id(id), "pages", output_uint(stats->pages), "pages_new",
            output_uint(stats->pages_new), "stored_bytes", output_uint(stats->stored_bytes));
        return output_json(result, err);
    }
    if (cli->quiet) {
        printf("%s:%s\n", image->name, image->tag);
        return 0;
    }
    puts(digest_hex(id, hex));
    cli_note(cli, "%s:%s: %llu pages, %llu of them new, %s written", image->name, image->tag,
             (unsigned long long)stats->pages, (unsigned long long)stats->pages_new,
             text_bytes(stats->stored_bytes, size));
    return 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(image_reference_clear) struct image_reference image = {0};
    struct cold_request request;
    struct ingest_stats stats = {0};
    struct digest id;

    int r = cold_request_from(args, &request, err);
    if (r < 0 || (r = image_reference_parse(arguments_operand(args, 0), &image, err)) < 0)
        return r;
    request.image = image.name;
    request.tag = image.tag;
    request.replace_tag = arguments_has(args, "replace");
    if (!request.replace_tag && (r = check_free(cli, &image, err)) < 0)
        return r;
    r = cold_ingest(cli, &request, &id, &stats, err);
    return r < 0 ? r : report(cli, &image, &id, &stats, err);
}

static const struct option_spec options[] = {
    COLD_OPTIONS_FILES,
    COLD_OPTIONS_SIZE,
    {.name = "replace", .help = "move the tag if there is such an image"},
    COMMAND_OPTION_QUIET,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_import = {
    .name = "import",
    .summary = "Make a cold image from a kernel and disk files",
    .usage = "import IMAGE --kernel FILE [--initrd FILE] [--disk FILE]...",
    .details = "Kernel, initial RAM disk and disks are copied into the store, where pages that "
               "are there already take no space. Prints the id of the checkpoint made. The files "
               "are not needed afterwards.",
    .example = "stasis import debian:12 --kernel vmlinuz --initrd initrd.img --disk root.raw",
    .options = options,
    .operands = {{.name = "IMAGE", .completion = COMPLETE_IMAGE}},
    .run = run,
};
