/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon: virtio 1.2, 5.5. What the guest gives up, into the balloon or by
 * reporting it as free, goes back to the host at once and is zero in the next
 * checkpoint. */
#include "vmm/devices/virtio_balloon.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "imgfmt/page.h"
#include "vmm/devices/virtio.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>

enum {
    RECORD_V1 = 1,
    QUEUE_SIZE = 128,
    QUEUES = 4,
    PFN_SIZE = 4,
    /* In a request. A ring full of such is 130,000 pages, during which the machine's
     * socket waits. Linux sends 256, others a page of numbers. */
    PFNS_MAX = 1024,
    STAT_SIZE = 10, /* tag of 16 bits, value of 64 */
    STAT_ENTRIES_MAX = 64,
};

enum role { ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORTING, ROLE_NONE };

struct balloon {
    struct device *transport;
    struct memory *mem;
    uint32_t target_pages; /* what the balloon shall hold */
    uint32_t actual_pages; /* what the driver says it holds */
    uint32_t poison;       /* what the driver fills free pages with */
    uint64_t dropped_bytes;
    unsigned stats_wanted; /* buffers to take from the statistics queue */
    struct balloon_stats stats;
};

/* The driver's queues have the numbers of those that both sides know, without gaps:
 * that is what drivers do. */
static enum role role_of(const struct balloon *b, unsigned queue)
{
    uint64_t features = virtio_driver_features(b->transport);
    bool stats = (features >> VIRTIO_BALLOON_F_STATS_VQ & 1) != 0;
    bool reporting = (features >> VIRTIO_BALLOON_F_REPORTING & 1) != 0;

    if (queue <= ROLE_DEFLATE)
        return (enum role)queue;
    if (queue == ROLE_STATS && stats)
        return ROLE_STATS;
    return queue == 2u + stats && reporting ? ROLE_REPORTING : ROLE_NONE;
}

/* ---- pages given up ---- */

static int compare_pfns(const void *a, const void *b)
{
    uint32_t left, right;

    memcpy(&left, a, sizeof(left));
    memcpy(&right, b, sizeof(right));
    return (left > right) - (left < right);
}

/* Sorted, so that neighbours go together. */
static int drop_pfns(struct balloon *b, uint32_t *pfns, size_t count)
{
    qsort(pfns, count, sizeof(*pfns), compare_pfns);
    for (size_t i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count && pfns[i + run] - pfns[i] == run; run++)
            continue;
        int r = memory_discard(b->mem, (uint64_t)pfns[i] << VIRTIO_BALLOON_PFN_SHIFT,
                               run << VIRTIO_BALLOON_PFN_SHIFT, &b->dropped_bytes);
        if (r < 0)
            return -EPROTO;
    }
    return 0;
}

static int serve_inflate(struct balloon *b, const struct virtq_chain *chain)
{
    uint32_t pfns[PFNS_MAX];
    const uint64_t bytes = chain->readable_bytes;

    if (bytes % PFN_SIZE != 0 || bytes == 0 || bytes > sizeof(pfns) ||
        !virtq_chain_read(chain, 0, pfns, bytes))
        return -EPROTO;
    for (size_t i = 0; i < bytes / PFN_SIZE; i++)
        pfns[i] = le32toh(pfns[i]);
    return drop_pfns(b, pfns, bytes / PFN_SIZE);
}

/* 5.5.6.7: the buffers of the chain are the free pages themselves. */
static int serve_reporting(struct balloon *b, const struct virtq_chain *chain)
{
    if (chain->writable_bytes > b->mem->size_bytes)
        return -EPROTO;
    /* The guest relies on finding in them what it has filled them with. */
    if ((virtio_driver_features(b->transport) >> VIRTIO_BALLOON_F_PAGE_POISON & 1) != 0 &&
        b->poison != 0)
        return 0;
    for (unsigned i = 0; i < chain->count; i++) {
        const struct virtq_segment *s = &chain->segments[i];
        uint64_t start = align_up(s->gpa, STASIS_PAGE_SIZE);
        uint64_t end = align_down(s->gpa + s->length, STASIS_PAGE_SIZE);
        if (!s->device_writes || start >= end)
            continue;
        if (memory_discard(b->mem, start, end - start, &b->dropped_bytes) < 0)
            return -EPROTO;
    }
    return 0;
}

/* ---- statistics ---- */

/* 5.5.6.3: the driver leaves a buffer with its numbers in the queue, and fills it anew
 * each time it gets it back. What lies there is old: taking it twice gives new ones. */
static int serve_stats(struct balloon *b, const struct virtq_chain *chain)
{
    uint64_t count = min_u64(chain->readable_bytes / STAT_SIZE, STAT_ENTRIES_MAX);
    struct balloon_stats stats = {.at_ns = clock_monotonic_ns()};

    for (uint64_t i = 0; i < count; i++) {
        uint8_t entry[STAT_SIZE];
        if (!virtq_chain_read(chain, i * STAT_SIZE, entry, sizeof(entry)))
            return -EPROTO;
        uint16_t tag = load_le16(entry);
        if (tag >= BALLOON_STATS)
            continue; /* of a newer driver */
        stats.values[tag] = load_le64(entry + 2);
        stats.known |= 1u << tag;
    }
    b->stats = stats;
    if (b->stats_wanted > 0)
        b->stats_wanted--;
    return 0;
}

