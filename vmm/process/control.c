/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: connections, requests in, replies and console bytes out. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/process/process.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    REQUEST_MAX = 64 << 10,
    TYPED_MAX = 64 << 10, /* console input waiting for the guest */
    CHUNK = 16 << 10,
    OUTPUT_MAX = 1 << 20, /* replies a client has not read: it has to, first */
    BACKLOG = 64,
    DRAIN_MS = 2000,
};

int control_bind(struct process *p, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(p->socket_path);

    if (length >= sizeof(address.sun_path)) {
        error_set(err, STATUS_FAILED, ENAMETOOLONG, "the socket's path is too long: %s",
                  p->socket_path);
        error_hint(err, "set XDG_RUNTIME_DIR to a shorter path");
        return -ENAMETOOLONG;
    }
    memcpy(address.sun_path, p->socket_path, length + 1);
    unlink(p->socket_path); /* of a machine that crashed: this one holds the lock */
    p->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->listen_fd < 0)
        return error_errno(err, errno, "cannot make a socket");
    mode_t before = umask(0177);
    int r = bind(p->listen_fd, (struct sockaddr *)&address, sizeof(address));
    umask(before);
    return r < 0 ? error_errno(err, errno, "cannot listen on %s", p->socket_path) : 0;
}

int control_listen(struct process *p, struct error *err)
{
    if (listen(p->listen_fd, BACKLOG) < 0)
        return error_errno(err, errno, "cannot listen on %s", p->socket_path);
    p->listen_watch = (struct watch){.kind = WATCH_LISTEN};
    int r = process_watch(p, p->listen_fd, &p->listen_watch, EPOLLIN);
    return r < 0 ? error_errno(err, -r, "cannot watch the socket") : 0;
}

/* Whoever types something and goes has typed it. */
static void keep_input(struct process *p, const struct client *client)
{
    if (!client->is_console || client->input.length == 0 || p->left_input.length >= TYPED_MAX ||
        buffer_append(&p->left_input, client->input.data, client->input.length) < 0)
        return;
    process_wake(p);
}

static void drop_client(struct process *p, struct client *client)
{
    if (client->fd < 0)
        return;
    verb_client_gone(p, client);
    keep_input(p, client);
    close(client->fd);
    client->fd = -1;
    buffer_clear(&client->input);
    buffer_clear(&client->output);
}

void control_accept(struct process *p)
{
    int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct client *client = &p->clients[i];
        if (client->fd >= 0)
            continue;
        *client = (struct client){
            .fd = fd, .watch = {.kind = WATCH_CLIENT, .client = client}, .watched = EPOLLIN};
        if (process_watch(p, fd, &client->watch, client->watched) < 0)
            drop_client(p, client);
        return;
    }
    log_event("refused a connection: %d are open", CLIENTS_MAX);
    close(fd);
}

static void watch_for(struct process *p, struct client *client, uint32_t event, bool wanted)
{
    uint32_t watched = wanted ? client->watched | event : client->watched & ~event;

    if (watched == client->watched)
        return;
    client->watched = watched;
    struct epoll_event change = {.events = watched, .data.ptr = &client->watch};
    epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, client->fd, &change);
}

/* Whoever does not read the answers has to before it asks more; after a bad request
 * nothing is read. Console clients have a limit of their own. */
static void watch_requests(struct process *p, struct client *client)
{
    if (client->fd >= 0 && !client->is_console)
        watch_for(p, client, EPOLLIN, !client->closing && client->output.length < OUTPUT_MAX);
}

/* Sends what is in the output buffer. 0 when all is out, -EAGAIN when the peer is
 * slow, else it is gone. */
