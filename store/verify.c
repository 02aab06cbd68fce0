/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verifying. First everything is read and what is wrong is noted: packs from
 * their files (whatever this process has cached), then manifests, blobs and maps.
 * Then, only if something was wrong, each checkpoint is walked to learn what hits
 * it. Last, the findings are reported.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "store/usage.h"
#include "store/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

struct finding {
    char *file;
    uint64_t offset;
    char *what;
    uint64_t *hits; /* a bit for each checkpoint */
};

struct verify {
    struct store *store;
    const struct verify_options *options;
    struct verify_result result;
    struct error *err;
    struct finding *findings;
    size_t finding_count;
    size_t finding_capacity;
    struct index bad_pages; /* those in bad groups; pack: number of the finding; object: pack */
    struct index bad_nodes;
    uint32_t *unusable; /* by pack: number of the finding + 1 if none of it can be used */
    uint32_t pack_count;
    struct catalogue_checkpoint *checkpoints; /* only ids are sure to be set */
    size_t checkpoint_count;
    size_t current; /* checkpoint that is being walked */
    uint64_t bytes_total;
};

/* ---- findings ---- */

static int out_of_memory(struct verify *v)
{
    return error_errno(v->err, ENOMEM, "verifying the store");
}

/* Takes note; *number_out may be NULL. */
static int note(struct verify *v, const char *file, uint64_t offset, const char *what,
                uint32_t *number_out)
{
    struct finding *f;

    if (v->finding_count == v->finding_capacity) {
        size_t capacity = v->finding_capacity * 2 + 16;
        struct finding *list = realloc(v->findings, capacity * sizeof(*list));

        if (list == NULL)
            return out_of_memory(v);
        v->findings = list;
        v->finding_capacity = capacity;
    }
    f = &v->findings[v->finding_count];
    *f = (struct finding){.offset = offset};
    f->file = strdup(file);
    f->what = strdup(what);
    f->hits = calloc(v->checkpoint_count / 64 + 1, sizeof(*f->hits));
    if (number_out != NULL)
        *number_out = (uint32_t)v->finding_count;
    v->finding_count++;
    return f->file == NULL || f->what == NULL || f->hits == NULL ? out_of_memory(v) : 0;
}

static void hit(struct verify *v, size_t finding, size_t checkpoint)
{
    v->findings[finding].hits[checkpoint / 64] |= UINT64_C(1) << checkpoint % 64;
}

/* A finding about a checkpoint itself, in the catalogue. */
static int note_checkpoint(struct verify *v, size_t checkpoint, const char *what)
{
    uint32_t number;
    int r = note(v, "catalogue.db", 0, what, &number);

    if (r == 0)
        hit(v, number, checkpoint);
    return r;
}

static int report(struct verify *v)
{
    struct digest *list = malloc((v->checkpoint_count + 1) * sizeof(*list));

    if (list == NULL)
        return out_of_memory(v);
    for (size_t i = 0; i < v->finding_count && v->options->finding != NULL; i++) {
        const struct finding *f = &v->findings[i];
        struct verify_finding out = {f->file, f->offset, f->what, list, 0};

        for (size_t c = 0; c < v->checkpoint_count; c++)
            if ((f->hits[c / 64] >> c % 64 & 1) != 0)
                list[out.checkpoint_count++] = v->checkpoints[c].id;
        v->options->finding(&out, v->options->context);
    }
    v->result.findings = v->finding_count;
    free(list);
    return 0;
}

/* ---- packs ---- */

struct pack_check {
    struct verify *v;
    char name[PACK_NAME_SIZE];
    uint32_t number;
    int fd;
    struct pack_index *index;
    uint8_t *raw; /* PACK_GROUP_RAW_MAX */
};

DEFINE_CLEANUP(struct pack_index, pack_index_free)

static int check_page_group(const struct pack_check *c, const struct pack_group *g, struct error *e)
{
    for (uint32_t i = 0; i < g->object_count; i++) {
        struct page_ref ref = page_ref_load(c->index->objects[g->first_object + i].bytes);

        if (!page_ref_same_key(page_ref_of(c->raw + (size_t)i * STASIS_PAGE_SIZE), ref))
            return error_corrupt(e, "page %u of the group is not what the footer says", i);
    }
    return 0;
}

