/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vsock/connection.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Nobody waits for ever: for a greeting, for the guest's answer to a request (it gives
 * one at once, unless it stands still or is overloaded) or to the end. */
enum { GREETING_S = 10, REQUEST_S = 20, CLOSING_S = 10 };

enum { GREETING_MAX = 32 };

static uint64_t deadline_in(unsigned seconds)
{
    return clock_monotonic_ns() + seconds * UINT64_C(1000000000);
}

/* Nothing for a guest that has put an end to it. */
static void add_pending(struct vsock_connection *c, enum vsock_op op)
{
    if (c->state != VSOCK_LINGERING && c->state != VSOCK_GONE)
        c->pending |= 1u << op;
}

struct vsock_connection *vsock_connection_new(int fd, uint64_t guest_cid, uint32_t host_port)
{
    struct vsock_connection *c = calloc(1, sizeof(*c));

    if (c == NULL)
        abort();
    c->state = VSOCK_GREETING;
    c->deadline_ns = deadline_in(GREETING_S);
    c->fd = fd;
    c->guest_cid = guest_cid;
    c->host_port = host_port;
    return c;
}

static void close_host(struct vsock_connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

void vsock_connection_free(struct vsock_connection *c)
{
    if (c == NULL)
        return;
    close_host(c);
    buffer_clear(&c->to_host);
    free(c);
}

void vsock_connection_abort(struct vsock_connection *c)
{
    c->reset = c->state == VSOCK_REQUESTING || c->state == VSOCK_OPEN || c->state == VSOCK_CLOSING;
    c->state = VSOCK_GONE;
}

void vsock_connection_request(struct vsock_connection *c, uint32_t guest_port)
{
    c->guest_port = guest_port;
    c->state = VSOCK_REQUESTING;
    c->deadline_ns = deadline_in(REQUEST_S);
    add_pending(c, VSOCK_REQUEST);
}

void vsock_connection_accept(struct vsock_connection *c, const struct vsock_header *request)
{
    c->from_guest = true;
    c->guest_port = request->guest_port;
    c->state = VSOCK_OPEN;
    c->deadline_ns = 0;
    c->peer_buf_alloc = request->buf_alloc;
    c->peer_fwd_cnt = request->fwd_cnt;
    add_pending(c, VSOCK_RESPONSE);
}

/* ---- credit ---- */

/* 5.10.6.3: all counters go round. A guest that claims to have forwarded what it was
 * not sent, or takes back what it had room for, has none. */
uint32_t vsock_connection_credit(const struct vsock_connection *c)
{
    const uint32_t under_way = c->sent_cnt - c->peer_fwd_cnt;

    return under_way < c->peer_buf_alloc ? c->peer_buf_alloc - under_way : 0;
}

/* The guest is told of room when it believes that there is little. */
static void count_forwarded(struct vsock_connection *c, size_t length)
{
    c->fwd_cnt += (uint32_t)length;
    if (c->fwd_cnt != c->told_fwd_cnt && c->received_cnt - c->told_fwd_cnt >= VSOCK_WINDOW / 2)
        add_pending(c, VSOCK_CREDIT_UPDATE);
}

/* ---- the host's end ---- */

static bool host_listens(const struct vsock_connection *c)
{
    return c->fd >= 0 && (c->host_ended & VSOCK_NO_RECEIVE) == 0;
}

static bool host_may_send(const struct vsock_connection *c)
{
    return c->fd >= 0 && (c->host_ended & VSOCK_NO_SEND) == 0;
}

/* The guest learns that the host's program ended, if it does not know. */
static void host_ended(struct vsock_connection *c, unsigned how)
{
    if ((c->host_ended & how) != how)
        add_pending(c, VSOCK_SHUTDOWN);
    c->host_ended |= how;
    if (c->host_ended != VSOCK_NO_MORE || c->state != VSOCK_OPEN)
        return;
    close_host(c);
    count_forwarded(c, c->to_host.length);
    buffer_clear(&c->to_host);
    c->state = VSOCK_CLOSING;
    c->deadline_ns = deadline_in(CLOSING_S);
}

/* What the host's program has not taken it will not take. */
static void host_is_deaf(struct vsock_connection *c)
{
    const size_t lost = c->to_host.length;

    buffer_clear(&c->to_host);
    if (c->state == VSOCK_LINGERING) {
        c->state = VSOCK_GONE;
        return;
    }
    count_forwarded(c, lost);
    host_ended(c, VSOCK_NO_RECEIVE);
}

/* Returns how much the host's program took. */
static size_t send_to_host(struct vsock_connection *c, const uint8_t *bytes, size_t length)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = send(c->fd, bytes + done, length - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            host_is_deaf(c);
        if (n < 0)
            break;
        done += (size_t)n;
    }
    return done;
}

