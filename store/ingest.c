/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/ingest_private.h"
#include "store/lease.h"

#include <errno.h>
#include <fcntl.h>

/* Of one node, in different packs; more are not looked for. */
#define NODE_COPIES_MAX 4

DEFINE_CLEANUP(struct ingest, ingest_free)

int ingest_begin(struct store *store, struct ingest **out, struct error *err)
{
    _cleanup_(ingest_freep) struct ingest *in = calloc(1, sizeof(*in));
    int r;

    if (in == NULL)
        return error_errno(err, ENOMEM, "writing to the store");
    in->store = store;
    in->page_queue.kind = PACK_PAGES;
    in->node_queue.kind = PACK_NODES;
    /* The lease comes first: nothing that is in the view can go away. */
    r = lease_take(store, &in->lease, err);
    if (r == 0)
        r = store_refresh(store, err);
    if (r == 0)
        r = packs_index(&store->packs, err);
    if (r < 0)
        return r;
    in->view = in->checked = packs_count(&store->packs);
    *out = steal_pointer(in);
    return 0;
}

static void own_pack_free(struct ingest *in, struct own_pack *pack)
{
    if (pack->fd >= 0) {
        /* Still locked by us: nobody else can have begun to use it. */
        if (!in->committed)
            unlinkat(in->store->packs_dirfd, pack->name, 0);
        close(steal_fd(&pack->fd));
    }
    pack_writer_free(steal_pointer(pack->writer));
    pack_index_free(steal_pointer(pack->index));
    pack->state = OWN_DROPPED;
}

void ingest_drop_pack(struct ingest *in, uint32_t number)
{
    cached_group_release(steal_pointer(in->near_own));
    own_pack_free(in, in->packs[number]);
}

void ingest_free(struct ingest *in)
{
    if (in == NULL)
        return;
    for (uint32_t i = 0; i < in->pack_count; i++) {
        own_pack_free(in, in->packs[i]);
        free(in->packs[i]);
    }
    free(in->packs);
    for (size_t i = 0; i < in->blob_count; i++)
        free(in->blobs[i].data);
    free(in->blobs);
    free(in->moved);
    free(in->revived);
    lease_end(in->store, &in->lease);
    index_clear(&in->pages);
    index_clear(&in->nodes);
    ingest_groups_free(in);
    free(in->batch);
    free(in->found.list);
    cached_group_release(in->near_store);
    cached_group_release(in->near_own);
    free(in);
}

void ingest_get_stats(const struct ingest *in, struct ingest_stats *out)
{
    *out = in->stats;
    out->stored_bytes = 0;
    for (uint32_t i = 0; i < in->pack_count; i++)
        if (own_index(in->packs[i]) != NULL)
            out->stored_bytes += own_index(in->packs[i])->file_bytes;
}

/* ---- our packs ---- */

const struct pack_index *own_index(const struct own_pack *pack)
{
    return pack->writer != NULL ? pack_writer_index(pack->writer) : pack->index;
}

int ingest_add_pack(struct ingest *in, enum pack_kind kind, uint32_t *number_out, struct error *err)
{
    struct own_pack **list = realloc(in->packs, (in->pack_count + 1) * sizeof(struct own_pack *));
    struct own_pack *pack;
    int r;

    if (list == NULL)
        return error_errno(err, ENOMEM, "starting a pack");
    in->packs = list;
    pack = calloc(1, sizeof(*pack));
    if (pack == NULL)
        return error_errno(err, ENOMEM, "starting a pack");
    /* From here on ingest_free() looks after it. */
    in->packs[in->pack_count++] = pack;
    pack->kind = kind;
    pack->owner = atomic_fetch_add(&in->store->next_owner, 1) | UINT32_C(1) << 31;
    pack->fd = store_create_pack(in->store, pack->name, err);
    if (pack->fd < 0) {
        pack->state = OWN_DROPPED;
        r = pack->fd;
        pack->fd = -1;
        return r;
    }
    r = pack_writer_open(pack->fd, kind, HOT_ZSTD_LEVEL, &pack->writer, err);
    if (r == 0)
        r = pack_writer_protect(pack->writer, err);
    if (r == 0)
        *number_out = in->pack_count - 1;
    else
        pack->state = OWN_DROPPED;
    return r;
}

