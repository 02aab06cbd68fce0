/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of sockets from both sides: programs of the host, and a guest of
 * packets behind a device that only keeps them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "vmm/vsock/host.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    PATIENCE_S = 60, /* how long a loaded machine may take */
    CID = 3,
    PORT = 1024,
    SERVICE = 80,
    GUEST_WINDOW = 1 << 30,
};

struct guest {
    char dir[32];
    char *path;
    struct vsock_host *host;
    struct vsock_backend backend;
    pthread_mutex_t lock; /* the device's */
    pthread_cond_t came;
    struct vsock_queue packets;
    bool no_driver;
    unsigned kicks;
    uint32_t epoch;
};

static bool on_receive(struct vsock_packet *packet, void *context)
{
    struct guest *g = context;

    pthread_mutex_lock(&g->lock);
    const bool driver = !g->no_driver;
    if (driver && packet->epoch == g->epoch)
        vsock_queue_put(&g->packets, packet);
    else
        free(packet);
    pthread_cond_signal(&g->came);
    pthread_mutex_unlock(&g->lock);
    return driver;
}

static void on_kick(void *context)
{
    struct guest *g = context;

    pthread_mutex_lock(&g->lock);
    g->kicks++;
    pthread_cond_signal(&g->came);
    pthread_mutex_unlock(&g->lock);
}

static int set_up(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));
    const struct vsock_card card = {.receive = on_receive, .kick = on_kick, .context = g};
    pthread_condattr_t monotonic;
    struct error err = ERROR_INIT;

    signal(SIGPIPE, SIG_IGN); /* as in a machine's process */
    snprintf(g->dir, sizeof(g->dir), "/tmp/vsock-XXXXXX");
    assert_non_null(mkdtemp(g->dir));
    g->path = io_format("%s/m.vsock", g->dir);
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->came, &monotonic);
    if (vsock_host_create(g->path, CID, &g->host, &err) < 0)
        fail_msg("%s", err.message);
    g->backend = vsock_host_backend(g->host);
    assert_int_equal(vsock_host_start(g->host, &card, NULL), 0);
    *state = g;
    return 0;
}

static int tear_down(void **state)
{
    struct guest *g = *state;

    vsock_host_free(g->host);
    vsock_queue_clear(&g->packets);
    io_remove_tree(g->dir);
    pthread_cond_destroy(&g->came);
    pthread_mutex_destroy(&g->lock);
    free(g->path);
    free(g);
    return 0;
}

/* ---- the guest ---- */

static struct vsock_header header_of(enum vsock_op op, uint32_t guest_port, uint32_t peer_port)
{
    return (struct vsock_header){.guest_cid = CID,
                                 .peer_cid = VSOCK_HOST_CID,
                                 .guest_port = guest_port,
                                 .peer_port = peer_port,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = (uint16_t)op,
                                 .buf_alloc = GUEST_WINDOW};
}

static void send_header(struct guest *g, const struct vsock_header *header)
{
    pthread_mutex_lock(&g->lock);
    g->backend.send(vsock_packet_new(header, 0), g->backend.context);
    pthread_mutex_unlock(&g->lock);
}

static void guest_says(struct guest *g, enum vsock_op op, uint32_t guest_port, uint32_t peer_port)
{
    const struct vsock_header header = header_of(op, guest_port, peer_port);

    send_header(g, &header);
}

static void guest_sends(struct guest *g, uint32_t guest_port, uint32_t peer_port, const void *bytes,
                        size_t length)
{
    const struct vsock_header header = header_of(VSOCK_RW, guest_port, peer_port);
    struct vsock_packet *packet = vsock_packet_new(&header, length);

    memcpy(packet->bytes, bytes, length);
    pthread_mutex_lock(&g->lock);
    g->backend.send(packet, g->backend.context);
    pthread_mutex_unlock(&g->lock);
}

static struct timespec deadline(void)
{
    const uint64_t ns = clock_monotonic_ns() + PATIENCE_S * UINT64_C(1000000000);

    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
}

/* The next packet for the guest; fails the test if none comes. */
static struct vsock_packet *next(struct guest *g)
{
    const struct timespec until = deadline();
    int r = 0;

