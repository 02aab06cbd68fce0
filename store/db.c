/* SPDX-License-Identifier: Apache-2.0 */
#include "store/db.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#define SCHEMA_VERSION 1

/* A commit takes milliseconds; whoever waits this long waits for something hung. */
#define BUSY_TIMEOUT_MS 60000

/*
 * No row per page, ever. What no digest and no file vouches for has a sum over its
 * row, which verify recomputes. checkpoint.machine and .name are null for checkpoints
 * that only an image, an origin or an id leads to. Packs are numbered in the
 * order of their commits and numbers are not used again: readers ask for what is
 * above the last one they know. pack.condemned is the epoch at which a pack was
 * condemned, null while it is live; lease is explained in lease.h.
 */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS meta("
    "  key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS pack("
    "  seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, groups INTEGER NOT NULL, objects INTEGER NOT NULL,"
    "  sum INTEGER NOT NULL, condemned INTEGER);"
    "CREATE TABLE IF NOT EXISTS blob("
    "  digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS checkpoint("
    "  seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, machine TEXT, name TEXT,"
    "  created_us INTEGER NOT NULL, state BLOB, manifest BLOB NOT NULL, sum INTEGER NOT NULL,"
    "  UNIQUE(machine, name));"
    "CREATE TABLE IF NOT EXISTS machine("
    "  name TEXT PRIMARY KEY, created_us INTEGER NOT NULL, head BLOB, origin BLOB NOT NULL,"
    "  sum INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS image("
    "  name TEXT NOT NULL, tag TEXT NOT NULL, id BLOB NOT NULL, created_us INTEGER NOT NULL,"
    "  sum INTEGER NOT NULL, PRIMARY KEY(name, tag)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS lease("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  created_us INTEGER NOT NULL, checkpoint BLOB, state BLOB, manifest BLOB);"
    "CREATE TABLE IF NOT EXISTS verified(" /* when a pack was last found good */
    "  seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, sum INTEGER NOT NULL);"
    "INSERT OR IGNORE INTO meta VALUES('schema', 1), ('epoch', 0), ('commits', 0);";

/* The errno of the last call on one of SQLite's files that failed. */
static int file_errno(sqlite3_file *file)
{
    int errnum = 0;

    if (file != NULL && file->pMethods != NULL)
        file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &errnum);
    return errnum;
}

/* Of the log or the database itself; 0 if none has. */
static int files_errno(struct db *db)
{
    sqlite3_file *log = NULL, *file = NULL;
    int errnum;

    if (db->handle == NULL)
        return 0;
    sqlite3_file_control(db->handle, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    sqlite3_file_control(db->handle, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    errnum = file_errno(log);
    return errnum != 0 ? errnum : file_errno(file);
}

/* SQLite keeps an errno with its connection, but not that of a commit. */
static int system_errno(struct db *db)
{
    int errnum = files_errno(db);

    if (errnum == 0 && db->handle != NULL)
        errnum = sqlite3_system_errno(db->handle);
    return errnum != 0 ? errnum : EIO;
}

/* Where SQLite cannot make a file it tries to open an old one, and all we are told is
 * that there is none. So: can a file be made there? */
static int cannot_make_errno(struct db *db)
{
    _cleanup_free_ char *probe = io_format("%s-probe", db->path);
    int fd = open(probe, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : io_write_full(fd, "", 1);

    if (fd >= 0) {
        close(fd);
        unlink(probe);
    }
    return r < 0 ? -r : EIO;
}

static int io_error(int errnum, struct error *err)
{
    return error_errno(err, errnum, "using the store's catalogue.db");
}

static int db_error(struct db *db, int rc, struct error *err)
{
    const char *why = db->handle != NULL ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc);
    int errnum = system_errno(db);

    if (rc == SQLITE_IOERR_SHORT_READ)
        rc = SQLITE_CORRUPT;
    switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        /* SQLite calls it damage, too, if the disk cannot read it. */
        if (rc == SQLITE_CORRUPT && files_errno(db) == EIO)
            return io_error(EIO, err);
        error_corrupt(err, "the store's catalogue.db is damaged: %s", why);
        error_hint(err, "restore the store from a copy, or pull its images again into a new one");
        return -EBADMSG;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(err, STATUS_BUSY, EBUSY,
                         "another process has held the store's catalogue for too long");
    case SQLITE_FULL:
        error_set(err, STATUS_FAILED, ENOSPC, "no space left for the store's catalogue");
        error_hint(err,
                   "make room on the file system of the store ('stasis df' shows what is used)");
        return -ENOSPC;
    case SQLITE_NOMEM:
        return error_errno(err, ENOMEM, "using the store's catalogue");
    case SQLITE_READONLY:
        return error_set(err, STATUS_FAILED, EROFS, "the store's catalogue cannot be written: %s",
                         why);
    case SQLITE_CANTOPEN:
        return io_error(errnum == ENOENT ? cannot_make_errno(db) : errnum, err);
    case SQLITE_IOERR:
        return io_error(errnum, err);
    default:
        return error_set(err, STATUS_FAILED, EIO, "using the store's catalogue: %s", why);
    }
}

void db_lock(struct db *db)
{
    pthread_mutex_lock(&db->lock);
}

void db_unlock(struct db *db)
{
    pthread_mutex_unlock(&db->lock);
}

struct db *db_locked(struct db *db)
{
    db_lock(db);
    return db;
}

static int bind_value(sqlite3_stmt *stmt, int position, char type, va_list *values)
{
    const char *text;
    const void *bytes;

    switch (type) {
    case 'i':
        return sqlite3_bind_int64(stmt, position, va_arg(*values, int64_t));
    case 't':
        text = va_arg(*values, const char *);
        return sqlite3_bind_text(stmt, position, text, -1, SQLITE_STATIC);
    case 'd':
        bytes = va_arg(*values, const struct digest *);
        return sqlite3_bind_blob(stmt, position, bytes, DIGEST_SIZE, SQLITE_STATIC);
    case 'b':
        bytes = va_arg(*values, const void *);
        /* An empty blob is not NULL. */
        return sqlite3_bind_blob64(stmt, position, bytes != NULL ? bytes : "",
                                   va_arg(*values, size_t), SQLITE_STATIC);
    default:
        return SQLITE_MISUSE;
    }
}

static int prepare_va(struct db *db, sqlite3_stmt **out, struct error *err, const char *sql,
                      const char *types, va_list *values)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);

    for (int i = 0; rc == SQLITE_OK && types[i] != '\0'; i++)
        rc = bind_value(stmt, i + 1, types[i], values);
    /* The statements are right; what they name must have gone. */
    if (rc == SQLITE_ERROR)
        rc = SQLITE_CORRUPT;
    if (rc != SQLITE_OK)
        return db_error(db, rc, err);
    *out = steal_pointer(stmt);
    return 0;
}

