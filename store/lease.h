/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: what tells the collector of garbage that somebody depends on things no
 * checkpoint of the catalogue refers to (gc.h has the protocol).
 *
 * A lease is a row of the catalogue. A writer's says at which epoch it began; a
 * pin's holds the checkpoint that is being read. Its owner is an open store: a
 * number, whose byte of the file DIR/leases is locked as long as the owner lives.
 * The kernel lets go of that lock however a process ends; so whoever finds the
 * lock of a lease's owner free has found a lease that has ended, and no clock and
 * no process number is ever believed.
 */
#ifndef STASIS_STORE_LEASE_H
#define STASIS_STORE_LEASE_H

#include "store/private.h"

/* Takes a writer's lease at the present epoch. */
int lease_take(struct store *store, struct lease *out, struct error *err);

/* Ends a lease; one that has ended is fine. Where the catalogue cannot be written,
 * that is done with the next lease. */
void lease_end(struct store *store, struct lease *lease);

/* ---- with db.lock held, within the caller's transaction ---- */

/* Ends a writer's lease with what it commits. -ESTALE if it was taken away: then
 * what the writer relied on may be gone. */
int lease_end_locked(struct store *store, const struct lease *lease, struct error *err);

/* The same, but from now on it is a pin of that checkpoint, until the store is
 * closed: nothing else refers to the checkpoint yet. */
int lease_become_pin_locked(struct store *store, const struct lease *lease,
                            const struct digest *checkpoint, struct error *err);

/* Removes the leases of owners that have died. */
int lease_drop_dead_locked(struct store *store, struct error *err);

/* When the oldest writer that is still at work began; INT64_MAX if there is none. */
int lease_oldest_locked(struct store *store, int64_t *epoch_out, struct error *err);

/* ---- one collector at a time ---- */

/* -EBUSY if another process or thread collects. */
int lease_lock_collector(struct store *store, struct error *err);
void lease_unlock_collector(struct store *store);

/* ---- the store's own part ---- */

/* Opens DIR/leases and removes leases of the dead. */
int leases_open(struct store *store, struct error *err);
/* Ends all leases of this store. */
void leases_close(struct store *store);

#endif
