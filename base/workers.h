/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few threads that share out the jobs of one task and then meet again. They are
 * started when they are first of use and sleep in between. A round costs no
 * allocation.
 */
#ifndef STASIS_BASE_WORKERS_H
#define STASIS_BASE_WORKERS_H

#include "base/error.h"

/* More threads than this gain nothing that a store could use. */
#define WORKERS_MAX 16u

struct workers;

/*
 * One job of a round: number `index`, done by the thread that has place `slot`
 * (below WORKERS_MAX; 0 is the caller of workers_run()) in this round, so that what
 * a thread needs for itself can be kept in an array. 0 or a negative errno.
 */
typedef int workers_job(unsigned index, unsigned slot, void *context, struct error *err);

/* `threads`: as for workers_limit(). 0 or -ENOMEM. */
int workers_new(unsigned threads, struct workers **out);
/* Nobody may be in workers_run(). NULL is fine. */
void workers_free(struct workers *w);

/* How many threads work at once from the next round on, the caller's own included; 0:
 * one for each CPU that this process may use. At most WORKERS_MAX. Any thread. */
void workers_limit(struct workers *w, unsigned threads);
unsigned workers_threads(struct workers *w);

/*
 * Does jobs 0..count-1 and returns when all are over. They are begun in their order;
 * after a failure no other is begun. Returns 0, or what the failing job with the
 * lowest index returned, with its error: the same whichever thread was the fastest.
 *
 * Any thread may call this, from within a job too: while the threads are busy with
 * another round, the caller does all the jobs itself. w may be NULL: the same. Threads
 * that cannot be started are done without.
 */
int workers_run(struct workers *w, unsigned count, workers_job *job, void *context,
                struct error *err);

#endif