    pthread_mutex_lock(&g->lock);
    while (g->packets.first == NULL && r == 0)
        r = pthread_cond_timedwait(&g->came, &g->lock, &until);
    struct vsock_packet *packet = vsock_queue_take(&g->packets);
    pthread_mutex_unlock(&g->lock);
    if (packet == NULL)
        fail_msg("no packet came");
    assert_int_equal(packet->header.guest_cid, CID);
    return packet;
}

static struct vsock_header expect(struct guest *g, enum vsock_op op)
{
    _cleanup_free_ struct vsock_packet *packet = next(g);

    assert_int_equal(packet->header.op, op);
    return packet->header;
}

/* Resets the device, as the driver or a restore does. */
static void reset(struct guest *g)
{
    pthread_mutex_lock(&g->lock);
    vsock_queue_clear(&g->packets);
    g->backend.reset(++g->epoch, g->backend.context);
    pthread_mutex_unlock(&g->lock);
}

static void set_room(struct guest *g, bool room)
{
    pthread_mutex_lock(&g->lock);
    g->backend.set_room(room, g->backend.context);
    pthread_mutex_unlock(&g->lock);
}

/* ---- programs of the host ---- */

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    return address;
}

static int patient_socket(void)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

static int dial(struct guest *g, const char *greeting)
{
    const struct sockaddr_un address = address_of(g->path);
    int fd = patient_socket();

    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    (void)send(fd, greeting, strlen(greeting), MSG_NOSIGNAL);
    return fd;
}

static int serve(struct guest *g, unsigned port)
{
    _cleanup_free_ char *path = io_format("%s_%u", g->path, port);
    const struct sockaddr_un address = address_of(path);
    int fd = patient_socket();

    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 256), 0);
    return fd;
}

