/* SPDX-License-Identifier: Apache-2.0 */
#include "imgfmt/pack_mend.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/pack_layout.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <xxhash.h>

/* How many stretches of damage, and how many things that look like a trailer, are
 * looked at: more than any accident leaves, and few enough to be quick. */
enum { RUNS_MAX = 16, TRAILERS_MAX = 16 };

/* Damage closer together than this is one stretch. */
#define RUN_GAP 64u

struct pack_mend {
    const char *name; /* the caller's, during pack_mend_begin(); then owned_name */
    char *owned_name;
    uint8_t *data;
    size_t length;
    struct pack_trailer trailer;
    const uint8_t *trailer_bytes; /* while it is being looked for */
    struct pack_index *index;
    uint8_t *difference; /* folded, parity_length bytes; NULL until it is needed */
    bool *lost;          /* by group */
    struct pack_damage *damage;
    size_t damage_count;
    size_t damage_capacity;
};

/* A stretch of a pack that one checksum vouches for. */
struct part {
    uint64_t position; /* of its first byte in the parity */
    uint8_t *bytes;
    uint64_t length;
    bool (*is_good)(const struct pack_mend *m, const struct part *part);
    uint32_t group;
};

DEFINE_CLEANUP(struct pack_mend, pack_mend_free)

void pack_mend_free(struct pack_mend *m)
{
    if (m == NULL)
        return;
    pack_index_free(m->index);
    free(m->owned_name);
    free(m->data);
    free(m->difference);
    free(m->lost);
    free(m->damage);
    free(m);
}

const struct pack_index *pack_mend_index(const struct pack_mend *m)
{
    return m->index;
}

const struct pack_damage *pack_mend_damage(const struct pack_mend *m, size_t *count_out)
{
    *count_out = m->damage_count;
    return m->damage;
}

const uint8_t *pack_mend_bytes(const struct pack_mend *m, size_t *length_out)
{
    *length_out = m->length;
    return m->data;
}

bool pack_mend_is_whole(const struct pack_mend *m)
{
    for (size_t i = 0; i < m->damage_count; i++)
        if (!m->damage[i].mended)
            return false;
    return true;
}

static int out_of_memory(const struct pack_mend *m, struct error *err)
{
    return error_errno(err, ENOMEM, "cannot read pack %s", m->name);
}

static int note(struct pack_mend *m, const char *what, uint64_t offset, uint64_t length,
                uint32_t group, bool mended, struct error *err)
{
    if (m->damage_count == m->damage_capacity) {
        size_t capacity = m->damage_capacity * 2 + 4;
        struct pack_damage *list = reallocarray(m->damage, capacity, sizeof(*list));

        if (list == NULL)
            return out_of_memory(m, err);
        m->damage = list;
        m->damage_capacity = capacity;
    }
    m->damage[m->damage_count++] = (struct pack_damage){offset, length, what, group, mended};
    return 0;
}

/* ---- where things are, once the trailer is known ---- */

static uint8_t *footer_of(const struct pack_mend *m)
{
    return m->data + m->trailer.footer_offset;
}

static uint8_t *end_trailer_of(const struct pack_mend *m)
{
    return footer_of(m) + m->trailer.footer_length;
}

static uint8_t *first_trailer_of(const struct pack_mend *m)
{
    return m->data + m->trailer.data_end;
}

static uint8_t *parity_of(const struct pack_mend *m)
{
    return first_trailer_of(m) + PACK_TRAILER_SIZE;
}

/* ---- the difference between the parity and what is there ---- */

/* Which byte of the parity stands for a byte in front of the groups' end. */
static uint64_t folded(const struct pack_mend *m, uint64_t offset)
{
    uint64_t period = m->trailer.parity_length;

    return period == 0 ? 0 : (offset + period - m->trailer.data_end % period) % period;
}

