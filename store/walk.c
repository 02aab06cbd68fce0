/* SPDX-License-Identifier: Apache-2.0 */
#include "store/walk.h"

#include "base/cleanup.h"

#include <errno.h>

/* ---- nodes ---- */

/* An entry of `seen` holds the level in the upper half's bits 16 and up, and the
 * pages below (at most 2^42) in the rest. */
static int remember(struct tree_walk *walk, const struct digest *digest, unsigned level,
                    uint64_t pages)
{
    uint32_t upper = (uint32_t)(level << 16 | (uint32_t)(pages >> 32));

    return index_add(&walk->seen, node_id(digest), upper, (uint32_t)pages);
}

static bool recall(const struct tree_walk *walk, const struct digest *digest, unsigned *level_out,
                   uint64_t *pages_out)
{
    const struct index_entry *e = index_get(&walk->seen, node_id(digest));

    if (e == NULL)
        return false;
    *level_out = index_entry_pack(e) >> 16;
    *pages_out = (uint64_t)(index_entry_pack(e) & 0xffff) << 32 | e->object;
    return true;
}

static int read_node(struct tree_walk *walk, const struct digest *digest, unsigned level,
                     struct cached_group **group_out, const uint8_t **bytes_out, size_t *length_out,
                     struct map_node *out, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int r = walk->read != NULL
                ? walk->read(walk->context, digest, group_out, bytes_out, length_out, err)
                : store_node_bytes(walk->store, digest, group_out, bytes_out, length_out, err);

    if (r == 0)
        r = map_node_decode(*bytes_out, *length_out, out, err);
    if (r == 0 && out->level != level)
        return error_corrupt(err, "map node %s has level %u where the map needs level %u",
                             digest_hex(digest, hex), out->level, level);
    return r;
}

static int give_up(struct tree_walk *walk, const struct digest *digest, int r,
                   const struct error *why)
{
    /* Only what is wrong with the store is the callback's; running out of memory
     * is not. */
    if (walk->bad != NULL && r != -ENOMEM)
        return walk->bad(walk->context, digest, why);
    if (walk->err != NULL)
        *walk->err = *why;
    return r;
}

static int visit_pages(struct tree_walk *walk, const struct map_node *leaf)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && walk->page != NULL && i < MAP_LEAF_FANOUT; i++)
        if ((leaf->present >> i & 1) != 0)
            r = walk->page(walk->context, leaf->pages[i]);
    return r;
}

static int walk_node(struct tree_walk *walk, const struct digest *digest, unsigned level,
                     uint64_t *pages_out);

static int walk_children(struct tree_walk *walk, const struct map_node *node, uint64_t *pages_out)
{
    uint64_t below;
    int r = 0;

    *pages_out = 0;
    for (unsigned i = 0; r == 0 && i < MAP_INNER_FANOUT; i++) {
        if ((node->present >> i & 1) == 0)
            continue;
        below = 0;
        r = walk_node(walk, &node->children[i], node->level - 1u, &below);
        *pages_out += below;
    }
    return r;
}

static int walk_fresh(struct tree_walk *walk, const struct digest *digest, unsigned level,
                      uint64_t *pages_out)
{
    _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
    _cleanup_free_ struct map_node *node = malloc(sizeof(*node));
    uint8_t copy[MAP_NODE_MAX_SIZE];
    struct error why = ERROR_INIT;
    const uint8_t *bytes;
    size_t length;
    int r;

    if (node == NULL)
        return error_errno(walk->err, ENOMEM, "reading maps");
    r = read_node(walk, digest, level, &g, &bytes, &length, node, &why);
    if (r < 0)
        return give_up(walk, digest, r, &why);
    /* What a reader of its own gives may not outlive the next read. */
    if (g == NULL)
        bytes = memcpy(copy, bytes, length);
    *pages_out = (uint64_t)__builtin_popcount(node->present);
    r = level == 0 ? visit_pages(walk, node) : walk_children(walk, node, pages_out);
    if (r == 0 && walk->node != NULL)
        r = walk->node(walk->context, digest, bytes, length, node);
    if (r == 0 && remember(walk, digest, level, *pages_out) < 0)
        r = error_errno(walk->err, ENOMEM, "reading maps");
    return r;
}

