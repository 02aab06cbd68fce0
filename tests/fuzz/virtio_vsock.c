/* SPDX-License-Identifier: Apache-2.0 */
/* A hostile driver and a hostile checkpoint at a socket device, and a guest that
 * breaks all rules at the connections behind it. The input is a program. */
#include "virtio_fuzz.h"

#include "vmm/vsock/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    QUEUES = 3,
    DATA = 0x8000,
    RECORD = 12,
    CID = 3,
    CONNECTIONS = 4,
    PORT = 100,
};

/* The host's end: no thread, a few connections to programs that take and send bytes. */
struct host {
    struct device *dev;
    uint32_t epoch;
    bool has_room;
    struct vsock_connection *connections[CONNECTIONS];
    int programs[CONNECTIONS];
};

static void close_connection(struct host *h, unsigned i)
{
    vsock_connection_free(h->connections[i]);
    h->connections[i] = NULL;
    if (h->programs[i] >= 0)
        close(h->programs[i]);
    h->programs[i] = -1;
}

static void open_connection(struct host *h, unsigned i, bool from_guest)
{
    const struct vsock_header request = {
        .guest_port = PORT + i, .peer_port = PORT + i, .buf_alloc = 5000};
    int fds[2];

    close_connection(h, i);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    h->connections[i] = vsock_connection_new(fds[0], CID, PORT + i);
    h->programs[i] = fds[1];
    if (from_guest)
        vsock_connection_accept(h->connections[i], &request);
    else
        vsock_connection_request(h->connections[i], PORT + i);
}

/* What holds of each connection whatever the guest does. */
static void check(struct host *h, unsigned i)
{
    struct vsock_connection *c = h->connections[i];

    MUST(c->to_host.length <= VSOCK_WINDOW);
    MUST(c->received_cnt - c->fwd_cnt <= VSOCK_WINDOW);
    if (c->state == VSOCK_GONE)
        close_connection(h, i);
}

static void on_send(struct vsock_packet *packet, void *context)
{
    struct host *h = context;
    const unsigned i = packet->header.peer_port % CONNECTIONS;

    MUST(packet->length <= VSOCK_WINDOW);
    if (h->connections[i] != NULL && h->connections[i]->state != VSOCK_LINGERING &&
        h->connections[i]->state != VSOCK_GREETING) {
        vsock_connection_take(h->connections[i], packet);
        h->connections[i]->reset = false;
        check(h, i);
    }
    free(packet);
}

static bool on_has_room(void *context)
{
    const struct host *h = context;

    return h->has_room;
}

static void on_set_room(bool room, void *context)
{
    struct host *h = context;

    MUST(h->dev != NULL);
    (void)room;
}

static void on_reset(uint32_t epoch, void *context)
{
    struct host *h = context;

    h->epoch = epoch;
    for (unsigned i = 0; i < CONNECTIONS; i++)
        close_connection(h, i);
}

static void give(struct host *h, struct vsock_packet *packet)
{
    if (packet == NULL)
        return;
    packet->epoch = h->epoch;
    virtio_vsock_receive(h->dev, packet);
}

/* As the host's thread does, for one connection. */
static void turn(struct host *h, unsigned i, size_t written)
{
    static uint8_t bytes[4096];
    struct vsock_packet *packet = NULL;
    struct vsock_connection *c = h->connections[i];

    if (c == NULL)
        return;
    if (h->programs[i] >= 0) {
        (void)!read(h->programs[i], bytes, sizeof(bytes));
        (void)!send(h->programs[i], bytes, written % sizeof(bytes), MSG_NOSIGNAL);
    }
    give(h, vsock_connection_next(c));
    const int events = vsock_connection_events(c, true);
    struct pollfd poll_fd = {.fd = events < 0 ? -1 : c->fd, .events = (short)events};
    if (poll(&poll_fd, 1, 0) > 0) {
        const uint32_t credit = vsock_connection_credit(c);
        vsock_connection_ready(c, poll_fd.revents, &packet);
        MUST(packet == NULL || packet->length <= credit);
        give(h, packet);
    }
    check(h, i);
}

static void restore(struct device *dev, const uint8_t *payload, size_t size)
{
    virtio_fuzz_restore(dev, STATE_VIRTIO_VSOCK, 1, RECORD, payload, size);
    device_fuzz_round_trip(dev);
}

