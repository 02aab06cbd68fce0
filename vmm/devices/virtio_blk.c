/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk over a disk: virtio 1.2, 5.2. */
#include "base/bytes.h"
#include "vmm/devices/disk.h"
#include "vmm/devices/virtio.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SECTOR_SHIFT = 9,
    SECTOR_SIZE = 512,
    PAGE_SECTORS = 8,
    HEADER_SIZE = 16,
    RANGE_SIZE = 16, /* struct virtio_blk_discard_write_zeroes */
    RANGES_MAX = 16,
    RANGE_SECTORS_MAX = 1 << 21, /* 1 GiB a range: bounds the time of one request */
    QUEUE_SIZE = 256,
};

struct blk_counters {
    uint64_t reads, read_bytes;
    uint64_t writes, written_bytes;
    uint64_t flushes;
    uint64_t discards; /* and write-zeroes */
    uint64_t errors;   /* requests that did not end well */
};

struct blk {
    struct blk_counters counters;
    struct disk *disk;
    struct memory *mem;
    unsigned slot;
};

static void blk_config(void *device, uint8_t *out)
{
    const struct blk *blk = device;
    struct virtio_blk_config config = {
        .capacity = htole64(disk_size_bytes(blk->disk) >> SECTOR_SHIFT),
        .seg_max = htole32(VIRTQ_SEGMENTS_MAX - 2), /* header and status take two */
        .blk_size = htole32(SECTOR_SIZE),
        .physical_block_exp = 3, /* 4096 bytes */
        .max_discard_sectors = htole32(RANGE_SECTORS_MAX),
        .max_discard_seg = htole32(RANGES_MAX),
        .discard_sector_alignment = htole32(PAGE_SECTORS),
        .max_write_zeroes_sectors = htole32(RANGE_SECTORS_MAX),
        .max_write_zeroes_seg = htole32(RANGES_MAX),
        .write_zeroes_may_unmap = 1,
    };

    memcpy(out, &config, sizeof(config));
}

/* Data is what lies between the header and the last writable byte, the status. */
static uint8_t transfer_data(struct blk *blk, const struct virtq_chain *chain, uint64_t offset,
                             bool to_guest, uint64_t *moved)
{
    uint64_t skip = to_guest ? 0 : HEADER_SIZE;
    uint64_t left = to_guest ? chain->writable_bytes - 1 : chain->readable_bytes - HEADER_SIZE;

    if (left % SECTOR_SIZE != 0 || !range_fits(offset, left, disk_size_bytes(blk->disk)))
        return VIRTIO_BLK_S_IOERR;
    for (unsigned i = 0; i < chain->count && left > 0; i++) {
        const struct virtq_segment *s = &chain->segments[i];
        if (s->device_writes != to_guest)
            continue;
        uint64_t in_segment = min_u64(skip, s->length);
        skip -= in_segment;
        size_t n = (size_t)min_u64(s->length - in_segment, left);
        if (n == 0)
            continue;
        uint8_t *hva = (uint8_t *)s->hva + in_segment;
        int r =
            to_guest ? disk_read(blk->disk, offset, hva, n) : disk_write(blk->disk, offset, hva, n);
        if (to_guest) /* a read that failed may have got half-way */
            memory_mark_dirty(blk->mem, s->gpa + in_segment, n);
        if (r < 0)
            return VIRTIO_BLK_S_IOERR;
        offset += n;
        left -= n;
        *moved += n;
    }
    return VIRTIO_BLK_S_OK;
}

/* 5.2.6.2: discard and write-zeroes carry ranges. Both make zeros here: cheap,
 * and a checkpoint then stores nothing for them. */
