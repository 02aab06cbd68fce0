/* SPDX-License-Identifier: Apache-2.0 */
/* What is needed: everything that checkpoints and pins reach. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/gc_private.h"

#include <errno.h>

enum { COPIES_MAX = 64 };

#define PROGRESS_PAGES 4096u

static int out_of_memory(struct marks *m)
{
    return error_errno(m->err, ENOMEM, "collecting garbage");
}

int gc_progress(const struct gc_options *options, const char *what, uint64_t done, uint64_t total,
                struct error *err)
{
    if (options->progress == NULL || options->progress(what, done, total, options->context) == 0)
        return 0;
    error_set(err, STATUS_INTERRUPTED, ECANCELED, "cancelled");
    error_hint(err, "nothing that is needed was lost; the next 'stasis gc' goes on");
    return -ECANCELED;
}

/* ---- packs ---- */

static int list_packs(struct marks *m)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&m->store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(db, &stmt, m->err, "SELECT " PACK_ROW " FROM pack", "");

    while (r == 0 && (r = db_step(db, stmt, m->err)) == 1) {
        struct pack_row row;
        uint32_t number;

        r = store_pack_row(stmt, &row, m->err);
        if (r < 0)
            return r;
        number = packs_number_of(&m->store->packs, row.seq);
        if (number >= m->count)
            continue; /* younger than the marks */
        m->packs[number] = (struct gc_pack){.seq = row.seq,
                                            .kind = row.kind,
                                            .bytes = row.bytes,
                                            .objects = row.objects,
                                            .condemned = row.condemned >= 0};
        memcpy(m->packs[number].id, row.id, PACK_ID_SIZE);
    }
    return r;
}

/* ---- objects ---- */

static int set_bit(struct marks *m, struct gc_pack *pack, uint32_t object, bool alone)
{
    uint8_t bit = (uint8_t)(1u << object % 8);

    if (pack->bits == NULL)
        pack->bits = calloc(1, pack->objects / 8u + 1);
    if (pack->bits == NULL)
        return out_of_memory(m);
    if (object >= pack->objects || (pack->bits[object / 8] & bit) != 0)
        return 0;
    pack->bits[object / 8] |= bit;
    pack->live++;
    pack->alone += alone;
    return 0;
}

static int missing(struct marks *m, enum pack_kind kind)
{
    int r = packs_missing(&m->store->packs,
                          kind == PACK_PAGES ? "a page that a checkpoint needs"
                                             : "a map node that a checkpoint needs",
                          m->err);

    error_hint(m->err, "'stasis verify' names what is damaged; repair or remove that first");
    return r;
}

/* All copies count as needed; whether one is as good as the other is seen when a
 * pack is written again. */
static int mark_object(struct marks *m, enum pack_kind kind, struct page_ref id)
{
    struct packs *packs = &m->store->packs;
    struct location at[COPIES_MAX];
    unsigned n = packs_find(packs, kind, id, false, 0, UINT32_MAX, at, COPIES_MAX);
    bool found_live = false;
    int r = 0;

    /* The index only proposes; what is needed is looked for everywhere. */
    if (n == 0)
        n = packs_search(packs, kind, id, at, COPIES_MAX);
    if (n == 0)
        return missing(m, kind);
    n = (unsigned)min_u64(n, COPIES_MAX);
    for (unsigned i = 0; r == 0 && i < n; i++) {
        bool old = at[i].pack < m->count && m->packs[at[i].pack].seq != 0;
        bool live = !old || !m->packs[at[i].pack].condemned;

        if (old)
            r = set_bit(m, &m->packs[at[i].pack], at[i].object, live && !found_live);
        found_live |= live;
    }
    for (unsigned i = 0; i < n && !found_live; i++)
        m->packs[at[i].pack].revive = found_live = true;
    return r;
}

static int mark_page(void *context, struct page_ref ref)
{
    struct marks *m = context;
    int r = mark_object(m, PACK_PAGES, ref);

    if (r == 0 && ++m->pages % PROGRESS_PAGES == 0)
        r = gc_progress(m->options, "marking", m->pages * STASIS_PAGE_SIZE, 0, m->err);
    return r;
}

static int mark_node(void *context, const struct digest *digest, const uint8_t *bytes,
                     size_t length, const struct map_node *decoded)
{
    (void)bytes;
    (void)length;
    (void)decoded;
    return mark_object(context, PACK_NODES, node_id(digest));
}

/* ---- roots ---- */

struct root {
    struct digest id;
    char *manifest;
    size_t length;
};

struct roots {
    struct root *list;
    size_t count;
};

static void roots_clear(struct roots *roots)
{
    for (size_t i = 0; i < roots->count; i++)
        free(roots->list[i].manifest);
    free(roots->list);
}

