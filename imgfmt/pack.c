/* SPDX-License-Identifier: Apache-2.0 */
/* Reading packs: every byte may be an enemy's. The layout is in pack_layout.h. */
/* For XXH3's state on the stack. */
#define XXH_STATIC_LINKING_ONLY
#include "imgfmt/pack.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/map.h"
#include "imgfmt/pack_layout.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <xxhash.h>
#include <zstd.h>

void pack_index_free(struct pack_index *index)
{
    if (index == NULL)
        return;
    free(index->groups);
    free(index->objects);
    free(index);
}

DEFINE_CLEANUP(struct pack_index, pack_index_free)

static bool all_zero(const uint8_t *p, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* ---- trailer and header ---- */

static int check_file_size(const char *name, uint64_t file_bytes, struct error *err)
{
    if (file_bytes < PACK_HEADER_SIZE + PACK_TRAILER_SIZE)
        return error_corrupt(err, "pack %s: %llu bytes are too few for a pack", name,
                             (unsigned long long)file_bytes);
    if (file_bytes > PACK_MAX_SIZE)
        return error_corrupt(err, "pack %s: %llu bytes are more than a pack may have", name,
                             (unsigned long long)file_bytes);
    return 0;
}

/* A pack has parity or not; if so, not so little that finding damage by trial takes
 * long, and not more than there is to protect. */
static bool parity_fits(const struct pack_trailer *t)
{
    uint64_t stream = t->data_end + t->footer_length;

    if (t->parity_length == 0)
        return t->parity_checksum == 0;
    return t->parity_length <= PACK_PARITY_MAX && t->parity_length <= stream &&
           t->parity_length >= min_u64(stream, PACK_PARITY_MIN);
}

static int check_footer_place(const char *name, uint64_t end, struct pack_trailer *t,
                              struct error *err)
{
    uint64_t between = t->parity_length == 0 ? 0 : (uint64_t)t->parity_length + PACK_TRAILER_SIZE;

    if (t->footer_offset > end || t->footer_length != end - t->footer_offset ||
        t->footer_offset < PACK_HEADER_SIZE + between)
        return error_corrupt(
            err, "pack %s: footer of %llu bytes at offset %llu is not in its place", name,
            (unsigned long long)t->footer_length, (unsigned long long)t->footer_offset);
    t->data_end = t->footer_offset - between;
    if (!parity_fits(t))
        return error_corrupt(err, "pack %s: parity of %u bytes is not what it can have", name,
                             t->parity_length);
    if (t->footer_length != pack_footer_size(t->group_count, t->object_count))
        return error_corrupt(err, "pack %s: footer of %llu bytes for %u groups and %u objects",
                             name, (unsigned long long)t->footer_length, t->group_count,
                             t->object_count);
    return 0;
}

int pack_trailer_decode(const char *name, uint64_t file_bytes, const uint8_t *p,
                        struct pack_trailer *out, struct error *err)
{
    struct pack_trailer t = {
        .footer_offset = load_le64(p + TRAILER_FOOTER_OFFSET),
        .footer_length = load_le64(p + TRAILER_FOOTER_LENGTH),
        .group_count = load_le32(p + TRAILER_GROUPS),
        .object_count = load_le32(p + TRAILER_OBJECTS),
        .parity_length = load_le32(p + TRAILER_PARITY),
        .parity_checksum = load_le64(p + TRAILER_PARITY_CHECKSUM),
        .checksum = load_le64(p + TRAILER_CHECKSUM),
    };

    int r = check_file_size(name, file_bytes, err);
    if (r < 0)
        return r;
    uint64_t end = file_bytes - PACK_TRAILER_SIZE;
    if (memcmp(p + TRAILER_MAGIC, PACK_END_MAGIC, PACK_MAGIC_SIZE) != 0)
        return error_corrupt(err, "pack %s: no end mark at offset %llu (cut short?)", name,
                             (unsigned long long)(end + TRAILER_MAGIC));
    if (load_le32(p + TRAILER_RESERVED) != 0)
        return error_corrupt(err, "pack %s: reserved bytes of the trailer are not zero", name);
    r = check_footer_place(name, end, &t, err);
    if (r < 0)
        return r;
    *out = t;
    return 0;
}

int pack_footer_offset(const char *name, uint64_t file_bytes, const void *trailer,
                       uint64_t *offset_out, struct error *err)
{
    struct pack_trailer t;

    int r = pack_trailer_decode(name, file_bytes, trailer, &t, err);
    if (r < 0)
        return r;
    *offset_out = t.footer_offset;
    return 0;
}

static int too_new(const char *name, const char *what, uint32_t value, struct error *err)
{
    error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
              "pack %s: %s %#x, which this program cannot read", name, what, value);
    error_hint(err, "a newer stasis wrote it: update this one");
    return -EPROTONOSUPPORT;
}