/* When all has been taken and no more can come. */
static void finish_writing(struct vsock_connection *c)
{
    if (c->to_host.length > 0)
        return;
    if (c->state == VSOCK_LINGERING) {
        c->state = VSOCK_GONE;
    } else if ((c->guest_ended & VSOCK_NO_SEND) != 0 && !c->write_closed && c->fd >= 0) {
        shutdown(c->fd, SHUT_WR);
        c->write_closed = true;
    }
}

static void flush(struct vsock_connection *c)
{
    const size_t done = send_to_host(c, c->to_host.data, c->to_host.length);

    if (c->to_host.length > 0) { /* else there is nobody to take it any more */
        c->to_host.length -= done;
        memmove(c->to_host.data, c->to_host.data + done, c->to_host.length);
        count_forwarded(c, done);
    }
    finish_writing(c);
}

static void pass_on(struct vsock_connection *c, const uint8_t *bytes, size_t length)
{
    size_t done = 0;

    if (c->to_host.length == 0)
        done = send_to_host(c, bytes, length);
    if (!host_listens(c))
        done = length;
    count_forwarded(c, done);
    if (buffer_append(&c->to_host, bytes + done, length - done) < 0)
        vsock_connection_abort(c);
}

static struct vsock_header header_of(struct vsock_connection *c, enum vsock_op op)
{
    c->told_fwd_cnt = c->fwd_cnt;
    return (struct vsock_header){
        .guest_cid = c->guest_cid,
        .peer_cid = VSOCK_HOST_CID,
        .guest_port = c->guest_port,
        .peer_port = c->host_port,
        .type = VSOCK_TYPE_STREAM,
        .op = (uint16_t)op,
        .flags = op == VSOCK_SHUTDOWN ? c->host_ended : 0,
        .buf_alloc = VSOCK_WINDOW,
        .fwd_cnt = c->fwd_cnt,
    };
}

static struct vsock_packet *data_packet(struct vsock_connection *c, const uint8_t *bytes,
                                        size_t length)
{
    const struct vsock_header header = header_of(c, VSOCK_RW);
    struct vsock_packet *packet = vsock_packet_new(&header, length);

    if (packet == NULL) {
        vsock_connection_abort(c); /* what was read has nowhere to go */
        return NULL;
    }
    memcpy(packet->bytes, bytes, length);
    c->sent_cnt += (uint32_t)length;
    if (vsock_connection_credit(c) == 0)
        add_pending(c, VSOCK_CREDIT_REQUEST);
    return packet;
}

static struct vsock_packet *read_host(struct vsock_connection *c)
{
    uint8_t bytes[VSOCK_READ_MAX];
    const size_t room = (size_t)min_u64(vsock_connection_credit(c), sizeof(bytes));

    if (room == 0)
        return NULL;
    ssize_t n = recv(c->fd, bytes, room, MSG_DONTWAIT);
    if (n > 0)
        return data_packet(c, bytes, (size_t)n);
    if (n == 0)
        host_ended(c, VSOCK_NO_SEND);
    else if (errno != EAGAIN && errno != EINTR)
        host_ended(c, VSOCK_NO_MORE);
    return NULL;
}

/* ---- polling ---- */

int vsock_connection_events(const struct vsock_connection *c, bool room)
{
    int events = 0;

    if (c->state == VSOCK_GREETING)
        return POLLIN;
    if (c->state == VSOCK_REQUESTING)
        return 0;
    if (c->state == VSOCK_CLOSING || c->state == VSOCK_GONE)
        return -1;
    if (c->to_host.length > 0)
        events |= POLLOUT;
    if (c->state == VSOCK_LINGERING)
        return events;
    if (host_may_send(c) && room && c->pending == 0 && vsock_connection_credit(c) > 0)
        events |= POLLIN;
    /* That it hung up is for later when what it has sent must be read first. */
    return events == 0 && host_may_send(c) ? -1 : events;
}

void vsock_connection_ready(struct vsock_connection *c, short revents, struct vsock_packet **out)
{
    const bool hung_up = (revents & (POLLHUP | POLLERR)) != 0;
    const bool readable = (revents & POLLIN) != 0;

    *out = NULL;
    if (c->state == VSOCK_REQUESTING && hung_up)
        vsock_connection_abort(c);
    if ((c->state == VSOCK_OPEN || c->state == VSOCK_LINGERING) && c->to_host.length > 0)
        flush(c);
    if (c->state == VSOCK_OPEN && readable && host_may_send(c))
        *out = read_host(c);
    if (c->state == VSOCK_OPEN && hung_up && !host_may_send(c))
        host_ended(c, VSOCK_NO_MORE);
}

