/* SPDX-License-Identifier: Apache-2.0 */
/* Giving pages of an ingest other references: because another process used
 * theirs first, or because they came with the names of another store. */
#include "base/cleanup.h"
#include "store/ingest_private.h"

#include <errno.h>

/* ---- clashes ---- */

static struct page_ref renamed(const struct renames *renames, struct page_ref ref)
{
    const struct index_entry *e = index_get(&renames->table, ref);

    return e == NULL ? ref : page_ref_with_variant(ref, (uint16_t)e->object);
}

/* Does the store, in packs from..to-1, hold another page under our reference? A
 * page there that cannot be read may be another. */
static bool clashes(struct ingest *in, const struct index_entry *own, uint32_t from, uint32_t to)
{
    struct location at[4];
    unsigned n = packs_find(&in->store->packs, PACK_PAGES, own->id, false, from, to, at, 4);
    const uint8_t *mine, *theirs;
    size_t length;

    for (unsigned i = 0; i < n && i < 4; i++) {
        if (ingest_own_bytes(in, PACK_PAGES, own, &mine, &length, NULL) < 0 ||
            packs_read_near(&in->store->packs, &at[i], &in->near_store, &theirs, &length, NULL) <
                0 ||
            memcmp(mine, theirs, STASIS_PAGE_SIZE) != 0)
            return true;
    }
    return false;
}

int ingest_find_clashes(struct ingest *in, uint32_t to, struct renames *out, struct error *err)
{
    int r = 0;

    for (uint64_t i = 0; r == 0 && in->checked < to && i < in->pages.slot_count; i++) {
        const struct index_entry *e = &in->pages.slots[i];

        if (e->pack_plus1 != 0 && clashes(in, e, in->checked, to))
            r = index_add(&out->table, e->id, 0, 0);
    }
    if (r < 0)
        return error_errno(err, -r, "comparing new pages");
    return 0;
}

/* Chooses the new names. They are free among our own, too, because each chosen
 * one is added to them before the next. */
static int choose_names(struct ingest *in, const struct renames *list, uint32_t to,
                        struct error *err)
{
    for (uint64_t i = 0; i < list->table.slot_count; i++) {
        struct index_entry *e = &list->table.slots[i];
        const struct index_entry *own;
        uint8_t page[STASIS_PAGE_SIZE];
        const uint8_t *bytes;
        struct page_ref ref;
        size_t length;
        bool exists;
        int r;

        if (e->pack_plus1 == 0)
            continue;
        own = index_get(&in->pages, e->id);
        r = ingest_own_bytes(in, PACK_PAGES, own, &bytes, &length, err);
        if (r < 0)
            return r;
        memcpy(page, bytes, sizeof(page));
        r = ingest_find_page(in, page, to, e->id, &ref, &exists, err);
        if (r == 0 && index_add(&in->pages, ref, index_entry_pack(own), own->object) < 0)
            r = error_errno(err, ENOMEM, "renaming a page");
        if (r < 0)
            return r;
        e->object = page_ref_variant(ref);
    }
    return 0;
}

/* ---- packs ---- */

static int copy_group(struct ingest *in, const struct own_pack *from, uint32_t group,
                      struct own_pack *to, const struct renames *renames, struct error *err)
{
    const struct pack_index *index = own_index(from);
    const struct pack_group *info = &index->groups[group];
    _cleanup_free_ uint8_t *raw = malloc(info->raw_bytes);
    struct pack_object_id ids[PACK_HOT_GROUP_PAGES];
    uint32_t number;
    int r;

    (void)in;
    if (raw == NULL || info->object_count > PACK_HOT_GROUP_PAGES)
        return error_errno(err, ENOMEM, "renaming pages");
    r = pack_group_read(from->fd, from->name, index, group, raw, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < info->object_count; i++) {
        struct page_ref ref = page_ref_load(index->objects[info->first_object + i].bytes);

        page_ref_store(renamed(renames, ref), ids[i].bytes);
    }
    return pack_writer_group(to->writer, raw, info->raw_bytes, ids, info->object_count, &number,
                             err);
}

