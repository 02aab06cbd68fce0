/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User-mode networking by libslirp: a network of the card's own, 10.0.N.0/24, with the
 * host as its router and DHCP server (.2), a relay to the host's name servers (.3) and
 * the guest (.15). What the guest sends goes on through sockets of this process, as
 * its user; .2 itself leads to the host's own services. Nobody gets in but by forwards.
 * IPv4 only, and neither fragments nor options from the guest (plain.h). TCP ends here,
 * so segments need not be cut.
 */
#ifndef STASIS_VMM_NET_USER_H
#define STASIS_VMM_NET_USER_H

#include "base/error.h"
#include "vmm/net/net.h"
#include "vmm/net/settings.h"

/* Sockets of the host that a network takes, or some more: what a guest begins beyond them
 * is lost, until others have ended. */
#define NET_USER_SOCKETS_MAX 2048

/*
 * Makes network 10.0.(2 + index).0 and binds the forwards (copied): STATUS_BUSY if one's
 * port is taken. It stands still until it is started. Frames may come before the start
 * and after the stop.
 *
 * Going back in time it forgets all connections, so that the guest's end of one gets a
 * reset for an answer and not data of another time. Its free() stops it, too.
 */
int net_user_create(unsigned index, const struct net_forward *forwards, size_t forward_count,
                    struct net_backend *out, struct error *err);

#endif