static int check_node_group(const struct pack_check *c, const struct pack_group *g, struct error *e)
{
    size_t offset = 0;

    for (uint32_t i = 0; i < g->object_count; i++) {
        size_t length = map_node_length(c->raw + offset, g->raw_bytes - offset);
        struct map_node node;
        struct digest digest;

        if (length == 0 || length > g->raw_bytes - offset)
            return error_corrupt(e, "the group does not hold the map nodes that the footer lists");
        digest = digest_of(c->raw + offset, length);
        if (memcmp(digest.bytes, c->index->objects[g->first_object + i].bytes, PAGE_REF_SIZE) != 0)
            return error_corrupt(e, "map node %u of the group is not what the footer says", i);
        if (map_node_decode(c->raw + offset, length, &node, e) < 0)
            return -EBADMSG;
        offset += length;
    }
    return offset == g->raw_bytes ? 0 : error_corrupt(e, "the group has bytes behind its nodes");
}

/* All objects of a bad group count as bad. */
static int note_group(const struct pack_check *c, const struct pack_group *g, const char *what)
{
    struct verify *v = c->v;
    struct index *bad = c->index->kind == PACK_PAGES ? &v->bad_pages : &v->bad_nodes;
    uint32_t number;
    int r = note(v, c->name, g->offset, what, &number);

    for (uint32_t i = 0; r == 0 && i < g->object_count; i++)
        if (index_add(bad, page_ref_load(c->index->objects[g->first_object + i].bytes), number,
                      c->number) < 0)
            r = out_of_memory(v);
    return r;
}

static int check_group(const struct pack_check *c, uint32_t group)
{
    const struct pack_group *g = &c->index->groups[group];
    struct error e = ERROR_INIT;
    int r = pack_group_read(c->fd, c->name, c->index, group, c->raw, &e);

    if (r == 0)
        r = pack_group_check_digest(c->name, g, c->raw, &e);
    if (r == 0)
        r = c->index->kind == PACK_PAGES ? check_page_group(c, g, &e) : check_node_group(c, g, &e);
    c->v->result.groups++;
    if (r == -ENOMEM)
        return out_of_memory(c->v);
    return r < 0 ? note_group(c, g, e.message) : 0;
}

static int progress(struct verify *v, uint64_t more)
{
    v->result.bytes += more;
    if (v->options->progress != NULL &&
        v->options->progress(v->result.bytes, v->bytes_total, v->options->context) != 0)
        return error_set(v->err, STATUS_INTERRUPTED, ECANCELED, "cancelled");
    return 0;
}

static int check_groups(const struct pack_check *c)
{
    int r = 0;

    for (uint32_t g = 0; r == 0 && g < c->index->group_count; g++) {
        r = check_group(c, g);
        if (r == 0)
            r = progress(c->v, c->index->groups[g].stored_bytes);
    }
    return r;
}

static int read_footer(struct pack_check *c, const struct pack_row *row, struct error *e)
{
    int r;

    c->fd = openat(c->v->store->dirfd, c->name, O_RDONLY | O_CLOEXEC);
    if (c->fd < 0)
        return error_errno(e, errno, "%s", c->name);
    r = pack_index_read(c->fd, c->name, &c->index, e);
    if (r < 0)
        return r;
    if (memcmp(c->index->id, row->id, PACK_ID_SIZE) != 0 || c->index->kind != row->kind ||
        c->index->file_bytes != row->bytes || c->index->group_count != row->groups ||
        c->index->object_count != row->objects)
        return error_corrupt(e, "%s: it is not the pack that the catalogue lists", c->name);
    return 0;
}

static int check_pack(struct verify *v, const struct pack_row *row, uint32_t number, uint8_t *raw)
{
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    _cleanup_close_ int fd = -1;
    struct pack_check c = {.v = v, .number = number, .fd = -1, .raw = raw};
    struct error e = ERROR_INIT;
    uint64_t before = v->result.bytes;
    uint32_t finding;
    int r;

    packs_name(row->id, c.name);
    r = read_footer(&c, row, &e);
    fd = c.fd;
    index = c.index;
    v->result.packs++;
    if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
        return error_errno(v->err, -r, "verifying %s", c.name);
    if (r < 0) {
        r = note(v, c.name, 0, e.message, &finding);
        if (r == 0)
            v->unusable[number] = finding + 1;
    } else {
        if (row->kind == PACK_PAGES)
            v->result.pages += row->objects;
        else
            v->result.nodes += row->objects;
        r = check_groups(&c);
    }
    return r < 0 ? r : progress(v, row->bytes - min_u64(row->bytes, v->result.bytes - before));
}

/* The rows of the packs this process has loaded, by their numbers. All at once:
 * the catalogue is not held while packs are read. */
static int list_packs(struct verify *v, struct pack_row *list)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < v->pack_count; i++) {
        _cleanup_stmt_ sqlite3_stmt *stmt = NULL;

        r = db_prepare(db, &stmt, v->err,
                       "SELECT seq, id, kind, bytes, groups, objects FROM pack WHERE id = ?", "b",
                       packs_get(&v->store->packs, i)->id, (size_t)PACK_ID_SIZE);
        if (r == 0)
            r = db_step(db, stmt, v->err);
        /* No row: removed since it was loaded. kind 0 says so. */
        if (r == 1)
            r = store_pack_row(stmt, &list[i], v->err);
        v->bytes_total += list[i].bytes;
    }
    return r;
}

