/* SPDX-License-Identifier: Apache-2.0 */
/* An agent that runs on this host, and a directory to work in. */
#ifndef STASIS_TESTS_AGENT_FIXTURE_H
#define STASIS_TESTS_AGENT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/client.h"

struct fixture {
    char dir[64];
    char socket[96];
    int agent; /* pid */
};

/* CMocka set-up and tear-down; *state is a struct fixture. */
int fixture_start(void **state);
int fixture_stop(void **state);
/* The same without the agent. */
int fixture_directory(void **state);

/* A connection to the agent that has said hello. */
void fixture_connect(const struct fixture *f, struct channel *out);

/* A path in the directory; the caller frees. */
char *fixture_path(const struct fixture *f, const char *name);
/* Writes a file; bytes NULL: that many random ones. */
void fixture_write(const struct fixture *f, const char *name, const void *bytes, size_t length);
/* The whole file as a text; the caller frees. */
char *fixture_read(const struct fixture *f, const char *name);
/* Same bytes? */
bool fixture_same(const struct fixture *f, const char *a, const char *b);

/* Waits for it with a deadline that only a broken test meets. */
bool fixture_await(bool (*condition)(const void *context), const void *context);

/* A pair of connected sockets: [0] for the code under test. */
void fixture_pair(int fds[2]);

/* Appends a frame, whatever it be. */
void fixture_frame(struct buffer *out, uint16_t type, const void *payload, size_t length);

#endif
