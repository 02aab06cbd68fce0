/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/map.h"
#include "imgfmt/pack_layout.h"

#include <errno.h>
#include <sys/random.h>
#include <xxhash.h>
#include <zstd.h>

struct pack_writer {
    int fd; /* not owned */
    int level;
    bool finished;
    uint64_t end; /* of the last group */
    uint8_t header[PACK_HEADER_SIZE];
    struct buffer tail; /* once it is finished: what stands behind the groups */
    struct pack_index index;
    uint32_t group_capacity;
    uint32_t object_capacity;
    bool protect;
    uint8_t *parity; /* so far, folded at PACK_PARITY_MAX */
    size_t parity_room;
    struct pack_encoder *encoder; /* for pack_writer_group(); from its first group on */
};

/* ---- encoding ---- */

struct pack_encoder {
    int level;
    ZSTD_CCtx *zstd;
    uint8_t *room; /* PACK_GROUP_RAW_MAX bytes, once somebody brings none */
};

void pack_encoder_free(struct pack_encoder *e)
{
    if (e == NULL)
        return;
    ZSTD_freeCCtx(e->zstd);
    free(e->room);
    free(e);
}

DEFINE_CLEANUP(struct pack_encoder, pack_encoder_free)

int pack_encoder_new(int level, struct pack_encoder **out, struct error *err)
{
    _cleanup_(pack_encoder_freep) struct pack_encoder *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return error_errno(err, ENOMEM, "cannot compress");
    e->level = level;
    e->zstd = ZSTD_createCCtx();
    if (e->zstd == NULL)
        return error_errno(err, ENOMEM, "cannot compress");
    *out = steal_pointer(e);
    return 0;
}

static int refuse_group(size_t raw_bytes, unsigned count, struct error *err)
{
    return error_set(err, STATUS_FAILED, EINVAL, "cannot put %u objects of %zu bytes into a pack",
                     count, raw_bytes);
}

int pack_group_encode(struct pack_encoder *e, const void *raw, size_t raw_bytes, unsigned count,
                      void *room, struct pack_encoded *out, struct error *err)
{
    if (raw_bytes == 0 || raw_bytes > PACK_GROUP_RAW_MAX || count == 0 ||
        count > PACK_GROUP_OBJECTS_MAX)
        return refuse_group(raw_bytes, count, err);
    if (e != NULL && room == NULL && e->room == NULL)
        e->room = malloc(PACK_GROUP_RAW_MAX);
    if (e != NULL && room == NULL)
        room = e->room;
    if (e != NULL && room == NULL)
        return error_errno(err, ENOMEM, "cannot compress");
    /* Too small a buffer makes zstd give up: exactly where raw is the better. */
    size_t n =
        e == NULL ? 0 : ZSTD_compressCCtx(e->zstd, room, raw_bytes - 1, raw, raw_bytes, e->level);
    bool is_raw = e == NULL || ZSTD_isError(n);

    *out = (struct pack_encoded){
        .stored = is_raw ? raw : room,
        .stored_bytes = (uint32_t)(is_raw ? raw_bytes : n),
        .raw_bytes = (uint32_t)raw_bytes,
        .codec = is_raw ? PACK_RAW : PACK_ZSTD,
        .object_count = (uint16_t)count,
        .digest = digest_of(raw, raw_bytes),
    };
    out->checksum = XXH3_64bits(out->stored, out->stored_bytes);
    return 0;
}

/* ---- the file ---- */

void pack_writer_free(struct pack_writer *w)
{
    if (w == NULL)
        return;
    pack_encoder_free(w->encoder);
    buffer_clear(&w->tail);
    free(w->parity);
    free(w->index.groups);
    free(w->index.objects);
    free(w);
}

DEFINE_CLEANUP(struct pack_writer, pack_writer_free)

