/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/private.h"
#include "store/read_ahead.h"

#include <errno.h>
#include <pthread.h>

#define NODE_CACHE_SLOTS 1024u      /* at most half a MiB an open space */
#define EXPORT_RUN_BYTES (1u << 20) /* neighbours go out in one write */

struct cached_node {
    uint64_t number; /* of the node within its level */
    struct map_node node;
};

struct space {
    struct store *store;
    struct digest root;
    uint64_t size_bytes;
    uint64_t page_count;
    unsigned root_level;
    pthread_mutex_t lock; /* over nodes */
    struct cached_node *nodes[NODE_CACHE_SLOTS];
};

DEFINE_CLEANUP(struct space, space_close)

/* ---- nodes ---- */

static int read_node(struct store *store, const struct digest *digest, unsigned level,
                     struct map_node *out, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int r = store_node_read(store, digest, out, err);

    if (r == 0 && out->level != level)
        return error_corrupt(err, "map node %s has level %u where the map needs level %u",
                             digest_hex(digest, hex), out->level, level);
    return r;
}

int space_open(struct store *store, const struct digest *root, uint64_t size_bytes,
               struct space **out, struct error *err)
{
    _cleanup_(space_closep) struct space *space = calloc(1, sizeof(*space));
    struct map_node node;
    int r;

    if (space == NULL)
        return error_errno(err, ENOMEM, "opening a map");
    if (div_round_up(size_bytes, STASIS_PAGE_SIZE) > MAP_PAGES_MAX)
        return error_corrupt(err, "a space of %llu bytes is larger than any map",
                             (unsigned long long)size_bytes);
    space->store = store;
    space->root = *root;
    space->size_bytes = size_bytes;
    space->page_count = div_round_up(size_bytes, STASIS_PAGE_SIZE);
    space->root_level = map_root_level(space->page_count);
    pthread_mutex_init(&space->lock, NULL);
    r = read_node(store, root, space->root_level, &node, err);
    if (r < 0)
        return r;
    *out = steal_pointer(space);
    return 0;
}

void space_close(struct space *space)
{
    if (space == NULL)
        return;
    for (unsigned i = 0; i < NODE_CACHE_SLOTS; i++)
        free(space->nodes[i]);
    pthread_mutex_destroy(&space->lock);
    free(space);
}

uint64_t space_size_bytes(const struct space *space)
{
    return space->size_bytes;
}

uint64_t space_page_count(const struct space *space)
{
    return space->page_count;
}

/* Nodes of all levels share the table; a level has a small part of the nodes of the one
 * below, so shifting it aside is enough to keep them from fighting. */
static unsigned cache_slot(unsigned level, uint64_t number)
{
    return (unsigned)((number * 7 + level * 37) % NODE_CACHE_SLOTS);
}

static bool cache_get(struct space *space, unsigned level, uint64_t number, struct map_node *out)
{
    const struct cached_node *c;
    bool hit;

    pthread_mutex_lock(&space->lock);
    c = space->nodes[cache_slot(level, number)];
    hit = c != NULL && c->number == number && c->node.level == level;
    if (hit)
        *out = c->node;
    pthread_mutex_unlock(&space->lock);
    return hit;
}

static void cache_put(struct space *space, uint64_t number, const struct map_node *node)
{
    unsigned slot = cache_slot(node->level, number);

    pthread_mutex_lock(&space->lock);
    if (space->nodes[slot] == NULL)
        space->nodes[slot] = malloc(sizeof(*space->nodes[slot]));
    if (space->nodes[slot] != NULL)
        *space->nodes[slot] = (struct cached_node){.number = number, .node = *node};
    pthread_mutex_unlock(&space->lock);
}

static bool has_child(const struct map_node *node, unsigned i)
{
    return (node->present >> i & 1) != 0;
}

/* The leaf that lists `page`: 1 and the leaf, or 0 if the whole leaf is zero.
 * Begins at the deepest node of the path that is cached. */
