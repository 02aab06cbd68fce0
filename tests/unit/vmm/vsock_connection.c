/* SPDX-License-Identifier: Apache-2.0 */
/* One connection, between a socket of the host and a guest made of packets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/vsock/connection.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CID = 3, GUEST_PORT = 1024, HOST_PORT = 70000, CREDIT = 100000 };

struct pair {
    struct vsock_connection *c;
    int program; /* the host's program's end */
    uint32_t buf_alloc;
    uint32_t fwd_cnt; /* as the guest says */
};

static int set_up(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    p->c = vsock_connection_new(fds[0], CID, HOST_PORT);
    p->program = fds[1];
    p->buf_alloc = CREDIT;
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    struct pair *p = *state;

    vsock_connection_free(p->c);
    if (p->program >= 0)
        close(p->program);
    free(p);
    return 0;
}

/* ---- the guest ---- */

static void guest_sends(struct pair *p, enum vsock_op op, uint32_t flags, const void *bytes,
                        size_t length)
{
    const struct vsock_header header = {.guest_cid = CID,
                                        .peer_cid = VSOCK_HOST_CID,
                                        .guest_port = GUEST_PORT,
                                        .peer_port = HOST_PORT,
                                        .type = VSOCK_TYPE_STREAM,
                                        .op = (uint16_t)op,
                                        .flags = flags,
                                        .buf_alloc = p->buf_alloc,
                                        .fwd_cnt = p->fwd_cnt};
    _cleanup_free_ struct vsock_packet *packet = vsock_packet_new(&header, length);

    if (length > 0)
        memcpy(packet->bytes, bytes, length);
    vsock_connection_take(p->c, packet);
}

static void guest_says(struct pair *p, enum vsock_op op)
{
    guest_sends(p, op, 0, NULL, 0);
}

/* The next packet that is pending: its operation, 0 if there is none. */
static unsigned told(struct pair *p, struct vsock_header *out)
{
    _cleanup_free_ struct vsock_packet *packet = vsock_connection_next(p->c);

    if (packet == NULL)
        return 0;
    assert_int_equal(packet->length, 0);
    assert_int_equal(packet->header.guest_cid, CID);
    assert_int_equal(packet->header.peer_cid, VSOCK_HOST_CID);
    assert_int_equal(packet->header.guest_port, GUEST_PORT);
    assert_int_equal(packet->header.peer_port, HOST_PORT);
    assert_int_equal(packet->header.buf_alloc, VSOCK_WINDOW);
    if (out != NULL)
        *out = packet->header;
    return packet->header.op;
}

/* As the thread does: what the socket is ready for. NULL: nothing for the guest. */
static struct vsock_packet *turn(struct pair *p)
{
    struct vsock_packet *packet = NULL;
    const int events = vsock_connection_events(p->c, true);

    if (events < 0)
        return NULL;
    struct pollfd poll_fd = {.fd = p->c->fd, .events = (short)events};
    if (poll(&poll_fd, 1, 0) > 0)
        vsock_connection_ready(p->c, poll_fd.revents, &packet);
    return packet;
}

static void open_from_guest(struct pair *p)
{
    const struct vsock_header request = {
        .guest_port = GUEST_PORT, .buf_alloc = p->buf_alloc, .fwd_cnt = p->fwd_cnt};

    vsock_connection_accept(p->c, &request);
    assert_int_equal(told(p, NULL), VSOCK_RESPONSE);
    assert_int_equal(told(p, NULL), 0);
}

/* ---- the host's program ---- */

static void program_writes(struct pair *p, const void *bytes, size_t length)
{
    assert_int_equal(write(p->program, bytes, length), length);
}

static void program_reads(struct pair *p, const char *want)
{
    char got[256];
    const size_t length = strlen(want);

    assert_int_equal(read(p->program, got, sizeof(got)), length);
    assert_memory_equal(got, want, length);
}

static bool program_sees_the_end(struct pair *p)
{
    char byte;

    return read(p->program, &byte, 1) == 0;
}