static int find_difference(struct pack_mend *m, struct error *err)
{
    const struct pack_trailer *t = &m->trailer;

    free(m->difference);
    m->difference = malloc(t->parity_length);
    if (m->difference == NULL)
        return out_of_memory(m, err);
    memcpy(m->difference, parity_of(m), t->parity_length);
    pack_parity_fold(m->difference, t->parity_length, folded(m, 0), m->data, t->data_end);
    pack_parity_fold(m->difference, t->parity_length, 0, footer_of(m), t->footer_length);
    return 0;
}

/* Changes [offset, offset + length) of the part, at most a period, by the
 * difference; a second time takes it back. */
static void apply(const struct pack_mend *m, const struct part *part, uint64_t offset,
                  uint64_t length)
{
    uint32_t period = m->trailer.parity_length;
    size_t at = (size_t)((part->position + offset) % period);

    for (uint64_t i = 0; i < length; i++) {
        part->bytes[offset + i] ^= m->difference[at];
        at = at + 1 == period ? 0 : at + 1;
    }
}

/* What has been put right is no difference any more. */
static void settle(struct pack_mend *m, const struct part *part, uint64_t offset, uint64_t length)
{
    uint32_t period = m->trailer.parity_length;

    for (uint64_t i = 0; i < length; i++)
        m->difference[(part->position + offset + i) % period] = 0;
}

static bool try_at(struct pack_mend *m, const struct part *part, uint64_t offset, uint64_t length)
{
    apply(m, part, offset, length);
    if (!part->is_good(m, part)) {
        apply(m, part, offset, length);
        return false;
    }
    settle(m, part, offset, length);
    return true;
}

/* Everything the difference says within a window: of the whole part, or where it is
 * longer than the parity, of windows that overlap by half. */
static bool try_windows(struct pack_mend *m, const struct part *part)
{
    uint64_t period = m->trailer.parity_length;
    uint64_t step = period > 1 ? period / 2 : 1;

    for (uint64_t offset = 0;; offset += step) {
        if (try_at(m, part, offset, min_u64(period, part->length - offset)))
            return true;
        if (offset + period >= part->length)
            return false;
    }
}

/* One stretch of the difference wherever it may fall into the part. */
static bool try_run(struct pack_mend *m, const struct part *part, uint64_t run, uint64_t length)
{
    uint64_t period = m->trailer.parity_length;
    /* The first place at or behind the part's first byte, then one period before. */
    uint64_t first = (run + period - part->position % period) % period;

    if (first != 0 && first + length > period &&
        try_at(m, part, 0, min_u64(first + length - period, part->length)))
        return true;
    for (uint64_t at = first; at < part->length; at += period)
        if (try_at(m, part, at, min_u64(length, part->length - at)))
            return true;
    return false;
}

struct run {
    uint64_t start;
    uint64_t length;
};

/* The next stretch of the difference at or behind `from`; false if there is none. */
static bool next_run(const struct pack_mend *m, uint64_t from, struct run *out)
{
    uint64_t period = m->trailer.parity_length, end;

    while (from < period && m->difference[from] == 0)
        from++;
    if (from == period)
        return false;
    end = from + 1;
    for (uint64_t i = end; i < period && i - end <= RUN_GAP; i++)
        if (m->difference[i] != 0)
            end = i + 1;
    *out = (struct run){from, end - from};
    return true;
}

/* Lists them. Folded, one stretch may end where it begins again at the start. */
static unsigned find_runs(const struct pack_mend *m, struct run list[RUNS_MAX])
{
    uint64_t period = m->trailer.parity_length, from = 0;
    unsigned count = 0;

    while (count < RUNS_MAX && next_run(m, from, &list[count])) {
        from = list[count].start + list[count].length;
        count++;
    }
    if (count > 1 && list[0].start + period - from <= RUN_GAP) {
        list[0].length += list[0].start + period - list[count - 1].start;
        list[0].start = list[count - 1].start;
        count--;
    }
    return count;
}

static bool try_runs(struct pack_mend *m, const struct part *part)
{
    struct run list[RUNS_MAX];
    unsigned count = find_runs(m, list);

    for (unsigned i = 0; i < count; i++)
        if (try_run(m, part, list[i].start, list[i].length))
            return true;
    return false;
}

