/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verifying. First everything is read and what is wrong is noted: packs from
 * their files (whatever this process has cached), then manifests, blobs and maps.
 * Then, only if something was wrong, each checkpoint is walked to learn what hits
 * it. Last, the findings are reported.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/verify_private.h"
#include "store/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- findings ---- */

int verify_out_of_memory(struct verify *v)
{
    return error_errno(v->err, ENOMEM, "verifying the store");
}

/* A message that names the file does so for those who see nothing else of it. */
static const char *without_name(const char *file, const char *what)
{
    const char *rest = strncmp(what, "pack ", 5) == 0 ? what + 5 : what;
    size_t length = strlen(file);

    return strncmp(rest, file, length) == 0 && strncmp(rest + length, ": ", 2) == 0
               ? rest + length + 2
               : what;
}

int verify_note(struct verify *v, const char *file, uint64_t offset, const char *what,
                enum verify_state state, uint32_t *number_out)
{
    struct finding *f;

    if (v->finding_count == v->finding_capacity) {
        size_t capacity = v->finding_capacity * 2 + 16;
        struct finding *list = reallocarray(v->findings, capacity, sizeof(*list));

        if (list == NULL)
            return verify_out_of_memory(v);
        v->findings = list;
        v->finding_capacity = capacity;
    }
    f = &v->findings[v->finding_count];
    *f = (struct finding){.offset = offset, .state = state};
    f->file = strdup(file);
    f->what = strdup(without_name(file, what));
    f->hits = calloc(v->checkpoint_count / 64 + 1, sizeof(*f->hits));
    if (number_out != NULL)
        *number_out = (uint32_t)v->finding_count;
    v->finding_count++;
    return f->file == NULL || f->what == NULL || f->hits == NULL ? verify_out_of_memory(v) : 0;
}

static int note_catalogue(struct verify *v, const char *what, uint32_t *number_out)
{
    v->catalogue_wrong = true;
    return verify_note(v, "catalogue.db", 0, what, VERIFY_LOST, number_out);
}

int verify_tolerate(struct verify *v, int r, const struct error *e)
{
    if (r == -EBADMSG)
        return note_catalogue(v, e->message, NULL);
    if (r < 0 && v->err != NULL)
        *v->err = *e;
    return r;
}

static void hit(struct verify *v, size_t finding, size_t checkpoint)
{
    v->findings[finding].hits[checkpoint / 64] |= UINT64_C(1) << checkpoint % 64;
}

/* A finding about a checkpoint itself, in the catalogue. */
static int note_checkpoint(struct verify *v, size_t checkpoint, const char *what)
{
    uint32_t number;
    int r = note_catalogue(v, what, &number);

    if (r == 0)
        hit(v, number, checkpoint);
    return r;
}

static int report(struct verify *v)
{
    struct digest *list = malloc((v->checkpoint_count + 1) * sizeof(*list));

    if (list == NULL)
        return verify_out_of_memory(v);
    for (size_t i = 0; i < v->finding_count; i++) {
        const struct finding *f = &v->findings[i];
        struct verify_finding out = {f->file, f->offset, f->what, f->state, list, 0};

        for (size_t c = 0; c < v->checkpoint_count; c++)
            if ((f->hits[c / 64] >> c % 64 & 1) != 0)
                list[out.checkpoint_count++] = v->checkpoints[c].id;
        v->result.mendable += f->state == VERIFY_MENDABLE;
        v->result.mended += f->state == VERIFY_MENDED;
        if (v->options->finding != NULL)
            v->options->finding(&out, v->options->context);
    }
    v->result.findings = v->finding_count;
    free(list);
    return 0;
}

/* ---- index ---- */

static int note_index(const char *file, uint64_t offset, const char *what, void *context)
{
    return verify_note(context, file, offset, what, VERIFY_MENDABLE, NULL);
}

/* It is a cache, and still each of its bytes is to be what was written. */
static int check_index(struct verify *v)
{
    size_t before = v->finding_count;
    int r = packs_check_runs(&v->store->packs, note_index, v, v->err);

    if (r < 0 || v->finding_count == before || !v->options->repair)
        return r;
    r = store_index_rebuild(v->store, v->err);
    for (size_t i = before; r == 0 && i < v->finding_count; i++)
        v->findings[i].state = VERIFY_MENDED;
    return r;
}

