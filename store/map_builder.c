/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Path copying. The builder holds the nodes on the path from the root to the
 * leaf it is at; pages come in ascending order, so a node that has been left is
 * complete and is written once.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/ingest_private.h"

#include <errno.h>

struct path_node {
    struct map_node node;
    bool changed;
};

/* Pages that wait for the next ingest_pages(), and their places in the map. */
struct page_run {
    unsigned count;
    const void *pages[INGEST_BATCH_PAGES];
    uint64_t numbers[INGEST_BATCH_PAGES];
    struct page_ref refs[INGEST_BATCH_PAGES];
    uint8_t *copies; /* room for those that do not stay; NULL until first used */
};

struct map_builder {
    struct ingest *in;
    uint64_t page_count;
    unsigned root_level;
    uint64_t next_page;  /* pages below this one are settled */
    unsigned open_level; /* path[open_level..root_level] is the path */
    uint64_t open_page;  /* some page below path[open_level] */
    bool empty;          /* at first: no base */
    bool has_base;
    struct digest base;   /* of the map before any change, if has_base */
    struct page_run *run; /* NULL until first used */
    struct path_node path[MAP_LEVEL_MAX + 1];
};

DEFINE_CLEANUP(struct map_builder, map_builder_free)

static bool has_child(const struct map_node *node, unsigned i)
{
    return (node->present >> i & 1) != 0;
}

static void clear_child(struct map_node *node, unsigned i)
{
    node->present &= ~(UINT32_C(1) << i);
    /* Entries that are not present must read as zero in a leaf. */
    if (node->level == 0)
        node->pages[i] = (struct page_ref){0};
}

/* ---- the base, brought to the new size ---- */

/* Clears the pages from `limit` on of a node whose first page is number 0 of its
 * range; below the boundary child, writes what it changes. */
static int truncate_node(struct ingest *in, struct map_node *node, uint64_t limit,
                         struct error *err)
{
    unsigned shift = map_entry_shift(node->level), fanout = map_fanout(node->level);
    unsigned boundary = (unsigned)min_u64(limit >> shift, fanout);
    uint64_t rest = limit - ((uint64_t)boundary << shift);
    struct map_node child;
    int r;

    for (unsigned i = boundary + (rest != 0); i < fanout; i++)
        clear_child(node, i);
    if (rest == 0 || boundary == fanout || !has_child(node, boundary))
        return 0;
    r = ingest_node_read(in, &node->children[boundary], node->level - 1u, &child, err);
    if (r == 0)
        r = truncate_node(in, &child, rest, err);
    if (r < 0)
        return r;
    if (child.present != 0)
        return ingest_node(in, &child, &node->children[boundary], err);
    clear_child(node, boundary);
    return 0;
}

/* Puts parents above the node until it is of the builder's level. */
static int raise_node(struct map_builder *b, struct map_node *node, struct error *err)
{
    while (node->level < b->root_level) {
        struct digest digest;
        bool empty = node->present == 0;
        int r = empty ? 0 : ingest_node(b->in, node, &digest, err);

        if (r < 0)
            return r;
        *node = (struct map_node){.level = (uint8_t)(node->level + 1)};
        if (!empty) {
            node->present = 1;
            node->children[0] = digest;
        }
    }
    return 0;
}

/* Goes down the left edge until the node is of the builder's level. */
static int lower_node(struct map_builder *b, struct map_node *node, struct error *err)
{
    while (node->level > b->root_level) {
        struct digest child = node->children[0];
        unsigned level = node->level - 1u;
        int r = 0;

        if (has_child(node, 0))
            r = ingest_node_read(b->in, &child, level, node, err);
        else
            *node = (struct map_node){.level = (uint8_t)level};
        if (r < 0)
            return r;
    }
    return 0;
}

/*
 * A reference in the base must mean what it means to this ingest: the base was
 * committed before the ingest began, or is its own. If nothing was written yet,
 * the view can still move up to a newer base.
 */
