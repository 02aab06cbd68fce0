/* SPDX-License-Identifier: Apache-2.0 */
/* Reading whole tables of the catalogue. */
#include "base/cleanup.h"
#include "store/catalogue.h"
#include "store/private.h"

#include <errno.h>
#include <stdlib.h>

void catalogue_machines_free(struct catalogue_machine *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i].name);
    free(list);
}

void catalogue_checkpoints_free(struct catalogue_checkpoint *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(list[i].machine);
        free(list[i].name);
    }
    free(list);
}

void catalogue_images_free(struct catalogue_image *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(list[i].name);
        free(list[i].tag);
    }
    free(list);
}

/* A list that rows are read into, one element at a time. */
struct rows {
    uint8_t *list;
    size_t count;
    size_t capacity;
    size_t element;
};

/* A zeroed element at the end, or NULL. It counts at once, so that the list's
 * free function sees what it holds so far. */
static void *rows_add(struct rows *rows)
{
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity == 0 ? 16 : rows->capacity * 2;
        uint8_t *list = reallocarray(rows->list, capacity, rows->element);

        if (list == NULL)
            return NULL;
        rows->list = list;
        rows->capacity = capacity;
    }
    return memset(rows->list + rows->element * rows->count++, 0, rows->element);
}

/* Steps through stmt and has `read` fill an element of each row. */
static int rows_read(struct db *db, sqlite3_stmt *stmt, struct rows *rows,
                     int (*read)(sqlite3_stmt *stmt, void *element, struct error *err),
                     struct error *err)
{
    int r;

    while ((r = db_step(db, stmt, err)) == 1) {
        void *element = rows_add(rows);

        if (element == NULL)
            return error_errno(err, ENOMEM, "listing the store");
        r = read(stmt, element, err);
        if (r < 0)
            return r;
    }
    return r;
}

/* ---- machines ---- */

static int read_machine(sqlite3_stmt *stmt, void *element, struct error *err)
{
    struct catalogue_machine *m = element;
    int r;

    m->name = db_column_text(stmt, 0);
    if (m->name == NULL)
        return error_errno(err, ENOMEM, "listing machines");
    m->created_us = sqlite3_column_int64(stmt, 1);
    m->has_head = sqlite3_column_type(stmt, 2) != SQLITE_NULL;
    r = m->has_head ? db_column_digest(stmt, 2, &m->head, err) : 0;
    return r < 0 ? r : db_column_digest(stmt, 3, &m->origin, err);
}

/* All, or that of one name. */
static int read_machines(struct store *store, const char *name, struct catalogue_machine **out,
                         size_t *count_out, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct rows rows = {.element = sizeof(struct catalogue_machine)};
    int r = db_prepare(db, &stmt, err,
                       "SELECT name, created_us, head, origin FROM machine"
                       " WHERE ?1 IS NULL OR name = ?1 ORDER BY name",
                       "t", name);

    if (r == 0)
        r = rows_read(db, stmt, &rows, read_machine, err);
    if (r < 0) {
        catalogue_machines_free((struct catalogue_machine *)rows.list, rows.count);
        return r;
    }
    *out = (struct catalogue_machine *)rows.list;
    *count_out = rows.count;
    return 0;
}

int catalogue_machine_list(struct store *store, struct catalogue_machine **out, size_t *count_out,
                           struct error *err)
{
    return read_machines(store, NULL, out, count_out, err);
}

int catalogue_machine_get(struct store *store, const char *name, struct catalogue_machine **out,
                          struct error *err)
{
    struct catalogue_machine *list;
    size_t count;
    int r = read_machines(store, name, &list, &count, err);

    if (r < 0)
        return r;
    if (count == 0) {
        free(list);
        error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no machine '%s'", name);
        error_hint(err, "'stasis ls' shows all machines");
        return -ENOENT;
    }
    *out = list;
    return 0;
}

/* ---- checkpoints ---- */

static int describe(const char *manifest, size_t length, struct catalogue_checkpoint *c,
                    struct error *err)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    int r;

    if (m == NULL)
        return error_errno(err, ENOMEM, "listing checkpoints");
    r = manifest_decode(manifest, length, m, err);
    if (r < 0)
        return r;
    c->has_parent = m->has_parent;
    c->parent = m->parent;
    c->kind = m->kind;
    c->memory_bytes = m->config.memory_bytes;
    for (uint32_t i = 0; i < m->space_count; i++)
        if (strncmp(m->spaces[i].name, "disk", 4) == 0)
            c->disk_bytes += m->spaces[i].size_bytes;
    return 0;
}

static int read_checkpoint(sqlite3_stmt *stmt, void *element, struct error *err)
{
    struct catalogue_checkpoint *c = element;
    char hex[DIGEST_HEX_SIZE];
    int r = db_column_digest(stmt, 0, &c->id, err);

    if (r < 0)
        return r;
    c->machine = db_column_text(stmt, 1);
    c->name = db_column_text(stmt, 2);
    c->created_us = sqlite3_column_int64(stmt, 3);
    const void *manifest = sqlite3_column_blob(stmt, 4);

    r = describe(manifest != NULL ? manifest : "", (size_t)sqlite3_column_bytes(stmt, 4), c, err);
    if (r == -EBADMSG) {
        error_prefix(err, "checkpoint %s", digest_hex(&c->id, hex));
        error_hint(err, "'stasis verify' names everything that is damaged and what it hits");
    }
    return r;
}

int catalogue_checkpoint_list(struct store *store, const char *machine,
                              struct catalogue_checkpoint **out, size_t *count_out,
                              struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct rows rows = {.element = sizeof(struct catalogue_checkpoint)};
    int r = db_prepare(db, &stmt, err,
                       "SELECT id, machine, name, created_us, manifest FROM checkpoint"
                       " WHERE ?1 IS NULL OR machine = ?1 ORDER BY created_us, seq",
                       "t", machine);

    if (r == 0)
        r = rows_read(db, stmt, &rows, read_checkpoint, err);
    if (r < 0) {
        catalogue_checkpoints_free((struct catalogue_checkpoint *)rows.list, rows.count);
        return r;
    }
    *out = (struct catalogue_checkpoint *)rows.list;
    *count_out = rows.count;
    return 0;
}

/* ---- images ---- */

static int read_image(sqlite3_stmt *stmt, void *element, struct error *err)
{
    struct catalogue_image *image = element;

    image->name = db_column_text(stmt, 0);
    image->tag = db_column_text(stmt, 1);
    if (image->name == NULL || image->tag == NULL)
        return error_errno(err, ENOMEM, "listing images");
    image->created_us = sqlite3_column_int64(stmt, 3);
    return db_column_digest(stmt, 2, &image->id, err);
}

int catalogue_image_list(struct store *store, struct catalogue_image **out, size_t *count_out,
                         struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct rows rows = {.element = sizeof(struct catalogue_image)};
    int r = db_prepare(db, &stmt, err,
                       "SELECT name, tag, id, created_us FROM image ORDER BY name, tag", "");

    if (r == 0)
        r = rows_read(db, stmt, &rows, read_image, err);
    if (r < 0) {
        catalogue_images_free((struct catalogue_image *)rows.list, rows.count);
        return r;
    }
    *out = (struct catalogue_image *)rows.list;
    *count_out = rows.count;
    return 0;
}
