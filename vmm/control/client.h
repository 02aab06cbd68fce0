/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Talking to a machine's process. Its socket speaks line-delimited JSON, one
 * request and one reply at a time on a connection:
 *
 *   {"verb":"save","args":{...}}
 *   {"ok":true,"result":{...}}  or  {"ok":false,"status":11,"message":"...","hint":"..."}
 *
 * verbs: status, stats, pause, resume, save, restore, stop, kill, console, pages.
 * After a successful "console" the connection carries the serial line as bytes.
 * docs/control.md lists arguments and results.
 */
#ifndef STASIS_VMM_CONTROL_CLIENT_H
#define STASIS_VMM_CONTROL_CLIENT_H

#include "base/error.h"

#include <jansson.h>

/* Connects to the socket. -ENOENT / -ECONNREFUSED when no process serves it. With
 * timeout_ms >= 0, this and every later send and receive fails with -EAGAIN when
 * it waits longer than that: the process may be stopped, and its queue full. */
int control_connect(const char *socket_path, int timeout_ms, int *fd_out, struct error *err);

/* Sends one request and waits for its reply. args is borrowed and may be NULL;
 * *result_out is a new reference (result may be NULL if not wanted). The error a
 * machine reports arrives in err with its status. */
int control_call(int fd, const char *verb, json_t *args, json_t **result_out, struct error *err);

/* Both, on a connection of its own. */
int control_request(const char *socket_path, const char *verb, json_t *args, json_t **result_out,
                    struct error *err);

#endif