static int check_base_is_seen(struct ingest *in, const struct digest *base, struct error *err)
{
    int r;

    if (ingest_sees_node(in, base))
        return 0;
    r = store_refresh(in->store, err);
    if (r < 0)
        return r;
    if (in->pages.count == 0)
        in->view = in->checked = packs_count(&in->store->packs);
    else if (packs_count(&in->store->packs) > in->view)
        return error_set(err, STATUS_FAILED, ESTALE,
                         "the base map was committed after this ingest had begun");
    return 0;
}

static int load_base(struct map_builder *b, const struct digest *base, uint64_t base_page_count,
                     struct error *err)
{
    struct map_node *root = &b->path[b->root_level].node;
    unsigned base_level = map_root_level(base_page_count);
    int r = check_base_is_seen(b->in, base, err);

    if (r == 0)
        r = ingest_node_read(b->in, base, base_level, root, err);
    if (r < 0)
        return r;
    b->has_base = base_page_count == b->page_count;
    b->base = *base;
    b->path[b->root_level].changed = !b->has_base;
    r = raise_node(b, root, err);
    if (r == 0)
        r = lower_node(b, root, err);
    if (r == 0 && b->page_count < base_page_count)
        r = truncate_node(b->in, root, b->page_count, err);
    return r;
}

int map_builder_begin(struct ingest *in, const struct digest *base, uint64_t base_page_count,
                      uint64_t page_count, struct map_builder **out, struct error *err)
{
    _cleanup_(map_builder_freep) struct map_builder *b = calloc(1, sizeof(*b));
    int r = 0;

    if (b == NULL)
        return error_errno(err, ENOMEM, "building a map");
    if (page_count > MAP_PAGES_MAX || base_page_count > MAP_PAGES_MAX)
        return error_set(err, STATUS_FAILED, EFBIG, "a map of %llu pages is too large",
                         (unsigned long long)page_count);
    b->in = in;
    b->page_count = page_count;
    b->empty = base == NULL;
    b->root_level = b->open_level = map_root_level(page_count);
    b->path[b->root_level] =
        (struct path_node){.node = {.level = (uint8_t)b->root_level}, .changed = true};
    if (base != NULL)
        r = load_base(b, base, base_page_count, err);
    if (r < 0)
        return r;
    *out = steal_pointer(b);
    return 0;
}

void map_builder_free(struct map_builder *b)
{
    if (b == NULL)
        return;
    if (b->run != NULL)
        free(b->run->copies);
    free(b->run);
    free(b);
}

/* ---- moving along ---- */

/* Leaves the lowest open node: writes it if it changed and tells its parent. */
static int close_lowest(struct map_builder *b, struct error *err)
{
    struct path_node *low = &b->path[b->open_level];
    struct path_node *parent = &b->path[b->open_level + 1];
    unsigned i = map_entry_of(b->open_page, b->open_level + 1);
    struct digest digest;
    int r;

    b->open_level++;
    if (!low->changed)
        return 0;
    if (low->node.present == 0) {
        parent->changed |= has_child(&parent->node, i);
        clear_child(&parent->node, i);
        return 0;
    }
    r = ingest_node(b->in, &low->node, &digest, err);
    if (r < 0)
        return r;
    if (!has_child(&parent->node, i) || !digest_equal(&parent->node.children[i], &digest)) {
        parent->node.present |= UINT32_C(1) << i;
        parent->node.children[i] = digest;
        parent->changed = true;
    }
    return 0;
}

static int open_child(struct map_builder *b, uint64_t page, struct error *err)
{
    const struct map_node *parent = &b->path[b->open_level].node;
    unsigned i = map_entry_of(page, b->open_level);
    struct path_node *child = &b->path[b->open_level - 1];
    int r = 0;

    *child = (struct path_node){.node = {.level = (uint8_t)(b->open_level - 1)}};
    if (has_child(parent, i))
        r = ingest_node_read(b->in, &parent->children[i], b->open_level - 1, &child->node, err);
    if (r == 0)
        b->open_level--;
    return r;
}