static void encode_header(struct pack_writer *w)
{
    uint8_t *p = w->header;

    memcpy(p + HEADER_MAGIC, PACK_MAGIC, PACK_MAGIC_SIZE);
    store_le32(p + HEADER_VERSION, PACK_VERSION);
    store_le32(p + HEADER_KIND, w->index.kind);
    store_le32(p + HEADER_COMPAT, 0);
    store_le32(p + HEADER_INCOMPAT, 0);
    memcpy(p + HEADER_ID, w->index.id, PACK_ID_SIZE);
}

int pack_writer_open(int fd, enum pack_kind kind, int level, struct pack_writer **out,
                     struct error *err)
{
    _cleanup_(pack_writer_freep) struct pack_writer *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return error_errno(err, ENOMEM, "cannot start a pack");
    w->fd = fd;
    w->level = level;
    w->end = PACK_HEADER_SIZE;
    w->index.kind = kind;
    if (getrandom(w->index.id, sizeof(w->index.id), 0) != (ssize_t)sizeof(w->index.id))
        return error_errno(err, EIO, "cannot choose a pack id");
    encode_header(w);
    int r = io_pwrite_full(fd, w->header, sizeof(w->header), 0);
    if (r < 0)
        return error_errno(err, -r, "cannot write a pack");
    w->index.file_bytes = pack_writer_size(w);
    *out = steal_pointer(w);
    return 0;
}

int pack_writer_set_id(struct pack_writer *w, const uint8_t id[PACK_ID_SIZE], struct error *err)
{
    memcpy(w->index.id, id, PACK_ID_SIZE);
    encode_header(w);
    int r = io_pwrite_full(w->fd, w->header, sizeof(w->header), 0);
    return r < 0 ? error_errno(err, -r, "cannot write a pack") : 0;
}

int pack_writer_protect(struct pack_writer *w, struct error *err)
{
    if (w->index.group_count != 0)
        return error_set(err, STATUS_FAILED, EINVAL, "the pack has groups without parity");
    w->protect = true;
    return 0;
}

/* Room for the parity of a pack so long: most packs are small, and commits many. */
static int reserve_parity(struct pack_writer *w, uint64_t stream_bytes)
{
    size_t want = (size_t)min_u64(stream_bytes, PACK_PARITY_MAX);

    if (!w->protect || want <= w->parity_room)
        return 0;
    size_t room = (size_t)min_u64(max_u64(2 * w->parity_room, want), PACK_PARITY_MAX);
    uint8_t *grown = realloc(w->parity, room);
    if (grown == NULL)
        return -ENOMEM;
    memset(grown + w->parity_room, 0, room - w->parity_room);
    w->parity = grown;
    w->parity_room = room;
    return 0;
}

static uint32_t parity_length(const struct pack_writer *w, uint64_t end, uint64_t footer_length)
{
    return w->protect ? pack_parity_length(end + footer_length) : 0;
}

/* Of the file whose groups end there. */
static uint64_t finished_size(const struct pack_writer *w, uint64_t end, uint64_t footer_length)
{
    uint64_t parity = parity_length(w, end, footer_length);

    return end + (parity == 0 ? 0 : PACK_TRAILER_SIZE + parity) + footer_length + PACK_TRAILER_SIZE;
}

uint64_t pack_writer_size(const struct pack_writer *w)
{
    return finished_size(w, w->end, pack_footer_size(w->index.group_count, w->index.object_count));
}

const struct pack_index *pack_writer_index(const struct pack_writer *w)
{
    return &w->index;
}

/* Doubles an array until it holds want elements; its bytes stay below
 * PACK_MAX_SIZE, as the footer they become does. */
static int grow(void **array, uint32_t *capacity, uint32_t want, size_t element)
{
    if (want <= *capacity)
        return 0;
    uint32_t more = *capacity < 64 ? 64 : *capacity * 2;
    if (more < want)
        more = want;
    void *grown = realloc(*array, more * element);
    if (grown == NULL)
        return -ENOMEM;
    *array = grown;
    *capacity = more;
    return 0;
}

static int make_room(struct pack_writer *w, unsigned count)
{
    int r = grow((void **)&w->index.groups, &w->group_capacity, w->index.group_count + 1,
                 sizeof(*w->index.groups));
    if (r < 0)
        return r;
    return grow((void **)&w->index.objects, &w->object_capacity, w->index.object_count + count,
                sizeof(*w->index.objects));
}

