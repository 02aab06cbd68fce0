/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile checkpoint's state, as a whole, at all devices of a board without KVM. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/virtio.h"
#include "vmm/devices/virtio_balloon.h"
#include "vmm/layout.h"

#include <errno.h>

enum {
    RAM = 4 << 20,
    FILLED = 64 << 10,
    WRITES_MAX = 300,
    GUEST_CID = 3,
    DEVICES = 10,
    RECORDS = 14
};

static const uint8_t mac[MANIFEST_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

static void raise_edge(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 1);
}

static void output(const uint8_t *bytes, size_t length, void *context)
{
    MUST(context == NULL && length > 0 && bytes != NULL);
}

static int64_t now_us(void *context)
{
    (void)context;
    return 1700000000000000;
}

static void event(void *context)
{
    (void)context;
}

static void make_board(struct memory *mem, struct device *devices[DEVICES])
{
    const struct irq_line irq = {.raise = raise_edge, .gsi = 1};
    const struct serial_backend backend = {.output = output};

    devices[0] = serial_create(&irq, &backend);
    devices[1] = rtc_create(now_us, NULL);
    devices[2] = i8042_create(&irq, event, NULL);
    devices[3] = acpi_pm_create(event, event, NULL);
    devices[4] = virtio_rng_create(0, mem, &irq);
    devices[5] = virtio_rng_create(1, mem, &irq);
    devices[6] = virtio_net_create(2, mac, NULL, mem, &irq);
    devices[8] = virtio_balloon_create(3, mem, &irq);
    devices[7] = vmgenid_create(mem, LAYOUT_VMGENID, &irq);
    devices[9] = virtio_vsock_create(4, GUEST_CID, mem, &irq);
}

/* The framing is imgfmt's, which has a fuzzer: here it is right, and the input gives
 * records: which, version, length, payload. */
static struct buffer frame(const uint8_t *data, size_t size)
{
    static const struct {
        enum state_type type;
        uint16_t instance;
    } records[RECORDS] = {
        {STATE_SERIAL, 0},         {STATE_RTC, 0},
        {STATE_I8042, 0},          {STATE_ACPI_PM, 0},
        {STATE_VIRTIO_MMIO, 0},    {STATE_VIRTIO_MMIO, 1},
        {STATE_VIRTIO_MMIO, 2},    {STATE_VIRTIO_NET, 2},
        {STATE_VMGENID, 0},        {STATE_VIRTIO_MMIO, 3},
        {STATE_VIRTIO_BALLOON, 3}, {STATE_VIRTIO_MMIO, 4},
        {STATE_VIRTIO_VSOCK, 4},   {STATE_NET_CONNECTIONS, 2},
    };
    struct buffer out = {0};
    struct state_writer w;
    unsigned seen = 0;

    state_writer_init(&w);
    for (size_t i = 0; i + 2 <= size;) {
        unsigned record = data[i] % RECORDS;
        size_t length = (size_t)min_u64(data[i + 1], size - i - 2);
        if ((seen >> record & 1) == 0) {
            state_writer_begin(&w, records[record].type, records[record].instance,
                               data[i] < 240 ? 1 : 2, 0);
            state_put_bytes(&w, data + i + 2, length);
            state_writer_end(&w);
        }
        seen |= 1u << record;
        i += 2 + length;
    }
    MUST(state_writer_finish(&w, &out) == 0);
    return out;
}

/* What the machine's bytes are when the state comes: rings, as far as any lead there. */
static void fill_memory(struct memory *mem, const uint8_t *data, size_t size)
{
    for (size_t at = 0; size > 0 && at < FILLED; at += size)
        memcpy(mem->hva + at, data, (size_t)min_u64(size, FILLED - at));
}

static struct buffer save(struct device *device)
{
    struct buffer out = {0};
    struct state_writer w;

    state_writer_init(&w);
    if (device->ops->quiesce != NULL)
        device->ops->quiesce(device);
    device->ops->save(device, &w);
    MUST(state_writer_finish(&w, &out) == 0);
    MUST(state_check(out.data, out.length, NULL) == 0);
    return out;
}

/* What was taken over is saved the same, before anybody has used it. */
static void check_saved(struct device *device)
{
    _cleanup_(buffer_clear) struct buffer first = save(device);

    MUST(device->ops->restore(device, first.data, first.length, NULL) == 0);
    _cleanup_(buffer_clear) struct buffer second = save(device);
    MUST(first.length == second.length);
    MUST(memcmp(first.data, second.data, first.length) == 0);
}

/* The guest goes on: all registers are read, and some written. */
static void use(struct device *device, const uint8_t *data, size_t size)
{
    const struct device_ops *ops = device->ops;

    if (ops->resume != NULL)
        ops->resume(device);
    for (uint64_t offset = 0; ops->read != NULL && offset < 0x108; offset++)
        for (unsigned bytes = 1; bytes <= 4; bytes *= 2)
            ops->read(device, offset, bytes);
    for (size_t i = 0; ops->write != NULL && i + 3 <= size && i < WRITES_MAX; i += 3)
        ops->write(device, data[i], 4, (uint64_t)data[i + 1] << 8 | data[i + 2]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory *mem = NULL;
    struct device *devices[DEVICES];
    _cleanup_(buffer_clear) struct buffer state = frame(data, size);

    MUST(state_check(state.data, state.length, NULL) == 0);
    MUST(memory_create(RAM, &mem, NULL) == 0);
    fill_memory(mem, data, size);
    make_board(mem, devices);
    for (unsigned i = 0; i < DEVICES; i++) {
        int r = devices[i]->ops->restore(devices[i], state.data, state.length, NULL);

        MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
        check_saved(devices[i]);
        use(devices[i], data, size);
        check_saved(devices[i]);
    }
    for (unsigned i = 0; i < DEVICES; i++)
        devices[i]->ops->destroy(devices[i]);
    memory_free(mem);
    return 0;
}
