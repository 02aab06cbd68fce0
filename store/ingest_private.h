/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of an ingest.
 *
 * What an ingest sees of the store stands still: the packs that were committed
 * when it began (its view) and what it wrote itself. So a reference always means
 * one page to it, whatever other processes commit meanwhile. Two ingests may
 * give the same reference to different pages that share a key, each unaware of
 * the other; the one that commits second finds out in its commit and renames its
 * own (rewrite.c).
 */
#ifndef STASIS_STORE_INGEST_PRIVATE_H
#define STASIS_STORE_INGEST_PRIVATE_H

#include "store/ingest.h"
#include "store/private.h"

#define GROUP_RAW_BYTES (PACK_HOT_GROUP_PAGES * STASIS_PAGE_SIZE)
#define NODE_GROUP_OBJECTS PACK_GROUP_OBJECTS_MAX

enum own_state {
    OWN_WRITING,
    OWN_FINISHED, /* footer written, still a .tmp */
    OWN_SEALED,   /* durable and renamed, not in the catalogue yet */
    OWN_DROPPED,  /* replaced or committed: no longer ours, its number stays taken */
};

/* A pack this ingest writes. Its file is flocked until the ingest is freed. */
struct own_pack {
    enum pack_kind kind;
    enum own_state state;
    int fd;
    uint32_t owner;             /* cache number */
    char name[PACK_NAME_SIZE];  /* of the file as it is now, below packs/ */
    struct pack_writer *writer; /* while it is being written */
    struct pack_index *index;   /* from when it is finished */
};

/* The group that is being filled, and the pack it will go to. */
struct open_group {
    enum pack_kind kind;
    bool has_pack;
    uint32_t pack; /* number among the ingest's own */
    unsigned count;
    size_t used;
    uint8_t *raw;
    uint32_t offsets[NODE_GROUP_OBJECTS + 1];
    struct pack_object_id ids[NODE_GROUP_OBJECTS];
};

struct own_blob {
    struct digest digest;
    void *data;
    size_t length;
};

/* A map that was rewritten: what the caller knows, and what it became. */
struct moved_root {
    struct digest from;
    struct digest to;
};

struct ingest {
    struct store *store;
    uint32_t view;    /* packs 0..view-1 of the store are seen */
    uint32_t checked; /* packs view..checked-1 do not clash with ours */
    struct own_pack **packs;
    uint32_t pack_count;
    struct index pages; /* own objects; pack is a number among our own */
    struct index nodes;
    struct open_group page_group;
    struct open_group node_group;
    struct own_blob *blobs;
    size_t blob_count;
    struct moved_root *moved;
    size_t moved_count;
    struct locations found;
    struct cached_group *near_store; /* group of the last hit, in the store's packs */
    struct cached_group *near_own;   /* and in our own */
    bool failed;                     /* a write failed: what there is cannot be committed */
    bool committed;                  /* or nobody knows: the packs are not ours to remove */
    struct ingest_stats stats;
};

/* ---- ingest.c ---- */

/* The footer of a pack of ours, as far as it is written; NULL once dropped. */
const struct pack_index *own_index(const struct own_pack *pack);

/* The bytes of an object of our own; valid until the next write of its kind. */
int ingest_own_bytes(struct ingest *in, enum pack_kind kind, const struct index_entry *e,
                     const uint8_t **bytes_out, size_t *length_out, struct error *err);

/* An encoded node, our own or of any committed pack; *group_out (may become NULL)
 * keeps it alive, and so does not writing nodes. */
int ingest_node_bytes(struct ingest *in, const struct digest *digest,
                      struct cached_group **group_out, const uint8_t **bytes_out,
                      size_t *length_out, struct error *err);

/* The same, decoded; its level must be the given one. */
int ingest_node_read(struct ingest *in, const struct digest *digest, unsigned level,
                     struct map_node *out, struct error *err);

/* Is the node our own or in a pack of our view? */
bool ingest_sees_node(struct ingest *in, const struct digest *digest);
/* Is the page in a pack of our view? */
bool ingest_view_has_page(struct ingest *in, struct page_ref ref);

/* Finds an equal page, or the reference a new one gets: see ingest.c. */
int ingest_find_page(struct ingest *in, const void *page, uint32_t to, struct page_ref skip,
                     struct page_ref *ref_out, bool *exists_out, struct error *err);

/* Stores an encoded node unless we see an equal one. */
int ingest_encoded_node(struct ingest *in, const void *bytes, size_t length,
                        const struct digest *digest, struct error *err);

/* Starts a pack that belongs to the ingest. */
int ingest_add_pack(struct ingest *in, enum pack_kind kind, uint32_t *number_out,
                    struct error *err);
/* Takes a pack's file away; its number stays. */
void ingest_drop_pack(struct ingest *in, uint32_t number);
/* Writes what is still in memory and the footers of all packs. */
int ingest_flush(struct ingest *in, struct error *err);

bool ingest_has_blob(const struct ingest *in, const struct digest *digest);

/* ---- rewrite.c ---- */

/* Maps 16-byte references to their new variants. */
struct renames {
    struct index table; /* id: the old reference; object: the new variant */
};

/* Compares our pages with those of the store's packs checked..to-1, and lists
 * the references that mean another page there. */
int ingest_find_clashes(struct ingest *in, uint32_t to, struct renames *out, struct error *err);

/* Gives the clashing pages of ours other references: rewrites packs and maps;
 * roots[] are updated. */
int ingest_rename_pages(struct ingest *in, const struct renames *clashes, uint32_t to,
                        struct digest **roots, unsigned root_count, struct error *err);

/*
 * Writes the maps below roots[] again with renamed references, and forgets all
 * nodes we had written before. everything: follow nodes of the store too, which
 * is needed when the names are those of another store.
 */
int ingest_rewrite_maps(struct ingest *in, const struct renames *renames, bool everything,
                        struct digest **roots, unsigned root_count, struct error *err);

#endif