/* What a reader of this kind of pack would refuse. */
static bool kind_allows(enum pack_kind kind, size_t raw_bytes, const struct pack_object_id *ids,
                        unsigned count)
{
    if (kind == PACK_NODES)
        return raw_bytes >= (size_t)count * MAP_NODE_HEADER_SIZE &&
               raw_bytes <= (size_t)count * MAP_NODE_MAX_SIZE;
    for (unsigned i = 0; i < count; i++)
        if (page_ref_is_zero(page_ref_load(ids[i].bytes)))
            return false;
    return raw_bytes == (size_t)count * STASIS_PAGE_SIZE;
}

int pack_writer_append(struct pack_writer *w, const struct pack_encoded *group,
                       const struct pack_object_id *ids, uint32_t *group_out, struct error *err)
{
    unsigned count = group->object_count;
    const struct pack_group g = {
        .offset = w->end,
        .stored_bytes = group->stored_bytes,
        .raw_bytes = group->raw_bytes,
        .codec = group->codec,
        .object_count = group->object_count,
        .first_object = w->index.object_count,
        .checksum = group->checksum,
        .digest = group->digest,
    };

    if (w->finished || !kind_allows(w->index.kind, g.raw_bytes, ids, count))
        return refuse_group(g.raw_bytes, count, err);
    if (make_room(w, count) < 0 || reserve_parity(w, w->end + g.stored_bytes) < 0)
        return error_errno(err, ENOMEM, "cannot extend a pack");
    if (finished_size(w, w->end + g.stored_bytes,
                      pack_footer_size(w->index.group_count + 1, w->index.object_count + count)) >
        PACK_MAX_SIZE)
        return error_set(err, STATUS_FAILED, EFBIG, "the pack is full");
    int r = io_pwrite_full(w->fd, group->stored, g.stored_bytes, g.offset);
    if (r < 0)
        return error_errno(err, -r, "cannot write a pack");
    if (w->protect)
        pack_parity_fold(w->parity, PACK_PARITY_MAX, w->end, group->stored, g.stored_bytes);

    memcpy(w->index.objects + g.first_object, ids, count * sizeof(*ids));
    *group_out = w->index.group_count;
    w->index.groups[w->index.group_count++] = g;
    w->index.object_count += count;
    w->end += g.stored_bytes;
    w->index.file_bytes = pack_writer_size(w);
    return 0;
}

int pack_writer_group(struct pack_writer *w, const void *raw, size_t raw_bytes,
                      const struct pack_object_id *ids, unsigned count, uint32_t *group_out,
                      struct error *err)
{
    struct pack_encoded group;

    int r = w->encoder == NULL ? pack_encoder_new(w->level, &w->encoder, err) : 0;
    if (r == 0)
        r = pack_group_encode(w->encoder, raw, raw_bytes, count, NULL, &group, err);
    return r < 0 ? r : pack_writer_append(w, &group, ids, group_out, err);
}

static int append_footer(const struct pack_index *index, struct buffer *buf)
{
    for (uint32_t i = 0; i < index->group_count; i++) {
        const struct pack_group *g = &index->groups[i];
        uint8_t p[PACK_ENTRY_SIZE] = {0};

        store_le64(p + ENTRY_OFFSET, g->offset);
        store_le32(p + ENTRY_STORED, g->stored_bytes);
        store_le32(p + ENTRY_RAW, g->raw_bytes);
        p[ENTRY_CODEC] = g->codec;
        store_le16(p + ENTRY_COUNT, g->object_count);
        store_le64(p + ENTRY_CHECKSUM, g->checksum);
        memcpy(p + ENTRY_DIGEST, g->digest.bytes, DIGEST_SIZE);
        int r = buffer_append(buf, p, sizeof(p));
        if (r < 0)
            return r;
    }
    return buffer_append(buf, index->objects, index->object_count * sizeof(*index->objects));
}

