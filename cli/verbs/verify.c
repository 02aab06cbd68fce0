/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "cli/machines.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/usage.h"

#include <errno.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* More than one to mend from is rare. */
enum { SOURCES_MAX = 8 };

struct context {
    struct progress progress; /* first: the callbacks of progress.h take a struct progress */
    json_t *findings;
};

struct machine_source {
    struct cli *cli;
    const char *name;
};

struct sources {
    struct store *stores[SOURCES_MAX];
    size_t store_count;
    struct machine_source machines[SOURCES_MAX];
    struct page_source pages[SOURCES_MAX];
    size_t machine_count;
};

static const char *state_text(enum verify_state state)
{
    switch (state) {
    case VERIFY_MENDABLE:
        return "mendable";
    case VERIFY_MENDED:
        return "mended";
    default:
        return "lost";
    }
}

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
                          json_pack("{s:o, s:o, s:o, s:s, s:o}", "file", output_text(finding->file),
                                    "offset_bytes", output_uint(finding->offset), "what",
                                    output_text(finding->what), "state", state_text(finding->state),
                                    "checkpoints", checkpoints));
}

static void print_findings(const json_t *findings)
{
    size_t i;
    size_t j;
    json_t *finding;
    json_t *id;

    json_array_foreach(findings, i, finding)
    {
        printf("%s, byte %" JSON_INTEGER_FORMAT ": %s (%s)\n",
               json_string_value(json_object_get(finding, "file")),
               json_integer_value(json_object_get(finding, "offset_bytes")),
               json_string_value(json_object_get(finding, "what")),
               json_string_value(json_object_get(finding, "state")));
        json_array_foreach(json_object_get(finding, "checkpoints"), j, id)
            printf("  hits checkpoint %.*s\n", OUTPUT_SHORT_ID, json_string_value(id));
    }
}

static int report(struct cli *cli, const struct verify_result *v, json_t *findings,
                  struct error *err)
{
    const char *how = v->findings == 0           ? "all is well"
                      : v->findings == v->mended ? "all is mended"
                                                 : "damaged";
    char size[TEXT_SIZE];
    _cleanup_json_ json_t *result = json_pack(
        "{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:O}", "ok", v->findings == v->mended,
        "pack_count", output_uint(v->packs), "skipped_pack_count", output_uint(v->packs_skipped),
        "group_count", output_uint(v->groups), "page_count", output_uint(v->pages), "node_count",
        output_uint(v->nodes), "checkpoint_count", output_uint(v->checkpoints), "mended_count",
        output_uint(v->mended), "bytes", output_uint(v->bytes), "findings", findings);

    if (cli->json)
        return output_json(result, err);
    print_findings(findings);
    printf("%s: %llu checkpoints, %llu pages, %llu packs, %s read\n", how,
           (unsigned long long)v->checkpoints, (unsigned long long)v->pages,
           (unsigned long long)v->packs, text_bytes(v->bytes, size));
    if (v->packs_skipped != 0)
        printf("%llu packs left out: found good before\n", (unsigned long long)v->packs_skipped);
    return 0;
}

/* What the user can do about what is left. */
static int conclude(const struct verify_result *v, bool repair, struct error *err)
{
    uint64_t left = v->findings - v->mended;

    if (left == 0)
        return 0;
    error_corrupt(err, "the store is damaged in %llu place%s", (unsigned long long)left,
                  left == 1 ? "" : "s");
    if (v->mendable != 0 && !repair)
        error_hint(err, "'stasis repair' can mend %llu of them", (unsigned long long)v->mendable);
    else if (v->mendable != 0)
        error_hint(err, "the findings say why %llu of them could not be written",
                   (unsigned long long)v->mendable);
    else
        error_hint(
            err,
            "checkpoints that are not named are whole; for the others: 'stasis repair "
            "--from' another store or a running machine, or fetch (pull, receive) or remove them");
    return -EBADMSG;
}

static int verify(struct cli *cli, const struct verify_options *chosen, struct error *err)
{
    _cleanup_json_ json_t *findings = json_array();
    struct context context = {.findings = findings};
    struct verify_options options = *chosen;
    struct verify_result result = {0};

    progress_begin(&context.progress, options.repair ? "repairing" : "verifying", 0);
    options.finding = on_finding;
    options.progress = on_progress;
    options.context = &context;
    int r = store_verify(cli->store, &options, &result, err);
    progress_end(&context.progress);
    if (r < 0 || (r = report(cli, &result, findings, err)) < 0)
        return r;
    return conclude(&result, options.repair, err);
}

static int run_verify(struct cli *cli, const struct arguments *args, struct error *err)
{
    const struct verify_options options = {
        .bytes_per_second = arguments_number(args, "rate", 0),
        .max_age_us = arguments_number(args, "max-age", 0) * 1000,
        .again = arguments_has(args, "again"),
    };
    int r = cli_store(cli, err);

    if (r == 0 && arguments_has(args, "rebuild-index"))
        r = store_index_rebuild(cli->store, err);
    return r < 0 ? r : verify(cli, &options, err);
}

/* ---- running machines as sources ---- */

/* As many keys as one request takes. */
enum { KEYS_MAX = 64 };

static json_t *keys_json(const struct page_ref *keys, unsigned count)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++) {
        uint8_t bytes[PAGE_REF_SIZE];
        char hex[2 * PAGE_REF_SIZE + 1];

        page_ref_store(keys[i], bytes);
        json_array_append_new(list, json_string(hex_encode(bytes, sizeof(bytes), hex)));
    }
    return list;
}

