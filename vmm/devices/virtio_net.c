/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net: virtio 1.2, 5.1. One pair of queues, MAC address, link status, and
 * checksums that the driver leaves to us. No segmentation offload and no merged
 * buffers: each frame is one chain.
 */
#include "base/bytes.h"
#include "vmm/devices/virtio.h"
#include "vmm/net/frame_queue.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>

enum {
    QUEUE_RECEIVE = 0,
    QUEUE_TRANSMIT = 1,
    QUEUE_COUNT = 2,
    QUEUE_SIZE = 256,
    HEADER_SIZE = 12,              /* struct virtio_net_hdr_v1 */
    CONFIG_SIZE = 8,               /* MAC and status: the rest is of features not offered */
    WAITING_BYTES_MAX = 512 << 10, /* some 300 full frames */
    RECORD_V1 = 1,
};

/* "in" is to the guest. */
struct net_counters {
    uint64_t frames_in, in_bytes;
    uint64_t frames_out, out_bytes;
    uint64_t lost_in;  /* the guest had no room for them, for long */
    uint64_t lost_out; /* no link, or what no network would carry */
};

struct net {
    struct net_counters counters;
    struct device *transport;
    struct memory *mem;
    struct net_backend backend;
    bool link_up; /* there is a backend */
    bool held;
    uint8_t mac[MANIFEST_MAC_SIZE];
    struct frame_queue waiting; /* for the guest */
    uint8_t frame[FRAME_SIZE_MAX];
};

static uint16_t link_status(const struct net *net)
{
    return net->link_up ? VIRTIO_NET_S_LINK_UP : 0;
}

static void net_config(void *device, uint8_t *out)
{
    const struct net *net = device;

    memcpy(out, net->mac, sizeof(net->mac));
    store_le16(out + sizeof(net->mac), link_status(net));
}

/* ---- transmit ---- */

