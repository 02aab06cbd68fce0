/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/partition.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>

#define MBR_SECTOR 512u
#define MBR_ENTRIES_OFFSET 446u
#define MBR_ENTRY_SIZE 16u
#define MBR_TYPE_GPT 0xeeu
#define GPT_ENTRIES_BYTES_MAX (1u << 20) /* 128 entries of 128 bytes are usual */
#define GPT_HEADER_MIN 92u

static const char *const scheme_names[] = {
    [PARTITION_NONE] = "none",
    [PARTITION_MBR] = "MBR",
    [PARTITION_GPT] = "GPT",
};

const char *partition_scheme_name(enum partition_scheme scheme)
{
    return scheme_names[scheme];
}

/* CRC-32 of IEEE 802.3, bit by bit: a table of 16 KiB is checked once a mount. */
static uint32_t crc32_of(const uint8_t *p, size_t length)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < length; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1u));
    }
    return ~crc;
}

static void table_add(struct partition_table *table, const struct source *disk, uint32_t number,
                      uint64_t start, uint64_t size_bytes)
{
    if (table->count == PARTITIONS_MAX || size_bytes == 0 ||
        !range_fits(start, size_bytes, disk->size_bytes))
        return;
    table->parts[table->count++] =
        (struct partition){.number = number, .start = start, .size_bytes = size_bytes};
}

static bool all_zero(const uint8_t *p, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (p[i] != 0)
            return false;
    return true;
}

struct gpt_header {
    uint64_t entries_lba;
    uint32_t entry_count;
    uint32_t entry_bytes;
    uint32_t entries_crc;
};

/* 1 if there is a sound header in that sector, 0 if not, negative errno. */
static int gpt_header_read(const struct source *disk, uint32_t sector, uint64_t lba,
                           struct gpt_header *out)
{
    uint8_t raw[MBR_SECTOR];
    uint32_t length, crc;
    uint64_t at;
    int r;

    if (mul_overflows(lba, sector, &at) || !range_fits(at, sizeof(raw), disk->size_bytes))
        return 0;
    r = source_read(disk, at, raw, sizeof(raw));
    if (r < 0)
        return r;
    length = load_le32(raw + 12);
    if (memcmp(raw, "EFI PART", 8) != 0 || length < GPT_HEADER_MIN || length > sizeof(raw))
        return 0;
    crc = load_le32(raw + 16);
    memset(raw + 16, 0, 4); /* its own field counts as zero */
    if (crc32_of(raw, length) != crc || load_le64(raw + 24) != lba)
        return 0;
    *out = (struct gpt_header){
        .entries_lba = load_le64(raw + 72),
        .entry_count = load_le32(raw + 80),
        .entry_bytes = load_le32(raw + 84),
        .entries_crc = load_le32(raw + 88),
    };
    return 1;
}

static void gpt_entry_add(struct partition_table *table, const struct source *disk, uint32_t sector,
                          uint32_t number, const uint8_t *entry)
{
    uint64_t first = load_le64(entry + 32);
    uint64_t last = load_le64(entry + 40);
    uint64_t start, size_bytes;

    if (all_zero(entry, 16) || last < first || last == UINT64_MAX)
        return;
    if (mul_overflows(first, sector, &start) ||
        mul_overflows(last - first + 1, sector, &size_bytes))
        return;
    table_add(table, disk, number, start, size_bytes);
}

/* 1 if a GPT with that header was read, 0 if it is none, negative errno. */
static int gpt_read_at(const struct source *disk, uint32_t sector, uint64_t lba,
                       struct partition_table *out)
{
    _cleanup_free_ uint8_t *entries = NULL;
    struct gpt_header header;
    uint64_t bytes, at;
    int r;

    r = gpt_header_read(disk, sector, lba, &header);
    if (r <= 0)
        return r;
    bytes = (uint64_t)header.entry_count * header.entry_bytes;
    if (header.entry_bytes < 128 || bytes > GPT_ENTRIES_BYTES_MAX ||
        mul_overflows(header.entries_lba, sector, &at) || !range_fits(at, bytes, disk->size_bytes))
        return 0;
    entries = malloc(bytes + 1);
    if (entries == NULL)
        return -ENOMEM;
    r = source_read(disk, at, entries, bytes);
    if (r < 0)
        return r;
    if (crc32_of(entries, bytes) != header.entries_crc)
        return 0;
    for (uint32_t i = 0; i < header.entry_count; i++)
        gpt_entry_add(out, disk, sector, i + 1, entries + (size_t)i * header.entry_bytes);
    out->scheme = PARTITION_GPT;
    return 1;
}