static bool mend_part(struct pack_mend *m, const struct part *part)
{
    return part->length != 0 && (try_windows(m, part) || try_runs(m, part));
}

/* ---- trailer, header, footer ---- */

static bool sum_is_right(const struct pack_mend *m, const struct part *part)
{
    (void)part;
    return pack_checksum(m->data, footer_of(m), m->trailer.footer_length, m->trailer_bytes) ==
           m->trailer.checksum;
}

static bool parity_is_right(const struct pack_mend *m, const struct part *part)
{
    (void)part;
    return XXH3_64bits(parity_of(m), m->trailer.parity_length) == m->trailer.parity_checksum;
}

static bool group_is_right(const struct pack_mend *m, const struct part *part)
{
    return XXH3_64bits(part->bytes, part->length) == m->index->groups[part->group].checksum;
}

static struct part header_part(const struct pack_mend *m)
{
    return (struct part){folded(m, 0), m->data, PACK_HEADER_SIZE, sum_is_right, PACK_NO_GROUP};
}

static struct part footer_part(const struct pack_mend *m)
{
    return (struct part){0, footer_of(m), m->trailer.footer_length, sum_is_right, PACK_NO_GROUP};
}

static struct part parity_part(const struct pack_mend *m)
{
    return (struct part){0, parity_of(m), m->trailer.parity_length, parity_is_right, PACK_NO_GROUP};
}

static struct part group_part(const struct pack_mend *m, uint32_t group)
{
    const struct pack_group *g = &m->index->groups[group];

    return (struct part){folded(m, g->offset), m->data + g->offset, g->stored_bytes, group_is_right,
                         group};
}

/* The size the file must have had if a trailer stands at this place: it stands at
 * the end, or in front of the parity. 0: it does not fit there. */
static uint64_t size_by_trailer(const uint8_t *trailer, uint64_t at)
{
    uint64_t offset = load_le64(trailer + TRAILER_FOOTER_OFFSET);
    uint64_t length = load_le64(trailer + TRAILER_FOOTER_LENGTH);
    uint64_t parity = load_le32(trailer + TRAILER_PARITY), end;

    if (add_overflows(offset, length, &end) || end > PACK_MAX_SIZE - PACK_TRAILER_SIZE)
        return 0;
    if (end != at && (parity == 0 || offset != at + PACK_TRAILER_SIZE + parity))
        return 0;
    return end + PACK_TRAILER_SIZE;
}

struct candidate {
    uint8_t bytes[PACK_TRAILER_SIZE];
    uint64_t file_bytes;
    struct pack_trailer decoded;
};

/* Everything in the file that could be a trailer of its, the last first. */
static unsigned find_trailers(const struct pack_mend *m, struct candidate *out)
{
    unsigned count = 0;

    if (m->length < PACK_HEADER_SIZE + PACK_TRAILER_SIZE)
        return 0;
    for (uint64_t at = m->length - PACK_TRAILER_SIZE; at >= PACK_HEADER_SIZE; at--) {
        const uint8_t *p = m->data + at;
        struct candidate *c = &out[count];

        if (p[TRAILER_MAGIC] != PACK_END_MAGIC[0] ||
            memcmp(p + TRAILER_MAGIC, PACK_END_MAGIC, PACK_MAGIC_SIZE) != 0)
            continue;
        c->file_bytes = size_by_trailer(p, at);
        if (c->file_bytes == 0 ||
            pack_trailer_decode(m->name, c->file_bytes, p, &c->decoded, NULL) < 0)
            continue;
        memcpy(c->bytes, p, PACK_TRAILER_SIZE);
        if (++count == TRAILERS_MAX)
            break;
    }
    return count;
}

