/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/probe/virtio.h"
#include "guest/probe/io.h"
#include "guest/probe/text.h"

#define REG_MAGIC 0x000
#define REG_VERSION 0x004
#define REG_DEVICE_ID 0x008
#define REG_DEVICE_FEATURES 0x010
#define REG_DEVICE_FEATURES_SEL 0x014
#define REG_DRIVER_FEATURES 0x020
#define REG_DRIVER_FEATURES_SEL 0x024
#define REG_QUEUE_SEL 0x030
#define REG_QUEUE_NUM_MAX 0x034
#define REG_QUEUE_NUM 0x038
#define REG_QUEUE_READY 0x044
#define REG_QUEUE_NOTIFY 0x050
#define REG_INTERRUPT_STATUS 0x060
#define REG_INTERRUPT_ACK 0x064
#define REG_STATUS 0x070
#define REG_QUEUE_DESC 0x080
#define REG_QUEUE_DRIVER 0x090
#define REG_QUEUE_DEVICE 0x0a0
#define REG_CONFIG 0x100

#define MAGIC 0x74726976u
#define ID_BLK 2
#define ID_RNG 4
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

#define FEATURE_VERSION_1 32
#define FEATURE_BLK_RO 5
#define FEATURE_BLK_FLUSH 9
#define FEATURE_BLK_DISCARD 13
#define FEATURE_BLK_WRITE_ZEROES 14

#define QUEUE_SIZE 8
#define DESC_NEXT 1
#define DESC_WRITE 2
#define AVAIL_NO_INTERRUPT 1
#define PATIENCE 2000000000ull

#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4
#define BLK_GET_ID 8
#define BLK_DISCARD 11
#define BLK_WRITE_ZEROES 13

