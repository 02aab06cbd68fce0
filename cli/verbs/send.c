/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/reference.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/stream.h"

#include <errno.h>
#include <unistd.h>

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct progress progress;
    struct stream_result result = {0};
    struct digest id;
    char size[TEXT_SIZE];

    if (isatty(STDOUT_FILENO) == 1) {
        error_set(err, STATUS_USAGE, EINVAL, "a terminal cannot take a checkpoint");
        error_hint(err, "send it somewhere: stasis send %s | ssh HOST stasis receive",
                   arguments_operand(args, 0));
        return -EINVAL;
    }
    int r = reference_resolve(cli, arguments_operand(args, 0), &id, err);
    if (r < 0)
        return r;
    progress_begin(&progress, "sending", 0);
    r = stream_send(cli->store, &id, STDOUT_FILENO, progress_pages, &progress, &result, err);
    progress_end(&progress);
    if (r < 0)
        return r;
    if (isatty(STDERR_FILENO) == 1)
        cli_note(cli, "%llu pages sent in %s", (unsigned long long)result.pages,
                 text_bytes(result.bytes, size));
    return 0;
}

static const struct option_spec options[] = {
    {0},
};

const struct command command_send = {
    .name = "send",
    .summary = "Write a whole checkpoint to standard output",
    .usage = "send REF",
    .details = "The stream has all that is needed to restore it elsewhere; stasis receive reads "
               "it. Any pipe will do: ssh, a file, nc.",
    .example = "stasis send web@patched | ssh other.example stasis receive web:patched",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE}},
    .run = run,
};