/* ---- catalogue ---- */

static void note_complaint(const char *complaint, void *context)
{
    struct verify *v = context;

    v->catalogue_torn = true;
    note_catalogue(v, complaint, NULL);
}

static int check_catalogue(struct verify *v)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    struct error e = ERROR_INIT;

    return verify_tolerate(v, db_check(db, note_complaint, v, &e), &e);
}

/* What was in the catalogue and is not any more names no checkpoint. */
static int check_end(struct verify *v)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    bool repair = v->options->repair && !v->catalogue_wrong;
    uint32_t number;
    uint64_t end;
    int64_t lost;
    char what[160];
    int mark = db_mark_check(db, &lost, &end), r = 0;

    snprintf(what, sizeof(what),
             "its end was damaged, and with it went the last %lld changes of the catalogue;"
             " repair forgets that",
             (long long)lost);
    if (lost > 0)
        r = verify_note(v, "catalogue.db-wal", end, what, VERIFY_LOST, NULL);
    if (r == 0 && mark < 0)
        r = verify_note(v, "commits", 0, "it does not match its checksum", VERIFY_MENDABLE,
                        &number);
    if (r == 0 && repair && (lost > 0 || mark < 0) && db_mark_repair(db) == 0 && mark < 0)
        v->findings[number].state = VERIFY_MENDED;
    return r;
}

static int add_checkpoint(struct verify *v, sqlite3_stmt *stmt, size_t *capacity, struct error *e)
{
    if (v->checkpoint_count == *capacity) {
        struct catalogue_checkpoint *list;

        *capacity = *capacity * 2 + 16;
        list = reallocarray(v->checkpoints, *capacity, sizeof(*list));
        if (list == NULL)
            return error_errno(e, ENOMEM, "verifying the store");
        v->checkpoints = list;
    }
    int r = db_column_digest(stmt, 0, &v->checkpoints[v->checkpoint_count].id, e);

    v->checkpoint_count += r == 0;
    return r;
}

/* As many as can be read. */
static int list_checkpoints(struct verify *v)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct error e = ERROR_INIT;
    size_t capacity = 0;
    int r = db_prepare(db, &stmt, &e, "SELECT id FROM checkpoint ORDER BY seq", "");

    while (r == 0 && (r = db_step(db, stmt, &e)) == 1)
        r = add_checkpoint(v, stmt, &capacity, &e);
    return verify_tolerate(v, r, &e);
}

static int run_query(struct verify *v, struct db *db, const char *query, struct error *e)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(db, &stmt, e, query, "");

    while (r == 0 && (r = db_step(db, stmt, e)) == 1) {
        const char *what = (const char *)sqlite3_column_text(stmt, 0);

        /* In a damaged catalogue any column may be null, and the text with it. */
        r = note_catalogue(v, what != NULL ? what : "an entry has lost its name", NULL);
    }
    return r;
}

/* What names lead to must be there, and rows must be as they were written. A query
 * that fails says nothing about what the next would find. */
static int check_references(struct verify *v)
{
    static const char *const queries[] = {
        "SELECT 'image ' || name || ':' || tag || ' has lost its checkpoint' FROM image"
        " WHERE id NOT IN (SELECT id FROM checkpoint)",
        "SELECT 'machine ' || name || ' has lost the checkpoint it builds on' FROM machine"
        " WHERE head IS NOT NULL AND head NOT IN (SELECT id FROM checkpoint)",
        "SELECT 'machine ' || name || ' has lost the checkpoint it was made from' FROM machine"
        " WHERE origin NOT IN (SELECT id FROM checkpoint)",
        "SELECT 'the entry of pack ' || seq || ', ' || lower(hex(id)) || ', has changed' FROM pack"
        " WHERE sum IS NOT " DB_PACK_SUM,
        "SELECT 'the entry of image ' || name || ':' || tag || ' has changed' FROM image"
        " WHERE sum IS NOT " DB_IMAGE_SUM,
        "SELECT 'the entry of machine ' || name || ' has changed' FROM machine"
        " WHERE sum IS NOT " DB_MACHINE_SUM,
        "SELECT 'the entry of checkpoint ' || lower(hex(id)) || ' (' ||"
        " coalesce(machine, '-') || '@' || coalesce(name, '-') || ') has changed'"
        " FROM checkpoint WHERE sum IS NOT " DB_CHECKPOINT_SUM,
    };
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(queries); i++) {
        struct error e = ERROR_INIT;

        r = verify_tolerate(v, run_query(v, db, queries[i], &e), &e);
    }
    return r;
}

