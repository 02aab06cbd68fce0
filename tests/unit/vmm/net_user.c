/* SPDX-License-Identifier: Apache-2.0 */
/* The user-mode network from both ends: a guest of a few hand-made frames, and sockets
 * of the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/net/frame_queue.h"
#include "vmm/net/plain.h"
#include "vmm/net/user.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PATIENCE_S = 60, /* how long a loaded machine may take */
    ETH = 14,
    IP = 20,
    TCP_FIN = 1,
    TCP_SYN = 2,
    TCP_RST = 4,
    TCP_PSH = 8,
    TCP_ACK = 16,
    GUEST_PORT = 40000,
};

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t guest_ip[4] = {10, 0, 2, 15};
static const uint8_t router_ip[4] = {10, 0, 2, 2};

struct guest {
    struct net_backend net;
    pthread_mutex_t lock;
    pthread_cond_t came;
    struct frame_queue frames;
    uint8_t router_mac[6];
    size_t option_bytes; /* in the IPv4 headers it sends */
};

static void on_frame(const struct net_frame *frame, void *context)
{
    struct guest *g = context;

    pthread_mutex_lock(&g->lock);
    frame_queue_put(&g->frames, frame);
    pthread_cond_signal(&g->came);
    pthread_mutex_unlock(&g->lock);
}

static void free_network(const struct net_backend *net)
{
    if (net->free != NULL)
        net->free(net->context);
}

static int set_up(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));
    pthread_condattr_t monotonic;

    signal(SIGPIPE, SIG_IGN); /* as in a machine's process */
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->came, &monotonic);
    frame_queue_init(&g->frames, 8 << 20);
    memcpy(g->router_mac, broadcast, 6);
    *state = g;
    return 0;
}

static int tear_down(void **state)
{
    struct guest *g = *state;

    free_network(&g->net);
    frame_queue_clear(&g->frames);
    pthread_cond_destroy(&g->came);
    pthread_mutex_destroy(&g->lock);
    free(g);
    return 0;
}

static void create(struct guest *g, const struct net_forward *forwards, size_t count)
{
    struct error err = ERROR_INIT;

    if (net_user_create(0, forwards, count, &g->net, &err) < 0)
        fail_msg("%s", err.message);
}

static void start(struct guest *g)
{
    assert_int_equal(g->net.start(on_frame, g, g->net.context, NULL), 0);
}

/* ---- frames ---- */

static void send_raw(struct guest *g, const uint8_t *frame, size_t length)
{
    g->net.send(&(struct net_frame){.bytes = frame, .length = length}, g->net.context);
}

static uint32_t add_up(uint32_t sum, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        sum += i % 2 == 0 ? (uint32_t)bytes[i] << 8 : bytes[i];
    return sum;
}