static bool sees_the_end(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void reads(int fd, const char *want)
{
    char got[64] = "";

    assert_int_equal(recv(fd, got, strlen(want), MSG_WAITALL), strlen(want));
    assert_string_equal(got, want);
}

/* A program that is connected to the guest's port; the guest's view in *request. */
static int connected(struct guest *g, struct vsock_header *request)
{
    char line[32];

    int fd = dial(g, "CONNECT 1024\n");
    *request = expect(g, VSOCK_REQUEST);
    assert_int_equal(request->guest_port, PORT);
    guest_says(g, VSOCK_RESPONSE, PORT, request->peer_port);
    snprintf(line, sizeof(line), "OK %u\n", request->peer_port);
    reads(fd, line);
    return fd;
}

/* A connection of the guest's, as seen by the program of the host. */
static int accepted(struct guest *g, int listener, uint32_t guest_port)
{
    guest_says(g, VSOCK_REQUEST, guest_port, SERVICE);
    const struct vsock_header answer = expect(g, VSOCK_RESPONSE);
    assert_int_equal(answer.guest_port, guest_port);
    assert_int_equal(answer.peer_port, SERVICE);
    assert_int_equal(answer.buf_alloc, VSOCK_WINDOW);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    return fd;
}

/* ---- tests ---- */

static void the_socket_is_its_owners(void **state)
{
    struct guest *g = *state;
    struct stat st;

    assert_int_equal(stat(g->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    vsock_host_free(g->host);
    g->host = NULL;
    assert_int_equal(stat(g->path, &st), -1);
}

static void what_a_dead_machine_left_is_replaced(void **state)
{
    struct guest *g = *state;
    _cleanup_free_ char *path = io_format("%s/other", g->dir);
    struct vsock_host *host = NULL;

    assert_int_equal(io_write_file(AT_FDCWD, path, "", 0, 0600), 0);
    assert_int_equal(vsock_host_create(path, CID, &host, NULL), 0);
    vsock_host_free(host);
}

static void a_path_that_is_too_long_is_told(void **state)
{
    struct guest *g = *state;
    _cleanup_free_ char *path = io_format("%s/%0120d", g->dir, 0);
    struct vsock_host *host = NULL;
    struct error err = ERROR_INIT;

    assert_int_equal(vsock_host_create(path, CID, &host, &err), -ENAMETOOLONG);
    assert_null(host);
    assert_string_not_equal(err.hint, "");
}

static void a_program_talks_to_a_port_of_the_guest(void **state)
{
    struct guest *g = *state;
    struct vsock_header request;
    _cleanup_close_ int fd = connected(g, &request);

    assert_int_equal(send(fd, "hello", 5, 0), 5);
    _cleanup_free_ struct vsock_packet *packet = next(g);
    assert_int_equal(packet->header.op, VSOCK_RW);
    assert_int_equal(packet->header.peer_port, request.peer_port);
    assert_int_equal(packet->length, 5);
    assert_memory_equal(packet->bytes, "hello", 5);
    guest_sends(g, PORT, request.peer_port, "world", 5);
    reads(fd, "world");
}

static void connections_are_told_apart(void **state)
{
    struct guest *g = *state;
    struct vsock_header one, two;
    _cleanup_close_ int first = connected(g, &one);
    _cleanup_close_ int second = connected(g, &two);

    assert_int_not_equal(one.peer_port, two.peer_port);
    guest_sends(g, PORT, two.peer_port, "2", 1);
    guest_sends(g, PORT, one.peer_port, "1", 1);
    reads(first, "1");
    reads(second, "2");
}

static void a_program_is_refused_where_nobody_listens(void **state)
{
    struct guest *g = *state;
    _cleanup_close_ int fd = dial(g, "CONNECT 1024\n");

    const struct vsock_header request = expect(g, VSOCK_REQUEST);
    guest_says(g, VSOCK_RST, PORT, request.peer_port);
    assert_true(sees_the_end(fd));
}

static void a_program_that_greets_wrongly_is_sent_away(void **state)
{
    struct guest *g = *state;
    _cleanup_close_ int fd = dial(g, "HELLO\n");

    assert_true(sees_the_end(fd));
}

static void without_a_driver_programs_are_refused_at_once(void **state)
{
    struct guest *g = *state;

    pthread_mutex_lock(&g->lock);
    g->no_driver = true;
    pthread_mutex_unlock(&g->lock);
    _cleanup_close_ int fd = dial(g, "CONNECT 1024\n");
    assert_true(sees_the_end(fd));
}

static void the_guest_talks_to_a_program_of_the_host(void **state)
{
    struct guest *g = *state;
    _cleanup_close_ int listener = serve(g, SERVICE);
    _cleanup_close_ int fd = accepted(g, listener, 2000);

    guest_sends(g, 2000, SERVICE, "ping", 4);
    reads(fd, "ping");
    assert_int_equal(send(fd, "pong", 4, 0), 4);
    _cleanup_free_ struct vsock_packet *packet = next(g);
    assert_int_equal(packet->header.op, VSOCK_RW);
    assert_memory_equal(packet->bytes, "pong", 4);
    guest_says(g, VSOCK_RST, 2000, SERVICE);
    assert_true(sees_the_end(fd));
}

static void a_guest_is_refused_where_nobody_listens(void **state)
{
    struct guest *g = *state;

    guest_says(g, VSOCK_REQUEST, 2000, SERVICE);
    struct vsock_header answer = expect(g, VSOCK_RST);
    assert_int_equal(answer.guest_port, 2000);
    assert_int_equal(answer.peer_port, SERVICE);
    close(serve(g, SERVICE)); /* a socket that somebody left behind */
    guest_says(g, VSOCK_REQUEST, 2001, SERVICE);
    answer = expect(g, VSOCK_RST);
    assert_int_equal(answer.guest_port, 2001);
}

static void a_guest_that_asks_twice_is_reset(void **state)
{
    struct guest *g = *state;
    _cleanup_close_ int listener = serve(g, SERVICE);
    _cleanup_close_ int fd = accepted(g, listener, 2000);

    guest_says(g, VSOCK_REQUEST, 2000, SERVICE);
    expect(g, VSOCK_RST);
    assert_true(sees_the_end(fd));
}

static void packets_of_no_connection_are_reset(void **state)
{
    static const enum vsock_op ops[] = {VSOCK_INVALID,    VSOCK_RESPONSE,      VSOCK_SHUTDOWN,
                                        VSOCK_RW,         VSOCK_CREDIT_UPDATE, VSOCK_CREDIT_REQUEST,
                                        (enum vsock_op)99};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
        guest_says(g, VSOCK_RST, 1, 1); /* but not that */
        guest_says(g, ops[i], 2000 + i, SERVICE);
        const struct vsock_header answer = expect(g, VSOCK_RST);
        assert_int_equal(answer.guest_port, 2000 + i);
        assert_int_equal(answer.peer_cid, VSOCK_HOST_CID);
        assert_int_equal(answer.type, VSOCK_TYPE_STREAM);
    }
}

static void other_types_and_other_machines_are_reset(void **state)
{
    struct guest *g = *state;
    struct vsock_header header = header_of(VSOCK_REQUEST, 2000, SERVICE);
    _cleanup_close_ int listener = serve(g, SERVICE);

    assert_true(listener >= 0);
    header.type = 2; /* a sequence of packets */
    send_header(g, &header);
    assert_int_equal(expect(g, VSOCK_RST).type, 2);
    header.type = VSOCK_TYPE_STREAM;
    header.peer_cid = 4;
    send_header(g, &header);
    assert_int_equal(expect(g, VSOCK_RST).peer_cid, 4);
    header.peer_cid = VSOCK_HOST_CID;
    header.guest_cid = 4; /* which is not his */
    send_header(g, &header);
    guest_says(g, VSOCK_RW, 2001, SERVICE);
    assert_int_equal(expect(g, VSOCK_RST).guest_port, 2001);
}

static void ends_are_passed_on_both_ways(void **state)
{
    struct guest *g = *state;
    struct vsock_header request, end;
    _cleanup_close_ int fd = connected(g, &request);

    shutdown(fd, SHUT_WR);
    end = expect(g, VSOCK_SHUTDOWN);
    assert_int_equal(end.flags, VSOCK_NO_SEND);
    guest_sends(g, PORT, request.peer_port, "bye", 3);
    end = header_of(VSOCK_SHUTDOWN, PORT, request.peer_port);
    end.flags = VSOCK_NO_MORE;
    send_header(g, &end);
    expect(g, VSOCK_RST);
    reads(fd, "bye");
    assert_true(sees_the_end(fd));
}

static void a_reset_ends_all_connections(void **state)
{
    struct guest *g = *state;
    struct vsock_header request, again;
    _cleanup_close_ int listener = serve(g, SERVICE);
    _cleanup_close_ int of_guest = accepted(g, listener, 2000);
    _cleanup_close_ int of_host = connected(g, &request);
    _cleanup_close_ int waiting = dial(g, "CONNECT 1024\n");

    expect(g, VSOCK_REQUEST);
    reset(g);
    assert_true(sees_the_end(of_guest));
    assert_true(sees_the_end(of_host));
    assert_true(sees_the_end(waiting));
    guest_sends(g, PORT, request.peer_port, "old", 3);
    assert_int_equal(expect(g, VSOCK_RST).peer_port, request.peer_port);
    _cleanup_close_ int anew = connected(g, &again);
    assert_int_not_equal(again.peer_port, request.peer_port);
    guest_sends(g, PORT, again.peer_port, "new", 3);
    reads(anew, "new");
}

/* Packets that were on their way when it happened must not arrive. */
static void nothing_comes_from_before_a_reset(void **state)
{
    struct guest *g = *state;
    struct vsock_header request;

    for (unsigned i = 0; i < 50; i++) {
        _cleanup_close_ int fd = connected(g, &request);
        assert_int_equal(send(fd, "late", 4, MSG_NOSIGNAL), 4);
        guest_says(g, VSOCK_CREDIT_REQUEST, PORT, request.peer_port);
        reset(g);
        assert_true(sees_the_end(fd));
        assert_null(g->packets.first); /* the end is seen after they were lost */
    }
}

static void a_flood_of_programs_is_bounded(void **state)
{
    enum { MANY = VSOCK_CONNECTIONS_MAX + 20 };
    struct guest *g = *state;
    struct vsock_header request;
    int fds[MANY];
    unsigned asked = 0;

    for (unsigned i = 0; i < MANY; i++)
        fds[i] = dial(g, "CONNECT 1024\n");
    for (; asked < VSOCK_CONNECTIONS_MAX; asked++)
        expect(g, VSOCK_REQUEST);
    for (unsigned i = VSOCK_CONNECTIONS_MAX; i < MANY; i++)
        assert_true(sees_the_end(fds[i]));
    for (unsigned i = 0; i < MANY; i++)
        close(fds[i]);
    for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++)
        expect(g, VSOCK_RST);
    _cleanup_close_ int fd = connected(g, &request); /* there is room again */
    guest_sends(g, PORT, request.peer_port, "ok", 2);
    reads(fd, "ok");
}

static void a_guest_cannot_shut_programs_out(void **state)
{
    struct guest *g = *state;
    struct vsock_header request;
    _cleanup_close_ int listener = serve(g, SERVICE);
    unsigned taken = 0;

    assert_true(listener >= 0);

    for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++)
        guest_says(g, VSOCK_REQUEST, 10000 + i, SERVICE);
    for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
        _cleanup_free_ struct vsock_packet *packet = next(g);
        taken += packet->header.op == VSOCK_RESPONSE;
    }
    assert_int_equal(taken, VSOCK_FROM_GUEST_MAX);
    _cleanup_close_ int fd = connected(g, &request);
    guest_sends(g, PORT, request.peer_port, "ok", 2);
    reads(fd, "ok");
}

