/* SPDX-License-Identifier: Apache-2.0 */
/* by-id/ID: what a checkpoint consists of, as files. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "fuse-mount/tree_internal.h"
#include "store/catalogue.h"

#include <errno.h>

void checkpoint_free(struct tree_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    store_unpin(checkpoint->pin);
    free(checkpoint->manifest);
    free(checkpoint);
}

DEFINE_CLEANUP(struct tree_checkpoint, checkpoint_free)

static int checkpoint_load(struct tree *tree, const struct digest *id, struct tree_checkpoint **out)
{
    _cleanup_(checkpoint_freep) struct tree_checkpoint *c = NULL;
    _cleanup_(store_unpinp) struct store_pin *pin = NULL;
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    int r;

    if (m == NULL)
        return -ENOMEM;
    r = store_pin(tree->store, id, &pin, NULL);
    if (r == 0)
        r = catalogue_manifest_read(tree->store, id, m, NULL);
    if (r < 0)
        return r == -ENOENT || r == -ENOMEM ? r : -EIO;
    c = calloc(1, sizeof(*c) + m->space_count * sizeof(c->spaces[0]));
    if (c == NULL)
        return -ENOMEM;
    c->pin = steal_pointer(pin);
    c->id = *id;
    c->created_us = m->created_us;
    c->has_parent = m->has_parent;
    c->parent = m->parent;
    r = manifest_encode(m, &c->manifest, &c->manifest_bytes);
    for (; r == 0 && c->space_count < m->space_count; c->space_count++) {
        const struct manifest_space *from = &m->spaces[c->space_count];
        struct tree_space *to = &c->spaces[c->space_count];

        memcpy(to->name, from->name, sizeof(to->name));
        r = pool_add_volume(tree->pool, from->name, &from->root, from->size_bytes, &to->volume);
    }
    if (r < 0)
        return r;
    *out = steal_pointer(c);
    return 0;
}

int checkpoint_node(struct tree *tree, const struct node *by_id, const struct digest *id,
                    struct node **out)
{
    _cleanup_(checkpoint_freep) struct tree_checkpoint *c = NULL;
    struct node proto = {.kind = NODE_CHECKPOINT};
    char hex[DIGEST_HEX_SIZE];
    bool made = false;
    int r;

    digest_hex(id, hex);
    *out = tree_interned(tree, by_id, hex, NODE_CHECKPOINT);
    if (*out != NULL)
        return 0;
    r = checkpoint_load(tree, id, &c);
    if (r < 0)
        return r;
    proto.checkpoint = c;
    r = tree_intern(tree, by_id, hex, &proto, out, &made);
    if (r == 0 && made)
        c = NULL; /* the node's */
    return r;
}

static bool is_disk(const char *name)
{
    return strncmp(name, "disk", 4) == 0;
}

/* "memory.raw", "disk0.raw"; kernels are files of a format of their own. */
static void space_file_name(const struct tree_space *space, char *out, size_t size)
{
    bool raw = is_disk(space->name) || strcmp(space->name, "memory") == 0;

    snprintf(out, size, "%s%s", space->name, raw ? ".raw" : "");
}

static int checkpoint_entries(const struct tree_checkpoint *c, struct listing *out)
{
    int r = listing_add(out, "manifest.json", strlen("manifest.json"), 0, S_IFREG);

    if (r == 0 && c->has_parent)
        r = listing_add(out, "parent", strlen("parent"), 0, S_IFLNK);
    for (uint32_t i = 0; i < c->space_count && r == 0; i++) {
        char name[MANIFEST_SPACE_NAME_MAX + 8];

        space_file_name(&c->spaces[i], name, sizeof(name));
        r = listing_add(out, name, strlen(name), 0, S_IFREG);
        if (r == 0 && is_disk(c->spaces[i].name))
            r = listing_add(out, c->spaces[i].name, strlen(c->spaces[i].name), 0, S_IFDIR);
    }
    return r;
}