static uint16_t finish_sum(uint32_t sum)
{
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Puts Ethernet and IPv4 headers before a payload, with both checksums; the payload's
 * is at sum_at of it. */
static void send_ip(struct guest *g, uint8_t protocol, const uint8_t from[4], const uint8_t to[4],
                    const uint8_t *payload, size_t length, size_t sum_at)
{
    uint8_t frame[FRAME_SIZE_MAX] = {0};
    uint8_t *ip = frame + ETH;
    const size_t header = IP + g->option_bytes;

    memcpy(frame, g->router_mac, 6);
    memcpy(frame + 6, guest_mac, 6);
    store_be16(frame + 12, 0x0800);
    ip[0] = (uint8_t)(0x40 + header / 4);
    store_be16(ip + 2, (uint16_t)(header + length));
    ip[8] = 64;
    ip[9] = protocol;
    memcpy(ip + 12, from, 4);
    memcpy(ip + 16, to, 4);
    memset(ip + IP, 1, g->option_bytes); /* no operation */
    store_be16(ip + 10, finish_sum(add_up(0, ip, header)));
    memcpy(ip + header, payload, length);
    uint32_t sum = add_up(protocol + (uint32_t)length, ip + 12, 8);
    store_be16(ip + header + sum_at, finish_sum(add_up(sum, ip + header, length)));
    send_raw(g, frame, ETH + header + length);
}

static void answer_arp(struct guest *g, const uint8_t *request)
{
    uint8_t reply[42];

    memcpy(reply, request, sizeof(reply));
    memcpy(reply, request + 6, 6);
    memcpy(reply + 6, guest_mac, 6);
    store_be16(reply + 20, 2);
    memcpy(reply + 22, guest_mac, 6);
    memcpy(reply + 28, guest_ip, 4);
    memcpy(reply + 32, request + 22, 10);
    send_raw(g, reply, sizeof(reply));
}

/* The next frame; NULL when none has come for so long. */
static struct frame *next_frame(struct guest *g, int64_t deadline_ns)
{
    const struct timespec until = {.tv_sec = deadline_ns / 1000000000,
                                   .tv_nsec = deadline_ns % 1000000000};
    int r = 0;

    pthread_mutex_lock(&g->lock);
    while (g->frames.first == NULL && r == 0)
        r = pthread_cond_timedwait(&g->came, &g->lock, &until);
    struct frame *frame = frame_queue_take(&g->frames);
    pthread_mutex_unlock(&g->lock);
    return frame;
}

/* Waits for a frame of that protocol, answering ARP meanwhile as a guest does. Fails
 * the test if none comes. */
static struct frame *wait_for(struct guest *g, uint8_t protocol)
{
    const int64_t deadline = (int64_t)clock_monotonic_ns() + PATIENCE_S * INT64_C(1000000000);
    struct frame *frame;

    while ((frame = next_frame(g, deadline)) != NULL) {
        const uint8_t *bytes = frame->bytes;
        memcpy(g->router_mac, bytes + 6, 6);
        if (load_be16(bytes + 12) == 0x0806 && load_be16(bytes + 20) == 1)
            answer_arp(g, bytes);
        if (load_be16(bytes + 12) == 0x0800 && bytes[ETH + 9] == protocol)
            return frame;
        free(frame);
    }
    fail_msg("no frame came");
    return NULL;
}

/* ---- TCP ---- */

struct segment {
    uint16_t from;
    uint16_t to;
    uint32_t seq;
    uint32_t ack;
    uint8_t flags;
};

static void send_data(struct guest *g, const struct segment *s, const uint8_t *data, size_t length)
{
    uint8_t bytes[FRAME_SIZE_MAX] = {0};

    store_be16(bytes, s->from);
    store_be16(bytes + 2, s->to);
    store_be32(bytes + 4, s->seq);
    store_be32(bytes + 8, s->ack);
    bytes[12] = 5 << 4;
    bytes[13] = s->flags;
    store_be16(bytes + 14, 60000);
    memcpy(bytes + 20, data, length);
    send_ip(g, IPPROTO_TCP, guest_ip, router_ip, bytes, 20 + length, 16);
}

static void send_segment(struct guest *g, const struct segment *s, const char *text)
{
    send_data(g, s, (const uint8_t *)text, strlen(text));
}

static struct segment wait_for_segment(struct guest *g, uint8_t flags)
{
    for (;;) {
        _cleanup_free_ struct frame *frame = wait_for(g, IPPROTO_TCP);
        const uint8_t *tcp = frame->bytes + ETH + IP;
        if ((tcp[13] & flags) == flags)
            return (struct segment){load_be16(tcp), load_be16(tcp + 2), load_be32(tcp + 4),
                                    load_be32(tcp + 8), tcp[13]};
    }
}

/* A listening socket of the host, which gives up some time. */
static int listen_on_host(uint16_t *port_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    socklen_t length = sizeof(address);

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    getsockname(fd, (struct sockaddr *)&address, &length);
    *port_out = ntohs(address.sin_port);
    return fd;
}

static int accept_on_host(int listener)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};

    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

static void assert_host_hears(int fd, const char *text)
{
    char heard[64];

    assert_int_equal(recv(fd, heard, strlen(text), MSG_WAITALL), strlen(text));
    assert_memory_equal(heard, text, strlen(text));
}

/* Opens a connection from the guest; what its next segment is like. */
static struct segment connect_to_host(struct guest *g, uint16_t port)
{
    struct segment s = {.from = GUEST_PORT, .to = port, .seq = 1000, .flags = TCP_SYN};

