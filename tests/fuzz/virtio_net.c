/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver, a hostile checkpoint and a busy network at a network card. The
 * input is a program. */
#include "virtio_fuzz.h"

#include "vmm/net/frame_queue.h"

enum { QUEUES = 3, DATA = 0x4000 };

static bool partial; /* the network completes checksums */
static bool shared;  /* and there are others */

static const uint8_t mac[MANIFEST_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

/* Reads all of what the network is given. */
static void take_frame(const struct net_frame *frame, void *context)
{
    static uint8_t copy[FRAME_SIZE_MAX];

    MUST(frame->length >= FRAME_SIZE_MIN && frame->length <= FRAME_SIZE_MAX && context == NULL);
    memcpy(copy, frame->bytes, frame->length);
    MUST(frame->offload.sum != NET_SUM_PARTIAL ||
         (partial && frame->offload.sum_start + frame->offload.sum_offset + 2u <= frame->length));
}

/* What was saved restores to the same, but that a driver that comes to a network with
 * others is asked to announce itself. */
static void round_trip(struct device *dev)
{
    if (shared) {
        _cleanup_(buffer_clear) struct buffer moved = device_fuzz_save(dev);
        MUST(dev->ops->restore(dev, moved.data, moved.length, NULL) == 0);
    }
    device_fuzz_round_trip(dev);
}

static void restore(struct device *dev, const uint8_t *payload, size_t size)
{
    virtio_fuzz_restore(dev, STATE_VIRTIO_NET, 2, 8, payload, size);
    round_trip(dev);
}

/* A chain of two parts whose lengths the input chooses, on any queue; most of those for
 * commands end with a place for the answer. */
static void offer(struct memory *mem, const uint8_t *p)
{
    const unsigned queue = (p[0] & 3) % QUEUES;
    uint8_t *rings = mem->hva + virtio_fuzz_rings(queue);
    const bool upside_down = (p[0] & 0x70) == 0x70;

    for (unsigned i = 0; i < 2; i++) {
        const uint16_t writes = (queue == 0 || (queue == 2 && i == 1)) != upside_down ? 2 : 0;
        uint8_t *desc = rings + 16 * i;
        store_le64(desc, (uint64_t)DATA + i * 0x10000u);
        store_le32(desc + 8, i == 0 ? p[1] : load_le16(p + 2) + (p[0] & 2) * 0x8000u);
        store_le16(desc + 12, (uint16_t)(writes | (i == 0)));
        store_le16(desc + 14, 1);
    }
    virtio_fuzz_offer(mem, queue, 0);
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
        restore(dev, p + VIRTIO_FUZZ_STEP, left - VIRTIO_FUZZ_STEP);
        break;
    case 2:
        virtio_fuzz_start(dev, QUEUES, UINT32_MAX);
        break;
    case 3: /* anything into the rings and tables */
        memcpy(mem->hva + VIRTIO_FUZZ_RINGS +
                   load_le16(p + 1) % (QUEUES * VIRTIO_FUZZ_RINGS_SIZE - 3),
               p + 3, 3);
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
        virtio_fuzz_write(dev, p);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = virtio_fuzz_raise, .gsi = 16};
    const struct net_backend backend = {.send = take_frame,
                                        .completes_sums = size > 0 && (data[0] & 0x10) != 0,
                                        .shared = size > 0 && (data[0] & 0x20) != 0};
    struct memory *mem = NULL;

    partial = backend.completes_sums;
    shared = backend.shared;
    MUST(memory_create(VIRTIO_FUZZ_RAM, &mem, NULL) == 0);
    struct device *dev = virtio_net_create(0, mac, &backend, mem, &irq);
    if (size > 0 && data[0] & 1) {
        virtio_fuzz_start(dev, QUEUES, UINT32_MAX);
        virtio_net_hold(dev, false);
    }
    for (size_t i = 0; i + VIRTIO_FUZZ_STEP <= size && i < VIRTIO_FUZZ_STEP * VIRTIO_FUZZ_STEPS_MAX;
         i += VIRTIO_FUZZ_STEP)
        step(dev, mem, data + i, size - i);
    round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
