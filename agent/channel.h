/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames over a stream socket between `stasis` and the agent in a guest; both
 * ends compile this (docs/agent.md). A frame is
 *
 *   le32 length of the payload, at most AGENT_FRAME_MAX
 *   le16 type (enum agent_frame)
 *   le16 zero
 *   payload
 *
 * Neither end trusts the other: what is held in memory is bounded by one frame
 * in each direction, and a header that cannot be ends the connection. A channel
 * is used by one thread.
 */
#ifndef STASIS_AGENT_CHANNEL_H
#define STASIS_AGENT_CHANNEL_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT 1024u                /* of AF_VSOCK: the first that needs no privilege */
#define AGENT_FRAME_MAX (256u << 10)    /* bytes of payload: the largest request */
#define AGENT_CHUNK_SIZE (32u << 10)    /* bytes of a stream in one frame */
#define AGENT_INPUT_WINDOW (256u << 10) /* bytes of input that may be under way */
#define AGENT_HEADER_SIZE 8u

enum agent_frame {
    AGENT_HELLO = 1, /* the agent's first: struct agent_hello */

    /* Requests: one a connection. */
    AGENT_EXEC = 16,
    AGENT_COPY_IN,
    AGENT_COPY_OUT,
    AGENT_SHUTDOWN,
    AGENT_IDENTITY,

    /* What ends a request, and remarks on the way. */
    AGENT_DONE = 32,
    AGENT_ERROR,
    AGENT_WARNING,

    /* A command's streams. */
    AGENT_INPUT = 48,
    AGENT_INPUT_END,
    AGENT_INPUT_TAKEN, /* le32: bytes of input the command has been given */
    AGENT_OUTPUT,
    AGENT_ERROR_OUTPUT,
    AGENT_RESIZE,
    AGENT_SIGNAL,
    AGENT_EXIT,

    /* Files: struct agent_entry and what belongs to it. */
    AGENT_FILE = 64,
    AGENT_DATA, /* le64 offset, bytes */
    AGENT_FILE_END,
    AGENT_DIRECTORY,
    AGENT_DIRECTORY_END,
    AGENT_LINK,
    AGENT_TREE_END,
};

struct frame {
    uint16_t type;
    const uint8_t *payload; /* valid until the channel is read again */
    size_t length;
};

struct channel {
    int fd;          /* owned; -1: only what is in `in` can be read */
    int patience_ms; /* of channel_send() and _receive(): waiting without a byte; < 0: for ever */
    bool (*give_up)(void); /* asked when a signal ends a wait; may be NULL */
    struct buffer in;
    size_t in_taken;
    struct buffer out;
    size_t out_sent;
};

/* Takes the socket or pipe, which does not block from here on. patience_ms as above.
 * Whoever sends ignores SIGPIPE. */
void channel_init(struct channel *ch, int fd, int patience_ms);
/* Closes the socket, too. Accepts one that is all zero but for fd -1. */
void channel_clear(struct channel *ch);

/* ---- without waiting ---- */

/* Reads what has come. 1: something; 0: the other end has closed; -EAGAIN: nothing
 * yet; or a negative errno. */
int channel_fill(struct channel *ch);
/* Takes a frame out of what was read. 1: there is one; 0: read on; -EBADMSG: what
 * came is no frame. */
int channel_next(struct channel *ch, struct frame *out);
/* Puts a frame behind those to be sent. head may be NULL; both parts together are
 * the payload. -ENOMEM, -EMSGSIZE. */
int channel_queue(struct channel *ch, enum agent_frame type, const void *head, size_t head_length,
                  const void *payload, size_t length);
/* Bytes that wait to be sent. */
size_t channel_queued(const struct channel *ch);
/* Sends what can be sent. 0, or a negative errno; -EPIPE or -ECONNRESET: the other
 * end has gone. */
int channel_flush(struct channel *ch);

/* ---- with waiting ---- */

/* Queues a frame and sends all there is. -ETIMEDOUT when the other end takes
 * nothing for patience_ms, -EINTR when give_up() says so. */
int channel_send(struct channel *ch, enum agent_frame type, const void *payload, size_t length);
/* Sends what is queued. */
int channel_send_all(struct channel *ch);
/* The next frame. As above, and -ECONNRESET if the other end closes first,
 * -EBADMSG for what is no frame. */
int channel_receive(struct channel *ch, struct frame *out);

/* Waits for events (POLLIN, POLLOUT) on the socket for up to timeout_ms (< 0: for
 * ever). 0, -ETIMEDOUT, -EINTR. */
int channel_wait(struct channel *ch, short events, int timeout_ms);

#endif
