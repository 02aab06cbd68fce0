/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people call things: images/ and machines/, made of links into by-id/. All
 * of it is asked of the catalogue each time, because it changes under the mount.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "fuse-mount/tree_internal.h"
#include "store/catalogue.h"

#include <ctype.h>
#include <errno.h>

#define SHORT_ID_DIGITS 12u
#define PREFIX_DIGITS_MIN 8u

struct images {
    struct catalogue_image *list;
    size_t count;
};

struct checkpoints {
    struct catalogue_checkpoint *list;
    size_t count;
};

struct machines {
    struct catalogue_machine *list;
    size_t count;
};

static void images_clear(struct images *x)
{
    catalogue_images_free(x->list, x->count);
}

static void checkpoints_clear(struct checkpoints *x)
{
    catalogue_checkpoints_free(x->list, x->count);
}

static void machines_clear(struct machines *x)
{
    catalogue_machines_free(x->list, x->count);
}

/* Errors of the catalogue as the kernel takes them. */
static int catalogue_errno(int r)
{
    return r == 0 || r == -ENOENT || r == -ENOMEM ? r : -EIO;
}

static bool component_is_shown(const char *text, size_t length)
{
    return length > 0 && length <= NAME_MAX && !(length == 1 && text[0] == '.') &&
           !(length == 2 && text[0] == '.' && text[1] == '.');
}

static int add_unique(struct listing *list, const char *name, size_t length, uint32_t mode)
{
    for (size_t i = 0; i < list->count; i++) {
        const char *have = listing_name(list, i);

        if (strlen(have) != length || memcmp(have, name, length) != 0)
            continue;
        if (S_ISDIR(mode)) /* a folder hides a tag of the same name */
            list->entries[i].mode = mode;
        return 0;
    }
    return listing_add(list, name, length, 0, mode);
}

/* ---- images/ ---- */

/* The path of a folder below images/, "" for that itself; the caller frees. NULL:
 * out of memory. */
static char *image_path(struct tree *tree, const struct node *node)
{
    _cleanup_free_ char *parent = NULL;
    char *path = NULL;

    if (node->parent == 0 || tree_node(tree, node->parent)->kind != NODE_IMAGES)
        return strdup("");
    parent = image_path(tree, tree_node(tree, node->parent));
    if (parent == NULL ||
        asprintf(&path, "%s%s%s", parent, parent[0] != '\0' ? "/" : "", node->name) < 0)
        return NULL;
    return path;
}

/* What follows "PATH/" in name, or all of it where path is empty; NULL: not below. */
static const char *below_path(const char *name, const char *path)
{
    size_t length = strlen(path);

    if (length == 0)
        return name;
    return strncmp(name, path, length) == 0 && name[length] == '/' ? name + length + 1 : NULL;
}

static int images_entries(struct tree *tree, const struct node *node, struct listing *out)
{
    _cleanup_(images_clear) struct images images = {0};
    _cleanup_free_ char *path = image_path(tree, node);
    int r = path == NULL ? -ENOMEM
                         : catalogue_image_list(tree->store, &images.list, &images.count, NULL);

    for (size_t i = 0; i < images.count && r == 0; i++) {
        const char *rest = below_path(images.list[i].name, path);

        if (rest != NULL) {
            size_t length = strcspn(rest, "/");

            if (component_is_shown(rest, length))
                r = add_unique(out, rest, length, S_IFDIR);
        } else if (strcmp(images.list[i].name, path) == 0) {
            const char *tag = images.list[i].tag;

            if (component_is_shown(tag, strlen(tag)) && strchr(tag, '/') == NULL)
                r = add_unique(out, tag, strlen(tag), S_IFLNK);
        }
    }
    return catalogue_errno(r);
}

/* ---- machines/ ---- */

/* Where a checkpoint without a name is found among the named ones. */
static void short_id(const struct digest *id, char out[DIGEST_HEX_SIZE])
{
    digest_hex(id, out);
    out[SHORT_ID_DIGITS] = '\0';
}

