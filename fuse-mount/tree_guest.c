/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a partition: node numbers to inodes and back. */
#include "base/cleanup.h"
#include "fuse-mount/linktarget.h"
#include "fuse-mount/tree_internal.h"

#include <errno.h>

struct guest {
    struct view *view;
    struct ext *fs;
    uint32_t inode;
    uint32_t depth;
};

static uint64_t guest_number(const struct view *view, uint32_t depth, uint32_t inode)
{
    return ((uint64_t)view_index(view) + 1) << 44 | (uint64_t)depth << 32 | inode;
}

/* What stat(2) shows: without the depth, so that hard links look like ones. */
static uint64_t guest_st_ino(const struct view *view, uint32_t inode)
{
    return guest_number(view, 0, inode);
}

uint64_t guest_root(const struct view *view)
{
    return guest_number(view, 0, EXT_ROOT_INODE);
}

static int guest_hold(struct tree *tree, uint64_t node, struct guest *out)
{
    struct guest g = {
        .view = pool_view(tree->pool, (uint32_t)(node >> 44) - 1),
        .inode = (uint32_t)node,
        .depth = (uint32_t)(node >> 32) & 0xfff,
    };
    int r = g.view == NULL ? -ESTALE : view_hold(g.view, &g.fs);

    if (r < 0)
        return r == -ENOTSUP ? -EIO : r;
    *out = g;
    return 0;
}

static void guest_drop(struct guest *g)
{
    if (g->view != NULL)
        view_drop(g->view);
}

static int guest_entry(const struct guest *g, uint32_t inode, uint32_t depth,
                       struct tree_entry *out)
{
    struct tree_entry e = {.name_lifetime = TREE_IMMUTABLE, .attr_lifetime = TREE_IMMUTABLE};
    int r = ext_stat(g->fs, inode, &e.st);

    if (r < 0)
        return r;
    if (!S_ISDIR(e.st.st_mode) && !S_ISLNK(e.st.st_mode))
        depth = 0;
    e.node = guest_number(g->view, depth, inode);
    e.st.st_ino = guest_st_ino(g->view, inode);
    *out = e;
    return 0;
}

/* The entry of something in directory g. */
static int guest_child(const struct guest *g, uint32_t inode, struct tree_entry *out)
{
    struct tree_entry e;
    int r = guest_entry(g, inode, g->depth + 1, &e);

    if (r < 0)
        return r == -ENOENT ? -EUCLEAN : r; /* a name of an inode that is not in use */
    if (S_ISDIR(e.st.st_mode)) {
        if (g->depth + 1 >= GUEST_DEPTH_MAX)
            return -ELOOP;
        r = ext_check_parent(g->fs, inode, g->inode);
        if (r < 0)
            return r;
    }
    *out = e;
    return 0;
}

int guest_lookup(struct tree *tree, uint64_t parent, const char *name, struct tree_entry *out)
{
    _cleanup_(guest_drop) struct guest g = {0};
    uint32_t inode;
    int r = guest_hold(tree, parent, &g);

    if (r == 0)
        r = ext_lookup(g.fs, g.inode, name, &inode);
    return r < 0 ? r : guest_child(&g, inode, out);
}

int guest_listed(struct tree *tree, uint64_t directory, uint64_t inode, struct tree_entry *out)
{
    _cleanup_(guest_drop) struct guest g = {0};
    int r = guest_hold(tree, directory, &g);

    return r < 0 ? r : guest_child(&g, (uint32_t)inode, out);
}

int guest_stat(struct tree *tree, uint64_t node, struct tree_entry *out)
{
    _cleanup_(guest_drop) struct guest g = {0};
    int r = guest_hold(tree, node, &g);

    return r < 0 ? r : guest_entry(&g, g.inode, g.depth, out);
}

int guest_list(struct tree *tree, uint64_t directory, struct listing *out)
{
    _cleanup_(guest_drop) struct guest g = {0};
    int r = guest_hold(tree, directory, &g);

    if (r == 0)
        r = ext_list(g.fs, g.inode, out);
    if (r < 0)
        return r;
    for (size_t i = 0; i < out->count; i++)
        out->entries[i].inode = guest_st_ino(g.view, (uint32_t)out->entries[i].inode);
    return 0;
}

int guest_readlink(struct tree *tree, uint64_t node, char **out)
{
    _cleanup_(guest_drop) struct guest g = {0};
    _cleanup_free_ char *target = NULL;
    int r = guest_hold(tree, node, &g);

    if (r == 0)
        r = ext_readlink(g.fs, g.inode, &target);
    if (r < 0)
        return r;
    /* the link's own depth is one more than that of the directory it is in */
    return linktarget_confine(target, g.depth > 0 ? g.depth - 1 : 0, out);
}

int guest_open(struct tree *tree, uint64_t node, struct view **view_out, struct ext_file **out)
{
    _cleanup_(guest_drop) struct guest g = {0};
    int r = guest_hold(tree, node, &g);

    if (r == 0)
        r = ext_file_open(g.fs, g.inode, out);
    if (r < 0)
        return r;
    *view_out = steal_pointer(g.view);
    return 0;
}
