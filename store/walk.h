/* SPDX-License-Identifier: Apache-2.0 */
/* Walking the maps of many checkpoints: each node once, however many maps share
 * it, so that a walk costs what is stored and not what it stands for. */
#ifndef STASIS_STORE_WALK_H
#define STASIS_STORE_WALK_H

#include "store/private.h"

struct tree_walk {
    /* Reads an encoded node, checked against its digest, as store_node_bytes().
     * NULL: from `store`. */
    int (*read)(void *context, const struct digest *digest, struct cached_group **group_out,
                const uint8_t **bytes_out, size_t *length_out, struct error *err);
    /* Called for each distinct node behind its children. May be NULL. */
    int (*node)(void *context, const struct digest *digest, const uint8_t *bytes, size_t length,
                const struct map_node *decoded);
    /* Called for each page of each distinct leaf, in order. May be NULL. */
    int (*page)(void *context, struct page_ref ref);
    /* A node could not be read or is wrong: return 0 to go on without it. NULL:
     * the walk ends with the error. */
    int (*bad)(void *context, const struct digest *digest, const struct error *why);
    void *context;
    struct store *store;
    struct index seen; /* nodes walked, with level and pages below */
    struct error *err;
};

/* Walks what is new below a root. *pages_out (may be NULL): non-zero pages of the
 * whole map, those walked before included. Pages at or beyond page_count are an
 * error. */
int tree_walk_map(struct tree_walk *walk, const struct digest *root, uint64_t page_count,
                  uint64_t *pages_out);
void tree_walk_clear(struct tree_walk *walk);

/* A bit for each page in the store's packs. */
struct page_marks {
    struct store *store;
    uint8_t **bits; /* by pack; NULL: none set */
    uint32_t count;
};

/* Marks a page: 1 if it was not marked before, 0 if it was; -ENOENT if no pack
 * has it (no message); -ENOMEM. */
int page_marks_set(struct page_marks *marks, struct page_ref ref);
void page_marks_clear(struct page_marks *marks);

#endif
