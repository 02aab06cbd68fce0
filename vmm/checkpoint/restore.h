/* SPDX-License-Identifier: Apache-2.0 */
/* Putting a machine to a checkpoint: a fresh one, or one that has run. */
#ifndef STASIS_VMM_CHECKPOINT_RESTORE_H
#define STASIS_VMM_CHECKPOINT_RESTORE_H

#include "vmm/checkpoint/save.h"

/* Fills RAM (all zero so far) and restores all state of a warm checkpoint. No vCPU
 * runs. The disks were opened over it by board_create(). */
int restore_fresh(struct board *board, struct store *store, const struct manifest *m,
                  bool clock_host, struct error *err);

/* Reads all that a start from the checkpoint will read, and forgets it: what is
 * wrong is found out while there still is another machine to go on with. */
int restore_check(struct store *store, const struct manifest *m, struct error *err);

/*
 * Rolls a parked machine to the warm checkpoint `target`: rewrites only RAM pages
 * that differ (written since base, or different between base and target), puts
 * disks and devices back. Everything is read and checked before anything is
 * changed: an error with *changed_out false leaves the machine as it was; with
 * true it must not run again. Event loop thread.
 */
int restore_in_place(struct board *board, struct store *store, const struct checkpoint_base *base,
                     const struct checkpoint_base *target, bool clock_host, bool *changed_out,
                     struct error *err);

#endif
