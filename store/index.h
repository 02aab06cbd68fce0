/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash in memory, from 16-byte ids to 64 bits: where the objects of an ingest lie
 * (those of the store: run.h), and what else has to be found by an id. Open addressing
 * with 24-byte entries. All variants of one page key share a probe chain, and one id
 * may be in it several times. Not thread-safe.
 */
#ifndef STASIS_STORE_INDEX_H
#define STASIS_STORE_INDEX_H

#include "imgfmt/page.h"

#include <stdbool.h>
#include <stdint.h>

struct index_entry {
    struct page_ref id;  /* of a page, or page_ref_load() of a node's SHA-256 */
    uint32_t pack_plus1; /* 0: the slot is empty */
    uint32_t object;     /* ordinal within the pack */
};

/* Zero-initialised is empty and valid. */
struct index {
    struct index_entry *slots;
    uint64_t slot_count; /* 0 or a power of two */
    uint64_t count;
};

void index_clear(struct index *ix);

/* Makes room for `more` entries. 0 or -ENOMEM. */
int index_reserve(struct index *ix, uint64_t more);

/* Adds an entry, whether or not that id is there. 0 or -ENOMEM. */
int index_add(struct index *ix, struct page_ref id, uint32_t pack, uint32_t object);

/*
 * Walks the entries of one key, all variants, in the order they were added. The
 * index must not change meanwhile.
 */
struct index_cursor {
    const struct index *ix;
    struct page_ref key;
    uint64_t position;
};

struct index_cursor index_find(const struct index *ix, struct page_ref id);
/* The next entry with the cursor's key, or NULL. */
const struct index_entry *index_next(struct index_cursor *cursor);
/* The next entry with exactly this id, variant included, or NULL. */
const struct index_entry *index_next_exact(struct index_cursor *cursor);

/* The first entry with exactly this id, or NULL; valid until the next change. */
struct index_entry *index_get(const struct index *ix, struct page_ref id);

static inline uint32_t index_entry_pack(const struct index_entry *e)
{
    return e->pack_plus1 - 1;
}

#endif
