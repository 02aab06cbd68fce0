/* SPDX-License-Identifier: Apache-2.0 */
#include "store/catalogue.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/home.h"
#include "store/private.h"

#include <errno.h>
#include <stdlib.h>

#define ID_PREFIX_MIN 8 /* digits: what people may type instead of a whole id */
#define IMAGE_NAME_MAX 255
#define IMAGE_TAG_MAX 127 /* as in registries */

/* ---- what must be there ---- */

int catalogue_need_machine(struct db *db, const char *name, struct error *err)
{
    int64_t one;
    int r = db_get_int(db, &one, err, "SELECT 1 FROM machine WHERE name = ?", "t", name);

    if (r != -ENOENT)
        return r;
    error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no machine '%s'", name);
    error_hint(err, "'stasis ls' shows all machines");
    return -ENOENT;
}

static int no_checkpoint(const char *hex, struct error *err)
{
    error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no checkpoint %s", hex);
    error_hint(err, "'stasis history' shows all checkpoints");
    return -ENOENT;
}

int catalogue_need_checkpoint(struct db *db, const struct digest *id, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int64_t one;
    int r = db_get_int(db, &one, err, "SELECT 1 FROM checkpoint WHERE id = ?", "d", id);

    return r == -ENOENT ? no_checkpoint(digest_hex(id, hex), err) : r;
}

/* ---- names, within a transaction ---- */

static int check_checkpoint_name(struct db *db, const char *machine, const char *name,
                                 struct error *err)
{
    int64_t one;
    int r = db_get_int(db, &one, err, "SELECT 1 FROM checkpoint WHERE machine = ? AND name = ?",
                       "tt", machine, name);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    error_set(err, STATUS_EXISTS, EEXIST, "there is a checkpoint '%s@%s' already", machine, name);
    error_hint(err, "choose another name; 'stasis history %s' shows those in use", machine);
    return -EEXIST;
}

/* 0: free (or the same checkpoint, if id is given). */
static int check_image_name(struct db *db, const struct digest *id, const char *name,
                            const char *tag, struct error *err)
{
    int64_t same;
    int r = db_get_int(db, &same, err,
                       "SELECT coalesce(id = ?, 0) FROM image WHERE name = ? AND tag = ?", "dtt",
                       id, name, tag);

    if (r == -ENOENT || (r == 0 && same))
        return 0;
    if (r < 0)
        return r;
    error_set(err, STATUS_EXISTS, EEXIST, "there is an image '%s:%s' already", name, tag);
    error_hint(err, "choose another tag, or remove that one with 'stasis untag %s:%s'", name, tag);
    return -EEXIST;
}

int catalogue_check_names(struct db *db, const struct digest *id, const char *machine,
                          const char *name, const char *image, const char *tag, bool replace,
                          struct error *err)
{
    int r = 0;

    if (name != NULL)
        r = check_checkpoint_name(db, machine, name, err);
    /* Without an id we cannot tell yet whether it is the same one: leave it to
     * the transaction. */
    if (r == 0 && image != NULL && !replace && id != NULL)
        r = check_image_name(db, id, image, tag, err);
    return r;
}

static int check_image_text(const char *name, const char *tag, struct error *err)
{
    size_t n = strlen(name), t = strlen(tag);
    bool good = n > 0 && n <= IMAGE_NAME_MAX && t > 0 && t <= IMAGE_TAG_MAX;

    for (size_t i = 0; good && i < n + t; i++) {
        unsigned char c = (unsigned char)(i < n ? name[i] : tag[i - n]);

        good = c > ' ' && c != 0x7f && c != '@' && c != '\\' && !(i >= n && (c == '/' || c == ':'));
    }
    /* Names become paths below a mount point. */
    if (!good || name[0] == '/' || name[0] == '.' || name[0] == '-' || name[n - 1] == '/' ||
        strstr(name, "//") != NULL || strstr(name, "/.") != NULL || tag[0] == '.') {
        error_set(err, STATUS_USAGE, EINVAL, "'%s:%s' is not a name for an image", name, tag);
        error_hint(err, "use a name and a tag such as web:1 or registry.example/web:1");
        return -EINVAL;
    }
    return 0;
}