    send_segment(g, &s, "");
    const struct segment answer = wait_for_segment(g, TCP_SYN | TCP_ACK);
    assert_int_equal(answer.ack, 1001);
    s = (struct segment){GUEST_PORT, port, 1001, answer.seq + 1, TCP_ACK};
    send_segment(g, &s, "");
    return s;
}

/* A port nobody listens on now. */
static uint16_t free_port(void)
{
    uint16_t port;

    close(listen_on_host(&port));
    return port;
}

static struct net_forward forward_to_80(uint16_t port)
{
    return (struct net_forward){
        .bind.s_addr = htonl(INADDR_LOOPBACK), .host_port = port, .guest_port = 80};
}

/* ---- the tests ---- */

static bool has_option(const uint8_t *options, const uint8_t *end, uint8_t code,
                       const uint8_t want[4])
{
    while (options + 2 <= end && *options != 255) {
        if (*options == code && options[1] >= 4)
            return memcmp(options + 2, want, 4) == 0;
        options += *options == 0 ? 1 : 2 + options[1];
    }
    return false;
}

static void a_guest_gets_its_address_by_dhcp(void **state)
{
    static const uint8_t nowhere[4] = {0}, everywhere[4] = {255, 255, 255, 255};
    static const uint8_t names_ip[4] = {10, 0, 2, 3}, mask[4] = {255, 255, 255, 0};
    struct guest *g = *state;
    uint8_t request[8 + 300] = {0};
    uint8_t *bootp = request + 8;

    create(g, NULL, 0);
    start(g);
    store_be16(request, 68);
    store_be16(request + 2, 67);
    store_be16(request + 4, sizeof(request));
    bootp[0] = bootp[1] = 1;
    bootp[2] = 6;
    memcpy(bootp + 28, guest_mac, 6);
    memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8); /* DHCPDISCOVER */
    send_ip(g, IPPROTO_UDP, nowhere, everywhere, request, sizeof(request), 6);
    _cleanup_free_ struct frame *offer = wait_for(g, IPPROTO_UDP);
    const uint8_t *reply = offer->bytes + ETH + IP + 8, *end = offer->bytes + offer->length;
    assert_memory_equal(reply + 16, guest_ip, 4);
    assert_true(has_option(reply + 240, end, 3, router_ip));
    assert_true(has_option(reply + 240, end, 6, names_ip));
    assert_true(has_option(reply + 240, end, 1, mask));
}

static void a_guest_reaches_the_host(void **state)
{
    struct guest *g = *state;
    uint16_t port;
    _cleanup_close_ int listener = listen_on_host(&port);

    create(g, NULL, 0);
    start(g);
    struct segment s = connect_to_host(g, port);
    _cleanup_close_ int fd = accept_on_host(listener);
    s.flags = TCP_ACK | TCP_PSH;
    send_segment(g, &s, "hello");
    assert_host_hears(fd, "hello");
    assert_int_equal(send(fd, "good day", 8, 0), 8);
    for (;;) {
        _cleanup_free_ struct frame *frame = wait_for(g, IPPROTO_TCP);
        if (frame->length == ETH + IP + 20 + 8) {
            assert_memory_equal(frame->bytes + ETH + IP + 20, "good day", 8);
            break;
        }
    }
}

/* The network ends TCP, so nobody need cut it. */
static void a_large_segment_reaches_the_host_whole(void **state)
{
    enum { SIZE = 40000 };
    struct guest *g = *state;
    uint8_t sent[SIZE], heard[SIZE];
    uint16_t port;
    _cleanup_close_ int listener = listen_on_host(&port);

    create(g, NULL, 0);
    start(g);
    struct segment s = connect_to_host(g, port);
    _cleanup_close_ int fd = accept_on_host(listener);
    for (size_t i = 0; i < SIZE; i++)
        sent[i] = (uint8_t)(i * 7 + i / 256);
    s.flags = TCP_ACK | TCP_PSH;
    send_data(g, &s, sent, SIZE);
    assert_int_equal(recv(fd, heard, SIZE, MSG_WAITALL), SIZE);
    assert_memory_equal(heard, sent, SIZE);
    while (wait_for_segment(g, TCP_ACK).ack != s.seq + SIZE)
        continue;
}

