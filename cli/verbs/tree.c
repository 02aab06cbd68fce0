/* SPDX-License-Identifier: Apache-2.0 */
/* `tree` and `find`: the same walk, printed in two ways. */
#include "base/cleanup.h"
#include "cli/inside.h"
#include "cli/verbs/verbs.h"

#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <string.h>

typedef struct tree tree_t;
DEFINE_CLEANUP(tree_t, tree_close)

/* The lines left of a name: whether the directories above it have more to come. */
enum { INDENT_MAX = 64 };

struct listing_job {
    bool json;
    bool find;
    const char *pattern; /* or NULL */
    const char *type;    /* or NULL */
    bool more[INDENT_MAX];
    uint64_t printed;
};

static void draw_branches(struct listing_job *job, const struct inside_item *item)
{
    for (unsigned i = 1; i < item->depth; i++)
        fputs(i < INDENT_MAX && job->more[i] ? "|   " : "    ", stdout);
    if (item->depth < INDENT_MAX)
        job->more[item->depth] = !item->last;
    fputs(item->last ? "`-- " : "|-- ", stdout);
}

static void print_item(struct listing_job *job, const struct inside_item *item)
{
    if (job->find) {
        inside_print_name(item->path);
    } else {
        draw_branches(job, item);
        inside_print_name(item->name);
        if (item->target != NULL) {
            fputs(" -> ", stdout);
            inside_print_name(item->target);
        }
    }
    putchar('\n');
}

/* An array that is printed as it is made: there may be very many. */
static int print_json(struct listing_job *job, const struct inside_item *item)
{
    _cleanup_json_ json_t *json = inside_item_json(item);

    fputs(job->printed == 0 ? "[\n  " : ",\n  ", stdout);
    return json == NULL || json_dumpf(json, stdout, JSON_COMPACT) < 0 ? -ENOMEM : 0;
}

static bool is_wanted(const struct listing_job *job, const struct inside_item *item)
{
    if (job->pattern != NULL && fnmatch(job->pattern, item->name, 0) != 0)
        return false;
    return job->type == NULL || inside_type(item->entry)[0] == job->type[0];
}

static int on_item(const struct inside_item *item, void *context)
{
    struct listing_job *job = context;
    int r = 0;

    if (!is_wanted(job, item))
        return 0;
    if (job->json)
        r = print_json(job, item);
    else
        print_item(job, item);
    job->printed++;
    return r < 0 ? r : ferror(stdout) ? -EPIPE : 0;
}

static int list_all(struct cli *cli, const struct inside_path *path, struct listing_job *job,
                    unsigned depth_max, struct error *err)
{
    _cleanup_(tree_closep) tree_t *tree = NULL;
    struct tree_entry entry;

    int r = inside_open(cli, &tree, err);
    if (r < 0 || (r = inside_find(tree, path, &entry, err)) < 0)
        return r;
    struct inside_walk walk = {
        .tree = tree, .path = path, .depth_max = depth_max, .item = on_item, .context = job};
    if (!S_ISDIR(entry.st.st_mode)) {
        const struct inside_item item = {
            .path = path->path, .name = path->path, .entry = &entry, .depth = 1, .last = true};
        r = on_item(&item, job);
    } else {
        if (!job->json && !job->find)
            printf("%s:%s\n", path->text, path->path);
        r = inside_walk(&walk, &entry, err);
    }
    if (job->json)
        puts(job->printed == 0 ? "[]" : "\n]");
    return r;
}

static int run_listing(struct cli *cli, const struct arguments *args, struct listing_job *job,
                       struct error *err)
{
    struct inside_path path = {0};

    job->json = cli->json;
    int r = inside_path_resolve(cli, arguments_operand(args, 0), &path, err);
    if (r >= 0)
        r = list_all(cli, &path, job, (unsigned)arguments_number(args, "depth", UINT_MAX), err);
    inside_path_clear(&path);
    return r == -EPIPE ? STATUS_FAILED : r;
}

static int run_tree(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct listing_job job = {0};

    return run_listing(cli, args, &job, err);
}

static int run_find(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct listing_job job = {
        .find = true,
        .pattern = arguments_text(args, "name", NULL),
        .type = arguments_text(args, "type", NULL),
    };

    return run_listing(cli, args, &job, err);
}

#define OPTION_DEPTH                                                                               \
    {                                                                                              \
        .name = "depth", .letter = 'L', .type = OPTION_NUMBER, .value = "N", .min = 1,             \
        .max = 4096, .help = "go down so many directories at most"                                 \
    }

static const struct option_spec tree_options[] = {
    OPTION_DEPTH,
    COMMAND_OPTION_JSON,
    {0},
};

static const char *const types[] = {"f", "d", "l", "o", NULL};

static const struct option_spec find_options[] = {
    {.name = "name",
     .type = OPTION_TEXT,
     .value = "PATTERN",
     .help = "those whose name matches, like '*.conf'"},
    {.name = "type",
     .type = OPTION_CHOICE,
     .value = "TYPE",
     .choices = types,
     .help = "f: files; d: directories; l: links; o: others"},
    OPTION_DEPTH,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_tree = {
    .name = "tree",
    .summary = "List the files of a checkpoint as a tree",
    .usage = "tree REF[:PATH] [--depth N] [--json]",
    .details = "PATH is as for cat. Without one, or with an empty one, it is the checkpoint "
               "itself, with its memory, disks and their partitions.",
    .example = "stasis tree web@before:/etc --depth 1",
    .options = tree_options,
    .operands = {{.name = "REF:PATH", .completion = COMPLETE_REFERENCE}},
    .run = run_tree,
};

const struct command command_find_files = {
    .name = "find",
    .summary = "Find files in a checkpoint",
    .usage = "find REF[:PATH] [--name PATTERN] [--type TYPE] [--json]",
    .details = "Prints the path of each file below PATH (see cat) that meets all conditions. With "
               "--json an array of objects: path, type, bytes, mode, uid, gid, modified, target.",
    .example = "stasis find web@before:/etc --name '*.conf'",
    .options = find_options,
    .operands = {{.name = "REF:PATH", .completion = COMPLETE_REFERENCE}},
    .run = run_find,
};