int ingest_finish_pack(struct own_pack *pack, struct error *err)
{
    int r = pack_writer_finish(pack->writer, err);

    /* A large ingest has many packs; a writer each, with its buffers, would be too
     * much to keep. */
    if (r == 0)
        r = pack_index_read(pack->fd, pack->name, &pack->index, err);
    if (r < 0)
        return r;
    pack_writer_free(steal_pointer(pack->writer));
    pack->state = OWN_FINISHED;
    /* So that less is left to wait for when it is sealed; failing is fine. */
    sync_file_range(pack->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return 0;
}

/* ---- reading our own ---- */

int ingest_own_bytes_near(struct ingest *in, enum pack_kind kind, const struct index_entry *e,
                          struct cached_group **group_io, const uint8_t **bytes_out,
                          size_t *length_out, struct error *err)
{
    const struct own_pack *pack = in->packs[index_entry_pack(e)];
    const struct pack_index *index = own_index(pack);
    uint32_t group;
    uint64_t key;
    int r;

    if (e->object >= index->object_count) {
        ingest_queued_bytes(kind == PACK_PAGES ? &in->page_queue : &in->node_queue,
                            e->object - index->object_count, bytes_out, length_out);
        return 0;
    }
    group = pack_group_of_object(index, e->object);
    key = group_cache_key(pack->owner, group);
    if (*group_io == NULL || (*group_io)->key != key) {
        cached_group_release(steal_pointer(*group_io));
        r = group_cache_get(in->store->cache, key, pack->fd, pack->name, index, group, CACHE_KEEP,
                            group_io, err);
        if (r < 0)
            return r;
    }
    return cached_group_object(*group_io, e->object - index->groups[group].first_object, bytes_out,
                               length_out);
}

int ingest_own_bytes(struct ingest *in, enum pack_kind kind, const struct index_entry *e,
                     const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    return ingest_own_bytes_near(in, kind, e, &in->near_own, bytes_out, length_out, err);
}

int ingest_node_bytes(struct ingest *in, const struct digest *digest,
                      struct cached_group **group_out, const uint8_t **bytes_out,
                      size_t *length_out, struct error *err)
{
    const struct index_entry *e = index_get(&in->nodes, node_id(digest));

    *group_out = NULL;
    if (e != NULL)
        return ingest_own_bytes(in, PACK_NODES, e, bytes_out, length_out, err);
    return store_node_bytes(in->store, digest, group_out, bytes_out, length_out, err);
}

int ingest_node_read(struct ingest *in, const struct digest *digest, unsigned level,
                     struct map_node *out, struct error *err)
{
    _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
    char hex[DIGEST_HEX_SIZE];
    const uint8_t *bytes;
    size_t length;
    int r = ingest_node_bytes(in, digest, &g, &bytes, &length, err);

    if (r == 0)
        r = map_node_decode(bytes, length, out, err);
    if (r == 0 && out->level != level)
        return error_corrupt(err, "map node %s has level %u where the map needs level %u",
                             digest_hex(digest, hex), out->level, level);
    return r;
}

bool ingest_sees_node(struct ingest *in, const struct digest *digest)
{
    struct location at;

    return index_get(&in->nodes, node_id(digest)) != NULL ||
           packs_find(&in->store->packs, PACK_NODES, node_id(digest), false, 0, in->view, &at, 1) !=
               0;
}

bool ingest_owns(const struct ingest *in, enum pack_kind kind, struct page_ref id)
{
    return index_get(kind == PACK_PAGES ? &in->pages : &in->nodes, id) != NULL;
}

bool ingest_view_has_page(struct ingest *in, struct page_ref ref)
{
    struct location at;

    return packs_find(&in->store->packs, PACK_PAGES, ref, false, 0, in->view, &at, 1) != 0;
}

/* ---- nodes and blobs ---- */

/* Is there a good copy? A damaged one is as good as none: written again, the
 * store heals. */
static bool has_node(struct ingest *in, const struct digest *digest, const void *bytes,
                     size_t length)
{
    struct packs *packs = &in->store->packs;
    struct location at[NODE_COPIES_MAX];
    const uint8_t *stored;
    size_t stored_length;
    unsigned n;

    if (index_get(&in->nodes, node_id(digest)) != NULL)
        return true;
    n = packs_find(packs, PACK_NODES, node_id(digest), false, 0, in->view, at, NODE_COPIES_MAX);
    for (unsigned i = 0; i < n && i < NODE_COPIES_MAX; i++)
        if (packs_state(packs, at[i].pack) == PACK_LIVE &&
            packs_read_near(packs, &at[i], &in->near_store, &stored, &stored_length, NULL) == 0 &&
            stored_length == length && memcmp(stored, bytes, length) == 0)
            return true;
    return false;
}

int ingest_encoded_node(struct ingest *in, const void *bytes, size_t length,
                        const struct digest *digest, struct error *err)
{
    int r;

    if (has_node(in, digest, bytes, length))
        return 0;
    r = ingest_add_object(in, PACK_NODES, node_id(digest), bytes, length, false, err);
    if (r == 0)
        in->stats.nodes_new++;
    return r;
}

int ingest_node(struct ingest *in, const struct map_node *node, struct digest *digest_out,
                struct error *err)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    size_t length = map_node_encode(node, bytes);
    struct digest digest = digest_of(bytes, length);
    int r = ingest_encoded_node(in, bytes, length, &digest, err);

    if (r == 0)
        *digest_out = digest;
    return r;
}

bool ingest_has_blob(const struct ingest *in, const struct digest *digest)
{
    for (size_t i = 0; i < in->blob_count; i++)
        if (digest_equal(&in->blobs[i].digest, digest))
            return true;
    return false;
}

int ingest_blob(struct ingest *in, const void *data, size_t length, struct digest *digest_out,
                struct error *err)
{
    struct own_blob blob = {.digest = digest_of(data, length), .length = length};
    struct own_blob *list;

    if (!ingest_has_blob(in, &blob.digest)) {
        list = realloc(in->blobs, (in->blob_count + 1) * sizeof(*list));
        if (list == NULL)
            return error_errno(err, ENOMEM, "storing a blob");
        in->blobs = list;
        blob.data = malloc(length + 1);
        if (blob.data == NULL)
            return error_errno(err, ENOMEM, "storing a blob");
        if (length != 0)
            memcpy(blob.data, data, length);
        in->blobs[in->blob_count++] = blob;
    }
    *digest_out = blob.digest;
    return 0;
}