/* RFC 1071. */
static uint16_t internet_checksum(const uint8_t *bytes, size_t length)
{
    uint64_t sum = 0;

    for (size_t i = 0; i + 1 < length; i += 2)
        sum += load_be16(bytes + i);
    if (length % 2 != 0)
        sum += (uint64_t)bytes[length - 1] << 8;
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* 5.1.6.2: the checksum over all from csum_start on goes to csum_offset behind it,
 * where the driver has put the sum of the pseudo header. */
static bool complete_checksum(uint8_t *frame, size_t length, size_t start, size_t offset)
{
    if (!range_fits(start + offset, sizeof(uint16_t), length))
        return false;
    uint16_t sum = internet_checksum(frame + start, length - start);
    if (sum == 0)
        sum = 0xffff; /* the same number; in UDP, 0 means that there is no checksum */
    frame[start + offset] = (uint8_t)(sum >> 8);
    frame[start + offset + 1] = (uint8_t)sum;
    return true;
}

/* False for what no network would carry, which is lost, as by a real card. */
static bool transmit(struct net *net, const uint8_t header[HEADER_SIZE], size_t length)
{
    const uint8_t flags = header[offsetof(struct virtio_net_hdr_v1, flags)];
    const uint8_t gso = header[offsetof(struct virtio_net_hdr_v1, gso_type)];
    const size_t start = load_le16(header + offsetof(struct virtio_net_hdr_v1, csum_start));
    const size_t offset = load_le16(header + offsetof(struct virtio_net_hdr_v1, csum_offset));

    if (!net->link_up || gso != VIRTIO_NET_HDR_GSO_NONE)
        return false;
    if ((flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 &&
        !complete_checksum(net->frame, length, start, offset))
        return false;
    net->backend.send(net->frame, length, net->backend.context);
    return true;
}

static void count_sent(struct net_counters *c, bool sent, uint64_t length)
{
    counter_add(sent ? &c->frames_out : &c->lost_out, 1);
    counter_add(&c->out_bytes, sent ? length : 0);
}

static int serve_transmit(struct net *net, const struct virtq_chain *chain)
{
    uint8_t header[HEADER_SIZE];

    if (!virtq_chain_read(chain, 0, header, sizeof(header)))
        return -EPROTO;
    uint64_t length = chain->readable_bytes - HEADER_SIZE;
    if (length < FRAME_SIZE_MIN || length > FRAME_SIZE_MAX) {
        count_sent(&net->counters, false, 0);
        return 0;
    }
    if (!virtq_chain_read(chain, HEADER_SIZE, net->frame, (size_t)length))
        return -EPROTO;
    count_sent(&net->counters, transmit(net, header, (size_t)length), length);
    return 0;
}

/* ---- receive ---- */

/* 5.1.6.3.1: the driver gives buffers for the largest frame there can be. */
static int serve_receive(struct net *net, const struct virtq_chain *chain, uint32_t *written_out)
{
    static const uint8_t header[HEADER_SIZE] = {[offsetof(struct virtio_net_hdr_v1, num_buffers)] =
                                                    1};
    struct frame *frame = frame_queue_take(&net->waiting);

    if (frame == NULL)
        return -EPROTO;
    bool fits = virtq_chain_write(chain, net->mem, 0, header, sizeof(header)) &&
                virtq_chain_write(chain, net->mem, HEADER_SIZE, frame->bytes, frame->length);
    *written_out = (uint32_t)(HEADER_SIZE + frame->length);
    counter_add(&net->counters.frames_in, 1);
    counter_add(&net->counters.in_bytes, frame->length);
    free(frame);
    return fits ? 0 : -EPROTO;
}

/* A buffer for the guest is left in its ring until there is a frame for it. */
static bool net_can_serve(void *device, unsigned queue)
{
    const struct net *net = device;

    return queue == QUEUE_TRANSMIT || (!net->held && net->waiting.first != NULL);
}

static int net_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                     uint32_t *written_out)
{
    return queue == QUEUE_TRANSMIT ? serve_transmit(device, chain)
                                   : serve_receive(device, chain, written_out);
}

void virtio_net_receive(struct device *transport, const uint8_t *frame, size_t length)
{
    struct net *net = virtio_device(transport);

    /* A kick serves the other queue, too, which must not be while the card is held. */
    if (!frame_queue_put(&net->waiting, frame, length))
        counter_add(&net->counters.lost_in, 1);
    else if (!net->held)
        virtio_kick(transport);
}

void virtio_net_hold(struct device *transport, bool held)
{
    struct net *net = virtio_device(transport);

    net->held = held;
    if (!held)
        virtio_kick(transport);
}

/* ---- state ---- */

static void net_reset(void *device)
{
    struct net *net = device;

    frame_queue_clear(&net->waiting);
}

static void net_save(void *device, uint16_t slot, struct state_writer *w)
{
    const struct net *net = device;

    state_writer_begin(w, STATE_VIRTIO_NET, slot, RECORD_V1, 0);
    state_put_bytes(w, net->mac, sizeof(net->mac));
    state_put_u16(w, link_status(net));
    state_writer_end(w);
}

/* Here the card may be plugged in where it was not there, or the other way round, or
 * have another address: the driver is told to look again. */
static int net_restore(void *device, uint16_t slot, const void *state, size_t length,
                       struct error *err)
{
    static const uint8_t none[MANIFEST_MAC_SIZE];
    struct net *net = device;
    struct state_record record;
    uint8_t mac[MANIFEST_MAC_SIZE];

    int r = state_find_known(state, length, STATE_VIRTIO_NET, slot, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    state_get_bytes(&record, mac, sizeof(mac));
    uint16_t status = state_get_u16(&record);
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    if ((mac[0] & 1) != 0 || memcmp(mac, none, sizeof(mac)) == 0 || status > VIRTIO_NET_S_LINK_UP)
        return error_corrupt(err, "the state of the network card in slot %u is out of range", slot);
    if (status != link_status(net) || memcmp(mac, net->mac, sizeof(mac)) != 0)
        virtio_config_changed(net->transport);
    return 0;
}

static void net_visit_counters(const void *device, const struct counter_visitor *visitor)
{
    const struct net_counters *c = &((const struct net *)device)->counters;

    counter_visit(visitor, "frames_in", &c->frames_in);
    counter_visit(visitor, "in_bytes", &c->in_bytes);
    counter_visit(visitor, "frames_out", &c->frames_out);
    counter_visit(visitor, "out_bytes", &c->out_bytes);
    counter_visit(visitor, "lost_in", &c->lost_in);
    counter_visit(visitor, "lost_out", &c->lost_out);
}

static void net_destroy(void *device)
{
    struct net *net = device;

    frame_queue_clear(&net->waiting);
    free(net);
}

static const struct virtio_ops net_ops = {
    .name = "virtio-net",
    .device_id = VIRTIO_ID_NET,
    .features = 1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS,
    .queue_count = QUEUE_COUNT,
    .queue_size_max = QUEUE_SIZE,
    .can_serve = net_can_serve,
    .serve = net_serve,
    .config = net_config,
    .config_bytes = CONFIG_SIZE,
    .reset = net_reset,
    .save = net_save,
    .restore = net_restore,
    .counters = net_visit_counters,
    .destroy = net_destroy,
};

struct device *virtio_net_create(uint16_t slot, const uint8_t mac[MANIFEST_MAC_SIZE],
                                 const struct net_backend *backend, struct memory *mem,
                                 const struct irq_line *irq)
{
    struct net *net = calloc(1, sizeof(*net));

    if (net == NULL)
        abort();
    if (backend != NULL)
        net->backend = *backend;
    net->link_up = backend != NULL;
    net->held = true;
    net->mem = mem;
    memcpy(net->mac, mac, sizeof(net->mac));
    frame_queue_init(&net->waiting, WAITING_BYTES_MAX);
    net->transport = virtio_create(slot, &net_ops, net, mem, irq);
    return net->transport;
}
