/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/machines.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"

#include <errno.h>
#include <time.h>

/* The guest is asked for statistics when somebody wants to know, and answers soon. */
enum { FRESH_US = 1000000, TRIES = 10, WAIT_NS = 50000000 };

static const struct output_column columns[] = {
    {"wanted", "target_bytes", OUTPUT_BYTES},
    {"balloon", "actual_bytes", OUTPUT_BYTES},
    {"given back", "dropped_bytes", OUTPUT_BYTES},
    {"guest total", "total_bytes", OUTPUT_BYTES},
    {"guest free", "free_bytes", OUTPUT_BYTES},
    {"guest available", "available_bytes", OUTPUT_BYTES},
    {"guest cache", "cache_bytes", OUTPUT_BYTES},
    {NULL, NULL, 0},
};

static bool is_fresh(const json_t *balloon)
{
    const json_t *age = json_object_get(json_object_get(balloon, "statistics"), "age_us");

    return json_is_integer(age) && json_integer_value(age) < FRESH_US;
}

/* A new reference to what the machine's process says; NULL with err. */
static json_t *look(struct cli *cli, const char *name, struct error *err)
{
    _cleanup_json_ json_t *status = NULL;
    const struct timespec wait = {.tv_nsec = WAIT_NS};

    for (int i = 0; i < TRIES; i++) {
        json_decref(status);
        status = NULL;
        if (machines_call(cli, name, "status", NULL, -1, &status, err) < 0)
            return NULL;
        const json_t *balloon = json_object_get(status, "balloon");
        if (json_is_null(balloon)) {
            error_set(err, STATUS_FAILED, ENODEV, "%s has no balloon", name);
            error_hint(err, "make its image anew: import gives it one");
            return NULL;
        }
        if (is_fresh(balloon) || !json_is_integer(json_object_get(balloon, "actual_bytes")))
            break;
        nanosleep(&wait, NULL);
    }
    return json_incref(json_object_get(status, "balloon"));
}

static int show(struct cli *cli, json_t *balloon, struct error *err)
{
    if (!cli->json) /* one list of lines; for programs statistics stay apart */
        json_object_update(balloon, json_object_get(balloon, "statistics"));
    return output_object(cli, columns, balloon, err);
}

static int set(struct cli *cli, const char *name, const char *size, struct error *err)
{
    uint64_t bytes;

    if (text_parse_size(size, &bytes) < 0 || bytes > INT64_MAX) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' is not a size", size);
        error_hint(err, "give bytes, or like 512M or 2G; 0 gives all memory back to the guest");
        return -EINVAL;
    }
    _cleanup_json_ json_t *args = json_pack("{s:I}", "target_bytes", (json_int_t)bytes);
    _cleanup_json_ json_t *result = NULL;
    int r = machines_call(cli, name, "balloon", args, -1, &result, err);
    return r < 0 || !cli->json ? r : output_json(result, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *name = arguments_operand(args, 0);
    const char *size = arguments_operand(args, 1);

    int r = machines_require_running(cli, name, err);
    if (r < 0)
        return r;
    if (size != NULL)
        return set(cli, name, size, err);
    _cleanup_json_ json_t *balloon = look(cli, name, err);
    return balloon == NULL ? -EIO : show(cli, balloon, err);
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_balloon = {
    .name = "balloon",
    .summary = "Take memory from a running machine, or show what it uses",
    .usage = "balloon MACHINE [SIZE]",
    .details =
        "A balloon in the guest takes up SIZE of its memory, which goes back to the host and "
        "takes no room in checkpoints; 0 lets it all go. The guest fills it as far as it can, "
        "and takes memory back when it would run out. Without SIZE shows what is wanted, what "
        "the balloon holds, and the guest's own figures. Memory that the guest does not use "
        "goes back to the host by itself.",
    .example = "stasis balloon web 128M\n"
               "stasis balloon web",
    .options = options,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_MACHINE},
                 {.name = "SIZE", .optional = true}},
    .run = run,
};
