/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/net/frame_queue.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

/* A frame of one byte must cost something, too. */
static size_t cost(size_t length)
{
    return sizeof(struct frame) + length;
}

void frame_queue_init(struct frame_queue *queue, size_t memory_max)
{
    *queue = (struct frame_queue){.memory_max = memory_max};
}

bool frame_queue_put(struct frame_queue *queue, const struct net_frame *from)
{
    const size_t length = from->length;

    if (length > FRAME_SIZE_MAX ||
        !range_fits(queue->memory_bytes, cost(length), queue->memory_max))
        return false;
    struct frame *frame = malloc(sizeof(*frame) + length);
    if (frame == NULL)
        return false;
    frame->next = NULL;
    frame->length = length;
    frame->offload = from->offload;
    memcpy(frame->bytes, from->bytes, length);
    if (queue->first == NULL)
        queue->first = frame;
    else
        queue->last->next = frame;
    queue->last = frame;
    queue->memory_bytes += cost(length);
    return true;
}

struct frame *frame_queue_take(struct frame_queue *queue)
{
    struct frame *frame = queue->first;

    if (frame == NULL)
        return NULL;
    queue->first = frame->next;
    queue->memory_bytes -= cost(frame->length);
    return frame;
}

void frame_queue_clear(struct frame_queue *queue)
{
    struct frame *frame;

    while ((frame = frame_queue_take(queue)) != NULL)
        free(frame);
}
