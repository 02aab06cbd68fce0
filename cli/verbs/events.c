/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "cli/interrupt.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"
#include "vmm/event_stream.h"

#include <errno.h>

typedef struct event_stream event_stream_t;
DEFINE_CLEANUP(event_stream_t, event_stream_close)

/* A line each, and at once: somebody waits for it. */
static int print_event(const json_t *event, struct error *err)
{
    if (json_dumpf(event, stdout, JSON_COMPACT) < 0 || fputc('\n', stdout) < 0 ||
        fflush(stdout) != 0)
        return error_errno(err, errno != 0 ? errno : EIO, "cannot write the event");
    return 0;
}

static int follow(struct event_stream *stream, uint64_t count, struct error *err)
{
    interrupt_catch();
    for (uint64_t printed = 0; printed < count;) {
        _cleanup_json_ json_t *event = NULL;
        int r = event_stream_next(stream, &event, err);
        if (r < 0 || (event != NULL && (r = print_event(event, err)) < 0))
            return r;
        printed += event != NULL;
        if (interrupt_pending())
            return 0; /* nothing else ends it */
    }
    return 0;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(event_stream_closep) event_stream_t *stream = NULL;
    const char *machine = arguments_operand(args, 0);

    int r = machine != NULL ? machines_require(cli, machine, err) : cli_home(cli, err);
    if (r < 0 ||
        (r = event_stream_open(&cli->home, machine, arguments_has(args, "past"), &stream, err)) < 0)
        return r;
    return follow(stream, arguments_number(args, "count", UINT64_MAX), err);
}

static const struct option_spec options[] = {
    {.name = "past", .help = "begin with what is still known of before"},
    {.name = "count",
     .letter = 'n',
     .type = OPTION_NUMBER,
     .value = "COUNT",
     .min = 1,
     .help = "end after so many events"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_events = {
    .name = "events",
    .summary = "Print what happens to machines, as it happens",
    .usage = "events [MACHINE] [--past] [-n COUNT]",
    .details = "A line of JSON for each event, with or without --json: time, machine, and event, "
               "which is started, paused, resumed, saved, save-failed, restored, reset, stopped, "
               "crashed or removed; and what else there is to say about that kind. Goes on until "
               "Ctrl-C.",
    .example = "stasis events --past",
    .options = options,
    .operands = {{.name = "MACHINE", .optional = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
