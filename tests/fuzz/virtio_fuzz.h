/* SPDX-License-Identifier: Apache-2.0 */
/* What the hostile drivers of all virtio devices have in common: rings at fixed places,
 * which the input may then overwrite, and a transport to speak to. */
#ifndef STASIS_TESTS_VIRTIO_FUZZ_H
#define STASIS_TESTS_VIRTIO_FUZZ_H

#include "device_fuzz.h"

#include "base/bytes.h"
#include "vmm/devices/virtio.h"

enum {
    VIRTIO_FUZZ_RAM = 4 << 20,
    VIRTIO_FUZZ_RINGS = 0x1000,
    VIRTIO_FUZZ_RINGS_SIZE = 0x1000, /* of a queue: descriptors, and where both rings are: */
    VIRTIO_FUZZ_AVAIL = 0x800,
    VIRTIO_FUZZ_USED = 0x900,
    VIRTIO_FUZZ_QUEUE_SIZE = 8,
    VIRTIO_FUZZ_STEP = 6, /* bytes of an instruction */
    VIRTIO_FUZZ_STEPS_MAX = 400,
};

static inline void virtio_fuzz_raise(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 16);
}

static inline uint32_t virtio_fuzz_rings(unsigned queue)
{
    return VIRTIO_FUZZ_RINGS + queue * VIRTIO_FUZZ_RINGS_SIZE;
}

static inline void virtio_fuzz_out(struct device *dev, uint64_t reg, uint32_t value)
{
    dev->ops->write(dev, reg, 4, value);
}

/* Brings the device up with those of the features it offers, and its first queues: few
 * inputs would get as far by themselves. (virtio 1.2, 3.1.1 and 4.2.2) */
static inline void virtio_fuzz_start(struct device *dev, unsigned queues, uint32_t features)
{
    virtio_fuzz_out(dev, 0x70, 0);
    virtio_fuzz_out(dev, 0x24, 1);
    virtio_fuzz_out(dev, 0x20, 1);
    virtio_fuzz_out(dev, 0x24, 0);
    virtio_fuzz_out(dev, 0x20, (uint32_t)dev->ops->read(dev, 0x10, 4) & features);
    virtio_fuzz_out(dev, 0x70, 11);
    for (unsigned queue = 0; queue < queues; queue++) {
        virtio_fuzz_out(dev, 0x30, queue);
        virtio_fuzz_out(dev, 0x38, VIRTIO_FUZZ_QUEUE_SIZE);
        virtio_fuzz_out(dev, 0x80, virtio_fuzz_rings(queue));
        virtio_fuzz_out(dev, 0x90, virtio_fuzz_rings(queue) + VIRTIO_FUZZ_AVAIL);
        virtio_fuzz_out(dev, 0xa0, virtio_fuzz_rings(queue) + VIRTIO_FUZZ_USED);
        virtio_fuzz_out(dev, 0x44, 1);
    }
    virtio_fuzz_out(dev, 0x70, 15);
}

/* Makes the chain that begins at descriptor `head` the next one of the queue. */
static inline void virtio_fuzz_offer(struct memory *mem, unsigned queue, uint16_t head)
{
    uint8_t *avail = mem->hva + virtio_fuzz_rings(queue) + VIRTIO_FUZZ_AVAIL;
    const uint16_t idx = load_le16(avail + 2);

    store_le16(avail + 4 + 2 * (idx % VIRTIO_FUZZ_QUEUE_SIZE), head);
    store_le16(avail + 2, (uint16_t)(idx + 1));
}

/* Any register, most often a queue's kick. */
static inline void virtio_fuzz_write(struct device *dev, const uint8_t *p)
{
    dev->ops->write(dev, p[1] & 0x3f ? p[1] * 4u : 0x50, p[0] & 0x80 ? 1u << (p[0] >> 5 & 3) : 4,
                    load_le32(p + 2));
}

/* A checkpoint whose records are the input: its first bytes, own_max at most, are the
 * device's own record, the others the transport's. The device can be saved then, whether
 * it took them or not. */
static inline void virtio_fuzz_restore(struct device *dev, enum state_type own, uint16_t version,
                                       size_t own_max, const uint8_t *payload, size_t size)
{
    _cleanup_(buffer_clear) struct buffer state = {0};
    const size_t own_size = (size_t)min_u64(size, own_max);
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_VIRTIO_MMIO, dev->instance, 1, 0);
    state_put_bytes(&w, payload + own_size, size - own_size);
    state_writer_end(&w);
    state_writer_begin(&w, own, dev->instance, version, 0);
    state_put_bytes(&w, payload, own_size);
    state_writer_end(&w);
    MUST(state_writer_finish(&w, &state) == 0);
    int r = dev->ops->restore(dev, state.data, state.length, NULL);
    MUST(r == 0 || r == -EBADMSG);
}

#endif
