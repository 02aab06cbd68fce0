/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packs: immutable files of up to PACK_MAX_SIZE bytes that hold pages or map
 * nodes in compressed groups. The footers alone rebuild every index.
 *
 *   pack    = header | group... | [trailer | parity] | footer | trailer
 *   header  = "STASPACK" | version u32 | kind u32 | compat u32 | incompat u32
 *             | id 16 bytes | reserved, 64 bytes in all
 *   group   = one zstd frame, or the raw bytes where that is not larger
 *   footer  = for each group: offset u64 | stored u32 | raw u32 | codec u8
 *             | reserved u8 | count u16 | checksum u64 (XXH3-64 of the stored bytes)
 *             | SHA-256 of the raw bytes
 *             then for each object of each group: its id, 16 bytes
 *   trailer = footer offset u64 | footer length u64 | group count u32 | object
 *             count u32 | parity length u32 | reserved u32 | XXH3-64 of the parity
 *             u64 | XXH3-64 of header, footer and what stands before it u64 | "STASPEND"
 *   parity  = XOR of footer, and header and groups, folded at its length: byte i is
 *             that of the bytes of the footer at i, i + length, i + 2 length...,
 *             and of those of the file at (end of the groups) + i - length,
 *             + i - 2 length... down to the start
 *
 * An object's id is its page reference (kind pages; object n of a group is raw
 * bytes [4096 n, 4096 n + 4096)) or the first 16 bytes of its SHA-256 (kind
 * nodes; nodes lie end to end, see map_node_length()).
 *
 * Groups lie end to end from the header on. A pack with parity has its trailer twice,
 * far from one another: pack_mend.h makes good what one of all these bytes has lost.
 * A page may stand in several groups of one pack.
 *
 * This module encodes and decodes; it holds no policy. The exact field offsets
 * are in pack_layout.h and in stasis-format(5).
 */
#ifndef STASIS_IMGFMT_PACK_H
#define STASIS_IMGFMT_PACK_H

#include "base/digest.h"
#include "base/error.h"
#include "imgfmt/page.h"

#include <stddef.h>
#include <stdint.h>

#define PACK_ID_SIZE 16
#define PACK_HEADER_SIZE 64u
#define PACK_TRAILER_SIZE 56u
#define PACK_PARITY_MAX (2u << 20)
#define PACK_PARITY_MIN 8192u /* but never more than there is to protect */
#define PACK_MAX_SIZE (64u << 20)
#define PACK_GROUP_RAW_MAX (1u << 20)   /* any pack */
#define PACK_GROUP_OBJECTS_MAX 1024u    /* any pack */
#define PACK_HOT_GROUP_PAGES 16u        /* packs a machine writes */
#define PACK_PUBLISHED_GROUP_PAGES 256u /* packs made for a registry */

enum pack_kind {
    PACK_PAGES = 1,
    PACK_NODES = 2,
};

enum pack_codec {
    PACK_RAW = 0,
    PACK_ZSTD = 1,
};

struct pack_object_id {
    uint8_t bytes[16];
};

/* Decoded footer entry. */
struct pack_group {
    uint64_t offset;       /* in the file */
    uint32_t stored_bytes; /* in the file */
    uint32_t raw_bytes;    /* decompressed */
    uint8_t codec;
    uint16_t object_count;
    uint32_t first_object; /* index into the pack's object ids */
    uint64_t checksum;
    struct digest digest;
};

/* A pack's header and footer, decoded. */
struct pack_index {
    uint8_t id[PACK_ID_SIZE];
    enum pack_kind kind;
    uint64_t file_bytes;
    uint32_t parity_bytes; /* 0: none */
    uint32_t group_count;
    uint32_t object_count;
    struct pack_group *groups;
    struct pack_object_id *objects;
};

/* ---- writing: encoding a group, in any thread ---- */

/* A group as it will lie in the file. */
struct pack_encoded {
    const void *stored; /* in the room it was given, or the raw bytes themselves */
    uint32_t stored_bytes;
    uint32_t raw_bytes;
    uint8_t codec;
    uint16_t object_count;
    uint64_t checksum;
    struct digest digest;
};

/* What compressing needs beyond the bytes. One thread at a time may use it. */
struct pack_encoder;

