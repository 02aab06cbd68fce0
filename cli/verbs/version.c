/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/verbs/verbs.h"

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    (void)args;
    if (!cli->json) {
        puts("stasis " STASIS_VERSION);
        return 0;
    }
    _cleanup_json_ json_t *result = json_pack("{s:s}", "version", STASIS_VERSION);
    return output_json(result, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_version = {
    .name = "version",
    .summary = "Print the version",
    .usage = "version [--json]",
    .example = "stasis version",
    .options = options,
    .run = run,
};
