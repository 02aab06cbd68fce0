/* SPDX-License-Identifier: Apache-2.0 */
/* One invocation of the program: what every verb needs. */
#ifndef STASIS_CLI_APP_H
#define STASIS_CLI_APP_H

#include "base/error.h"
#include "base/home.h"
#include "cli/command.h"
#include "cli/output.h"
#include "store/store.h"

#include <stdbool.h>

struct cli {
    const char *home_override; /* --home, or NULL */
    bool json;
    bool quiet;
    struct home home;    /* after cli_home() */
    struct store *store; /* after cli_store() */
};

/* Finds the home, once. */
int cli_home(struct cli *cli, struct error *err);

/* Opens the home's store (made if it is missing), once. */
int cli_store(struct cli *cli, struct error *err);

/* Prints "stasis: MESSAGE" and "hint: HINT" on standard error; control
 * characters, which may come from a guest or a server, are replaced. */
void cli_print_error(const struct error *err);

/* A remark on standard error, one line, not for machines; silent with -q. */
void cli_note(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Asks on the terminal; true if the answer is yes. True without asking when
 * standard input is not a terminal. */
bool cli_confirm(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Does something for every operand, for verbs that take several names. The
 * outcome of each goes into the list ({"name", "ok", "message"?}), errors to
 * standard error as they come. Returns 0; the one error if there was one
 * operand or all failed the same way; STATUS_PARTLY if some failed.
 */
typedef int cli_each_fn(struct cli *cli, const char *name, void *context, struct error *err);
int cli_each_operand(struct cli *cli, const struct arguments *args, cli_each_fn *fn, void *context,
                     struct error *err);

/* The program: parses, runs, prints the error. Returns the exit code. */
int cli_main(int argc, char **argv);

#endif
