/* SPDX-License-Identifier: Apache-2.0 */
/* A command in a guest and our standard streams, for `exec` and `shell`. */
#ifndef STASIS_CLI_EXEC_H
#define STASIS_CLI_EXEC_H

#include "agent/client.h"

struct exec_streams {
    int in, out, err; /* not owned */
    int escape;       /* the key before d that ends it, on a terminal; -1: none */
};

/*
 * Runs the command over a connection that has just been made. Returns 0 with its
 * exit code (128 + n: by signal n), or an error: STATUS_EXEC_* for what went wrong
 * before or beside the command, STATUS_INTERRUPTED.
 *
 * With AGENT_EXEC_TTY and an input that is a terminal, that is put into raw mode (and
 * back, whatever happens), and its size is passed on as it changes. Signals that ask
 * us to end are passed on to the command; the second one ends us, and so the command.
 */
int exec_run(struct channel *ch, const struct agent_exec *request,
             const struct exec_streams *streams, int *code_out, struct error *err);

#endif
