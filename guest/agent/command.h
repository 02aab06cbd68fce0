/* SPDX-License-Identifier: Apache-2.0 */
/* Starting a command in the guest. */
#ifndef STASIS_GUEST_AGENT_COMMAND_H
#define STASIS_GUEST_AGENT_COMMAND_H

#include "agent/messages.h"

#include <sys/types.h>

struct command {
    pid_t pid; /* also its process group and session */
    /* Our ends, non-blocking; -1 where there is none. With a terminal `in` and `out`
     * are the same descriptor. */
    int in, out, err;
};

struct command_failure {
    unsigned code; /* AGENT_EXIT_* */
    int errnum;
    const char *what; /* that could not be done */
};

/* Starts it, and waits until it runs its program or could not. Negative errno, with
 * *why filled. */
int command_start(const struct agent_exec *request, struct command *out,
                  struct command_failure *why);

/* Closes our ends of its streams. */
void command_close(struct command *c);

#endif
