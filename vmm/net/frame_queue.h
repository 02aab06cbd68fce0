/* SPDX-License-Identifier: Apache-2.0 */
/* Ethernet frames that wait, oldest first, in a bounded amount of memory. No locks. */
#ifndef STASIS_VMM_NET_FRAME_QUEUE_H
#define STASIS_VMM_NET_FRAME_QUEUE_H

#include "vmm/net/net.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_SIZE_MIN 14u      /* an Ethernet header */
#define FRAME_SIZE_MAX 0x10000u /* no card here makes larger ones */

struct frame {
    struct frame *next;
    size_t length;
    struct net_offload offload;
    uint8_t bytes[];
};

struct frame_queue {
    struct frame *first;
    struct frame *last;
    size_t memory_bytes; /* what the frames take */
    size_t memory_max;
};

void frame_queue_init(struct frame_queue *queue, size_t memory_max);

/* Takes a copy. False, and nothing is taken, where there is no room: networks lose
 * frames, and those who use them know. */
bool frame_queue_put(struct frame_queue *queue, const struct net_frame *frame);

/* The oldest one, for the caller to free(); NULL if there is none. */
struct frame *frame_queue_take(struct frame_queue *queue);

void frame_queue_clear(struct frame_queue *queue);

#endif