static int find_leaf(struct space *space, uint64_t page, struct map_node *out, struct error *err)
{
    unsigned level = 0;
    int r = 0;

    while (level <= space->root_level &&
           !cache_get(space, level, page >> map_node_shift(level), out))
        level++;
    if (level > space->root_level) {
        level = space->root_level;
        r = read_node(space->store, &space->root, level, out, err);
        if (r == 0)
            cache_put(space, 0, out);
    }
    while (r == 0 && level > 0) {
        unsigned i = map_entry_of(page, level);
        struct digest child = out->children[i];

        if (!has_child(out, i))
            return 0;
        level--;
        r = read_node(space->store, &child, level, out, err);
        if (r == 0)
            cache_put(space, page >> map_node_shift(level), out);
    }
    return r < 0 ? r : 1;
}

/* ---- reading ---- */

int space_page_ref(struct space *space, uint64_t page, struct page_ref *out, struct error *err)
{
    struct map_node leaf;
    int r;

    if (page >= space->page_count)
        return error_set(err, STATUS_FAILED, EINVAL, "page %llu lies beyond the end of its space",
                         (unsigned long long)page);
    r = find_leaf(space, page, &leaf, err);
    if (r < 0)
        return r;
    *out = r == 1 ? leaf.pages[map_entry_of(page, 0)] : (struct page_ref){0};
    return 0;
}

/* A read, and what it keeps from page to page. */
struct reader {
    struct space *space;
    bool cached_only;
    bool has_leaf;
    uint64_t leaf_number;
    struct map_node leaf; /* if it has one; nothing is present in it where all is zero */
    struct cached_group *group;
    struct error *err;
};

/* As find_leaf(), if the nodes that know are cached; else -EAGAIN. */
static int find_cached_leaf(struct space *space, uint64_t page, struct map_node *out)
{
    for (unsigned level = 0; level <= space->root_level; level++) {
        if (!cache_get(space, level, page >> map_node_shift(level), out))
            continue;
        if (level == 0)
            return 1;
        return has_child(out, map_entry_of(page, level)) ? -EAGAIN : 0;
    }
    return -EAGAIN;
}

static int reader_leaf(struct reader *rd, uint64_t number)
{
    const uint64_t page = number << MAP_LEAF_SHIFT;

    if (rd->has_leaf && rd->leaf_number == number)
        return 0;
    rd->has_leaf = false;
    int r = rd->cached_only ? find_cached_leaf(rd->space, page, &rd->leaf)
                            : find_leaf(rd->space, page, &rd->leaf, rd->err);
    if (r < 0)
        return r;
    if (r == 0)
        rd->leaf = (struct map_node){0};
    rd->has_leaf = true;
    rd->leaf_number = number;
    return 0;
}

/* The part of one page that a read wants. */
static int read_part(struct reader *rd, uint64_t page, size_t offset, uint8_t *buf, size_t length)
{
    const uint8_t *bytes;

    int r = reader_leaf(rd, page >> MAP_LEAF_SHIFT);
    if (r < 0)
        return r;
    struct page_ref ref = rd->leaf.pages[map_entry_of(page, 0)];
    if (page_ref_is_zero(ref)) {
        memset(buf, 0, length);
        return 0;
    }
    r = rd->cached_only ? store_page_cached(rd->space->store, ref, &rd->group, &bytes)
                        : store_page_near(rd->space->store, ref, &rd->group, &bytes, rd->err);
    if (r == 0)
        memcpy(buf, bytes + offset, length);
    return r;
}

static int read_range(struct reader *rd, uint64_t offset, void *buf, size_t length)
{
    uint8_t *to = buf;
    int r = 0;

    while (r == 0 && length > 0) {
        size_t within = offset % STASIS_PAGE_SIZE;
        size_t n = (size_t)min_u64(length, STASIS_PAGE_SIZE - within);

        r = read_part(rd, offset >> STASIS_PAGE_SHIFT, within, to, n);
        to += n;
        offset += n;
        length -= n;
    }
    cached_group_release(rd->group);
    return r;
}

int space_read(struct space *space, uint64_t offset, void *buf, size_t length, struct error *err)
{
    struct reader rd = {.space = space, .err = err};

    if (!range_fits(offset, length, space->size_bytes))
        return error_set(err, STATUS_FAILED, EINVAL, "reading beyond the end of a space");
    return read_range(&rd, offset, buf, length);
}