static int check_packs(struct verify *v)
{
    _cleanup_free_ struct pack_row *list = NULL;
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);
    int r;

    v->pack_count = packs_count(&v->store->packs);
    list = calloc(v->pack_count + 1u, sizeof(*list));
    v->unusable = calloc(v->pack_count + 1u, sizeof(*v->unusable));
    if (raw == NULL || list == NULL || v->unusable == NULL)
        return out_of_memory(v);
    r = list_packs(v, list);
    for (uint32_t i = 0; r == 0 && i < v->pack_count; i++)
        if (list[i].kind != 0)
            r = check_pack(v, &list[i], i, raw);
    return r;
}

/* ---- catalogue ---- */

static void note_complaint(const char *complaint, void *context)
{
    note(context, "catalogue.db", 0, complaint, NULL);
}

static int check_catalogue(struct verify *v)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);

    return db_check(db, note_complaint, v, v->err);
}

static int list_checkpoints(struct verify *v)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    size_t capacity = 0;
    int r = db_prepare(db, &stmt, v->err, "SELECT id FROM checkpoint ORDER BY seq", "");

    while (r == 0 && (r = db_step(db, stmt, v->err)) == 1) {
        if (v->checkpoint_count == capacity) {
            struct catalogue_checkpoint *list;

            capacity = capacity * 2 + 16;
            list = reallocarray(v->checkpoints, capacity, sizeof(*list));
            if (list == NULL)
                return out_of_memory(v);
            v->checkpoints = list;
        }
        r = db_column_digest(stmt, 0, &v->checkpoints[v->checkpoint_count++].id, v->err);
    }
    return r;
}

/* What names lead to must be there, and rows must be as they were written. */
static int check_references(struct verify *v)
{
    static const char *const queries[] = {
        "SELECT 'image ' || name || ':' || tag || ' has lost its checkpoint' FROM image"
        " WHERE id NOT IN (SELECT id FROM checkpoint)",
        "SELECT 'machine ' || name || ' has lost the checkpoint it builds on' FROM machine"
        " WHERE head IS NOT NULL AND head NOT IN (SELECT id FROM checkpoint)",
        "SELECT 'machine ' || name || ' has lost the checkpoint it was made from' FROM machine"
        " WHERE origin NOT IN (SELECT id FROM checkpoint)",
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
        _cleanup_stmt_ sqlite3_stmt *stmt = NULL;

        r = db_prepare(db, &stmt, v->err, queries[i], "");
        while (r == 0 && (r = db_step(db, stmt, v->err)) == 1) {
            const char *what = (const char *)sqlite3_column_text(stmt, 0);

            /* In a damaged catalogue any column may be null, and the text with it. */
            r = note(v, "catalogue.db", 0, what != NULL ? what : "an entry has lost its name",
                     NULL);
        }
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

/* The object is nowhere. It may have been in a pack whose footer was unreadable
 * when it was loaded. */
static int blame_damaged(struct verify *v, enum pack_kind kind)
{
    bool blamed = false;

    for (uint32_t i = 0; i < v->pack_count; i++) {
        const struct pack *pack = packs_get(&v->store->packs, i);

        if (v->unusable[i] != 0 && pack->index == NULL && pack->kind == kind) {
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

static int walk_checkpoint(struct verify *v, struct tree_walk *walk)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    _cleanup_free_ void *state = NULL;
    struct error e = ERROR_INIT;
    size_t length;
    int r;

    if (m == NULL)
        return out_of_memory(v);
    r = catalogue_manifest_read(v->store, &v->checkpoints[v->current].id, m, &e);
    /* Removed meanwhile. */
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return note_checkpoint(v, v->current, e.message);
    for (uint32_t i = 0; i < m->space_count && r == 0; i++)
        r = tree_walk_map(walk, &m->spaces[i].root,
                          div_round_up(m->spaces[i].size_bytes, STASIS_PAGE_SIZE), NULL);
    if (r < 0)
        return r;
    if (m->has_state && store_blob_read(v->store, &m->state, &state, &length, &e) < 0)
        return note_checkpoint(v, v->current, e.message);
    return 0;
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
        r = check_packs(&v);
    if (r == 0)
        r = check_catalogue(&v);
    if (r == 0)
        r = check_references(&v);
    if (r == 0)
        r = check_checkpoints(&v);
    if (r == 0)
        r = report(&v);
    if (r == 0)
        *out = v.result;
    verify_clear(&v);
    return r;
}
