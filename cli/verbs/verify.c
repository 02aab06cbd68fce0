/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/usage.h"

#include <errno.h>

struct context {
    struct progress progress; /* first: the callbacks of progress.h take a struct progress */
    json_t *findings;
};

static int on_progress(uint64_t done, uint64_t total, void *context)
{
    struct context *c = context;

    return progress_bytes_of(done, total, &c->progress);
}

static void on_finding(const struct verify_finding *finding, void *context)
{
    struct context *c = context;
    json_t *checkpoints = json_array();

    for (size_t i = 0; i < finding->checkpoint_count; i++)
        json_array_append_new(checkpoints, output_id(&finding->checkpoints[i]));
    json_array_append_new(c->findings,
                          json_pack("{s:o, s:o, s:o, s:o}", "file", output_text(finding->file),
                                    "offset_bytes", output_uint(finding->offset), "what",
                                    output_text(finding->what), "checkpoints", checkpoints));
}

static void print_findings(const json_t *findings)
{
    size_t i;
    size_t j;
    json_t *finding;
    json_t *id;

    json_array_foreach(findings, i, finding)
    {
        printf("%s, byte %" JSON_INTEGER_FORMAT ": %s\n",
               json_string_value(json_object_get(finding, "file")),
               json_integer_value(json_object_get(finding, "offset_bytes")),
               json_string_value(json_object_get(finding, "what")));
        json_array_foreach(json_object_get(finding, "checkpoints"), j, id)
            printf("  hits checkpoint %.*s\n", OUTPUT_SHORT_ID, json_string_value(id));
    }
}

static int report(struct cli *cli, const struct verify_result *v, json_t *findings,
                  struct error *err)
{
    char size[TEXT_SIZE];
    _cleanup_json_ json_t *result = json_pack(
        "{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:O}", "ok", v->findings == 0, "pack_count",
        output_uint(v->packs), "group_count", output_uint(v->groups), "page_count",
        output_uint(v->pages), "node_count", output_uint(v->nodes), "checkpoint_count",
        output_uint(v->checkpoints), "bytes", output_uint(v->bytes), "findings", findings);

    if (cli->json)
        return output_json(result, err);
    print_findings(findings);
    printf("%s: %llu checkpoints, %llu pages, %llu packs, %s read\n",
           v->findings == 0 ? "all is well" : "damaged", (unsigned long long)v->checkpoints,
           (unsigned long long)v->pages, (unsigned long long)v->packs, text_bytes(v->bytes, size));
    return 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_json_ json_t *findings = json_array();
    struct context context = {.findings = findings};
    struct verify_result result = {0};

    (void)args;
    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    progress_begin(&context.progress, "verifying", 0);
    const struct verify_options options = {
        .finding = on_finding,
        .progress = on_progress,
        .context = &context,
    };
    r = store_verify(cli->store, &options, &result, err);
    progress_end(&context.progress);
    if (r < 0 || (r = report(cli, &result, findings, err)) < 0)
        return r;
    if (result.findings == 0)
        return 0;
    error_corrupt(err, "the store is damaged in %llu place%s", (unsigned long long)result.findings,
                  result.findings == 1 ? "" : "s");
    error_hint(err, "checkpoints that are not named are whole; fetch the others again (pull, "
                    "receive) or remove them");
    return -EBADMSG;
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_verify = {
    .name = "verify",
    .summary = "Read the whole store again and check every byte",
    .usage = "verify [--json]",
    .details = "Every group of every pack is checked against its checksum, its SHA-256 and the "
               "keys of its pages, every map down to its pages, every manifest against its id. "
               "Ends with exit code 13 if anything is wrong, and says which checkpoints it hits.",
    .example = "stasis verify",
    .options = options,
    .run = run,
};
