/* SPDX-License-Identifier: Apache-2.0 */
#include "device_fuzz.h"

#include "vmm/devices/platform.h"

enum { DATA = 0, STATUS = 4, OUTPUT_FULL = 1, INPUT_FULL = 2 };

static void raise_edge(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 1);
}

static void reset_requested(void *context)
{
    MUST(context == NULL);
}

static void press(struct device *dev, uint8_t value)
{
    (void)value;
    i8042_ctrl_alt_del(dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = raise_edge, .gsi = 1};
    struct device *dev = i8042_create(&irq, reset_requested, NULL);

    device_fuzz_run(dev, STATE_I8042, data, size, press);
    /* Who drains the buffer, or waits to write, gets done. */
    MUST(!(dev->ops->read(dev, STATUS, 1) & INPUT_FULL));
    for (unsigned i = 0; dev->ops->read(dev, STATUS, 1) & OUTPUT_FULL; i++) {
        MUST(i < 32);
        dev->ops->read(dev, DATA, 1);
    }
    dev->ops->destroy(dev);
    return 0;
}
