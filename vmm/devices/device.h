/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every device model is to the rest of the machine. All calls are made
 * with the machine's device lock held, from a vCPU thread (read, write) or from
 * the event loop (the others), so a device needs no lock of its own.
 */
#ifndef STASIS_VMM_DEVICES_DEVICE_H
#define STASIS_VMM_DEVICES_DEVICE_H

#include "base/error.h"
#include "imgfmt/state.h"

#include <stdint.h>

/* An edge-triggered interrupt line. raise() injects one edge, synchronously:
 * when it returns the interrupt is in the in-kernel irqchip, so that a save that
 * follows contains it. */
struct irq_line {
    void (*raise)(void *context, uint32_t gsi);
    void *context;
    uint32_t gsi;
};

static inline void irq_line_raise(const struct irq_line *line)
{
    line->raise(line->context, line->gsi);
}

struct device;

struct device_ops {
    const char *name;
    /* offset is relative to the device's range on its bus; size 1, 2, 4 or 8.
     * The guest may send anything: unknown accesses read as all ones or zero, as
     * the hardware does, and write nothing. */
    uint64_t (*read)(struct device *dev, uint64_t offset, unsigned size);
    void (*write)(struct device *dev, uint64_t offset, unsigned size, uint64_t value);
    void (*reset)(struct device *dev); /* power-on state */
    /* Completes what is in flight, so that save() sees all of it. May be NULL. */
    void (*quiesce)(struct device *dev);
    void (*save)(struct device *dev, struct state_writer *w);
    /* Finds its records in state (checked by state_check()) and takes them over.
     * On failure the device is unchanged or reset. Payloads are input like any
     * other: values out of range are -EBADMSG. */
    int (*restore)(struct device *dev, const void *state, size_t length, struct error *err);
    /* The machine is about to run after a restore or a pause: raise interrupts
     * that may be pending, look at queues again. May be NULL. */
    void (*resume)(struct device *dev);
    void (*destroy)(struct device *dev);
};

/* First member of every device model. */
struct device {
    const struct device_ops *ops;
    uint16_t instance; /* of its state records */
};

#endif