int db_prepare(struct db *db, sqlite3_stmt **out, struct error *err, const char *sql,
               const char *types, ...)
{
    va_list values;
    int r;

    va_start(values, types);
    r = prepare_va(db, out, err, sql, types, &values);
    va_end(values);
    return r;
}

int db_step(struct db *db, sqlite3_stmt *stmt, struct error *err)
{
    int rc = sqlite3_step(stmt);

    if (rc == SQLITE_ROW)
        return 1;
    return rc == SQLITE_DONE ? 0 : db_error(db, rc, err);
}

int db_run(struct db *db, struct error *err, const char *sql, const char *types, ...)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    va_list values;
    int r;

    va_start(values, types);
    r = prepare_va(db, &stmt, err, sql, types, &values);
    va_end(values);
    while (r == 0) {
        r = db_step(db, stmt, err);
        if (r <= 0)
            break;
        r = 0;
    }
    return r;
}

int db_get_int(struct db *db, int64_t *out, struct error *err, const char *sql, const char *types,
               ...)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    va_list values;
    int r;

    va_start(values, types);
    r = prepare_va(db, &stmt, err, sql, types, &values);
    va_end(values);
    if (r == 0)
        r = db_step(db, stmt, err);
    if (r < 0)
        return r;
    if (r == 0)
        return -ENOENT;
    *out = sqlite3_column_int64(stmt, 0);
    return 0;
}

int db_changes(struct db *db)
{
    return sqlite3_changes(db->handle);
}

int db_begin(struct db *db, struct error *err)
{
    return db_run(db, err, "BEGIN IMMEDIATE", "");
}

int db_commit(struct db *db, struct error *err)
{
    int64_t commits = 0;
    int r = db->quick ? 0
                      : db_get_int(db, &commits, err,
                                   "UPDATE meta SET value = value + 1 WHERE key = 'commits'"
                                   " RETURNING value",
                                   "");

    /* -ENOENT: somebody took the row. Nothing depends on it. */
    if (r == 0 || r == -ENOENT)
        r = db_run(db, err, "COMMIT", "");
    if (r < 0)
        db_rollback(db);
    else if (commits != 0)
        db_mark_write(db, commits);
    return r;
}

void db_rollback(struct db *db)
{
    if (!sqlite3_get_autocommit(db->handle))
        sqlite3_step(db->rollback);
    sqlite3_reset(db->rollback);
}

int db_column_digest(sqlite3_stmt *stmt, int column, struct digest *out, struct error *err)
{
    if (sqlite3_column_bytes(stmt, column) != DIGEST_SIZE)
        return error_corrupt(err, "the store's catalogue.db holds a digest that is not one");
    memcpy(out->bytes, sqlite3_column_blob(stmt, column), DIGEST_SIZE);
    return 0;
}

