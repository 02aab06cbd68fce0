/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memory balloon with statistics, free-page reporting and deflation where the guest
 * runs out of memory: virtio 1.2, 5.5. All calls with the device lock held.
 */
#ifndef STASIS_VMM_DEVICES_VIRTIO_BALLOON_H
#define STASIS_VMM_DEVICES_VIRTIO_BALLOON_H

#include "vmm/devices/device.h"
#include "vmm/memory.h"

#include <stdint.h>

/* The tags of 5.5.6.4. Memory is in bytes. */
enum balloon_stat {
    BALLOON_SWAP_IN,
    BALLOON_SWAP_OUT,
    BALLOON_MAJOR_FAULTS,
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE,
    BALLOON_TOTAL,
    BALLOON_AVAILABLE,
    BALLOON_CACHES,
    BALLOON_HUGE_ALLOCATED,
    BALLOON_HUGE_FAILED,
    BALLOON_STATS,
};

struct balloon_stats {
    uint64_t at_ns; /* monotonic clock; 0: the guest has told nothing yet */
    uint32_t known; /* bit n: the guest has told values[n] */
    uint64_t values[BALLOON_STATS];
};

struct balloon_status {
    uint64_t target_bytes;  /* what the balloon shall hold */
    uint64_t actual_bytes;  /* what it holds, as its driver says */
    uint64_t dropped_bytes; /* given back to the host in all, by balloon and reports */
    struct balloon_stats stats;
};

/* mem is borrowed. */
struct device *virtio_balloon_create(uint16_t slot, struct memory *mem, const struct irq_line *irq);

/* Asks the guest to fill or empty its balloon to that; less than its memory. */
void virtio_balloon_set_target(struct device *transport, uint64_t bytes);

/* Asks for new statistics; they come when the guest has answered. Not while the
 * machine is paused: rings would change in what is a saved state. */
void virtio_balloon_poll(struct device *transport);

void virtio_balloon_status(const struct device *transport, struct balloon_status *out);

#endif