int pack_encoder_new(int level, struct pack_encoder **out, struct error *err);
void pack_encoder_free(struct pack_encoder *e); /* NULL is fine */

/* Compresses one group of `count` objects, raw_bytes long, unless that gains
 * nothing, and sums it up. No file is involved. room has raw_bytes bytes; or NULL,
 * then the result is valid until the encoder's next group. Where the group is best
 * stored as it is, the result refers to raw instead; and always if e is NULL, for
 * what no compressor can make smaller. -EINVAL if no pack could hold it. */
int pack_group_encode(struct pack_encoder *e, const void *raw, size_t raw_bytes, unsigned count,
                      void *room, struct pack_encoded *out, struct error *err);

/* ---- writing: the file ---- */

struct pack_writer;

/* Writes a new pack to fd (at offset 0, empty regular file; not owned).
 * level: zstd level. The pack's id is chosen at random. Not thread-safe. */
int pack_writer_open(int fd, enum pack_kind kind, int level, struct pack_writer **out,
                     struct error *err);

/* Replaces the random id by one the caller derives, so that a pack made twice is
 * the same file. Before pack_writer_finish(). */
int pack_writer_set_id(struct pack_writer *w, const uint8_t id[PACK_ID_SIZE], struct error *err);

/* Gives the pack parity, 3 to 6 % of it if it is large. Before its first group. */
int pack_writer_protect(struct pack_writer *w, struct error *err);

/* Appends a group and returns its index. ids, one for each object, are copied.
 * Does not sync. -EFBIG if the finished pack would pass PACK_MAX_SIZE (nothing is
 * written: finish it and open another); a group that failed to be written may be
 * given again. */
int pack_writer_append(struct pack_writer *w, const struct pack_encoded *group,
                       const struct pack_object_id *ids, uint32_t *group_out, struct error *err);

/* pack_group_encode() with an encoder of the writer's own, and pack_writer_append(). */
int pack_writer_group(struct pack_writer *w, const void *raw, size_t raw_bytes,
                      const struct pack_object_id *ids, unsigned count, uint32_t *group_out,
                      struct error *err);

/* Bytes the file would have if it were finished now. */
uint64_t pack_writer_size(const struct pack_writer *w);

/* Footer entries so far, for reading back groups of an unfinished pack. Valid
 * until the next call. */
const struct pack_index *pack_writer_index(const struct pack_writer *w);

/* Writes footer and trailer. Does not sync. The writer stays readable. */
int pack_writer_finish(struct pack_writer *w, struct error *err);
void pack_writer_free(struct pack_writer *w);

/* ---- reading ---- */

/* Reads and checks header, footer and trailer of the pack in fd (any size the
 * file has is input like any other). name is for messages. -EBADMSG and what
 * is wrong at which offset; -EPROTONOSUPPORT for a newer version or an unknown
 * incompat flag. */
int pack_index_read(int fd, const char *name, struct pack_index **out, struct error *err);

/* The same from memory, for a pack that is elsewhere: its first
 * PACK_HEADER_SIZE bytes, and its last tail_bytes, which begin where the footer
 * does (pack_footer_offset()). */
int pack_index_decode(const char *name, uint64_t file_bytes, const void *header, const void *tail,
                      size_t tail_bytes, struct pack_index **out, struct error *err);

/* Where the footer of a pack of file_bytes begins, from its last
 * PACK_TRAILER_SIZE bytes. Checks the trailer. */
int pack_footer_offset(const char *name, uint64_t file_bytes, const void *trailer,
                       uint64_t *offset_out, struct error *err);

void pack_index_free(struct pack_index *index);

/* Where in the file the ids of all objects lie, end to end. */
uint64_t pack_objects_offset(const struct pack_index *index);

/* Reads, checks (XXH3-64) and decompresses one group into raw_out, which has
 * room for its raw_bytes. name is for messages. Thread-safe. */
int pack_group_read(int fd, const char *name, const struct pack_index *index, uint32_t group,
                    void *raw_out, struct error *err);

/* The same from stored bytes already in memory (stored_bytes of them). */
int pack_group_decode(const char *name, const struct pack_group *group, const void *stored,
                      void *raw_out, struct error *err);

/* SHA-256 over the raw bytes against the footer. -EBADMSG. */
int pack_group_check_digest(const char *name, const struct pack_group *group, const void *raw,
                            struct error *err);

#endif
