/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/stream.h"

#include <errno.h>
#include <unistd.h>

static int report(struct cli *cli, const struct stream_result *received, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];

    if (!cli->json) {
        puts(digest_hex(&received->checkpoint, hex));
        return 0;
    }
    _cleanup_json_ json_t *result =
        json_pack("{s:o, s:o, s:o}", "id", output_id(&received->checkpoint), "bytes",
                  output_uint(received->bytes), "pages", output_uint(received->pages));
    return output_json(result, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(image_reference_clear) struct image_reference image = {0};
    const char *name = arguments_operand(args, 0);
    struct progress progress;
    struct stream_result result = {0};
    int r;

    if (isatty(STDIN_FILENO) == 1) {
        error_set(err, STATUS_USAGE, EINVAL, "receive reads a stream, not the terminal");
        error_hint(err, "feed it: stasis send REF | stasis --home OTHER receive");
        return -EINVAL;
    }
    if (name != NULL && (r = image_reference_parse(name, &image, err)) < 0)
        return r;
    if ((r = cli_store(cli, err)) < 0)
        return r;
    progress_begin(&progress, "receiving", 0);
    r = stream_receive(cli->store, STDIN_FILENO, image.name, image.tag,
                       arguments_has(args, "replace"), progress_pages, &progress, &result, err);
    progress_end(&progress);
    return r < 0 ? r : report(cli, &result, err);
}

static const struct option_spec options[] = {
    {.name = "replace", .help = "move the tag if there is such an image"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_receive = {
    .name = "receive",
    .summary = "Read a checkpoint from standard input",
    .usage = "receive [IMAGE] [--replace] [--json]",
    .details = "Prints its id; with IMAGE it also gets that name. Everything is checked, and "
               "nothing of it is visible before all of it has come.",
    .example = "stasis receive web:patched < web.stream",
    .options = options,
    .operands = {{.name = "IMAGE", .optional = true, .completion = COMPLETE_IMAGE}},
    .run = run,
};
