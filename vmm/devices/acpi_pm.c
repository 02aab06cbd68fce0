/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI 6.4, 4.8.3.7: sleep control and status registers of reduced hardware, and
 * the reset register of 4.8.3.6. */
#include "base/error.h"
#include "vmm/devices/platform.h"

#include <stdlib.h>

#define ACPI_PM_STATE_VERSION 1

enum {
    ACPI_PM_CONTROL = 0,
    ACPI_PM_STATUS = 1,
    ACPI_PM_RESET_REG = 2,

    CONTROL_SLEEP_TYPE = 0x1c,
    CONTROL_SLEEP_TYPE_SHIFT = 2,
    CONTROL_SLEEP_ENABLE = 0x20, /* reads as zero */
};

struct acpi_pm {
    struct device dev;
    void (*power_off)(void *context);
    void (*reset)(void *context);
    void *context;
    uint8_t control;
};

static uint64_t acpi_pm_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct acpi_pm *pm = (const struct acpi_pm *)dev;

    if (size != 1)
        return UINT64_MAX;
    /* Status is zero: this machine never wakes from anything. */
    return offset == ACPI_PM_CONTROL ? pm->control : 0;
}

static void acpi_pm_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = (struct acpi_pm *)dev;

    if (size != 1)
        return;
    if (offset == ACPI_PM_CONTROL) {
        pm->control = value & CONTROL_SLEEP_TYPE;
        if ((value & CONTROL_SLEEP_ENABLE) && pm->control >> CONTROL_SLEEP_TYPE_SHIFT == ACPI_PM_S5)
            pm->power_off(pm->context);
    } else if (offset == ACPI_PM_RESET_REG && value == ACPI_PM_RESET) {
        pm->reset(pm->context);
    }
}

static void acpi_pm_reset(struct device *dev)
{
    ((struct acpi_pm *)dev)->control = 0;
}

static void acpi_pm_save(struct device *dev, struct state_writer *w)
{
    state_writer_begin(w, STATE_ACPI_PM, dev->instance, ACPI_PM_STATE_VERSION, 0);
    state_put_u8(w, ((struct acpi_pm *)dev)->control);
    state_writer_end(w);
}

static int acpi_pm_restore(struct device *dev, const void *state, size_t length, struct error *err)
{
    struct state_record record;

    int r = state_find_known(state, length, STATE_ACPI_PM, dev->instance, ACPI_PM_STATE_VERSION,
                             &record, err);
    if (r < 0)
        return r;
    uint8_t control = state_get_u8(&record);
    r = state_record_done(&record, err);
    if (r < 0)
        return r;
    if (control & ~CONTROL_SLEEP_TYPE)
        return error_corrupt(err, "the saved sleep control register is %#x", control);
    ((struct acpi_pm *)dev)->control = control;
    return 0;
}

static void acpi_pm_destroy(struct device *dev)
{
    free(dev);
}

static const struct device_ops acpi_pm_ops = {
    .name = "acpi-pm",
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .reset = acpi_pm_reset,
    .save = acpi_pm_save,
    .restore = acpi_pm_restore,
    .destroy = acpi_pm_destroy,
};

struct device *acpi_pm_create(void (*power_off)(void *context), void (*reset)(void *context),
                              void *context)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));

    if (pm == NULL)
        abort();
    pm->dev.ops = &acpi_pm_ops;
    pm->power_off = power_off;
    pm->reset = reset;
    pm->context = context;
    return &pm->dev;
}
