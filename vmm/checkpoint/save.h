/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving a running machine in three steps: save_prepare() copies what it can while
 * the guest runs; save_begin() takes everything that must be of one instant while
 * the vCPUs are parked; save_run() turns it into a checkpoint while the guest runs
 * on.
 */
#ifndef STASIS_VMM_CHECKPOINT_SAVE_H
#define STASIS_VMM_CHECKPOINT_SAVE_H

#include "store/store.h"
#include "vmm/board.h"

/* The checkpoint that RAM and disks equal but for what was written since. */
struct checkpoint_base {
    struct digest id;
    struct manifest manifest;
    bool has_memory; /* false after a cold boot: RAM was all zero */
};

struct save;

struct save_result {
    struct digest id;
    struct manifest manifest;
    uint64_t pages;     /* of RAM that had been written */
    uint64_t pages_new; /* RAM and disk pages the store did not have */
    uint64_t stored_bytes;
};

/*
 * Does what a save can do while the guest runs: copies the RAM pages written since
 * base, makes the disks' next overlays. What is written later is save_begin()'s. On
 * failure everything is as before (dirty bits given back). Event loop thread.
 */
int save_prepare(struct board *board, const struct checkpoint_base *base, struct save **out,
                 struct error *err);

/* The instant. vCPUs are parked. Copies device state and the RAM pages written since
 * save_prepare(), freezes the disks. After a failure: save_give_back(), save_free().
 * Event loop thread. */
int save_begin(struct save *save, struct error *err);

/* Stores and commits under machine and name (NULL: no name). Any thread; the
 * board may run meanwhile but must neither be saved, restored nor freed. */
int save_run(struct save *save, struct store *store, const char *machine, const char *name,
             struct save_result *out, struct error *err);

/* After save_begin() or save_run() failed, or was not called: what it would have stored counts as
 * written since base again. Event loop thread. */
void save_give_back(struct save *save);

void save_free(struct save *save);

#endif
