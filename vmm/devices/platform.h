/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of a PC that every guest finds: serial port, real-time clock,
 * keyboard controller, power management. Each is made by a function here and
 * driven through struct device_ops. Creation aborts only when memory is out. */
#ifndef STASIS_VMM_DEVICES_PLATFORM_H
#define STASIS_VMM_DEVICES_PLATFORM_H

#include "vmm/devices/device.h"
#include "vmm/memory.h"

#include <stdbool.h>
#include <stddef.h>

/* ---- 16550A UART (National Semiconductor PC16550D data sheet), 8 ports ---- */

struct serial_backend {
    /* Takes bytes the guest sent; never blocks, takes all. */
    void (*output)(const uint8_t *bytes, size_t length, void *context);
    void *context;
};

struct device *serial_create(const struct irq_line *irq, const struct serial_backend *backend);

/* Offers bytes typed by the user; returns how many fitted into the receive FIFO.
 * The rest is offered again after serial_input_room() is non-zero. */
size_t serial_input(struct device *serial, const uint8_t *bytes, size_t length);
size_t serial_input_room(const struct device *serial);

/* ---- MC146818 real-time clock and CMOS memory, 2 ports ---- */

#define RTC_CENTURY 0x32 /* CMOS index of the century; the FADT says so */

/* now_us: wall clock the guest shall see, microseconds since 1970. Registers are
 * computed from it when read; when the guest sets the time the difference is kept
 * and saved. Alarms and periodic interrupts are not raised, but their flags can be
 * polled (not the alarm's). */
struct device *rtc_create(int64_t (*now_us)(void *context), void *context);

/* ---- i8042 keyboard controller, ports 0x60 and 0x64 as offsets 0 and 4 ---- */

/* reset_requested is called when the guest pulses the reset line (command 0xfe). */
struct device *i8042_create(const struct irq_line *irq, void (*reset_requested)(void *context),
                            void *context);

/* Types Ctrl-Alt-Del, which asks Linux's init to end orderly. False when the
 * guest has not enabled its keyboard. */
bool i8042_ctrl_alt_del(struct device *i8042);

/* ---- ACPI sleep control, sleep status and reset registers (ACPI 6.4, 4.8.3.7)
 * 3 ports ---- */

#define ACPI_PM_S5 5    /* sleep type that powers off; the DSDT says so */
#define ACPI_PM_RESET 1 /* what to write into the reset register; the FADT says so */

struct device *acpi_pm_create(void (*power_off)(void *context), void (*reset)(void *context),
                              void *context);

/* ---- VM generation id (Microsoft, "Virtual Machine Generation ID", 2012) ----
 * 16 random bytes in RAM at gpa, other ones in each machine that goes on from a
 * checkpoint, so that a guest that was cloned or rolled back can tell; saving does not
 * change them. On no bus: it has neither read() nor write(). reset() gives a machine
 * that boots its id; the interrupt comes when it runs after a restore. */

struct device *vmgenid_create(struct memory *mem, uint64_t gpa, const struct irq_line *irq);

#endif
