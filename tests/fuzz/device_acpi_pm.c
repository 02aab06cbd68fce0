/* SPDX-License-Identifier: Apache-2.0 */
#include "device_fuzz.h"

#include "vmm/devices/platform.h"

static void called(void *context)
{
    MUST(context == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct device *dev = acpi_pm_create(called, called, NULL);

    device_fuzz_run(dev, STATE_ACPI_PM, data, size, NULL);
    dev->ops->destroy(dev);
    return 0;
}
