/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mending packs beyond what their parity can: pages and nodes of a lost group are
 * looked for wherever else they may be. Keys only propose; the group's SHA-256
 * decides. What comes of it is the old file, byte for byte, so that nobody who has
 * it open or knows its footer need be told.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "store/verify_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* Different pages that share a key are rare, and no more combinations of them are
 * tried than take a moment. */
enum { PROPOSALS_MAX = 4, COMBINATIONS_MAX = 256, COPIES_MAX = 16 };

/* What may be one object of a lost group. */
struct proposals {
    uint8_t *bytes[PROPOSALS_MAX];
    size_t length[PROPOSALS_MAX];
    unsigned count;
};

struct search {
    struct verify *v;
    struct pack_mend *mend;
    uint32_t number; /* of the pack */
    uint32_t group;
    struct proposals *objects; /* of the group */
    uint32_t object_count;
    unsigned tried;
    uint8_t *raw;
};

static void proposals_free(struct proposals *list, uint32_t count)
{
    for (uint32_t i = 0; list != NULL && i < count; i++)
        for (unsigned n = 0; n < list[i].count; n++)
            free(list[i].bytes[n]);
    free(list);
}

static int propose(struct proposals *p, const uint8_t *bytes, size_t length)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->length[i] == length && memcmp(p->bytes[i], bytes, length) == 0)
            return 0;
    if (p->count == PROPOSALS_MAX)
        return 0;
    p->bytes[p->count] = malloc(length + 1);
    if (p->bytes[p->count] == NULL)
        return -ENOMEM;
    memcpy(p->bytes[p->count], bytes, length);
    p->length[p->count++] = length;
    return 0;
}

static bool is_the_object(enum pack_kind kind, struct page_ref id, const uint8_t *bytes,
                          size_t length)
{
    if (kind == PACK_PAGES)
        return length == STASIS_PAGE_SIZE && page_ref_same_key(page_ref_of(bytes), id);
    struct digest digest = digest_of(bytes, length);

    return page_ref_equal(node_id(&digest), id);
}

/* Variants mean nothing in another store, and in this one another variant may be the
 * same page, stored again because this one could not be read. */
static int propose_from(struct search *s, struct store *store, enum pack_kind kind,
                        struct page_ref id, struct proposals *out)
{
    struct location at[COPIES_MAX];
    unsigned n =
        packs_find(&store->packs, kind, id, kind == PACK_PAGES, 0, UINT32_MAX, at, COPIES_MAX);

    for (unsigned i = 0; i < n && i < COPIES_MAX; i++) {
        _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
        const uint8_t *bytes;
        size_t length;

        if (packs_read(&store->packs, &at[i], &g, &bytes, &length, NULL) < 0 ||
            !is_the_object(kind, id, bytes, length))
            continue;
        if (propose(out, bytes, length) < 0)
            return verify_out_of_memory(s->v);
    }
    return 0;
}

/* A page from elsewhere may be any of the group's. */
static void take_page(const uint8_t *page, void *context)
{
    struct search *s = context;
    const struct pack_index *index = pack_mend_index(s->mend);
    uint32_t first = index->groups[s->group].first_object;
    struct page_ref ref = page_ref_of(page);

    for (uint32_t i = 0; i < s->object_count; i++)
        if (page_ref_same_key(page_ref_load(index->objects[first + i].bytes), ref))
            propose(&s->objects[i], page, STASIS_PAGE_SIZE);
}

/* Asks for what nothing was found for yet. */
static void ask_page_sources(struct search *s)
{
    const struct pack_index *index = pack_mend_index(s->mend);
    const struct verify_options *options = s->v->options;
    struct page_ref keys[PACK_GROUP_OBJECTS_MAX];
    uint32_t first = index->groups[s->group].first_object;

    for (size_t n = 0; index->kind == PACK_PAGES && n < options->page_source_count; n++) {
        const struct page_source *source = &options->page_sources[n];
        unsigned count = 0;

        for (uint32_t i = 0; i < s->object_count; i++)
            if (s->objects[i].count == 0)
                keys[count++] = page_ref_load(index->objects[first + i].bytes);
        if (count != 0)
            source->find(keys, count, take_page, s, source->context);
    }
}

static int find_proposals(struct search *s)
{
    const struct pack_index *index = pack_mend_index(s->mend);
    const struct pack_group *g = &index->groups[s->group];
    const struct verify_options *options = s->v->options;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < g->object_count; i++) {
        struct page_ref id = page_ref_load(index->objects[g->first_object + i].bytes);

        r = propose_from(s, s->v->store, index->kind, id, &s->objects[i]);
        for (size_t n = 0; r == 0 && n < options->source_count; n++)
            r = propose_from(s, options->sources[n], index->kind, id, &s->objects[i]);
    }
    if (r == 0)
        ask_page_sources(s);
    /* Without one of them there is no group. */
    for (uint32_t i = 0; r == 0 && i < g->object_count; i++)
        if (s->objects[i].count == 0)
            return -ENOENT;
    return r;
}

/* Puts the group together from one proposal for each object; true if one way to do
 * so is right. */
static bool combine(struct search *s, uint32_t object, size_t used)
{
    uint32_t raw_bytes = pack_mend_index(s->mend)->groups[s->group].raw_bytes;
    const struct proposals *p = &s->objects[object];

    if (object == s->object_count)
        return s->tried++ < COMBINATIONS_MAX && used == raw_bytes &&
               pack_mend_supply(s->mend, s->group, s->raw, NULL) == 0;
    for (unsigned i = 0; i < p->count && s->tried < COMBINATIONS_MAX; i++) {
        if (p->length[i] > raw_bytes - used)
            continue;
        memcpy(s->raw + used, p->bytes[i], p->length[i]);
        if (combine(s, object + 1, used + p->length[i]))
            return true;
    }
    return false;
}

