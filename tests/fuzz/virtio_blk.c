/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver, and a hostile checkpoint, at virtio-mmio with a block device over
 * a real disk. The input is a program; the disk stays from one run to the next. */
#include "virtio_fuzz.h"

#include "base/clock.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "store/ingest.h"
#include "vmm/devices/disk.h"

enum { DISK = 40 * 4096 + 512, DATA = 0x4000 };

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

/* A whole request whose parts the input chooses; its descriptors from `first` on. */
static void request(struct memory *mem, const uint8_t *p)
{
    uint8_t *rings = mem->hva + VIRTIO_FUZZ_RINGS;

    store_le32(mem->hva + DATA, p[0] & 15);
    store_le64(mem->hva + DATA + 8, p[1]);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *desc = rings + 16 * i;
        store_le64(desc, i == 1 ? (uint64_t)DATA + 0x100 + p[2] : (uint64_t)DATA + 0x20 * i);
        store_le32(desc + 8, i == 0 ? 16 : i == 1 ? p[3] * 128u : 1);
        store_le16(desc + 12, (uint16_t)((i < 2) | (i == 2 || (i == 1 && p[4] & 1) ? 2 : 0)));
        store_le16(desc + 14, (uint16_t)(i + 1));
    }
    virtio_fuzz_offer(mem, 0, 0);
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
        virtio_fuzz_write(dev, p);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = virtio_fuzz_raise, .gsi = 16};
    struct memory *mem = NULL;

    set_up_once();
    MUST(memory_create(VIRTIO_FUZZ_RAM, &mem, NULL) == 0);
    struct device *dev = virtio_blk_create(0, disk, 1, mem, &irq);
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
