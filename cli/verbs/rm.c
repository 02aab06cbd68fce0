/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/machines.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <string.h>

struct context {
    bool force;
};

static int declined(const char *name, struct error *err)
{
    return error_set(err, STATUS_FAILED, ECANCELED, "%s is still there", name);
}

static int remove_machine(struct cli *cli, const char *name, const struct context *context,
                          struct error *err)
{
    int r = machines_require(cli, name, err);
    if (r < 0)
        return r;
    if (machine_is_running(&cli->home, name)) {
        if (!context->force) {
            error_set(err, STATUS_BUSY, EBUSY, "%s is running", name);
            error_hint(err, "stop it first, or remove it with rm -f");
            return -EBUSY;
        }
        r = machines_kill(cli, name, err);
        if (r < 0)
            return r;
    } else if (!context->force &&
               !cli_confirm("Remove machine %s, its disks and its checkpoints?", name)) {
        return declined(name, err);
    }
    return machines_forget(cli, name, err);
}

static int remove_checkpoint(struct cli *cli, const char *name, const struct context *context,
                             struct error *err)
{
    struct digest id;

    int r = reference_resolve(cli, name, &id, err);
    if (r < 0)
        return r;
    if (!context->force && !cli_confirm("Remove checkpoint %s?", name))
        return declined(name, err);
    r = catalogue_checkpoint_remove(cli->store, &id, err);
    if (r == -EBUSY && err->hint[0] == '\0')
        error_hint(err,
                   "a machine builds on it or an image is it: remove that first "
                   "(stasis inspect %s)",
                   name);
    return r;
}

static bool is_machine(struct cli *cli, const char *name)
{
    struct catalogue_machine *machine = NULL;

    if (!home_name_is_valid(name) || catalogue_machine_get(cli->store, name, &machine, NULL) < 0)
        return false;
    catalogue_machines_free(machine, 1);
    return true;
}

static bool is_image(struct cli *cli, const char *name)
{
    _cleanup_(image_reference_clear) struct image_reference image = {0};
    struct digest id;

    return image_reference_parse(name, &image, NULL) >= 0 &&
           catalogue_image_get(cli->store, image.name, image.tag, &id, NULL) >= 0;
}

static int remove_one(struct cli *cli, const char *name, void *context, struct error *err)
{
    struct digest id;

    if (strchr(name, '@') != NULL)
        return remove_checkpoint(cli, name, context, err);
    if (is_machine(cli, name))
        return remove_machine(cli, name, context, err);
    if (is_image(cli, name)) {
        error_set(err, STATUS_USAGE, EINVAL, "%s is an image", name);
        error_hint(err, "stasis untag %s removes its name", name);
        return -EINVAL;
    }
    if (catalogue_checkpoint_by_prefix(cli->store, name, &id, NULL) >= 0)
        return remove_checkpoint(cli, name, context, err);
    return machines_require(cli, name, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct context context = {.force = arguments_has(args, "force")};

    int r = cli_store(cli, err);
    return r < 0 ? r : cli_each_operand(cli, args, remove_one, &context, err);
}

static const struct option_spec options[] = {
    {.name = "force", .letter = 'f', .help = "do not ask; kill machines that run"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_rm = {
    .name = "rm",
    .summary = "Remove machines or checkpoints",
    .usage = "rm [-f] MACHINE...\nrm [-f] MACHINE@CHECKPOINT...",
    .details = "Asks first when it is used on a terminal. A running machine is not removed "
               "without -f. Other machines and checkpoints never depend on what is removed. "
               "Images are removed by untag.",
    .example = "stasis rm web@before",
    .options = options,
    .operands = {{.name = "REF", .repeats = true, .completion = COMPLETE_REFERENCE}},
    .run = run,
};