static void take_pages(const json_t *list, void (*found)(const uint8_t *page, void *found_context),
                       void *found_context)
{
    uint8_t page[STASIS_PAGE_SIZE];
    const json_t *item;
    size_t i;

    json_array_foreach(list, i, item)
    {
        const char *text = json_string_value(item);

        if (text != NULL && strlen(text) == 2 * sizeof(page) &&
            hex_decode(text, page, sizeof(page)) == 0)
            found(page, found_context);
    }
}

/* All of its memory, a stretch at a time. */
static void find_in_machine(const struct page_ref *keys, unsigned count,
                            void (*found)(const uint8_t *page, void *found_context),
                            void *found_context, void *context)
{
    const struct machine_source *source = context;
    json_int_t from = 0;
    bool more = true;

    for (unsigned done = 0; done < count; done += KEYS_MAX, from = 0, more = true) {
        unsigned n = count - done < KEYS_MAX ? count - done : KEYS_MAX;

        while (more) {
            _cleanup_json_ json_t *result = NULL;
            _cleanup_json_ json_t *args =
                json_pack("{s:o, s:I}", "keys", keys_json(keys + done, n), "from", from);

            if (machines_call(source->cli, source->name, "pages", args, MACHINES_STATUS_TIMEOUT_MS,
                              &result, NULL) < 0)
                return;
            take_pages(json_object_get(result, "pages"), found, found_context);
            more = json_is_integer(json_object_get(result, "next"));
            from = json_integer_value(json_object_get(result, "next"));
        }
    }
}

/* A home, or the store in it; else a machine. */
static int add_source(struct cli *cli, const char *from, struct sources *sources, struct error *err)
{
    _cleanup_free_ char *inside = io_format("%s/store", from);
    struct stat st;

    if (sources->store_count + sources->machine_count == SOURCES_MAX)
        return error_set(err, STATUS_USAGE, EINVAL, "more than %d sources to mend from",
                         SOURCES_MAX);
    if (strchr(from, '/') != NULL || (stat(from, &st) == 0 && S_ISDIR(st.st_mode))) {
        int r = store_open(access(inside, F_OK) == 0 ? inside : from, false,
                           &sources->stores[sources->store_count], err);
        sources->store_count += r == 0;
        return r;
    }
    int r = machines_require_running(cli, from, err);
    if (r < 0)
        return r;
    size_t n = sources->machine_count++;

    sources->machines[n] = (struct machine_source){cli, from};
    sources->pages[n] = (struct page_source){find_in_machine, &sources->machines[n]};
    return 0;
}

static void sources_close(struct sources *sources)
{
    while (sources->store_count > 0)
        store_close(sources->stores[--sources->store_count]);
}

static int run_repair(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(sources_close) struct sources sources = {0};
    const struct option_value *from = arguments_value(args, "from");
    int r = cli_store(cli, err);

    for (size_t i = 0; r == 0 && i < from->count; i++)
        r = add_source(cli, from->texts[i], &sources, err);
    if (r < 0)
        return r;
    const struct verify_options options = {
        .bytes_per_second = arguments_number(args, "rate", 0),
        .again = true,
        .repair = true,
        .sources = sources.stores,
        .source_count = sources.store_count,
        .page_sources = sources.pages,
        .page_source_count = sources.machine_count,
    };
    return verify(cli, &options, err);
}

#define OPTION_RATE                                                                                \
    {                                                                                              \
        .name = "rate", .type = OPTION_SIZE, .value = "BYTES", .min = 1,                           \
        .help = "read no more than this in a second"                                               \
    }

static const struct option_spec verify_options[] = {
    OPTION_RATE,
    {.name = "max-age",
     .type = OPTION_DURATION,
     .value = "TIME",
     .help = "leave out packs found good less long ago"},
    {.name = "again", .help = "begin anew, not where a stopped run was"},
    {.name = "rebuild-index", .help = "first make the index anew from the packs"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_verify = {
    .name = "verify",
    .summary = "Read the whole store again and check every byte",
    .usage = "verify [--rate BYTES] [--max-age TIME] [--again] [--json]\n"
             "verify --rebuild-index [--json]",
    .details = "Every byte of every pack is checked against checksums, every group against its "
               "SHA-256 and the keys of its pages, every map down to its pages, every manifest "
               "against its id. What was checked longest ago comes first, and a run that was "
               "stopped less than a day ago is gone on with. Ends with exit code 13 if anything "
               "is wrong, and says which checkpoints it hits and whether it can be mended.",
    .example = "stasis verify --rate 50M",
    .options = verify_options,
    .run = run_verify,
};

static const struct option_spec repair_options[] = {
    {.name = "from",
     .type = OPTION_TEXT,
     .repeats = true,
     .value = "SOURCE",
     .completion = COMPLETE_DIRECTORY,
     .help = "directory of a home or store, or a running machine, that may have what is lost"},
    OPTION_RATE,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_repair = {
    .name = "repair",
    .summary = "Verify the store and mend what can be mended",
    .usage = "repair [--from SOURCE]... [--rate BYTES] [--json]",
    .details = "Damaged packs become what they were, byte for byte: from their parity, from other "
               "copies of their pages in this store, or from the other stores and the memory of "
               "the running machines given with --from. "
               "Nothing is replaced by anything that has not passed all its checksums. Machines "
               "may run meanwhile. Ends with exit code 13 if anything is left that is wrong.",
    .example = "stasis repair",
    .options = repair_options,
    .run = run_repair,
};
