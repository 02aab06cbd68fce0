/* SPDX-License-Identifier: Apache-2.0 */
/* How much is stored, for whom, and whether it is still good. */
#ifndef STASIS_STORE_USAGE_H
#define STASIS_STORE_USAGE_H

#include "store/store.h"

#include <stdbool.h>

struct store_usage {
    uint64_t checkpoints;
    uint64_t machines;
    uint64_t images;
    uint64_t logical_bytes;  /* sum over checkpoints of the non-zero pages of their spaces */
    uint64_t unique_bytes;   /* distinct pages that some checkpoint refers to, uncompressed */
    uint64_t stored_bytes;   /* bytes of all packs on disk */
    uint64_t metadata_bytes; /* of these, packs of map nodes, plus the catalogue */
    uint64_t garbage_bytes;  /* pages in packs that no checkpoint refers to, uncompressed */
    uint64_t packs;
    uint64_t free_bytes; /* of the file system the store is on */
};

int store_usage_get(struct store *store, struct store_usage *out, struct error *err);

/* Bytes of distinct pages that only the checkpoints of this machine (and its
 * head) refer to: what removing it would free, uncompressed. */
int store_usage_machine(struct store *store, const char *machine, uint64_t *unique_bytes_out,
                        struct error *err);

/* What a checkpoint shows, and what of it no other checkpoint has. */
struct checkpoint_usage {
    uint64_t logical_bytes; /* non-zero pages of its spaces */
    uint64_t unique_bytes;  /* distinct pages that no other checkpoint refers to */
    struct {
        uint64_t logical_bytes;
        uint64_t unique_bytes;     /* a page that two spaces have counts with the first */
    } spaces[MANIFEST_SPACES_MAX]; /* as in its manifest m */
};

int store_usage_checkpoint(struct store *store, const struct digest *id, const struct manifest *m,
                           struct checkpoint_usage *out, struct error *err);

/* What can be done, or was done, about it. */
enum verify_state {
    VERIFY_LOST,     /* nothing is left to mend it with */
    VERIFY_MENDABLE, /* parity, a copy or another source has what is needed */
    VERIFY_MENDED,   /* the file is as it was written */
};

/* One thing that is wrong. */
struct verify_finding {
    const char *file; /* relative to the store */
    uint64_t offset;  /* of the group or field, 0 if the whole file */
    const char *what;
    enum verify_state state;
    const struct digest *checkpoints; /* which of them it hits */
    size_t checkpoint_count;
};

/* A place that may have pages but is no store: a running machine. */
struct page_source {
    /* Calls found with the bytes of pages it has by these keys (whatever their variants).
     * A failure is no more than not finding them. */
    void (*find)(const struct page_ref *keys, unsigned count,
                 void (*found)(const uint8_t *page, void *found_context), void *found_context,
                 void *context);
    void *context;
};

struct verify_options {
    void (*finding)(const struct verify_finding *finding, void *context); /* may be NULL */
    /* done and total in bytes of packs; non-zero return cancels; may be NULL */
    int (*progress)(uint64_t done, uint64_t total, void *context);
    void *context;
    uint64_t bytes_per_second;    /* 0: as fast as it goes */
    uint64_t max_age_us;          /* packs found good less long ago are left out; 0: none */
    bool again;                   /* do not go on where a stopped run was */
    bool repair;                  /* mend what can be mended */
    struct store *const *sources; /* other stores to mend from */
    size_t source_count;
    const struct page_source *page_sources;
    size_t page_source_count;
};

struct verify_result {
    uint64_t packs;         /* that were read */
    uint64_t packs_skipped; /* found good by a run that was stopped, or recently */
    uint64_t groups;
    uint64_t pages;
    uint64_t nodes;
    uint64_t checkpoints;
    uint64_t findings;
    uint64_t mendable; /* of the findings */
    uint64_t mended;
    uint64_t bytes;
};

/*
 * Re-reads everything, what was verified longest ago first: every byte of every pack
 * against the checksums, every group against its SHA-256 and the recomputed keys of
 * its pages, every manifest and blob against its digest, every map down to its pages.
 * A run that was stopped less than a day ago is gone on with. Returns 0 also when
 * something is wrong: see findings. Negative errno if it could not go on; -ECANCELED.
 *
 * With repair, damaged packs are replaced by what they were, byte for byte: from
 * their parity, from other copies of their pages and nodes in this store and in the
 * sources, or from the same pack in a source. Nothing is replaced by anything that
 * has not passed all its checksums and SHA-256s.
 */
int store_verify(struct store *store, const struct verify_options *options,
                 struct verify_result *out, struct error *err);

/* Makes the files of the index (DIR/index) anew from the footers of all packs that
 * can be read. They are a cache: nothing is lost with them, and a store whose index
 * is missing or damaged does this by itself when it is next written to. */
int store_index_rebuild(struct store *store, struct error *err);

#endif
