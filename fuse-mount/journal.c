/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One walk from the log's start. What a transaction holds is collected and counts
 * only once its commit block has been seen; after the walk, revoked and damaged
 * blocks drop out. JBD2 walks three times to save memory; we keep 32 bytes a
 * block, at most JOURNAL_BLOCKS_MAX of them.
 */
#include "fuse-mount/journal.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>

enum {
    BLOCK_DESCRIPTOR = 1,
    BLOCK_COMMIT = 2,
    BLOCK_SUPER_V1 = 3,
    BLOCK_SUPER_V2 = 4,
    BLOCK_REVOKE = 5
};

enum { COMPAT_CHECKSUM = 1 };
enum {
    INCOMPAT_REVOKE = 1,
    INCOMPAT_64BIT = 2,
    INCOMPAT_ASYNC_COMMIT = 4,
    INCOMPAT_CSUM_V2 = 8,
    INCOMPAT_CSUM_V3 = 16,
    INCOMPAT_FAST_COMMIT = 32
};
#define INCOMPAT_KNOWN 63u

enum { TAG_ESCAPED = 1, TAG_SAME_UUID = 2, TAG_DELETED = 4, TAG_LAST = 8 };

#define HEADER_SIZE 12u
#define REVOKE_HEADER_SIZE 16u
#define SUPER_SIZE 1024u
#define SUPER_CHECKSUM_OFFSET 0xfcu
#define CHECKSUM_CRC32 1
#define CHECKSUM_CRC32C 4
#define FAST_COMMIT_BLOCKS_DEFAULT 256u

/* A block some transaction wrote. */
struct write {
    uint64_t block; /* of the file system */
    uint64_t index; /* of the journal */
    uint32_t order; /* transactions before it in the walk */
    uint32_t checksum;
    bool escaped;
};

struct revoke {
    uint64_t block;
    uint32_t order;
};

struct walk {
    const struct journal *journal;
    struct journal_report *report;
    uint8_t *buf;  /* one block: the control block */
    uint8_t *data; /* one block */
    uint32_t compat, incompat;
    uint32_t first, last; /* the log is [first, last), circular */
    uint32_t start, sequence;
    uint32_t seed;   /* of CRC-32C checksums */
    uint32_t crc_v1; /* of the transaction so far, feature COMPAT_CHECKSUM */
    uint32_t order;
    struct write *writes;
    size_t write_count, write_capacity, write_committed;
    struct revoke *revokes;
    size_t revoke_count, revoke_capacity, revoke_committed;
};

static void walk_clear(struct walk *w)
{
    free(w->buf);
    free(w->data);
    free(w->writes);
    free(w->revokes);
}

static bool walk_has_crc32c(const struct walk *w)
{
    return (w->incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)) != 0;
}

static size_t tag_size(const struct walk *w)
{
    if (w->incompat & INCOMPAT_CSUM_V3)
        return 16;
    return 8u + (w->incompat & INCOMPAT_CSUM_V2 ? 2u : 0u) +
           (w->incompat & INCOMPAT_64BIT ? 4u : 0u);
}

static int journal_block_read(const struct journal *j, uint64_t index, uint8_t *buf)
{
    uint64_t at;

    if (index >= j->count || j->blocks[index] == 0 ||
        mul_overflows(j->blocks[index], j->block_size, &at))
        return -EUCLEAN;
    return source_read(j->fs, at, buf, j->block_size);
}

/* Position `ahead` blocks on in the circular log. */
static uint32_t walk_ahead(const struct walk *w, uint32_t position, uint32_t ahead)
{
    uint32_t length = w->last - w->first;

    return w->first + (uint32_t)(((uint64_t)position - w->first + ahead) % length);
}

/* CRC-32C of a block in which the checksum at that offset counts as zero. */
static bool block_checksum_is_right(uint8_t *block, uint32_t size, uint32_t offset, uint32_t seed)
{
    uint32_t want = load_be32(block + offset);
    uint32_t have;

    store_be32(block + offset, 0);
    have = ext2fs_crc32c_le(seed, block, size);
    store_be32(block + offset, want);
    return have == want;
}

/* ---- the journal's superblock ---- */