static uint8_t zero_ranges(struct blk *blk, const struct virtq_chain *chain, bool discard)
{
    uint64_t bytes = chain->readable_bytes - HEADER_SIZE;

    if (bytes == 0 || bytes % RANGE_SIZE != 0 || bytes / RANGE_SIZE > RANGES_MAX)
        return VIRTIO_BLK_S_UNSUPP;
    for (uint64_t at = 0; at < bytes; at += RANGE_SIZE) {
        uint8_t range[RANGE_SIZE];
        if (!virtq_chain_read(chain, HEADER_SIZE + at, range, sizeof(range)))
            return VIRTIO_BLK_S_IOERR;
        uint64_t sector = load_le64(range);
        uint32_t sectors = load_le32(range + 8);
        uint32_t flags = load_le32(range + 12);
        uint64_t capacity = disk_size_bytes(blk->disk) >> SECTOR_SHIFT;
        if (sectors > RANGE_SECTORS_MAX || !range_fits(sector, sectors, capacity))
            return VIRTIO_BLK_S_IOERR;
        if ((flags & ~1u) != 0 || (discard && flags != 0))
            return VIRTIO_BLK_S_UNSUPP;
        if (disk_zero(blk->disk, sector << SECTOR_SHIFT, (uint64_t)sectors << SECTOR_SHIFT) < 0)
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t send_id(struct blk *blk, const struct virtq_chain *chain, uint64_t *moved)
{
    char id[VIRTIO_BLK_ID_BYTES] = {0};

    snprintf(id, sizeof(id), "stasis-disk%u", blk->slot);
    size_t n = (size_t)min_u64(sizeof(id), chain->writable_bytes - 1);
    if (!virtq_chain_write(chain, blk->mem, 0, id, n))
        return VIRTIO_BLK_S_IOERR;
    *moved = n;
    return VIRTIO_BLK_S_OK;
}

static uint8_t serve_request(struct blk *blk, const struct virtq_chain *chain, uint32_t type,
                             uint64_t sector, uint64_t *moved)
{
    uint64_t offset;

    switch (type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        if (mul_overflows(sector, (uint64_t)SECTOR_SIZE, &offset))
            return VIRTIO_BLK_S_IOERR;
        return transfer_data(blk, chain, offset, type == VIRTIO_BLK_T_IN, moved);
    case VIRTIO_BLK_T_FLUSH:
        return disk_flush(blk->disk) < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return zero_ranges(blk, chain, type == VIRTIO_BLK_T_DISCARD);
    case VIRTIO_BLK_T_GET_ID:
        return send_id(blk, chain, moved);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static void count_request(struct blk_counters *c, uint32_t type, uint64_t moved, uint8_t status)
{
    if (status != VIRTIO_BLK_S_OK)
        counter_add(&c->errors, 1);
    switch (type) {
    case VIRTIO_BLK_T_IN:
        counter_add(&c->reads, 1);
        counter_add(&c->read_bytes, moved);
        break;
    case VIRTIO_BLK_T_OUT:
        counter_add(&c->writes, 1);
        counter_add(&c->written_bytes, moved);
        break;
    case VIRTIO_BLK_T_FLUSH:
        counter_add(&c->flushes, 1);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        counter_add(&c->discards, 1);
        break;
    default:
        break;
    }
}

static void blk_visit_counters(const void *device, const struct counter_visitor *visitor)
{
    const struct blk_counters *c = &((const struct blk *)device)->counters;

    counter_visit(visitor, "reads", &c->reads);
    counter_visit(visitor, "read_bytes", &c->read_bytes);
    counter_visit(visitor, "writes", &c->writes);
    counter_visit(visitor, "written_bytes", &c->written_bytes);
    counter_visit(visitor, "flushes", &c->flushes);
    counter_visit(visitor, "discards", &c->discards);
    counter_visit(visitor, "errors", &c->errors);
}

static int blk_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                     uint32_t *written_out)
{
    struct blk *blk = device;
    uint8_t header[HEADER_SIZE];
    uint64_t moved = 0;

    (void)queue;
    if (chain->writable_bytes == 0 || !virtq_chain_read(chain, 0, header, sizeof(header)))
        return -EPROTO;
    uint8_t status = serve_request(blk, chain, load_le32(header), load_le64(header + 8), &moved);
    count_request(&blk->counters, load_le32(header), moved, status);
    virtq_chain_write(chain, blk->mem, chain->writable_bytes - 1, &status, 1);
    *written_out =
        (uint32_t)min_u64(load_le32(header) == VIRTIO_BLK_T_OUT ? 1 : moved + 1, UINT32_MAX);
    return 0;
}

static void blk_destroy(void *device)
{
    free(device);
}

#define BLK_FEATURES                                                                               \
    (1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |   \
     1ull << VIRTIO_BLK_F_TOPOLOGY)

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .device_id = VIRTIO_ID_BLOCK,
    .features = BLK_FEATURES | 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES,
    .queue_count = 1,
    .queue_size_max = QUEUE_SIZE,
    .serve = blk_serve,
    .config = blk_config,
    .config_bytes = sizeof(struct virtio_blk_config),
    .counters = blk_visit_counters,
    .destroy = blk_destroy,
};

static const struct virtio_ops blk_read_only_ops = {
    .name = "virtio-blk",
    .device_id = VIRTIO_ID_BLOCK,
    .features = BLK_FEATURES | 1ull << VIRTIO_BLK_F_RO,
    .queue_count = 1,
    .queue_size_max = QUEUE_SIZE,
    .serve = blk_serve,
    .config = blk_config,
    .config_bytes = sizeof(struct virtio_blk_config),
    .counters = blk_visit_counters,
    .destroy = blk_destroy,
};

struct device *virtio_blk_create(uint16_t slot, struct disk *disk, struct memory *mem,
                                 const struct irq_line *irq)
{
    struct blk *blk = calloc(1, sizeof(*blk));

    if (blk == NULL)
        abort();
    blk->disk = disk;
    blk->mem = mem;
    blk->slot = slot;
    return virtio_create(slot, disk_is_read_only(disk) ? &blk_read_only_ops : &blk_ops, blk, mem,
                         irq);
}
