/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Map nodes: the persistent tree that lists the pages of one address space.
 *
 *   node  = magic 'S' 'M' | version u8 | level u8 | reserved u32 = 0
 *           | present u64 | entry for each set bit of present, lowest first
 *   entry = level 0 (leaf): page reference, 16 bytes
 *           level > 0:      SHA-256 of the child node, 32 bytes
 *
 * A leaf covers MAP_FANOUT pages, a node of level n MAP_FANOUT^(n+1). A clear
 * bit is a range of zero pages. The root's level is the least that covers the
 * space's page count. Nodes are canonical: same pages, same bytes, same SHA-256;
 * a node other than a root has at least one entry.
 */
#ifndef STASIS_IMGFMT_MAP_H
#define STASIS_IMGFMT_MAP_H

#include "base/digest.h"
#include "base/error.h"
#include "imgfmt/page.h"

#include <stddef.h>
#include <stdint.h>

#define MAP_FANOUT 64u
#define MAP_FANOUT_SHIFT 6
#define MAP_NODE_HEADER_SIZE 16u
#define MAP_NODE_MAX_SIZE (MAP_NODE_HEADER_SIZE + MAP_FANOUT * DIGEST_SIZE)
#define MAP_LEVEL_MAX 6
#define MAP_PAGES_MAX (UINT64_C(1) << 42) /* 64^7 pages = 16 PiB */

struct map_node {
    uint8_t level;
    uint64_t present;
    union {
        struct page_ref pages[MAP_FANOUT];  /* level 0; zero where not present */
        struct digest children[MAP_FANOUT]; /* level > 0; meaningless where not present */
    };
};

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