static bool pack_has_renamed(const struct own_pack *pack, const struct renames *renames)
{
    const struct pack_index *index = own_index(pack);

    for (uint32_t i = 0; i < index->object_count; i++)
        if (index_get(&renames->table, page_ref_load(index->objects[i].bytes)) != NULL)
            return true;
    return false;
}

/* Footers cannot be changed, so a pack with a renamed page is written again. */
static int replace_pack(struct ingest *in, uint32_t number, const struct renames *renames,
                        struct error *err)
{
    uint32_t fresh;
    int r = ingest_add_pack(in, PACK_PAGES, &fresh, err);

    for (uint32_t g = 0; r == 0 && g < own_index(in->packs[number])->group_count; g++)
        r = copy_group(in, in->packs[number], g, in->packs[fresh], renames, err);
    if (r == 0)
        ingest_drop_pack(in, number);
    return r;
}

/* The index of our own pages, from the footers of our packs. */
static int index_own_pages(struct ingest *in, struct error *err)
{
    int r = 0;

    index_clear(&in->pages);
    for (uint32_t p = 0; p < in->pack_count; p++) {
        const struct own_pack *pack = in->packs[p];

        if (pack->kind != PACK_PAGES || pack->state == OWN_DROPPED)
            continue;
        const struct pack_index *index = own_index(pack);

        for (uint32_t i = 0; r == 0 && i < index->object_count; i++)
            r = index_add(&in->pages, page_ref_load(index->objects[i].bytes), p, i);
    }
    return r < 0 ? error_errno(err, -r, "renaming pages") : 0;
}

/* ---- maps ---- */

struct rewrite {
    struct ingest *in;
    const struct renames *renames;
    bool everything;
    struct index old_nodes; /* nodes we had written before */
    struct index done;      /* old node -> position in results */
    struct digest *results;
    size_t result_count;
    size_t result_capacity;
    struct error *err;
};

static int remember(struct rewrite *rw, const struct digest *from, const struct digest *to)
{
    if (rw->result_count == rw->result_capacity) {
        size_t capacity = rw->result_capacity == 0 ? 64 : rw->result_capacity * 2;
        struct digest *list = realloc(rw->results, capacity * sizeof(*list));

        if (list == NULL || capacity > UINT32_MAX)
            return -ENOMEM;
        rw->results = list;
        rw->result_capacity = capacity;
    }
    rw->results[rw->result_count] = *to;
    return index_add(&rw->done, node_id(from), 0, (uint32_t)rw->result_count++);
}

/* level: what the node must have, or negative for a root. */
static int rewrite_node(struct rewrite *rw, const struct digest *digest, int level,
                        struct digest *out);

static int rewrite_entries(struct rewrite *rw, struct map_node *node)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < map_fanout(node->level); i++) {
        if ((node->present >> i & 1) == 0)
            continue;
        if (node->level == 0)
            node->pages[i] = renamed(rw->renames, node->pages[i]);
        else
            r = rewrite_node(rw, &node->children[i], node->level - 1, &node->children[i]);
    }
    return r;
}

static int read_old_node(struct rewrite *rw, const struct digest *digest, struct map_node *out)
{
    const struct index_entry *e = index_get(&rw->old_nodes, node_id(digest));
    const uint8_t *bytes;
    size_t length;
    int r;

    if (e == NULL)
        return store_node_read(rw->in->store, digest, out, rw->err);
    r = ingest_own_bytes(rw->in, PACK_NODES, e, &bytes, &length, rw->err);
    return r < 0 ? r : map_node_decode(bytes, length, out, rw->err);
}

/* Depth is bounded by the levels, which fall at each step: checked, because a
 * node that came from outside may say anything. */
static int rewrite_node(struct rewrite *rw, const struct digest *digest, int level,
                        struct digest *out)
{
    const struct index_entry *done = index_get(&rw->done, node_id(digest));
    _cleanup_free_ struct map_node *node = NULL;
    struct digest from = *digest;
    int r;

