/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/inside.h"
#include "cli/interrupt.h"
#include "cli/verbs/verbs.h"

#include <errno.h>

typedef struct tree tree_t;
DEFINE_CLEANUP(tree_t, tree_close)

enum { CHUNK = 1 << 20 };

static int copy_out(struct tree_file *file, const struct inside_path *path, struct error *err)
{
    _cleanup_free_ char *chunk = malloc(CHUNK);
    size_t n = 1;

    if (chunk == NULL)
        return error_errno(err, ENOMEM, "cannot read %s", path->path);
    for (uint64_t at = 0; n > 0; at += n) {
        n = 0;
        if (interrupt_pending())
            return error_set(err, STATUS_INTERRUPTED, ECANCELED, "interrupted");
        int r = tree_file_read(file, at, chunk, CHUNK, &n);
        if (r < 0)
            return inside_error(r, path, err);
        if ((r = io_write_full(STDOUT_FILENO, chunk, n)) < 0)
            return error_errno(err, -r, "cannot write the file");
    }
    return 0;
}

static int cat_one(struct tree *tree, const struct inside_path *path, struct error *err)
{
    struct tree_entry entry;
    struct tree_file *file;

    int r = inside_find(tree, path, &entry, err);
    if (r < 0)
        return r;
    if (!S_ISREG(entry.st.st_mode) && !S_ISDIR(entry.st.st_mode))
        return error_set(err, STATUS_USAGE, EINVAL, "%s in %s is a device, pipe or socket",
                         path->path, path->text);
    if ((r = tree_file_open(tree, entry.node, &file)) < 0)
        return inside_error(r, path, err);
    r = copy_out(file, path, err);
    tree_file_close(file);
    return r;
}

static int cat_all(struct cli *cli, const struct inside_path *paths, size_t count,
                   struct error *err)
{
    _cleanup_(tree_closep) tree_t *tree = NULL;

    int r = inside_open(cli, &tree, err);
    interrupt_catch();
    for (size_t i = 0; r >= 0 && i < count; i++)
        r = cat_one(tree, &paths[i], err);
    return r;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct inside_path *paths = calloc(args->operand_count, sizeof(*paths));
    size_t count = 0;
    int r = paths == NULL ? error_errno(err, ENOMEM, "cannot read files") : 0;

    for (; r >= 0 && count < args->operand_count; count += r >= 0)
        r = inside_path_resolve(cli, args->operands[count], &paths[count], err);
    if (r >= 0)
        r = cat_all(cli, paths, count, err);
    while (count > 0)
        inside_path_clear(&paths[--count]);
    free(paths);
    return r == -EPIPE ? STATUS_FAILED : r; /* whoever reads has enough */
}

static const struct option_spec options[] = {
    {0},
};

const struct command command_cat = {
    .name = "cat",
    .summary = "Print files out of checkpoints",
    .usage = "cat REF:PATH...",
    .details = "PATH begins with / for the guest's file system, or with a partition, like "
               "p1/etc/hosts (disk1/p1/etc/hosts on another disk). Links are followed within the "
               "partition. What a mount has beside files can be printed, too: manifest.json, "
               "disk0/p1.note, memory.raw.",
    .example = "stasis cat web@before:/etc/hosts",
    .options = options,
    .operands = {{.name = "REF:PATH", .repeats = true, .completion = COMPLETE_REFERENCE}},
    .run = run,
};