int space_read_cached(struct space *space, uint64_t offset, void *buf, size_t length)
{
    struct reader rd = {.space = space, .cached_only = true};

    return range_fits(offset, length, space->size_bytes) ? read_range(&rd, offset, buf, length)
                                                         : -EAGAIN;
}

/* ---- walking ---- */

struct walk {
    struct space *space;
    uint64_t from; /* pages before this one are left out */
    int (*visit)(struct walk *walk, uint64_t page, struct page_ref ref);
    struct error *err;
    /* of space_next() */
    uint64_t page;
    struct page_ref ref;
    struct read_ahead *ahead; /* of space_each_page() */
};

static int walk_page(struct walk *walk, uint64_t page, struct page_ref ref)
{
    if (page >= walk->space->page_count)
        return error_corrupt(walk->err, "a map lists page %llu of a space of %llu",
                             (unsigned long long)page, (unsigned long long)walk->space->page_count);
    return walk->visit(walk, page, ref);
}

static int walk_node(struct walk *walk, const struct digest *digest, unsigned level,
                     uint64_t number)
{
    uint64_t first = number << map_node_shift(level);
    struct map_node node;
    int r = 0;

    if (!cache_get(walk->space, level, number, &node)) {
        r = read_node(walk->space->store, digest, level, &node, walk->err);
        if (r < 0)
            return r;
        cache_put(walk->space, number, &node);
    }
    for (unsigned i = walk->from > first ? map_entry_of(walk->from - first, level) : 0;
         r == 0 && i < map_fanout(level); i++) {
        if (!has_child(&node, i))
            continue;
        if (level == 0)
            r = walk_page(walk, first + i, node.pages[i]);
        else
            r = walk_node(walk, &node.children[i], level - 1, (number << MAP_INNER_SHIFT) + i);
    }
    return r;
}

static int found_next(struct walk *walk, uint64_t page, struct page_ref ref)
{
    walk->page = page;
    walk->ref = ref;
    return 1;
}

int space_next(struct space *space, uint64_t page, uint64_t *page_out, struct page_ref *ref_out,
               struct error *err)
{
    struct walk walk = {.space = space, .from = page, .visit = found_next, .err = err};
    int r;

    if (page >= space->page_count)
        return 0;
    r = walk_node(&walk, &space->root, space->root_level, 0);
    if (r == 1) {
        *page_out = walk.page;
        *ref_out = walk.ref;
    }
    return r;
}

static int read_page(struct walk *walk, uint64_t page, struct page_ref ref)
{
    return read_ahead_add(walk->ahead, page, ref, walk->err);
}

int space_each_page(struct space *space,
                    int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                    struct error *err)
{
    _cleanup_(read_ahead_freep) struct read_ahead *ahead = NULL;
    struct walk walk = {.space = space, .visit = read_page, .err = err};
    int r = read_ahead_new(space->store, visit, context, &ahead, err);

    if (r < 0)
        return r;
    walk.ahead = ahead;
    r = walk_node(&walk, &space->root, space->root_level, 0);
    return r != 0 ? r : read_ahead_finish(ahead, err);
}

/* ---- comparing ---- */

struct diff {
    struct store *store;
    uint64_t pages_a;
    uint64_t pages_b;
    int (*visit)(uint64_t page, struct page_ref in_a, struct page_ref in_b, void *context);
    void *context;
    struct error *err;
};

/* A subtree of one of the two maps. The smaller map's root stands in for the
 * leftmost subtree of every level above its own. */
struct side {
    bool present;
    unsigned level;
    struct digest digest;
};

static int side_load(struct diff *diff, const struct side *side, unsigned level,
                     struct map_node *out)
{
    *out = (struct map_node){.level = (uint8_t)level};
    if (!side->present)
        return 0;
    if (side->level < level) {
        out->present = 1;
        out->children[0] = side->digest;
        return 0;
    }
    return read_node(diff->store, &side->digest, level, out, diff->err);
}

static struct side side_child(const struct side *side, const struct map_node *node, unsigned i)
{
    if (!has_child(node, i))
        return (struct side){0};
    if (side->level < node->level)
        return *side;
    return (struct side){true, node->level - 1u, node->children[i]};
}

static bool sides_equal(const struct side *a, const struct side *b)
{
    if (!a->present || !b->present)
        return a->present == b->present;
    return a->level == b->level && digest_equal(&a->digest, &b->digest);
}