int catalogue_put_image(struct db *db, const char *name, const char *tag, const struct digest *id,
                        bool replace, struct error *err)
{
    int r = check_image_text(name, tag, err);

    if (r == 0 && !replace)
        r = check_image_name(db, id, name, tag, err);
    if (r == 0)
        r = catalogue_need_checkpoint(db, id, err);
    return r < 0 ? r
                 : db_run(db, err,
                          "INSERT OR REPLACE INTO image(name, tag, id, created_us, sum)"
                          " SELECT *, " DB_IMAGE_SUM
                          " FROM (SELECT ? AS name, ? AS tag, ? AS id, ? AS created_us)",
                          "ttdi", name, tag, id, clock_wall_us());
}

int catalogue_put_head(struct db *db, const char *machine, const struct digest *head,
                       struct error *err)
{
    int r = catalogue_need_checkpoint(db, head, err);

    if (r == 0)
        r = db_run(db, err, "UPDATE machine SET head = ? WHERE name = ?", "dt", head, machine);
    if (r == 0 && db_changes(db) == 0)
        return catalogue_need_machine(db, machine, err);
    if (r == 0)
        r = db_run(db, err, "UPDATE machine SET sum = " DB_MACHINE_SUM " WHERE name = ?", "t",
                   machine);
    return r;
}

static int give_to_machine(struct db *db, const struct digest *id, const char *machine,
                           const char *name, struct error *err)
{
    int r = name != NULL ? check_checkpoint_name(db, machine, name, err) : 0;

    if (r == 0)
        r = db_run(db, err, "UPDATE checkpoint SET machine = ?, name = ? WHERE id = ?", "ttd",
                   machine, name, id);
    if (r == 0)
        r = db_run(db, err, "UPDATE checkpoint SET sum = " DB_CHECKPOINT_SUM " WHERE id = ?", "d",
                   id);
    return r;
}

/* The same checkpoint again: if it is no machine's yet, it may become one's. */
static int put_again(struct db *db, const struct digest *id, const char *machine, const char *name,
                     struct error *err)
{
    int64_t nobodys, same;
    int r;

    if (machine == NULL)
        return 0;
    r = db_get_int(db, &nobodys, err, "SELECT machine IS NULL FROM checkpoint WHERE id = ?", "d",
                   id);
    if (r == 0 && nobodys)
        return give_to_machine(db, id, machine, name, err);
    if (r == 0)
        r = db_get_int(db, &same, err,
                       "SELECT machine = ? AND name IS ? FROM checkpoint WHERE id = ?", "ttd",
                       machine, name, id);
    if (r < 0 || same)
        return r;
    error_set(err, STATUS_EXISTS, EEXIST,
              "this very checkpoint is recorded under another name already");
    error_hint(err, "'stasis history' shows its name; it needs no second one");
    return -EEXIST;
}

int catalogue_put_checkpoint(struct db *db, const struct digest *id, const char *machine,
                             const char *name, const struct manifest *m, const char *text,
                             size_t length, struct error *err)
{
    int64_t one;
    int r = db_get_int(db, &one, err, "SELECT 1 FROM checkpoint WHERE id = ?", "d", id);

    if (r == 0)
        return put_again(db, id, machine, name, err);
    if (r == -ENOENT)
        r = name != NULL ? check_checkpoint_name(db, machine, name, err) : 0;
    if (r < 0)
        return r;
    return db_run(db, err,
                  "INSERT INTO checkpoint(id, machine, name, created_us, state, manifest, sum)"
                  " SELECT *, " DB_CHECKPOINT_SUM
                  " FROM (SELECT ? AS id, ? AS machine, ? AS name, ? AS created_us, ? AS state,"
                  "       ? AS manifest)",
                  "dttidb", id, machine, name, m->created_us, m->has_state ? &m->state : NULL, text,
                  length);
}

/* ---- machines ---- */

static int create_machine(struct db *db, const char *name, const struct digest *origin,
                          struct error *err)
{
    int r = catalogue_need_checkpoint(db, origin, err);

