/* SPDX-License-Identifier: Apache-2.0 */
#include "device_fuzz.h"

#include "vmm/devices/platform.h"

static void raise_edge(void *context, uint32_t gsi)
{
    MUST(context == NULL && gsi == 4);
}

static void output(const uint8_t *bytes, size_t length, void *context)
{
    MUST(context == NULL && length == 1 && bytes != NULL);
}

/* As many bytes are taken as there was said to be room for. */
static void type(struct device *dev, uint8_t value)
{
    const uint8_t bytes[32] = {value};
    size_t room = serial_input_room(dev), length = value % sizeof(bytes);

    MUST(room <= 16);
    MUST(serial_input(dev, bytes, length) == (length < room ? length : room));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct irq_line irq = {.raise = raise_edge, .gsi = 4};
    const struct serial_backend backend = {.output = output};
    struct device *dev = serial_create(&irq, &backend);

    device_fuzz_run(dev, STATE_SERIAL, data, size, type);
    dev->ops->destroy(dev);
    return 0;
}
