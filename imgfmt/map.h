/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Map nodes: the persistent tree that lists the pages of one address space.
 *
 *   node  = magic 'S' 'M' | version u8 | level u8 | present u32
 *           | entry for each set bit of present, lowest first
 *   entry = level 0 (leaf): page reference, 16 bytes
 *           level > 0:      SHA-256 of the child node, 32 bytes
 *
 * A leaf covers MAP_LEAF_FANOUT pages, a node above it MAP_INNER_FANOUT nodes of the
 * level below. A clear bit is a range of zero pages. The root's level is the least that
 * covers the space's page count. Nodes are canonical: same pages, same bytes, same
 * SHA-256; a node other than a root has at least one entry.
 *
 * What a checkpoint of scattered pages writes is mostly nodes, one of each level a page:
 * small ones are many to read but few bytes to write (docs/decisions.md has the figures).
 */
#ifndef STASIS_IMGFMT_MAP_H
#define STASIS_IMGFMT_MAP_H

#include "base/digest.h"
#include "base/error.h"
#include "imgfmt/page.h"

#include <stddef.h>
#include <stdint.h>

#define MAP_LEAF_SHIFT 5u
#define MAP_INNER_SHIFT 4u
#define MAP_LEAF_FANOUT (1u << MAP_LEAF_SHIFT)
#define MAP_INNER_FANOUT (1u << MAP_INNER_SHIFT)
#define MAP_NODE_HEADER_SIZE 8u
#define MAP_LEAF_MAX_SIZE (MAP_NODE_HEADER_SIZE + MAP_LEAF_FANOUT * PAGE_REF_SIZE)
#define MAP_INNER_MAX_SIZE (MAP_NODE_HEADER_SIZE + MAP_INNER_FANOUT * DIGEST_SIZE)
#define MAP_NODE_MAX_SIZE                                                                          \
    (MAP_LEAF_MAX_SIZE > MAP_INNER_MAX_SIZE ? MAP_LEAF_MAX_SIZE : MAP_INNER_MAX_SIZE)
#define MAP_PAGES_SHIFT 42u /* 16 PiB */
#define MAP_PAGES_MAX (UINT64_C(1) << MAP_PAGES_SHIFT)
#define MAP_LEVEL_MAX ((MAP_PAGES_SHIFT - MAP_LEAF_SHIFT + MAP_INNER_SHIFT - 1) / MAP_INNER_SHIFT)

struct map_node {
    uint8_t level;
    uint32_t present;
    union {
        struct page_ref pages[MAP_LEAF_FANOUT];   /* level 0; zero where not present */
        struct digest children[MAP_INNER_FANOUT]; /* level > 0; meaningless where not present */
    };
};

/* How many entries a node of that level may have. */
static inline unsigned map_fanout(unsigned level)
{
    return level == 0 ? MAP_LEAF_FANOUT : MAP_INNER_FANOUT;
}

/* An entry of a node of that level, and the node itself, stand for 2 to the power of
 * this many pages. */
static inline unsigned map_entry_shift(unsigned level)
{
    return level == 0 ? 0 : MAP_LEAF_SHIFT + (level - 1) * MAP_INNER_SHIFT;
}

static inline unsigned map_node_shift(unsigned level)
{
    return map_entry_shift(level + 1);
}

/* Which entry of the node of that level on its path leads to the page. */
static inline unsigned map_entry_of(uint64_t page, unsigned level)
{
    return (unsigned)(page >> map_entry_shift(level)) & (map_fanout(level) - 1);
}

/* Level of the root of a map of page_count pages, at most MAP_PAGES_MAX (0 for an
 * empty one). */
unsigned map_root_level(uint64_t page_count);

/* Bytes of the encoded node; out has MAP_NODE_MAX_SIZE bytes. */
size_t map_node_encode(const struct map_node *node, uint8_t *out);

/* Decodes exactly length bytes. Checks everything one node alone can show: magic,
 * version, level, reserved bytes, length, no zero reference in a leaf. What its
 * place in the tree demands (level, not empty unless root, no page past the end)
 * is for who walks the tree. -EBADMSG; -EPROTONOSUPPORT for a newer version. */
int map_node_decode(const void *bytes, size_t length, struct map_node *out, struct error *err);

/* Length of the node that starts at bytes, of which `available` follow; 0 if it
 * is none. For walking nodes laid end to end in a group. */
size_t map_node_length(const void *bytes, size_t available);

#endif