static int checkpoint_find(const struct tree_checkpoint *c, const char *name, struct node *proto)
{
    proto->kind = NODE_MANIFEST;
    if (strcmp(name, "manifest.json") == 0)
        return 0;
    proto->kind = NODE_PARENT;
    if (strcmp(name, "parent") == 0 && c->has_parent)
        return 0;
    for (uint32_t i = 0; i < c->space_count; i++) {
        const struct tree_space *space = &c->spaces[i];
        char file[MANIFEST_SPACE_NAME_MAX + 8];

        proto->volume = space->volume;
        space_file_name(space, file, sizeof(file));
        proto->kind = NODE_RAW;
        if (strcmp(name, file) == 0)
            return 0;
        proto->kind = NODE_DISK;
        if (is_disk(space->name) && strcmp(name, space->name) == 0)
            return 0;
    }
    return -ENOENT;
}

/* Can the view's file system be entered? 1, 0 or negative errno. */
static int view_is_browsable(struct view *view)
{
    struct ext *fs;
    int r = view_hold(view, &fs);

    if (r == 0)
        view_drop(view);
    return r == 0 ? 1 : r == -ENOTSUP ? 0 : r;
}

static int disk_entries(const struct node *disk, struct listing *out)
{
    struct view **views;
    uint32_t count = 0;
    int r = volume_views(disk->volume, &views, &count);

    for (uint32_t i = 0; i < count && r == 0; i++) {
        uint32_t number = view_partition(views[i])->number;
        char name[32];
        int browsable = view_is_browsable(views[i]);

        snprintf(name, sizeof(name), "p%u", number);
        if (browsable == 1)
            r = listing_add(out, name, strlen(name), guest_root(views[i]), S_IFDIR);
        snprintf(name, sizeof(name), "p%u.raw", number);
        if (r == 0)
            r = listing_add(out, name, strlen(name), 0, S_IFREG);
        snprintf(name, sizeof(name), "p%u.note", number);
        if (r == 0)
            r = listing_add(out, name, strlen(name), 0, S_IFREG);
    }
    return r;
}

/* "p12", "p12.raw", "p12.note": number and what is behind it. */
static bool partition_name_parse(const char *name, uint32_t *number_out, const char **rest_out)
{
    unsigned long number;
    char *end;

    if (name[0] != 'p' || name[1] < '0' || name[1] > '9' ||
        (name[1] == '0' && name[2] >= '0' && name[2] <= '9'))
        return false;
    number = strtoul(name + 1, &end, 10);
    if (number > UINT32_MAX)
        return false;
    *number_out = (uint32_t)number;
    *rest_out = end;
    return true;
}

static int disk_lookup(struct tree *tree, const struct node *disk, const char *name,
                       struct node **out, uint64_t *guest_out)
{
    struct node proto = {.checkpoint = disk->checkpoint};
    struct view **views;
    const char *rest;
    uint32_t number, count = 0;
    int r;

    if (!partition_name_parse(name, &number, &rest))
        return -ENOENT;
    r = volume_views(disk->volume, &views, &count);
    for (uint32_t i = 0; i < count && r == 0 && proto.view == NULL; i++)
        if (view_partition(views[i])->number == number)
            proto.view = views[i];
    if (r < 0 || proto.view == NULL)
        return r < 0 ? r : -ENOENT;
    if (rest[0] == '\0') {
        r = view_is_browsable(proto.view);
        *out = NULL;
        *guest_out = guest_root(proto.view);
        return r < 0 ? r : r == 1 ? 0 : -ENOENT;
    }
    if (strcmp(rest, ".raw") == 0)
        proto.kind = NODE_PARTITION_RAW;
    else if (strcmp(rest, ".note") == 0)
        proto.kind = NODE_PARTITION_NOTE;
    else
        return -ENOENT;
    return tree_intern(tree, disk, name, &proto, out, NULL);
}

int checkpoint_lookup(struct tree *tree, const struct node *parent, const char *name,
                      struct node **out, uint64_t *guest_out)
{
    struct node proto = {.checkpoint = parent->checkpoint};
    int r;

    if (parent->kind == NODE_DISK)
        return disk_lookup(tree, parent, name, out, guest_out);
    r = checkpoint_find(parent->checkpoint, name, &proto);
    return r < 0 ? r : tree_intern(tree, parent, name, &proto, out, NULL);
}

int checkpoint_list(struct tree *tree, const struct node *node, struct listing *out)
{
    (void)tree;
    return node->kind == NODE_DISK ? disk_entries(node, out)
                                   : checkpoint_entries(node->checkpoint, out);
}
