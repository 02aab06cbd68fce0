/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk over a disk: virtio 1.2, 5.2. */
#include "base/bytes.h"
#include "vmm/devices/disk.h"
#include "vmm/devices/virtio.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SECTOR_SHIFT = 9,
    SECTOR_SIZE = 512,
    PAGE_SECTORS = 8,
    HEADER_SIZE = 16,
    RANGE_SIZE = 16, /* struct virtio_blk_discard_write_zeroes */
    RANGES_MAX = 16,
    RANGE_SECTORS_MAX = 1 << 21, /* 1 GiB a range: bounds the time of one request */
    QUEUE_SIZE = 256,
    SEGMENT_MAX = 64 << 10,
    SEGMENTS_MAX = VIRTQ_SEGMENTS_MAX - 2, /* header and status take two */
    /* What a driver that keeps to both can ask for. Linux stays far below. */
    REQUEST_MAX = SEGMENT_MAX * SEGMENTS_MAX,
    SIGNAL_AFTER = 8,  /* requests done: a guest with a full queue goes on meanwhile */
    TURN = QUEUE_SIZE, /* requests, then the thread looks for other disks */
};

struct blk_counters {
    uint64_t reads, read_bytes;
    uint64_t writes, written_bytes;
    uint64_t flushes;
    uint64_t discards; /* and write-zeroes */
    uint64_t errors;   /* requests that did not end well */
};

struct blk {
    struct blk_counters counters;
    struct device *transport;
    struct virtio_ops ops;
    struct disk *disk;
    struct memory *mem;
    unsigned slot;
    /* Where threads serve it. The rest is guarded by the lock. */
    pthread_mutex_t *lock; /* the machine's device lock, or NULL: whoever kicks serves */
    pthread_cond_t idle;   /* nothing is in flight */
    unsigned in_flight;
    bool held;
    unsigned quiescing; /* calls of quiesce() that wait */
    unsigned next_queue;
};

/* A request while it is served. */
struct request {
    struct blk *blk;
    const struct virtq_chain *chain;
    uint64_t moved; /* bytes */
    bool may_wait;  /* others have been told to go on without this thread */
};

static void blk_config(void *device, uint8_t *out)
{
    const struct blk *blk = device;
    struct virtio_blk_config config = {
        .capacity = htole64(disk_size_bytes(blk->disk) >> SECTOR_SHIFT),
        .size_max = htole32(SEGMENT_MAX),
        .seg_max = htole32(SEGMENTS_MAX),
        .num_queues = htole16((uint16_t)blk->ops.queue_count),
        .blk_size = htole32(SECTOR_SIZE),
        .physical_block_exp = 3, /* 4096 bytes */
        .max_discard_sectors = htole32(RANGE_SECTORS_MAX),
        .max_discard_seg = htole32(RANGES_MAX),
        .discard_sector_alignment = htole32(PAGE_SECTORS),
        .max_write_zeroes_sectors = htole32(RANGE_SECTORS_MAX),
        .max_write_zeroes_seg = htole32(RANGES_MAX),
        .write_zeroes_may_unmap = 1,
    };

    memcpy(out, &config, sizeof(config));
}

/* What comes now may take its time: the guest hears of what is done, and another thread
 * goes on with what there is to do, or will be. */
static void prepare_to_wait(struct request *rq)
{
    struct blk *blk = rq->blk;

    if (blk->lock == NULL || rq->may_wait)
        return;
    rq->may_wait = true;
    pthread_mutex_lock(blk->lock);
    virtio_signal(blk->transport);
    if (virtio_arm(blk->transport))
        virtio_kick_later(blk->transport);
    pthread_mutex_unlock(blk->lock);
}

static int read_disk(struct request *rq, uint64_t offset, void *hva, size_t length)
{
    struct disk *disk = rq->blk->disk;

    if (rq->blk->lock != NULL && !rq->may_wait) {
        int r = disk_read_cached(disk, offset, hva, length);
        if (r != -EAGAIN)
            return r;
        prepare_to_wait(rq);
    }
    return disk_read(disk, offset, hva, length);
}

/* Data is what lies between the header and the last writable byte, the status. */
static uint8_t transfer_data(struct request *rq, uint64_t offset, bool to_guest)
{
    struct blk *blk = rq->blk;
    const struct virtq_chain *chain = rq->chain;
    uint64_t skip = to_guest ? 0 : HEADER_SIZE;
    uint64_t left = to_guest ? chain->writable_bytes - 1 : chain->readable_bytes - HEADER_SIZE;

    if (left % SECTOR_SIZE != 0 || left > REQUEST_MAX ||
        !range_fits(offset, left, disk_size_bytes(blk->disk)))
        return VIRTIO_BLK_S_IOERR;
    for (unsigned i = 0; i < chain->count && left > 0; i++) {
        const struct virtq_segment *s = &chain->segments[i];
        if (s->device_writes != to_guest)
            continue;
        uint64_t in_segment = min_u64(skip, s->length);
        skip -= in_segment;
        size_t n = (size_t)min_u64(s->length - in_segment, left);
        if (n == 0)
            continue;
        uint8_t *hva = (uint8_t *)s->hva + in_segment;
        int r = to_guest ? read_disk(rq, offset, hva, n) : disk_write(blk->disk, offset, hva, n);
        if (to_guest) /* a read that failed may have got half-way */
            memory_mark_dirty(blk->mem, s->gpa + in_segment, n);
        if (r < 0)
            return VIRTIO_BLK_S_IOERR;
        offset += n;
        left -= n;
        rq->moved += n;
    }
    return VIRTIO_BLK_S_OK;
}

