/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver and a hostile checkpoint at the entropy source: rings that overlap
 * what it writes, queues of odd sizes and places, descriptors of any kind. The input is
 * a program. */
#include "device_fuzz.h"

#include "base/bytes.h"
#include "vmm/devices/virtio.h"

enum { RAM = 4 << 20, RINGS = 0x1000, STEP = 6, STEPS_MAX = 400, QUEUE_SIZE = 8 };

static void raise_edge(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 16);
}

static void out(struct device *dev, uint64_t reg, uint32_t value)
{
    dev->ops->write(dev, reg, 4, value);
}

/* Otherwise few inputs would get as far as a request. */
static void start(struct device *dev)
{
    out(dev, 0x70, 0);
    out(dev, 0x24, 1);
    out(dev, 0x20, 1);
    out(dev, 0x24, 0);
    out(dev, 0x20, (uint32_t)dev->ops->read(dev, 0x10, 4));
    out(dev, 0x70, 11);
    out(dev, 0x38, QUEUE_SIZE);
    out(dev, 0x80, RINGS);
    out(dev, 0x90, RINGS + 0x800);
    out(dev, 0xa0, RINGS + 0x900);
    out(dev, 0x44, 1);
    out(dev, 0x70, 15);
}

/* A descriptor anywhere, its rings among it, and the next place of the ring that
 * leads to it. */
static void offer(struct memory *mem, const uint8_t *p)
{
    uint8_t *rings = mem->hva + RINGS;
    const uint16_t idx = load_le16(rings + 0x802);
    uint8_t *desc = rings + 16 * (p[0] % QUEUE_SIZE);

    store_le64(desc, (uint64_t)p[1] << (p[0] >> 4));
    store_le32(desc + 8, (uint32_t)load_le16(p + 2) << (p[0] >> 5));
    store_le16(desc + 12, (uint16_t)(p[4] & 0x80 ? p[4] : 2));
    store_le16(desc + 14, (uint16_t)(p[4] >> 4));
    store_le16(rings + 0x804 + 2 * (idx % QUEUE_SIZE), p[0] % QUEUE_SIZE);
    store_le16(rings + 0x802, (uint16_t)(idx + 1));
}

static void step(struct device *dev, struct memory *mem, const uint8_t *p, size_t left)
{
    switch (p[0] & 15) {
    case 0:
        device_fuzz_round_trip(dev);
        break;
    case 1:
        device_fuzz_restore(dev, STATE_VIRTIO_MMIO, p + STEP, left - STEP);
        break;
    case 2:
        start(dev);
        break;
    case 3:
    case 4: /* anything into the rings and tables */
        memcpy(mem->hva + RINGS + (load_le16(p + 1) & 0xfff), p + 3, 3);
        break;
    case 5:
    case 6:
    case 7:
        offer(mem, p + 1);
        virtio_kick(dev);
        break;
    case 8:
        virtio_kick(dev);
        break;
    case 9:
        dev->ops->resume(dev);
        break;
    case 10: /* registers, configuration space and what lies behind it */
        dev->ops->read(dev, load_le16(p + 1) & 0x3ff, 1u << (p[3] & 3));
        break;
    default:
        dev->ops->write(dev, p[1] & 0x3f ? p[1] * 4u : 0x50,
                        p[0] & 0x80 ? 1u << (p[0] >> 5 & 3) : 4, load_le32(p + 2));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = raise_edge, .gsi = 16};
    struct memory *mem = NULL;

    MUST(memory_create(RAM, &mem, NULL) == 0);
    struct device *dev = virtio_rng_create(0, mem, &irq);
    if (size > 0 && data[0] & 1)
        start(dev);
    for (size_t i = 0; i + STEP <= size && i < STEP * STEPS_MAX; i += STEP)
        step(dev, mem, data + i, size - i);
    device_fuzz_round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