static int super_read_fields(struct walk *w, struct error *err)
{
    const uint8_t *sb = w->buf;
    uint32_t type = load_be32(sb + 4), fast_blocks;

    if (load_be32(sb) != JOURNAL_MAGIC || (type != BLOCK_SUPER_V1 && type != BLOCK_SUPER_V2))
        return error_corrupt(err, "the file system's journal has no superblock");
    if (load_be32(sb + 0x0c) != w->journal->block_size)
        return error_corrupt(err, "the journal's block size is not the file system's");
    w->last = load_be32(sb + 0x10);
    w->first = load_be32(sb + 0x14);
    w->sequence = load_be32(sb + 0x18);
    w->start = load_be32(sb + 0x1c);
    if (type == BLOCK_SUPER_V2) {
        w->compat = load_be32(sb + 0x24);
        w->incompat = load_be32(sb + 0x28);
    }
    if (w->incompat & ~INCOMPAT_KNOWN)
        return error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                         "the journal has features (0x%x) this version does not know",
                         w->incompat & ~INCOMPAT_KNOWN);
    if (w->last > w->journal->count)
        return error_corrupt(err, "the journal is shorter than its superblock says");
    if (w->incompat & INCOMPAT_FAST_COMMIT) {
        fast_blocks = load_be32(sb + 0x54);
        if (fast_blocks == 0)
            fast_blocks = FAST_COMMIT_BLOCKS_DEFAULT;
        w->last = fast_blocks < w->last ? w->last - fast_blocks : 0;
        w->report->fast_commits = true;
    }
    return 0;
}

static int super_read(struct walk *w, struct error *err)
{
    int r = journal_block_read(w->journal, 0, w->buf);

    if (r < 0)
        return error_errno(err, -r, "cannot read the journal's superblock");
    r = super_read_fields(w, err);
    if (r < 0)
        return r;
    if (w->start != 0 &&
        (w->first == 0 || w->first >= w->last || w->start < w->first || w->start >= w->last))
        return error_corrupt(err, "the journal's log does not lie inside the journal");
    if (!walk_has_crc32c(w))
        return 0;
    if (w->buf[0x50] != CHECKSUM_CRC32C)
        return error_corrupt(err, "the journal's checksum type %u is unknown", w->buf[0x50]);
    if (!block_checksum_is_right(w->buf, SUPER_SIZE, SUPER_CHECKSUM_OFFSET, UINT32_MAX))
        return error_corrupt(err, "the checksum of the journal's superblock is wrong");
    w->seed = ext2fs_crc32c_le(UINT32_MAX, w->buf + 0x30, 16);
    return 0;
}

/* ---- blocks of the log ---- */

