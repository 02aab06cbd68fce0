/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's side of a split virtqueue (virtio 1.2, 2.7) with indirect
 * descriptors. Everything in the rings is the guest's and hostile: addresses,
 * lengths, loops and indices are checked; what is wrong breaks the queue and not
 * the device.
 */
#ifndef STASIS_VMM_DEVICES_VIRTQ_H
#define STASIS_VMM_DEVICES_VIRTQ_H

#include "vmm/memory.h"

#include <stdbool.h>
#include <stdint.h>

#define VIRTQ_SIZE_MAX 256u
#define VIRTQ_SEGMENTS_MAX 256u /* descriptors of one chain, direct or indirect */

struct virtq {
    /* set by the driver through the transport */
    uint16_t size; /* a power of two, 1..VIRTQ_SIZE_MAX */
    bool ready;
    bool event_index; /* the driver took VIRTIO_F_EVENT_IDX */
    uint64_t desc_gpa;
    uint64_t avail_gpa;
    uint64_t used_gpa;
    /* the device's own position */
    uint16_t next_avail;
    uint16_t next_used;
    uint16_t signalled; /* next_used when virtq_wants_interrupt() was last asked */
};

struct virtq_segment {
    uint64_t gpa;
    uint32_t length;
    bool device_writes;
    void *hva; /* length bytes of guest RAM */
};

struct virtq_chain {
    uint16_t head;
    unsigned count;
    uint64_t readable_bytes; /* of the segments the device reads: they come first */
    uint64_t writable_bytes;
    struct virtq_segment segments[VIRTQ_SEGMENTS_MAX];
};

void virtq_reset(struct virtq *q);

/* Rings lie in RAM, are aligned, do not wrap. Checked when the driver makes the
 * queue ready and when one is restored. */
bool virtq_is_valid(const struct virtq *q, struct memory *mem);

/* How many chains the driver has offered so far, going round at 2^16. */
uint16_t virtq_offered(const struct virtq *q, struct memory *mem);

/* Takes the next chain the driver offers: 1 and *out, 0 if there is none,
 * -EPROTO if the driver broke the rules. */
int virtq_pop(struct virtq *q, struct memory *mem, struct virtq_chain *out);

/* Gives a chain back with the number of bytes the device wrote. */
void virtq_push(struct virtq *q, struct memory *mem, uint16_t head, uint32_t written);

/* Asks for a notification of the next chain, which a driver with event indices is
 * otherwise free not to give (2.7.10). True: there is a chain already, and perhaps no
 * notification of it. */
bool virtq_arm(struct virtq *q, struct memory *mem);

/* Asks for a notification of the next chain behind all that are there, and says how many
 * these are: virtq_offered() is another number when there is one. */
uint16_t virtq_watch(struct virtq *q, struct memory *mem);

/* Does the driver want an interrupt for what was pushed since the last call (2.7.7)?
 * Asked after one or several pushes, and in any case before the queue is saved. */
bool virtq_wants_interrupt(struct virtq *q, struct memory *mem);

/* Copies from the readable part of a chain, starting at offset; false if it is
 * shorter. */
bool virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t length);

/* Copies into the writable part and notes it as dirty; false if it is shorter. */
bool virtq_chain_write(const struct virtq_chain *chain, struct memory *mem, uint64_t offset,
                       const void *buf, size_t length);

#endif