    if (done != NULL) {
        *out = rw->results[done->object];
        return 0;
    }
    if (!rw->everything && index_get(&rw->old_nodes, node_id(digest)) == NULL) {
        *out = from;
        return 0;
    }
    node = malloc(sizeof(*node));
    if (node == NULL)
        return error_errno(rw->err, ENOMEM, "rewriting a map");
    r = read_old_node(rw, &from, node);
    if (r == 0 && level >= 0 && node->level != level)
        r = error_corrupt(rw->err, "a map node has level %u where the map needs level %d",
                          node->level, level);
    if (r == 0)
        r = rewrite_entries(rw, node);
    if (r == 0)
        r = ingest_node(rw->in, node, out, rw->err);
    if (r == 0 && remember(rw, &from, out) < 0)
        r = error_errno(rw->err, ENOMEM, "rewriting a map");
    return r;
}

static int remember_root(struct ingest *in, const struct digest *from, const struct digest *to,
                         struct error *err)
{
    struct moved_root *list = realloc(in->moved, (in->moved_count + 1) * sizeof(*list));

    if (list == NULL)
        return error_errno(err, ENOMEM, "rewriting a map");
    in->moved = list;
    in->moved[in->moved_count++] = (struct moved_root){*from, *to};
    return 0;
}

/* Roots that moved before have moved on. All at once: one root may become what
 * another was. */
static void move_on(struct ingest *in, const struct digest *from, struct digest **to,
                    unsigned root_count)
{
    for (size_t i = 0; i < in->moved_count; i++) {
        for (unsigned k = 0; k < root_count; k++) {
            if (digest_equal(&in->moved[i].to, &from[k])) {
                in->moved[i].to = *to[k];
                break;
            }
        }
    }
}

static int rewrite_roots(struct rewrite *rw, struct digest **roots, unsigned root_count)
{
    struct digest from[MANIFEST_SPACES_MAX];
    int r = 0;

    for (unsigned i = 0; r == 0 && i < root_count; i++) {
        from[i] = *roots[i];
        r = rewrite_node(rw, &from[i], -1, roots[i]);
    }
    if (r < 0)
        return r;
    move_on(rw->in, from, roots, root_count);
    for (unsigned i = 0; r == 0 && i < root_count; i++)
        if (!digest_equal(&from[i], roots[i]))
            r = remember_root(rw->in, &from[i], roots[i], rw->err);
    return r;
}

static void drop_node_packs(struct ingest *in, uint32_t before)
{
    for (uint32_t i = 0; i < before; i++)
        if (in->packs[i]->kind == PACK_NODES && in->packs[i]->state != OWN_DROPPED)
            ingest_drop_pack(in, i);
}

int ingest_rewrite_maps(struct ingest *in, const struct renames *renames, bool everything,
                        struct digest **roots, unsigned root_count, struct error *err)
{
    struct rewrite rw = {.in = in, .renames = renames, .everything = everything, .err = err};
    uint32_t old_packs = in->pack_count;
    int r = ingest_flush(in, err);

    if (r < 0)
        return r;
    rw.old_nodes = in->nodes;
    in->nodes = (struct index){0};
    in->stats.nodes_new = 0;
    r = rewrite_roots(&rw, roots, root_count);
    if (r == 0)
        r = ingest_flush(in, err);
    if (r == 0)
        drop_node_packs(in, old_packs);
    index_clear(&rw.old_nodes);
    index_clear(&rw.done);
    free(rw.results);
    return r;
}

int ingest_rename_pages(struct ingest *in, const struct renames *list, uint32_t to,
                        struct digest **roots, unsigned root_count, struct error *err)
{
    uint32_t before = in->pack_count;
    int r = choose_names(in, list, to, err);

    for (uint32_t i = 0; r == 0 && i < before; i++)
        if (in->packs[i]->kind == PACK_PAGES && in->packs[i]->state != OWN_DROPPED &&
            pack_has_renamed(in->packs[i], list))
            r = replace_pack(in, i, list, err);
    if (r == 0)
        r = ingest_flush(in, err);
    if (r == 0)
        r = index_own_pages(in, err);
    return r < 0 ? r : ingest_rewrite_maps(in, list, false, roots, root_count, err);
}
