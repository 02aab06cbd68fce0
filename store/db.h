/* SPDX-License-Identifier: Apache-2.0 */
/* A thin layer over SQLite: statements with their values in one call, errors as
 * the project says them. Whoever uses a db holds its lock, from before the
 * statement is prepared until it is finalized. */
#ifndef STASIS_STORE_DB_H
#define STASIS_STORE_DB_H

#include "base/digest.h"
#include "base/error.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>

struct db {
    sqlite3 *handle;
    sqlite3_stmt *rollback; /* ready: there may be no memory when it is needed */
    char *path;
    pthread_mutex_t lock;
    int mark_fd; /* of DIR/commits, or -1 (db_mark.c) */
    bool quick;  /* transactions need not be durable, and do not count */
};

/* What the sums of rows are over. */
#define DB_CHECKPOINT_SUM "row_sum(id, machine, name, created_us, state)"
#define DB_MACHINE_SUM "row_sum(name, created_us, head, origin)"
#define DB_PACK_SUM "row_sum(id, kind, bytes, groups, objects)"
#define DB_IMAGE_SUM "row_sum(name, tag, id, created_us)"

/* Conditions on a row of checkpoints. One is in use if an image is it or a machine
 * builds on it; an orphan if nothing but its id leads to it. */
#define DB_IN_USE                                                                                  \
    " (id IN (SELECT id FROM image) OR id IN (SELECT head FROM machine WHERE head IS NOT NULL)"    \
    " OR id IN (SELECT origin FROM machine))"
#define DB_ORPHAN                                                                                  \
    " (machine IS NULL AND NOT" DB_IN_USE                                                          \
    " AND id NOT IN (SELECT checkpoint FROM lease WHERE checkpoint IS NOT NULL))"

/* Opens or creates the catalogue and its tables; refuses a newer schema. may_be_new
 * false: -ENODATA (no message) if it has no tables. */
int db_open(struct db *db, const char *path, bool may_be_new, struct error *err);
void db_close(struct db *db); /* of a half-opened one too */

void db_lock(struct db *db);
void db_unlock(struct db *db);

/* Unlocks at the end of the scope: _cleanup_(db_unlockp) struct db *locked. */
struct db *db_locked(struct db *db);
static inline void db_unlockp(struct db **db)
{
    if (*db != NULL)
        db_unlock(*db);
}

/*
 * Prepares sql and binds one value for each letter of types: i int64_t, t const
 * char * (NULL: SQL NULL), d const struct digest * (NULL: SQL NULL), b const void
 * * and size_t. Values must live until the statement is finalized.
 */
int db_prepare(struct db *db, sqlite3_stmt **out, struct error *err, const char *sql,
               const char *types, ...);
/* 1: there is a row; 0: no more; negative errno. */
int db_step(struct db *db, sqlite3_stmt *stmt, struct error *err);
/* Prepares, runs to the end and finalizes. */
int db_run(struct db *db, struct error *err, const char *sql, const char *types, ...);
/* db_run() for a query that yields one integer; -ENOENT (no message) if none. */
int db_get_int(struct db *db, int64_t *out, struct error *err, const char *sql, const char *types,
               ...);

/* How many rows the last db_run() changed. */
int db_changes(struct db *db);

/* Write transactions. db_rollback() is harmless when none is open. */
int db_begin(struct db *db, struct error *err);
int db_commit(struct db *db, struct error *err);
void db_rollback(struct db *db);

/* ---- db_mark.c: what tells that the end of the catalogue's log has been lost ---- */

/* fresh: the catalogue has just been made. */
int db_mark_open(struct db *db, bool fresh, struct error *err);
/* So many transactions are durable. */
void db_mark_write(struct db *db, int64_t commits);
/* How many have been lost, and where the log ended then. -EBADMSG: DIR/commits is
 * damaged. */
int db_mark_check(struct db *db, int64_t *lost_out, uint64_t *end_out);
/* Forgets what has been lost, and writes DIR/commits anew. */
int db_mark_repair(struct db *db);

/* A column as a digest: 0, or -EBADMSG if it is not 32 bytes. */
int db_column_digest(sqlite3_stmt *stmt, int column, struct digest *out, struct error *err);
/* A column as a fresh string; NULL for SQL NULL or when memory is out. */
char *db_column_text(sqlite3_stmt *stmt, int column);

/* PRAGMA integrity_check: calls found for each complaint. */
int db_check(struct db *db, void (*found)(const char *complaint, void *context), void *context,
             struct error *err);

static inline void db_finalizep(sqlite3_stmt **stmt)
{
    sqlite3_finalize(*stmt);
}

#define _cleanup_stmt_ _cleanup_(db_finalizep)

#endif
