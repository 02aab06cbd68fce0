/* SPDX-License-Identifier: Apache-2.0 */
#include "imgfmt/map.h"

#include "base/bytes.h"

#include <errno.h>

/* Offsets in an encoded node. */
enum {
    NODE_MAGIC = 0, /* "SM" */
    NODE_VERSION = 2,
    NODE_LEVEL = 3,
    NODE_PRESENT = 4,
};

enum { NODE_VERSION_NOW = 1 };

unsigned map_root_level(uint64_t page_count)
{
    unsigned level = 0;

    if (page_count == 0)
        return 0;
    while (level < MAP_LEVEL_MAX && (page_count - 1) >> map_node_shift(level) != 0)
        level++;
    return level;
}

static size_t entry_size(unsigned level)
{
    return level == 0 ? PAGE_REF_SIZE : DIGEST_SIZE;
}

static size_t node_size(unsigned level, uint32_t present)
{
    return MAP_NODE_HEADER_SIZE + (size_t)__builtin_popcount(present) * entry_size(level);
}

size_t map_node_encode(const struct map_node *node, uint8_t *out)
{
    uint8_t *p = out + MAP_NODE_HEADER_SIZE;

    out[NODE_MAGIC] = 'S';
    out[NODE_MAGIC + 1] = 'M';
    out[NODE_VERSION] = NODE_VERSION_NOW;
    out[NODE_LEVEL] = node->level;
    store_le32(out + NODE_PRESENT, node->present);
    for (uint32_t rest = node->present; rest != 0; rest &= rest - 1) {
        unsigned i = (unsigned)__builtin_ctz(rest);
        if (node->level == 0)
            page_ref_store(node->pages[i], p);
        else
            memcpy(p, node->children[i].bytes, DIGEST_SIZE);
        p += entry_size(node->level);
    }
    return (size_t)(p - out);
}

static int check_header(const uint8_t *p, size_t length, struct error *err)
{
    if (length < MAP_NODE_HEADER_SIZE)
        return error_corrupt(err, "map node of %zu bytes is shorter than its header", length);
    if (p[NODE_MAGIC] != 'S' || p[NODE_MAGIC + 1] != 'M')
        return error_corrupt(err, "not a map node: it begins with %02x %02x", p[0], p[1]);
    if (p[NODE_VERSION] != NODE_VERSION_NOW) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "map node of version %u, this program reads version %d", p[NODE_VERSION],
                  NODE_VERSION_NOW);
        error_hint(err, "a newer stasis wrote it: update this one");
        return -EPROTONOSUPPORT;
    }
    if (p[NODE_LEVEL] > MAP_LEVEL_MAX)
        return error_corrupt(err, "map node of level %u, the highest is %u", p[NODE_LEVEL],
                             MAP_LEVEL_MAX);
    if ((uint64_t)load_le32(p + NODE_PRESENT) >> map_fanout(p[NODE_LEVEL]) != 0)
        return error_corrupt(err, "map node of level %u with more than %u entries", p[NODE_LEVEL],
                             map_fanout(p[NODE_LEVEL]));
    return 0;
}

static int decode_leaf(const uint8_t *p, uint32_t present, struct map_node *node, struct error *err)
{
    for (uint32_t rest = present; rest != 0; rest &= rest - 1, p += PAGE_REF_SIZE) {
        unsigned i = (unsigned)__builtin_ctz(rest);
        node->pages[i] = page_ref_load(p);
        if (page_ref_is_zero(node->pages[i]))
            return error_corrupt(err, "map leaf lists a zero page as present, entry %u", i);
    }
    return 0;
}

static void decode_inner(const uint8_t *p, uint32_t present, struct map_node *node)
{
    for (uint32_t rest = present; rest != 0; rest &= rest - 1, p += DIGEST_SIZE)
        memcpy(node->children[__builtin_ctz(rest)].bytes, p, DIGEST_SIZE);
}

int map_node_decode(const void *bytes, size_t length, struct map_node *out, struct error *err)
{
    const uint8_t *p = bytes;
    struct map_node node = {0};

    int r = check_header(p, length, err);
    if (r < 0)
        return r;
    node.level = p[NODE_LEVEL];
    node.present = load_le32(p + NODE_PRESENT);
    size_t want = node_size(node.level, node.present);
    if (length != want)
        return error_corrupt(err, "map node of %zu bytes, its bitmap says %zu", length, want);
    if (node.level == 0)
        r = decode_leaf(p + MAP_NODE_HEADER_SIZE, node.present, &node, err);
    else
        decode_inner(p + MAP_NODE_HEADER_SIZE, node.present, &node);
    if (r < 0)
        return r;
    *out = node;
    return 0;
}

size_t map_node_length(const void *bytes, size_t available)
{
    const uint8_t *p = bytes;

    if (check_header(p, available, NULL) < 0)
        return 0;
    size_t length = node_size(p[NODE_LEVEL], load_le32(p + NODE_PRESENT));
    return length <= available ? length : 0;
}
