/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "cli/interrupt.h"
#include "cli/reference.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

typedef struct space space_t;
DEFINE_CLEANUP(space_t, space_close)

enum change {
    CHANGE_NONE,
    CHANGE_WRITTEN, /* was zero */
    CHANGE_ZEROED,  /* is zero now */
    CHANGE_CHANGED,
};

static const char *const change_names[] = {"", "written", "zeroed", "changed"};

/* The comparison of one space, page by page, into runs of one kind. */
struct comparison {
    struct cli *cli;
    const char *space;
    bool stat; /* only totals */
    json_t *items;
    uint64_t first; /* of the run */
    uint64_t pages;
    enum change change;
    uint64_t ranges;
    uint64_t totals[4]; /* pages by change */
};

static void end_run(struct comparison *c)
{
    char size[TEXT_SIZE];
    const uint64_t offset = c->first << STASIS_PAGE_SHIFT;
    const uint64_t bytes = c->pages << STASIS_PAGE_SHIFT;

    if (c->change == CHANGE_NONE)
        return;
    c->ranges++;
    c->totals[c->change] += c->pages;
    if (c->stat)
        return;
    if (c->cli->json)
        json_array_append_new(c->items,
                              json_pack("{s:s, s:o, s:o, s:s}", "space", c->space, "offset_bytes",
                                        output_uint(offset), "bytes", output_uint(bytes), "change",
                                        change_names[c->change]));
    else
        printf("%-8s 0x%010" PRIx64 " %9s  %s\n", c->space, offset, text_bytes(bytes, size),
               change_names[c->change]);
}

static int add_page(struct comparison *c, uint64_t page, enum change change)
{
    if (interrupt_pending())
        return -ECANCELED;
    if (c->change == change && page == c->first + c->pages) {
        c->pages++;
        return 0;
    }
    end_run(c);
    c->change = change;
    c->first = page;
    c->pages = 1;
    return 0;
}

static int on_difference(uint64_t page, struct page_ref in_a, struct page_ref in_b, void *context)
{
    if (page_ref_is_zero(in_a))
        return add_page(context, page, CHANGE_WRITTEN);
    return add_page(context, page, page_ref_is_zero(in_b) ? CHANGE_ZEROED : CHANGE_CHANGED);
}

/* A space only one side has: all its pages differ. */
static int compare_with_nothing(struct comparison *c, struct space *space, enum change change,
                                struct error *err)
{
    uint64_t page = 0;
    struct page_ref ref;
    int r;

    while ((r = space_next(space, page, &page, &ref, err)) > 0) {
        r = add_page(c, page, change);
        if (r < 0)
            return r;
        page++;
    }
    return r;
}

static int open_space(struct cli *cli, const struct manifest *m, const char *name,
                      struct space **out, struct error *err)
{
    const struct manifest_space *space = manifest_space_find(m, name);

    if (space == NULL)
        return 0;
    return space_open(cli->store, &space->root, space->size_bytes, out, err);
}

static void end_space(struct comparison *c)
{
    end_run(c);
    if (!c->stat)
        return;
    const uint64_t all =
        c->totals[CHANGE_WRITTEN] + c->totals[CHANGE_ZEROED] + c->totals[CHANGE_CHANGED];
    json_array_append_new(
        c->items,
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "space", c->space, "ranges",
                  output_uint(c->ranges), "bytes", output_uint(all << STASIS_PAGE_SHIFT),
                  "changed_bytes", output_uint(c->totals[CHANGE_CHANGED] << STASIS_PAGE_SHIFT),
                  "written_bytes", output_uint(c->totals[CHANGE_WRITTEN] << STASIS_PAGE_SHIFT),
                  "zeroed_bytes", output_uint(c->totals[CHANGE_ZEROED] << STASIS_PAGE_SHIFT)));
}

static int compare_space(struct comparison *c, const struct manifest *a, const struct manifest *b,
                         struct error *err)
{
    _cleanup_(space_closep) space_t *in_a = NULL;
    _cleanup_(space_closep) space_t *in_b = NULL;