/* Changes header or footer until they match the trailer: 1, 0 or negative errno. */
static int mend_footer(struct pack_mend *m, struct error *err)
{
    const struct part header = header_part(m), footer = footer_part(m);
    int r = m->trailer.parity_length != 0 ? find_difference(m, err) : 0;

    if (r < 0 || m->trailer.parity_length == 0)
        return r;
    if (mend_part(m, &header))
        r = note(m, "header", 0, PACK_HEADER_SIZE, PACK_NO_GROUP, true, err);
    else if (mend_part(m, &footer))
        r = note(m, "footer", m->trailer.footer_offset, footer.length, PACK_NO_GROUP, true, err);
    else
        return 0;
    return r < 0 ? r : 1;
}

/* Makes one of the trailers what it must be. */
static int put_trailer(struct pack_mend *m, uint8_t *place, const uint8_t *bytes, const char *what,
                       struct error *err)
{
    if (memcmp(place, bytes, PACK_TRAILER_SIZE) == 0)
        return 0;
    memcpy(place, bytes, PACK_TRAILER_SIZE);
    return note(m, what, (uint64_t)(place - m->data), PACK_TRAILER_SIZE, PACK_NO_GROUP, true, err);
}

/* Do header and footer, as they are or mended, match this trailer? 1, 0 or negative
 * errno. The bytes stay as they were unless they do. */
static int try_trailer(struct pack_mend *m, const struct candidate *c, bool mend, struct error *err)
{
    int r;

    m->trailer = c->decoded;
    m->trailer_bytes = c->bytes;
    r = sum_is_right(m, NULL) ? 1 : mend ? mend_footer(m, err) : 0;
    if (r <= 0)
        return r;
    r = put_trailer(m, end_trailer_of(m), c->bytes, "trailer", err);
    if (r == 0 && m->trailer.parity_length != 0)
        r = put_trailer(m, first_trailer_of(m), c->bytes, "first trailer", err);
    return r < 0 ? r : 1;
}

/* Room for the longest that the file may have been; what it has lost at its end is
 * zeros. */
static int make_room(struct pack_mend *m, const struct candidate *list, unsigned count,
                     struct error *err)
{
    size_t room = m->length;
    uint8_t *data;

    for (unsigned i = 0; i < count; i++)
        room = (size_t)max_u64(room, list[i].file_bytes);
    data = realloc(m->data, room + 1);
    if (data == NULL)
        return out_of_memory(m, err);
    m->data = data;
    memset(data + m->length, 0, room - m->length);
    return 0;
}

static int note_size(struct pack_mend *m, uint64_t length, struct error *err)
{
    uint64_t was = m->length;

    m->length = length;
    if (was == length)
        return 0;
    return note(m, "end of the file", min_u64(was, length), 0, PACK_NO_GROUP, true, err);
}

/* As it is wherever possible; mending guesses, if only until a checksum agrees. */
static int find_trailer(struct pack_mend *m, struct error *err)
{
    _cleanup_free_ struct candidate *list = calloc(TRAILERS_MAX, sizeof(*list));
    unsigned count = list != NULL ? find_trailers(m, list) : 0;
    int r = list != NULL ? make_room(m, list, count, err) : out_of_memory(m, err);

    for (unsigned i = 0; r == 0 && i < 2 * count; i++) {
        const struct candidate *c = &list[i % count];

        r = try_trailer(m, c, i >= count, err);
        if (r > 0)
            return note_size(m, c->file_bytes, err);
    }
    return r < 0 ? r : error_corrupt(err, "pack %s: header and footer are lost", m->name);
}

/* ---- groups and parity ---- */

static int find_lost(struct pack_mend *m, uint32_t *count_out, struct error *err)
{
    uint32_t count = 0;

    m->lost = calloc((size_t)m->index->group_count + 1, sizeof(*m->lost));
    if (m->lost == NULL)
        return out_of_memory(m, err);
    for (uint32_t i = 0; i < m->index->group_count; i++) {
        const struct part part = group_part(m, i);

        m->lost[i] = !group_is_right(m, &part);
        count += m->lost[i];
        int r = m->lost[i]
                    ? note(m, "group", m->index->groups[i].offset, part.length, i, false, err)
                    : 0;
        if (r < 0)
            return r;
    }
    *count_out = count;
    return 0;
}