/* Visitors have room for the pages that the spaces have. */
static int check_inside(struct diff *diff, uint64_t page, struct page_ref in_a,
                        struct page_ref in_b)
{
    if ((page < diff->pages_a || page_ref_is_zero(in_a)) &&
        (page < diff->pages_b || page_ref_is_zero(in_b)))
        return 0;
    return error_corrupt(diff->err, "a map lists page %llu, beyond the end of its space",
                         (unsigned long long)page);
}

static int diff_leaf(struct diff *diff, const struct map_node *a, const struct map_node *b,
                     uint64_t first)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < MAP_LEAF_FANOUT; i++) {
        struct page_ref in_a = has_child(a, i) ? a->pages[i] : (struct page_ref){0};
        struct page_ref in_b = has_child(b, i) ? b->pages[i] : (struct page_ref){0};

        if (page_ref_equal(in_a, in_b))
            continue;
        r = check_inside(diff, first + i, in_a, in_b);
        if (r == 0)
            r = diff->visit(first + i, in_a, in_b, diff->context);
    }
    return r;
}

static int diff_sides(struct diff *diff, const struct side *a, const struct side *b, unsigned level,
                      uint64_t first)
{
    struct map_node node_a, node_b;
    int r;

    if (sides_equal(a, b))
        return 0;
    r = side_load(diff, a, level, &node_a);
    if (r == 0)
        r = side_load(diff, b, level, &node_b);
    if (r == 0 && level == 0)
        return diff_leaf(diff, &node_a, &node_b, first);
    for (unsigned i = 0; r == 0 && i < map_fanout(level); i++) {
        struct side child_a = side_child(a, &node_a, i), child_b = side_child(b, &node_b, i);

        r = diff_sides(diff, &child_a, &child_b, level - 1, map_child_first(first, level, i));
    }
    return r;
}

int space_diff(struct space *a, struct space *b,
               int (*visit)(uint64_t page, struct page_ref in_a, struct page_ref in_b,
                            void *context),
               void *context, struct error *err)
{
    struct diff diff = {a->store, a->page_count, b->page_count, visit, context, err};
    struct side side_a = {true, a->root_level, a->root}, side_b = {true, b->root_level, b->root};
    unsigned level = a->root_level > b->root_level ? a->root_level : b->root_level;

    return diff_sides(&diff, &side_a, &side_b, level, 0);
}

/* ---- exporting ---- */

struct export
{
    int fd;
    uint64_t size_bytes;
    uint64_t offset; /* where the run in buf belongs */
    size_t used;
    uint8_t *buf;
    struct error *err;
};

static int export_flush(struct export *ex)
{
    size_t length = (size_t)min_u64(ex->used, ex->size_bytes - ex->offset);
    int r = io_pwrite_full(ex->fd, ex->buf, length, ex->offset);

    ex->used = 0;
    return r < 0 ? error_errno(ex->err, -r, "writing the exported space") : 0;
}

static int export_page(uint64_t page, const void *bytes, void *context)
{
    struct export *ex = context;
    uint64_t offset = page << STASIS_PAGE_SHIFT;
    int r = 0;

    if (ex->used == EXPORT_RUN_BYTES || (ex->used != 0 && ex->offset + ex->used != offset))
        r = export_flush(ex);
    if (r < 0)
        return r;
    if (ex->used == 0)
        ex->offset = offset;
    memcpy(ex->buf + ex->used, bytes, STASIS_PAGE_SIZE);
    ex->used += STASIS_PAGE_SIZE;
    return 0;
}

int space_export(struct space *space, int fd, struct error *err)
{
    _cleanup_free_ uint8_t *buf = malloc(EXPORT_RUN_BYTES);
    struct export ex = {.fd = fd, .size_bytes = space->size_bytes, .buf = buf, .err = err};
    int r;

    if (buf == NULL)
        return error_errno(err, ENOMEM, "exporting a space");
    /* Emptied first: what the file held before must not show through the holes. */
    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)space->size_bytes) < 0)
        return error_errno(err, errno, "setting the size of the exported file");
    r = space_each_page(space, export_page, &ex, err);
    if (r == 0 && ex.used != 0)
        r = export_flush(&ex);
    return r;
}
