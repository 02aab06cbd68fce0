/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(image_reference_clear) struct image_reference image = {0};
    struct digest id;

    int r = image_reference_parse(arguments_operand(args, 1), &image, err);
    if (r < 0 || (r = reference_resolve(cli, arguments_operand(args, 0), &id, err)) < 0)
        return r;
    r = catalogue_image_set(cli->store, image.name, image.tag, &id, arguments_has(args, "replace"),
                            err);
    if (r == -EEXIST && err->hint[0] == '\0')
        error_hint(err, "choose another tag, or give --replace to move this one");
    if (r < 0 || !cli->json)
        return r;
    _cleanup_json_ json_t *result =
        json_pack("{s:s, s:s, s:o}", "name", image.name, "tag", image.tag, "id", output_id(&id));
    return output_json(result, err);
}

static const struct option_spec options[] = {
    {.name = "replace", .help = "move the tag if there is such an image"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_tag = {
    .name = "tag",
    .summary = "Name a checkpoint as an image",
    .usage = "tag REF IMAGE",
    .details = "Nothing is copied. Without a tag in it, IMAGE gets the tag latest.",
    .example = "stasis tag web@patched web:2",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE},
                 {.name = "IMAGE", .completion = COMPLETE_IMAGE}},
    .run = run,
};