static void note_mended(struct pack_mend *m, uint32_t group)
{
    for (size_t i = 0; i < m->damage_count; i++)
        if (m->damage[i].group == group)
            m->damage[i].mended = true;
    m->lost[group] = false;
}

/* One group that is mended may be what another was waiting for. */
static void mend_groups(struct pack_mend *m, uint32_t lost)
{
    uint32_t before;

    do {
        before = lost;
        for (uint32_t i = 0; i < m->index->group_count && lost != 0; i++) {
            struct part part = group_part(m, i);

            if (!m->lost[i] || !mend_part(m, &part))
                continue;
            note_mended(m, i);
            lost--;
        }
    } while (lost != 0 && lost != before);
}

/* With everything else good, the parity can be made anew. */
static bool remake_parity(struct pack_mend *m)
{
    struct part part = parity_part(m);

    if (m->difference == NULL || part.length == 0)
        return false;
    return try_at(m, &part, 0, part.length);
}

static int mend_data(struct pack_mend *m, struct error *err)
{
    bool has_parity = m->trailer.parity_length != 0;
    bool parity_good = !has_parity || parity_is_right(m, NULL);
    struct part parity;
    uint32_t lost = 0;
    size_t noted;

    int r = find_lost(m, &lost, err);
    if (r < 0 || !has_parity || (lost == 0 && parity_good))
        return r;
    r = find_difference(m, err);
    if (r < 0)
        return r;
    parity = parity_part(m);
    noted = m->damage_count;
    if (!parity_good)
        r = note(m, "parity", (uint64_t)(parity.bytes - m->data), parity.length, PACK_NO_GROUP,
                 false, err);
    if (r < 0)
        return r;
    mend_groups(m, lost);
    if (!parity_good)
        m->damage[noted].mended = remake_parity(m) || mend_part(m, &parity);
    if (!parity_good && m->damage[noted].mended)
        mend_groups(m, lost);
    return 0;
}

/* ---- the whole ---- */

static int read_index(struct pack_mend *m, struct error *err)
{
    size_t tail = (size_t)(m->length - m->trailer.footer_offset);

    return pack_index_decode(m->name, m->length, m->data, footer_of(m), tail, &m->index, err);
}

