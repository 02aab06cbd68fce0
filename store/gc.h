/* SPDX-License-Identifier: Apache-2.0 */
/* Collecting garbage: giving back what no checkpoint needs any more. Never done
 * unasked. How it is safe beside writers is at the top of gc.c. */
#ifndef STASIS_STORE_GC_H
#define STASIS_STORE_GC_H

#include "store/store.h"

struct gc_options {
    bool dry_run;     /* only look: nothing is changed, and writers notice nothing */
    uint32_t wait_ms; /* how long to wait for writers that began before */
    /* what is done now, bytes done and total (0: not known); non-zero return cancels;
     * may be NULL */
    int (*progress)(const char *what, uint64_t done, uint64_t total, void *context);
    void *context;
};

struct gc_result {
    /* what there is, or was at the beginning */
    uint64_t checkpoints;    /* that no name, machine or image leads to */
    uint64_t packs_dead;     /* nothing in them is needed */
    uint64_t packs_sparse;   /* less than half is */
    uint64_t freeable_bytes; /* of files, less what must be copied (about) */
    /* what was done */
    uint64_t packs_removed;
    uint64_t freed_bytes;  /* of their files */
    uint64_t copied_bytes; /* of new files: what was still needed of sparse packs */
    /* what has to wait for writers that began before, and will be done next time */
    uint64_t packs_waiting;
    uint64_t waiting_bytes;
};

/*
 * Removes checkpoints to which nothing leads, device states and packs that nothing
 * needs, and writes packs again of which less than half is needed. Any number of
 * processes may read and write meanwhile. -EBUSY if another collects; -EBADMSG if
 * something that a checkpoint needs is missing: then nothing is removed that could
 * still hold it. May be cancelled, killed or fail at any point: nothing that is
 * needed is lost, and the next run goes on. *out is filled also after a failure.
 */
int store_gc(struct store *store, const struct gc_options *options, struct gc_result *out,
             struct error *err);

#endif
