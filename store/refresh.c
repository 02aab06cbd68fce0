/* SPDX-License-Identifier: Apache-2.0 */
/* The catalogue's table of packs, and keeping up with what other processes do to it. */
#include "base/cleanup.h"
#include "store/private.h"

#include <errno.h>
#include <malloc.h>

/* ---- rows ---- */

int store_pack_row(sqlite3_stmt *stmt, struct pack_row *out, struct error *err)
{
    int64_t kind = sqlite3_column_int64(stmt, 2);
    int64_t bytes = sqlite3_column_int64(stmt, 3);
    int64_t groups = sqlite3_column_int64(stmt, 4);
    int64_t objects = sqlite3_column_int64(stmt, 5);

    if (sqlite3_column_bytes(stmt, 1) != PACK_ID_SIZE ||
        (kind != PACK_PAGES && kind != PACK_NODES) || bytes < 0 || groups < 0 ||
        groups > UINT32_MAX || objects < 0 || objects > UINT32_MAX)
        return error_corrupt(err, "the store's catalogue.db has a bad row for pack %lld",
                             (long long)sqlite3_column_int64(stmt, 0));
    out->seq = sqlite3_column_int64(stmt, 0);
    memcpy(out->id, sqlite3_column_blob(stmt, 1), PACK_ID_SIZE);
    out->kind = (enum pack_kind)kind;
    out->bytes = (uint64_t)bytes;
    out->groups = (uint32_t)groups;
    out->objects = (uint32_t)objects;
    out->condemned =
        sqlite3_column_type(stmt, 6) == SQLITE_NULL ? -1 : sqlite3_column_int64(stmt, 6);
    return 0;
}

int store_insert_pack(struct db *db, const struct pack_index *index, struct error *err)
{
    return db_run(db, err,
                  "INSERT INTO pack(id, kind, bytes, groups, objects, sum) SELECT *, " DB_PACK_SUM
                  " FROM (SELECT ? AS id, ? AS kind, ? AS bytes, ? AS groups, ? AS objects)",
                  "biiii", index->id, (size_t)PACK_ID_SIZE, (int64_t)index->kind,
                  (int64_t)index->file_bytes, (int64_t)index->group_count,
                  (int64_t)index->object_count);
}

int store_next_epoch(struct db *db, int64_t *out, struct error *err)
{
    int r = db_run(db, err, "UPDATE meta SET value = value + 1 WHERE key = 'epoch'", "");

    return r < 0 ? r : db_get_int(db, out, err, "SELECT value FROM meta WHERE key = 'epoch'", "");
}

int store_packs_are_listed_right(struct store *store, struct error *err)
{
    int64_t one;
    int r =
        db_get_int(&store->db, &one, err,
                   "SELECT 1 FROM pack NOT INDEXED WHERE sum IS NOT " DB_PACK_SUM " LIMIT 1", "");

    return r == -ENOENT ? 1 : r;
}

/* ---- keeping up ---- */

static int load_new_packs(struct store *store, struct error *err)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(&store->db, &stmt, err,
                       "SELECT " PACK_ROW " FROM pack WHERE seq > ? ORDER BY seq", "i",
                       store->loaded_seq);

    while (r == 0 && (r = db_step(&store->db, stmt, err)) == 1) {
        struct pack_row row;

        /* Rubbish in one row is the loss of one pack. 'verify' names it. */
        r = 0;
        if (store_pack_row(stmt, &row, NULL) == 0) {
            r = packs_add(&store->packs, &row, err);
            if (r == 0 && row.condemned >= 0)
                packs_set_state(&store->packs, packs_count(&store->packs) - 1, PACK_CONDEMNED);
        }
        if (r == 0)
            store->loaded_seq = sqlite3_column_int64(stmt, 0);
    }
    return r;
}

static void set_state(struct store *store, uint32_t number, enum pack_state state)
{
    if (packs_state(&store->packs, number) != state)
        packs_set_state(&store->packs, number, state);
}

/* Rows and loaded packs come in the same order; a loaded one without a row is gone. */
static int load_states(struct store *store, struct error *err)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct packs *packs = &store->packs;
    uint32_t count = packs_count(packs), i = 0;
    int r = db_prepare(&store->db, &stmt, err,
                       "SELECT seq, condemned IS NOT NULL FROM pack ORDER BY seq", "");

    while (r == 0 && (r = db_step(&store->db, stmt, err)) == 1) {
        int64_t seq = sqlite3_column_int64(stmt, 0);

        r = 0;
        while (i < count && packs_get(packs, i)->seq < seq)
            set_state(store, i++, PACK_FORGOTTEN);
        if (i < count && packs_get(packs, i)->seq == seq)
            set_state(store, i++, sqlite3_column_int(stmt, 1) ? PACK_CONDEMNED : PACK_LIVE);
    }
    while (r == 0 && i < count)
        set_state(store, i++, PACK_FORGOTTEN);
    return r;
}

/* New packs before states: at no time may an object that was moved into a new pack
 * be found in neither. */
static int load(struct store *store, struct error *err)
{
    int64_t epoch;
    int r = db_get_int(&store->db, &epoch, err, "SELECT value FROM meta WHERE key = 'epoch'", "");

    if (r == -ENOENT)
        return error_corrupt(err, "the store's catalogue.db does not say its epoch");
    if (r == 0)
        r = load_new_packs(store, err);
    if (r == 0 && epoch != atomic_load(&store->epoch))
        r = load_states(store, err);
    if (r == 0)
        atomic_store(&store->epoch, epoch);
    return r;
}

int store_load_packs_locked(struct store *store, struct error *err)
{
    struct db *db = &store->db;
    int r;

    if (!sqlite3_get_autocommit(db->handle))
        return load(store, err);
    /* One view of all tables. */
    r = db_run(db, err, "BEGIN", "");
    if (r < 0)
        return r;
    r = load(store, err);
    db_rollback(db);
    return r;
}

int store_refresh_locked(struct store *store, struct error *err)
{
    int64_t version;
    int r = db_get_int(&store->db, &version, err, "PRAGMA data_version", "");

    if (r < 0)
        return r;
    if (version == store->data_version)
        return 0;
    r = store_load_packs_locked(store, err);
    if (r == 0)
        store->data_version = version;
    return r;
}

int store_refresh(struct store *store, struct error *err)
{
    _cleanup_(db_unlockp) struct db *locked = db_locked(&store->db);

    (void)locked;
    return store_refresh_locked(store, err);
}

void store_tidy(struct store *store)
{
    (void)store_refresh(store, NULL);
}

void store_forget_pages(struct store *store)
{
    group_cache_clear(store->cache);
    malloc_trim(0); /* groups are too small for mappings of their own */
}