/* ---- checkpoints ---- */

enum { COPIES_MAX = 16 };

/* The finding that makes one copy of an object useless, or -1. */
static int64_t finding_of(struct verify *v, enum pack_kind kind, const struct location *at)
{
    struct index_cursor cursor =
        index_find(kind == PACK_PAGES ? &v->bad_pages : &v->bad_nodes, at->id);
    const struct index_entry *e;

    /* Loaded after the packs were checked: nothing is known against it. */
    if (at->pack >= v->pack_count)
        return -1;
    if (v->unusable[at->pack] != 0)
        return (int64_t)v->unusable[at->pack] - 1;
    while ((e = index_next_exact(&cursor)) != NULL)
        if (e->object == at->pack)
            return index_entry_pack(e);
    return -1;
}

/* The object is nowhere. It may have been in a pack whose footer is unreadable. */
static int blame_damaged(struct verify *v, enum pack_kind kind)
{
    bool blamed = false;

    for (uint32_t i = 0; i < v->pack_count; i++) {
        const struct pack *pack = packs_get(&v->store->packs, i);

        if (v->unusable[i] != 0 && pack->kind == kind) {
            hit(v, v->unusable[i] - 1, v->current);
            blamed = true;
        }
    }
    if (blamed)
        return 0;
    return note_checkpoint(v, v->current,
                           kind == PACK_PAGES ? "a map lists a page that is in no pack"
                                              : "a map lists a node that is in no pack");
}

/* The current checkpoint needs this object: 1 if it has lost it, 0 if a good copy
 * is there. */
static int need(struct verify *v, enum pack_kind kind, struct page_ref id)
{
    struct location at[COPIES_MAX];
    unsigned n = packs_find(&v->store->packs, kind, id, false, 0, UINT32_MAX, at, COPIES_MAX);
    int r;

    if (n == 0) {
        r = blame_damaged(v, kind);
        return r < 0 ? r : 1;
    }
    for (unsigned i = 0; i < n && i < COPIES_MAX; i++)
        if (finding_of(v, kind, &at[i]) < 0)
            return 0;
    for (unsigned i = 0; i < n && i < COPIES_MAX; i++)
        hit(v, (size_t)finding_of(v, kind, &at[i]), v->current);
    return 1;
}

static int walk_page(void *context, struct page_ref ref)
{
    int r = need(context, PACK_PAGES, ref);

    return r < 0 ? r : 0;
}

/* It could be read, but perhaps only because this process had it in memory. */
static int walk_good_node(void *context, const struct digest *digest, const uint8_t *bytes,
                          size_t length, const struct map_node *decoded)
{
    int r = need(context, PACK_NODES, node_id(digest));

    (void)bytes;
    (void)length;
    (void)decoded;
    return r < 0 ? r : 0;
}

static int walk_bad_node(void *context, const struct digest *digest, const struct error *why)
{
    struct verify *v = context;
    int r = need(v, PACK_NODES, node_id(digest));

    /* Its bytes are good, and still it is not what the map needs there. */
    return r == 0 ? note_checkpoint(v, v->current, why->message) : r < 0 ? r : 0;
}

/* What check_manifests() could not read, or is gone, is left out. */
static int walk_checkpoint(struct verify *v, struct tree_walk *walk)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    int r = 0;

    if (m == NULL)
        return verify_out_of_memory(v);
    if (catalogue_manifest_read(v->store, &v->checkpoints[v->current].id, m, NULL) < 0)
        return 0;
    for (uint32_t i = 0; i < m->space_count && r == 0; i++)
        r = tree_walk_map(walk, &m->spaces[i].root,
                          div_round_up(m->spaces[i].size_bytes, STASIS_PAGE_SIZE), NULL);
    return r;
}

