/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver, and a hostile checkpoint, at virtio-mmio with a balloon. The input
 * is a program of six-byte steps. */
#include "virtio_fuzz.h"

#include "vmm/devices/virtio_balloon.h"

enum { QUEUES = 4, DATA = 0x8000 };

static void restore(struct device *dev, const uint8_t *payload, size_t size)
{
    _cleanup_(buffer_clear) struct buffer good = device_fuzz_save(dev), state = {0};
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

/* One buffer on queue p[0], of a place and length that the input chooses. */
static void request(struct memory *mem, const uint8_t *p)
{
    uint8_t *rings = mem->hva + virtio_fuzz_rings(p[0] % QUEUES);

    store_le64(rings, DATA + (uint64_t)p[1] * 1024);
    store_le32(rings + 8, load_le16(p + 2) * 4u);
    store_le16(rings + 12, (uint16_t)(p[4] & 2));
    virtio_fuzz_offer(mem, p[0] % QUEUES, 0);
}

static void step(struct device *dev, struct memory *mem, const uint8_t *p, size_t left)
{
    struct balloon_status status;

    switch (p[0] & 15) {
    case 0:
        device_fuzz_round_trip(dev);
        break;
    case 1:
        restore(dev, p + VIRTIO_FUZZ_STEP, left - VIRTIO_FUZZ_STEP);
        break;
    case 2:
        virtio_fuzz_start(dev, QUEUES, load_le32(p + 1));
        break;
    case 3: /* anything into the rings */
        memcpy(mem->hva + VIRTIO_FUZZ_RINGS + (load_le16(p + 1) & 0x3fff), p + 3, 3);
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
        MUST(status.target_bytes < VIRTIO_FUZZ_RAM);
        break;
    default:
        dev->ops->write(dev, p[1] * 4u, 4, load_le32(p + 2));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = virtio_fuzz_raise, .gsi = 16};
    struct memory *mem = NULL;

    MUST(memory_create(VIRTIO_FUZZ_RAM, &mem, NULL) == 0);
    struct device *dev = virtio_balloon_create(0, mem, &irq);
    if (size > 0 && data[0] & 1)
        virtio_fuzz_start(dev, QUEUES, UINT32_MAX);
    for (size_t i = 0; i + VIRTIO_FUZZ_STEP <= size && i < VIRTIO_FUZZ_STEP * VIRTIO_FUZZ_STEPS_MAX;
         i += VIRTIO_FUZZ_STEP)
        step(dev, mem, data + i, size - i);
    device_fuzz_round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
