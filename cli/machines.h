/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs that handle machines have in common. */
#ifndef STASIS_CLI_MACHINES_H
#define STASIS_CLI_MACHINES_H

#include "cli/app.h"
#include "vmm/machine.h"

#include <jansson.h>

#define MACHINES_STATUS_TIMEOUT_MS 3000 /* a machine that does not answer by then hangs */

/* STATUS_NOT_FOUND with a hint unless there is a machine of that name; opens the
 * store. */
int machines_require(struct cli *cli, const char *name, struct error *err);

/* The same, and it must run: -ENOTCONN. */
int machines_require_running(struct cli *cli, const char *name, struct error *err);

/* Its status as its process tells it; NULL if it does not run or answer. A new
 * reference. */
json_t *machines_status(struct cli *cli, const char *name);

/* "running", "paused", "saving" or "stopped". Borrows from status (may be NULL). */
const char *machines_state(struct cli *cli, const char *name, const json_t *status);

/* Asks the machine's process. args is borrowed (NULL: none); result_out may be
 * NULL. timeout_ms < 0: waits as long as it takes; else -ETIMEDOUT. Errors get
 * the machine's name in front. */
int machines_call(struct cli *cli, const char *name, const char *verb, json_t *args, int timeout_ms,
                  json_t **result_out, struct error *err);

/* Makes a machine of the checkpoint and starts it; forgets it again if it
 * cannot be started. name NULL: chooses one. The caller frees *name_out. */
int machines_launch(struct cli *cli, const char *name, const struct machine_start *start,
                    char **name_out, struct error *err);

/* Ends its process: "kill", then SIGKILL if it does not answer. 0 when it is gone
 * or was not there. */
int machines_kill(struct cli *cli, const char *name, struct error *err);

/* Removes a machine that does not run (-EBUSY): catalogue first, files then. */
int machines_forget(struct cli *cli, const char *name, struct error *err);

/* A checkpoint of the present state: of a running machine by "save"; of a stopped
 * one its head, or if its disks have gone on since, a checkpoint of these. */
int machines_checkpoint(struct cli *cli, const char *name, struct digest *id_out,
                        struct error *err);

/* The id in the result of "save". */
int machines_saved_id(const json_t *result, struct digest *out, struct error *err);

/* --clock as given; the default is `continue`. */
enum machine_clock machines_clock(const struct arguments *args);
extern const char *const machines_clock_choices[];
#define MACHINES_OPTION_CLOCK                                                                      \
    {                                                                                              \
        .name = "clock", .type = OPTION_CHOICE, .value = "MODE",                                   \
        .choices = machines_clock_choices,                                                         \
        .help = "continue: guest time goes on from where it stopped (default); host: it steps to " \
                "now"                                                                              \
    }
#define MACHINES_OPTION_PAUSED                                                                     \
    {                                                                                              \
        .name = "paused", .help = "hold it at its first instant; stasis resume lets it go on"      \
    }

#endif
