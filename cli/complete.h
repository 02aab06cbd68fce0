/* SPDX-License-Identifier: Apache-2.0 */
/* What may come next on a command line, from the table of verbs. Shells ask by the
 * hidden verb `complete`; their scripts (cli/verbs/completion.c) know nothing. */
#ifndef STASIS_CLI_COMPLETE_H
#define STASIS_CLI_COMPLETE_H

#include "cli/command.h"

/* Given as candidates: the shell shall offer files or directories. */
#define COMPLETE_LINE_FILE "//file"
#define COMPLETE_LINE_DIRECTORY "//directory"

struct complete {
    /* Is given each candidate. help may be NULL. */
    void (*add)(const char *candidate, const char *help, void *context);
    /* Calls complete_offer() for all names of that kind: machines, references, images. */
    void (*names)(const struct complete *c, enum completion kind);
    void *context;
    const char *typed; /* set by complete_words() */
};

/* words: what stands behind the program's name; the last one is being typed, and may be
 * empty. */
void complete_words(struct complete *c, const char *const *words, size_t count);

/* A candidate, if it goes on from what has been typed. */
void complete_offer(const struct complete *c, const char *candidate, const char *help);

#endif
