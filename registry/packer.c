/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/packer.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>

/* Made once, read many times and over a network: worth a better ratio. */
#define PUBLISHED_ZSTD_LEVEL 3
#define ID_LABEL "stasis published pack 1"

struct packer {
    enum pack_kind kind;
    struct packer_sink sink;
    unsigned group_max; /* objects in a group */
    /* the open pack */
    int fd;
    struct pack_writer *writer;
    /* the open group */
    uint8_t *raw; /* PACK_GROUP_RAW_MAX bytes */
    size_t raw_bytes;
    unsigned count;
    struct pack_object_id ids[PACK_GROUP_OBJECTS_MAX];
};

DEFINE_CLEANUP(struct digest_stream, digest_stream_free)
DEFINE_CLEANUP(struct packer, packer_free)

static void close_pack(struct packer *p)
{
    pack_writer_free(steal_pointer(p->writer));
    if (p->fd >= 0)
        close(steal_fd(&p->fd));
}

void packer_free(struct packer *p)
{
    if (p == NULL)
        return;
    close_pack(p);
    free(p->raw);
    free(p);
}

int packer_new(enum pack_kind kind, const struct packer_sink *sink, struct packer **out,
               struct error *err)
{
    _cleanup_(packer_freep) struct packer *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return error_errno(err, ENOMEM, "cannot pack the checkpoint");
    p->kind = kind;
    p->sink = *sink;
    p->fd = -1;
    p->group_max = kind == PACK_PAGES ? PACK_PUBLISHED_GROUP_PAGES : PACK_GROUP_OBJECTS_MAX;
    p->raw = malloc(PACK_GROUP_RAW_MAX);
    if (p->raw == NULL)
        return error_errno(err, ENOMEM, "cannot pack the checkpoint");
    *out = steal_pointer(p);
    return 0;
}

/* The id says what is in the pack: which objects, in which groups. */
static void derive_id(const struct pack_index *index, uint8_t id[PACK_ID_SIZE])
{
    _cleanup_(digest_stream_freep) struct digest_stream *sum = digest_stream_new();
    uint8_t kind[4];

    store_le32(kind, index->kind);
    digest_stream_update(sum, ID_LABEL, sizeof(ID_LABEL));
    digest_stream_update(sum, kind, sizeof(kind));
    for (uint32_t i = 0; i < index->group_count; i++)
        digest_stream_update(sum, index->groups[i].digest.bytes, DIGEST_SIZE);
    digest_stream_update(sum, index->objects,
                         (size_t)index->object_count * sizeof(*index->objects));
    struct digest d = digest_stream_peek(sum);
    memcpy(id, d.bytes, PACK_ID_SIZE);
}

static int finish_pack(struct packer *p, struct error *err)
{
    uint8_t id[PACK_ID_SIZE];

    derive_id(pack_writer_index(p->writer), id);
    int r = pack_writer_set_id(p->writer, id, err);
    if (r < 0)
        return r;
    r = pack_writer_finish(p->writer, err);
    if (r < 0)
        return r;
    r = p->sink.finished(p->sink.context, p->fd, err);
    close_pack(p);
    return r;
}

static int open_pack(struct packer *p, struct error *err)
{
    int r = p->sink.open(p->sink.context, &p->fd, err);

    if (r < 0)
        return r;
    return pack_writer_open(p->fd, p->kind, PUBLISHED_ZSTD_LEVEL, &p->writer, err);
}

/* Could this pack be full? Files have limits of their own (RLIMIT_FSIZE), which
 * fail with the same errno: a pack that has room is not blamed for them. */
static bool may_be_full(const struct packer *p)
{
    const uint64_t most = PACK_GROUP_RAW_MAX + PACK_GROUP_OBJECTS_MAX * sizeof(*p->ids) + 4096;

    return pack_writer_size(p->writer) + most > PACK_MAX_SIZE;
}

static int write_group(struct packer *p, struct error *err)
{
    uint32_t group;

    return pack_writer_group(p->writer, p->raw, p->raw_bytes, p->ids, p->count, &group, err);
}

static int flush_group(struct packer *p, struct error *err)
{
    int r = 0;

    if (p->count == 0)
        return 0;
    if (p->writer == NULL)
        r = open_pack(p, err);
    if (r == 0)
        r = write_group(p, err);
    if (r == -EFBIG && may_be_full(p)) { /* this pack is full: the group begins the next one */
        r = finish_pack(p, err);
        if (r == 0)
            r = open_pack(p, err);
        if (r == 0)
            r = write_group(p, err);
    }
    if (r < 0)
        return r;
    p->count = 0;
    p->raw_bytes = 0;
    return 0;
}

int packer_add(struct packer *p, const struct pack_object_id *id, const void *bytes, size_t length,
               struct error *err)
{
    if (p->count == p->group_max || p->raw_bytes + length > PACK_GROUP_RAW_MAX) {
        int r = flush_group(p, err);
        if (r < 0)
            return r;
    }
    memcpy(p->raw + p->raw_bytes, bytes, length);
    p->raw_bytes += length;
    p->ids[p->count++] = *id;
    return 0;
}

int packer_finish(struct packer *p, struct error *err)
{
    int r = flush_group(p, err);

    return r < 0 || p->writer == NULL ? r : finish_pack(p, err);
}