static void program_ends(struct pair *p)
{
    close(p->program);
    p->program = -1;
}

static void guest_gets(struct pair *p, const char *want)
{
    _cleanup_free_ struct vsock_packet *packet = turn(p);

    assert_non_null(packet);
    assert_int_equal(packet->header.op, VSOCK_RW);
    assert_int_equal(packet->length, strlen(want));
    assert_memory_equal(packet->bytes, want, packet->length);
}

/* ---- greetings ---- */

static int greet(struct pair *p, const char *text, uint32_t *port)
{
    program_writes(p, text, strlen(text));
    return vsock_connection_greet(p->c, port);
}

static void a_greeting_says_where_to_go(void **state)
{
    struct pair *p = *state;
    uint32_t port;

    assert_int_equal(greet(p, "CONN", &port), 0);
    assert_int_equal(greet(p, "ECT 4294967", &port), 0);
    assert_int_equal(greet(p, "294\nrest", &port), 1);
    assert_int_equal(port, UINT32_MAX - 1);
    vsock_connection_request(p->c, GUEST_PORT);
    assert_int_equal(told(p, NULL), VSOCK_REQUEST);
    guest_says(p, VSOCK_RESPONSE);
    program_reads(p, "OK 70000\n");
    guest_gets(p, "rest"); /* is the stream's */
}

static void other_greetings_are_refused(void **state)
{
    static const char *const greetings[] = {
        "CONNECT \n",
        "CONNECT -1\n",
        "CONNECT 4294967295\n",
        "CONNECT 99999999999999999999\n",
        "CONNECT 1 \n",
        "CONNECT  1\n",
        "CONNECT 0x10\n",
        "connect 1\n",
        "CONNECT 1\r\n",
        "\n",
        "GET / HTTP/1.1\n",
        "CONNECT\n",
        "CONNECT 1\t\n",
        "XCONNECT 1\n\n",
        "CONNECT 00000000000000000000000000000000001\n",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(greetings); i++) {
        struct pair *p;
        uint32_t port;
        set_up((void **)&p);
        assert_int_equal(greet(p, greetings[i], &port), -EPROTO);
        tear_down((void **)&p);
    }
}

static void whoever_goes_before_greeting_is_gone(void **state)
{
    struct pair *p = *state;
    uint32_t port;

    program_writes(p, "CONNECT 1", 9);
    program_ends(p);
    assert_int_equal(vsock_connection_greet(p->c, &port), -EPROTO);
}

static void a_guest_may_refuse(void **state)
{
    struct pair *p = *state;

    vsock_connection_request(p->c, GUEST_PORT);
    guest_says(p, VSOCK_RST);
    assert_int_equal(p->c->state, VSOCK_GONE);
    assert_false(p->c->reset);
}

static void whoever_does_not_wait_for_the_answer_is_reset(void **state)
{
    struct pair *p = *state;

    vsock_connection_request(p->c, GUEST_PORT);
    turn(p);
    assert_int_equal(p->c->state, VSOCK_REQUESTING);
    program_ends(p);
    turn(p);
    assert_int_equal(p->c->state, VSOCK_GONE);
    assert_true(p->c->reset);
}

/* ---- credit ---- */

static void no_more_is_sent_than_the_guest_has_room_for(void **state)
{
    struct pair *p = *state;
    static uint8_t bytes[1000];

    p->buf_alloc = 700;
    open_from_guest(p);
    program_writes(p, bytes, sizeof(bytes));
    _cleanup_free_ struct vsock_packet *first = turn(p);
    assert_int_equal(first->length, 700);
    assert_null(turn(p));
    assert_int_equal(told(p, NULL), VSOCK_CREDIT_REQUEST);
    assert_int_equal(told(p, NULL), 0); /* once */
    guest_says(p, VSOCK_CREDIT_UPDATE);
    assert_null(turn(p));
    assert_int_equal(told(p, NULL), 0);
    p->fwd_cnt = 1;
    guest_says(p, VSOCK_CREDIT_UPDATE);
    _cleanup_free_ struct vsock_packet *second = turn(p);
    assert_int_equal(second->length, 1);
    assert_int_equal(told(p, NULL), VSOCK_CREDIT_REQUEST);
    p->fwd_cnt = 701;
    guest_says(p, VSOCK_CREDIT_UPDATE);
    _cleanup_free_ struct vsock_packet *third = turn(p);
    assert_int_equal(third->length, 299);
}

