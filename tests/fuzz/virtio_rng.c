/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver and a hostile checkpoint at the entropy source: rings that overlap
 * what it writes, queues of odd sizes and places, descriptors of any kind. The input is
 * a program. */
#include "virtio_fuzz.h"

/* A descriptor anywhere, its rings among it, and the next place of the ring that
 * leads to it. */
static void offer(struct memory *mem, const uint8_t *p)
{
    uint8_t *rings = mem->hva + VIRTIO_FUZZ_RINGS;
    uint8_t *desc = rings + 16 * (p[0] % VIRTIO_FUZZ_QUEUE_SIZE);

    store_le64(desc, (uint64_t)p[1] << (p[0] >> 4));
    store_le32(desc + 8, (uint32_t)load_le16(p + 2) << (p[0] >> 5));
    store_le16(desc + 12, (uint16_t)(p[4] & 0x80 ? p[4] : 2));
    store_le16(desc + 14, (uint16_t)(p[4] >> 4));
    virtio_fuzz_offer(mem, 0, p[0] % VIRTIO_FUZZ_QUEUE_SIZE);
}

static void step(struct device *dev, struct memory *mem, const uint8_t *p, size_t left)
{
    switch (p[0] & 15) {
    case 0:
        device_fuzz_round_trip(dev);
        break;
    case 1:
        device_fuzz_restore(dev, STATE_VIRTIO_MMIO, p + VIRTIO_FUZZ_STEP, left - VIRTIO_FUZZ_STEP);
        break;
    case 2:
        virtio_fuzz_start(dev, 1, UINT32_MAX);
        break;
    case 3:
    case 4: /* anything into the rings and tables */
        memcpy(mem->hva + VIRTIO_FUZZ_RINGS + (load_le16(p + 1) & 0xfff), p + 3, 3);
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
        virtio_fuzz_write(dev, p);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = virtio_fuzz_raise, .gsi = 16};
    struct memory *mem = NULL;

    MUST(memory_create(VIRTIO_FUZZ_RAM, &mem, NULL) == 0);
    struct device *dev = virtio_rng_create(0, mem, &irq);
    if (size > 0 && data[0] & 1)
        virtio_fuzz_start(dev, 1, UINT32_MAX);
    for (size_t i = 0; i + VIRTIO_FUZZ_STEP <= size && i < VIRTIO_FUZZ_STEP * VIRTIO_FUZZ_STEPS_MAX;
         i += VIRTIO_FUZZ_STEP)
        step(dev, mem, data + i, size - i);
    device_fuzz_round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