/* 5.2.6.2: discard and write-zeroes carry ranges. Both make zeros here: cheap,
 * and a checkpoint then stores nothing for them. */
static uint8_t zero_ranges(struct request *rq, bool discard)
{
    struct blk *blk = rq->blk;
    const struct virtq_chain *chain = rq->chain;
    uint64_t bytes = chain->readable_bytes - HEADER_SIZE;

    if (bytes == 0 || bytes % RANGE_SIZE != 0 || bytes / RANGE_SIZE > RANGES_MAX)
        return VIRTIO_BLK_S_UNSUPP;
    prepare_to_wait(rq);
    for (uint64_t at = 0; at < bytes; at += RANGE_SIZE) {
        uint8_t range[RANGE_SIZE];
        if (!virtq_chain_read(chain, HEADER_SIZE + at, range, sizeof(range)))
            return VIRTIO_BLK_S_IOERR;
        uint64_t sector = load_le64(range);
        uint32_t sectors = load_le32(range + 8);
        uint32_t flags = load_le32(range + 12);
        uint64_t capacity = disk_size_bytes(blk->disk) >> SECTOR_SHIFT;
        if (sectors > RANGE_SECTORS_MAX || !range_fits(sector, sectors, capacity))
            return VIRTIO_BLK_S_IOERR;
        if ((flags & ~1u) != 0 || (discard && flags != 0))
            return VIRTIO_BLK_S_UNSUPP;
        if (disk_zero(blk->disk, sector << SECTOR_SHIFT, (uint64_t)sectors << SECTOR_SHIFT) < 0)
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

/* A flush covers what was done before it was taken; what is under way beside it may be
 * covered or not, as the driver does not know yet that it is done (5.2.6.2). */
static uint8_t flush(struct request *rq)
{
    prepare_to_wait(rq);
    return disk_flush(rq->blk->disk) < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

static uint8_t send_id(struct request *rq)
{
    struct blk *blk = rq->blk;
    const struct virtq_chain *chain = rq->chain;
    char id[VIRTIO_BLK_ID_BYTES] = {0};

    snprintf(id, sizeof(id), "stasis-disk%u", blk->slot);
    size_t n = (size_t)min_u64(sizeof(id), chain->writable_bytes - 1);
    if (!virtq_chain_write(chain, blk->mem, 0, id, n))
        return VIRTIO_BLK_S_IOERR;
    rq->moved = n;
    return VIRTIO_BLK_S_OK;
}

static uint8_t serve_request(struct request *rq, uint32_t type, uint64_t sector)
{
    uint64_t offset;

    switch (type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        if (mul_overflows(sector, (uint64_t)SECTOR_SIZE, &offset))
            return VIRTIO_BLK_S_IOERR;
        return transfer_data(rq, offset, type == VIRTIO_BLK_T_IN);
    case VIRTIO_BLK_T_FLUSH:
        return flush(rq);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return zero_ranges(rq, type == VIRTIO_BLK_T_DISCARD);
    case VIRTIO_BLK_T_GET_ID:
        return send_id(rq);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static void count_request(struct blk_counters *c, uint32_t type, uint64_t moved, uint8_t status)
{
    if (status != VIRTIO_BLK_S_OK)
        counter_add(&c->errors, 1);
    switch (type) {
    case VIRTIO_BLK_T_IN:
        counter_add(&c->reads, 1);
        counter_add(&c->read_bytes, moved);
        break;
    case VIRTIO_BLK_T_OUT:
        counter_add(&c->writes, 1);
        counter_add(&c->written_bytes, moved);
        break;
    case VIRTIO_BLK_T_FLUSH:
        counter_add(&c->flushes, 1);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        counter_add(&c->discards, 1);
        break;
    default:
        break;
    }
}

static void blk_visit_counters(const void *device, const struct counter_visitor *visitor)
{
    const struct blk_counters *c = &((const struct blk *)device)->counters;

    counter_visit(visitor, "reads", &c->reads);
    counter_visit(visitor, "read_bytes", &c->read_bytes);
    counter_visit(visitor, "writes", &c->writes);
    counter_visit(visitor, "written_bytes", &c->written_bytes);
    counter_visit(visitor, "flushes", &c->flushes);
    counter_visit(visitor, "discards", &c->discards);
    counter_visit(visitor, "errors", &c->errors);
}

static int blk_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                     uint32_t *written_out)
{
    struct blk *blk = device;
    struct request rq = {.blk = blk, .chain = chain};
    uint8_t header[HEADER_SIZE];

    (void)queue;
    if (chain->writable_bytes == 0 || !virtq_chain_read(chain, 0, header, sizeof(header)))
        return -EPROTO;
    uint8_t status = serve_request(&rq, load_le32(header), load_le64(header + 8));
    count_request(&blk->counters, load_le32(header), rq.moved, status);
    virtq_chain_write(chain, blk->mem, chain->writable_bytes - 1, &status, 1);
    *written_out =
        (uint32_t)min_u64(load_le32(header) == VIRTIO_BLK_T_OUT ? 1 : rq.moved + 1, UINT32_MAX);
    return 0;
}

/* ---- by threads ---- */

static bool blk_can_serve(void *device, unsigned queue)
{
    const struct blk *blk = device;

    (void)queue;
    return blk->lock == NULL;
}

/* The lock is held, and not while the request is served. */
static void work_on(struct blk *blk, unsigned queue, const struct virtq_chain *chain)
{
    uint32_t written = 0;

    blk->in_flight++;
    pthread_mutex_unlock(blk->lock);
    int r = blk_serve(blk, queue, chain, &written);
    pthread_mutex_lock(blk->lock);
    if (r < 0)
        virtio_break(blk->transport);
    else if (virtio_give(blk->transport, queue, chain->head, written) >= SIGNAL_AFTER)
        virtio_signal(blk->transport);
    if (--blk->in_flight == 0)
        pthread_cond_broadcast(&blk->idle);
}

static bool take_any(struct blk *blk, struct virtq_chain *chain, unsigned *queue_out)
{
    if (blk->held || blk->quiescing > 0)
        return false;
    for (unsigned i = 0; i < blk->ops.queue_count; i++) {
        *queue_out = blk->next_queue++ % blk->ops.queue_count;
        if (virtio_take(blk->transport, *queue_out, chain))
            return true;
    }
    return false;
}

void virtio_blk_work(struct device *transport)
{
    struct blk *blk = virtio_device(transport);
    struct virtq_chain chain;
    unsigned queue, done = 0;

    pthread_mutex_lock(blk->lock);
    while (done < TURN && take_any(blk, &chain, &queue)) {
        work_on(blk, queue, &chain);
        done++;
    }
    virtio_signal(transport);
    if (done == TURN)
        virtio_kick_later(transport);
    pthread_mutex_unlock(blk->lock);
}

static void wait_until_idle(struct blk *blk)
{
    while (blk->in_flight > 0)
        pthread_cond_wait(&blk->idle, blk->lock);
}

static void blk_quiesce(void *device)
{
    struct blk *blk = device;

    if (blk->lock == NULL)
        return;
    blk->quiescing++;
    wait_until_idle(blk);
    blk->quiescing--;
    virtio_kick_later(blk->transport); /* for what came to other queues meanwhile */
}

void virtio_blk_hold(struct device *transport, bool held)
{
    struct blk *blk = virtio_device(transport);

    blk->held = held;
    if (held)
        wait_until_idle(blk);
    else
        virtio_kick_later(transport);
}

void virtio_blk_use_threads(struct device *transport, pthread_mutex_t *device_lock)
{
    struct blk *blk = virtio_device(transport);

    blk->lock = device_lock;
    blk->held = true;
}

/* ---- the device ---- */

static void blk_destroy(void *device)
{
    struct blk *blk = device;

    pthread_cond_destroy(&blk->idle);
    free(blk);
}

static uint64_t offered_features(const struct disk *disk, unsigned queues)
{
    uint64_t features = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
                        1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
                        1ull << VIRTIO_BLK_F_TOPOLOGY;

    if (queues > 1)
        features |= 1ull << VIRTIO_BLK_F_MQ;
    return features | (disk_is_read_only(disk)
                           ? 1ull << VIRTIO_BLK_F_RO
                           : 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
}

struct device *virtio_blk_create(uint16_t slot, struct disk *disk, unsigned queues,
                                 struct memory *mem, const struct irq_line *irq)
{
    struct blk *blk = calloc(1, sizeof(*blk));

    if (blk == NULL)
        abort();
    blk->ops = (struct virtio_ops){
        .name = "virtio-blk",
        .device_id = VIRTIO_ID_BLOCK,
        .features = offered_features(disk, queues),
        .queue_count = queues,
        .queue_size_max = QUEUE_SIZE,
        .can_serve = blk_can_serve,
        .serve = blk_serve,
        .config = blk_config,
        .config_bytes = sizeof(struct virtio_blk_config),
        .quiesce = blk_quiesce,
        .counters = blk_visit_counters,
        .destroy = blk_destroy,
    };
    blk->disk = disk;
    blk->mem = mem;
    blk->slot = slot;
    pthread_cond_init(&blk->idle, NULL);
    blk->transport = virtio_create(slot, &blk->ops, blk, mem, irq);
    return blk->transport;
}