static void counters_go_round(void **state)
{
    struct pair *p = *state;

    p->c->sent_cnt = UINT32_MAX - 9;
    p->fwd_cnt = UINT32_MAX - 19;
    p->buf_alloc = 100;
    open_from_guest(p);
    assert_int_equal(vsock_connection_credit(p->c), 90);
    p->c->sent_cnt += 50;
    assert_int_equal(vsock_connection_credit(p->c), 40);
    p->fwd_cnt = 40; /* all of it */
    guest_says(p, VSOCK_CREDIT_UPDATE);
    assert_int_equal(vsock_connection_credit(p->c), 100);
}

static void a_guest_that_says_nonsense_of_its_room_has_none(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    p->c->sent_cnt = 1000;
    p->fwd_cnt = 1001; /* more than it was sent */
    guest_says(p, VSOCK_CREDIT_UPDATE);
    assert_int_equal(vsock_connection_credit(p->c), 0);
    p->fwd_cnt = 500;
    p->buf_alloc = 499; /* less than is under way */
    guest_says(p, VSOCK_CREDIT_UPDATE);
    assert_int_equal(vsock_connection_credit(p->c), 0);
    p->buf_alloc = UINT32_MAX;
    guest_says(p, VSOCK_CREDIT_UPDATE);
    assert_int_equal(vsock_connection_credit(p->c), UINT32_MAX - 500);
}

