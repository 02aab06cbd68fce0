/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing sparse packs again. Objects keep their ids, so maps need not change. Bytes
 * are checked on the way: a pack that cannot be read where it is needed stays as it
 * is, for whoever can repair it.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/map.h"
#include "store/gc_private.h"

#include <errno.h>
#include <fcntl.h>

#define COMPACT_ZSTD_LEVEL 1
#define GROUP_RAW_BYTES (PACK_HOT_GROUP_PAGES * STASIS_PAGE_SIZE)

enum { COPIES_MAX = 16 };

struct new_pack {
    int fd; /* locked until the end */
    char name[PACK_NAME_SIZE];
    struct pack_index *index; /* from when it is finished */
};

/* What is being filled; one for each kind of object. */
struct stream {
    enum pack_kind kind;
    struct pack_writer *writer; /* NULL: none is open */
    size_t pack;                /* the writer's, if there is one */
    uint8_t *raw;
    size_t used;
    struct pack_object_id ids[PACK_GROUP_OBJECTS_MAX];
    unsigned count;
    struct index copied; /* what we have written already */
};

struct compaction {
    struct marks *marks;
    struct new_pack *packs;
    size_t pack_count;
    struct stream streams[2];
    uint64_t bytes; /* of finished packs */
    bool keep;
    struct cached_group *near;
};

DEFINE_CLEANUP(struct compaction, compaction_free)
DEFINE_CLEANUP(struct pack_index, pack_index_free)

int compaction_begin(struct marks *m, struct compaction **out, struct error *err)
{
    _cleanup_(compaction_freep) struct compaction *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return error_errno(err, ENOMEM, "writing packs again");
    c->marks = m;
    c->streams[0].kind = PACK_PAGES;
    c->streams[1].kind = PACK_NODES;
    for (unsigned i = 0; i < ARRAY_LEN(c->streams); i++) {
        c->streams[i].raw = malloc(GROUP_RAW_BYTES);
        if (c->streams[i].raw == NULL)
            return error_errno(err, ENOMEM, "writing packs again");
    }
    *out = steal_pointer(c);
    return 0;
}

void compaction_free(struct compaction *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->pack_count; i++) {
        if (!c->keep)
            unlinkat(c->marks->store->packs_dirfd, c->packs[i].name, 0);
        close(c->packs[i].fd);
        pack_index_free(c->packs[i].index);
    }
    for (unsigned i = 0; i < ARRAY_LEN(c->streams); i++) {
        pack_writer_free(c->streams[i].writer);
        free(c->streams[i].raw);
        index_clear(&c->streams[i].copied);
    }
    free(c->packs);
    cached_group_release(c->near);
    free(c);
}

void compaction_keep(struct compaction *c)
{
    c->keep = true;
}

uint64_t compaction_bytes(const struct compaction *c)
{
    uint64_t bytes = c->bytes;

    for (unsigned i = 0; i < ARRAY_LEN(c->streams); i++)
        if (c->streams[i].writer != NULL)
            bytes += pack_writer_size(c->streams[i].writer);
    return bytes;
}

/* ---- writing ---- */

static int open_pack(struct compaction *c, struct stream *s, struct error *err)
{
    struct new_pack *list = reallocarray(c->packs, c->pack_count + 1, sizeof(*list));
    struct new_pack pack = {.fd = -1};

    if (list == NULL)
        return error_errno(err, ENOMEM, "writing packs again");
    c->packs = list;
    pack.fd = store_create_pack(c->marks->store, pack.name, err);
    if (pack.fd < 0)
        return pack.fd;
    s->pack = c->pack_count;
    c->packs[c->pack_count++] = pack;
    int r = pack_writer_open(pack.fd, s->kind, COMPACT_ZSTD_LEVEL, &s->writer, err);
    return r < 0 ? r : pack_writer_protect(s->writer, err);
}

static int close_pack(struct compaction *c, struct stream *s, struct error *err)
{
    struct new_pack *pack;
    int r = s->writer != NULL ? pack_writer_finish(s->writer, err) : 0;

    if (r < 0 || s->writer == NULL)
        return r;
    pack = &c->packs[s->pack];
    pack_writer_free(steal_pointer(s->writer));
    r = pack_index_read(pack->fd, pack->name, &pack->index, err);
    if (r == 0)
        c->bytes += pack->index->file_bytes;
    return r;
}

static int flush_group(struct compaction *c, struct stream *s, struct error *err)
{
    uint32_t number;
    int r = -EFBIG;

    if (s->count == 0)
        return 0;
    if (s->writer != NULL)
        r = pack_writer_group(s->writer, s->raw, s->used, s->ids, s->count, &number, err);
    if (r == -EFBIG) {
        r = close_pack(c, s, err);
        if (r == 0)
            r = open_pack(c, s, err);
        if (r == 0)
            r = pack_writer_group(s->writer, s->raw, s->used, s->ids, s->count, &number, err);
    }
    if (r < 0)
        return r;
    s->count = 0;
    s->used = 0;
    return 0;
}

static int put_object(struct compaction *c, struct stream *s, struct page_ref id,
                      const uint8_t *bytes, size_t length, struct error *err)
{
    unsigned limit = s->kind == PACK_PAGES ? PACK_HOT_GROUP_PAGES : PACK_GROUP_OBJECTS_MAX;
    int r = 0;

    if (s->count == limit || s->used + length > GROUP_RAW_BYTES)
        r = flush_group(c, s, err);
    if (r == 0 && index_add(&s->copied, id, 0, 0) < 0)
        r = error_errno(err, ENOMEM, "writing packs again");
    if (r < 0)
        return r;
    memcpy(s->raw + s->used, bytes, length);
    page_ref_store(id, s->ids[s->count++].bytes);
    s->used += length;
    return 0;
}

