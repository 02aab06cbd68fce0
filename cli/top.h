/* SPDX-License-Identifier: Apache-2.0 */
/* What machines do at the moment, from two answers to `stats` (docs/control.md). */
#ifndef STASIS_CLI_TOP_H
#define STASIS_CLI_TOP_H

#include "cli/output.h"

#include <jansson.h>

/*
 * A machine's line: rates between the two answers, or, where there is no `before` of the
 * same process, since that began. now NULL: it does not answer; its numbers are null. A
 * new reference.
 */
json_t *top_row(const char *name, const json_t *before, const json_t *now);

/* How rows can be ordered: names for --sort, the first is the default; NULL at the end. */
extern const char *const top_orders[];

/* Orders rows by one of them: most first, names alphabetically. */
void top_sort(json_t *rows, const char *order);

/* The order that a key stands for; NULL if it stands for none. */
const char *top_order_of_key(char key);

extern const struct output_column top_columns[];

#endif
