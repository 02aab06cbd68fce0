/* SPDX-License-Identifier: Apache-2.0 */
/* The nearest name to a mistyped one. */
#ifndef STASIS_CLI_SUGGEST_H
#define STASIS_CLI_SUGGEST_H

#include <stddef.h>

struct suggestion {
    const char *wanted;
    const char *best; /* NULL while nothing near was offered */
    size_t distance;
};

/* Keeps the pointer to wanted. */
struct suggestion suggestion_begin(const char *wanted);

/* Keeps candidate if it is nearer than what was offered before and near enough
 * to be a slip of the hand: a third of the longer name, or a prefix. */
void suggestion_offer(struct suggestion *s, const char *candidate);

/* Edits from a to b: insert, delete, replace, swap two neighbours (the optimal
 * string alignment distance). Names longer than 63 bytes are cut. */
size_t suggestion_distance(const char *a, const char *b);

#endif
