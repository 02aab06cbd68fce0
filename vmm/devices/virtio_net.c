/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net: virtio 1.2, 5.1. One pair of queues, MAC address, link status, checksums
 * that either side leaves to the other, and a control queue by which the driver says
 * that it has made itself known after a move. The driver may leave TCP's segmentation to
 * us, not the other way round, and there are no merged buffers: each frame is one chain.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/devices/virtio.h"
#include "vmm/net/checksum.h"
#include "vmm/net/flows.h"
#include "vmm/net/frame_queue.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <stdlib.h>

enum {
    QUEUE_RECEIVE = 0,
    QUEUE_TRANSMIT = 1,
    QUEUE_CONTROL = 2,
    QUEUE_COUNT = 3,
    QUEUE_SIZE = 256,
    HEADER_SIZE = 12,              /* struct virtio_net_hdr_v1 */
    CONFIG_SIZE = 8,               /* MAC and status: the rest is of features not offered */
    WAITING_BYTES_MAX = 512 << 10, /* some 300 full frames */
    FRAME_ANY_DRIVER = 1514,       /* what each buffer has room for (5.1.6.3.1) */
    FRAME_VLAN = 1518,             /* and most have: one with a tag */
    FRAME_SMALLEST = 60,           /* on a wire */
    STATUS_MASK = VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE,
    RECORD_V2 = 2, /* its status may ask the driver to announce itself */
};

/* "in" is to the guest. */
struct net_counters {
    uint64_t frames_in, in_bytes;
    uint64_t frames_out, out_bytes;
    uint64_t lost_in;  /* the guest had no room for them, for long, or they are too large */
    uint64_t lost_out; /* no link, or what no network would carry */
};

struct net {
    struct net_counters counters;
    struct device *transport;
    struct memory *mem;
    struct net_backend backend;
    bool link_up;    /* there is a backend */
    bool announce;   /* the driver is asked to make itself known, and has not said it has */
    bool tell_later; /* it cannot: the card does, when it is let go */
    bool held;
    bool resets_due; /* it was restored, and connections that are lost were not reset */
    uint8_t mac[MANIFEST_MAC_SIZE];
    struct frame_queue waiting; /* for the guest */
    struct flows flows;
    uint8_t frame[FRAME_SIZE_MAX];
};

static bool has_feature(const struct net *net, unsigned bit)
{
    return (virtio_driver_features(net->transport) >> bit & 1) != 0;
}

static uint16_t link_status(const struct net *net)
{
    return (uint16_t)((net->link_up ? VIRTIO_NET_S_LINK_UP : 0) |
                      (net->announce ? VIRTIO_NET_S_ANNOUNCE : 0));
}

static void net_config(void *device, uint8_t *out)
{
    const struct net *net = device;

    memcpy(out, net->mac, sizeof(net->mac));
    store_le16(out + sizeof(net->mac), link_status(net));
}

/* ---- checksums ---- */

static bool sum_fits(const struct net_offload *offload, size_t length)
{
    return range_fits((uint64_t)offload->sum_start + offload->sum_offset, sizeof(uint16_t), length);
}

/* Adds what a partial sum leaves out. */
static void complete_sum(uint8_t *frame, size_t length, struct net_offload *offload)
{
    const size_t start = offload->sum_start;
    uint16_t sum = internet_checksum(frame + start, length - start);

    if (sum == 0)
        sum = 0xffff; /* the same number; in UDP, 0 means that there is no checksum */
    frame[start + offload->sum_offset] = (uint8_t)(sum >> 8);
    frame[start + offload->sum_offset + 1] = (uint8_t)sum;
    offload->sum = NET_SUM_THERE;
}

/* ---- transmit ---- */

static bool put_reset(struct net *net, const uint8_t reset[FLOW_RESET_SIZE])
{
    return frame_queue_put(&net->waiting,
                           &(struct net_frame){.bytes = reset, .length = FLOW_RESET_SIZE});
}