struct desc {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct queue {
    struct desc desc[QUEUE_SIZE] __attribute__((aligned(16)));
    struct {
        uint16_t flags;
        volatile uint16_t index;
        uint16_t ring[QUEUE_SIZE];
        uint16_t used_event;
    } avail __attribute__((aligned(4)));
    struct {
        uint16_t flags;
        volatile uint16_t index;
        struct {
            uint32_t id;
            uint32_t length;
        } ring[QUEUE_SIZE];
        uint16_t avail_event;
    } used __attribute__((aligned(4)));
};

struct virtio {
    uint64_t base;
    uint64_t features;
    uint16_t size;
    uint16_t seen; /* used entries taken so far */
    struct queue *queue;
};

struct blk_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

struct blk_range {
    uint64_t sector;
    uint32_t count;
    uint32_t flags;
};

uint64_t virtio_buffer[VIRTIO_BUFFER_SIZE / 8] __attribute__((aligned(4096)));

static struct queue queues[VIRTIO_BLK_MAX + 1] __attribute__((aligned(4096)));
static struct virtio disks[VIRTIO_BLK_MAX];
static unsigned disk_count;
static struct virtio rng;

static struct blk_header header;
static struct blk_range range;
static volatile uint8_t blk_status;

static uint64_t offered_features(uint64_t base)
{
    uint64_t low, high;

    mmio_write32(base + REG_DEVICE_FEATURES_SEL, 0);
    low = mmio_read32(base + REG_DEVICE_FEATURES);
    mmio_write32(base + REG_DEVICE_FEATURES_SEL, 1);
    high = mmio_read32(base + REG_DEVICE_FEATURES);
    return high << 32 | low;
}

static bool negotiate(struct virtio *dev, uint64_t wanted)
{
    uint32_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;

    mmio_write32(dev->base + REG_STATUS, 0);
    while (mmio_read32(dev->base + REG_STATUS) != 0)
        cpu_relax();
    mmio_write32(dev->base + REG_STATUS, STATUS_ACKNOWLEDGE);
    mmio_write32(dev->base + REG_STATUS, status);
    dev->features = offered_features(dev->base) & (wanted | 1ull << FEATURE_VERSION_1);
    mmio_write32(dev->base + REG_DRIVER_FEATURES_SEL, 0);
    mmio_write32(dev->base + REG_DRIVER_FEATURES, (uint32_t)dev->features);
    mmio_write32(dev->base + REG_DRIVER_FEATURES_SEL, 1);
    mmio_write32(dev->base + REG_DRIVER_FEATURES, (uint32_t)(dev->features >> 32));
    mmio_write32(dev->base + REG_STATUS, status | STATUS_FEATURES_OK);
    return (mmio_read32(dev->base + REG_STATUS) & STATUS_FEATURES_OK) != 0;
}

static void write_address(uint64_t reg, const volatile void *address)
{
    mmio_write32(reg, (uint32_t)(uint64_t)address);
    mmio_write32(reg + 4, (uint32_t)((uint64_t)address >> 32));
}

static bool set_up_queue(struct virtio *dev, struct queue *queue)
{
    uint32_t max;

    mmio_write32(dev->base + REG_QUEUE_SEL, 0);
    max = mmio_read32(dev->base + REG_QUEUE_NUM_MAX);
    if (max < 4)
        return false;
    dev->size = max < QUEUE_SIZE ? 4 : QUEUE_SIZE;
    dev->queue = queue;
    queue->avail.flags = AVAIL_NO_INTERRUPT;
    mmio_write32(dev->base + REG_QUEUE_NUM, dev->size);
    write_address(dev->base + REG_QUEUE_DESC, queue->desc);
    write_address(dev->base + REG_QUEUE_DRIVER, &queue->avail);
    write_address(dev->base + REG_QUEUE_DEVICE, &queue->used);
    mmio_write32(dev->base + REG_QUEUE_READY, 1);
    mmio_write32(dev->base + REG_STATUS,
                 STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
    return true;
}

static void try_device(uint64_t base)
{
    const uint64_t blk_features = 1ull << FEATURE_BLK_RO | 1ull << FEATURE_BLK_FLUSH |
                                  1ull << FEATURE_BLK_DISCARD | 1ull << FEATURE_BLK_WRITE_ZEROES;
    struct virtio dev = {.base = base};
    uint32_t id;

    if (mmio_read32(base + REG_MAGIC) != MAGIC || mmio_read32(base + REG_VERSION) != 2)
        return;
    id = mmio_read32(base + REG_DEVICE_ID);
    if (id == ID_BLK && disk_count < VIRTIO_BLK_MAX && negotiate(&dev, blk_features) &&
        set_up_queue(&dev, &queues[disk_count]))
        disks[disk_count++] = dev;
    if (id == ID_RNG && rng.base == 0 && negotiate(&dev, 0) &&
        set_up_queue(&dev, &queues[VIRTIO_BLK_MAX]))
        rng = dev;
}

static const char *scan_window(const char *text)
{
    uint64_t base, stride, count;

    if (!text_number(text, &base, &text) || *text != ',' ||
        !text_number(text + 1, &stride, &text) || *text != ',' ||
        !text_number(text + 1, &count, &text))
        return text;
    for (uint64_t i = 0; i < count && i < 64; i++)
        try_device(base + i * stride);
    return text;
}

static const char *scan_device(const char *text)
{
    uint64_t size, base;

    if (!text_number(text, &size, &text))
        return text;
    if (*text == 'k' || *text == 'K')
        text++;
    if (*text != '@' || !text_number(text + 1, &base, &text))
        return text;
    try_device(base);
    return text;
}

void virtio_init(const char *cmdline)
{
    while (*cmdline != '\0') {
        const char *after;

        if ((after = text_after(cmdline, "virtio=")) != NULL)
            cmdline = scan_window(after);
        else if ((after = text_after(cmdline, "virtio_mmio.device=")) != NULL)
            cmdline = scan_device(after);
        while (*cmdline != '\0' && *cmdline != ' ')
            cmdline++;
        while (*cmdline == ' ')
            cmdline++;
    }
}

/* Descriptors 0.. hold the request. */
static bool submit(struct virtio *dev)
{
    struct queue *queue = dev->queue;
    uint16_t index = queue->avail.index;
    uint64_t patience = PATIENCE;

    queue->avail.ring[index % dev->size] = 0;
    __asm__ volatile("" ::: "memory");
    queue->avail.index = (uint16_t)(index + 1);
    __asm__ volatile("" ::: "memory");
    mmio_write32(dev->base + REG_QUEUE_NOTIFY, 0);
    while (queue->used.index == dev->seen) {
        if (patience-- == 0)
            return false;
        cpu_relax();
    }
    dev->seen++;
    mmio_write32(dev->base + REG_INTERRUPT_ACK, mmio_read32(dev->base + REG_INTERRUPT_STATUS));
    return true;
}

static void put_desc(struct virtio *dev, unsigned n, const volatile void *address, uint32_t length,
                     unsigned flags)
{
    dev->queue->desc[n] =
        (struct desc){(uint64_t)address, length, (uint16_t)flags, (uint16_t)(n + 1)};
}

static const char *blk_request(unsigned disk, uint32_t type, uint64_t sector, const void *data,
                               uint32_t bytes, bool device_writes)
{
    struct virtio *dev = &disks[disk];
    unsigned n = 0;

    if (disk >= disk_count)
        return "no such disk";
    header = (struct blk_header){type, 0, sector};
    blk_status = 0xff;
    put_desc(dev, n++, &header, sizeof(header), DESC_NEXT);
    if (bytes > 0)
        put_desc(dev, n++, data, bytes, DESC_NEXT | (device_writes ? DESC_WRITE : 0));
    put_desc(dev, n, &blk_status, 1, DESC_WRITE);
    if (!submit(dev))
        return "the disk does not answer";
    switch (blk_status) {
    case 0:
        return NULL;
    case 1:
        return "the disk reports an I/O error";
    case 2:
        return "the disk does not support this";
    default:
        return "the disk wrote no valid status";
    }
}

unsigned virtio_blk_count(void)
{
    return disk_count;
}

const char *virtio_blk_info(unsigned disk, struct virtio_blk_info *out)
{
    const struct virtio *dev = &disks[disk];

    if (disk >= disk_count)
        return "no such disk";
    out->sectors = mmio_read32(dev->base + REG_CONFIG) |
                   (uint64_t)mmio_read32(dev->base + REG_CONFIG + 4) << 32;
    out->has_flush = (dev->features >> FEATURE_BLK_FLUSH & 1) != 0;
    out->has_discard = (dev->features >> FEATURE_BLK_DISCARD & 1) != 0;
    out->read_only = (dev->features >> FEATURE_BLK_RO & 1) != 0;
    memset(out->serial, 0, sizeof(out->serial));
    memset(virtio_buffer, 0, 20);
    if (blk_request(disk, BLK_GET_ID, 0, virtio_buffer, 20, true) == NULL)
        memcpy(out->serial, virtio_buffer, 20);
    return NULL;
}

const char *virtio_blk_read(unsigned disk, uint64_t lba, void *buffer, uint32_t bytes)
{
    return blk_request(disk, BLK_IN, lba, buffer, bytes, true);
}

const char *virtio_blk_write(unsigned disk, uint64_t lba, const void *buffer, uint32_t bytes)
{
    return blk_request(disk, BLK_OUT, lba, buffer, bytes, false);
}

const char *virtio_blk_flush(unsigned disk)
{
    return blk_request(disk, BLK_FLUSH, 0, NULL, 0, false);
}

const char *virtio_blk_discard(unsigned disk, uint64_t lba, uint32_t sectors)
{
    range = (struct blk_range){lba, sectors, 0};
    return blk_request(disk, BLK_DISCARD, 0, &range, sizeof(range), false);
}

const char *virtio_blk_zero(unsigned disk, uint64_t lba, uint32_t sectors)
{
    range = (struct blk_range){lba, sectors, 0};
    return blk_request(disk, BLK_WRITE_ZEROES, 0, &range, sizeof(range), false);
}

const char *virtio_rng_read(void *buffer, uint32_t bytes)
{
    if (rng.base == 0)
        return "no entropy device";
    put_desc(&rng, 0, buffer, bytes, DESC_WRITE);
    if (!submit(&rng))
        return "the entropy device does not answer";
    if (rng.queue->used.ring[(uint16_t)(rng.seen - 1) % rng.size].length == 0)
        return "the entropy device gave nothing";
    return NULL;
}