static bool has_room(struct guest *g)
{
    pthread_mutex_lock(&g->lock);
    const bool room = g->backend.has_room(g->backend.context);
    pthread_mutex_unlock(&g->lock);
    return room;
}

/* Each turn of the thread takes packets, and serves programs. */
static void wait_for_turns(struct guest *g, unsigned turns)
{
    for (unsigned i = 0; i < turns; i++) {
        _cleanup_close_ int fd = dial(g, "HELLO\n");
        assert_true(sees_the_end(fd));
    }
}

/* Each of its packets has an answer, which it does not take. */
static void a_guest_that_floods_and_does_not_listen_has_to_wait(void **state)
{
    enum { MANY = 1 << 20 };
    struct guest *g = *state;
    static const uint8_t bytes[1000];
    const struct timespec until = deadline();
    unsigned sent = 0;
    int r = 0;

    set_room(g, false);
    for (unsigned round = 0; round < 2; round++) { /* the first fills the list of answers */
        for (; has_room(g) && sent < MANY; sent++)
            guest_sends(g, 2000 + sent, SERVICE, bytes, sizeof(bytes));
        wait_for_turns(g, 100);
    }
    assert_in_range(sent, 500, 4000);
    assert_false(has_room(g));
    pthread_mutex_lock(&g->lock);
    assert_int_equal(g->kicks, 0);
    assert_null(g->packets.first);
    pthread_mutex_unlock(&g->lock);
    set_room(g, true);
    for (unsigned i = 0; i < sent; i++)
        assert_int_equal(expect(g, VSOCK_RST).guest_port, 2000 + i);
    pthread_mutex_lock(&g->lock);
    while (g->kicks == 0 && r == 0) /* it is told that there is room */
        r = pthread_cond_timedwait(&g->came, &g->lock, &until);
    assert_int_equal(r, 0);
    pthread_mutex_unlock(&g->lock);
    assert_true(has_room(g));
}

