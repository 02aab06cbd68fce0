/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a network card and what it is plugged into are to each other. Frames begin
 * with the Ethernet header and have no checksum behind them.
 */
#ifndef STASIS_VMM_NET_NET_H
#define STASIS_VMM_NET_NET_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The checksum of TCP or UDP in a frame (virtio 1.2, 5.1.6.2 and 5.1.6.4.1). */
enum net_sum {
    NET_SUM_THERE,   /* as it shall be, right or not */
    NET_SUM_GOOD,    /* it is right: nobody need check it again */
    NET_SUM_PARTIAL, /* there is that of the pseudo header: the rest is to be added */
};

struct net_offload {
    enum net_sum sum;
    /* Of NET_SUM_PARTIAL: it covers all from sum_start on, and goes to sum_offset behind
     * that. Both lie within the frame. */
    uint16_t sum_start;
    uint16_t sum_offset;
    /* Not 0: TCP over IPv4, to be cut into segments with so many bytes each where larger
     * ones cannot be carried. A sum that is there is that of the whole. */
    uint16_t segment;
};

struct net_frame {
    const uint8_t *bytes; /* borrowed */
    size_t length;        /* FRAME_SIZE_MIN to FRAME_SIZE_MAX */
    struct net_offload offload;
};

/* Takes or loses a frame for the guest; called by a thread of the backend's own, without
 * a lock of its. May take the device lock. */
typedef void net_receive_fn(const struct net_frame *frame, void *context);

/* What a card is plugged into: what the card uses, and what its owner does, in this
 * order and without the device lock. */
struct net_backend {
    /* Takes or loses a frame the guest sent. The device lock is held: must neither wait
     * nor call the device. */
    void (*send)(const struct net_frame *frame, void *context);
    bool completes_sums; /* takes NET_SUM_PARTIAL */
    bool shared;         /* with others, who must hear of it when the card has moved there */

    /* Calls receive from now on, in a thread of its own. */
    int (*start)(net_receive_fn *receive, void *receive_context, void *context, struct error *err);
    /* The guest is going back in time: nothing comes from before when it returns, and
     * nothing is known of its connections. May be NULL: they are not the network's. */
    void (*forget)(void *context);
    void (*stop)(void *context); /* receive is not called any more */
    void (*free)(void *context); /* may be NULL: it belongs to somebody else */
    void *context;
};

#endif
