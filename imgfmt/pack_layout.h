/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Field offsets of a pack, shared by its writer and its reader; nobody else's
 * business. All fields are little-endian and packed without padding.
 *
 *   header, 64 bytes             footer entry, 60 bytes         trailer, 56 bytes
 *    0  magic "STASPACK"          0  offset in the file u64      0  footer offset u64
 *    8  version u32               8  stored bytes u32            8  footer length u64
 *   12  kind u32                 12  raw bytes u32              16  group count u32
 *   16  compat flags u32         16  codec u8                   20  object count u32
 *   20  incompat flags u32       17  reserved u8                24  parity length u32
 *   24  id, 16 bytes             18  object count u16           28  reserved u32
 *   40  reserved, 24 bytes       20  checksum u64               32  parity checksum u64
 *                                28  SHA-256, 32 bytes          40  checksum u64
 *                                                               48  magic "STASPEND"
 */
#ifndef STASIS_IMGFMT_PACK_LAYOUT_H
#define STASIS_IMGFMT_PACK_LAYOUT_H

#include "imgfmt/pack.h"

#define PACK_MAGIC "STASPACK"
#define PACK_END_MAGIC "STASPEND"
#define PACK_MAGIC_SIZE 8u
#define PACK_VERSION 1u
#define PACK_INCOMPAT_KNOWN 0u
#define PACK_ENTRY_SIZE 60u
#define PACK_OBJECT_SIZE 16u

enum pack_header_field {
    HEADER_MAGIC = 0,
    HEADER_VERSION = 8,
    HEADER_KIND = 12,
    HEADER_COMPAT = 16,
    HEADER_INCOMPAT = 20,
    HEADER_ID = 24,
    HEADER_RESERVED = 40,
};

enum pack_entry_field {
    ENTRY_OFFSET = 0,
    ENTRY_STORED = 8,
    ENTRY_RAW = 12,
    ENTRY_CODEC = 16,
    ENTRY_RESERVED = 17,
    ENTRY_COUNT = 18,
    ENTRY_CHECKSUM = 20,
    ENTRY_DIGEST = 28,
};

enum pack_trailer_field {
    TRAILER_FOOTER_OFFSET = 0,
    TRAILER_FOOTER_LENGTH = 8,
    TRAILER_GROUPS = 16,
    TRAILER_OBJECTS = 20,
    TRAILER_PARITY = 24,
    TRAILER_RESERVED = 28,
    TRAILER_PARITY_CHECKSUM = 32,
    TRAILER_CHECKSUM = 40,
    TRAILER_MAGIC = 48,
};

struct pack_trailer {
    uint64_t footer_offset;
    uint64_t footer_length;
    uint32_t group_count;
    uint32_t object_count;
    uint32_t parity_length;
    uint64_t parity_checksum;
    uint64_t checksum;
    uint64_t data_end; /* where the groups end */
};

/* Afterwards the counts and the places agree with one another and with the size of
 * the file, so that everything sized by them is bounded by it. */
int pack_trailer_decode(const char *name, uint64_t file_bytes, const uint8_t *p,
                        struct pack_trailer *out, struct error *err);

/* The checksum over header, footer and the trailer's fields. */
uint64_t pack_checksum(const uint8_t *header, const uint8_t *footer, uint64_t footer_length,
                       const uint8_t *trailer);

/* How long the parity of a pack is whose header, groups and footer have that many
 * bytes together. */
uint32_t pack_parity_length(uint64_t stream_bytes);

/* parity[(position + i) % period] ^= bytes[i] */
void pack_parity_fold(uint8_t *parity, uint32_t period, uint64_t position, const uint8_t *bytes,
                      size_t length);

/* Bytes of a footer; cannot overflow with 32-bit counts. */
static inline uint64_t pack_footer_size(uint32_t groups, uint32_t objects)
{
    return (uint64_t)groups * PACK_ENTRY_SIZE + (uint64_t)objects * PACK_OBJECT_SIZE;
}

#endif
