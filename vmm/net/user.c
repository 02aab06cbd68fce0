/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libslirp knows no threads: once it is started only the network's own thread calls
 * it. Others leave frames and wishes under `lock`, which is held for moments and
 * never while anybody else's code is called, and wake it by an eventfd.
 */
#include "vmm/net/user.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/net/frame_queue.h"
#include "vmm/net/plain.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <libslirp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    SENT_BYTES_MAX = 1 << 20, /* more than TCP has under way; floods are cut off */
    SUBNET_FIRST = 2,
    HOST_ROUTER = 2,
    HOST_NAMESERVER = 3,
    HOST_GUEST = 15,
};

struct net_user {
    unsigned index;
    size_t forward_count;
    struct net_forward forwards[NET_FORWARDS_MAX];
    net_receive_fn *receive;
    void *context;
    int wake_fd;
    pthread_t thread;
    bool started;

    /* the thread's, once it runs */
    Slirp *slirp;
    struct pollfd *polls;
    size_t poll_count;
    size_t poll_room;

    pthread_mutex_t lock;
    struct frame_queue sent; /* by the guest */
    bool used;               /* something was, since the network is as it is */
    bool forget;
    bool stop;
    pthread_cond_t forgotten;
};

/* ---- what libslirp asks for ---- */

static ssize_t on_packet(const void *frame, size_t length, void *opaque)
{
    struct net_user *net = opaque;

    /* The host's sockets have checked what is in it. */
    const struct net_frame made = {.bytes = frame, .length = length, .offload.sum = NET_SUM_GOOD};

    /* What comes before the start could not be answered either. */
    if (net->receive != NULL)
        net->receive(&made, net->context);
    return (ssize_t)length;
}

/* The guest's own fault, and it could fill the log. */
static void on_guest_error(const char *message, void *opaque)
{
    (void)message;
    (void)opaque;
}

static int64_t on_clock(void *opaque)
{
    (void)opaque;
    return (int64_t)clock_monotonic_ns();
}

static void on_poll_fd(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

static void on_notify(void *opaque)
{
    (void)opaque;
}

/* Timers are for IPv6, which is off. */
static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .register_poll_fd = on_poll_fd,
    .unregister_poll_fd = on_poll_fd,
    .notify = on_notify,
};

/* ---- making a network ---- */

static struct in_addr address(const struct net_user *net, unsigned host)
{
    const uint32_t subnet = SUBNET_FIRST + net->index;

    return (struct in_addr){.s_addr = htonl(10u << 24 | subnet << 8 | host)};
}

static int port_error(const struct net_forward *forward, int number, struct error *err)
{
    char text[NET_FORWARD_TEXT_SIZE];

    net_forward_text(forward, text);
    if (number == EADDRINUSE) {
        error_set(err, STATUS_BUSY, EADDRINUSE, "cannot forward %s: port %u is taken", text,
                  forward->host_port);
        error_hint(err, "choose another port, or see who has it: ss -lnp 'sport = :%u'",
                   forward->host_port);
        return -EADDRINUSE;
    }
    error_errno(err, number, "cannot forward %s", text);
    if (number == EACCES)
        error_hint(err, "ports below 1024 are for root: choose another one");
    return -number;
}

static int bind_forward(struct net_user *net, const struct net_forward *f, struct error *err)
{
    errno = 0;
    if (slirp_add_hostfwd(net->slirp, f->udp, f->bind, f->host_port, address(net, HOST_GUEST),
                          f->guest_port) < 0)
        return port_error(f, errno != 0 ? errno : EIO, err);
    return 0;
}

/* libslirp fails at impossible addresses only. */
static void open_network(struct net_user *net)
{
    const SlirpConfig config = {
        .version = 1,
        .in_enabled = true,
        .vnetwork = address(net, 0),
        .vnetmask = {.s_addr = htonl(0xffffff00)},
        .vhost = address(net, HOST_ROUTER),
        .vdhcp_start = address(net, HOST_GUEST),
        .vnameserver = address(net, HOST_NAMESERVER),
    };

    net->slirp = slirp_new(&config, &callbacks, net);
    if (net->slirp == NULL)
        abort();
}

