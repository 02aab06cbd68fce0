/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>

static int untag(struct cli *cli, const char *name, void *context, struct error *err)
{
    _cleanup_(image_reference_clear) struct image_reference image = {0};

    (void)context;
    int r = image_reference_parse(name, &image, err);
    if (r < 0)
        return r;
    r = catalogue_image_remove(cli->store, image.name, image.tag, err);
    if (r == -ENOENT)
        error_hint(err, "stasis images lists the images");
    return r;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    int r = cli_store(cli, err);
    return r < 0 ? r : cli_each_operand(cli, args, untag, NULL, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_untag = {
    .name = "untag",
    .summary = "Remove the names of images",
    .usage = "untag IMAGE...",
    .details = "Only the name goes: the checkpoint stays, and so do machines made from it.",
    .example = "stasis untag web:2",
    .options = options,
    .operands = {{.name = "IMAGE", .repeats = true, .completion = COMPLETE_IMAGE}},
    .run = run,
};