static bool balloon_can_serve(void *device, unsigned queue)
{
    const struct balloon *b = device;

    return role_of(b, queue) != ROLE_STATS || b->stats_wanted > 0;
}

static int balloon_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                         uint32_t *written_out)
{
    struct balloon *b = device;

    *written_out = 0;
    switch (role_of(b, queue)) {
    case ROLE_INFLATE:
        return serve_inflate(b, chain);
    case ROLE_DEFLATE:
        return 0; /* the page is there as soon as it is touched */
    case ROLE_STATS:
        return serve_stats(b, chain);
    case ROLE_REPORTING:
        return serve_reporting(b, chain);
    case ROLE_NONE:
        break;
    }
    return -EPROTO;
}

/* ---- configuration space ---- */

static void balloon_config(void *device, uint8_t *out)
{
    const struct balloon *b = device;
    struct virtio_balloon_config config = {
        .num_pages = htole32(b->target_pages),
        .actual = htole32(b->actual_pages),
        .poison_val = htole32(b->poison),
    };

    memcpy(out, &config, sizeof(config));
}

static void balloon_write_config(void *device, uint64_t offset, unsigned size, uint32_t value)
{
    struct balloon *b = device;

    if (size != sizeof(uint32_t))
        return;
    if (offset == offsetof(struct virtio_balloon_config, actual))
        b->actual_pages = value;
    else if (offset == offsetof(struct virtio_balloon_config, poison_val))
        b->poison = value;
}

/* ---- state ---- */

static void balloon_reset(void *device)
{
    struct balloon *b = device;

    b->actual_pages = 0;
    b->poison = 0;
    b->stats = (struct balloon_stats){0};
    b->stats_wanted = 1; /* what the driver begins with */
}

static void balloon_save(void *device, uint16_t slot, struct state_writer *w)
{
    const struct balloon *b = device;

    state_writer_begin(w, STATE_VIRTIO_BALLOON, slot, RECORD_V1, 0);
    state_put_u32(w, b->target_pages);
    state_put_u32(w, b->actual_pages);
    state_put_u32(w, b->poison);
    state_writer_end(w);
}

static int balloon_restore(void *device, uint16_t slot, const void *state, size_t length,
                           struct error *err)
{
    struct balloon *b = device;
    struct state_record record;

    int r = state_find_known(state, length, STATE_VIRTIO_BALLOON, slot, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    uint32_t target = state_get_u32(&record);
    uint32_t actual = state_get_u32(&record);
    uint32_t poison = state_get_u32(&record);
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    if (target >= b->mem->size_bytes / STASIS_PAGE_SIZE)
        return error_corrupt(err, "the balloon in slot %u is larger than the memory", slot);
    b->target_pages = target;
    b->actual_pages = actual;
    b->poison = poison;
    return 0;
}

static void balloon_destroy(void *device)
{
    free(device);
}

static const struct virtio_ops balloon_ops = {
    .name = "virtio-balloon",
    .device_id = VIRTIO_ID_BALLOON,
    .features = 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
                1ull << VIRTIO_BALLOON_F_PAGE_POISON | 1ull << VIRTIO_BALLOON_F_REPORTING,
    .queue_count = QUEUES,
    .queue_size_max = QUEUE_SIZE,
    .can_serve = balloon_can_serve,
    .serve = balloon_serve,
    .config = balloon_config,
    .write_config = balloon_write_config,
    .config_bytes = sizeof(struct virtio_balloon_config),
    .reset = balloon_reset,
    .save = balloon_save,
    .restore = balloon_restore,
    .destroy = balloon_destroy,
};

struct device *virtio_balloon_create(uint16_t slot, struct memory *mem, const struct irq_line *irq)
{
    struct balloon *b = calloc(1, sizeof(*b));

    if (b == NULL)
        abort();
    b->mem = mem;
    b->stats_wanted = 1;
    b->transport = virtio_create(slot, &balloon_ops, b, mem, irq);
    return b->transport;
}

/* ---- for whoever owns the machine ---- */

void virtio_balloon_set_target(struct device *transport, uint64_t bytes)
{
    struct balloon *b = virtio_device(transport);

    b->target_pages = (uint32_t)(bytes / STASIS_PAGE_SIZE);
    virtio_config_changed(transport);
}

void virtio_balloon_poll(struct device *transport)
{
    struct balloon *b = virtio_device(transport);

    b->stats_wanted = 2;
    virtio_kick(transport);
}

void virtio_balloon_status(const struct device *transport, struct balloon_status *out)
{
    const struct balloon *b = virtio_device(transport);

    *out = (struct balloon_status){
        .target_bytes = (uint64_t)b->target_pages * STASIS_PAGE_SIZE,
        .actual_bytes = (uint64_t)b->actual_pages * STASIS_PAGE_SIZE,
        .dropped_bytes = b->dropped_bytes,
        .stats = b->stats,
    };
}
