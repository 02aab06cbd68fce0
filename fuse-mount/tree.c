/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/tree.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "fuse-mount/tree_internal.h"

#include <errno.h>
#include <unistd.h>

/* ---- nodes ---- */

/* FNV-1a over name, parent and kind. */
static size_t node_hash(uint32_t parent, const char *name, enum node_kind kind)
{
    uint32_t h = 2166136261u ^ parent ^ (uint32_t)kind << 24;

    for (; *name != '\0'; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h % TREE_HASH_SIZE;
}

struct node *tree_node(struct tree *tree, uint64_t number)
{
    struct node *node = NULL;

    pthread_mutex_lock(&tree->lock);
    if (number < tree->count)
        node = tree->nodes[number];
    pthread_mutex_unlock(&tree->lock);
    return node;
}

/* Tree locked. */
static struct node *find_locked(struct tree *tree, uint32_t parent, const char *name,
                                enum node_kind kind)
{
    struct node *n = tree->hash[node_hash(parent, name, kind)];

    while (n != NULL && (n->parent != parent || n->kind != kind || strcmp(n->name, name) != 0))
        n = n->next;
    return n;
}

/* Tree locked. */
static int make_locked(struct tree *tree, uint32_t parent, const char *name,
                       const struct node *proto, struct node **out)
{
    size_t slot = node_hash(parent, name, proto->kind);
    struct node *node;

    if (tree->count == tree->capacity) {
        uint32_t capacity = tree->capacity == 0 ? 64 : tree->capacity * 2;
        struct node **grown = reallocarray(tree->nodes, capacity, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        tree->nodes = grown;
        tree->capacity = capacity;
    }
    node = calloc(1, sizeof(*node));
    if (node == NULL)
        return -ENOMEM;
    *node = *proto;
    node->name = strdup(name);
    if (node->name == NULL) {
        free(node);
        return -ENOMEM;
    }
    node->index = tree->count;
    node->parent = parent;
    node->next = tree->hash[slot];
    tree->hash[slot] = node;
    tree->nodes[tree->count++] = node;
    *out = node;
    return 0;
}

int tree_intern(struct tree *tree, const struct node *parent, const char *name,
                const struct node *proto, struct node **out, bool *made_out)
{
    struct node *node;
    int r = 0;

    pthread_mutex_lock(&tree->lock);
    node = find_locked(tree, parent->index, name, proto->kind);
    if (made_out != NULL)
        *made_out = node == NULL;
    if (node == NULL)
        r = make_locked(tree, parent->index, name, proto, &node);
    pthread_mutex_unlock(&tree->lock);
    if (r == 0)
        *out = node;
    return r;
}

struct node *tree_interned(struct tree *tree, const struct node *parent, const char *name,
                           enum node_kind kind)
{
    struct node *node;

    pthread_mutex_lock(&tree->lock);
    node = find_locked(tree, parent->index, name, kind);
    pthread_mutex_unlock(&tree->lock);
    return node;
}

/* ---- the tree ---- */

static const struct {
    const char *name;
    enum node_kind kind;
} top[] = {{"images", NODE_IMAGES}, {"machines", NODE_MACHINES}, {"by-id", NODE_BY_ID}};

/* Node 0 is nobody's, node TREE_ROOT the root, then its folders. */
static int make_top(struct tree *tree)
{
    struct node proto = {.kind = NODE_ROOT}, *root, *node;
    int r = make_locked(tree, 0, "", &proto, &node);

    if (r == 0)
        r = make_locked(tree, 0, "/", &proto, &root);
    for (size_t i = 0; i < ARRAY_LEN(top) && r == 0; i++) {
        proto.kind = top[i].kind;
        r = make_locked(tree, root->index, top[i].name, &proto, &node);
    }
    return r;
}

int tree_open(struct store *store, struct tree **out)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    int r;

    if (tree == NULL)
        return -ENOMEM;
    tree->store = store;
    tree->opened_us = clock_wall_us();
    tree->uid = geteuid();
    tree->gid = getegid();
    pthread_mutex_init(&tree->lock, NULL);
    r = pool_new(store, &tree->pool);
    if (r == 0)
        r = make_top(tree);
    if (r < 0) {
        tree_close(tree);
        return r;
    }
    *out = tree;
    return 0;
}

void tree_close(struct tree *tree)
{
    if (tree == NULL)
        return;
    for (uint32_t i = 0; i < tree->count; i++) {
        if (tree->nodes[i]->kind == NODE_CHECKPOINT)
            checkpoint_free(tree->nodes[i]->checkpoint);
        free(tree->nodes[i]->name);
        free(tree->nodes[i]);
    }
    free(tree->nodes);
    pool_free(tree->pool);
    pthread_mutex_destroy(&tree->lock);
    free(tree);
}

/* ---- attributes ---- */

static mode_t node_mode(const struct node *node)
{
    switch (node->kind) {
    case NODE_IMAGE_TAG:
    case NODE_LATEST:
    case NODE_CHECKPOINT_NAME:
    case NODE_PREFIX:
    case NODE_PARENT:
        return S_IFLNK | 0777;
    case NODE_MANIFEST:
    case NODE_RAW:
    case NODE_PARTITION_RAW:
    case NODE_PARTITION_NOTE:
        return S_IFREG | 0444;
    default:
        return S_IFDIR | 0555;
    }
}

static int node_size(const struct node *node, uint64_t *out)
{
    const char *note;
    int r = 0;

    *out = 0;
    if (node->kind == NODE_MANIFEST) {
        *out = node->checkpoint->manifest_bytes;
    } else if (node->kind == NODE_RAW) {
        *out = volume_size(node->volume);
    } else if (node->kind == NODE_PARTITION_RAW) {
        *out = view_partition(node->view)->size_bytes;
    } else if (node->kind == NODE_PARTITION_NOTE) {
        r = view_note(node->view, &note);
        *out = r == 0 ? strlen(note) : 0;
    } else if (S_ISLNK(node_mode(node))) {
        *out = DIGEST_HEX_SIZE - 1; /* about; readlink(2) tells */
    }
    return r;
}

static struct timespec time_of_us(int64_t us)
{
    return (struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
}

static int node_entry(const struct tree *tree, const struct node *node, struct tree_entry *out)
{
    struct tree_entry e = {.node = node->index};
    uint64_t size;
    int r = node_size(node, &size);

    if (r < 0)
        return r;
    if (node->checkpoint != NULL)
        e.attr_lifetime = e.name_lifetime = TREE_IMMUTABLE;
    if (node->kind == NODE_CHECKPOINT)
        e.name_lifetime = TREE_REMOVABLE;
    e.st = (struct stat){
        .st_ino = node->index,
        .st_mode = node_mode(node),
        .st_nlink = S_ISDIR(node_mode(node)) ? 2 : 1,
        .st_uid = tree->uid,
        .st_gid = tree->gid,
        .st_size = (off_t)size,
        .st_blksize = STASIS_PAGE_SIZE,
        .st_blocks = (blkcnt_t)(size / 512 + (size % 512 != 0)),
        .st_mtim =
            time_of_us(node->checkpoint != NULL ? node->checkpoint->created_us : tree->opened_us),
    };
    e.st.st_atim = e.st.st_ctim = e.st.st_mtim;
    *out = e;
    return 0;
}

int tree_stat(struct tree *tree, uint64_t number, struct tree_entry *out)
{
    const struct node *node;

    if (node_is_guest(number))
        return guest_stat(tree, number, out);
    node = tree_node(tree, number);
    return node == NULL ? -ESTALE : node_entry(tree, node, out);
}

/* ---- names ---- */

static bool is_in_checkpoint(const struct node *node)
{
    return node->kind == NODE_CHECKPOINT || node->kind == NODE_DISK;
}

static int root_lookup(struct tree *tree, const struct node *root, const char *name,
                       struct node **out)
{
    for (size_t i = 0; i < ARRAY_LEN(top); i++)
        if (strcmp(top[i].name, name) == 0) {
            *out = tree_interned(tree, root, name, top[i].kind);
            return 0;
        }
    return -ENOENT;
}

int tree_lookup(struct tree *tree, uint64_t parent_number, const char *name, struct tree_entry *out)
{
    struct node *parent, *node = NULL;
    uint64_t guest = 0;
    int r;

    if (node_is_guest(parent_number))
        return guest_lookup(tree, parent_number, name, out);
    parent = tree_node(tree, parent_number);
    if (parent == NULL)
        return -ESTALE;
    if (!S_ISDIR(node_mode(parent)))
        return -ENOTDIR;
    if (parent->kind == NODE_ROOT)
        r = root_lookup(tree, parent, name, &node);
    else if (is_in_checkpoint(parent))
        r = checkpoint_lookup(tree, parent, name, &node, &guest);
    else
        r = names_lookup(tree, parent, name, &node);
    if (r < 0)
        return r;
    return node != NULL ? node_entry(tree, node, out) : guest_stat(tree, guest, out);
}

static int root_list(struct listing *out)
{
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(top) && r == 0; i++)
        r = listing_add(out, top[i].name, strlen(top[i].name), 0, S_IFDIR);
    return r;
}

int tree_list(struct tree *tree, uint64_t directory, struct listing *out)
{
    _cleanup_(listing_clear) struct listing list = {0};
    const struct node *node;
    int r;

    if (node_is_guest(directory))
        return guest_list(tree, directory, out);
    node = tree_node(tree, directory);
    if (node == NULL)
        return -ESTALE;
    if (node->kind == NODE_ROOT)
        r = root_list(&list);
    else if (is_in_checkpoint(node))
        r = checkpoint_list(tree, node, &list);
    else
        r = names_list(tree, node, &list);
    if (r < 0)
        return r;
    *out = list;
    list = (struct listing){0};
    return 0;
}

int tree_listed(struct tree *tree, uint64_t directory, const struct listing *list, size_t index,
                struct tree_entry *out)
{
    if (node_is_guest(directory))
        return guest_listed(tree, directory, list->entries[index].inode, out);
    return tree_lookup(tree, directory, listing_name(list, index), out);
}

int tree_readlink(struct tree *tree, uint64_t number, char **out)
{
    const struct node *node;
    char hex[DIGEST_HEX_SIZE];

    if (node_is_guest(number))
        return guest_readlink(tree, number, out);
    node = tree_node(tree, number);
    if (node == NULL)
        return -ESTALE;
    if (!S_ISLNK(node_mode(node)))
        return -EINVAL;
    if (node->kind != NODE_PARENT)
        return names_readlink(tree, node, out);
    digest_hex(&node->checkpoint->parent, hex);
    return asprintf(out, "../%s", hex) < 0 ? -ENOMEM : 0;
}

/* ---- files ---- */

/* One of: text; a range of a volume; a file of a guest. */
struct tree_file {
    const char *text;
    struct volume *volume;
    uint64_t start; /* in the volume */
    uint64_t size_bytes;
    struct view *view; /* held */
    struct ext_file *guest;
};

static int file_of_node(const struct node *node, struct tree_file *f)
{
    int r = node_size(node, &f->size_bytes);

    if (r < 0)
        return r;
    switch (node->kind) {
    case NODE_MANIFEST:
        f->text = node->checkpoint->manifest;
        return 0;
    case NODE_PARTITION_NOTE:
        return view_note(node->view, &f->text);
    case NODE_RAW:
        f->volume = node->volume;
        return 0;
    case NODE_PARTITION_RAW:
        f->volume = view_volume(node->view);
        f->start = view_partition(node->view)->start;
        return 0;
    default:
        return S_ISDIR(node_mode(node)) ? -EISDIR : -EINVAL;
    }
}

int tree_file_open(struct tree *tree, uint64_t number, struct tree_file **out)
{
    _cleanup_free_ struct tree_file *f = calloc(1, sizeof(*f));
    const struct node *node;
    int r;

    if (f == NULL)
        return -ENOMEM;
    if (node_is_guest(number)) {
        r = guest_open(tree, number, &f->view, &f->guest);
        f->size_bytes = r == 0 ? ext_file_size(f->guest) : 0;
    } else {
        node = tree_node(tree, number);
        r = node == NULL ? -ESTALE : file_of_node(node, f);
    }
    if (r < 0)
        return r;
    *out = steal_pointer(f);
    return 0;
}

void tree_file_close(struct tree_file *file)
{
    if (file == NULL)
        return;
    ext_file_close(file->guest);
    if (file->view != NULL)
        view_drop(file->view);
    free(file);
}

int tree_file_read(struct tree_file *file, uint64_t offset, void *buf, size_t length,
                   size_t *done_out)
{
    int r = 0;

    if (file->guest != NULL)
        return ext_file_read(file->guest, offset, buf, length, done_out);
    length = offset >= file->size_bytes ? 0 : min_u64(length, file->size_bytes - offset);
    if (file->text != NULL)
        memcpy(buf, file->text + (length > 0 ? offset : 0), length);
    else
        r = volume_read(file->volume, file->start + offset, buf, length);
    if (r == 0)
        *done_out = length;
    return r;
}

int tree_file_seek(struct tree_file *file, uint64_t offset, bool data, uint64_t *out)
{
    uint64_t end, found = offset;
    int r = 0;

    if (offset >= file->size_bytes)
        return -ENXIO;
    if (file->volume == NULL) { /* all of it counts as data */
        *out = data ? offset : file->size_bytes;
        return 0;
    }
    end = file->start + file->size_bytes;
    r = volume_seek(file->volume, file->start + offset, end, data, &found);
    if (r < 0)
        return r;
    if (data && found == end)
        return -ENXIO;
    *out = found - file->start;
    return 0;
}