static int supply_group(struct verify *v, struct pack_mend *m, uint32_t number, uint32_t group)
{
    const struct pack_group *g = &pack_mend_index(m)->groups[group];
    _cleanup_free_ uint8_t *raw = malloc(g->raw_bytes);
    struct search s = {.v = v, .mend = m, .number = number, .group = group, .raw = raw};
    int r;

    s.object_count = g->object_count;
    s.objects = calloc(g->object_count, sizeof(*s.objects));
    if (raw == NULL || s.objects == NULL)
        r = verify_out_of_memory(v);
    else
        r = find_proposals(&s);
    if (r == 0)
        combine(&s, 0, 0);
    proposals_free(s.objects, g->object_count);
    return r == -ENOENT ? 0 : r;
}

int repair_supply(struct verify *v, struct pack_mend *m, uint32_t number)
{
    size_t count;
    const struct pack_damage *damage = pack_mend_damage(m, &count);
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++)
        if (!damage[i].mended && damage[i].group != PACK_NO_GROUP)
            r = supply_group(v, m, number, damage[i].group);
    return r;
}

bool repair_lists(const struct pack_index *index, const struct pack_row *row)
{
    return memcmp(index->id, row->id, PACK_ID_SIZE) == 0 && index->kind == row->kind &&
           index->file_bytes == row->bytes && index->group_count == row->groups &&
           index->object_count == row->objects;
}

bool repair_is_right(const struct pack_mend *m, const struct pack_row *row, struct error *e)
{
    const struct pack_index *index = pack_mend_index(m);
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);

    if (raw == NULL || !repair_lists(index, row) || !pack_mend_is_whole(m))
        return false;
    for (uint32_t i = 0; i < index->group_count; i++)
        if (pack_mend_group(m, i, raw, e) < 0 || verify_group(index, i, raw, "copy", e) < 0)
            return false;
    return true;
}

static int load_from(struct store *source, const char *name, struct pack_mend **out)
{
    _cleanup_close_ int fd = openat(source->dirfd, name, O_RDONLY | O_CLOEXEC);
    size_t length;
    uint8_t *data;
    int r;

    if (fd < 0)
        return -errno;
    r = pack_mend_load(fd, name, NULL, NULL, &data, &length, NULL);
    return r < 0 ? r : pack_mend_begin(name, data, length, out, NULL);
}

/* Ids are random: a pack with the same one is a copy. */
int repair_find_pack(struct verify *v, const struct pack_row *row, struct pack_mend **out)
{
    char name[PACK_NAME_SIZE];

    packs_name(row->id, name);
    for (size_t i = 0; i < v->options->source_count; i++) {
        struct pack_mend *m = NULL;
        int r = load_from(v->options->sources[i], name, &m);

        if (r == 0 && repair_is_right(m, row, NULL)) {
            *out = m;
            return 1;
        }
        pack_mend_free(m);
        if (r == -ENOMEM)
            return verify_out_of_memory(v);
    }
    return 0;
}

/* ---- the catalogue ---- */

/* What has a digest can come from anywhere. */
bool repair_manifest(struct verify *v, const struct digest *id)
{
    for (size_t i = 0; i < v->options->source_count && !v->catalogue_torn; i++) {
        _cleanup_free_ char *text = NULL;
        size_t length;

        if (catalogue_manifest_text(v->options->sources[i], id, &text, &length, NULL) < 0)
            continue;
        _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);

        return v->options->repair &&
               db_run(db, NULL, "UPDATE checkpoint SET manifest = ? WHERE id = ?", "bd", text,
                      length, id) == 0;
    }
    return false;
}

static int put_blob(struct db *db, const struct digest *digest, const void *data, size_t length)
{
    int r =
        db_run(db, NULL, "UPDATE blob SET data = ? WHERE digest = ?", "bd", data, length, digest);

    if (r < 0 || db_changes(db) != 0)
        return r;
    return db_run(db, NULL, "INSERT INTO blob(digest, data) VALUES(?, ?)", "db", digest, data,
                  length);
}

bool repair_blob(struct verify *v, const struct digest *digest)
{
    for (size_t i = 0; i < v->options->source_count && !v->catalogue_torn; i++) {
        _cleanup_free_ void *data = NULL;
        size_t length;

        if (store_blob_read(v->options->sources[i], digest, &data, &length, NULL) < 0)
            continue;
        _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);

        return v->options->repair && put_blob(db, digest, data, length) == 0;
    }
    return false;
}

/* ---- writing ---- */

int repair_write_pack(struct store *store, const char *name, const struct pack_mend *m,
                      struct error *err)
{
    const char *file = name + strlen("packs/");
    char tmp[PACK_NAME_SIZE];
    size_t length;
    const uint8_t *bytes = pack_mend_bytes(m, &length);
    _cleanup_close_ int fd = store_create_pack(store, tmp, err);

    if (fd < 0)
        return fd;
    int r = io_pwrite_full(fd, bytes, length, 0);
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    if (r == 0 && renameat(store->packs_dirfd, tmp, store->packs_dirfd, file) < 0)
        r = -errno;
    if (r == 0)
        r = io_sync_dir(store->packs_dirfd);
    else
        unlinkat(store->packs_dirfd, tmp, 0);
    return r < 0 ? error_errno(err, -r, "%s cannot be replaced", name) : 0;
}
