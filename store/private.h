/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. Lock order: db, then packs. */
#ifndef STASIS_STORE_PRIVATE_H
#define STASIS_STORE_PRIVATE_H

#include "base/workers.h"
#include "store/db.h"
#include "store/packs.h"
#include "store/store.h"

#include <stdatomic.h>

struct store {
    char *dir; /* absolute or as given */
    int dirfd;
    int packs_dirfd;
    struct db db;
    struct group_cache *cache;
    struct packs packs;
    struct workers *workers; /* hash, compare and compress */
    int64_t loaded_seq;      /* of the last pack row loaded; under db.lock */
    int64_t data_version;    /* of the catalogue when it was; under db.lock */
    atomic_llong epoch;      /* of the packs' states as loaded; changed under db.lock */
    atomic_uint next_owner;  /* cache numbers of packs being written */
    int leases_fd;           /* of DIR/leases (lease.h) */
    int64_t lease_owner;     /* our number there, 0 before the first lease; under db.lock */
    int64_t *ended;          /* leases whose end could not be written yet; under db.lock */
    size_t ended_count;
    atomic_bool collecting;   /* a thread of ours is in store_gc() */
    atomic_ullong nodes_read; /* of maps: what walks cost, for tests */
};

/* A row of the table of leases. Zero-initialised: none. */
struct lease {
    int64_t id;
    int64_t epoch; /* when it began */
};

/* ---- refresh.c ---- */

/* Loads packs that other processes committed since, and learns which ones were
 * condemned, forgotten or made live again. 0 or negative errno. */
int store_refresh(struct store *store, struct error *err);
int store_refresh_locked(struct store *store, struct error *err);
/* The same without asking whether anything changed; the caller holds db.lock. */
int store_load_packs_locked(struct store *store, struct error *err);

/* A row of "SELECT " PACK_ROW " FROM pack", checked. */
#define PACK_ROW "seq, id, kind, bytes, groups, objects, condemned"
int store_pack_row(sqlite3_stmt *stmt, struct pack_row *out, struct error *err);

/* Lists a sealed pack, within a transaction. */
int store_insert_pack(struct db *db, const struct pack_index *index, struct error *err);

/* Within a transaction: what is done to packs' states from here on has a new
 * number. */
int store_next_epoch(struct db *db, int64_t *out, struct error *err);

/* Are all rows of packs what they were when they were written? 1, 0 or negative errno.
 * db.lock is held. */
int store_packs_are_listed_right(struct store *store, struct error *err);

/* Makes a file for a new pack in packs/ and locks it, so that nobody takes it for a
 * leftover while it is open. Returns its descriptor. */
int store_create_pack(struct store *store, char name[PACK_NAME_SIZE], struct error *err);
/* Makes it durable and gives it the name of the pack of that id. The directory is
 * for the caller to sync. */
int store_seal_pack(struct store *store, int fd, const uint8_t id[PACK_ID_SIZE],
                    char name_io[PACK_NAME_SIZE], struct error *err);

/* Sets some room aside, if there is any and none has been. */
void store_make_reserve(struct store *store);
/* Gives it back to whoever meets a full disk; false if there is none. */
bool store_release_reserve(struct store *store);

/* Finds objects in the committed packs from..to-1 into a growing array; returns
 * how many or -ENOMEM. */
struct locations {
    struct location *list;
    unsigned capacity;
};
int store_find_all(struct store *store, struct page_ref key, uint32_t from, uint32_t to,
                   struct locations *io);

/* The stored bytes of a page: *group_io as for packs_read_near(). */
int store_page_near(struct store *store, struct page_ref ref, struct cached_group **group_io,
                    const uint8_t **bytes_out, struct error *err);

/* The same if it is decoded already; else, and where anything is wrong, -EAGAIN. */
int store_page_cached(struct store *store, struct page_ref ref, struct cached_group **group_io,
                      const uint8_t **bytes_out);

/* The encoded node, checked against its SHA-256; *group_out keeps it alive. */
int store_node_bytes(struct store *store, const struct digest *digest,
                     struct cached_group **group_out, const uint8_t **bytes_out, size_t *length_out,
                     struct error *err);

/* The index id of a node. */
static inline struct page_ref node_id(const struct digest *digest)
{
    return page_ref_load(digest->bytes);
}

/* A blob, with db.lock held. -ENOENT without a message if there is none. */
int store_blob_read_locked(struct store *store, const struct digest *digest, void **data_out,
                           size_t *length_out, struct error *err);

/* The manifest's bytes, checked against id. Takes db.lock. -ENOENT with a message. */
int catalogue_manifest_text(struct store *store, const struct digest *id, char **text_out,
                            size_t *length_out, struct error *err);

/* ---- catalogue, with db.lock held and within the caller's transaction ---- */

/* -ENOENT with a message if there is no such machine or checkpoint. */
int catalogue_need_machine(struct db *db, const char *name, struct error *err);
int catalogue_need_checkpoint(struct db *db, const struct digest *id, struct error *err);
int catalogue_put_image(struct db *db, const char *name, const char *tag, const struct digest *id,
                        bool replace, struct error *err);
int catalogue_put_head(struct db *db, const char *machine, const struct digest *head,
                       struct error *err);
/* Records a checkpoint, whose manifest is `text`, under machine and name if not
 * NULL. -EEXIST. */
int catalogue_put_checkpoint(struct db *db, const struct digest *id, const char *machine,
                             const char *name, const struct manifest *m, const char *text,
                             size_t length, struct error *err);
/* Removes device states that no checkpoint and no pin needs. */
int catalogue_remove_blobs(struct db *db, struct error *err);
/* -EEXIST if that would be refused for its name or tag. */
int catalogue_check_names(struct db *db, const struct digest *id, const char *machine,
                          const char *name, const char *image, const char *tag, bool replace,
                          struct error *err);

/* Pages that the bits of a leaf or inner node at `level` stand for: the first
 * page of child i of the node that begins at page `first`. */
static inline uint64_t map_child_first(uint64_t first, unsigned level, unsigned i)
{
    return first + ((uint64_t)i << map_entry_shift(level));
}

#endif