static void encode_trailer(const struct pack_writer *w, uint64_t footer_offset,
                           const uint8_t *footer, const uint8_t *parity, uint32_t parity_bytes,
                           uint8_t out[PACK_TRAILER_SIZE])
{
    uint64_t length = pack_footer_size(w->index.group_count, w->index.object_count);

    memset(out, 0, PACK_TRAILER_SIZE);
    store_le64(out + TRAILER_FOOTER_OFFSET, footer_offset);
    store_le64(out + TRAILER_FOOTER_LENGTH, length);
    store_le32(out + TRAILER_GROUPS, w->index.group_count);
    store_le32(out + TRAILER_OBJECTS, w->index.object_count);
    store_le32(out + TRAILER_PARITY, parity_bytes);
    if (parity_bytes != 0)
        store_le64(out + TRAILER_PARITY_CHECKSUM, XXH3_64bits(parity, parity_bytes));
    store_le64(out + TRAILER_CHECKSUM, pack_checksum(w->header, footer, length, out));
    memcpy(out + TRAILER_MAGIC, PACK_END_MAGIC, PACK_MAGIC_SIZE);
}

/* The parity as the file gets it: header and footer are folded in, then all of it to
 * its length. That is a half of the buffer, or a half of a half..., unless all of the
 * pack fits into the buffer. Then it is turned to begin with what the footer begins
 * with. */
static void encode_parity(const struct pack_writer *w, const struct buffer *footer, uint32_t length,
                          uint8_t *out)
{
    size_t used = (size_t)min_u64(w->end + footer->length, PACK_PARITY_MAX);
    size_t first = (size_t)(w->end % length);

    pack_parity_fold(w->parity, PACK_PARITY_MAX, 0, w->header, PACK_HEADER_SIZE);
    pack_parity_fold(w->parity, PACK_PARITY_MAX, w->end, footer->data, footer->length);
    if (used > length)
        pack_parity_fold(w->parity, length, length, w->parity + length, used - length);
    memcpy(out, w->parity + first, length - first);
    memcpy(out + length - first, w->parity, first);
}

/* What stands behind the groups: [trailer | parity] | footer | trailer. */
static int encode_tail(struct pack_writer *w, struct buffer *out)
{
    _cleanup_(buffer_clear) struct buffer footer = {0};
    int r = append_footer(&w->index, &footer);

    if (r == 0)
        r = reserve_parity(w, w->end + footer.length);
    uint32_t parity_bytes = parity_length(w, w->end, footer.length);
    uint64_t between = parity_bytes == 0 ? 0 : (uint64_t)parity_bytes + PACK_TRAILER_SIZE;

    if (r == 0)
        r = buffer_reserve(out, between + footer.length + PACK_TRAILER_SIZE);
    if (r < 0)
        return r;
    uint8_t *parity = out->data + PACK_TRAILER_SIZE;
    uint8_t *trailer = out->data + between + footer.length;

    if (parity_bytes != 0)
        encode_parity(w, &footer, parity_bytes, parity);
    if (footer.length != 0)
        memcpy(out->data + between, footer.data, footer.length);
    encode_trailer(w, w->end + between, footer.data, parity, parity_bytes, trailer);
    if (parity_bytes != 0)
        memcpy(out->data, trailer, PACK_TRAILER_SIZE);
    out->length = between + footer.length + PACK_TRAILER_SIZE;
    return 0;
}

int pack_writer_finish(struct pack_writer *w, struct error *err)
{
    int r = w->finished ? 0 : encode_tail(w, &w->tail);

    if (r == 0) {
        /* Encoding it folds the parity, which can be done once. What fails to be
         * written can be written again. */
        w->finished = true;
        r = io_pwrite_full(w->fd, w->tail.data, w->tail.length, w->end);
    }
    if (r < 0)
        return error_errno(err, -r, "cannot finish a pack");
    w->index.parity_bytes =
        parity_length(w, w->end, pack_footer_size(w->index.group_count, w->index.object_count));
    return 0;
}
