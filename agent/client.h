/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of a connection to the agent in a guest (docs/agent.md). The guest is
 * hostile: what it says is checked, waiting has an end, and nothing it sends makes us
 * hold more than one frame.
 */
#ifndef STASIS_AGENT_CLIENT_H
#define STASIS_AGENT_CLIENT_H

#include "agent/channel.h"
#include "agent/messages.h"

#define AGENT_HANDSHAKE_MS 10000 /* for a guest that is busy or has just been restored */

/*
 * Connects by the machine's vsock socket ("CONNECT 1024\n", "OK n\n") and waits for
 * the agent's hello. patience_ms: for each step of it. Errors: -ENOENT the machine has
 * no such socket; -ECONNREFUSED nobody listens in the guest; -ETIMEDOUT the guest does
 * not answer; -EBADMSG what answers is no agent; -EPROTO it is one of another protocol;
 * all with a message that begins with "the guest".
 */
int agent_connect(const char *socket_path, int patience_ms, struct channel *out, struct error *err);

/* The same with a connection that is there (taken, also on failure): waits for the
 * hello. */
int agent_attach(int fd, int patience_ms, struct channel *out, struct error *err);

/* Sends a request whose payload is in the buffer. */
int agent_request(struct channel *ch, enum agent_frame type, const struct buffer *payload,
                  struct error *err);

/* Waits for AGENT_DONE; warnings go to warn (may be NULL). */
int agent_await_done(struct channel *ch, void (*warn)(const char *text, void *context),
                     void *context, struct error *err);

#endif
