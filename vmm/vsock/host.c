/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections and their sockets belong to the host's own thread. Others leave packets
 * and wishes under `lock`, which is held for moments and never while anybody else's code
 * is called, and wake the thread by an eventfd.
 */
#include "vmm/vsock/host.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "vmm/process/sandbox.h"
#include "vmm/vsock/connection.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 64,
    TURN_MAX = 64,    /* packets of the guest, then the sockets are looked at */
    REPLIES_MAX = 64, /* resets for the guest; as long as they wait its packets wait, too */
    POLL_WAKE = 0,
    POLL_LISTEN = 1,
    POLL_FIRST = 2,
};

/* Where our ports come from: far from those that mean something. */
#define HOST_PORT_FIRST 0x40000000u
#define HOST_PORT_COUNT 0x40000000u

struct vsock_host {
    char *path;
    uint64_t guest_cid;
    int listen_fd;
    int wake_fd;
    struct vsock_card card;
    pthread_t thread;
    bool started;

    /* the thread's, once it runs */
    unsigned count;
    unsigned from_guest;
    struct vsock_connection *connections[VSOCK_CONNECTIONS_MAX];
    struct vsock_queue replies; /* to packets that belong to no connection */
    uint32_t next_port;
    uint32_t epoch;

    pthread_mutex_t lock;
    struct vsock_queue sent; /* by the guest */
    bool sender_waits;       /* until there is room in it */
    bool room;               /* the device's */
    uint32_t new_epoch;
    bool stop;
};

/* ---- making it ---- */

static int unix_address(const char *path, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(out->sun_path))
        return -ENAMETOOLONG;
    memcpy(out->sun_path, path, strlen(path) + 1);
    return 0;
}

static int listen_on(struct vsock_host *host, struct error *err)
{
    struct sockaddr_un address;

    if (unix_address(host->path, &address) < 0) {
        error_set(err, STATUS_FAILED, ENAMETOOLONG, "the socket's path is too long: %s",
                  host->path);
        error_hint(err, "set XDG_RUNTIME_DIR to a shorter path");
        return -ENAMETOOLONG;
    }
    unlink(host->path);
    host->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (host->listen_fd < 0)
        return error_errno(err, errno, "cannot make a socket");
    const mode_t before = umask(0177);
    const int r = bind(host->listen_fd, (struct sockaddr *)&address, sizeof(address));
    umask(before);
    if (r < 0 || listen(host->listen_fd, BACKLOG) < 0)
        return error_errno(err, errno, "cannot listen on %s", host->path);
    return 0;
}

/* Not where the last machine began: a guest might still know one of its connections. */
static uint32_t random_port(void)
{
    uint32_t port = 0;

    (void)!getrandom(&port, sizeof(port), 0);
    return port % HOST_PORT_COUNT;
}

int vsock_host_create(const char *path, uint64_t guest_cid, struct vsock_host **out,
                      struct error *err)
{
    struct vsock_host *host = calloc(1, sizeof(*host));

    if (host == NULL)
        return error_errno(err, ENOMEM, "cannot make the machine's sockets");
    host->path = io_format("%s", path);
    host->guest_cid = guest_cid;
    host->listen_fd = -1;
    host->next_port = random_port();
    host->room = true;
    pthread_mutex_init(&host->lock, NULL);
    host->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = host->wake_fd < 0 ? error_errno(err, errno, "cannot make the machine's sockets")
                              : listen_on(host, err);
    if (r < 0) {
        vsock_host_free(host);
        return r;
    }
    *out = host;
    return 0;
}

/* ---- from others' threads ---- */

static void wake(struct vsock_host *host)
{
    uint64_t one = 1;

    (void)!write(host->wake_fd, &one, sizeof(one));
}

static void backend_send(struct vsock_packet *packet, void *context)
{
    struct vsock_host *host = context;

    pthread_mutex_lock(&host->lock);
    const bool first = host->sent.first == NULL;
    vsock_queue_put(&host->sent, packet);
    pthread_mutex_unlock(&host->lock);
    if (first)
        wake(host);
}

static bool backend_has_room(void *context)
{
    struct vsock_host *host = context;

    pthread_mutex_lock(&host->lock);
    const bool room = host->sent.memory_bytes < VSOCK_SENT_BYTES_MAX;
    host->sender_waits = host->sender_waits || !room;
    pthread_mutex_unlock(&host->lock);
    return room;
}