static int add_root(struct marks *m, struct roots *roots, const struct digest *id,
                    sqlite3_stmt *stmt)
{
    struct root *list = realloc(roots->list, (roots->count + 1) * sizeof(*list));
    struct root root = {.id = *id, .length = (size_t)sqlite3_column_bytes(stmt, 1)};

    if (list == NULL)
        return out_of_memory(m);
    roots->list = list;
    root.manifest = calloc(1, root.length + 1);
    if (root.manifest == NULL)
        return out_of_memory(m);
    if (root.length != 0)
        memcpy(root.manifest, sqlite3_column_blob(stmt, 1), root.length);
    roots->list[roots->count++] = root;
    return 0;
}

static bool is_done(const struct marks *m, const struct digest *id)
{
    return index_get(&m->done, node_id(id)) != NULL;
}

/* The roots that were not marked yet. db.lock is held. */
static int list_roots_locked(struct marks *m, bool orphans, struct roots *out)
{
    struct db *db = &m->store->db;
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(db, &stmt, m->err,
                       orphans ? "SELECT id, manifest FROM checkpoint UNION ALL"
                                 " SELECT checkpoint, manifest FROM lease"
                                 " WHERE checkpoint IS NOT NULL"
                               : "SELECT id, manifest FROM checkpoint WHERE NOT" DB_ORPHAN
                                 " UNION ALL SELECT checkpoint, manifest FROM lease"
                                 " WHERE checkpoint IS NOT NULL",
                       "");

    while (r == 0 && (r = db_step(db, stmt, m->err)) == 1) {
        struct digest id;

        r = db_column_digest(stmt, 0, &id, m->err);
        if (r == 0 && !is_done(m, &id))
            r = add_root(m, out, &id, stmt);
    }
    return r;
}

int marks_are_behind_locked(struct marks *m)
{
    _cleanup_(roots_clear) struct roots roots = {0};
    int r = list_roots_locked(m, true, &roots);

    return r < 0 ? r : roots.count != 0;
}

static int mark_manifest(struct marks *m, const struct root *root)
{
    _cleanup_free_ struct manifest *manifest = malloc(sizeof(*manifest));
    struct digest actual = digest_of(root->manifest, root->length);
    int r;

    if (manifest == NULL)
        return out_of_memory(m);
    if (!digest_equal(&actual, &root->id))
        return error_corrupt(m->err, "catalogue.db: its manifest is damaged");
    r = manifest_decode(root->manifest, root->length, manifest, m->err);
    for (uint32_t i = 0; r == 0 && i < manifest->space_count; i++)
        r = tree_walk_map(&m->walk, &manifest->spaces[i].root,
                          div_round_up(manifest->spaces[i].size_bytes, STASIS_PAGE_SIZE), NULL);
    return r;
}

static int mark_root(struct marks *m, const struct root *root)
{
    char hex[DIGEST_HEX_SIZE];
    int r = is_done(m, &root->id) ? 0 : mark_manifest(m, root);

    if (r == -EBADMSG) {
        error_prefix(m->err, "checkpoint %.12s is damaged, so nothing is removed",
                     digest_hex(&root->id, hex));
        error_hint(m->err, "'stasis verify' says what is wrong; repair or remove it first");
    }
    if (r == 0 && index_add(&m->done, node_id(&root->id), 0, 0) < 0)
        r = out_of_memory(m);
    return r;
}

int marks_roots(struct marks *m, bool orphans)
{
    _cleanup_(roots_clear) struct roots roots = {0};
    int r;

    db_lock(&m->store->db);
    r = list_roots_locked(m, orphans, &roots);
    if (r == 0)
        r = store_refresh_locked(m->store, m->err);
    db_unlock(&m->store->db);
    for (size_t i = 0; r == 0 && i < roots.count; i++)
        r = mark_root(m, &roots.list[i]);
    return r;
}

/* ---- the whole ---- */

int marks_begin(struct marks *m, struct store *store, const struct gc_options *options,
                struct error *err)
{
    *m = (struct marks){.store = store, .options = options, .err = err};
    m->walk = (struct tree_walk){
        .node = mark_node, .page = mark_page, .context = m, .store = store, .err = err};
    m->count = packs_count(&store->packs);
    m->packs = calloc(m->count + 1u, sizeof(*m->packs));
    return m->packs == NULL ? out_of_memory(m) : list_packs(m);
}

void marks_clear(struct marks *m)
{
    for (uint32_t i = 0; m->packs != NULL && i < m->count; i++)
        free(m->packs[i].bits);
    free(m->packs);
    index_clear(&m->done);
    tree_walk_clear(&m->walk);
    *m = (struct marks){0};
}