    if (r == 0)
        r = db_run(db, err,
                   "INSERT OR IGNORE INTO machine(name, created_us, head, origin, sum)"
                   " SELECT *, " DB_MACHINE_SUM
                   " FROM (SELECT ? AS name, ? AS created_us, ? AS head, ? AS origin)",
                   "tidd", name, clock_wall_us(), origin, origin);
    if (r < 0 || db_changes(db) != 0)
        return r;
    error_set(err, STATUS_EXISTS, EEXIST, "there is a machine '%s' already", name);
    error_hint(err, "choose another name with --name, or remove that one with 'stasis rm %s'",
               name);
    return -EEXIST;
}

/* Ends the transaction that db_begin() began. */
static int finish(struct db *db, int r, struct error *err)
{
    if (r < 0)
        db_rollback(db);
    return r < 0 ? r : db_commit(db, err);
}

int catalogue_machine_create(struct store *store, const char *name, const struct digest *origin,
                             struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r;

    if (!home_name_is_valid(name)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' is not a name for a machine", name);
        error_hint(err, "use letters, digits, '-', '_' and '.', at most %d", MACHINE_NAME_MAX);
        return -EINVAL;
    }
    r = db_begin(db, err);
    return r < 0 ? r : finish(db, create_machine(db, name, origin, err), err);
}

/* None while a row has changed, since it may have lost the name of the state it
 * needs. */
int catalogue_remove_blobs(struct db *db, struct error *err)
{
    return db_run(db, err,
                  "DELETE FROM blob WHERE digest NOT IN"
                  " (SELECT state FROM checkpoint WHERE state IS NOT NULL"
                  "  UNION ALL SELECT state FROM lease WHERE state IS NOT NULL)"
                  " AND NOT EXISTS (SELECT 1 FROM checkpoint WHERE sum IS NOT " DB_CHECKPOINT_SUM
                  ")",
                  "");
}

static int remove_machine(struct db *db, const char *name, struct error *err)
{
    int r = db_run(db, err, "DELETE FROM machine WHERE name = ?", "t", name);

    if (r == 0 && db_changes(db) == 0)
        return catalogue_need_machine(db, name, err);
    if (r == 0)
        r = db_run(db, err, "DELETE FROM checkpoint WHERE machine = ? AND NOT" DB_IN_USE, "t",
                   name);
    if (r == 0)
        r = db_run(db, err,
                   "UPDATE checkpoint SET machine = NULL, name = NULL,"
                   " sum = row_sum(id, NULL, NULL, created_us, state) WHERE machine = ?",
                   "t", name);
    return r == 0 ? catalogue_remove_blobs(db, err) : r;
}

int catalogue_machine_remove(struct store *store, const char *name, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r = db_begin(db, err);

    return r < 0 ? r : finish(db, remove_machine(db, name, err), err);
}

int catalogue_machine_set_head(struct store *store, const char *name, const struct digest *head,
                               struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r = db_begin(db, err);

    return r < 0 ? r : finish(db, catalogue_put_head(db, name, head, err), err);
}

/* ---- checkpoints ---- */

int catalogue_checkpoint_by_name(struct store *store, const char *machine, const char *name,
                                 struct digest *out, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(db, &stmt, err, "SELECT id FROM checkpoint WHERE machine = ? AND name = ?",
                       "tt", machine, name);

    if (r == 0)
        r = db_step(db, stmt, err);
    if (r == 1)
        return db_column_digest(stmt, 0, out, err);
    if (r == 0)
        r = catalogue_need_machine(db, machine, err);
    if (r < 0)
        return r;
    error_set(err, STATUS_NOT_FOUND, ENOENT, "machine '%s' has no checkpoint '%s'", machine, name);
    error_hint(err, "'stasis history %s' shows its checkpoints", machine);
    return -ENOENT;
}

static bool is_id_prefix(const char *hex)
{
    size_t n = strspn(hex, "0123456789abcdefABCDEF");

    return hex[n] == '\0' && n >= ID_PREFIX_MIN && n <= 2 * DIGEST_SIZE;
}