char *db_column_text(sqlite3_stmt *stmt, int column)
{
    const unsigned char *text = sqlite3_column_text(stmt, column);

    return text != NULL ? strdup((const char *)text) : NULL;
}

int db_check(struct db *db, void (*found)(const char *complaint, void *context), void *context,
             struct error *err)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(db, &stmt, err, "PRAGMA integrity_check", "");

    while (r == 0) {
        r = db_step(db, stmt, err);
        if (r <= 0)
            return r;
        const unsigned char *text = sqlite3_column_text(stmt, 0);

        if (text != NULL && strcmp((const char *)text, "ok") != 0)
            found((const char *)text, context);
        r = 0;
    }
    return r;
}

/* row_sum(VALUE...): 63 bits of a SHA-256 over the values with their types and
 * lengths. */
static void row_sum(sqlite3_context *context, int count, sqlite3_value **values)
{
    struct digest_stream *stream = digest_stream_new();
    struct digest digest;

    for (int i = 0; i < count; i++) {
        const void *bytes = sqlite3_value_blob(values[i]);
        uint32_t length = (uint32_t)sqlite3_value_bytes(values[i]);
        int type = sqlite3_value_type(values[i]);
        uint8_t head[8] = {0};

        /* A number as text takes memory. No sum is better than a wrong one. */
        if (bytes == NULL && (type == SQLITE_INTEGER || type == SQLITE_FLOAT)) {
            digest_stream_free(stream);
            sqlite3_result_error_nomem(context);
            return;
        }
        store_le32(head, (uint32_t)type);
        store_le32(head + 4, length);
        digest_stream_update(stream, head, sizeof(head));
        if (length != 0)
            digest_stream_update(stream, bytes, length);
    }
    digest = digest_stream_peek(stream);
    digest_stream_free(stream);
    sqlite3_result_int64(context, (int64_t)(load_le64(digest.bytes) >> 1));
}

static int check_schema(struct db *db, struct error *err)
{
    int64_t version;
    int r = db_get_int(db, &version, err, "SELECT value FROM meta WHERE key = 'schema'", "");

    if (r == -ENOENT)
        return error_corrupt(err, "the store's catalogue.db does not say its schema");
    if (r < 0)
        return r;
    if (version > SCHEMA_VERSION) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "the store was written by a newer Stasis (schema %lld, this one knows %d)",
                  (long long)version, SCHEMA_VERSION);
        error_hint(err, "use that newer version, or another --home");
        return -EPROTONOSUPPORT;
    }
    return 0;
}

/* Any table at all: an old catalogue that has lost one is not new. */
static int has_schema(struct db *db, struct error *err)
{
    int64_t count;
    int r = db_get_int(db, &count, err, "SELECT count(*) FROM sqlite_schema", "");

    return r < 0 ? r : count != 0;
}

static int make_schema(struct db *db, struct error *err)
{
    int r = db_begin(db, err);
    int rc;

    if (r < 0)
        return r;
    rc = sqlite3_exec(db->handle, schema, NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        r = db_error(db, rc, err);
        db_rollback(db);
        return r;
    }
    /* Most often nothing has changed, and nothing is written. */
    r = db_run(db, err, "COMMIT", "");
    if (r < 0)
        db_rollback(db);
    return r;
}

int db_open(struct db *db, const char *path, bool may_be_new, struct error *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    bool fresh;
    int rc, r;

    *db = (struct db){.path = io_format("%s", path), .mark_fd = -1};
    pthread_mutex_init(&db->lock, NULL);
    rc = sqlite3_open_v2(path, &db->handle, flags, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_extended_result_codes(db->handle, 1);
        sqlite3_busy_timeout(db->handle, BUSY_TIMEOUT_MS);
        rc = sqlite3_create_function(db->handle, "row_sum", -1,
                                     SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY, NULL,
                                     row_sum, NULL, NULL);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_exec(db->handle,
                          "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                          "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON;",
                          NULL, NULL, NULL);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v3(db->handle, "ROLLBACK", -1, SQLITE_PREPARE_PERSISTENT,
                                &db->rollback, NULL);
    if (rc != SQLITE_OK)
        return db_error(db, rc, err);
    r = has_schema(db, err);
    fresh = r == 0;
    if (r == 0)
        r = may_be_new ? make_schema(db, err) : -ENODATA;
    if (r >= 0)
        r = check_schema(db, err);
    return r < 0 ? r : db_mark_open(db, fresh, err);
}

void db_close(struct db *db)
{
    sqlite3_finalize(steal_pointer(db->rollback));
    if (db->handle != NULL)
        sqlite3_close(db->handle);
    db->handle = NULL;
    free(steal_pointer(db->path));
    if (db->mark_fd >= 0)
        close(steal_fd(&db->mark_fd));
    pthread_mutex_destroy(&db->lock);
}
