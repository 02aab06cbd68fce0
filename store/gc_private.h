/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the collector share. */
#ifndef STASIS_STORE_GC_PRIVATE_H
#define STASIS_STORE_GC_PRIVATE_H

#include "store/gc.h"
#include "store/private.h"
#include "store/walk.h"

/* A pack that was there when the marks were begun. */
struct gc_pack {
    int64_t seq; /* 0: no row */
    uint8_t id[PACK_ID_SIZE];
    enum pack_kind kind;
    uint64_t bytes;
    uint32_t objects;
    bool condemned;
    bool revive;    /* condemned, but something in it is nowhere else */
    bool victim;    /* its needed objects are being copied */
    uint8_t *bits;  /* a bit for each object that is needed; NULL: none */
    uint32_t live;  /* number of these */
    uint32_t alone; /* of these, not in an earlier live pack as well */
};

struct marks {
    struct store *store;
    struct gc_pack *packs; /* by number */
    uint32_t count;
    struct index done; /* checkpoints that were marked */
    struct tree_walk walk;
    uint64_t pages; /* walked so far */
    const struct gc_options *options;
    struct error *err;
};

/* ---- marks.c ---- */

/* Zero-initialised marks can be cleared. The store has been refreshed. */
int marks_begin(struct marks *m, struct store *store, const struct gc_options *options,
                struct error *err);
void marks_clear(struct marks *m);

/*
 * Marks what checkpoints and pins reach. orphans: also checkpoints to which nothing
 * leads. Those marked before cost nothing. -EBADMSG if something is missing.
 */
int marks_roots(struct marks *m, bool orphans);

/* With db.lock held: is there a checkpoint or pin that has not been marked? 1, 0 or
 * negative errno. */
int marks_are_behind_locked(struct marks *m);

int gc_progress(const struct gc_options *options, const char *what, uint64_t done, uint64_t total,
                struct error *err);

/* ---- compact.c ---- */

/* Packs that are being written: the needed objects of victims, under their ids. */
struct compaction;

int compaction_begin(struct marks *m, struct compaction **out, struct error *err);
void compaction_free(struct compaction *c); /* abandons what was not listed */

/* Copies what is needed of a pack. Sets its victim, or leaves it alone where
 * something of it cannot be read. */
int compaction_add(struct compaction *c, struct gc_pack *pack, struct error *err);

/* Bytes written so far. */
uint64_t compaction_bytes(const struct compaction *c);

/* Makes what was written durable, under its final names. */
int compaction_seal(struct compaction *c, struct error *err);

/* Lists it, within a transaction. */
int compaction_list_locked(struct compaction *c, struct error *err);

/* The transaction has been committed, or may have been: the files stay. */
void compaction_keep(struct compaction *c);

#endif