int catalogue_checkpoint_by_prefix(struct store *store, const char *hex, struct digest *out,
                                   struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct digest found;
    int r;

    if (!is_id_prefix(hex))
        return error_set(err, STATUS_USAGE, EINVAL,
                         "'%s' is not the beginning of an id: at least %d hex digits", hex,
                         ID_PREFIX_MIN);
    r = db_prepare(db, &stmt, err,
                   "SELECT id FROM checkpoint WHERE substr(lower(hex(id)), 1, length(?1)) ="
                   " lower(?1) LIMIT 2",
                   "t", hex);
    if (r == 0)
        r = db_step(db, stmt, err);
    if (r == 0) {
        error_set(err, STATUS_NOT_FOUND, ENOENT, "no checkpoint's id begins with %s", hex);
        error_hint(err, "'stasis history' shows all checkpoints");
        return -ENOENT;
    }
    if (r == 1)
        r = db_column_digest(stmt, 0, &found, err);
    if (r == 0)
        r = db_step(db, stmt, err);
    if (r == 1)
        return error_set(err, STATUS_USAGE, EINVAL,
                         "several checkpoints' ids begin with %s: give more digits", hex);
    if (r == 0)
        *out = found;
    return r;
}

static int remove_checkpoint(struct db *db, const struct digest *id, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int64_t used;
    int r = db_get_int(db, &used, err, "SELECT" DB_IN_USE " FROM checkpoint WHERE id = ?", "d", id);

    if (r == -ENOENT)
        return catalogue_need_checkpoint(db, id, err);
    if (r == 0 && used) {
        error_set(err, STATUS_BUSY, EBUSY, "an image or a machine builds on checkpoint %.12s",
                  digest_hex(id, hex));
        error_hint(err, "'stasis ls' and 'stasis images' show which; remove or untag that first");
        return -EBUSY;
    }
    if (r == 0)
        r = db_run(db, err, "DELETE FROM checkpoint WHERE id = ?", "d", id);
    return r == 0 ? catalogue_remove_blobs(db, err) : r;
}

int catalogue_checkpoint_remove(struct store *store, const struct digest *id, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r = db_begin(db, err);

    return r < 0 ? r : finish(db, remove_checkpoint(db, id, err), err);
}

static int manifest_text_locked(struct db *db, const struct digest *id, char **text_out,
                                size_t *length_out, struct error *err)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    char hex[DIGEST_HEX_SIZE];
    struct digest actual;
    size_t length;
    char *text;
    int r = db_prepare(db, &stmt, err, "SELECT manifest FROM checkpoint WHERE id = ?", "d", id);

    if (r == 0)
        r = db_step(db, stmt, err);
    if (r == 0)
        return no_checkpoint(digest_hex(id, hex), err);
    if (r < 0)
        return r;
    length = (size_t)sqlite3_column_bytes(stmt, 0);
    text = calloc(1, length + 1);
    if (text == NULL)
        return error_errno(err, ENOMEM, "reading a manifest");
    if (length != 0)
        memcpy(text, sqlite3_column_blob(stmt, 0), length);
    actual = digest_of(text, length);
    if (!digest_equal(&actual, id)) {
        free(text);
        error_corrupt(err, "catalogue.db: the manifest of checkpoint %s is damaged",
                      digest_hex(id, hex));
        error_hint(
            err,
            "'stasis verify' names all damage; that checkpoint must be pulled or received again");
        return -EBADMSG;
    }
    *text_out = text;
    *length_out = length;
    return 0;
}

/*
 * Whoever has a checkpoint's manifest goes on to read its pages. So packs must be
 * known as they were when it was committed, or later: a collected one that this
 * process still has may hold another page under a reference that was free again.
 */
int catalogue_manifest_text(struct store *store, const struct digest *id, char **text_out,
                            size_t *length_out, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_free_ char *text = NULL;
    int r = manifest_text_locked(db, id, &text, length_out, err);

    if (r == 0)
        r = store_refresh_locked(store, err);
    if (r == 0)
        *text_out = steal_pointer(text);
    return r;
}