    int r = open_space(c->cli, a, c->space, &in_a, err);
    if (r < 0 || (r = open_space(c->cli, b, c->space, &in_b, err)) < 0)
        return r;
    if (in_a != NULL && in_b != NULL)
        r = space_diff(in_a, in_b, on_difference, c, err);
    else if (in_a != NULL)
        r = compare_with_nothing(c, in_a, CHANGE_ZEROED, err);
    else if (in_b != NULL)
        r = compare_with_nothing(c, in_b, CHANGE_WRITTEN, err);
    if (r < 0)
        return r;
    end_space(c);
    return 0;
}

/* ---- which spaces ---- */

struct selection {
    bool memory;
    bool blocks;
};

static bool is_selected(const struct selection *s, const char *space)
{
    return strcmp(space, "memory") == 0 ? s->memory : s->blocks;
}

static int compare_spaces(struct comparison *c, const struct selection *selection,
                          const struct manifest *a, const struct manifest *b, struct error *err)
{
    struct comparison base = *c;

    /* Those of A, then those only B has. */
    for (int side = 0; side < 2; side++) {
        const struct manifest *m = side == 0 ? a : b;
        for (uint32_t i = 0; i < m->space_count; i++) {
            const char *name = m->spaces[i].name;
            if (!is_selected(selection, name) ||
                (side == 1 && manifest_space_find(a, name) != NULL))
                continue;
            *c = base;
            c->space = name;
            int r = compare_space(c, a, b, err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static const struct output_column stat_columns[] = {
    {"SPACE", "space", OUTPUT_TEXT},
    {"RANGES", "ranges", OUTPUT_COUNT},
    {"TOTAL", "bytes", OUTPUT_BYTES},
    {"CHANGED", "changed_bytes", OUTPUT_BYTES},
    {"WRITTEN", "written_bytes", OUTPUT_BYTES},
    {"ZEROED", "zeroed_bytes", OUTPUT_BYTES},
    {NULL, NULL, 0},
};

/* Pinned until the store is closed. */
static int read_side(struct cli *cli, const char *reference, struct manifest **out,
                     struct error *err)
{
    struct store_pin *pin;
    struct digest id;

    *out = malloc(sizeof(**out));
    if (*out == NULL)
        return error_errno(err, ENOMEM, "cannot compare");
    int r = reference_resolve(cli, reference, &id, err);
    if (r == 0)
        r = store_pin(cli->store, &id, &pin, err);
    return r < 0 ? r : catalogue_manifest_read(cli->store, &id, *out, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_free_ struct manifest *a = NULL;
    _cleanup_free_ struct manifest *b = NULL;
    _cleanup_json_ json_t *items = json_array();
    struct comparison comparison = {
        .cli = cli,
        .items = items,
        .stat = arguments_has(args, "stat"),
    };
    struct selection selection = {
        .memory = arguments_has(args, "memory"),
        .blocks = arguments_has(args, "blocks"),
    };

    if (!selection.memory && !selection.blocks)
        selection = (struct selection){.memory = comparison.stat, .blocks = true};
    interrupt_catch();
    int r = read_side(cli, arguments_operand(args, 0), &a, err);
    if (r < 0 || (r = read_side(cli, arguments_operand(args, 1), &b, err)) < 0 ||
        (r = compare_spaces(&comparison, &selection, a, b, err)) < 0)
        return r;
    if (!comparison.stat && !cli->json)
        return 0;
    return output_items(cli, &(struct output_list){.columns = stat_columns}, items, err);
}

static const struct option_spec options[] = {
    {.name = "blocks", .help = "disks (and kernel), by blocks; this is the default"},
    {.name = "memory", .help = "memory, by pages"},
    {.name = "stat", .help = "only totals; of memory and disks unless one is chosen"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_diff = {
    .name = "diff",
    .summary = "Show what changed between two checkpoints",
    .usage = "diff A B [--blocks] [--memory] [--stat] [--json]",
    .details = "Prints each changed range: where, how much, and whether it changed, was written "
               "where A has zeros, or was zeroed. Only what differs is read, so the cost goes "
               "with the difference. To compare files, mount the store (stasis help mount) and "
               "use diff -r on the two checkpoints' partitions.",
    .example = "stasis diff web@before web@after --stat",
    .options = options,
    .operands = {{.name = "A", .completion = COMPLETE_REFERENCE},
                 {.name = "B", .completion = COMPLETE_REFERENCE}},
    .run = run,
};
