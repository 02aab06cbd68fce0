/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's TCP connections, as far as its card sees them. A user-mode network forgets
 * them when the machine goes back in time, and a guest that only waits for data would
 * never find out: it sends nothing that could be answered. So the card remembers them,
 * and after a restore resets them itself, as hosts do that have lost their memory
 * (RFC 9293, 3.5.1 and 3.10.7.1). No locks; the card's owner has one.
 */
#ifndef STASIS_VMM_NET_FLOWS_H
#define STASIS_VMM_NET_FLOWS_H

#include "imgfmt/state.h"

#include <net/ethernet.h>

/* Older ones are forgotten: they end when the guest loses patience, or sends something. */
#define FLOWS_MAX 256u
#define FLOW_RESET_SIZE 54u /* Ethernet, IPv4 and TCP headers */

struct flow {
    uint8_t ends[12]; /* addresses of guest and peer, then their ports, as in a packet */
    uint32_t acked;   /* the guest has had everything before that */
    bool lost;        /* the network does not know it */
};

struct flows {
    uint8_t guest_mac[ETH_ALEN];
    uint8_t peer_mac[ETH_ALEN]; /* of the router: all connections go there */
    uint32_t count;
    struct flow list[FLOWS_MAX]; /* the one that was heard of last comes first */
};

/*
 * Looks at a frame that the guest sends; any bytes. False: it is of a connection that is
 * lost, and the frame in reset_out is the answer; it goes no further.
 */
bool flows_sent(struct flows *flows, const uint8_t *frame, size_t length,
                uint8_t reset_out[FLOW_RESET_SIZE]);

/* All that there are now are lost. */
void flows_lose(struct flows *flows);

/* What resets connection index in the guest if it has acknowledged all that came; if it
 * has not, it will, and flows_sent() has the answer. */
void flows_reset(const struct flows *flows, uint32_t index, uint8_t out[FLOW_RESET_SIZE]);

/* The record STATE_NET_CONNECTIONS of the card in slot; none if there is nothing to tell. */
void flows_save(const struct flows *flows, uint16_t slot, struct state_writer *w);

/* Takes the record over, or forgets all if there is none. -EBADMSG: it cannot be; then
 * all is forgotten, too. */
int flows_restore(struct flows *flows, uint16_t slot, const void *state, size_t length,
                  struct error *err);

#endif