static void a_forward_leads_to_the_guest(void **state)
{
    struct guest *g = *state;
    const struct net_forward forward = forward_to_80(free_port());
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(forward.host_port), .sin_addr = forward.bind};

    create(g, &forward, 1);
    start(g);
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    const struct segment syn = wait_for_segment(g, TCP_SYN);
    assert_int_equal(syn.to, 80);
}

static void a_segment_nobody_knows_gets_a_reset(void **state)
{
    struct guest *g = *state;
    const struct segment s = {GUEST_PORT, 80, 5000, 7000, TCP_ACK | TCP_PSH};

    create(g, NULL, 0);
    start(g);
    send_segment(g, &s, "from before");
    const struct segment reset = wait_for_segment(g, TCP_RST);
    assert_int_equal(reset.to, GUEST_PORT);
    assert_int_equal(reset.seq, 7000);
}

static void after_going_back_old_connections_are_reset_at_both_ends(void **state)
{
    struct guest *g = *state;
    uint16_t port;
    _cleanup_close_ int listener = listen_on_host(&port);
    char byte;

    create(g, NULL, 0);
    start(g);
    struct segment s = connect_to_host(g, port);
    _cleanup_close_ int fd = accept_on_host(listener);
    s.flags = TCP_ACK | TCP_PSH;
    send_segment(g, &s, "one");
    assert_host_hears(fd, "one");
    g->net.forget(g->net.context);
    assert_true(recv(fd, &byte, 1, 0) <= 0);
    assert_int_not_equal(errno, EAGAIN);
    send_segment(g, &s, "two"); /* the guest has gone back, and says something else */
    assert_int_equal(wait_for_segment(g, TCP_RST).to, GUEST_PORT);
    connect_to_host(g, port);
    close(accept_on_host(listener));
}

static void after_going_back_forwards_lead_to_the_guest_again(void **state)
{
    struct guest *g = *state;
    const struct net_forward forward = forward_to_80(free_port());
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(forward.host_port), .sin_addr = forward.bind};

    create(g, &forward, 1);
    start(g);
    for (unsigned i = 0; i < 3; i++) {
        send_segment(g, &(struct segment){.from = 9, .to = 9, .flags = TCP_ACK}, "");
        wait_for_segment(g, TCP_RST);
        g->net.forget(g->net.context);
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(wait_for_segment(g, TCP_SYN).to, 80);
    }
}

static void a_network_that_does_not_run_forgets_at_once(void **state)
{
    struct guest *g = *state;

    create(g, NULL, 0);
    g->net.forget(g->net.context);
    send_raw(g, broadcast, sizeof(broadcast));
    g->net.forget(g->net.context);
    start(g);
    g->net.stop(g->net.context);
    g->net.forget(g->net.context);
}

static void a_port_that_is_taken_is_told(void **state)
{
    struct guest *g = *state;
    uint16_t port;
    _cleanup_close_ int listener = listen_on_host(&port);
    const struct net_forward forwards[] = {forward_to_80(free_port()), forward_to_80(port)};
    struct error err = ERROR_INIT;
    char text[8];

    assert_true(listener >= 0);
    assert_int_equal(net_user_create(0, forwards, 2, &g->net, &err), -EADDRINUSE);
    assert_int_equal(err.status, STATUS_BUSY);
    snprintf(text, sizeof(text), "%u", port);
    assert_non_null(strstr(err.message, text));
    assert_true(err.hint[0] != '\0');
    assert_null(g->net.context);
    create(g, forwards, 1); /* and the first is free again */
}

static void two_machines_cannot_have_one_udp_port(void **state)
{
    struct guest *g = *state;
    struct net_forward forward = forward_to_80(free_port());
    struct net_backend second = {0};
    struct error err = ERROR_INIT;

    forward.udp = true;
    create(g, &forward, 1);
    assert_int_equal(net_user_create(0, &forward, 1, &second, &err), -EADDRINUSE);
    assert_int_equal(err.status, STATUS_BUSY);
    free_network(&second);
}

