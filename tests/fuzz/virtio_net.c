/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver, a hostile checkpoint and a busy network at a network card. The
 * input is a program. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/devices/virtio.h"
#include "vmm/net/frame_queue.h"

#include <errno.h>
#include <string.h>

enum { RAM = 4 << 20, RINGS = 0x1000, RINGS_SIZE = 0x1000, QUEUES = 3, DATA = 0x4000, STEP = 6 };

static bool partial; /* the network completes checksums */
static bool shared;  /* and there are others */

static const uint8_t mac[MANIFEST_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

static void raise_edge(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 16);
}

/* Reads all of what the network is given. */
static void take_frame(const struct net_frame *frame, void *context)
{
    static uint8_t copy[FRAME_SIZE_MAX];

    MUST(frame->length >= FRAME_SIZE_MIN && frame->length <= FRAME_SIZE_MAX && context == NULL);
    memcpy(copy, frame->bytes, frame->length);
    MUST(frame->offload.sum != NET_SUM_PARTIAL ||
         (partial && frame->offload.sum_start + frame->offload.sum_offset + 2u <= frame->length));
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

/* What was saved restores to the same, but that a driver that comes to a network with
 * others is asked to announce itself. */
static void round_trip(struct device *dev)
{
    if (shared) {
        _cleanup_(buffer_clear) struct buffer moved = save(dev);
        MUST(dev->ops->restore(dev, moved.data, moved.length, NULL) == 0);
    }
    _cleanup_(buffer_clear) struct buffer before = save(dev);

    dev->ops->reset(dev);
    MUST(dev->ops->restore(dev, before.data, before.length, NULL) == 0);
    _cleanup_(buffer_clear) struct buffer after = save(dev);
    MUST(before.length == after.length && memcmp(before.data, after.data, after.length) == 0);
}

/* The first bytes are the card's own record, the others the transport's. */
static void restore(struct device *dev, const uint8_t *payload, size_t size)
{
    _cleanup_(buffer_clear) struct buffer state = {0};
    const size_t own = (size_t)min_u64(size, 8);
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_VIRTIO_MMIO, dev->instance, 1, 0);
    state_put_bytes(&w, payload + own, size - own);
    state_writer_end(&w);
    state_writer_begin(&w, STATE_VIRTIO_NET, dev->instance, 2, 0);
    state_put_bytes(&w, payload, own);
    state_writer_end(&w);
    MUST(state_writer_finish(&w, &state) == 0);
    int r = dev->ops->restore(dev, state.data, state.length, NULL);
    MUST(r == 0 || r == -EBADMSG);
    round_trip(dev);
}

static void out(struct device *dev, uint64_t reg, uint32_t value)
{
    dev->ops->write(dev, reg, 4, value);
}

static uint32_t ring_gpa(unsigned queue)
{
    return RINGS + queue * RINGS_SIZE;
}

/* Otherwise few inputs would get as far as a frame. */
static void start(struct device *dev)
{
    out(dev, 0x70, 0);
    out(dev, 0x24, 1);
    out(dev, 0x20, 1);
    out(dev, 0x24, 0);
    out(dev, 0x20, (uint32_t)dev->ops->read(dev, 0x10, 4));
    out(dev, 0x70, 11);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        out(dev, 0x30, queue);
        out(dev, 0x38, 8);
        out(dev, 0x80, ring_gpa(queue));
        out(dev, 0x90, ring_gpa(queue) + 0x800);
        out(dev, 0xa0, ring_gpa(queue) + 0x900);
        out(dev, 0x44, 1);
    }
    out(dev, 0x70, 15);
}

/* A chain of two parts whose lengths the input chooses, on any queue; most of those for
 * commands end with a place for the answer. */
static void offer(struct memory *mem, const uint8_t *p)
{
    const unsigned queue = (p[0] & 3) % QUEUES;
    uint8_t *rings = mem->hva + ring_gpa(queue);
    const uint16_t idx = load_le16(rings + 0x802);
    const bool upside_down = (p[0] & 0x70) == 0x70;

    for (unsigned i = 0; i < 2; i++) {
        const uint16_t writes = (queue == 0 || (queue == 2 && i == 1)) != upside_down ? 2 : 0;
        uint8_t *desc = rings + 16 * i;
        store_le64(desc, (uint64_t)DATA + i * 0x10000u);
        store_le32(desc + 8, i == 0 ? p[1] : load_le16(p + 2) + (p[0] & 2) * 0x8000u);
        store_le16(desc + 12, (uint16_t)(writes | (i == 0)));
        store_le16(desc + 14, 1);
    }
    store_le16(rings + 0x804 + 2 * (idx % 8), 0);
    store_le16(rings + 0x802, (uint16_t)(idx + 1));
}

/* A frame whose checksum may be anywhere. */
static void receive(struct device *dev, const uint8_t *p)
{
    static const uint8_t bytes[FRAME_SIZE_MAX];
    const struct net_frame frame = {
        .bytes = bytes,
        .length = p[4] & 0x80 ? load_le16(p) : load_le16(p) % 1600,
        .offload = {.sum = p[4] % 3, .sum_start = p[2], .sum_offset = load_le16(p + 2)}};

    virtio_net_receive(dev, &frame);
}

static void step(struct device *dev, struct memory *mem, const uint8_t *p, size_t left)
{
    switch (p[0] & 15) {
    case 0:
        round_trip(dev);
        break;
    case 1:
        restore(dev, p + STEP, left - STEP);
        break;
    case 2:
        start(dev);
        break;
    case 3: /* anything into the rings and tables */
        memcpy(mem->hva + RINGS + load_le16(p + 1) % (QUEUES * RINGS_SIZE - 3), p + 3, 3);
        break;
    case 4: /* and into the header of a frame */
        memcpy(mem->hva + DATA + (p[1] & 15), p + 2, 4);
        break;
    case 5:
    case 6:
    case 7:
        offer(mem, p + 1);
        virtio_kick(dev);
        break;
    case 8:
    case 9:
        receive(dev, p + 1);
        break;
    case 10:
        virtio_net_hold(dev, p[1] & 1);
        break;
    case 11:
        dev->ops->resume(dev);
        break;
    case 12:
        dev->ops->read(dev, p[1] * 4u + (p[2] >> 6), 1u << (p[2] & 3));
        break;
    default:
        dev->ops->write(dev, p[1] & 0x3f ? p[1] * 4u : 0x50,
                        p[0] & 0x80 ? 1u << (p[0] >> 5 & 3) : 4, load_le32(p + 2));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = raise_edge, .gsi = 16};
    const struct net_backend backend = {.send = take_frame,
                                        .completes_sums = size > 0 && (data[0] & 0x10) != 0,
                                        .shared = size > 0 && (data[0] & 0x20) != 0};
    struct memory *mem = NULL;

    partial = backend.completes_sums;
    shared = backend.shared;
    MUST(memory_create(RAM, &mem, NULL) == 0);
    struct device *dev = virtio_net_create(0, mac, &backend, mem, &irq);
    if (size > 0 && data[0] & 1) {
        start(dev);
        virtio_net_hold(dev, false);
    }
    for (size_t i = 0; i + STEP <= size && i < STEP * 400; i += STEP)
        step(dev, mem, data + i, size - i);
    round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