/* 5.1.6.2: a segment to be cut has a checksum to be completed, too. */
static bool can_be_cut(const struct net *net, uint8_t flags, uint8_t gso, uint16_t size)
{
    return gso == VIRTIO_NET_HDR_GSO_TCPV4 && size > 0 &&
           (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 && has_feature(net, VIRTIO_NET_F_HOST_TSO4);
}

/* False for what no network would carry, which is lost, as by a real card. */
static bool transmit(struct net *net, const uint8_t header[HEADER_SIZE], size_t length)
{
    uint8_t reset[FLOW_RESET_SIZE];
    const uint8_t flags = header[offsetof(struct virtio_net_hdr_v1, flags)];
    const uint8_t gso = header[offsetof(struct virtio_net_hdr_v1, gso_type)];
    const uint16_t size = load_le16(header + offsetof(struct virtio_net_hdr_v1, gso_size));
    struct net_frame frame = {.bytes = net->frame, .length = length};

    if (!net->link_up || (gso != VIRTIO_NET_HDR_GSO_NONE && !can_be_cut(net, flags, gso, size)))
        return false;
    if ((flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
        frame.offload = (struct net_offload){
            .sum = NET_SUM_PARTIAL,
            .sum_start = load_le16(header + offsetof(struct virtio_net_hdr_v1, csum_start)),
            .sum_offset = load_le16(header + offsetof(struct virtio_net_hdr_v1, csum_offset)),
            .segment = gso != VIRTIO_NET_HDR_GSO_NONE ? size : 0,
        };
        if (!sum_fits(&frame.offload, length))
            return false;
        if (!net->backend.completes_sums)
            complete_sum(net->frame, length, &frame.offload);
    }
    if (flows_sent(&net->flows, net->frame, length, reset))
        net->backend.send(&frame, net->backend.context);
    else if (put_reset(net, reset))
        virtio_kick_later(net->transport);
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

/* 5.1.6.4.1: what the frame's header says, as far as the driver wants to know. */
static void make_header(const struct net *net, struct frame *frame, uint8_t header[HEADER_SIZE])
{
    const bool knows = has_feature(net, VIRTIO_NET_F_GUEST_CSUM);
    const struct net_offload *offload = &frame->offload;

    memset(header, 0, HEADER_SIZE);
    store_le16(header + offsetof(struct virtio_net_hdr_v1, num_buffers), 1);
    if (offload->sum == NET_SUM_PARTIAL && !knows)
        complete_sum(frame->bytes, frame->length, &frame->offload);
    if (offload->sum == NET_SUM_GOOD && knows)
        header[offsetof(struct virtio_net_hdr_v1, flags)] = VIRTIO_NET_HDR_F_DATA_VALID;
    if (offload->sum == NET_SUM_PARTIAL) {
        header[offsetof(struct virtio_net_hdr_v1, flags)] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        store_le16(header + offsetof(struct virtio_net_hdr_v1, csum_start), offload->sum_start);
        store_le16(header + offsetof(struct virtio_net_hdr_v1, csum_offset), offload->sum_offset);
    }
}

static bool put_frame(struct net *net, const struct virtq_chain *chain, struct frame *frame)
{
    uint8_t header[HEADER_SIZE];

    make_header(net, frame, header);
    return virtq_chain_write(chain, net->mem, 0, header, sizeof(header)) &&
           virtq_chain_write(chain, net->mem, HEADER_SIZE, frame->bytes, frame->length);
}

static int serve_receive(struct net *net, const struct virtq_chain *chain, uint32_t *written_out)
{
    _cleanup_free_ struct frame *frame = frame_queue_take(&net->waiting);

    if (frame == NULL)
        return -EPROTO;
    if (frame->length > FRAME_ANY_DRIVER && chain->writable_bytes < HEADER_SIZE + frame->length) {
        counter_add(&net->counters.lost_in, 1); /* not the driver's fault */
        return 0;
    }
    if (!put_frame(net, chain, frame))
        return -EPROTO;
    *written_out = (uint32_t)(HEADER_SIZE + frame->length);
    counter_add(&net->counters.frames_in, 1);
    counter_add(&net->counters.in_bytes, frame->length);
    return 0;
}

/* ---- making oneself known ---- */

/* What addresses the guest has, it alone knows. So, for bridges, which learn from
 * whom they hear: a question for the card's own address that nobody will answer
 * (RARP, RFC 903). */
static void tell_bridges(struct net *net)
{
    enum { HARDWARE = 14, PROTOCOL = 16, SIZES = 18, OPERATION = 20, SENDER = 22, TARGET = 32 };
    uint8_t bytes[FRAME_SMALLEST] = {0};
    const struct net_frame frame = {.bytes = bytes, .length = sizeof(bytes)};

    memset(bytes, 0xff, ETH_ALEN);
    memcpy(bytes + ETH_ALEN, net->mac, ETH_ALEN);
    store_be16(bytes + 2 * ETH_ALEN, ETHERTYPE_REVARP);
    store_be16(bytes + HARDWARE, ARPHRD_ETHER);
    store_be16(bytes + PROTOCOL, ETHERTYPE_IP);
    store_be16(bytes + SIZES, ETH_ALEN << 8 | sizeof(uint32_t));
    store_be16(bytes + OPERATION, ARPOP_RREQUEST);
    memcpy(bytes + SENDER, net->mac, ETH_ALEN);
    memcpy(bytes + TARGET, net->mac, ETH_ALEN);
    net->backend.send(&frame, net->backend.context);
}

/* A card that was restored: bridges send its frames to where it was. */
static void announce(struct net *net)
{
    const bool moved = net->backend.shared && virtio_is_running(net->transport);

    net->announce = moved && has_feature(net, VIRTIO_NET_F_GUEST_ANNOUNCE);
    net->tell_later = moved && !net->announce;
}

/* 5.1.6.5: of all commands, there is only what the driver says when it has made itself
 * known (5.1.6.5.4). */
static bool run_command(struct net *net, uint8_t class, uint8_t command)
{
    if (class != VIRTIO_NET_CTRL_ANNOUNCE || command != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
        !has_feature(net, VIRTIO_NET_F_GUEST_ANNOUNCE))
        return false;
    net->announce = false;
    return true;
}

static int serve_control(struct net *net, const struct virtq_chain *chain, uint32_t *written_out)
{
    uint8_t request[sizeof(struct virtio_net_ctrl_hdr)];

    if (chain->writable_bytes < 1 || !virtq_chain_read(chain, 0, request, sizeof(request)))
        return -EPROTO;
    const uint8_t ack = run_command(net, request[0], request[1]) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    *written_out = sizeof(ack);
    return virtq_chain_write(chain, net->mem, 0, &ack, sizeof(ack)) ? 0 : -EPROTO;
}

/* ---- queues ---- */

/* A buffer for the guest is left in its ring until there is a frame for it. */
static bool net_can_serve(void *device, unsigned queue)
{
    const struct net *net = device;

    switch (queue) {
    case QUEUE_TRANSMIT:
        return true;
    case QUEUE_RECEIVE:
        return !net->held && net->waiting.first != NULL;
    default:
        return has_feature(net, VIRTIO_NET_F_CTRL_VQ);
    }
}

static int net_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                     uint32_t *written_out)
{
    switch (queue) {
    case QUEUE_TRANSMIT:
        return serve_transmit(device, chain);
    case QUEUE_RECEIVE:
        return serve_receive(device, chain, written_out);
    default:
        return serve_control(device, chain, written_out);
    }
}

/* No driver has taken features that would have it expect larger ones. */
static bool can_be_received(const struct net_frame *frame)
{
    return frame->length <= FRAME_VLAN &&
           (frame->offload.sum != NET_SUM_PARTIAL || sum_fits(&frame->offload, frame->length));
}

void virtio_net_receive(struct device *transport, const struct net_frame *frame)
{
    struct net *net = virtio_device(transport);

    /* A kick serves the other queues, too, which must not be while the card is held. */
    if (!can_be_received(frame) || !frame_queue_put(&net->waiting, frame))
        counter_add(&net->counters.lost_in, 1);
    else if (!net->held)
        virtio_kick(transport);
}

/* For a guest that just waits for data would wait for ever. */
static void reset_flows(struct net *net)
{
    uint8_t frame[FLOW_RESET_SIZE];

    for (uint32_t i = 0; i < net->flows.count; i++) {
        flows_reset(&net->flows, i, frame);
        put_reset(net, frame);
    }
    net->resets_due = false;
}

void virtio_net_hold(struct device *transport, bool held)
{
    struct net *net = virtio_device(transport);

    net->held = held;
    if (held)
        return;
    if (net->tell_later)
        tell_bridges(net);
    net->tell_later = false;
    if (net->resets_due)
        reset_flows(net);
    virtio_kick(transport);
}

/* ---- state ---- */

static void net_reset(void *device)
{
    struct net *net = device;

    frame_queue_clear(&net->waiting);
    net->announce = false;
    net->tell_later = false;
    net->flows.count = 0;
    net->resets_due = false;
}

static void net_save(void *device, uint16_t slot, struct state_writer *w)
{
    const struct net *net = device;

    state_writer_begin(w, STATE_VIRTIO_NET, slot, RECORD_V2, 0);
    state_put_bytes(w, net->mac, sizeof(net->mac));
    state_put_u16(w, link_status(net));
    state_writer_end(w);
    flows_save(&net->flows, slot, w);
}

/* Here the card may be plugged in where it was not there, or the other way round, or
 * have another address, or have to be announced: the driver is told to look again. */
static int net_restore(void *device, uint16_t slot, const void *state, size_t length,
                       struct error *err)
{
    static const uint8_t none[MANIFEST_MAC_SIZE];
    struct net *net = device;
    struct state_record record;
    uint8_t mac[MANIFEST_MAC_SIZE];

    int r = state_find_known(state, length, STATE_VIRTIO_NET, slot, RECORD_V2, &record, err);
    if (r < 0)
        return r;
    state_get_bytes(&record, mac, sizeof(mac));
    uint16_t status = state_get_u16(&record);
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    if ((mac[0] & 1) != 0 || memcmp(mac, none, sizeof(mac)) == 0 ||
        (status & ~(record.version < RECORD_V2 ? VIRTIO_NET_S_LINK_UP : STATUS_MASK)) != 0)
        return error_corrupt(err, "the state of the network card in slot %u is out of range", slot);
    if ((r = flows_restore(&net->flows, slot, state, length, err)) < 0)
        return r;
    if (net->backend.forget != NULL)
        flows_lose(&net->flows);
    net->resets_due = net->backend.forget != NULL;
    announce(net);
    if (net->announce || status != link_status(net) || memcmp(mac, net->mac, sizeof(mac)) != 0)
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
    .features = 1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM |
                1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS |
                1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_CTRL_VQ |
                1ull << VIRTIO_NET_F_GUEST_ANNOUNCE,
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