static void close_network(struct net_user *net)
{
    if (net->slirp != NULL)
        slirp_cleanup(net->slirp);
    net->slirp = NULL;
}

/* ---- from others' threads ---- */

static void wake(struct net_user *net)
{
    uint64_t one = 1;

    (void)!write(net->wake_fd, &one, sizeof(one));
}

static void send_frame(const struct net_frame *frame, void *context)
{
    struct net_user *net = context;

    if (!frame_is_plain(frame->bytes, frame->length))
        return;
    pthread_mutex_lock(&net->lock);
    const bool first = net->sent.first == NULL;
    net->used = true;
    frame_queue_put(&net->sent, frame);
    pthread_mutex_unlock(&net->lock);
    if (first)
        wake(net);
}

static void forget(void *context)
{
    struct net_user *net = context;

    pthread_mutex_lock(&net->lock);
    /* Otherwise there is nothing to forget, and its ports stay bound throughout. */
    net->forget = net->started && net->used;
    if (net->forget)
        wake(net);
    while (net->forget)
        pthread_cond_wait(&net->forgotten, &net->lock);
    pthread_mutex_unlock(&net->lock);
}

/* ---- the thread ---- */

static int add_poll(int fd, int events, void *opaque)
{
    struct net_user *net = opaque;

    if (net->poll_count == net->poll_room) {
        size_t room = net->poll_room * 2 + 8;
        struct pollfd *polls = reallocarray(net->polls, room, sizeof(*polls));
        if (polls == NULL)
            return -1; /* looked at when there is memory again */
        net->polls = polls;
        net->poll_room = room;
    }
    int wanted = ((events & SLIRP_POLL_IN) != 0 ? POLLIN : 0) |
                 ((events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0) |
                 ((events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0);
    net->polls[net->poll_count] = (struct pollfd){.fd = fd, .events = (short)wanted};
    return (int)net->poll_count++;
}

static int get_events(int index, void *opaque)
{
    const struct net_user *net = opaque;
    const short got = index >= 0 ? net->polls[index].revents : 0;

    return ((got & POLLIN) != 0 ? SLIRP_POLL_IN : 0) | ((got & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
           ((got & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
           ((got & POLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
           ((got & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

static void serve_sockets(struct net_user *net, bool wait)
{
    uint32_t timeout_ms = UINT32_MAX;
    uint64_t count;

    net->poll_count = 0;
    const int own = add_poll(net->wake_fd, SLIRP_POLL_IN, net);
    if (own < 0)
        return;
    slirp_pollfds_fill(net->slirp, &timeout_ms, add_poll, net);
    if (timeout_ms > INT32_MAX)
        timeout_ms = INT32_MAX;
    int n = poll(net->polls, net->poll_count, wait ? (int)timeout_ms : 0);
    if (net->polls[own].revents != 0)
        (void)!read(net->wake_fd, &count, sizeof(count));
    slirp_pollfds_poll(net->slirp, n < 0, get_events, net);
}

/* A machine without one of its forwards is better than none. */
static void start_anew(struct net_user *net)
{
    struct error err;

    close_network(net);
    open_network(net);
    for (size_t i = 0; i < net->forward_count; i++)
        if (bind_forward(net, &net->forwards[i], &err) < 0)
            log_event("after going back: %s", err.message);
}

/* Tells forget() that it is done. */
static void forgotten(struct net_user *net)
{
    pthread_mutex_lock(&net->lock);
    net->used = false;
    net->forget = false;
    pthread_cond_broadcast(&net->forgotten);
    pthread_mutex_unlock(&net->lock);
}

/* All that was left for the thread until now. False: it shall end. */
static bool take_wishes(struct net_user *net, struct frame_queue *sent_out, bool *forget_out)
{
    pthread_mutex_lock(&net->lock);
    *sent_out = net->sent;
    frame_queue_init(&net->sent, SENT_BYTES_MAX);
    *forget_out = net->forget;
    const bool go_on = !net->stop;
    pthread_mutex_unlock(&net->lock);
    return go_on;
}

/* Sockets that were polled last are all there are, but for some that have much to say to
 * a guest that does not listen. */
static void input_frames(struct net_user *net, struct frame_queue *sent)
{
    size_t sockets = net->poll_count;
    struct frame *frame;

    while ((frame = frame_queue_take(sent)) != NULL) {
        const bool opens = frame_may_open(frame->bytes, frame->length);
        if (!opens || sockets < NET_USER_SOCKETS_MAX)
            slirp_input(net->slirp, frame->bytes, (int)frame->length);
        sockets += opens;
        free(frame);
    }
}

static void *net_main(void *context)
{
    struct net_user *net = context;
    struct frame_queue sent;
    bool forget;

    sandbox_thread(SANDBOX_NETWORK);
    while (take_wishes(net, &sent, &forget)) {
        if (forget) {
            frame_queue_clear(&sent);
            start_anew(net);
            forgotten(net);
        }
        const bool idle = sent.first == NULL;
        input_frames(net, &sent);
        /* What the frames let go, like packets that waited for an ARP reply, leaves here. */
        serve_sockets(net, idle);
    }
    frame_queue_clear(&sent);
    return NULL;
}

/* ---- beginning and end ---- */

static int start(net_receive_fn *receive, void *receive_context, void *context, struct error *err)
{
    struct net_user *net = context;

    net->receive = receive;
    net->context = receive_context;
    int r = pthread_create(&net->thread, NULL, net_main, net);
    if (r != 0)
        return error_errno(err, r, "cannot start the machine's network");
    net->started = true;
    return 0;
}

static void stop(void *context)
{
    struct net_user *net = context;

    if (!net->started)
        return;
    pthread_mutex_lock(&net->lock);
    net->stop = true;
    pthread_mutex_unlock(&net->lock);
    wake(net);
    pthread_join(net->thread, NULL);
    net->started = false;
    net->receive = NULL;
}

static void free_user(void *context)
{
    struct net_user *net = context;

    stop(net);
    close_network(net);
    frame_queue_clear(&net->sent);
    free(net->polls);
    if (net->wake_fd >= 0)
        close(net->wake_fd);
    pthread_cond_destroy(&net->forgotten);
    pthread_mutex_destroy(&net->lock);
    free(net);
}

int net_user_create(unsigned index, const struct net_forward *forwards, size_t forward_count,
                    struct net_backend *out, struct error *err)
{
    if (forward_count > NET_FORWARDS_MAX)
        return error_set(err, STATUS_USAGE, E2BIG, "%zu forwards are too many", forward_count);
    struct net_user *net = calloc(1, sizeof(*net));
    if (net == NULL)
        return error_errno(err, ENOMEM, "cannot make the machine's network");
    net->index = index;
    net->forward_count = forward_count;
    for (size_t i = 0; i < forward_count; i++)
        net->forwards[i] = forwards[i];
    pthread_mutex_init(&net->lock, NULL);
    pthread_cond_init(&net->forgotten, NULL);
    frame_queue_init(&net->sent, SENT_BYTES_MAX);
    net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = net->wake_fd < 0 ? error_errno(err, errno, "cannot make the machine's network") : 0;
    open_network(net);
    for (size_t i = 0; r == 0 && i < forward_count; i++)
        r = bind_forward(net, &net->forwards[i], err);
    if (r < 0) {
        free_user(net);
        return r;
    }
    *out = (struct net_backend){.send = send_frame,
                                .start = start,
                                .forget = forget,
                                .stop = stop,
                                .free = free_user,
                                .context = net};
    return 0;
}
