/* SPDX-License-Identifier: Apache-2.0 */
/* A driver's side of a virtqueue, and of a device behind virtio-mmio. */
#ifndef STASIS_TESTS_VIRTIO_FIXTURE_H
#define STASIS_TESTS_VIRTIO_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/virtio.h"

#define DRIVER_RAM (8u << 20)
#define DRIVER_DESC 0x10000u
#define DRIVER_AVAIL 0x11000u
#define DRIVER_USED 0x12000u
#define DRIVER_INDIRECT 0x14000u
#define DRIVER_DATA 0x20000u

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

/* Registers of virtio-mmio: virtio 1.2, 4.2.2. */
enum {
    R_MAGIC = 0x00,
    R_VERSION = 0x04,
    R_DEVICE_ID = 0x08,
    R_FEATURES = 0x10,
    R_FEATURES_SEL = 0x14,
    R_DRIVER_FEATURES = 0x20,
    R_DRIVER_FEATURES_SEL = 0x24,
    R_QUEUE_SEL = 0x30,
    R_QUEUE_MAX = 0x34,
    R_QUEUE_NUM = 0x38,
    R_QUEUE_READY = 0x44,
    R_NOTIFY = 0x50,
    R_INTERRUPT = 0x60,
    R_ACK = 0x64,
    R_STATUS = 0x70,
    R_DESC = 0x80,
    R_AVAIL = 0x90,
    R_USED = 0xa0,
    R_SHM = 0xb0,
    R_CONFIG = 0x100,
};

enum { S_ACKNOWLEDGE = 1, S_DRIVER = 2, S_DRIVER_OK = 4, S_FEATURES_OK = 8, S_NEEDS_RESET = 64 };

struct driver {
    struct memory *mem;
    struct irq_probe irq;
    struct device *dev; /* NULL where only a queue is looked at */
    struct virtq queue; /* then this one */
    uint16_t offered;   /* as in the available ring */
    uint16_t seen;      /* as in the used ring */
    bool event_index;   /* driver_start() takes VIRTIO_F_EVENT_IDX */
};

/* Makes RAM; the rings are zero. */
void driver_init(struct driver *d);
void driver_clear(struct driver *d);

void driver_desc(struct driver *d, uint64_t table, uint16_t index, uint64_t gpa, uint32_t length,
                 uint16_t flags, uint16_t next);
/* Puts a chain's head in the available ring of that size and moves its index. */
void driver_offer(struct driver *d, uint16_t queue_size, uint16_t head);
/* The next used element: false if there is none. */
bool driver_take(struct driver *d, uint16_t queue_size, uint32_t *head_out, uint32_t *length_out);

uint32_t driver_in(struct driver *d, uint32_t reg);
void driver_out(struct driver *d, uint32_t reg, uint32_t value);

/* The driver wants an interrupt when the used index passes this one (event indices). */
void driver_want_interrupt_after(struct driver *d, uint16_t queue_size, uint16_t index);
/* The device wants a kick when the available index passes this one. */
uint16_t driver_kick_after(struct driver *d, uint16_t queue_size);

/* What a driver does to start a device: all features but `without` and, unless it wants
 * them, event indices; queue 0. */
void driver_start(struct driver *d, uint16_t queue_size, uint64_t without);

#endif