int catalogue_manifest_read(struct store *store, const struct digest *id, struct manifest *out,
                            struct error *err)
{
    _cleanup_free_ char *text = NULL;
    size_t length;
    int r = catalogue_manifest_text(store, id, &text, &length, err);

    return r < 0 ? r : manifest_decode(text, length, out, err);
}

/* ---- images ---- */

int catalogue_image_set(struct store *store, const char *name, const char *tag,
                        const struct digest *id, bool replace, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r = db_begin(db, err);

    return r < 0 ? r : finish(db, catalogue_put_image(db, name, tag, id, replace, err), err);
}

static int no_image(const char *name, const char *tag, struct error *err)
{
    error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no image '%s:%s'", name, tag);
    error_hint(err, "'stasis images' shows all images");
    return -ENOENT;
}

int catalogue_image_remove(struct store *store, const char *name, const char *tag,
                           struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r = db_run(db, err, "DELETE FROM image WHERE name = ? AND tag = ?", "tt", name, tag);

    return r == 0 && db_changes(db) == 0 ? no_image(name, tag, err) : r;
}

int catalogue_image_get(struct store *store, const char *name, const char *tag, struct digest *out,
                        struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(db, &stmt, err, "SELECT id FROM image WHERE name = ? AND tag = ?", "tt",
                       name, tag);

    if (r == 0)
        r = db_step(db, stmt, err);
    if (r == 0)
        return no_image(name, tag, err);
    return r < 0 ? r : db_column_digest(stmt, 0, out, err);
}

/* ---- references ---- */

/* The head of a machine; -ENOENT if there is none of that name. */
static int resolve_machine(struct store *store, const char *name, struct digest *out,
                           struct error *err)
{
    struct catalogue_machine *machine;
    int r = catalogue_machine_get(store, name, &machine, err);

    if (r < 0)
        return r;
    if (machine->has_head)
        *out = machine->head;
    else
        r = error_set(err, STATUS_FAILED, ENODATA, "machine '%s' has no checkpoint yet", name);
    catalogue_machines_free(machine, 1);
    return r;
}

/* "host:5000/debian" has no tag: a tag's colon comes behind the last slash. */
static int resolve_image(struct store *store, const char *reference, struct digest *out,
                         struct error *err)
{
    _cleanup_free_ char *name = strdup(reference);
    char *slash, *colon;

    if (name == NULL)
        return error_errno(err, ENOMEM, "resolving '%s'", reference);
    slash = strrchr(name, '/');
    colon = strrchr(name, ':');
    if (colon == NULL || (slash != NULL && colon < slash))
        return catalogue_image_get(store, name, "latest", out, err);
    *colon = '\0';
    return catalogue_image_get(store, name, colon + 1, out, err);
}

int catalogue_resolve(struct store *store, const char *reference, struct digest *out,
                      struct error *err)
{
    const char *at = strchr(reference, '@');
    int r;

    if (at != NULL) {
        _cleanup_free_ char *machine = strndup(reference, (size_t)(at - reference));

        if (machine == NULL)
            return error_errno(err, ENOMEM, "resolving '%s'", reference);
        return catalogue_checkpoint_by_name(store, machine, at + 1, out, err);
    }
    /* A whole id is never a machine's name, and no image may pose as one. */
    r = is_id_prefix(reference) && strlen(reference) == 2 * DIGEST_SIZE
            ? catalogue_checkpoint_by_prefix(store, reference, out, err)
            : -ENOENT;
    if (r == -ENOENT)
        r = resolve_machine(store, reference, out, err);
    if (r == -ENOENT)
        r = resolve_image(store, reference, out, err);
    if (r == -ENOENT && is_id_prefix(reference))
        r = catalogue_checkpoint_by_prefix(store, reference, out, err);
    if (r != -ENOENT)
        return r;
    error_set(err, STATUS_NOT_FOUND, ENOENT,
              "'%s' is no machine, image or checkpoint of this store", reference);
    error_hint(err, "'stasis ls' shows machines, 'stasis images' images, 'stasis history'"
                    " checkpoints");
    return -ENOENT;
}