/* Makes path[0] the leaf of `page`. */
static int go_to(struct map_builder *b, uint64_t page, struct error *err)
{
    int r = 0;

    while (r == 0 && b->open_level < b->root_level &&
           (b->open_page ^ page) >> map_node_shift(b->open_level) != 0)
        r = close_lowest(b, err);
    b->open_page = page;
    while (r == 0 && b->open_level > 0)
        r = open_child(b, page, err);
    return r;
}

static int set_page(struct map_builder *b, uint64_t page, struct page_ref ref, struct error *err)
{
    struct path_node *leaf = &b->path[0];
    unsigned i = map_entry_of(page, 0);
    int r = go_to(b, page, err);

    if (r < 0 || page_ref_equal(leaf->node.pages[i], ref))
        return r;
    leaf->changed = true;
    leaf->node.pages[i] = ref;
    if (page_ref_is_zero(ref))
        clear_child(&leaf->node, i);
    else
        leaf->node.present |= UINT32_C(1) << i;
    return 0;
}

static int check_order(struct map_builder *b, uint64_t page, struct error *err)
{
    if (page < b->next_page || page >= b->page_count)
        return error_set(err, STATUS_FAILED, EINVAL,
                         "page %llu of a map of %llu was set out of order",
                         (unsigned long long)page, (unsigned long long)b->page_count);
    b->next_page = page + 1;
    return 0;
}

int map_builder_set(struct map_builder *b, uint64_t page, struct page_ref ref, struct error *err)
{
    int r = check_order(b, page, err);

    if (r == 0)
        r = map_builder_flush(b, err);
    return r < 0 ? r : set_page(b, page, ref, err);
}

/* ---- pages, many at once ---- */

int map_builder_flush(struct map_builder *b, struct error *err)
{
    struct page_run *run = b->run;
    int r;

    if (run == NULL || run->count == 0)
        return 0;
    r = ingest_pages(b->in, run->pages, run->count, run->refs, err);
    for (unsigned i = 0; r == 0 && i < run->count; i++)
        if (!b->empty || !page_ref_is_zero(run->refs[i]))
            r = set_page(b, run->numbers[i], run->refs[i], err);
    run->count = 0;
    return r;
}

static int need_run(struct map_builder *b, bool stays, struct error *err)
{
    if (b->run == NULL)
        b->run = calloc(1, sizeof(*b->run));
    if (b->run != NULL && !stays && b->run->copies == NULL)
        b->run->copies = malloc((size_t)INGEST_BATCH_PAGES * STASIS_PAGE_SIZE);
    if (b->run == NULL || (!stays && b->run->copies == NULL))
        return error_errno(err, ENOMEM, "building a map");
    return 0;
}

int map_builder_put(struct map_builder *b, uint64_t page, const void *bytes, bool stays,
                    struct error *err)
{
    static const uint8_t zeros[STASIS_PAGE_SIZE];
    struct page_run *run;
    int r = check_order(b, page, err);

    if (bytes == NULL)
        bytes = zeros;
    stays = stays || bytes == zeros;
    if (r == 0)
        r = need_run(b, stays, err);
    if (r < 0)
        return r;
    run = b->run;
    if (!stays)
        bytes =
            memcpy(run->copies + (size_t)run->count * STASIS_PAGE_SIZE, bytes, STASIS_PAGE_SIZE);
    run->pages[run->count] = bytes;
    run->numbers[run->count++] = page;
    return run->count < INGEST_BATCH_PAGES ? 0 : map_builder_flush(b, err);
}

int map_builder_finish(struct map_builder *b, struct digest *root_out, struct error *err)
{
    struct path_node *root = &b->path[b->root_level];
    int r = map_builder_flush(b, err);

    while (r == 0 && b->open_level < b->root_level)
        r = close_lowest(b, err);
    if (r < 0)
        return r;
    if (b->has_base && !root->changed) {
        *root_out = b->base;
        return 0;
    }
    return ingest_node(b->in, &root->node, root_out, err);
}
