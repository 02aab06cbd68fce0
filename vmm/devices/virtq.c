/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/virtq.h"

#include "base/bytes.h"

#include <errno.h>

enum {
    DESC_SIZE = 16,
    DESC_NEXT = 1,
    DESC_WRITE = 2,
    DESC_INDIRECT = 4,
    AVAIL_NO_INTERRUPT = 1,
    RING_HEADER = 4, /* flags and idx */
    AVAIL_ENTRY = 2,
    USED_ENTRY = 8,
};

void virtq_reset(struct virtq *q)
{
    *q = (struct virtq){0};
}

/* 2.7: alignment 16, 2, 4; sizes 16 n, 6 + 2 n, 6 + 8 n (with event fields). */
bool virtq_is_valid(const struct virtq *q, struct memory *mem)
{
    uint64_t n = q->size;

    if (n == 0 || n > VIRTQ_SIZE_MAX || (n & (n - 1)) != 0)
        return false;
    if (q->desc_gpa % 16 != 0 || q->avail_gpa % 2 != 0 || q->used_gpa % 4 != 0)
        return false;
    return memory_at(mem, q->desc_gpa, DESC_SIZE * n) != NULL &&
           memory_at(mem, q->avail_gpa, RING_HEADER + AVAIL_ENTRY * n + 2) != NULL &&
           memory_at(mem, q->used_gpa, RING_HEADER + USED_ENTRY * n + 2) != NULL;
}

/* A valid queue's rings stay in RAM, so these cannot fail. */
static uint16_t ring_load16(struct memory *mem, uint64_t gpa)
{
    const uint16_t *p = memory_at(mem, gpa, sizeof(*p));

    return p == NULL ? 0 : le16toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static void ring_store16(struct memory *mem, uint64_t gpa, uint16_t value)
{
    uint16_t *p = memory_at(mem, gpa, sizeof(*p));

    if (p == NULL)
        return;
    __atomic_store_n(p, htole16(value), __ATOMIC_RELEASE);
    memory_mark_dirty(mem, gpa, sizeof(*p));
}

static int add_segment(struct virtq_chain *chain, struct memory *mem, const uint8_t *desc,
                       uint16_t flags)
{
    struct virtq_segment segment = {
        .gpa = load_le64(desc),
        .length = load_le32(desc + 8),
        .device_writes = (flags & DESC_WRITE) != 0,
    };

    if (chain->count == VIRTQ_SEGMENTS_MAX)
        return -EPROTO;
    /* 2.7.4.2: what the device writes comes after what it reads. */
    if (!segment.device_writes && chain->writable_bytes > 0)
        return -EPROTO;
    if (segment.length == 0)
        return 0;
    segment.hva = memory_at(mem, segment.gpa, segment.length);
    if (segment.hva == NULL)
        return -EPROTO;
    if (segment.device_writes)
        chain->writable_bytes += segment.length;
    else
        chain->readable_bytes += segment.length;
    chain->segments[chain->count++] = segment;
    return 0;
}

/* Follows a chain in a descriptor table of `size` entries at table_gpa. Each
 * entry can be visited at most once in a chain without a loop. */
static int follow_chain(struct virtq_chain *chain, struct memory *mem, uint64_t table_gpa,
                        uint32_t size, uint16_t first, bool may_be_indirect)
{
    uint16_t index = first;

    for (uint32_t steps = 0; steps < size; steps++) {
        uint8_t desc[DESC_SIZE]; /* a copy: the guest may change it while we look */
        if (index >= size ||
            memory_read(mem, table_gpa + (uint64_t)DESC_SIZE * index, desc, sizeof(desc)) < 0)
            return -EPROTO;
        uint16_t flags = load_le16(desc + 12);
        if ((flags & DESC_INDIRECT) != 0) {
            uint32_t bytes = load_le32(desc + 8);
            if (!may_be_indirect || (flags & DESC_NEXT) != 0 || bytes % DESC_SIZE != 0 ||
                bytes / DESC_SIZE > VIRTQ_SEGMENTS_MAX)
                return -EPROTO;
            return follow_chain(chain, mem, load_le64(desc), bytes / DESC_SIZE, 0, false);
        }
        int r = add_segment(chain, mem, desc, flags);
        if (r < 0)
            return r;
        if ((flags & DESC_NEXT) == 0)
            return 0;
        index = load_le16(desc + 14);
    }
    return -EPROTO;
}

uint16_t virtq_offered(const struct virtq *q, struct memory *mem)
{
    return ring_load16(mem, q->avail_gpa + 2);
}

int virtq_pop(struct virtq *q, struct memory *mem, struct virtq_chain *out)
{
    uint16_t offered = virtq_offered(q, mem);

    if (offered == q->next_avail)
        return 0;
    if ((uint16_t)(offered - q->next_avail) > q->size)
        return -EPROTO;
    uint16_t slot = q->next_avail & (uint16_t)(q->size - 1);
    uint16_t head = ring_load16(mem, q->avail_gpa + RING_HEADER + (uint64_t)AVAIL_ENTRY * slot);
    out->head = head;
    out->count = 0;
    out->readable_bytes = 0;
    out->writable_bytes = 0;
    int r = follow_chain(out, mem, q->desc_gpa, q->size, head, true);
    if (r < 0)
        return r;
    q->next_avail++;
    return 1;
}

void virtq_push(struct virtq *q, struct memory *mem, uint16_t head, uint32_t written)
{
    uint16_t slot = q->next_used & (uint16_t)(q->size - 1);
    uint8_t entry[USED_ENTRY];

    store_le32(entry, head);
    store_le32(entry + 4, written);
    memory_write(mem, q->used_gpa + RING_HEADER + (uint64_t)USED_ENTRY * slot, entry,
                 sizeof(entry));
    q->next_used++;
    ring_store16(mem, q->used_gpa + 2, q->next_used);
}

/* Asks for a notification of the chain of that number, and tells how many there are now. */
static uint16_t arm_at(struct virtq *q, struct memory *mem, uint16_t number)
{
    if (q->event_index)
        ring_store16(mem, q->used_gpa + RING_HEADER + (uint64_t)USED_ENTRY * q->size, number);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* avail_event is out before the ring is read */
    return virtq_offered(q, mem);
}

bool virtq_arm(struct virtq *q, struct memory *mem)
{
    return arm_at(q, mem, q->next_avail) != q->next_avail;
}

uint16_t virtq_watch(struct virtq *q, struct memory *mem)
{
    uint16_t offered = virtq_offered(q, mem);

    /* One may come while we ask; a driver that goes on like that is no driver. */
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++) {
        const uint16_t now = arm_at(q, mem, offered);
        if (now == offered)
            break;
        offered = now;
    }
    return offered;
}

