/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a socket device and the host's end of its connections are to each other. No
 * packet is lost between them: each side says when it has room.
 */
#ifndef STASIS_VMM_VSOCK_VSOCK_H
#define STASIS_VMM_VSOCK_VSOCK_H

#include "vmm/vsock/packet.h"

/* The host's end, as the device sees it. The device lock is held in all calls: they
 * must neither wait nor call the device. */
struct vsock_backend {
    /* Takes a packet over that the guest sent. */
    void (*send)(struct vsock_packet *packet, void *context);
    /* Is there room for another one? If not, the device is kicked once there is. */
    bool (*has_room)(void *context);
    /* The device has room for packets now, or has not. It has at first. */
    void (*set_room)(bool room, void *context);
    /* The driver starts afresh, or the machine goes to another time: all connections
     * are gone, the device has room, and packets carry this epoch from now on. */
    void (*reset)(uint32_t epoch, void *context);
    void *context;
};

/* The device, as the host's end sees it. Called by a thread of the host's own, without
 * a lock of its; may take the device lock. */
struct vsock_card {
    /* Takes a packet over for the guest. False: there is no driver to get any. */
    bool (*receive)(struct vsock_packet *packet, void *context);
    /* There is room again for what the guest sends. */
    void (*kick)(void *context);
    void *context;
};

#endif