/* The checksum has been verified: what is odd here was written so. */
static int decode_header(const char *name, const uint8_t *p, struct pack_index *index,
                         struct error *err)
{
    uint32_t version = load_le32(p + HEADER_VERSION);
    uint32_t kind = load_le32(p + HEADER_KIND);
    uint32_t incompat = load_le32(p + HEADER_INCOMPAT);

    if (version != PACK_VERSION)
        return too_new(name, "version", version, err);
    if ((incompat & ~PACK_INCOMPAT_KNOWN) != 0)
        return too_new(name, "incompatible features", incompat, err);
    if (kind != PACK_PAGES && kind != PACK_NODES)
        return error_corrupt(err, "pack %s: unknown kind %u", name, kind);
    if (!all_zero(p + HEADER_RESERVED, PACK_HEADER_SIZE - HEADER_RESERVED))
        return error_corrupt(err, "pack %s: reserved bytes of the header are not zero", name);
    index->kind = kind;
    memcpy(index->id, p + HEADER_ID, PACK_ID_SIZE);
    return 0;
}

uint64_t pack_checksum(const uint8_t *header, const uint8_t *footer, uint64_t footer_length,
                       const uint8_t *trailer)
{
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, header, PACK_HEADER_SIZE);
    XXH3_64bits_update(&state, footer, footer_length);
    XXH3_64bits_update(&state, trailer, TRAILER_CHECKSUM);
    return XXH3_64bits_digest(&state);
}

/* ---- footer ---- */

static bool object_count_fits(enum pack_kind kind, const struct pack_group *g)
{
    if (g->object_count == 0 || g->object_count > PACK_GROUP_OBJECTS_MAX)
        return false;
    if (kind == PACK_PAGES)
        return g->raw_bytes == (uint32_t)g->object_count * STASIS_PAGE_SIZE;
    return g->raw_bytes >= (uint32_t)g->object_count * MAP_NODE_HEADER_SIZE &&
           g->raw_bytes <= (uint32_t)g->object_count * MAP_NODE_MAX_SIZE;
}

static bool stored_bytes_fit(const struct pack_group *g)
{
    switch (g->codec) {
    case PACK_RAW:
        return g->stored_bytes == g->raw_bytes;
    case PACK_ZSTD:
        return g->stored_bytes > 0 && g->stored_bytes < g->raw_bytes;
    default:
        return false;
    }
}

static int decode_entry(const char *name, enum pack_kind kind, const uint8_t *p, uint32_t number,
                        struct pack_group *out, struct error *err)
{
    struct pack_group g = {
        .offset = load_le64(p + ENTRY_OFFSET),
        .stored_bytes = load_le32(p + ENTRY_STORED),
        .raw_bytes = load_le32(p + ENTRY_RAW),
        .codec = p[ENTRY_CODEC],
        .object_count = load_le16(p + ENTRY_COUNT),
        .checksum = load_le64(p + ENTRY_CHECKSUM),
    };

    memcpy(g.digest.bytes, p + ENTRY_DIGEST, DIGEST_SIZE);
    if (p[ENTRY_RESERVED] != 0)
        return error_corrupt(err, "pack %s: group %u: reserved byte is not zero", name, number);
    if (g.raw_bytes > PACK_GROUP_RAW_MAX || !object_count_fits(kind, &g))
        return error_corrupt(err, "pack %s: group %u: %u objects in %u bytes", name, number,
                             g.object_count, g.raw_bytes);
    if (!stored_bytes_fit(&g))
        return error_corrupt(err, "pack %s: group %u: codec %u, %u bytes stored for %u", name,
                             number, g.codec, g.stored_bytes, g.raw_bytes);
    *out = g;
    return 0;
}

/* Groups must lie end to end from the header to the footer: none overlaps and no
 * byte of the file is unaccounted for. */
static int decode_groups(const char *name, const uint8_t *footer, const struct pack_trailer *t,
                         struct pack_index *index, struct error *err)
{
    uint64_t offset = PACK_HEADER_SIZE;
    uint64_t objects = 0;

    for (uint32_t i = 0; i < t->group_count; i++) {
        struct pack_group *g = &index->groups[i];
        int r = decode_entry(name, index->kind, footer + (size_t)i * PACK_ENTRY_SIZE, i, g, err);
        if (r < 0)
            return r;
        if (g->offset != offset || !range_fits(offset, g->stored_bytes, t->data_end))
            return error_corrupt(err, "pack %s: group %u of %u bytes cannot be at offset %llu",
                                 name, i, g->stored_bytes, (unsigned long long)g->offset);
        if (g->object_count > t->object_count - objects)
            return error_corrupt(err, "pack %s: group %u: more objects than the trailer says", name,
                                 i);
        g->first_object = (uint32_t)objects;
        objects += g->object_count;
        offset += g->stored_bytes;
    }
    if (offset != t->data_end || objects != t->object_count)
        return error_corrupt(err,
                             "pack %s: groups end at offset %llu with %llu objects, not %llu "
                             "with %u",
                             name, (unsigned long long)offset, (unsigned long long)objects,
                             (unsigned long long)t->data_end, t->object_count);
    return 0;
}