static int walk_node(struct tree_walk *walk, const struct digest *digest, unsigned level,
                     uint64_t *pages_out)
{
    struct error why = ERROR_INIT;
    char hex[DIGEST_HEX_SIZE];
    unsigned known;

    if (!recall(walk, digest, &known, pages_out))
        return walk_fresh(walk, digest, level, pages_out);
    if (known == level)
        return 0;
    error_corrupt(&why, "map node %s stands at two levels", digest_hex(digest, hex));
    return give_up(walk, digest, -EBADMSG, &why);
}

/* Follows the map's right edge: what lies beyond the last page must not be. */
static int check_edge(struct tree_walk *walk, const struct digest *root, uint64_t page_count)
{
    struct digest digest = *root;
    uint64_t rest = page_count;

    for (unsigned level = map_root_level(page_count) + 1; level-- > 0;) {
        _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
        unsigned shift = map_entry_shift(level);
        uint64_t boundary = rest >> shift; /* first child that is not wholly inside */
        struct error why = ERROR_INIT;
        struct map_node node;
        const uint8_t *bytes;
        size_t length;
        int r = read_node(walk, &digest, level, &g, &bytes, &length, &node, &why);

        if (r < 0)
            return walk->bad != NULL ? 0 : give_up(walk, &digest, r, &why);
        rest -= boundary << shift;
        if (boundary + (rest != 0) < map_fanout(level) &&
            node.present >> (boundary + (rest != 0)) != 0)
            return give_up(walk, root,
                           error_corrupt(&why, "a map lists pages beyond its %llu",
                                         (unsigned long long)page_count),
                           &why);
        if (rest == 0 || boundary >= map_fanout(level) || (node.present >> boundary & 1) == 0)
            return 0;
        digest = node.children[boundary];
    }
    return 0;
}

int tree_walk_map(struct tree_walk *walk, const struct digest *root, uint64_t page_count,
                  uint64_t *pages_out)
{
    uint64_t pages = 0;
    int r;

    if (page_count > MAP_PAGES_MAX)
        return error_corrupt(walk->err, "a map of %llu pages is too large",
                             (unsigned long long)page_count);
    r = walk_node(walk, root, map_root_level(page_count), &pages);
    if (r == 0)
        r = check_edge(walk, root, page_count);
    if (r == 0 && pages_out != NULL)
        *pages_out = pages;
    return r;
}

void tree_walk_clear(struct tree_walk *walk)
{
    index_clear(&walk->seen);
}

/* ---- pages ---- */

static int grow(struct page_marks *marks, uint32_t count)
{
    uint8_t **bits = realloc(marks->bits, count * sizeof(*bits));

    if (bits == NULL)
        return -ENOMEM;
    memset(bits + marks->count, 0, (count - marks->count) * sizeof(*bits));
    marks->bits = bits;
    marks->count = count;
    return 0;
}

int page_marks_set(struct page_marks *marks, struct page_ref ref)
{
    struct packs *packs = &marks->store->packs;
    struct location at;
    uint8_t bit, *byte;

    if (packs_find(packs, PACK_PAGES, ref, false, 0, UINT32_MAX, &at, 1) == 0)
        return -ENOENT;
    if (at.pack >= marks->count && grow(marks, packs_count(packs)) < 0)
        return -ENOMEM;
    if (marks->bits[at.pack] == NULL)
        marks->bits[at.pack] = calloc(1, packs_get(packs, at.pack)->objects / 8u + 1);
    if (marks->bits[at.pack] == NULL)
        return -ENOMEM;
    byte = &marks->bits[at.pack][at.object / 8];
    bit = (uint8_t)(1u << at.object % 8);
    if ((*byte & bit) != 0)
        return 0;
    *byte |= bit;
    return 1;
}

void page_marks_clear(struct page_marks *marks)
{
    for (uint32_t i = 0; i < marks->count; i++)
        free(marks->bits[i]);
    free(marks->bits);
    marks->bits = NULL;
    marks->count = 0;
}
