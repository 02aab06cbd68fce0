/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User-mode networking by libslirp: a network of the card's own, 10.0.N.0/24, with the
 * host as its router and DHCP server (.2), a relay to the host's name servers (.3) and
 * the guest (.15). What the guest sends goes on through sockets of this process, as
 * its user; .2 itself leads to the host's own services. Nobody gets in but by forwards.
 * IPv4 only, and neither fragments nor options from the guest (plain.h).
 */
#ifndef STASIS_VMM_NET_USER_H
#define STASIS_VMM_NET_USER_H

#include "base/error.h"
#include "vmm/net/net.h"
#include "vmm/net/settings.h"

struct net_user;

/*
 * Makes network 10.0.(2 + index).0 and binds the forwards (copied): STATUS_BUSY if one's
 * port is taken. It stands still until net_user_start().
 */
int net_user_create(unsigned index, const struct net_forward *forwards, size_t forward_count,
                    struct net_user **out, struct error *err);

/* For the card. Its frames may come before the start and after the stop. */
struct net_backend net_user_backend(struct net_user *net);

/* Starts the thread that owns the network and calls receive. */
int net_user_start(struct net_user *net, net_receive_fn *receive, void *context, struct error *err);

/*
 * The guest is going back in time: forgets all connections, so that the guest's end of
 * one gets a reset for an answer and not data of another time. Waits for the thread,
 * so without the device lock. Nothing comes from before when it returns.
 */
void net_user_forget(struct net_user *net);

/* Ends the thread; receive is not called any more. Without the device lock. */
void net_user_stop(struct net_user *net);

/* Stops, too. NULL is nothing. */
void net_user_free(struct net_user *net);

#endif
