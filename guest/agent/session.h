/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of the agent: a process of its own that says hello, takes one
 * request and ends with it. Functions that serve a request answer it themselves.
 */
#ifndef STASIS_GUEST_AGENT_SESSION_H
#define STASIS_GUEST_AGENT_SESSION_H

#include "agent/channel.h"

/* Serves the connection (which it takes) to its end; for a process that ends after. */
void session_serve(int fd);

/* Sends an AGENT_ERROR and lets the other end read it. code: of exec, else 0.
 * Negative errnos as in all functions below are of the channel. */
void session_fail(struct channel *ch, unsigned code, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* An AGENT_WARNING. */
void session_warn(struct channel *ch, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Sends AGENT_DONE. */
void session_done(struct channel *ch);

/* Waits until the other end has read all and closed: a connection that is closed with
 * something unread in it may be reset, and then the other end never reads the rest. */
void session_linger(struct channel *ch);

/* The requests; each takes the frame it came with. */
void exec_serve(struct channel *ch, const struct frame *request);
void identity_serve(struct channel *ch, const struct frame *request);
void shutdown_serve(struct channel *ch, const struct frame *request);

#endif
