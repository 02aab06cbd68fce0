/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A catalogue with anything in its rows. The input is a list of changes, 4 bytes and
 * what follows them: table, row, column (each modulo how many there are) and kind:
 * null, number, text, blob, another row's value, row gone, row twice.
 */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store_fuzz.h"

#include <sqlite3.h>

enum { CHANGE = 5, COLUMNS_MAX = 16, TABLES_MAX = 16 };

struct table {
    char name[32];
    char columns[COLUMNS_MAX][32];
    unsigned column_count;
};

static struct table tables[TABLES_MAX];
static unsigned table_count;

static int add_column(void *context, int count, char **values, char **names)
{
    struct table *t = context;

    (void)names;
    if (count >= 1 && values[0] != NULL && t->column_count < COLUMNS_MAX)
        snprintf(t->columns[t->column_count++], 32, "%s", values[0]);
    return 0;
}

static int add_table(void *context, int count, char **values, char **names)
{
    (void)context;
    (void)names;
    if (count >= 1 && values[0] != NULL && table_count < TABLES_MAX)
        snprintf(tables[table_count++].name, 32, "%s", values[0]);
    return 0;
}

/* Of whatever schema there is. */
static void read_schema(sqlite3 *db)
{
    sqlite3_exec(db, "SELECT name FROM sqlite_schema WHERE type = 'table'", add_table, NULL, NULL);
    for (unsigned i = 0; i < table_count; i++) {
        _cleanup_free_ char *sql =
            io_format("SELECT name FROM pragma_table_info('%s')", tables[i].name);

        sqlite3_exec(db, sql, add_column, &tables[i], NULL);
        MUST(tables[i].column_count > 0);
    }
    MUST(table_count > 3);
}

static void bind(sqlite3_stmt *stmt, unsigned kind, const uint8_t *value, size_t length)
{
    uint8_t number[8] = {0};

    switch (kind) {
    case 0:
        sqlite3_bind_null(stmt, 1);
        break;
    case 1:
        memcpy(number, value, length < 8 ? length : 8);
        sqlite3_bind_int64(stmt, 1, (int64_t)load_le64(number));
        break;
    case 2:
        sqlite3_bind_text(stmt, 1, (const char *)value, (int)length, SQLITE_TRANSIENT);
        break;
    default:
        sqlite3_bind_blob(stmt, 1, value, (int)length, SQLITE_TRANSIENT);
    }
}

/* The row is found by its first column, which is in each table's key. */
static char *statement(const struct table *t, unsigned row, unsigned column, unsigned kind)
{
    const char *key = t->columns[0], *c = t->columns[column % t->column_count];

    switch (kind) {
    case 4:
        return io_format("UPDATE OR REPLACE %s SET %s = (SELECT %s FROM %s LIMIT 1)"
                         " WHERE %s = (SELECT %s FROM %s LIMIT 1 OFFSET %u)",
                         t->name, c, c, t->name, key, key, t->name, row);
    case 5:
        return io_format("DELETE FROM %s WHERE %s = (SELECT %s FROM %s LIMIT 1 OFFSET %u)", t->name,
                         key, key, t->name, row);
    case 6:
        return io_format("INSERT OR IGNORE INTO %s SELECT * FROM %s LIMIT 1", t->name, t->name);
    default:
        return io_format("UPDATE OR REPLACE %s SET %s = ?"
                         " WHERE %s = (SELECT %s FROM %s LIMIT 1 OFFSET %u)",
                         t->name, c, key, key, t->name, row);
    }
}

/* Applies the change at p; returns its length. Constraints may refuse it. */
static size_t apply(sqlite3 *db, const uint8_t *p, size_t size)
{
    const struct table *t = &tables[p[0] % table_count];
    unsigned kind = p[3] % 7;
    size_t length = p[4] < size - CHANGE ? p[4] : size - CHANGE;
    _cleanup_free_ char *sql = statement(t, p[1] % 4, p[2], kind);
    sqlite3_stmt *stmt = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK) {
        if (sqlite3_bind_parameter_count(stmt) == 1)
            bind(stmt, kind, p + CHANGE, length);
        sqlite3_step(stmt);
    }
    sqlite3_finalize(stmt);
    return CHANGE + length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *path = io_format("%s/catalogue.db", fuzz_store_copy());
    sqlite3 *db;

    MUST(sqlite3_open(path, &db) == SQLITE_OK);
    sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
    if (table_count == 0)
        read_schema(db);
    for (size_t at = 0; size - at > CHANGE && size < 4096;)
        at += apply(db, data + at, size - at);
    sqlite3_close(db);
    fuzz_store_use();
    return 0;
}
