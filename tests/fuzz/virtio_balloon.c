/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver, and a hostile checkpoint, at virtio-mmio with a balloon. The input
 * is a program of six-byte steps. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/devices/virtio.h"
#include "vmm/devices/virtio_balloon.h"

#include <errno.h>

enum { RAM = 4 << 20, QUEUES = 4, RING_STRIDE = 0x1000, RINGS = 0x1000, DATA = 0x8000, STEP = 6 };

static void raise_edge(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 16);
}

static struct buffer save(struct device *dev)
{
    struct state_writer w;
    struct buffer out = {0};

    state_writer_init(&w);
    dev->ops->save(dev, &w);
    MUST(state_writer_finish(&w, &out) == 0);
    MUST(state_check(out.data, out.length, NULL) == 0);
    return out;
}

/* What was saved restores to the same. */
static void round_trip(struct device *dev)
{
    _cleanup_(buffer_clear) struct buffer before = save(dev);

    dev->ops->reset(dev);
    MUST(dev->ops->restore(dev, before.data, before.length, NULL) == 0);
    _cleanup_(buffer_clear) struct buffer after = save(dev);
    MUST(before.length == after.length && memcmp(before.data, after.data, after.length) == 0);
}

static void restore(struct device *dev, const uint8_t *payload, size_t size)
{
    _cleanup_(buffer_clear) struct buffer good = save(dev), state = {0};
    struct state_record mmio;
    struct state_writer w;

    MUST(state_find(good.data, good.length, STATE_VIRTIO_MMIO, 0, &mmio) == 0);
    state_writer_init(&w);
    state_writer_begin(&w, STATE_VIRTIO_MMIO, 0, 1, 0);
    state_put_bytes(&w, mmio.payload, mmio.length);
    state_writer_end(&w);
    state_writer_begin(&w, STATE_VIRTIO_BALLOON, 0, 1, 0);
    state_put_bytes(&w, payload, size < 12 ? size : 12);
    state_writer_end(&w);
    MUST(state_writer_finish(&w, &state) == 0);
    int r = dev->ops->restore(dev, state.data, state.length, NULL);
    MUST(r == 0 || r == -EBADMSG);
}

static void out(struct device *dev, uint64_t reg, uint32_t value)
{
    dev->ops->write(dev, reg, 4, value);
}

/* Takes those of the offered features that the input wants. */
static void start(struct device *dev, uint32_t features)
{
    out(dev, 0x70, 0);
    out(dev, 0x24, 1);
    out(dev, 0x20, 1);
    out(dev, 0x24, 0);
    out(dev, 0x20, (uint32_t)dev->ops->read(dev, 0x10, 4) & features);
    out(dev, 0x70, 11);
    for (uint32_t q = 0; q < QUEUES; q++) {
        uint32_t rings = RINGS + RING_STRIDE * q;
        out(dev, 0x30, q);
        out(dev, 0x38, 8);
        out(dev, 0x80, rings);
        out(dev, 0x90, rings + 0x800);
        out(dev, 0xa0, rings + 0x900);
        out(dev, 0x44, 1);
    }
    out(dev, 0x70, 15);
}

/* One buffer on queue p[0], of a place and length that the input chooses. */
static void request(struct memory *mem, const uint8_t *p)
{
    uint8_t *rings = mem->hva + RINGS + RING_STRIDE * (p[0] % QUEUES);
    uint16_t idx = load_le16(rings + 0x802);

    store_le64(rings, DATA + (uint64_t)p[1] * 1024);
    store_le32(rings + 8, load_le16(p + 2) * 4u);
    store_le16(rings + 12, (uint16_t)(p[4] & 2));
    store_le16(rings + 0x804 + 2 * (idx % 8), 0);
    store_le16(rings + 0x802, (uint16_t)(idx + 1));
}

static void step(struct device *dev, struct memory *mem, const uint8_t *p, size_t left)
{
    struct balloon_status status;

    switch (p[0] & 15) {
    case 0:
        round_trip(dev);
        break;
    case 1:
        restore(dev, p + STEP, left - STEP);
        break;
    case 2:
        start(dev, load_le32(p + 1));
        break;
    case 3: /* anything into the rings */
        memcpy(mem->hva + RINGS + (load_le16(p + 1) & 0x3fff), p + 3, 3);
        break;
    case 4:
    case 5: /* page numbers, statistics */
        memcpy(mem->hva + DATA + 4u * p[1], p + 2, 4);
        break;
    case 6:
    case 7:
    case 8:
        request(mem, p + 1);
        virtio_kick(dev);
        break;
    case 9:
        virtio_balloon_poll(dev);
        break;
    case 10:
        virtio_balloon_set_target(dev, p[1] * 4096u);
        break;
    case 11:
        dev->ops->resume(dev);
        break;
    case 12:
        virtio_balloon_status(dev, &status);
        MUST(status.target_bytes < RAM);
        break;
    default:
        dev->ops->write(dev, p[1] * 4u, 4, load_le32(p + 2));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = raise_edge, .gsi = 16};
    struct memory *mem = NULL;

    MUST(memory_create(RAM, &mem, NULL) == 0);
    struct device *dev = virtio_balloon_create(0, mem, &irq);
    if (size > 0 && data[0] & 1)
        start(dev, UINT32_MAX);
    for (size_t i = 0; i + STEP <= size && i < STEP * 400; i += STEP)
        step(dev, mem, data + i, size - i);
    round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