static void a_device_without_room_gets_nothing(void **state)
{
    struct guest *g = *state;
    struct vsock_header request;
    _cleanup_close_ int fd = connected(g, &request);
    _cleanup_close_ int listener = serve(g, SERVICE);
    static uint8_t bytes[4 << 20];
    unsigned n = 0;

    set_room(g, false);
    /* The thread has seen that when it answers nothing to a program that is connected. */
    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        n++;
    assert_true(n > 0);
    guest_says(g, VSOCK_REQUEST, 2000, SERVICE);
    _cleanup_close_ int peer = accept(listener, NULL, NULL);
    assert_true(peer >= 0);
    pthread_mutex_lock(&g->lock);
    const size_t kept = g->packets.memory_bytes;
    pthread_mutex_unlock(&g->lock);
    assert_true(kept < 200 << 10); /* what was read before it was told */
    set_room(g, true);
    for (;;) {
        _cleanup_free_ struct vsock_packet *packet = next(g);
        if (packet->header.op == VSOCK_RESPONSE)
            break;
        assert_int_equal(packet->header.op, VSOCK_RW);
    }
}

/* A guest that sends back what it gets, with credit as Linux keeps it. */
struct echo {
    struct guest *g;
    uint32_t peer_port;
    size_t total;
};

static void *echo_main(void *context)
{
    const struct echo *e = context;
    uint32_t forwarded = 0, sent = 0, room = 0;
    struct vsock_header header = header_of(VSOCK_CREDIT_REQUEST, PORT, e->peer_port);
    struct vsock_queue back = {0};

    header.buf_alloc = 100000;
    send_header(e->g, &header);
    while (sent < e->total) {
        struct vsock_packet *packet = next(e->g);
        room = packet->header.buf_alloc + packet->header.fwd_cnt;
        if (packet->header.op == VSOCK_RW)
            vsock_queue_put(&back, packet);
        else
            free(packet);
        while (back.first != NULL && (int32_t)(room - sent - (uint32_t)back.first->length) >= 0) {
            packet = vsock_queue_take(&back);
            forwarded += (uint32_t)packet->length;
            sent += (uint32_t)packet->length;
            packet->header.buf_alloc = header.buf_alloc;
            packet->header.fwd_cnt = forwarded;
            pthread_mutex_lock(&e->g->lock);
            e->g->backend.send(packet, e->g->backend.context);
            pthread_mutex_unlock(&e->g->lock);
        }
    }
    vsock_queue_clear(&back);
    return NULL;
}