/* Sends so much that the program's socket takes no more. */
static uint32_t fill_up(struct pair *p)
{
    static uint8_t bytes[VSOCK_WINDOW];
    const int small = 4096;

    setsockopt(p->c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    guest_sends(p, VSOCK_RW, 0, bytes, sizeof(bytes));
    assert_int_equal(p->c->state, VSOCK_OPEN);
    assert_int_equal(p->c->received_cnt, VSOCK_WINDOW);
    assert_in_range(p->c->to_host.length, 1, VSOCK_WINDOW - 1);
    return (uint32_t)p->c->to_host.length;
}

static void a_guest_may_send_what_it_was_told_and_no_byte_more(void **state)
{
    struct pair *p = *state;
    static uint8_t bytes[VSOCK_WINDOW];

    open_from_guest(p);
    const uint32_t held = fill_up(p);
    guest_sends(p, VSOCK_RW, 0, bytes, VSOCK_WINDOW - held);
    assert_int_equal(p->c->state, VSOCK_OPEN);
    assert_int_equal(p->c->to_host.length, VSOCK_WINDOW);
    guest_sends(p, VSOCK_RW, 0, bytes, 1);
    assert_int_equal(p->c->state, VSOCK_GONE);
    assert_true(p->c->reset);
}

static void a_guest_is_told_of_room_before_it_has_to_wait(void **state)
{
    struct pair *p = *state;
    static uint8_t bytes[VSOCK_WINDOW];
    struct vsock_header update;
    size_t left = VSOCK_WINDOW;

    open_from_guest(p);
    guest_sends(p, VSOCK_RW, 0, bytes, 1000);
    assert_int_equal(told(p, NULL), 0); /* it has enough */
    assert_int_equal(read(p->program, bytes, 1000), 1000);
    p->c->received_cnt = p->c->fwd_cnt = p->c->told_fwd_cnt = 0;
    fill_up(p);
    while (left > 0) {
        ssize_t n = read(p->program, bytes, sizeof(bytes));
        if (n > 0)
            left -= (size_t)n;
        turn(p);
    }
    assert_int_equal(told(p, &update), VSOCK_CREDIT_UPDATE);
    assert_int_equal(update.fwd_cnt, VSOCK_WINDOW);
    assert_int_equal(told(p, NULL), 0);
}

static void a_guest_that_asks_is_told(void **state)
{
    struct pair *p = *state;
    struct vsock_header update;

    open_from_guest(p);
    guest_sends(p, VSOCK_RW, 0, "12345", 5);
    assert_int_equal(told(p, NULL), 0);
    guest_says(p, VSOCK_CREDIT_REQUEST);
    assert_int_equal(told(p, &update), VSOCK_CREDIT_UPDATE);
    assert_int_equal(update.fwd_cnt, 5);
}

/* Both ways at once, with a guest that has little room and packets of odd sizes. */
static void every_byte_arrives_in_order(void **state)
{
    enum { TOTAL = 3 << 20 };
    struct pair *p = *state;
    uint32_t in = 0, out = 0, echoed = 0, step = 1;
    static uint8_t bytes[8192];

    p->buf_alloc = 5000;
    open_from_guest(p);
    while (echoed < TOTAL) {
        step = step * 1664525 + 1013904223;
        const uint32_t n = (uint32_t)min_u64(1 + step % sizeof(bytes), TOTAL - in);
        for (uint32_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)((in + i) * 2654435761u >> 24);
        if (n > 0 && n <= VSOCK_WINDOW - (p->c->received_cnt - p->c->told_fwd_cnt)) {
            guest_sends(p, VSOCK_RW, 0, bytes, n);
            in += n;
        }
        ssize_t got = read(p->program, bytes, 1 + (step >> 8) % sizeof(bytes));
        for (ssize_t i = 0; i < got; i++)
            assert_int_equal(bytes[i], (uint8_t)((out + (uint32_t)i) * 2654435761u >> 24));
        if (got > 0) {
            out += (uint32_t)got;
            program_writes(p, bytes, (size_t)got);
        }
        _cleanup_free_ struct vsock_packet *packet = turn(p);
        for (size_t i = 0; packet != NULL && i < packet->length; i++)
            assert_int_equal(packet->bytes[i], (uint8_t)((echoed + i) * 2654435761u >> 24));
        echoed += packet != NULL ? (uint32_t)packet->length : 0;
        assert_true(echoed - p->fwd_cnt <= p->buf_alloc);
        if (told(p, NULL) == VSOCK_CREDIT_REQUEST || (step >> 20) % 4 == 0) {
            p->fwd_cnt = echoed;
            guest_says(p, VSOCK_CREDIT_UPDATE);
        }
        assert_int_equal(p->c->state, VSOCK_OPEN);
    }
}

/* ---- ends ---- */

static void the_guest_learns_that_the_program_sends_no_more(void **state)
{
    struct pair *p = *state;
    struct vsock_header end;

    open_from_guest(p);
    program_writes(p, "last", 4);
    shutdown(p->program, SHUT_WR);
    guest_gets(p, "last");
    assert_null(turn(p));
    assert_int_equal(told(p, &end), VSOCK_SHUTDOWN);
    assert_int_equal(end.flags, VSOCK_NO_SEND);
    assert_null(turn(p));
    assert_int_equal(told(p, NULL), 0);
    guest_sends(p, VSOCK_RW, 0, "answer", 6); /* the other way is open */
    program_reads(p, "answer");
    program_ends(p);
    turn(p);
    assert_int_equal(told(p, &end), VSOCK_SHUTDOWN);
    assert_int_equal(end.flags, VSOCK_NO_MORE);
    assert_int_equal(p->c->state, VSOCK_CLOSING);
    guest_says(p, VSOCK_RST);
    assert_int_equal(p->c->state, VSOCK_GONE);
    assert_false(p->c->reset);
}

static void the_program_learns_that_the_guest_sends_no_more(void **state)
{
    struct pair *p = *state;
    static uint8_t bytes[VSOCK_WINDOW];
    size_t left = VSOCK_WINDOW;

    open_from_guest(p);
    fill_up(p);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_SEND, NULL, 0);
    while (left > 0) { /* not before it has all */
        ssize_t n = read(p->program, bytes, sizeof(bytes));
        assert_int_not_equal(n, 0);
        if (n > 0)
            left -= (size_t)n;
        turn(p);
    }
    assert_true(program_sees_the_end(p));
    program_writes(p, "more", 4); /* the other way is open */
    (void)told(p, NULL);          /* of room */
    guest_gets(p, "more");
    assert_int_equal(p->c->state, VSOCK_OPEN);
}

