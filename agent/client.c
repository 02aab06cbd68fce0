/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/client.h"

#include "agent/tree.h"
#include "base/cleanup.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { REPLY_MAX = 32 };

static int nobody_listens(struct error *err)
{
    return error_set(err, STATUS_FAILED, ECONNREFUSED, "the guest runs no agent");
}

static int silent(struct error *err)
{
    return error_set(err, STATUS_FAILED, ETIMEDOUT, "the guest's agent does not answer");
}

static int no_agent(struct error *err)
{
    return error_set(err, STATUS_CORRUPT, EBADMSG, "the guest's answer is none of an agent");
}

static int open_socket(const char *path, int *fd_out, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        return error_errno(err, ENAMETOOLONG, "cannot connect to %s", path);
    memcpy(address.sun_path, path, strlen(path));
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot connect to the guest");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return error_set(err, STATUS_FAILED, errno, "the guest has no vsock device: %s: %s", path,
                         strerror(errno));
    *fd_out = steal_fd(&fd);
    return 0;
}

/* Byte by byte: what comes behind the line is the agent's. */
static int read_line(struct channel *ch, char line[REPLY_MAX], struct error *err)
{
    for (size_t used = 0; used + 1 < REPLY_MAX;) {
        ssize_t n = recv(ch->fd, line + used, 1, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            int r = channel_wait(ch, POLLIN, ch->patience_ms);
            if (r < 0)
                return r == -ETIMEDOUT ? silent(err) : tree_channel_error(r, err);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return nobody_listens(err);
        if (line[used] == '\n') {
            line[used] = '\0';
            return 0;
        }
        used++;
    }
    return no_agent(err);
}

static int cross(struct channel *ch, struct error *err)
{
    char line[REPLY_MAX];

    int n = snprintf(line, sizeof(line), "CONNECT %u\n", AGENT_PORT);
    if (send(ch->fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return nobody_listens(err);
    int r = read_line(ch, line, err);
    if (r < 0)
        return r;
    return strncmp(line, "OK ", 3) == 0 ? 0 : nobody_listens(err);
}

static int await_hello(struct channel *ch, struct error *err)
{
    struct agent_hello hello;
    struct frame frame;

    int r = channel_receive(ch, &frame);
    if (r == -ECONNRESET)
        return nobody_listens(err);
    if (r == -ETIMEDOUT)
        return silent(err);
    if (r == -EBADMSG ||
        (r == 0 && (frame.type != AGENT_HELLO || agent_hello_decode(&frame, &hello) < 0)))
        return no_agent(err);
    if (r < 0)
        return tree_channel_error(r, err);
    if (hello.protocol == AGENT_PROTOCOL)
        return 0;
    error_set(err, STATUS_FAILED, EPROTO,
              "the guest's agent speaks protocol %u, this stasis speaks %u", hello.protocol,
              AGENT_PROTOCOL);
    error_hint(err, "install the agent that came with this stasis in the guest");
    return -EPROTO;
}

int agent_connect(const char *socket_path, int patience_ms, struct channel *out, struct error *err)
{
    int fd = -1;

    int r = open_socket(socket_path, &fd, err);
    if (r < 0)
        return r;
    channel_init(out, fd, patience_ms);
    r = cross(out, err);
    if (r == 0)
        r = await_hello(out, err);
    if (r < 0)
        channel_clear(out);
    return r;
}

int agent_attach(int fd, int patience_ms, struct channel *out, struct error *err)
{
    channel_init(out, fd, patience_ms);
    int r = await_hello(out, err);
    if (r < 0)
        channel_clear(out);
    return r;
}

int agent_request(struct channel *ch, enum agent_frame type, const struct buffer *payload,
                  struct error *err)
{
    int r = channel_send(ch, type, payload->data, payload->length);
    if (r == -EMSGSIZE)
        return error_set(err, STATUS_USAGE, E2BIG, "the request is too long for the agent");
    return r < 0 ? tree_channel_error(r, err) : 0;
}

int agent_await_done(struct channel *ch, void (*warn)(const char *text, void *context),
                     void *context, struct error *err)
{
    struct frame frame;
    const char *text;

    for (;;) {
        int r = channel_receive(ch, &frame);
        if (r < 0)
            return tree_channel_error(r, err);
        switch (frame.type) {
        case AGENT_DONE:
            return 0;
        case AGENT_ERROR:
            return tree_peer_error(&frame, err);
        case AGENT_WARNING:
            if (agent_text_decode(&frame, &text) < 0)
                return tree_channel_error(-EBADMSG, err);
            if (warn != NULL)
                warn(text, context);
            break;
        default:
            return tree_channel_error(-EBADMSG, err);
        }
    }
}
