/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap device of the host: an end of a cable whose other end is the card. What it is
 * connected to, by a bridge or by routes, is the host's administration's matter.
 * Documentation/networking/tuntap.rst of Linux.
 */
#ifndef STASIS_VMM_NET_TAP_H
#define STASIS_VMM_NET_TAP_H

#include "base/error.h"
#include "vmm/net/net.h"

struct net_tap;

/*
 * Takes hold of the tap device of that name, which must be there: nothing is made, and
 * nothing of its addresses or its state is changed. From now on it is nobody else's.
 * Afterwards no rights are needed any more, and no look at the host's network.
 * STATUS_NOT_FOUND, STATUS_BUSY, STATUS_USAGE for what is no such device; with hints.
 */
int net_tap_open(const char *name, struct net_tap **out, struct error *err);

/* For one card at a time, which may be plugged in again and again. The tap stays the
 * caller's, and must outlive it. */
struct net_backend net_tap_backend(struct net_tap *tap);

/* Of a tap whose card is gone, or stopped. NULL is nothing. */
void net_tap_close(struct net_tap *tap);

#endif