static void a_guest_that_ends_is_answered(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    guest_sends(p, VSOCK_RW, 0, "bye", 3);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_SEND, NULL, 0);
    assert_int_equal(p->c->state, VSOCK_OPEN);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_RECEIVE, NULL, 0);
    assert_true(p->c->reset);
    assert_int_equal(p->c->state, VSOCK_GONE);
    program_reads(p, "bye");
}

static void what_a_guest_has_sent_arrives_after_its_end(void **state)
{
    struct pair *p = *state;
    static uint8_t bytes[VSOCK_WINDOW];
    size_t left = VSOCK_WINDOW;

    open_from_guest(p);
    fill_up(p);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_MORE, NULL, 0);
    assert_true(p->c->reset);
    assert_int_equal(p->c->state, VSOCK_LINGERING);
    while (left > 0) {
        ssize_t n = read(p->program, bytes, sizeof(bytes));
        if (n > 0)
            left -= (size_t)n;
        assert_null(turn(p));
        assert_int_equal(told(p, NULL), 0); /* it knows nothing of this any more */
    }
    assert_int_equal(p->c->state, VSOCK_GONE);
}

static void nobody_lingers_for_a_program_that_is_gone(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    fill_up(p);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_MORE, NULL, 0);
    program_ends(p);
    turn(p);
    assert_int_equal(p->c->state, VSOCK_GONE);
}

