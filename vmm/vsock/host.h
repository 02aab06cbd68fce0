/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of a machine's socket device, as UNIX stream sockets:
 *
 * - a program that connects to PATH, writes "CONNECT PORT\n" and reads
 *   "OK HOST_PORT\n" is connected to that port of the guest. If it reads the end
 *   instead, nobody listens there;
 * - a guest that connects to port P of CID 2 is connected to whoever listens on
 *   PATH_P. If nobody does, it is refused.
 *
 * Bytes go both ways from there on, and the ends of both ways apart from each other.
 */
#ifndef STASIS_VMM_VSOCK_HOST_H
#define STASIS_VMM_VSOCK_HOST_H

#include "base/error.h"
#include "vmm/vsock/vsock.h"

#define VSOCK_CONNECTIONS_MAX 256       /* at a time, with those that are not open yet */
#define VSOCK_FROM_GUEST_MAX 128        /* of them: a guest cannot shut the host out */
#define VSOCK_SENT_BYTES_MAX (1u << 20) /* of the guest, waiting for the host's thread */

struct vsock_host;

/*
 * Makes PATH, mode 0600, in the place of what was there; the machine is the only one to
 * use that name. guest_cid: of the guest. Connections wait until vsock_host_start().
 */
int vsock_host_create(const char *path, uint64_t guest_cid, struct vsock_host **out,
                      struct error *err);

/* For the device. */
struct vsock_backend vsock_host_backend(struct vsock_host *host);

/* Starts the thread that owns all sockets and calls the card (copied). */
int vsock_host_start(struct vsock_host *host, const struct vsock_card *card, struct error *err);

/* Ends the thread; the card is not called any more. Without the device lock. */
void vsock_host_stop(struct vsock_host *host);

/* Stops, too, closes all connections and removes PATH. NULL is nothing. */
void vsock_host_free(struct vsock_host *host);

#endif