/* ---- greeting ---- */

static int parse_greeting(const char *line, uint32_t *port_out)
{
    static const char verb[] = "CONNECT ";
    uint64_t port = 0;

    if (strncmp(line, verb, strlen(verb)) != 0)
        return -EPROTO;
    const char *digit = line + strlen(verb);
    if (*digit == '\0')
        return -EPROTO;
    for (; *digit >= '0' && *digit <= '9'; digit++)
        if ((port = port * 10 + (uint64_t)(*digit - '0')) >= UINT32_MAX) /* which means any */
            return -EPROTO;
    if (*digit != '\0')
        return -EPROTO;
    *port_out = (uint32_t)port;
    return 1;
}

int vsock_connection_greet(struct vsock_connection *c, uint32_t *port_out)
{
    /* Byte by byte, because what follows is for the guest. */
    while (c->to_host.length < GREETING_MAX) {
        char byte;
        ssize_t n = recv(c->fd, &byte, 1, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n <= 0)
            return -EPROTO;
        if (byte == '\n')
            byte = '\0';
        if (buffer_append(&c->to_host, &byte, 1) < 0)
            return -EPROTO;
        if (byte == '\0') {
            int r = parse_greeting((const char *)c->to_host.data, port_out);
            buffer_clear(&c->to_host);
            return r;
        }
    }
    return -EPROTO;
}

/* ---- from the guest ---- */

/* No word of this connection reaches the guest any more. */
static void guest_is_gone(struct vsock_connection *c)
{
    c->pending = 0;
    c->deadline_ns = 0;
    c->state = c->to_host.length > 0 && host_listens(c) ? VSOCK_LINGERING : VSOCK_GONE;
}

static void take_response(struct vsock_connection *c)
{
    char line[GREETING_MAX];

    if (c->state != VSOCK_REQUESTING) {
        vsock_connection_abort(c);
        return;
    }
    c->state = VSOCK_OPEN;
    c->deadline_ns = 0;
    /* Nothing has been written yet, so there is room. */
    int length = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
    if (send(c->fd, line, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) != length)
        vsock_connection_abort(c);
}

/* 5.10.6.6: an end that will neither receive nor send is answered by a reset. */
static void take_shutdown(struct vsock_connection *c, uint32_t flags)
{
    if (c->state == VSOCK_REQUESTING) {
        vsock_connection_abort(c);
        return;
    }
    c->guest_ended |= flags & VSOCK_NO_MORE;
    if (c->guest_ended == VSOCK_NO_MORE) {
        c->reset = true;
        guest_is_gone(c);
        return;
    }
    if ((c->guest_ended & VSOCK_NO_RECEIVE) != 0 && host_may_send(c)) {
        shutdown(c->fd, SHUT_RD);
        host_ended(c, VSOCK_NO_SEND);
    }
    finish_writing(c);
}

static void take_data(struct vsock_connection *c, const struct vsock_packet *packet)
{
    const uint32_t held = c->received_cnt - c->fwd_cnt;

    if (c->state == VSOCK_REQUESTING || (c->guest_ended & VSOCK_NO_SEND) != 0 ||
        packet->length > VSOCK_WINDOW - held) {
        vsock_connection_abort(c);
        return;
    }
    c->received_cnt += (uint32_t)packet->length;
    if (host_listens(c))
        pass_on(c, packet->bytes, packet->length);
    else
        count_forwarded(c, packet->length);
}

void vsock_connection_take(struct vsock_connection *c, const struct vsock_packet *packet)
{
    c->peer_buf_alloc = packet->header.buf_alloc;
    c->peer_fwd_cnt = packet->header.fwd_cnt;
    switch (packet->header.op) {
    case VSOCK_RESPONSE:
        take_response(c);
        break;
    case VSOCK_RST:
        guest_is_gone(c);
        break;
    case VSOCK_SHUTDOWN:
        take_shutdown(c, packet->header.flags);
        break;
    case VSOCK_RW:
        take_data(c, packet);
        break;
    case VSOCK_CREDIT_UPDATE:
        break;
    case VSOCK_CREDIT_REQUEST:
        add_pending(c, VSOCK_CREDIT_UPDATE);
        break;
    default:
        vsock_connection_abort(c);
    }
}

/* ---- to the guest ---- */

struct vsock_packet *vsock_connection_next(struct vsock_connection *c)
{
    if (c->pending == 0)
        return NULL;
    const enum vsock_op op = (enum vsock_op)__builtin_ctz(c->pending);
    const struct vsock_header header = header_of(c, op);
    struct vsock_packet *packet = vsock_packet_new(&header, 0);
    if (packet != NULL)
        c->pending &= ~(1u << op);
    return packet;
}