static void a_guest_that_will_not_receive_stops_the_program(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_RECEIVE, NULL, 0);
    assert_int_equal(send(p->program, "x", 1, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    guest_sends(p, VSOCK_RW, 0, "still", 5);
    program_reads(p, "still");
}

static void what_a_program_has_sent_arrives_after_its_end(void **state)
{
    struct pair *p = *state;
    struct vsock_header end;

    p->buf_alloc = 4;
    open_from_guest(p);
    program_writes(p, "12345678", 8);
    program_ends(p);
    guest_gets(p, "1234");
    assert_int_equal(told(p, NULL), VSOCK_CREDIT_REQUEST);
    assert_int_equal(vsock_connection_events(p->c, true), -1); /* or its hanging up would spin */
    p->fwd_cnt = 4;
    guest_says(p, VSOCK_CREDIT_UPDATE);
    guest_gets(p, "5678");
    assert_int_equal(told(p, NULL), VSOCK_CREDIT_REQUEST);
    p->fwd_cnt = 8;
    guest_says(p, VSOCK_CREDIT_UPDATE);
    assert_null(turn(p));
    assert_int_equal(told(p, &end), VSOCK_SHUTDOWN);
    assert_int_equal(end.flags, VSOCK_NO_MORE);
}

static void a_guest_does_not_wait_for_a_program_that_is_gone(void **state)
{
    struct pair *p = *state;
    static uint8_t bytes[VSOCK_WINDOW];
    struct vsock_header h;

    p->buf_alloc = 0; /* so that its end is not found by reading */
    open_from_guest(p);
    fill_up(p);
    program_ends(p);
    turn(p);
    assert_int_equal(told(p, &h), VSOCK_SHUTDOWN);
    assert_int_equal(h.flags, VSOCK_NO_RECEIVE);
    assert_int_equal(h.fwd_cnt, VSOCK_WINDOW);
    guest_sends(p, VSOCK_RW, 0, bytes, sizeof(bytes));
    assert_int_equal(p->c->state, VSOCK_OPEN);
    assert_int_equal(p->c->fwd_cnt, 2 * VSOCK_WINDOW);
}

static void a_guest_that_does_not_answer_the_end_is_reset(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    program_ends(p);
    turn(p);
    assert_int_equal(p->c->state, VSOCK_CLOSING);
    assert_int_not_equal(p->c->deadline_ns, 0);
    vsock_connection_abort(p->c); /* what happens when that has passed */
    assert_true(p->c->reset);
}

static void packets_that_make_no_sense_reset(void **state)
{
    static const struct {
        enum vsock_op op;
        bool requesting;
    } cases[] = {
        {VSOCK_INVALID, false},    {VSOCK_REQUEST, false},         {VSOCK_RESPONSE, false},
        {(enum vsock_op)8, false}, {(enum vsock_op)0xffff, false}, {VSOCK_RW, true},
        {VSOCK_SHUTDOWN, true},    {VSOCK_REQUEST, true},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct pair *p;
        set_up((void **)&p);
        if (cases[i].requesting)
            vsock_connection_request(p->c, GUEST_PORT);
        else
            open_from_guest(p);
        guest_says(p, cases[i].op);
        assert_int_equal(p->c->state, VSOCK_GONE);
        assert_true(p->c->reset);
        tear_down((void **)&p);
    }
}

static void a_guest_that_said_it_would_send_no_more_must_not(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    guest_sends(p, VSOCK_SHUTDOWN, VSOCK_NO_SEND, NULL, 0);
    guest_sends(p, VSOCK_RW, 0, "x", 1);
    assert_int_equal(p->c->state, VSOCK_GONE);
    assert_true(p->c->reset);
}

static void nothing_is_read_while_the_guest_has_no_buffers(void **state)
{
    struct pair *p = *state;

    open_from_guest(p);
    program_writes(p, "x", 1);
    assert_int_equal(vsock_connection_events(p->c, false), -1);
    assert_int_equal(vsock_connection_events(p->c, true), POLLIN);
}

int main(void)
{
#define CONNECTION_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CONNECTION_TEST(a_greeting_says_where_to_go),
        cmocka_unit_test(other_greetings_are_refused),
        CONNECTION_TEST(whoever_goes_before_greeting_is_gone),
        CONNECTION_TEST(a_guest_may_refuse),
        CONNECTION_TEST(whoever_does_not_wait_for_the_answer_is_reset),
        CONNECTION_TEST(no_more_is_sent_than_the_guest_has_room_for),
        CONNECTION_TEST(counters_go_round),
        CONNECTION_TEST(a_guest_that_says_nonsense_of_its_room_has_none),
        CONNECTION_TEST(a_guest_may_send_what_it_was_told_and_no_byte_more),
        CONNECTION_TEST(a_guest_is_told_of_room_before_it_has_to_wait),
        CONNECTION_TEST(a_guest_that_asks_is_told),
        CONNECTION_TEST(every_byte_arrives_in_order),
        CONNECTION_TEST(the_guest_learns_that_the_program_sends_no_more),
        CONNECTION_TEST(the_program_learns_that_the_guest_sends_no_more),
        CONNECTION_TEST(a_guest_that_ends_is_answered),
        CONNECTION_TEST(what_a_guest_has_sent_arrives_after_its_end),
        CONNECTION_TEST(nobody_lingers_for_a_program_that_is_gone),
        CONNECTION_TEST(a_guest_that_will_not_receive_stops_the_program),
        CONNECTION_TEST(what_a_program_has_sent_arrives_after_its_end),
        CONNECTION_TEST(a_guest_does_not_wait_for_a_program_that_is_gone),
        CONNECTION_TEST(a_guest_that_does_not_answer_the_end_is_reset),
        cmocka_unit_test(packets_that_make_no_sense_reset),
        CONNECTION_TEST(a_guest_that_said_it_would_send_no_more_must_not),
        CONNECTION_TEST(nothing_is_read_while_the_guest_has_no_buffers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
