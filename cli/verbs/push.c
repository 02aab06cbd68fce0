/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/reference.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "registry/registry.h"

#include <errno.h>

static int report(struct cli *cli, const struct registry_result *pushed, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    char sent[TEXT_SIZE];
    char total[TEXT_SIZE];

    if (!cli->json) {
        printf("sha256:%s\n", digest_hex(&pushed->manifest, hex));
        cli_note(cli, "%s of %s sent", text_bytes(pushed->transferred_bytes, sent),
                 text_bytes(pushed->total_bytes, total));
        return 0;
    }
    _cleanup_json_ json_t *result =
        json_pack("{s:o, s:o, s:o, s:o}", "id", output_id(&pushed->checkpoint), "digest",
                  json_sprintf("sha256:%s", digest_hex(&pushed->manifest, hex)), "bytes",
                  output_uint(pushed->total_bytes), "transferred_bytes",
                  output_uint(pushed->transferred_bytes));
    return output_json(result, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *dest = arguments_operand(args, 1);
    struct registry_result result = {0};
    struct progress progress;
    struct digest id;

    if (!registry_is_reference(dest)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' is neither a registry nor a layout", dest);
        error_hint(err, "write HOST[:PORT]/REPO[:TAG] or oci:DIR[:TAG]");
        return -EINVAL;
    }
    int r = reference_resolve(cli, arguments_operand(args, 0), &id, err);
    if (r < 0)
        return r;
    progress_begin(&progress, "pushing", 0);
    const struct registry_options options = {
        .progress = progress_what,
        .context = &progress,
        .plain_http = arguments_has(args, "plain-http"),
    };
    r = registry_push(cli->store, &id, dest, &options, &result, err);
    progress_end(&progress);
    return r < 0 ? r : report(cli, &result, err);
}

static const struct option_spec options[] = {
    {.name = "plain-http", .help = "speak HTTP, not HTTPS (always so on localhost)"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_push = {
    .name = "push",
    .summary = "Upload a checkpoint to an OCI registry",
    .usage = "push REF HOST[:PORT]/REPO[:TAG]\npush REF oci:DIR[:TAG]",
    .details = "What the registry has already is not sent again. oci:DIR is an OCI image layout: "
               "a registry without a server. Prints the digest of the OCI manifest.",
    .example = "stasis push web:2 oci:layout:web",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE},
                 {.name = "DEST", .completion = COMPLETE_NOTHING}},
    .run = run,
};
