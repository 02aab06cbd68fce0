/* SPDX-License-Identifier: Apache-2.0 */
/* Attaching to a machine's console, for `console` and `run`. */
#ifndef STASIS_CLI_ATTACH_H
#define STASIS_CLI_ATTACH_H

#include "cli/app.h"
#include "cli/terminal.h"

#define ATTACH_OPTION_ESCAPE                                                                       \
    {                                                                                              \
        .name = "escape", .type = OPTION_TEXT, .value = "KEY",                                     \
        .help = "the key before d that detaches: ctrl-a (default), any ctrl-KEY, none"             \
    }

/* Joins standard input and output with the machine's console until one of them
 * ends, and says on a terminal how to detach and why it ended. replay: begins with
 * what was printed before; also when the machine has ended before it could be
 * attached to. */
int attach_console(struct cli *cli, const char *machine, bool replay,
                   const struct terminal_options *options, enum terminal_end *end_out,
                   struct error *err);

/* The exit code for an end: 0, or an error for a timeout or signal. */
int attach_result(const char *machine, enum terminal_end end, struct error *err);

#endif