/* ---- reading ---- */

struct source {
    struct gc_pack *pack;
    struct pack_index *index;
    char name[PACK_NAME_SIZE];
    int fd;
    uint8_t *raw;
};

static bool is_the_object(enum pack_kind kind, struct page_ref id, const uint8_t *bytes,
                          size_t length)
{
    struct digest digest;

    if (kind == PACK_PAGES)
        return page_ref_same_key(page_ref_of(bytes), id);
    digest = digest_of(bytes, length);
    return page_ref_equal(node_id(&digest), id);
}

/* Is there the same object, readable, in a pack that stays? */
static bool is_elsewhere(struct compaction *c, const struct source *from, struct page_ref id,
                         const uint8_t *bytes, size_t length)
{
    struct packs *packs = &c->marks->store->packs;
    struct location at[COPIES_MAX];
    enum pack_kind kind = from->pack->kind;
    unsigned n = packs_find(packs, kind, id, false, 0, UINT32_MAX, at, COPIES_MAX);

    if (index_get(&c->streams[kind == PACK_PAGES ? 0 : 1].copied, id) != NULL)
        return true;
    for (unsigned i = 0; i < n && i < COPIES_MAX; i++) {
        const struct gc_pack *other =
            at[i].pack < c->marks->count ? &c->marks->packs[at[i].pack] : NULL;
        const uint8_t *theirs;
        size_t their_length;

        if (other == from->pack || (other != NULL && (other->victim || other->condemned)) ||
            packs_state(packs, at[i].pack) != PACK_LIVE)
            continue;
        if (packs_read_near(packs, &at[i], &c->near, &theirs, &their_length, NULL) == 0 &&
            their_length == length && memcmp(theirs, bytes, length) == 0)
            return true;
    }
    return false;
}

static bool is_needed(const struct gc_pack *pack, uint32_t object)
{
    return pack->bits != NULL && (pack->bits[object / 8] >> object % 8 & 1) != 0;
}

static bool group_is_needed(const struct source *from, const struct pack_group *g)
{
    for (uint32_t i = 0; i < g->object_count; i++)
        if (is_needed(from->pack, g->first_object + i))
            return true;
    return false;
}

/* The length of the object at offset of the group, or 0 if it is not there. */
static size_t object_length(const struct source *from, const struct pack_group *g, size_t offset)
{
    size_t left = g->raw_bytes - min_u64(offset, g->raw_bytes);
    size_t length = from->pack->kind == PACK_PAGES ? STASIS_PAGE_SIZE
                                                   : map_node_length(from->raw + offset, left);

    return length <= left ? length : 0;
}

/* -EBADMSG, without a message: the group is damaged. */
static int copy_group(struct compaction *c, const struct source *from, uint32_t group,
                      struct error *err)
{
    const struct pack_group *g = &from->index->groups[group];
    struct stream *s = &c->streams[from->pack->kind == PACK_PAGES ? 0 : 1];
    size_t offset = 0;
    int r = 0;

    if (pack_group_read(from->fd, from->name, from->index, group, from->raw, NULL) < 0)
        return -EBADMSG;
    for (uint32_t i = 0; r == 0 && i < g->object_count; i++) {
        struct page_ref id = page_ref_load(from->index->objects[g->first_object + i].bytes);
        size_t length = object_length(from, g, offset);
        const uint8_t *bytes = from->raw + offset;

        if (length == 0)
            return -EBADMSG;
        offset += length;
        if (!is_needed(from->pack, g->first_object + i))
            continue;
        if (!is_the_object(from->pack->kind, id, bytes, length))
            return -EBADMSG;
        if (!is_elsewhere(c, from, id, bytes, length))
            r = put_object(c, s, id, bytes, length, err);
    }
    return r;
}

static int copy_groups(struct compaction *c, const struct source *from, struct error *err)
{
    int r = 0;

    if (from->index->object_count != from->pack->objects || from->index->kind != from->pack->kind)
        return -EBADMSG;
    for (uint32_t g = 0; r == 0 && g < from->index->group_count; g++)
        if (group_is_needed(from, &from->index->groups[g]))
            r = copy_group(c, from, g, err);
    return r;
}

int compaction_add(struct compaction *c, struct gc_pack *pack, struct error *err)
{
    struct source from = {.pack = pack};
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);
    _cleanup_close_ int fd = -1;
    int r;

    packs_name(pack->id, from.name);
    if (raw == NULL)
        return error_errno(err, ENOMEM, "writing packs again");
    fd = openat(c->marks->store->dirfd, from.name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pack_index_read(fd, from.name, &index, NULL) < 0)
        return 0;
    from.fd = fd;
    from.index = index;
    from.raw = raw;
    r = copy_groups(c, &from, err);
    pack->victim = r == 0;
    return r == -EBADMSG ? 0 : r;
}

/* ---- the end ---- */

int compaction_seal(struct compaction *c, struct error *err)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(c->streams); i++) {
        r = flush_group(c, &c->streams[i], err);
        if (r == 0)
            r = close_pack(c, &c->streams[i], err);
    }
    for (size_t i = 0; r == 0 && i < c->pack_count; i++)
        r = store_seal_pack(c->marks->store, c->packs[i].fd, c->packs[i].index->id,
                            c->packs[i].name, err);
    if (r < 0 || c->pack_count == 0)
        return r;
    r = io_sync_dir(c->marks->store->packs_dirfd);
    return r < 0 ? error_errno(err, -r, "writing the store's directory of packs") : 0;
}

int compaction_list_locked(struct compaction *c, struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < c->pack_count; i++)
        r = store_insert_pack(&c->marks->store->db, c->packs[i].index, err);
    return r;
}