/* A chain of two parts, header and payload, whose lengths the input chooses. */
static void offer(struct memory *mem, const uint8_t *p)
{
    const unsigned queue = (p[0] & 7) % QUEUES;
    uint8_t *rings = mem->hva + virtio_fuzz_rings(queue);
    const uint16_t writes = (queue != 1) != ((p[0] & 0x70) == 0x70) ? 2 : 0;

    for (unsigned i = 0; i < 2; i++) {
        uint8_t *desc = rings + 16 * i;
        store_le64(desc, (uint64_t)DATA + 0x40000u * queue + i * 44u);
        store_le32(desc + 8, i == 0 && (p[0] & 8) == 0 ? 44 : load_le16(p + 1) * (1u + p[3] % 8u));
        store_le16(desc + 12, (uint16_t)(writes | (i == 0)));
        store_le16(desc + 14, 1);
    }
    virtio_fuzz_offer(mem, queue, 0);
}

/* The header of the next packet of the guest. */
static void write_header(struct memory *mem, const uint8_t *p)
{
    uint8_t *header = mem->hva + DATA + 0x40000u;

    store_le64(header, CID);
    store_le64(header + 8, VSOCK_HOST_CID);
    store_le32(header + 16, PORT + p[0] % CONNECTIONS);
    store_le32(header + 20, PORT + p[0] % CONNECTIONS);
    store_le32(header + 24, load_le16(p + 2));
    store_le16(header + 28, VSOCK_TYPE_STREAM);
    store_le16(header + 30, p[1] % 9);
    store_le32(header + 32, p[4]);
    store_le32(header + 36, p[4] & 0x80 ? UINT32_MAX : p[4] * 100u);
}

static void step(struct host *h, struct memory *mem, const uint8_t *p, size_t left)
{
    struct device *dev = h->dev;

    switch (p[0] & 15) {
    case 0:
        if (p[1] & 1)
            device_fuzz_round_trip(dev);
        else
            restore(dev, p + VIRTIO_FUZZ_STEP, left - VIRTIO_FUZZ_STEP);
        break;
    case 1:
        virtio_fuzz_start(dev, QUEUES, UINT32_MAX);
        break;
    case 2: /* anything into the rings and tables */
        memcpy(mem->hva + VIRTIO_FUZZ_RINGS + load_le16(p + 1) % (QUEUES * VIRTIO_FUZZ_RINGS_SIZE),
               p + 3, 3);
        break;
    case 3: /* and into a header */
        memcpy(mem->hva + DATA + 0x40000u + p[1] % 44, p + 2, 4);
        break;
    case 4:
    case 5:
        write_header(mem, p + 1);
        break;
    case 6:
    case 7:
    case 8:
        offer(mem, p + 1);
        virtio_kick(dev);
        break;
    case 9:
        open_connection(h, p[1] % CONNECTIONS, p[2] & 1);
        break;
    case 10:
        turn(h, p[1] % CONNECTIONS, load_le16(p + 2));
        break;
    case 11:
        if (h->programs[p[1] % CONNECTIONS] >= 0)
            shutdown(h->programs[p[1] % CONNECTIONS], p[2] % 3);
        break;
    case 12:
        virtio_vsock_hold(dev, p[1] & 1);
        h->has_room = p[1] & 2;
        break;
    case 13:
        dev->ops->resume(dev);
        break;
    case 14:
        dev->ops->read(dev, p[1] * 4u + (p[2] >> 6), 1u << (p[2] & 3));
        break;
    default:
        virtio_fuzz_write(dev, p);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = virtio_fuzz_raise, .gsi = 16};
    struct host host = {.has_room = true, .programs = {-1, -1, -1, -1}};
    const struct vsock_backend backend = {.send = on_send,
                                          .has_room = on_has_room,
                                          .set_room = on_set_room,
                                          .reset = on_reset,
                                          .context = &host};
    struct memory *mem = NULL;

    MUST(memory_create(VIRTIO_FUZZ_RAM, &mem, NULL) == 0);
    host.dev = virtio_vsock_create(0, CID, mem, &irq);
    virtio_vsock_plug(host.dev, &backend);
    if (size > 0 && data[0] & 1) {
        virtio_fuzz_start(host.dev, QUEUES, UINT32_MAX);
        virtio_vsock_hold(host.dev, false);
    }
    for (size_t i = 0; i + VIRTIO_FUZZ_STEP <= size && i < VIRTIO_FUZZ_STEP * VIRTIO_FUZZ_STEPS_MAX;
         i += VIRTIO_FUZZ_STEP)
        step(&host, mem, data + i, size - i);
    device_fuzz_round_trip(host.dev);
    for (unsigned i = 0; i < CONNECTIONS; i++)
        close_connection(&host, i);
    host.dev->ops->destroy(host.dev);
    memory_free(mem);
    return 0;
}