/* share: walk each node once for all checkpoints. Quick, but what is wrong with a
 * shared node is then found for one checkpoint only. */
static int walk_checkpoints(struct verify *v, bool share)
{
    struct tree_walk walk = {.node = walk_good_node,
                             .page = walk_page,
                             .bad = walk_bad_node,
                             .context = v,
                             .store = v->store,
                             .err = v->err};
    int r = 0;

    for (v->current = 0; r == 0 && v->current < v->checkpoint_count; v->current++) {
        if (!share)
            tree_walk_clear(&walk);
        r = walk_checkpoint(v, &walk);
    }
    tree_walk_clear(&walk);
    return r;
}

/* A manifest or device state that cannot be read: mended is whether it is again. */
static int note_mended(struct verify *v, size_t checkpoint, const char *what, bool mended)
{
    int r = note_checkpoint(v, checkpoint, what);

    if (r == 0 && mended)
        v->findings[v->finding_count - 1].state = VERIFY_MENDED;
    return r;
}

static int check_manifest(struct verify *v, size_t checkpoint, struct manifest *m)
{
    const struct digest *id = &v->checkpoints[checkpoint].id;
    _cleanup_free_ void *state = NULL;
    struct error e = ERROR_INIT;
    size_t length;
    int r = catalogue_manifest_read(v->store, id, m, &e);

    /* Removed meanwhile. */
    if (r == -ENOENT)
        return 0;
    if (r < 0) {
        bool mended = repair_manifest(v, id);

        r = note_mended(v, checkpoint, e.message, mended);
        if (r < 0 || !mended || catalogue_manifest_read(v->store, id, m, NULL) < 0)
            return r;
    }
    if (m->has_state && store_blob_read(v->store, &m->state, &state, &length, &e) < 0)
        return note_mended(v, checkpoint, e.message, repair_blob(v, &m->state));
    return 0;
}

static int check_manifests(struct verify *v)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    int r = m != NULL ? 0 : verify_out_of_memory(v);

    for (size_t i = 0; r == 0 && i < v->checkpoint_count; i++)
        r = check_manifest(v, i, m);
    return r;
}

static void forget_findings(struct verify *v, size_t count)
{
    while (v->finding_count > count) {
        struct finding *f = &v->findings[--v->finding_count];

        free(f->file);
        free(f->what);
        free(f->hits);
    }
}

static int check_checkpoints(struct verify *v)
{
    size_t before = v->finding_count;
    int r = before == 0 ? walk_checkpoints(v, true) : 0;

    v->result.checkpoints = v->checkpoint_count;
    if (r == 0 && v->finding_count != 0) {
        forget_findings(v, before);
        r = walk_checkpoints(v, false);
    }
    return r;
}

static void verify_clear(struct verify *v)
{
    forget_findings(v, 0);
    free(v->findings);
    free(v->checkpoints);
    index_clear(&v->bad_pages);
    index_clear(&v->bad_nodes);
    free(v->unusable);
}

int store_verify(struct store *store, const struct verify_options *options,
                 struct verify_result *out, struct error *err)
{
    static const struct verify_options none = {0};
    struct verify v = {.store = store, .options = options != NULL ? options : &none, .err = err};
    int r = store_refresh(store, err);

    if (r == 0)
        r = list_checkpoints(&v);
    if (r == 0)
        r = check_catalogue(&v);
    if (r == 0)
        r = check_references(&v);
    if (r == 0)
        r = check_end(&v);
    if (r == 0)
        r = verify_packs(&v);
    if (r == 0)
        r = check_manifests(&v);
    if (r == 0)
        r = check_index(&v);
    if (r == 0)
        r = check_checkpoints(&v);
    if (r == 0)
        r = report(&v);
    if (r == 0)
        *out = v.result;
    verify_clear(&v);
    return r;
}
