/* SPDX-License-Identifier: Apache-2.0 */
/* Driving a device model as a guest and as a checkpoint would. */
#ifndef STASIS_TESTS_DEVICE_FIXTURE_H
#define STASIS_TESTS_DEVICE_FIXTURE_H

#include "base/buffer.h"
#include "vmm/devices/device.h"

/* Counts edges. */
struct irq_probe {
    unsigned edges;
    uint32_t gsi;
};

struct irq_line irq_probe_line(struct irq_probe *probe, uint32_t gsi);

/* Edges since the last call. */
unsigned irq_probe_take(struct irq_probe *probe);

uint8_t device_in(struct device *dev, uint64_t offset);
void device_out(struct device *dev, uint64_t offset, uint8_t value);

/* A complete, checked state with only this device in it. The caller clears it. */
struct buffer device_save(struct device *dev);

/* The payload of the one record in such a state, to be changed in place. */
uint8_t *device_payload(struct buffer *state);

/* The one record's version field. */
void device_set_version(struct buffer *state, uint16_t version);

int device_restore(struct device *dev, const struct buffer *state, struct error *err);

/* Fails the test unless saving gives these bytes. */
void device_assert_payload(struct device *dev, const uint8_t *payload, size_t length);

/* Fails the test unless restoring a payload with byte `at` changed to value is
 * refused as corrupt and leaves the device as it was. */
void device_assert_refuses(struct device *dev, size_t at, uint8_t value);

#endif
