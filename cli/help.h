/* SPDX-License-Identifier: Apache-2.0 */
/* Help, printed from the command table; no line is wider than 80 columns. */
#ifndef STASIS_CLI_HELP_H
#define STASIS_CLI_HELP_H

#include "cli/command.h"

#include <stdio.h>

/* All verbs by group. */
void help_print_overview(FILE *file);
/* Usage, options and example of one verb. */
void help_print_command(FILE *file, const struct command *command);

#endif