static void backend_set_room(bool room, void *context)
{
    struct vsock_host *host = context;

    pthread_mutex_lock(&host->lock);
    host->room = room;
    pthread_mutex_unlock(&host->lock);
    if (room)
        wake(host);
}

static void backend_reset(uint32_t epoch, void *context)
{
    struct vsock_host *host = context;

    pthread_mutex_lock(&host->lock);
    vsock_queue_clear(&host->sent);
    host->sender_waits = false;
    host->room = true;
    host->new_epoch = epoch;
    pthread_mutex_unlock(&host->lock);
    wake(host);
}

struct vsock_backend vsock_host_backend(struct vsock_host *host)
{
    return (struct vsock_backend){
        .send = backend_send,
        .has_room = backend_has_room,
        .set_room = backend_set_room,
        .reset = backend_reset,
        .context = host,
    };
}

/* ---- the table ---- */

static struct vsock_connection *find(struct vsock_host *host, uint32_t guest_port,
                                     uint32_t host_port)
{
    for (unsigned i = 0; i < host->count; i++) {
        struct vsock_connection *c = host->connections[i];
        if (c->host_port == host_port && c->guest_port == guest_port &&
            (c->state == VSOCK_REQUESTING || c->state == VSOCK_OPEN || c->state == VSOCK_CLOSING))
            return c;
    }
    return NULL;
}

static void add(struct vsock_host *host, struct vsock_connection *c)
{
    host->connections[host->count++] = c;
}

static bool port_is_used(const struct vsock_host *host, uint32_t port)
{
    for (unsigned i = 0; i < host->count; i++)
        if (!host->connections[i]->from_guest && host->connections[i]->host_port == port)
            return true;
    return false;
}

static uint32_t new_port(struct vsock_host *host)
{
    uint32_t port;

    do {
        port = HOST_PORT_FIRST + host->next_port++ % HOST_PORT_COUNT;
    } while (port_is_used(host, port));
    return port;
}

static void add_reset(struct vsock_host *host, const struct vsock_header *where)
{
    struct vsock_header header = {
        .guest_cid = host->guest_cid,
        .peer_cid = where->peer_cid,
        .guest_port = where->guest_port,
        .peer_port = where->peer_port,
        .type = where->type,
        .op = VSOCK_RST,
    };
    struct vsock_packet *packet = vsock_packet_new(&header, 0);

    if (packet != NULL) /* else the guest's own patience has to do */
        vsock_queue_put(&host->replies, packet);
}

/* What a connection's last event has led to. */
static void settle(struct vsock_host *host, struct vsock_connection *c)
{
    if (c->reset)
        add_reset(host, &(struct vsock_header){.peer_cid = VSOCK_HOST_CID,
                                               .guest_port = c->guest_port,
                                               .peer_port = c->host_port,
                                               .type = VSOCK_TYPE_STREAM});
    c->reset = false;
}

static void remove_gone(struct vsock_host *host)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < host->count; i++) {
        struct vsock_connection *c = host->connections[i];
        if (c->state != VSOCK_GONE) {
            host->connections[kept++] = c;
            continue;
        }
        host->from_guest -= c->from_guest;
        vsock_connection_free(c);
    }
    host->count = kept;
}

/* Without a word to the guest, which has forgotten them, too. */
static void forget_all(struct vsock_host *host)
{
    for (unsigned i = 0; i < host->count; i++)
        vsock_connection_free(host->connections[i]);
    host->count = 0;
    host->from_guest = 0;
    vsock_queue_clear(&host->replies);
}

/* ---- what the guest sends ---- */

