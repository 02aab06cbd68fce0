/* SPDX-License-Identifier: Apache-2.0 */
#include "store/gc.h"
#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"

#include <sys/resource.h>
#include <unistd.h>

/* A save of a running machine takes less. What an import still needs is left for the
 * next time. */
#define WAIT_MS 10000

#define PRIORITY 10 /* as of nice(1) */

static int step(const char *what, uint64_t done, uint64_t total, void *context)
{
    return progress_what(what, done, total, context);
}

static int collect(struct cli *cli, bool dry_run, struct gc_result *out, struct error *err)
{
    struct progress progress;
    const struct gc_options options = {
        .dry_run = dry_run, .wait_ms = WAIT_MS, .progress = step, .context = &progress};

    progress_begin(&progress, "marking", 0);
    int r = store_gc(cli->store, &options, out, err);
    progress_end(&progress);
    return r;
}

static bool is_nothing(const struct gc_result *g)
{
    return g->checkpoints == 0 && g->packs_dead == 0 && g->packs_sparse == 0;
}

static void show_plan(const struct gc_result *g)
{
    char size[TEXT_SIZE];

    if (is_nothing(g)) {
        printf("nothing to free\n");
        return;
    }
    printf("about %s can be freed:\n", text_bytes(g->freeable_bytes, size));
    if (g->checkpoints != 0)
        printf("  %llu checkpoint%s that no machine, image or name leads to\n",
               (unsigned long long)g->checkpoints, g->checkpoints == 1 ? "" : "s");
    printf("  %llu pack%s that nothing needs, %llu of which less than half is needed\n",
           (unsigned long long)g->packs_dead, g->packs_dead == 1 ? "" : "s",
           (unsigned long long)g->packs_sparse);
}

static void show_done(struct cli *cli, const struct gc_result *g)
{
    char freed[TEXT_SIZE], copied[TEXT_SIZE], waiting[TEXT_SIZE];

    printf("%s freed: %llu pack%s removed", text_bytes(g->freed_bytes, freed),
           (unsigned long long)g->packs_removed, g->packs_removed == 1 ? "" : "s");
    if (g->copied_bytes != 0)
        printf(", %s of them written again", text_bytes(g->copied_bytes, copied));
    printf("\n");
    if (g->packs_waiting != 0)
        cli_note(cli,
                 "%s more wait for a writer that began before: run stasis gc again when it is done",
                 text_bytes(g->waiting_bytes, waiting));
}

static int print_json(const struct gc_result *g, bool acted, struct error *err)
{
    _cleanup_json_ json_t *result =
        json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "acted", acted,
                  "checkpoint_count", output_uint(g->checkpoints), "pack_dead_count",
                  output_uint(g->packs_dead), "pack_sparse_count", output_uint(g->packs_sparse),
                  "freeable_bytes", output_uint(g->freeable_bytes), "pack_removed_count",
                  output_uint(g->packs_removed), "freed_bytes", output_uint(g->freed_bytes),
                  "copied_bytes", output_uint(g->copied_bytes), "pack_waiting_count",
                  output_uint(g->packs_waiting), "waiting_bytes", output_uint(g->waiting_bytes));

    return output_json(result, err);
}

/* 1: go on. */
static int look_first(struct cli *cli, bool dry_run, struct error *err)
{
    struct gc_result plan;
    bool ask = !dry_run && !cli->json && isatty(STDIN_FILENO) == 1;

    int r = collect(cli, true, &plan, err);
    if (r < 0)
        return r;
    if (cli->json)
        return print_json(&plan, false, err);
    show_plan(&plan);
    if (is_nothing(&plan) || dry_run)
        return 0;
    fflush(stdout);
    if (ask)
        return cli_confirm("Free it?");
    cli_note(cli, "nothing was changed; stasis gc --yes does it");
    return 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct gc_result result;

    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    if (!arguments_has(args, "yes") || arguments_has(args, "dry-run")) {
        r = look_first(cli, arguments_has(args, "dry-run"), err);
        if (r <= 0)
            return r;
    }
    r = collect(cli, false, &result, err);
    if (r < 0)
        return r;
    if (cli->json)
        return print_json(&result, true, err);
    show_done(cli, &result);
    return 0;
}

static const struct option_spec options[] = {
    {.name = "yes", .letter = 'y', .help = "do it, without showing or asking first"},
    {.name = "dry-run", .letter = 'n', .help = "only show what it would free"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_gc = {
    .name = "gc",
    .summary = "Give back space that nothing needs any more",
    .usage = "gc [--yes | --dry-run] [--json]",
    .details = "Shows what can be freed, and asks on a terminal; elsewhere it only shows unless "
               "--yes is given. Removes checkpoints that no machine, image or name leads to, and "
               "what was stored for removed ones alone. Machines may run and be saved, and mounts "
               "stay usable, meanwhile. Ctrl-C is safe at any time; the next run goes on. What a "
               "writer that began before may still need is left for the next time.",
    .example = "stasis gc --yes",
    .options = options,
    .run = run,
};
