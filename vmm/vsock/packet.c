/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vsock/packet.h"

#include "base/bytes.h"

#include <stdlib.h>

/* Offsets in struct virtio_vsock_hdr: 5.10.6. */
enum {
    SRC_CID = 0,
    DST_CID = 8,
    SRC_PORT = 16,
    DST_PORT = 20,
    LENGTH = 24,
    TYPE = 28,
    OP = 30,
    FLAGS = 32,
    BUF_ALLOC = 36,
    FWD_CNT = 40,
};

struct vsock_packet *vsock_packet_new(const struct vsock_header *header, size_t length)
{
    struct vsock_packet *packet = malloc(sizeof(*packet) + length);

    if (packet == NULL)
        return NULL;
    *packet = (struct vsock_packet){.header = *header, .length = length};
    return packet;
}

uint32_t vsock_header_decode(const uint8_t bytes[VSOCK_HEADER_SIZE], struct vsock_header *out)
{
    *out = (struct vsock_header){
        .guest_cid = load_le64(bytes + SRC_CID),
        .peer_cid = load_le64(bytes + DST_CID),
        .guest_port = load_le32(bytes + SRC_PORT),
        .peer_port = load_le32(bytes + DST_PORT),
        .type = load_le16(bytes + TYPE),
        .op = load_le16(bytes + OP),
        .flags = load_le32(bytes + FLAGS),
        .buf_alloc = load_le32(bytes + BUF_ALLOC),
        .fwd_cnt = load_le32(bytes + FWD_CNT),
    };
    return load_le32(bytes + LENGTH);
}

void vsock_header_encode(const struct vsock_header *header, uint32_t length,
                         uint8_t bytes[VSOCK_HEADER_SIZE])
{
    store_le64(bytes + SRC_CID, header->peer_cid);
    store_le64(bytes + DST_CID, header->guest_cid);
    store_le32(bytes + SRC_PORT, header->peer_port);
    store_le32(bytes + DST_PORT, header->guest_port);
    store_le32(bytes + LENGTH, length);
    store_le16(bytes + TYPE, header->type);
    store_le16(bytes + OP, header->op);
    store_le32(bytes + FLAGS, header->flags);
    store_le32(bytes + BUF_ALLOC, header->buf_alloc);
    store_le32(bytes + FWD_CNT, header->fwd_cnt);
}

/* A packet without payload must cost something, too. */
static size_t cost(const struct vsock_packet *packet)
{
    return sizeof(*packet) + packet->length;
}

void vsock_queue_put(struct vsock_queue *queue, struct vsock_packet *packet)
{
    packet->next = NULL;
    if (queue->first == NULL)
        queue->first = packet;
    else
        queue->last->next = packet;
    queue->last = packet;
    queue->count++;
    queue->memory_bytes += cost(packet);
}

struct vsock_packet *vsock_queue_take(struct vsock_queue *queue)
{
    struct vsock_packet *packet = queue->first;

    if (packet == NULL)
        return NULL;
    queue->first = packet->next;
    queue->count--;
    queue->memory_bytes -= cost(packet);
    return packet;
}

void vsock_queue_clear(struct vsock_queue *queue)
{
    struct vsock_packet *packet;

    while ((packet = vsock_queue_take(queue)) != NULL)
        free(packet);
}