static int walk_add_write(struct walk *w, struct write write)
{
    if (w->write_count == w->write_capacity) {
        size_t capacity = w->write_capacity == 0 ? 256 : w->write_capacity * 2;
        struct write *grown = reallocarray(w->writes, capacity, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        w->writes = grown;
        w->write_capacity = capacity;
    }
    w->writes[w->write_count++] = write;
    return 0;
}

static int walk_add_revoke(struct walk *w, struct revoke revoke)
{
    if (w->revoke_count == w->revoke_capacity) {
        size_t capacity = w->revoke_capacity == 0 ? 256 : w->revoke_capacity * 2;
        struct revoke *grown = reallocarray(w->revokes, capacity, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        w->revokes = grown;
        w->revoke_capacity = capacity;
    }
    w->revokes[w->revoke_count++] = revoke;
    return 0;
}

struct tag {
    uint64_t block;
    uint32_t flags;
    uint32_t checksum;
};

static struct tag tag_load(const struct walk *w, const uint8_t *p)
{
    struct tag tag = {.block = load_be32(p)};

    if (w->incompat & INCOMPAT_CSUM_V3) {
        tag.flags = load_be32(p + 4);
        tag.checksum = load_be32(p + 12);
    } else {
        tag.checksum = load_be16(p + 4);
        tag.flags = load_be16(p + 6);
    }
    if (w->incompat & INCOMPAT_64BIT)
        tag.block |= (uint64_t)load_be32(p + 8) << 32;
    return tag;
}

/* The data blocks of a descriptor follow it in the log. *blocks_out is how many. */
static int walk_descriptor(struct walk *w, uint32_t position, uint32_t *blocks_out)
{
    uint32_t size = w->journal->block_size, blocks = 0;
    size_t end = size - (walk_has_crc32c(w) ? 4u : 0u);
    size_t at = HEADER_SIZE, step = tag_size(w);

    while (at + step <= end) {
        struct tag tag = tag_load(w, w->buf + at);
        int r = walk_add_write(w, (struct write){
                                      .block = tag.block,
                                      .index = walk_ahead(w, position, 1 + blocks),
                                      .order = w->order,
                                      .checksum = tag.checksum,
                                      .escaped = (tag.flags & TAG_ESCAPED) != 0,
                                  });
        if (r < 0)
            return r;
        blocks++;
        if (tag.flags & TAG_LAST)
            break;
        at += step + (tag.flags & TAG_SAME_UUID ? 0u : 16u);
    }
    *blocks_out = blocks;
    return 0;
}

/* Feature COMPAT_CHECKSUM: one CRC-32 over descriptor and data of a transaction. */
static int walk_add_crc_v1(struct walk *w, uint32_t position, uint32_t blocks)
{
    uint32_t size = w->journal->block_size;

    if (!(w->compat & COMPAT_CHECKSUM))
        return 0;
    w->crc_v1 = ext2fs_crc32_be(w->crc_v1, w->buf, size);
    for (uint32_t i = 0; i < blocks; i++) {
        int r = journal_block_read(w->journal, walk_ahead(w, position, 1 + i), w->data);

        if (r < 0)
            return r;
        w->crc_v1 = ext2fs_crc32_be(w->crc_v1, w->data, size);
    }
    return 0;
}

static int walk_revoke(struct walk *w)
{
    uint32_t size = w->journal->block_size;
    uint32_t used = load_be32(w->buf + HEADER_SIZE);
    uint32_t step = w->incompat & INCOMPAT_64BIT ? 8 : 4;

    if (used > size - (walk_has_crc32c(w) ? 4u : 0u))
        return -EUCLEAN;
    for (uint32_t at = REVOKE_HEADER_SIZE; at + step <= used; at += step) {
        const uint8_t *p = w->buf + at;
        int r = walk_add_revoke(w, (struct revoke){
                                       .block = step == 8 ? load_be64(p) : load_be32(p),
                                       .order = w->order,
                                   });
        if (r < 0)
            return r;
    }
    return 0;
}

static bool commit_is_sound(struct walk *w)
{
    uint8_t type = w->buf[12], length = w->buf[13];

    if (walk_has_crc32c(w))
        return block_checksum_is_right(w->buf, w->journal->block_size, 16, w->seed);
    if (!(w->compat & COMPAT_CHECKSUM) || (type == 0 && length == 0 && load_be32(w->buf + 16) == 0))
        return true;
    return type == CHECKSUM_CRC32 && length == 4 && load_be32(w->buf + 16) == w->crc_v1;
}

static void walk_commit(struct walk *w)
{
    w->write_committed = w->write_count;
    w->revoke_committed = w->revoke_count;
    w->report->transactions++;
    w->crc_v1 = UINT32_MAX;
    w->order++;
    w->sequence++;
}

/* Handles the control block in w->buf. 1: go on, *blocks_out data blocks follow;
 * 0: here the log ends. */
static int walk_block(struct walk *w, uint32_t position, uint32_t *blocks_out)
{
    uint32_t type = load_be32(w->buf + 4), size = w->journal->block_size;
    int r = 0;

    if ((type == BLOCK_DESCRIPTOR || type == BLOCK_REVOKE) && walk_has_crc32c(w) &&
        !block_checksum_is_right(w->buf, size, size - 4, w->seed)) {
        w->report->stopped_by_damage = true;
        return 0;
    }
    switch (type) {
    case BLOCK_DESCRIPTOR:
        r = walk_descriptor(w, position, blocks_out);
        if (r == 0)
            r = walk_add_crc_v1(w, position, *blocks_out);
        break;
    case BLOCK_REVOKE:
        r = walk_revoke(w);
        break;
    case BLOCK_COMMIT:
        if (!commit_is_sound(w)) {
            w->report->stopped_by_damage = true;
            return 0;
        }
        walk_commit(w);
        break;
    default:
        return 0;
    }
    if (r == -EUCLEAN) {
        w->report->stopped_by_damage = true;
        return 0;
    }
    return r < 0 ? r : 1;
}

static int walk_log(struct walk *w)
{
    uint64_t length = w->last - w->first, walked = 0;
    uint32_t position = w->start;

    while (walked < length) {
        uint32_t blocks = 0;
        int r = journal_block_read(w->journal, position, w->buf);

        if (r < 0)
            return r;
        if (load_be32(w->buf) != JOURNAL_MAGIC || load_be32(w->buf + 8) != w->sequence)
            return 0;
        r = walk_block(w, position, &blocks);
        if (r <= 0)
            return r;
        walked += 1 + (uint64_t)blocks;
        position = walk_ahead(w, position, 1 + blocks);
    }
    return 0;
}

/* ---- what is left of it ---- */

static int revoke_compare(const void *a, const void *b)
{
    const struct revoke *x = a, *y = b;

    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* A revoke counts for writes of its own and of earlier transactions. */
static bool walk_is_revoked(const struct walk *w, const struct write *write)
{
    size_t low = 0, high = w->revoke_committed;

    while (low < high) { /* the first revoke behind (block, order - 1) */
        size_t middle = low + (high - low) / 2;
        const struct revoke *r = &w->revokes[middle];

        if (r->block < write->block || (r->block == write->block && r->order < write->order))
            low = middle + 1;
        else
            high = middle;
    }
    return low < w->revoke_committed && w->revokes[low].block == write->block;
}

/* Checksums are over the data as it is in the journal, escaped. */
static int walk_write_is_sound(struct walk *w, const struct write *write)
{
    uint8_t sequence[4];
    uint32_t crc;
    int r;

    if (write->block >= w->journal->fs_blocks || w->journal->blocks[write->index] == 0)
        return 0;
    if (!walk_has_crc32c(w))
        return 1;
    r = journal_block_read(w->journal, write->index, w->data);
    if (r < 0)
        return r;
    store_be32(sequence, w->sequence - w->order + write->order);
    crc = ext2fs_crc32c_le(w->seed, sequence, sizeof(sequence));
    crc = ext2fs_crc32c_le(crc, w->data, w->journal->block_size);
    return (w->incompat & INCOMPAT_CSUM_V3 ? crc : crc & UINT16_MAX) == write->checksum;
}

static int walk_apply(struct walk *w, struct overlay *out)
{
    if (w->revoke_committed > 0)
        qsort(w->revokes, w->revoke_committed, sizeof(*w->revokes), revoke_compare);
    for (size_t i = 0; i < w->write_committed; i++) {
        const struct write *write = &w->writes[i];
        int r;

        if (walk_is_revoked(w, write)) {
            w->report->revoked++;
            continue;
        }
        r = walk_write_is_sound(w, write);
        if (r < 0)
            return r;
        if (r == 0) {
            w->report->damaged++;
            continue;
        }
        r = overlay_add(out, (struct overlay_block){.block = write->block,
                                                    .replica = w->journal->blocks[write->index],
                                                    .escaped = write->escaped});
        if (r < 0)
            return r;
        w->report->blocks++;
    }
    return overlay_seal(out);
}

int journal_replay(const struct journal *journal, struct overlay *out,
                   struct journal_report *report, struct error *err)
{
    _cleanup_(overlay_clear) struct overlay result = {.block_size = journal->block_size};
    _cleanup_(walk_clear) struct walk w = {
        .journal = journal, .report = report, .crc_v1 = UINT32_MAX};
    int r;

    *report = (struct journal_report){0};
    if (journal->block_size < SUPER_SIZE || journal->count > JOURNAL_BLOCKS_MAX)
        return error_corrupt(err, "the journal's size is impossible");
    w.buf = malloc(journal->block_size);
    w.data = malloc(journal->block_size);
    if (w.buf == NULL || w.data == NULL)
        return error_errno(err, ENOMEM, "cannot replay the journal");
    r = super_read(&w, err);
    if (r < 0)
        return r;
    if (w.start != 0) {
        r = walk_log(&w);
        if (r == 0)
            r = walk_apply(&w, &result);
        if (r < 0)
            return error_errno(err, -r, "cannot replay the journal");
    }
    *out = result;
    result = (struct overlay){0};
    return 0;
}
