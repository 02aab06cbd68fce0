/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/machines.h"
#include "cli/reference.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>

/* The machine would find out too, but only after having been held. */
static int check_free(struct cli *cli, const struct machine_reference *ref, struct error *err)
{
    struct digest there;

    if (ref->checkpoint == NULL)
        return 0;
    int r = catalogue_checkpoint_by_name(cli->store, ref->machine, ref->checkpoint, &there, err);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    error_set(err, STATUS_EXISTS, EEXIST, "%s has a checkpoint named %s already", ref->machine,
              ref->checkpoint);
    error_hint(err, "choose another name, or remove it: stasis rm %s@%s", ref->machine,
               ref->checkpoint);
    return -EEXIST;
}

static int report(struct cli *cli, const char *reference, json_t *result, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    char pause[TEXT_SIZE];
    char size[TEXT_SIZE];
    struct digest id;

    int r = machines_saved_id(result, &id, err);
    if (r < 0)
        return r;
    if (cli->json)
        return output_json(result, err);
    puts(digest_hex(&id, hex));
    const json_t *us = json_object_get(result, "pause_us");
    const json_t *bytes = json_object_get(result, "stored_bytes");
    if (isatty(STDERR_FILENO) == 1 && us != NULL && bytes != NULL)
        cli_note(cli, "%s saved: held for %s, %s written", reference,
                 text_precise((uint64_t)json_integer_value(us), pause),
                 text_bytes((uint64_t)json_integer_value(bytes), size));
    return 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(machine_reference_clear) struct machine_reference ref = {0};
    _cleanup_json_ json_t *result = NULL;
    const char *reference = arguments_operand(args, 0);
    const bool stop = arguments_has(args, "stop");

    int r = machine_reference_parse(reference, &ref, err);
    if (r < 0 || (r = machines_require_running(cli, ref.machine, err)) < 0 ||
        (r = check_free(cli, &ref, err)) < 0)
        return r;
    _cleanup_json_ json_t *request =
        json_pack("{s:s?, s:b}", "name", ref.checkpoint, "stop", (int)stop);
    r = machines_call(cli, ref.machine, "save", request, -1, &result, err);
    if (r < 0)
        return r;
    if (stop)
        machine_wait(&cli->home, ref.machine, -1);
    return report(cli, reference, result, err);
}

static const struct option_spec options[] = {
    {.name = "stop", .help = "end the machine with the checkpoint; stasis restore goes on"},
    COMMAND_OPTION_QUIET,
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_save = {
    .name = "save",
    .summary = "Make a checkpoint of a machine while it runs",
    .usage = "save MACHINE[@NAME] [--stop]",
    .details = "Memory, devices and disks, all of the same instant. The guest is held for "
               "milliseconds; the rest happens while it goes on. Prints the checkpoint's id.",
    .example = "stasis save web@before",
    .options = options,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_MACHINE}},
    .run = run,
};
