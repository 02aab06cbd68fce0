/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets of a virtio socket device (virtio 1.2, 5.10.6), seen from the host: the
 * header says "source" and "destination", which depends on the direction; here it is
 * the guest and its peer. And queues of them. No locks.
 */
#ifndef STASIS_VMM_VSOCK_PACKET_H
#define STASIS_VMM_VSOCK_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VSOCK_HEADER_SIZE 44u
#define VSOCK_HOST_CID 2u
#define VSOCK_TYPE_STREAM 1u
/* What the guest may have under way to us on one connection, hence the longest packet
 * it may send. Linux takes the same for its own end. */
#define VSOCK_WINDOW (256u << 10)

enum vsock_op {
    VSOCK_INVALID = 0,
    VSOCK_REQUEST = 1,
    VSOCK_RESPONSE = 2,
    VSOCK_RST = 3,
    VSOCK_SHUTDOWN = 4,
    VSOCK_RW = 5,
    VSOCK_CREDIT_UPDATE = 6,
    VSOCK_CREDIT_REQUEST = 7,
};

/* Flags of VSOCK_SHUTDOWN: the sender will not receive, will not send any more. */
enum { VSOCK_NO_RECEIVE = 1, VSOCK_NO_SEND = 2, VSOCK_NO_MORE = 3 };

struct vsock_header {
    uint64_t guest_cid;
    uint64_t peer_cid;
    uint32_t guest_port;
    uint32_t peer_port;
    uint16_t type;
    uint16_t op; /* the guest's may be none of enum vsock_op */
    uint32_t flags;
    uint32_t buf_alloc; /* the sender's credit */
    uint32_t fwd_cnt;
};

struct vsock_packet {
    struct vsock_packet *next;
    uint32_t epoch; /* which life of the device it belongs to */
    struct vsock_header header;
    size_t length; /* of the payload */
    size_t offset; /* of what the guest has not got yet */
    uint8_t bytes[];
};

/* length bytes of payload for the caller to fill; NULL if memory is out. free() it. */
struct vsock_packet *vsock_packet_new(const struct vsock_header *header, size_t length);

/* From the guest. Returns the payload's length as the header has it. */
uint32_t vsock_header_decode(const uint8_t bytes[VSOCK_HEADER_SIZE], struct vsock_header *out);
/* For the guest. */
void vsock_header_encode(const struct vsock_header *header, uint32_t length,
                         uint8_t bytes[VSOCK_HEADER_SIZE]);

struct vsock_queue {
    struct vsock_packet *first;
    struct vsock_packet *last;
    size_t count;
    size_t memory_bytes; /* what the packets take */
};

/* Takes the packet over. */
void vsock_queue_put(struct vsock_queue *queue, struct vsock_packet *packet);
/* The oldest one, now the caller's; NULL if there is none. */
struct vsock_packet *vsock_queue_take(struct vsock_queue *queue);
void vsock_queue_clear(struct vsock_queue *queue);

#endif