static void *write_main(void *context)
{
    const int fd = *(const int *)context;
    static uint8_t bytes[10 << 20];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    for (size_t done = 0; done < sizeof(bytes);) {
        ssize_t n = send(fd, bytes + done, sizeof(bytes) - done, MSG_NOSIGNAL);
        if (n <= 0)
            return NULL;
        done += (size_t)n;
    }
    return NULL;
}

static void ten_megabytes_go_in_and_come_back(void **state)
{
    struct guest *g = *state;
    struct vsock_header request;
    _cleanup_close_ int fd = connected(g, &request);
    struct echo echo = {.g = g, .peer_port = request.peer_port, .total = 10 << 20};
    static uint8_t bytes[64 << 10];
    pthread_t guest, writer;
    size_t done = 0;

    assert_int_equal(pthread_create(&guest, NULL, echo_main, &echo), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_main, &fd), 0);
    while (done < echo.total) {
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            if (bytes[i] != (uint8_t)((done + (size_t)i) * 2654435761u >> 24))
                fail_msg("byte %zu is wrong", done + (size_t)i);
        done += (size_t)n;
    }
    pthread_join(writer, NULL);
    pthread_join(guest, NULL);
}

int main(void)
{
#define HOST_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        HOST_TEST(the_socket_is_its_owners),
        HOST_TEST(what_a_dead_machine_left_is_replaced),
        HOST_TEST(a_path_that_is_too_long_is_told),
        HOST_TEST(a_program_talks_to_a_port_of_the_guest),
        HOST_TEST(connections_are_told_apart),
        HOST_TEST(a_program_is_refused_where_nobody_listens),
        HOST_TEST(a_program_that_greets_wrongly_is_sent_away),
        HOST_TEST(without_a_driver_programs_are_refused_at_once),
        HOST_TEST(the_guest_talks_to_a_program_of_the_host),
        HOST_TEST(a_guest_is_refused_where_nobody_listens),
        HOST_TEST(a_guest_that_asks_twice_is_reset),
        HOST_TEST(packets_of_no_connection_are_reset),
        HOST_TEST(other_types_and_other_machines_are_reset),
        HOST_TEST(ends_are_passed_on_both_ways),
        HOST_TEST(a_reset_ends_all_connections),
        HOST_TEST(nothing_comes_from_before_a_reset),
        HOST_TEST(a_flood_of_programs_is_bounded),
        HOST_TEST(a_guest_cannot_shut_programs_out),
        HOST_TEST(a_guest_that_floods_and_does_not_listen_has_to_wait),
        HOST_TEST(a_device_without_room_gets_nothing),
        HOST_TEST(ten_megabytes_go_in_and_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