int pack_mend_begin(const char *name, uint8_t *data, size_t length, struct pack_mend **out,
                    struct error *err)
{
    _cleanup_(pack_mend_freep) struct pack_mend *m = calloc(1, sizeof(*m));
    if (m == NULL) {
        free(data);
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    }
    m->data = data;
    m->length = length;
    m->owned_name = strdup(name);
    m->name = m->owned_name;
    if (m->owned_name == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    int r = find_trailer(m, err);
    if (r == 0)
        r = read_index(m, err);
    if (r == 0)
        r = mend_data(m, err);
    if (r < 0)
        return r;
    free(steal_pointer(m->difference));
    *out = steal_pointer(m);
    return 0;
}

int pack_mend_group(const struct pack_mend *m, uint32_t group, void *raw_out, struct error *err)
{
    if (group >= m->index->group_count)
        return error_corrupt(err, "pack %s has %u groups, none has number %u", m->name,
                             m->index->group_count, group);
    const struct pack_group *g = &m->index->groups[group];

    return pack_group_decode(m->name, g, m->data + g->offset, raw_out, err);
}

/* Compresses as whoever wrote the group may have. */
static int encode_alike(const struct pack_group *g, int level, const void *raw, uint8_t *room)
{
    struct pack_encoder *e;
    struct pack_encoded encoded;
    int r = pack_encoder_new(level, &e, NULL);

    if (r < 0)
        return r;
    r = pack_group_encode(e, raw, g->raw_bytes, g->object_count, NULL, &encoded, NULL);
    if (r == 0 && (encoded.checksum != g->checksum || encoded.stored_bytes != g->stored_bytes))
        r = -ENOTSUP;
    if (r == 0)
        memcpy(room, encoded.stored, encoded.stored_bytes);
    pack_encoder_free(e);
    return r;
}

int pack_mend_supply(struct pack_mend *m, uint32_t group, const void *raw, struct error *err)
{
    static const int levels[] = {1, 3, 2};
    const struct pack_group *g = &m->index->groups[group];
    int r = pack_group_check_digest(m->name, g, raw, err);

    if (r < 0)
        return r;
    if (g->codec == PACK_RAW) {
        memcpy(m->data + g->offset, raw, g->raw_bytes);
        note_mended(m, group);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        r = encode_alike(g, levels[i], raw, m->data + g->offset);
        if (r == 0)
            note_mended(m, group);
        if (r != -ENOTSUP)
            return r;
    }
    return r;
}

/* ---- from a file ---- */

/* A bad sector must not cost what lies around it. */
static int read_piece(int fd, uint8_t *data, size_t length, uint64_t offset)
{
    enum { SECTOR = 4096 };
    int r = io_pread_full(fd, data, length, offset);

    for (size_t at = 0; r == -EIO && at < length; at += SECTOR) {
        size_t n = (size_t)min_u64(SECTOR, length - at);
        int sector = io_pread_full(fd, data + at, n, offset + at);

        if (sector == -EIO)
            memset(data + at, 0, n);
        else if (sector < 0)
            return sector;
    }
    return r == -EIO ? 0 : r;
}

int pack_mend_load(int fd, const char *name, int (*pace)(uint64_t bytes, void *context),
                   void *context, uint8_t **data_out, size_t *length_out, struct error *err)
{
    enum { PIECE = 1 << 20 };
    _cleanup_free_ uint8_t *data = NULL;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot read pack %s", name);
    /* Of a file that has grown, the beginning may be a pack. */
    size_t length = (size_t)min_u64((uint64_t)st.st_size, PACK_MAX_SIZE);
    data = calloc(1, length + 1);
    if (data == NULL)
        return error_errno(err, ENOMEM, "cannot read pack %s", name);
    for (size_t at = 0; at < length; at += PIECE) {
        size_t n = (size_t)min_u64(PIECE, length - at);
        int r = read_piece(fd, data + at, n, at);

        if (r < 0 && r != -ENODATA)
            return error_errno(err, -r, "cannot read pack %s", name);
        if (pace != NULL && pace(n, context) != 0)
            return -ECANCELED;
    }
    *data_out = steal_pointer(data);
    *length_out = length;
    return 0;
}

static int begin_with_file(int fd, const char *name, struct pack_mend **out, struct error *err)
{
    uint8_t *data;
    size_t length;
    int r = pack_mend_load(fd, name, NULL, NULL, &data, &length, err);

    return r < 0 ? r : pack_mend_begin(name, data, length, out, err);
}

static pthread_mutex_t rescue_lock = PTHREAD_MUTEX_INITIALIZER;

int pack_index_rescue(int fd, const char *name, struct pack_index **out, struct error *err)
{
    struct pack_mend *m = NULL;

    pthread_mutex_lock(&rescue_lock);
    int r = begin_with_file(fd, name, &m, err);
    if (r == 0)
        *out = steal_pointer(m->index);
    pack_mend_free(m);
    pthread_mutex_unlock(&rescue_lock);
    return r;
}

int pack_group_rescue(int fd, const char *name, const struct pack_index *index, uint32_t group,
                      void *raw_out, struct error *err)
{
    struct pack_mend *m = NULL;

    pthread_mutex_lock(&rescue_lock);
    int r = begin_with_file(fd, name, &m, err);
    if (r == 0 && memcmp(m->index->id, index->id, PACK_ID_SIZE) != 0)
        r = error_corrupt(err, "pack %s is another than it was", name);
    if (r == 0)
        r = pack_mend_group(m, group, raw_out, err);
    pack_mend_free(m);
    pthread_mutex_unlock(&rescue_lock);
    return r;
}
