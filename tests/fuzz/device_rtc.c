/* SPDX-License-Identifier: Apache-2.0 */
#include "device_fuzz.h"

#include "vmm/devices/platform.h"

static int64_t now_us;

static int64_t read_clock(void *context)
{
    MUST(context == NULL);
    return now_us;
}

/* Time passes; hosts' clocks also go back. */
static void pass_time(struct device *dev, uint8_t value)
{
    (void)dev;
    now_us += value < 0xf0 ? (int64_t)value * 12345 : -10000000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    now_us = 1709208000000000;
    struct device *dev = rtc_create(read_clock, NULL);
    device_fuzz_run(dev, STATE_RTC, data, size, pass_time);
    dev->ops->destroy(dev);
    return 0;
}
