/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock: virtio 1.2, 5.10. Streams only. The device moves packets between its
 * rings and the host's end of connections, which knows what they mean.
 *
 * Connections are no part of a checkpoint: a machine that was put back tells its driver
 * so by an event, and gets no packet until the driver has taken note, which it shows by
 * giving the event's buffer back. A connection that came in between would go down with
 * the old ones.
 */
#include "vmm/devices/virtio.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

enum {
    QUEUE_RECEIVE = 0,
    QUEUE_TRANSMIT = 1,
    QUEUE_EVENT = 2,
    QUEUE_COUNT = 3,
    QUEUE_SIZE = 256,
    FEATURE_STREAM = 1,
    CONFIG_SIZE = 8,
    EVENT_SIZE = 4,
    EVENT_TRANSPORT_RESET = 0,
    WAITING_BYTES_MAX = 256 << 10, /* for the guest; it has promised room for the payload */
    RECORD_V1 = 1,
};

enum reset_event {
    RESET_NONE,
    RESET_DUE,  /* the driver is to be told */
    RESET_SENT, /* and has not taken note yet */
};

/* "in" is to the guest; bytes are payload. */
struct vsock_counters {
    uint64_t packets_in, in_bytes;
    uint64_t packets_out, out_bytes;
};

struct vsock {
    struct vsock_counters counters;
    struct device *transport;
    struct memory *mem;
    struct vsock_backend backend; /* .send is NULL without one */
    uint64_t cid;
    bool held;
    uint32_t epoch; /* counts resets: what was under way before one is lost */
    enum reset_event event;
    uint16_t event_offered; /* buffers when it was sent */
    bool full;              /* the backend has been told */
    struct vsock_queue waiting;
};

static void vsock_config(void *device, uint8_t *out)
{
    const struct vsock *vsock = device;

    store_le64(out, vsock->cid);
}

/* ---- transmit ---- */

/* A packet that is longer than any connection has room for loses its payload, and
 * means nothing. */
static int serve_transmit(struct vsock *vsock, const struct virtq_chain *chain)
{
    uint8_t bytes[VSOCK_HEADER_SIZE];
    struct vsock_header header;

    if (!virtq_chain_read(chain, 0, bytes, sizeof(bytes)))
        return -EPROTO;
    uint32_t length = vsock_header_decode(bytes, &header);
    if (chain->readable_bytes - sizeof(bytes) < length)
        return -EPROTO;
    if (length > VSOCK_WINDOW) {
        header.op = VSOCK_INVALID;
        length = 0;
    }
    struct vsock_packet *packet = vsock_packet_new(&header, length);
    if (packet == NULL)
        return -ENOMEM; /* losing one in silence would tear a hole into a stream */
    if (!virtq_chain_read(chain, sizeof(bytes), packet->bytes, length)) {
        free(packet);
        return -EPROTO;
    }
    counter_add(&vsock->counters.packets_out, 1);
    counter_add(&vsock->counters.out_bytes, length);
    vsock->backend.send(packet, vsock->backend.context);
    return 0;
}

/* ---- receive ---- */

static void tell_room(struct vsock *vsock)
{
    const bool full =
        vsock->waiting.memory_bytes >= (vsock->full ? WAITING_BYTES_MAX / 2 : WAITING_BYTES_MAX);

    if (full == vsock->full)
        return;
    vsock->full = full;
    vsock->backend.set_room(!full, vsock->backend.context);
}

/* A packet may take several of the driver's buffers, each with a header. */
static int serve_receive(struct vsock *vsock, const struct virtq_chain *chain,
                         uint32_t *written_out)
{
    struct vsock_packet *packet = vsock->waiting.first;
    uint8_t header[VSOCK_HEADER_SIZE];

    if (packet == NULL || chain->writable_bytes < sizeof(header))
        return -EPROTO;
    const size_t left = packet->length - packet->offset;
    const size_t n = (size_t)min_u64(left, chain->writable_bytes - sizeof(header));
    if (n == 0 && left > 0)
        return -EPROTO;
    vsock_header_encode(&packet->header, (uint32_t)n, header);
    if (!virtq_chain_write(chain, vsock->mem, 0, header, sizeof(header)) ||
        !virtq_chain_write(chain, vsock->mem, sizeof(header), packet->bytes + packet->offset, n))
        return -EPROTO;
    *written_out = (uint32_t)(sizeof(header) + n);
    counter_add(&vsock->counters.packets_in, 1);
    counter_add(&vsock->counters.in_bytes, n);
    packet->offset += n;
    if (packet->offset == packet->length) {
        free(vsock_queue_take(&vsock->waiting));
        tell_room(vsock);
    }
    return 0;
}

/* ---- event ---- */

static int serve_event(struct vsock *vsock, const struct virtq_chain *chain, uint32_t *written_out)
{
    uint8_t event[EVENT_SIZE];

    store_le32(event, EVENT_TRANSPORT_RESET);
    if (!virtq_chain_write(chain, vsock->mem, 0, event, sizeof(event)))
        return -EPROTO;
    *written_out = sizeof(event);
    vsock->event = RESET_SENT;
    vsock->event_offered = virtio_queue_watch(vsock->transport, QUEUE_EVENT);
    return 0;
}

static bool event_is_settled(struct vsock *vsock)
{
    if (vsock->event == RESET_SENT &&
        virtio_queue_offered(vsock->transport, QUEUE_EVENT) != vsock->event_offered)
        vsock->event = RESET_NONE;
    return vsock->event == RESET_NONE;
}