/* A packet without anything special to the router, UDP. */
static void make_plain(uint8_t frame[100])
{
    memset(frame, 0, 100);
    store_be16(frame + 12, 0x0800);
    frame[ETH] = 0x45;
    store_be16(frame + ETH + 2, 100 - ETH);
    frame[ETH + 8] = 64;
    frame[ETH + 9] = IPPROTO_UDP;
    memcpy(frame + ETH + 12, guest_ip, 4);
    memcpy(frame + ETH + 16, router_ip, 4);
    store_be16(frame + ETH + IP + 4, 100 - ETH - IP);
}

static void only_plain_frames_get_to_libslirp(void **state)
{
    static const struct {
        size_t at;
        uint16_t value;
        bool plain;
    } changes[] = {
        {ETH + 6, 0x4000, true},      /* do not fragment */
        {ETH + 6, 0x2000, false},     /* more fragments */
        {ETH + 6, 0x0001, false},     /* a later fragment */
        {ETH, 0x4600, false},         /* options */
        {ETH, 0x6500, false},         /* another version */
        {ETH + 2, 87, false},         /* longer than the frame */
        {ETH + 2, 85, false},         /* the datagram is longer than the packet */
        {ETH + 2, 19, false},         /* shorter than its header */
        {ETH + IP + 4, 7, false},     /* a datagram shorter than its header */
        {ETH + IP + 4, 8, true},      /* an empty one */
        {ETH + IP + 4, 67, false},    /* a longer one */
        {12, 0x86dd, false},          /* IPv6 */
        {12, 0x88f8, false},          /* NC-SI */
        {12, 0x0806, true},           /* ARP */
        {ETH + 8, 64 << 8 | 6, true}, /* TCP */
        {ETH + IP + 2, 0xffff, true}, /* any port */
    };
    uint8_t frame[100];

    (void)state;
    make_plain(frame);
    assert_true(frame_is_plain(frame, 100));
    assert_false(frame_is_plain(frame, 99));
    assert_false(frame_is_plain(frame, 13));
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        make_plain(frame);
        store_be16(frame + changes[i].at, changes[i].value);
        assert_int_equal(frame_is_plain(frame, 100), changes[i].plain);
    }
    store_be16(frame + 12, 0x0806);
    assert_false(frame_is_plain(frame, 41));
}

static void what_may_open_a_socket_is_known(void **state)
{
    static const struct {
        size_t at;
        uint16_t value;
        bool opens;
    } changes[] = {
        {12, 0x0806, false},            /* ARP */
        {ETH + 8, 64 << 8 | 17, true},  /* UDP */
        {ETH + 8, 64 << 8 | 1, true},   /* ICMP */
        {ETH + IP + 12, 0x5002, true},  /* SYN */
        {ETH + IP + 12, 0x5012, false}, /* its answer */
        {ETH + IP + 12, 0x5010, false}, /* ACK */
        {ETH + IP + 12, 0x5014, false}, /* RST */
        {ETH + IP + 12, 0x500a, true},  /* SYN with PSH */
    };
    uint8_t frame[100];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        make_plain(frame);
        store_be16(frame + ETH + 8, 64 << 8 | IPPROTO_TCP);
        store_be16(frame + changes[i].at, changes[i].value);
        assert_int_equal(frame_may_open(frame, 100), changes[i].opens);
    }
    make_plain(frame);
    store_be16(frame + ETH + 8, 64 << 8 | IPPROTO_TCP);
    assert_true(frame_may_open(frame, ETH + IP)); /* too short to tell */
}

static void what_is_not_plain_gets_no_answer(void **state)
{
    struct guest *g = *state;

    create(g, NULL, 0);
    start(g);
    g->option_bytes = 4;
    send_segment(g, &(struct segment){.from = 9, .to = 9, .ack = 77, .flags = TCP_ACK}, "");
    g->option_bytes = 0;
    send_segment(g, &(struct segment){.from = 9, .to = 9, .ack = 78, .flags = TCP_ACK}, "");
    assert_int_equal(wait_for_segment(g, TCP_RST).seq, 78);
}

/* Fragments with right checksums that come in any order: libslirp alone would not live
 * through them. And nonsense, while the network stops. */
