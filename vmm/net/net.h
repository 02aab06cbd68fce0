/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a network card and what it is plugged into are to each other. Frames begin
 * with the Ethernet header and have no checksum behind them.
 */
#ifndef STASIS_VMM_NET_NET_H
#define STASIS_VMM_NET_NET_H

#include <stddef.h>
#include <stdint.h>

/* What a card is plugged into. */
struct net_backend {
    /* Takes or loses a frame the guest sent, FRAME_SIZE_MIN to FRAME_SIZE_MAX bytes.
     * The device lock is held: must neither wait nor call the device. */
    void (*send)(const uint8_t *frame, size_t length, void *context);
    void *context;
};

/* Takes a frame for the guest; called by a thread of the backend's own, without a
 * lock of its. May take the device lock. */
typedef void net_receive_fn(const uint8_t *frame, size_t length, void *context);

#endif