/* 2.7.7.2: has the index passed the event on its way from old to new? All three go
 * round at 2^16. */
static bool passed_event(uint16_t event, uint16_t new_index, uint16_t old_index)
{
    return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old_index);
}

bool virtq_wants_interrupt(struct virtq *q, struct memory *mem)
{
    uint16_t before = q->signalled;

    q->signalled = q->next_used;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* used.idx is out before these are read */
    if (!q->event_index)
        return (ring_load16(mem, q->avail_gpa) & AVAIL_NO_INTERRUPT) == 0;
    uint16_t event = ring_load16(mem, q->avail_gpa + RING_HEADER + (uint64_t)AVAIL_ENTRY * q->size);
    return passed_event(event, q->next_used, before);
}

/* Walks the segments of one direction and copies the overlap with
 * [offset, offset + length). */
static bool copy_chain(const struct virtq_chain *chain, struct memory *mem, bool to_guest,
                       uint64_t offset, uint8_t *buf, size_t length)
{
    uint64_t have = to_guest ? chain->writable_bytes : chain->readable_bytes;

    if (!range_fits(offset, length, have))
        return false;
    for (unsigned i = 0; i < chain->count && length > 0; i++) {
        const struct virtq_segment *s = &chain->segments[i];
        if (s->device_writes != to_guest)
            continue;
        if (offset >= s->length) {
            offset -= s->length;
            continue;
        }
        size_t n = (size_t)min_u64(s->length - offset, length);
        if (to_guest) {
            memcpy((uint8_t *)s->hva + offset, buf, n);
            memory_mark_dirty(mem, s->gpa + offset, n);
        } else {
            memcpy(buf, (const uint8_t *)s->hva + offset, n);
        }
        buf += n;
        length -= n;
        offset = 0;
    }
    return true;
}

bool virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t length)
{
    return copy_chain(chain, NULL, false, offset, buf, length);
}

bool virtq_chain_write(const struct virtq_chain *chain, struct memory *mem, uint64_t offset,
                       const void *buf, size_t length)
{
    /* copy_chain() only reads buf in this direction. */
    return copy_chain(chain, mem, true, offset, (uint8_t *)(uintptr_t)buf, length);
}