static int decode_objects(const char *name, const uint8_t *p, struct pack_index *index,
                          struct error *err)
{
    if (index->object_count > 0)
        memcpy(index->objects, p, (size_t)index->object_count * PACK_OBJECT_SIZE);
    if (index->kind != PACK_PAGES)
        return 0;
    for (uint32_t i = 0; i < index->object_count; i++)
        if (page_ref_is_zero(page_ref_load(index->objects[i].bytes)))
            return error_corrupt(err, "pack %s: object %u is the zero page", name, i);
    return 0;
}

/* They are the last of the footer. */
uint64_t pack_objects_offset(const struct pack_index *index)
{
    return index->file_bytes - PACK_TRAILER_SIZE - (uint64_t)index->object_count * PACK_OBJECT_SIZE;
}

int pack_index_decode(const char *name, uint64_t file_bytes, const void *header, const void *tail,
                      size_t tail_bytes, struct pack_index **out, struct error *err)
{
    const uint8_t *footer = tail;
    struct pack_trailer t;

    if (tail_bytes < PACK_TRAILER_SIZE)
        return error_corrupt(err, "pack %s: %zu bytes are too few for a trailer", name, tail_bytes);
    int r = pack_trailer_decode(name, file_bytes, footer + tail_bytes - PACK_TRAILER_SIZE, &t, err);
    if (r < 0)
        return r;
    if (t.footer_length != tail_bytes - PACK_TRAILER_SIZE)
        return error_corrupt(err, "pack %s: footer of %llu bytes, %zu given", name,
                             (unsigned long long)t.footer_length, tail_bytes - PACK_TRAILER_SIZE);
    if (memcmp(header, PACK_MAGIC, PACK_MAGIC_SIZE) != 0)
        return error_corrupt(err, "%s is not a pack", name);
    if (pack_checksum(header, footer, t.footer_length, footer + t.footer_length) != t.checksum)
        return error_corrupt(err, "pack %s: header or footer does not match its checksum", name);

    _cleanup_(pack_index_freep) struct pack_index *index = calloc(1, sizeof(*index));
    if (index == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    index->file_bytes = file_bytes;
    index->parity_bytes = t.parity_length;
    index->group_count = t.group_count;
    index->object_count = t.object_count;
    index->groups = calloc((size_t)t.group_count + 1, sizeof(*index->groups));
    index->objects = calloc((size_t)t.object_count + 1, sizeof(*index->objects));
    if (index->groups == NULL || index->objects == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    if ((r = decode_header(name, header, index, err)) < 0 ||
        (r = decode_groups(name, footer, &t, index, err)) < 0 ||
        (r = decode_objects(name, footer + (size_t)t.group_count * PACK_ENTRY_SIZE, index, err)) <
            0)
        return r;
    *out = steal_pointer(index);
    return 0;
}

/* -ENODATA is a file that shrank while it was read. */
static int read_part(int fd, const char *name, void *buf, size_t length, uint64_t offset,
                     struct error *err)
{
    int r = io_pread_full(fd, buf, length, offset);

    if (r == -ENODATA)
        return error_corrupt(err, "pack %s ends before offset %llu", name,
                             (unsigned long long)(offset + length));
    if (r < 0)
        return error_errno(err, -r, "cannot read pack %s at offset %llu", name,
                           (unsigned long long)offset);
    return 0;
}

int pack_index_read(int fd, const char *name, struct pack_index **out, struct error *err)
{
    uint8_t header[PACK_HEADER_SIZE];
    uint8_t trailer[PACK_TRAILER_SIZE];
    uint64_t offset;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot read pack %s", name);
    uint64_t size = (uint64_t)st.st_size;
    int r = check_file_size(name, size, err);
    if (r < 0)
        return r;
    if ((r = read_part(fd, name, trailer, sizeof(trailer), size - sizeof(trailer), err)) < 0 ||
        (r = pack_footer_offset(name, size, trailer, &offset, err)) < 0 ||
        (r = read_part(fd, name, header, sizeof(header), 0, err)) < 0)
        return r;
    size_t tail_bytes = (size_t)(size - offset);
    _cleanup_free_ uint8_t *tail = malloc(tail_bytes);
    if (tail == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    r = read_part(fd, name, tail, tail_bytes, offset, err);
    if (r < 0)
        return r;
    return pack_index_decode(name, size, header, tail, tail_bytes, out, err);
}

/* ---- groups ---- */

/* What a thread keeps between two groups: setting up zstd costs as much as
 * decompressing a page or two. */
struct scratch {
    ZSTD_DCtx *zstd;
    uint8_t *stored; /* PACK_GROUP_RAW_MAX bytes */
};

static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static pthread_key_t scratch_key;

static void scratch_free(void *p)
{
    struct scratch *s = p;

    if (s == NULL)
        return;
    ZSTD_freeDCtx(s->zstd);
    free(s->stored);
    free(s);
}

DEFINE_CLEANUP(struct scratch, scratch_free)

/* The main thread's is freed by nobody else. */
static void scratch_free_last(void)
{
    scratch_free(pthread_getspecific(scratch_key));
    pthread_setspecific(scratch_key, NULL);
}

static void scratch_init(void)
{
    if (pthread_key_create(&scratch_key, scratch_free) != 0)
        abort();
    atexit(scratch_free_last);
}

/* This thread's scratch, or NULL if memory is out. */
static struct scratch *scratch_get(void)
{
    pthread_once(&scratch_once, scratch_init);
    struct scratch *s = pthread_getspecific(scratch_key);
    if (s != NULL)
        return s;
    _cleanup_(scratch_freep) struct scratch *fresh = calloc(1, sizeof(*fresh));
    if (fresh == NULL)
        return NULL;
    fresh->zstd = ZSTD_createDCtx();
    fresh->stored = malloc(PACK_GROUP_RAW_MAX);
    if (fresh->zstd == NULL || fresh->stored == NULL ||
        pthread_setspecific(scratch_key, fresh) != 0)
        return NULL;
    return steal_pointer(fresh);
}

static int check_stored(const char *name, const struct pack_group *g, const void *stored,
                        struct error *err)
{
    if (XXH3_64bits(stored, g->stored_bytes) != g->checksum)
        return error_corrupt(err, "pack %s: group at offset %llu does not match its checksum", name,
                             (unsigned long long)g->offset);
    return 0;
}

static int decompress(const char *name, const struct pack_group *g, const void *stored,
                      ZSTD_DCtx *zstd, void *raw_out, struct error *err)
{
    /* The magic number keeps out what zstd would also take: frames of its early
     * versions, whose decoders nobody looks after, and skippable ones. */
    if (g->stored_bytes < sizeof(uint32_t) || load_le32(stored) != ZSTD_MAGICNUMBER ||
        ZSTD_getFrameContentSize(stored, g->stored_bytes) != g->raw_bytes ||
        ZSTD_findFrameCompressedSize(stored, g->stored_bytes) != g->stored_bytes)
        return error_corrupt(err, "pack %s: group at offset %llu is not one zstd frame of %u bytes",
                             name, (unsigned long long)g->offset, g->raw_bytes);
    size_t n = ZSTD_decompressDCtx(zstd, raw_out, g->raw_bytes, stored, g->stored_bytes);
    if (n != g->raw_bytes)
        return error_corrupt(err, "pack %s: group at offset %llu does not decompress: %s", name,
                             (unsigned long long)g->offset,
                             ZSTD_isError(n) ? ZSTD_getErrorName(n) : "wrong length");
    return 0;
}

int pack_group_decode(const char *name, const struct pack_group *group, const void *stored,
                      void *raw_out, struct error *err)
{
    int r = check_stored(name, group, stored, err);
    if (r < 0)
        return r;
    if (group->codec == PACK_RAW) {
        memcpy(raw_out, stored, group->raw_bytes);
        return 0;
    }
    struct scratch *s = scratch_get();
    if (s == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    return decompress(name, group, stored, s->zstd, raw_out, err);
}

int pack_group_read(int fd, const char *name, const struct pack_index *index, uint32_t group,
                    void *raw_out, struct error *err)
{
    if (group >= index->group_count)
        return error_corrupt(err, "pack %s has %u groups, none has number %u", name,
                             index->group_count, group);
    const struct pack_group *g = &index->groups[group];
    struct scratch *s = scratch_get();
    if (s == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    void *stored = g->codec == PACK_RAW ? raw_out : s->stored;
    int r = read_part(fd, name, stored, g->stored_bytes, g->offset, err);
    if (r == 0)
        r = check_stored(name, g, stored, err);
    if (r < 0 || g->codec == PACK_RAW)
        return r;
    return decompress(name, g, stored, s->zstd, raw_out, err);
}

int pack_group_check_digest(const char *name, const struct pack_group *group, const void *raw,
                            struct error *err)
{
    struct digest digest = digest_of(raw, group->raw_bytes);

    if (!digest_equal(&digest, &group->digest))
        return error_corrupt(err, "pack %s: group at offset %llu does not match its SHA-256", name,
                             (unsigned long long)group->offset);
    return 0;
}