static int machines_entries(struct tree *tree, struct listing *out)
{
    _cleanup_(machines_clear) struct machines machines = {0};
    int r = catalogue_machine_list(tree->store, &machines.list, &machines.count, NULL);

    for (size_t i = 0; i < machines.count && r == 0; i++)
        r = listing_add(out, machines.list[i].name, strlen(machines.list[i].name), 0, S_IFDIR);
    return catalogue_errno(r);
}

static int checkpoints_entries(struct tree *tree, const char *machine, struct listing *out)
{
    _cleanup_(checkpoints_clear) struct checkpoints all = {0};
    int r = catalogue_checkpoint_list(tree->store, machine, &all.list, &all.count, NULL);

    for (size_t i = 0; i < all.count && r == 0; i++) {
        char hex[DIGEST_HEX_SIZE];
        const char *name = all.list[i].name;

        if (name == NULL) {
            short_id(&all.list[i].id, hex);
            name = hex;
        }
        r = add_unique(out, name, strlen(name), S_IFLNK);
    }
    return catalogue_errno(r);
}

/* The newest checkpoint, or what the machine was made from while it has none. */
static int latest_id(struct tree *tree, const char *machine, struct digest *out)
{
    _cleanup_(checkpoints_clear) struct checkpoints all = {0};
    _cleanup_(machines_clear) struct machines one = {0};
    int r = catalogue_checkpoint_list(tree->store, machine, &all.list, &all.count, NULL);

    if (r == 0 && all.count > 0) {
        *out = all.list[all.count - 1].id;
        return 0;
    }
    if (r == 0)
        r = catalogue_machine_get(tree->store, machine, &one.list, NULL);
    if (r < 0)
        return catalogue_errno(r);
    one.count = 1;
    if (!one.list->has_head)
        return -ENOENT;
    *out = one.list->head;
    return 0;
}

static int named_id(struct tree *tree, const char *machine, const char *name, struct digest *out)
{
    _cleanup_(checkpoints_clear) struct checkpoints all = {0};
    int r = catalogue_checkpoint_by_name(tree->store, machine, name, out, NULL);

    if (r != -ENOENT)
        return catalogue_errno(r);
    r = catalogue_checkpoint_list(tree->store, machine, &all.list, &all.count, NULL);
    for (size_t i = 0; i < all.count && r == 0; i++) {
        char hex[DIGEST_HEX_SIZE];

        short_id(&all.list[i].id, hex);
        if (all.list[i].name == NULL && strcmp(hex, name) == 0) {
            *out = all.list[i].id;
            return 0;
        }
    }
    return r < 0 ? catalogue_errno(r) : -ENOENT;
}

static int machine_entries(struct tree *tree, const struct node *node, struct listing *out)
{
    struct digest id;
    int r = latest_id(tree, node->name, &id);

    if (r == 0)
        r = listing_add(out, "latest", strlen("latest"), 0, S_IFLNK);
    else if (r == -ENOENT)
        r = 0;
    return r < 0 ? r : listing_add(out, "checkpoints", strlen("checkpoints"), 0, S_IFDIR);
}

/* ---- by-id/ ---- */

static int by_id_entries(struct tree *tree, struct listing *out)
{
    _cleanup_(checkpoints_clear) struct checkpoints all = {0};
    int r = catalogue_checkpoint_list(tree->store, NULL, &all.list, &all.count, NULL);

    for (size_t i = 0; i < all.count && r == 0; i++) {
        char hex[DIGEST_HEX_SIZE];

        digest_hex(&all.list[i].id, hex);
        r = listing_add(out, hex, strlen(hex), 0, S_IFDIR);
    }
    return catalogue_errno(r);
}

static int by_id_lookup(struct tree *tree, const struct node *parent, const char *name,
                        struct node **out)
{
    struct node proto = {.kind = NODE_PREFIX};
    size_t length = strspn(name, "0123456789abcdefABCDEF");
    char hex[DIGEST_HEX_SIZE], link[DIGEST_HEX_SIZE + 1];
    struct digest id;
    int r;

