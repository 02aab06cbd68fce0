/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that are wanted one after the other: the threads of the store read and decode
 * what comes next together. */
#ifndef STASIS_STORE_READ_AHEAD_H
#define STASIS_STORE_READ_AHEAD_H

#include "store/private.h"

struct read_ahead;

/* visit is called in the thread that adds and finishes, in the order of the adding;
 * bytes are valid during the call. A non-zero return of it ends the reading. */
int read_ahead_new(struct store *store,
                   int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                   struct read_ahead **out, struct error *err);

/* One more page, not the zero page. 0, a negative errno, or what visit returned. */
int read_ahead_add(struct read_ahead *ra, uint64_t page, struct page_ref ref, struct error *err);

/* Visits what is left. The same. */
int read_ahead_finish(struct read_ahead *ra, struct error *err);
void read_ahead_free(struct read_ahead *ra);

static inline void read_ahead_freep(struct read_ahead **ra)
{
    read_ahead_free(*ra);
}

#endif