/* The socket of whoever listens for that port; -1 if nobody does. */
static int connect_to(const struct vsock_host *host, uint32_t port)
{
    struct sockaddr_un address;
    char *path = io_format("%s_%u", host->path, port);
    const int r = unix_address(path, &address);

    free(path);
    if (r < 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void take_request(struct vsock_host *host, const struct vsock_header *request)
{
    int fd = -1;

    if (host->count < VSOCK_CONNECTIONS_MAX && host->from_guest < VSOCK_FROM_GUEST_MAX)
        fd = connect_to(host, request->peer_port);
    if (fd < 0) {
        add_reset(host, request);
        return;
    }
    struct vsock_connection *c = vsock_connection_new(fd, host->guest_cid, request->peer_port);
    vsock_connection_accept(c, request);
    host->from_guest++;
    add(host, c);
}

static void take_packet(struct vsock_host *host, const struct vsock_packet *packet)
{
    const struct vsock_header *h = &packet->header;
    struct vsock_connection *c = NULL;

    if (h->guest_cid != host->guest_cid)
        return; /* there is nobody of that name to answer to */
    const bool ours = h->peer_cid == VSOCK_HOST_CID && h->type == VSOCK_TYPE_STREAM;
    if (ours)
        c = find(host, h->guest_port, h->peer_port);
    if (c != NULL) {
        vsock_connection_take(c, packet);
        settle(host, c);
        if (c->state == VSOCK_GONE)
            remove_gone(host);
    } else if (ours && h->op == VSOCK_REQUEST) {
        take_request(host, h);
    } else if (h->op != VSOCK_RST) {
        add_reset(host, h);
    }
}

static struct vsock_packet *next_sent(struct vsock_host *host)
{
    struct vsock_packet *packet = NULL;

    if (host->replies.count >= REPLIES_MAX)
        return NULL;
    pthread_mutex_lock(&host->lock);
    if (host->new_epoch == host->epoch)
        packet = vsock_queue_take(&host->sent);
    pthread_mutex_unlock(&host->lock);
    return packet;
}

/* Wakes the sender when half of the room is there again. */
static void take_packets(struct vsock_host *host)
{
    struct vsock_packet *packet;
    bool kick;

    for (unsigned i = 0; i < TURN_MAX && (packet = next_sent(host)) != NULL; i++) {
        take_packet(host, packet);
        free(packet);
    }
    pthread_mutex_lock(&host->lock);
    kick = host->sender_waits && host->sent.memory_bytes < VSOCK_SENT_BYTES_MAX / 2;
    if (kick)
        host->sender_waits = false;
    pthread_mutex_unlock(&host->lock);
    if (kick)
        host->card.kick(host->card.context);
}

/* ---- what the guest gets ---- */

static bool has_room(struct vsock_host *host)
{
    pthread_mutex_lock(&host->lock);
    const bool room = host->room;
    pthread_mutex_unlock(&host->lock);
    return room;
}

static void give(struct vsock_host *host, struct vsock_packet *packet)
{
    packet->epoch = host->epoch;
    if (!host->card.receive(packet, host->card.context))
        forget_all(host);
}

static struct vsock_packet *next_pending(struct vsock_host *host)
{
    struct vsock_packet *packet = vsock_queue_take(&host->replies);

    for (unsigned i = 0; packet == NULL && i < host->count; i++)
        packet = vsock_connection_next(host->connections[i]);
    return packet;
}

static void give_pending(struct vsock_host *host)
{
    struct vsock_packet *packet;

    while (has_room(host) && (packet = next_pending(host)) != NULL)
        give(host, packet);
}

/* ---- the host's programs ---- */

static void accept_one(struct vsock_host *host)
{
    int fd = accept4(host->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (host->count == VSOCK_CONNECTIONS_MAX) {
        log_event("refused a connection to the guest: %d are open", VSOCK_CONNECTIONS_MAX);
        close(fd);
        return;
    }
    add(host, vsock_connection_new(fd, host->guest_cid, new_port(host)));
}

static void greet(struct vsock_connection *c)
{
    uint32_t port;
    const int r = vsock_connection_greet(c, &port);

    if (r > 0)
        vsock_connection_request(c, port);
    else if (r < 0)
        vsock_connection_abort(c);
}

static void serve_socket(struct vsock_host *host, struct vsock_connection *c, short revents)
{
    struct vsock_packet *packet = NULL;

    if (c->state == VSOCK_GREETING)
        greet(c);
    else
        vsock_connection_ready(c, revents, &packet);
    settle(host, c);
    if (packet != NULL)
        give(host, packet);
}

/* ---- the thread ---- */

/* Could the thread go on with what the guest has sent? */
static bool has_work(struct vsock_host *host)
{
    pthread_mutex_lock(&host->lock);
    const bool waits = host->sent.first != NULL;
    pthread_mutex_unlock(&host->lock);
    return waits && host->replies.count < REPLIES_MAX;
}

/* Milliseconds until the next deadline; -1: there is none. */
static int next_timeout(const struct vsock_host *host)
{
    const uint64_t now = clock_monotonic_ns();
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < host->count; i++) {
        const uint64_t deadline = host->connections[i]->deadline_ns;
        if (deadline != 0 && deadline < next)
            next = deadline;
    }
    if (next == UINT64_MAX)
        return -1;
    return next <= now ? 0 : (int)((next - now) / 1000000) + 1;
}

static void end_overdue(struct vsock_host *host)
{
    const uint64_t now = clock_monotonic_ns();

    for (unsigned i = 0; i < host->count; i++) {
        struct vsock_connection *c = host->connections[i];
        if (c->deadline_ns != 0 && now >= c->deadline_ns) {
            vsock_connection_abort(c);
            settle(host, c);
        }
    }
}

/* Sockets at the place of their connections, behind the thread's own. */
static unsigned fill_polls(struct vsock_host *host, struct pollfd *polls)
{
    const bool room = has_room(host);

    polls[POLL_WAKE] = (struct pollfd){.fd = host->wake_fd, .events = POLLIN};
    polls[POLL_LISTEN] = (struct pollfd){.fd = host->listen_fd, .events = POLLIN};
    for (unsigned i = 0; i < host->count; i++) {
        const struct vsock_connection *c = host->connections[i];
        const int events = vsock_connection_events(c, room);
        polls[POLL_FIRST + i] = (struct pollfd){.fd = events < 0 ? -1 : c->fd,
                                                .events = (short)(events < 0 ? 0 : events)};
    }
    return POLL_FIRST + host->count;
}

static void serve_sockets(struct vsock_host *host)
{
    struct pollfd polls[POLL_FIRST + VSOCK_CONNECTIONS_MAX];
    const unsigned count = fill_polls(host, polls);
    uint64_t ignored;

    if (poll(polls, count, has_work(host) ? 0 : next_timeout(host)) < 0)
        return;
    if (polls[POLL_WAKE].revents != 0)
        (void)!read(host->wake_fd, &ignored, sizeof(ignored));
    /* Each by its place: connections are neither added nor removed, unless all are. */
    for (unsigned i = POLL_FIRST; i < count && i - POLL_FIRST < host->count; i++)
        if (polls[i].revents != 0)
            serve_socket(host, host->connections[i - POLL_FIRST], polls[i].revents);
    end_overdue(host);
    remove_gone(host);
    if (polls[POLL_LISTEN].revents != 0)
        accept_one(host);
}

/* False: the thread shall end. */
static bool take_wishes(struct vsock_host *host)
{
    pthread_mutex_lock(&host->lock);
    const bool go_on = !host->stop;
    const bool forget = host->epoch != host->new_epoch;
    host->epoch = host->new_epoch;
    pthread_mutex_unlock(&host->lock);
    if (forget)
        forget_all(host);
    return go_on;
}

static void *host_main(void *context)
{
    struct vsock_host *host = context;

    sandbox_thread(SANDBOX_STREAMS);
    while (take_wishes(host)) {
        take_packets(host);
        give_pending(host);
        serve_sockets(host);
    }
    return NULL;
}

/* ---- beginning and end ---- */

int vsock_host_start(struct vsock_host *host, const struct vsock_card *card, struct error *err)
{
    host->card = *card;
    const int r = pthread_create(&host->thread, NULL, host_main, host);
    if (r != 0)
        return error_errno(err, r, "cannot start the machine's sockets");
    host->started = true;
    return 0;
}

void vsock_host_stop(struct vsock_host *host)
{
    if (host == NULL || !host->started)
        return;
    pthread_mutex_lock(&host->lock);
    host->stop = true;
    pthread_mutex_unlock(&host->lock);
    wake(host);
    pthread_join(host->thread, NULL);
    host->started = false;
}

void vsock_host_free(struct vsock_host *host)
{
    if (host == NULL)
        return;
    vsock_host_stop(host);
    forget_all(host);
    vsock_queue_clear(&host->sent);
    if (host->listen_fd >= 0) {
        unlink(host->path);
        close(host->listen_fd);
    }
    if (host->wake_fd >= 0)
        close(host->wake_fd);
    pthread_mutex_destroy(&host->lock);
    free(host->path);
    free(host);
}
