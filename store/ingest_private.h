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

#include "base/workers.h"
#include "store/ingest.h"
#include "store/private.h"

#define GROUP_RAW_BYTES (PACK_HOT_GROUP_PAGES * STASIS_PAGE_SIZE)
#define NODE_GROUP_OBJECTS PACK_GROUP_OBJECTS_MAX

#define HOT_ZSTD_LEVEL 1

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

/* A group that waits to be written. */
struct open_group {
    unsigned count;       /* objects in it */
    size_t used;          /* their bytes */
    const uint8_t *bytes; /* end to end: in own, or lent by the caller of ingest_pages() */
    bool ready;           /* encoded; of the round that writes it */
    struct pack_encoded encoded;
    uint32_t offsets[NODE_GROUP_OBJECTS + 1];
    struct pack_object_id ids[NODE_GROUP_OBJECTS];
    uint8_t own[GROUP_RAW_BYTES];
};

/* Groups are compressed by several threads at once, so they are gathered first: 8 MiB
 * of pages keep the threads busy for ten milliseconds, and the moments in which one
 * waits for the other are few. */
#define QUEUE_GROUPS 128u

/* The groups of one kind that wait, and the pack they will go to. All but the last
 * are full. */
struct group_queue {
    enum pack_kind kind;
    bool has_pack;
    uint32_t pack;                           /* number among the ingest's own */
    unsigned count;                          /* groups */
    unsigned objects;                        /* in all of them */
    struct open_group *groups[QUEUE_GROUPS]; /* NULL until first used */
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
    struct lease lease;
    uint32_t view;    /* packs 0..view-1 of the store are seen */
    uint32_t checked; /* packs view..checked-1 do not clash with ours */
    struct own_pack **packs;
    uint32_t pack_count;
    struct index pages; /* own objects; pack is a number among our own */
    struct index nodes;
    struct group_queue page_queue;
    struct group_queue node_queue;
    struct pack_encoder *encoders[WORKERS_MAX]; /* one for each thread of a round */
    struct page_batch *batch;                   /* of ingest_pages(); NULL until first used */
    struct own_blob *blobs;
    size_t blob_count;
    struct moved_root *moved;
    size_t moved_count;
    int64_t *revived; /* seq of condemned packs that the commit needs (keep.c) ... */
    size_t revived_count;
    int64_t kept_epoch; /* ... as things were at this epoch, if kept */
    bool kept;
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

/* The same for several threads while nothing is written: *group_io as for
 * packs_read_near(). */
int ingest_own_bytes_near(struct ingest *in, enum pack_kind kind, const struct index_entry *e,
                          struct cached_group **group_io, const uint8_t **bytes_out,
                          size_t *length_out, struct error *err);

/* An encoded node, our own or of any committed pack; *group_out (may become NULL)
 * keeps it alive, and so does not writing nodes. */
int ingest_node_bytes(struct ingest *in, const struct digest *digest,
                      struct cached_group **group_out, const uint8_t **bytes_out,
                      size_t *length_out, struct error *err);

/* The same, decoded; its level must be the given one. */
int ingest_node_read(struct ingest *in, const struct digest *digest, unsigned level,
                     struct map_node *out, struct error *err);

/* Is that object our own? */
bool ingest_owns(const struct ingest *in, enum pack_kind kind, struct page_ref id);
/* Is the node our own or in a pack of our view? */
bool ingest_sees_node(struct ingest *in, const struct digest *digest);
/* Is the page in a pack of our view? */
bool ingest_view_has_page(struct ingest *in, struct page_ref ref);

/* Stores an encoded node unless we see an equal one. */
int ingest_encoded_node(struct ingest *in, const void *bytes, size_t length,
                        const struct digest *digest, struct error *err);

/* Starts a pack that belongs to the ingest. */
int ingest_add_pack(struct ingest *in, enum pack_kind kind, uint32_t *number_out,
                    struct error *err);
/* Takes a pack's file away; its number stays. */
void ingest_drop_pack(struct ingest *in, uint32_t number);
/* Writes the footer. */
int ingest_finish_pack(struct own_pack *pack, struct error *err);

bool ingest_has_blob(const struct ingest *in, const struct digest *digest);

/* ---- ingest_groups.c ---- */

/* Puts an object into the last group. lend: bytes stay where they are until
 * ingest_settle_pages(), so they need not be copied. */
int ingest_add_object(struct ingest *in, enum pack_kind kind, struct page_ref id, const void *bytes,
                      size_t length, bool lend, struct error *err);

/* After lending: writes the full groups of pages and copies what is in the last. */
int ingest_settle_pages(struct ingest *in, struct error *err);

/* Where an object that is not written yet lies: position counts from the first of them. */
void ingest_queued_bytes(const struct group_queue *q, uint32_t position, const uint8_t **bytes_out,
                         size_t *length_out);

/* Writes what is still in memory and the footers of all packs. */
int ingest_flush(struct ingest *in, struct error *err);

void ingest_groups_free(struct ingest *in);

/* ---- ingest_pages.c ---- */

/* Finds an equal page among our own and the store's packs 0..to-1 (then *exists_out),
 * or the reference it would get. `skip` is a reference of ours that does not count
 * (zero: none): the one that is to be replaced. */
int ingest_find_page(struct ingest *in, const void *page, uint32_t to, struct page_ref skip,
                     struct page_ref *ref_out, bool *exists_out, struct error *err);

/* ---- keep.c ---- */

/*
 * Makes sure that all the manifest reaches will be kept: if packs were condemned
 * since the ingest began, or are now, walks the maps and lists the condemned packs
 * without which something would be missing. Before the transaction; what was looked
 * at need not be again while the epoch stays.
 */
int ingest_keep(struct ingest *in, const struct manifest *m, struct error *err);

/* Within the transaction, when packs have been loaded: makes those packs live again.
 * -EAGAIN if others were condemned meanwhile. */
int ingest_keep_locked(struct ingest *in, struct error *err);

/* ---- map_builder.c ---- */

/* Stores the pages that wait; what was put need not stay any longer. */
int map_builder_flush(struct map_builder *b, struct error *err);

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