/* ---- the queues ---- */

static bool vsock_can_serve(void *device, unsigned queue)
{
    struct vsock *vsock = device;

    if (vsock->held || vsock->backend.send == NULL)
        return false;
    switch (queue) {
    case QUEUE_TRANSMIT:
        return vsock->backend.has_room(vsock->backend.context);
    case QUEUE_RECEIVE:
        return vsock->waiting.first != NULL && event_is_settled(vsock);
    default:
        return vsock->event == RESET_DUE;
    }
}

static int vsock_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                       uint32_t *written_out)
{
    switch (queue) {
    case QUEUE_TRANSMIT:
        return serve_transmit(device, chain);
    case QUEUE_RECEIVE:
        return serve_receive(device, chain, written_out);
    default:
        return serve_event(device, chain, written_out);
    }
}

bool virtio_vsock_receive(struct device *transport, struct vsock_packet *packet)
{
    struct vsock *vsock = virtio_device(transport);
    const bool driver = virtio_is_running(transport);

    if (!driver || packet->epoch != vsock->epoch) {
        free(packet);
        return driver;
    }
    vsock_queue_put(&vsock->waiting, packet);
    tell_room(vsock);
    virtio_vsock_kick(transport);
    return true;
}

void virtio_vsock_kick(struct device *transport)
{
    const struct vsock *vsock = virtio_device(transport);

    if (!vsock->held)
        virtio_kick(transport);
}

void virtio_vsock_hold(struct device *transport, bool held)
{
    struct vsock *vsock = virtio_device(transport);

    vsock->held = held;
    virtio_vsock_kick(transport);
}

void virtio_vsock_plug(struct device *transport, const struct vsock_backend *backend)
{
    struct vsock *vsock = virtio_device(transport);

    vsock->backend = *backend;
    vsock->backend.reset(vsock->epoch, vsock->backend.context);
}

/* ---- state ---- */

static void vsock_reset(void *device)
{
    struct vsock *vsock = device;

    vsock_queue_clear(&vsock->waiting);
    vsock->epoch++;
    vsock->event = RESET_NONE;
    vsock->full = false;
    if (vsock->backend.send != NULL)
        vsock->backend.reset(vsock->epoch, vsock->backend.context);
}

/* An event that the driver has not seen yet must be waited for by the machine that is
 * made of this, too. */
static void vsock_save(void *device, uint16_t slot, struct state_writer *w)
{
    struct vsock *vsock = device;
    const bool sent = vsock->event == RESET_SENT && !event_is_settled(vsock);

    state_writer_begin(w, STATE_VIRTIO_VSOCK, slot, RECORD_V1, 0);
    state_put_u64(w, vsock->cid);
    state_put_u16(w, sent);
    state_put_u16(w, sent ? vsock->event_offered : 0);
    state_writer_end(w);
}

/* All connections are of another time or another machine. */
static int vsock_restore(void *device, uint16_t slot, const void *state, size_t length,
                         struct error *err)
{
    struct vsock *vsock = device;
    struct state_record record;

    int r = state_find_known(state, length, STATE_VIRTIO_VSOCK, slot, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    const uint64_t cid = state_get_u64(&record);
    const uint16_t sent = state_get_u16(&record);
    const uint16_t offered = state_get_u16(&record);
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    if (cid != vsock->cid || sent > 1 || (sent == 0 && offered != 0))
        return error_corrupt(err, "the state of the socket device in slot %u is out of range",
                             slot);
    vsock->event = sent != 0 ? RESET_SENT : RESET_DUE;
    vsock->event_offered = offered;
    return 0;
}

static void vsock_destroy(void *device)
{
    struct vsock *vsock = device;

    vsock_queue_clear(&vsock->waiting);
    free(vsock);
}

static void vsock_visit_counters(const void *device, const struct counter_visitor *visitor)
{
    const struct vsock_counters *c = &((const struct vsock *)device)->counters;

    counter_visit(visitor, "packets_in", &c->packets_in);
    counter_visit(visitor, "in_bytes", &c->in_bytes);
    counter_visit(visitor, "packets_out", &c->packets_out);
    counter_visit(visitor, "out_bytes", &c->out_bytes);
}

static const struct virtio_ops vsock_ops = {
    .name = "virtio-vsock",
    .device_id = VIRTIO_ID_VSOCK,
    .features = FEATURE_STREAM,
    .queue_count = QUEUE_COUNT,
    .queue_size_max = QUEUE_SIZE,
    .can_serve = vsock_can_serve,
    .serve = vsock_serve,
    .config = vsock_config,
    .config_bytes = CONFIG_SIZE,
    .reset = vsock_reset,
    .save = vsock_save,
    .restore = vsock_restore,
    .counters = vsock_visit_counters,
    .destroy = vsock_destroy,
};

struct device *virtio_vsock_create(uint16_t slot, uint64_t cid, struct memory *mem,
                                   const struct irq_line *irq)
{
    struct vsock *vsock = calloc(1, sizeof(*vsock));

    if (vsock == NULL)
        abort();
    vsock->cid = cid;
    vsock->held = true;
    vsock->mem = mem;
    vsock->transport = virtio_create(slot, &vsock_ops, vsock, mem, irq);
    return vsock->transport;
}