static int send_output(struct client *client)
{
    while (client->output.length > 0) {
        ssize_t n = send(client->fd, client->output.data, client->output.length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        client->output.length -= (size_t)n;
        memmove(client->output.data, client->output.data + n, client->output.length);
    }
    return 0;
}

/* Refills the output buffer from the console's log. False at its end. */
static bool refill_from_console(struct process *p, struct client *client)
{
    if (!client->is_console || client->console_offset >= console_length(p->console))
        return false;
    if (buffer_reserve(&client->output, CHUNK) < 0)
        return false;
    ssize_t n = console_read(p->console, &client->console_offset, client->output.data, CHUNK);
    if (n <= 0)
        return false;
    client->output.length = (size_t)n;
    return true;
}

static void pump_client(struct process *p, struct client *client)
{
    int r;

    if (client->deaf)
        return;
    do {
        r = send_output(client);
    } while (r == 0 && refill_from_console(p, client));
    if (r < 0 && r != -EAGAIN && client->is_console) {
        client->deaf = true; /* reading finds the end, behind what was typed */
        r = 0;
    }
    watch_for(p, client, EPOLLOUT, r == -EAGAIN);
    if (r != -EAGAIN && (r < 0 || client->closing))
        drop_client(p, client);
    watch_requests(p, client);
}

static void send_json(struct process *p, struct client *client, json_t *reply)
{
    _cleanup_free_ char *text = json_dumps(reply, JSON_COMPACT);

    json_decref(reply);
    if (client->fd < 0)
        return;
    if (text == NULL || buffer_append(&client->output, text, strlen(text)) < 0 ||
        buffer_append(&client->output, "\n", 1) < 0)
        drop_client(p, client);
    else
        pump_client(p, client);
}

void control_reply(struct process *p, struct client *client, json_t *result)
{
    send_json(p, client, json_pack("{s:b, s:o}", "ok", 1, "result", result));
}

/* A text that was cut within a character, or has a path of another encoding in it, is
 * no JSON string: only its ASCII is told then. */
static json_t *text_json(const char *text)
{
    char ascii[sizeof(((struct error *)NULL)->message)];
    size_t n = 0;
    json_t *json = json_string(text);

    for (; json == NULL && text[n] != '\0' && n + 1 < sizeof(ascii); n++)
        ascii[n] = (text[n] & 0x80) != 0 ? '?' : text[n];
    ascii[n] = '\0';
    return json != NULL ? json : json_string(ascii);
}

json_t *control_error_json(const struct error *err)
{
    return json_pack("{s:b, s:i, s:i, s:o, s:o}", "ok", 0, "status", (int)err->status, "errno",
                     err->errnum, "message", text_json(err->message), "hint", text_json(err->hint));
}

void control_reply_error(struct process *p, struct client *client, const struct error *err)
{
    send_json(p, client, control_error_json(err));
}

static void reply_bad_request(struct process *p, struct client *client, const char *why)
{
    struct error err;

    error_set(&err, STATUS_USAGE, EPROTO, "bad request: %s", why);
    client->closing = true;
    control_reply_error(p, client, &err);
}

/* One request line. */
static void serve_request(struct process *p, struct client *client, const char *line, size_t length)
{
    _cleanup_json_ json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
    const char *verb = json_string_value(json_object_get(request, "verb"));

    if (verb == NULL)
        reply_bad_request(p, client, "not an object with a \"verb\"");
    else
        verb_run(p, client, verb, json_object_get(request, "args"));
}

static void serve_requests(struct process *p, struct client *client)
{
    for (;;) {
        const uint8_t *end =
            client->fd < 0 || client->is_console || client->closing || client->input.length == 0
                ? NULL
                : memchr(client->input.data, '\n', client->input.length);
        if (end == NULL)
            break;
        size_t length = (size_t)(end - client->input.data);
        _cleanup_free_ char *line = malloc(length + 1);
        if (line == NULL) {
            drop_client(p, client);
            return;
        }
        memcpy(line, client->input.data, length);
        client->input.length -= length + 1;
        memmove(client->input.data, end + 1, client->input.length);
        serve_request(p, client, line, length);
    }
    if (client->fd >= 0 && !client->is_console && client->input.length > REQUEST_MAX)
        reply_bad_request(p, client, "too long");
}

/* Types what the guest has room for. */
static void type_bytes(struct process *p, struct buffer *input)
{
    if (p->board == NULL || input->length == 0)
        return;
    /* Before offering: the guest may make room, and sleep, before this returns. */
    p->input_waits = true;
    size_t taken = board_console_input(p->board, input->data, input->length);
    input->length -= taken;
    memmove(input->data, input->data + taken, input->length);
}

static void type_input(struct process *p, struct client *client)
{
    type_bytes(p, &p->left_input);
    if (p->left_input.length == 0)
        type_bytes(p, &client->input);
    /* A client that types faster than the guest reads has to wait. */
    watch_for(p, client, EPOLLIN, client->input.length < TYPED_MAX);
}

static void read_client(struct process *p, struct client *client)
{
    if (buffer_reserve(&client->input, CHUNK) < 0) {
        drop_client(p, client);
        return;
    }
    ssize_t n = recv(client->fd, client->input.data + client->input.length, CHUNK, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        drop_client(p, client);
        return;
    }
    client->input.length += (size_t)n;
    serve_requests(p, client);
    if (client->fd >= 0 && client->is_console)
        type_input(p, client);
    watch_requests(p, client);
}

void control_client_event(struct process *p, struct client *client, uint32_t events)
{
    if (client->fd >= 0 && (events & EPOLLOUT) != 0)
        pump_client(p, client);
    if (client->fd < 0 || (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0)
        return;
    if ((client->watched & EPOLLIN) != 0)
        read_client(p, client);
    else if ((events & (EPOLLHUP | EPOLLERR)) != 0)
        drop_client(p, client); /* it typed more than is kept */
}

void control_console_ready(struct process *p)
{
    type_bytes(p, &p->left_input);
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct client *client = &p->clients[i];
        if (client->fd < 0 || !client->is_console)
            continue;
        type_input(p, client);
        if ((client->watched & EPOLLOUT) == 0)
            pump_client(p, client);
    }
}

/* Lets a slow peer have its last bytes, until the deadline that all of them share. */
static void drain_client(struct process *p, struct client *client, uint64_t deadline_ns)
{
    client->closing = true;
    pump_client(p, client);
    for (uint64_t now;
         client->fd >= 0 && !client->deaf && (now = clock_monotonic_ns()) < deadline_ns;) {
        struct pollfd poll_fd = {.fd = client->fd, .events = POLLOUT};
        if (poll(&poll_fd, 1, (int)((deadline_ns - now) / 1000000) + 1) > 0 &&
            (poll_fd.revents & (POLLHUP | POLLERR)) != 0)
            break;
        pump_client(p, client);
    }
    drop_client(p, client);
}

void control_close(struct process *p)
{
    uint64_t deadline_ns = clock_monotonic_ns() + DRAIN_MS * 1000000ull;

    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (p->clients[i].fd >= 0)
            drain_client(p, &p->clients[i], deadline_ns);
    if (p->listen_fd >= 0) {
        buffer_clear(&p->left_input);
        unlink(p->socket_path);
        close(p->listen_fd);
        p->listen_fd = -1;
    }
}