    if (name[length] != '\0' || length < PREFIX_DIGITS_MIN || length >= DIGEST_HEX_SIZE)
        return -ENOENT;
    r = catalogue_checkpoint_by_prefix(tree->store, name, &id, NULL);
    if (r < 0)
        return r == -EINVAL ? -ENOENT : catalogue_errno(r); /* several begin like that */
    digest_hex(&id, hex);
    if (strcmp(hex, name) == 0)
        return checkpoint_node(tree, parent, &id, out);
    /* All beginnings of one id are one node, or anybody could make any number. */
    snprintf(link, sizeof(link), "%s~", hex);
    return tree_intern(tree, parent, link, &proto, out, NULL);
}

/* ---- what tree.c calls ---- */

int names_list(struct tree *tree, const struct node *node, struct listing *out)
{
    switch (node->kind) {
    case NODE_IMAGES:
        return images_entries(tree, node, out);
    case NODE_MACHINES:
        return machines_entries(tree, out);
    case NODE_MACHINE:
        return machine_entries(tree, node, out);
    case NODE_CHECKPOINTS:
        return checkpoints_entries(tree, tree_node(tree, node->parent)->name, out);
    case NODE_BY_ID:
        return by_id_entries(tree, out);
    default:
        return -ENOTDIR;
    }
}

static enum node_kind child_kind(enum node_kind parent, uint32_t mode)
{
    switch (parent) {
    case NODE_IMAGES:
        return S_ISDIR(mode) ? NODE_IMAGES : NODE_IMAGE_TAG;
    case NODE_MACHINES:
        return NODE_MACHINE;
    case NODE_MACHINE:
        return S_ISDIR(mode) ? NODE_CHECKPOINTS : NODE_LATEST;
    default:
        return NODE_CHECKPOINT_NAME;
    }
}

int names_lookup(struct tree *tree, const struct node *parent, const char *name, struct node **out)
{
    _cleanup_(listing_clear) struct listing list = {0};
    int r;

    if (parent->kind == NODE_BY_ID)
        return by_id_lookup(tree, parent, name, out);
    r = names_list(tree, parent, &list);
    if (r < 0)
        return r;
    for (size_t i = 0; i < list.count; i++) {
        struct node proto = {.kind = child_kind(parent->kind, list.entries[i].mode)};

        if (strcmp(listing_name(&list, i), name) == 0)
            return tree_intern(tree, parent, name, &proto, out, NULL);
    }
    return -ENOENT;
}

static int link_id(struct tree *tree, const struct node *node, struct digest *out)
{
    const struct node *parent = tree_node(tree, node->parent);
    _cleanup_free_ char *path = NULL;

    switch (node->kind) {
    case NODE_IMAGE_TAG:
        path = image_path(tree, parent);
        return path == NULL
                   ? -ENOMEM
                   : catalogue_errno(catalogue_image_get(tree->store, path, node->name, out, NULL));
    case NODE_LATEST:
        return latest_id(tree, parent->name, out);
    case NODE_CHECKPOINT_NAME:
        return named_id(tree, tree_node(tree, parent->parent)->name, node->name, out);
    default:
        return -EINVAL;
    }
}

int names_readlink(struct tree *tree, const struct node *node, char **out)
{
    const struct node *up = tree_node(tree, node->parent);
    char hex[DIGEST_HEX_SIZE];
    char *target = NULL;
    struct digest id;
    int r;

    if (node->kind == NODE_PREFIX) {
        *out = strndup(node->name, DIGEST_HEX_SIZE - 1);
        return *out == NULL ? -ENOMEM : 0;
    }
    r = link_id(tree, node, &id);
    if (r < 0)
        return r;
    if (asprintf(&target, "by-id/%s", digest_hex(&id, hex)) < 0)
        return -ENOMEM;
    for (; up->kind != NODE_ROOT; up = tree_node(tree, up->parent)) {
        _cleanup_free_ char *shorter = target;

        if (asprintf(&target, "../%s", shorter) < 0)
            return -ENOMEM;
    }
    *out = target;
    return 0;
}