static void a_hostile_guest_is_survived(void **state)
{
    struct guest *g = *state;
    uint64_t seed = 7;
    uint8_t frame[512];

    create(g, NULL, 0);
    start(g);
    for (unsigned i = 0; i < 20000; i++) {
        for (size_t k = 0; k < sizeof(frame); k += 8) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            store_le64(frame + k, seed);
        }
        const uint16_t noise = (uint16_t)(seed >> 40);
        store_be16(frame + 12, i % 3 == 0 ? 0x0806 : 0x0800);
        if (i % 3 == 1) {
            frame[ETH] = 0x45;
            store_be16(frame + ETH + 2, sizeof(frame) - ETH);
            store_be16(frame + ETH + 4, noise % 3);
            store_be16(frame + ETH + 6, (uint16_t)((noise & 8) << 10 | (noise >> 4 & 3)));
            frame[ETH + 9] = noise & 64 ? IPPROTO_TCP : IPPROTO_ICMP;
            memcpy(frame + ETH + 12, guest_ip, 4);
            memcpy(frame + ETH + 16, router_ip, 4);
            store_be16(frame + ETH + 10, 0);
            store_be16(frame + ETH + 10, finish_sum(add_up(0, frame + ETH, IP)));
        }
        send_raw(g, frame, i % 3 == 1 ? sizeof(frame) : FRAME_SIZE_MIN + noise % 400);
    }
    g->net.stop(g->net.context);
    send_raw(g, frame, 60); /* lost */
}

static unsigned open_files(void)
{
    _cleanup_closedir_ DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(dir) != NULL)
        count++;
    return count;
}

static void send_datagram(struct guest *g, uint16_t from)
{
    uint8_t bytes[12] = {0};

    store_be16(bytes, from);
    store_be16(bytes + 2, 9); /* which nobody hears */
    store_be16(bytes + 4, sizeof(bytes));
    send_ip(g, IPPROTO_UDP, guest_ip, router_ip, bytes, sizeof(bytes), 6);
}

/* Each datagram from another port is a socket of the host's for minutes. What there is
 * already goes on. */
static void a_guest_cannot_have_all_the_sockets_it_likes(void **state)
{
    enum { PORTS = 6000, BURST = 300, BEFORE = 100 };
    struct guest *g = *state;
    struct rlimit files;
    uint16_t port;
    _cleanup_close_ int listener = listen_on_host(&port);

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    if (files.rlim_max < PORTS + BEFORE)
        skip();
    create(g, NULL, 0);
    start(g);
    struct segment s = connect_to_host(g, port);
    _cleanup_close_ int fd = accept_on_host(listener);
    s.flags = TCP_ACK | TCP_PSH;
    for (uint16_t i = 0; i < PORTS; i++) {
        send_datagram(g, (uint16_t)(10000 + i));
        if (i % BURST != BURST - 1)
            continue;
        send_segment(g, &s, "on"); /* no more than the network has room for */
        s.seq += 2;
        assert_host_hears(fd, "on");
    }
    assert_in_range(open_files(), NET_USER_SOCKETS_MAX / 2, NET_USER_SOCKETS_MAX + BEFORE);
}

int main(void)
{
#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        NET_TEST(a_guest_gets_its_address_by_dhcp),
        NET_TEST(a_guest_reaches_the_host),
        NET_TEST(a_large_segment_reaches_the_host_whole),
        NET_TEST(a_forward_leads_to_the_guest),
        NET_TEST(a_segment_nobody_knows_gets_a_reset),
        NET_TEST(after_going_back_old_connections_are_reset_at_both_ends),
        NET_TEST(after_going_back_forwards_lead_to_the_guest_again),
        NET_TEST(a_network_that_does_not_run_forgets_at_once),
        NET_TEST(a_port_that_is_taken_is_told),
        NET_TEST(two_machines_cannot_have_one_udp_port),
        cmocka_unit_test(only_plain_frames_get_to_libslirp),
        cmocka_unit_test(what_may_open_a_socket_is_known),
        NET_TEST(what_is_not_plain_gets_no_answer),
        NET_TEST(a_hostile_guest_is_survived),
        NET_TEST(a_guest_cannot_have_all_the_sockets_it_likes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