static int gpt_read(const struct source *disk, struct partition_table *out)
{
    static const uint32_t sectors[] = {512, 4096};
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(sectors) && r == 0; i++)
        r = gpt_read_at(disk, sectors[i], 1, out);
    for (size_t i = 0; i < ARRAY_LEN(sectors) && r == 0; i++) {
        uint64_t sector_count = disk->size_bytes / sectors[i];

        if (sector_count > 2)
            r = gpt_read_at(disk, sectors[i], sector_count - 1, out);
        out->from_backup = r == 1;
    }
    return r;
}

struct mbr_entry {
    uint8_t type;
    uint32_t first;
    uint32_t sectors;
};

/* 1 if the sector has a boot record's signature. */
static int mbr_read_sector(const struct source *disk, uint64_t lba, struct mbr_entry out[4],
                           bool *flags_sane)
{
    uint8_t raw[MBR_SECTOR];
    int r;

    if (!range_fits(lba * MBR_SECTOR, sizeof(raw), disk->size_bytes))
        return 0;
    r = source_read(disk, lba * MBR_SECTOR, raw, sizeof(raw));
    if (r < 0)
        return r;
    if (raw[510] != 0x55 || raw[511] != 0xaa)
        return 0;
    *flags_sane = true;
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *e = raw + MBR_ENTRIES_OFFSET + i * MBR_ENTRY_SIZE;

        if (e[0] != 0x00 && e[0] != 0x80) /* boot flag: in a FAT boot sector it is code */
            *flags_sane = false;
        out[i] = (struct mbr_entry){
            .type = e[4], .first = load_le32(e + 8), .sectors = load_le32(e + 12)};
    }
    return 1;
}

static bool mbr_is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

/* Logical partitions: a linked list of boot records inside the extended one. A
 * list that goes round in a circle ends with the room for partitions. */
static int mbr_read_logical(const struct source *disk, const struct mbr_entry *extended,
                            struct partition_table *out)
{
    uint64_t lba = extended->first;

    for (uint32_t number = 5; number < 5 + PARTITIONS_MAX; number++) {
        struct mbr_entry e[4];
        bool sane;
        int r = mbr_read_sector(disk, lba, e, &sane);

        if (r <= 0)
            return r;
        if (e[0].type != 0)
            table_add(out, disk, number, (lba + e[0].first) * MBR_SECTOR,
                      (uint64_t)e[0].sectors * MBR_SECTOR);
        if (!mbr_is_extended(e[1].type) || e[1].first == 0)
            return 0;
        lba = (uint64_t)extended->first + e[1].first;
    }
    return 0;
}

static bool mbr_is_plausible(const struct source *disk, const struct mbr_entry e[4])
{
    bool any = false;

    for (unsigned i = 0; i < 4; i++) {
        if (e[i].type == 0)
            continue;
        if (e[i].first == 0 || e[i].sectors == 0 ||
            (uint64_t)e[i].first * MBR_SECTOR >= disk->size_bytes)
            return false;
        any = true;
    }
    return any;
}

static int mbr_read(const struct source *disk, struct partition_table *out)
{
    struct mbr_entry e[4];
    bool sane;
    int r = mbr_read_sector(disk, 0, e, &sane);

    if (r <= 0 || !sane || !mbr_is_plausible(disk, e))
        return r < 0 ? r : 0;
    out->scheme = PARTITION_MBR;
    for (unsigned i = 0; i < 4 && r >= 0; i++) {
        if (mbr_is_extended(e[i].type))
            r = mbr_read_logical(disk, &e[i], out);
        else if (e[i].type != 0 && e[i].type != MBR_TYPE_GPT)
            table_add(out, disk, i + 1, (uint64_t)e[i].first * MBR_SECTOR,
                      (uint64_t)e[i].sectors * MBR_SECTOR);
    }
    return r < 0 ? r : 1;
}

int partition_table_read(const struct source *disk, struct partition_table *out)
{
    int r;

    *out = (struct partition_table){.scheme = PARTITION_NONE};
    r = gpt_read(disk, out);
    if (r == 0)
        r = mbr_read(disk, out);
    if (r < 0)
        return r;
    if (out->scheme == PARTITION_NONE)
        table_add(out, disk, 0, 0, disk->size_bytes);
    return 0;
}
