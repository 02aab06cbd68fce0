/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection between a port of the guest and a UNIX stream socket of the host:
 * its credit (virtio 1.2, 5.10.6.3), its ends, and what is to be told to the guest.
 * Knows neither threads nor the device; its owner moves packets and polls the socket.
 */
#ifndef STASIS_VMM_VSOCK_CONNECTION_H
#define STASIS_VMM_VSOCK_CONNECTION_H

#include "base/buffer.h"
#include "vmm/vsock/packet.h"

#define VSOCK_READ_MAX (64u << 10) /* taken from the host at a time */

enum vsock_state {
    VSOCK_GREETING,   /* a host's program has not said yet where it wants to go */
    VSOCK_REQUESTING, /* the guest has not answered yet */
    VSOCK_OPEN,
    VSOCK_CLOSING,   /* the host's end is gone; the guest has not said that it knows */
    VSOCK_LINGERING, /* the guest's end is gone; the host has not taken all yet */
    VSOCK_GONE,      /* to be freed */
};

struct vsock_connection {
    enum vsock_state state;
    bool from_guest;
    int fd; /* -1 when the host's end is gone */
    uint64_t guest_cid;
    uint32_t guest_port;
    uint32_t host_port;
    uint64_t deadline_ns; /* monotonic; 0: none */
    unsigned pending;     /* a bit (1 << op) for each packet to be told */
    bool reset;           /* the guest is to be told that it ended */

    /* what the guest says of itself, and what we have sent */
    uint32_t peer_buf_alloc;
    uint32_t peer_fwd_cnt;
    uint32_t sent_cnt;
    /* what we say of ourselves */
    uint32_t received_cnt;
    uint32_t fwd_cnt;
    uint32_t told_fwd_cnt;

    unsigned guest_ended;  /* VSOCK_NO_...: of the guest */
    unsigned host_ended;   /* of the host's end */
    bool write_closed;     /* the host's program has been told that no more comes */
    struct buffer to_host; /* taken from the guest, not taken by the host's program */
};

/* One that has to be greeted. fd is taken over. Aborts when memory is out. */
struct vsock_connection *vsock_connection_new(int fd, uint64_t guest_cid, uint32_t host_port);
/* Closes the socket. NULL is nothing. */
void vsock_connection_free(struct vsock_connection *c);

/* How much may be sent to the guest now. */
uint32_t vsock_connection_credit(const struct vsock_connection *c);

/*
 * Reads the line of a greeting, "CONNECT PORT\n", and not what follows it. 1 and
 * *port_out; 0: there is more to come; -EPROTO: this is something else, or the end.
 */
int vsock_connection_greet(struct vsock_connection *c, uint32_t *port_out);

/* Asks the guest for its port. */
void vsock_connection_request(struct vsock_connection *c, uint32_t guest_port);
/* The socket leads to where the guest asked to go. */
void vsock_connection_accept(struct vsock_connection *c, const struct vsock_header *request);

/* A packet of the guest for this connection. It may be GONE afterwards. */
void vsock_connection_take(struct vsock_connection *c, const struct vsock_packet *packet);

/* What to poll the socket for: POLLIN, POLLOUT; -1: not at all. room: could a packet
 * be sent to the guest? */
int vsock_connection_events(const struct vsock_connection *c, bool room);

/* The socket is ready, as poll(2) has it. *out is a packet for the guest, or NULL. */
void vsock_connection_ready(struct vsock_connection *c, short revents, struct vsock_packet **out);

/* The host's end is not to go on: reset for both. */
void vsock_connection_abort(struct vsock_connection *c);

/* The next packet that is pending, or NULL: none, or memory is out. */
struct vsock_packet *vsock_connection_next(struct vsock_connection *c);

#endif
