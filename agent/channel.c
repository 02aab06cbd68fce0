/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/channel.h"

#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { READ_SIZE = 64 << 10 };

void channel_init(struct channel *ch, int fd, int patience_ms)
{
    *ch = (struct channel){.fd = fd, .patience_ms = patience_ms};
    if (fd >= 0)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void channel_clear(struct channel *ch)
{
    if (ch->fd >= 0)
        close(ch->fd);
    ch->fd = -1;
    buffer_clear(&ch->in);
    buffer_clear(&ch->out);
    ch->in_taken = ch->out_sent = 0;
}

/* ---- without waiting ---- */

/* What was taken makes room for what comes. */
static void compact(struct buffer *buf, size_t *done)
{
    if (*done == 0)
        return;
    memmove(buf->data, buf->data + *done, buf->length - *done);
    buf->length -= *done;
    *done = 0;
}

int channel_fill(struct channel *ch)
{
    if (ch->fd < 0)
        return 0;
    compact(&ch->in, &ch->in_taken);
    int r = buffer_reserve(&ch->in, READ_SIZE);
    if (r < 0)
        return r;
    ssize_t n;
    do
        n = read(ch->fd, ch->in.data + ch->in.length, READ_SIZE);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    ch->in.length += (size_t)n;
    return n > 0;
}

int channel_next(struct channel *ch, struct frame *out)
{
    const size_t left = ch->in.length - ch->in_taken;

    if (left < AGENT_HEADER_SIZE)
        return 0;
    const uint8_t *header = ch->in.data + ch->in_taken;
    const uint32_t length = load_le32(header);
    if (length > AGENT_FRAME_MAX || load_le16(header + 6) != 0)
        return -EBADMSG;
    if (left - AGENT_HEADER_SIZE < length)
        return 0;
    *out = (struct frame){
        .type = load_le16(header + 4),
        .payload = header + AGENT_HEADER_SIZE,
        .length = length,
    };
    ch->in_taken += AGENT_HEADER_SIZE + length;
    return 1;
}

int channel_queue(struct channel *ch, enum agent_frame type, const void *head, size_t head_length,
                  const void *payload, size_t length)
{
    size_t total;

    if (add_overflows(head_length, length, &total) || total > AGENT_FRAME_MAX)
        return -EMSGSIZE;
    compact(&ch->out, &ch->out_sent);
    int r = buffer_reserve(&ch->out, AGENT_HEADER_SIZE + total);
    if (r < 0)
        return r;
    buffer_append_le32(&ch->out, (uint32_t)total);
    buffer_append_le16(&ch->out, (uint16_t)type);
    buffer_append_le16(&ch->out, 0);
    if (head_length > 0)
        buffer_append(&ch->out, head, head_length);
    if (length > 0)
        buffer_append(&ch->out, payload, length);
    return 0;
}

size_t channel_queued(const struct channel *ch)
{
    return ch->out.length - ch->out_sent;
}

int channel_flush(struct channel *ch)
{
    while (channel_queued(ch) > 0) {
        ssize_t n = write(ch->fd, ch->out.data + ch->out_sent, channel_queued(ch));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        ch->out_sent += (size_t)n;
    }
    ch->out.length = ch->out_sent = 0;
    return 0;
}

/* ---- with waiting ---- */

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int channel_wait(struct channel *ch, short events, int timeout_ms)
{
    struct pollfd pfd = {.fd = ch->fd, .events = events};
    const int64_t end = now_ms() + timeout_ms;

    for (;;) {
        const int64_t left = timeout_ms < 0 ? -1 : end - now_ms();
        if (timeout_ms >= 0 && left < 0)
            return -ETIMEDOUT;
        if (ch->give_up != NULL && ch->give_up())
            return -EINTR;
        int n = poll(&pfd, 1, (int)left);
        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

int channel_send_all(struct channel *ch)
{
    for (;;) {
        int r = channel_flush(ch);
        if (r < 0 || channel_queued(ch) == 0)
            return r;
        if ((r = channel_wait(ch, POLLOUT, ch->patience_ms)) < 0)
            return r;
    }
}

int channel_send(struct channel *ch, enum agent_frame type, const void *payload, size_t length)
{
    int r = channel_queue(ch, type, NULL, 0, payload, length);
    return r < 0 ? r : channel_send_all(ch);
}

int channel_receive(struct channel *ch, struct frame *out)
{
    for (;;) {
        int r = channel_next(ch, out);
        if (r != 0)
            return r < 0 ? r : 0;
        r = channel_fill(ch);
        if (r == 0)
            return -ECONNRESET;
        if (r == -EAGAIN)
            r = channel_wait(ch, POLLIN, ch->patience_ms);
        if (r < 0)
            return r;
    }
}
