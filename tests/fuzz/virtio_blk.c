/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver, and a hostile checkpoint, at virtio-mmio with a block device over
 * a real disk. The input is a program; the disk stays from one run to the next. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "store/ingest.h"
#include "vmm/devices/disk.h"
#include "vmm/devices/virtio.h"

#include <errno.h>

enum { RAM = 4 << 20, DISK = 40 * 4096 + 512, RINGS = 0x1000, DATA = 0x4000 };

static char dir[] = "/tmp/stasis-fuzz-XXXXXX";
static struct store *store;
static struct disk *disk;

static void remove_dir(void)
{
    disk_close(disk);
    store_close(store);
    io_remove_tree(dir);
}

static struct space *make_base(void)
{
    static uint8_t bytes[DISK];
    struct manifest m = {.kind = CHECKPOINT_COLD, .created_us = clock_wall_us()};
    struct ingest *in = NULL;
    struct space *space = NULL;
    struct digest root, id;

    memset(bytes, 0x5a, DISK / 2);
    m.config.memory_bytes = 64 << 20;
    m.config.vcpus = 1;
    m.config.disk_count = 1;
    MUST(ingest_begin(store, &in, NULL) == 0);
    MUST(ingest_memory(in, bytes, DISK, &root, NULL) == 0);
    MUST(manifest_space_set(&m, "disk0", DISK, &root) == 0);
    MUST(ingest_commit(in, &(struct ingest_commit){.manifest = &m}, &id, NULL) == 0);
    ingest_free(in);
    MUST(catalogue_manifest_read(store, &id, &m, NULL) == 0);
    MUST(space_open(store, &manifest_space_find(&m, "disk0")->root, DISK, &space, NULL) == 0);
    return space;
}

static void set_up_once(void)
{
    if (disk != NULL)
        return;
    MUST(mkdtemp(dir) != NULL);
    MUST(store_open(dir, true, &store, NULL) == 0);
    MUST(disk_open(dir, 0, make_base(), false, false, &disk, NULL) == 0);
    atexit(remove_dir);
}

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
    _cleanup_(buffer_clear) struct buffer state = {0};
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_VIRTIO_MMIO, dev->instance, 1, 0);
    state_put_bytes(&w, payload, size);
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

/* Otherwise few inputs would get as far as a request. */
static void start(struct device *dev)
{
    out(dev, 0x70, 0);
    out(dev, 0x24, 1);
    out(dev, 0x20, 1);
    out(dev, 0x24, 0);
    out(dev, 0x20, (uint32_t)dev->ops->read(dev, 0x10, 4));
    out(dev, 0x70, 11);
    out(dev, 0x38, 8);
    out(dev, 0x80, RINGS);
    out(dev, 0x90, RINGS + 0x800);
    out(dev, 0xa0, RINGS + 0x900);
    out(dev, 0x44, 1);
    out(dev, 0x70, 15);
}

/* A whole request whose parts the input chooses; its descriptors from `first` on. */
static void request(struct memory *mem, const uint8_t *p)
{
    uint8_t *rings = mem->hva + RINGS;
    uint16_t idx = load_le16(rings + 0x802);

    store_le32(mem->hva + DATA, p[0] & 15);
    store_le64(mem->hva + DATA + 8, p[1]);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *desc = rings + 16 * i;
        store_le64(desc, i == 1 ? (uint64_t)DATA + 0x100 + p[2] : (uint64_t)DATA + 0x20 * i);
        store_le32(desc + 8, i == 0 ? 16 : i == 1 ? p[3] * 128u : 1);
        store_le16(desc + 12, (uint16_t)((i < 2) | (i == 2 || (i == 1 && p[4] & 1) ? 2 : 0)));
        store_le16(desc + 14, (uint16_t)(i + 1));
    }
    store_le16(rings + 0x804 + 2 * (idx % 8), 0);
    store_le16(rings + 0x802, (uint16_t)(idx + 1));
}

static void step(struct device *dev, struct memory *mem, const uint8_t *p, size_t left)
{
    switch (p[0] & 15) {
    case 0:
        round_trip(dev);
        break;
    case 1:
        restore(dev, p + 6, left - 6);
        break;
    case 2:
        start(dev);
        break;
    case 3:
    case 4: /* anything into the rings and tables */
        memcpy(mem->hva + RINGS + (load_le16(p + 1) & 0xfff), p + 3, 3);
        break;
    case 5:
        memcpy(mem->hva + DATA + p[1], p + 2, 4);
        break;
    case 6:
    case 7:
    case 8:
        request(mem, p + 1);
        virtio_kick(dev);
        break;
    case 9:
        virtio_kick(dev);
        break;
    case 10:
        dev->ops->resume(dev);
        break;
    case 11:
        dev->ops->read(dev, p[1] * 4u, 1u << (p[2] & 3));
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

    set_up_once();
    MUST(memory_create(RAM, &mem, NULL) == 0);
    struct device *dev = virtio_blk_create(0, disk, 1, mem, &irq);
    if (size > 0 && data[0] & 1)
        start(dev);
    for (size_t i = 0; i + 6 <= size && i < 6 * 400; i += 6)
        step(dev, mem, data + i, size - i);
    round_trip(dev);
    dev->ops->destroy(dev);
    memory_free(mem);
    return 0;
}
