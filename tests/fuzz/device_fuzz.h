/* SPDX-License-Identifier: Apache-2.0 */
/* Drives a device model as a hostile guest and a hostile checkpoint would. */
#ifndef STASIS_TESTS_DEVICE_FUZZ_H
#define STASIS_TESTS_DEVICE_FUZZ_H

#include "fuzz.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "vmm/devices/device.h"

#include <errno.h>
#include <string.h>

static inline struct buffer device_fuzz_save(struct device *dev)
{
    struct state_writer w;
    struct buffer out = {0};

    state_writer_init(&w);
    if (dev->ops->quiesce != NULL)
        dev->ops->quiesce(dev);
    dev->ops->save(dev, &w);
    MUST(state_writer_finish(&w, &out) == 0);
    MUST(state_check(out.data, out.length, NULL) == 0);
    return out;
}

/* What was saved restores, and saves to the same bytes. */
static inline void device_fuzz_round_trip(struct device *dev)
{
    _cleanup_(buffer_clear) struct buffer before = device_fuzz_save(dev);

    dev->ops->reset(dev);
    MUST(dev->ops->restore(dev, before.data, before.length, NULL) == 0);
    _cleanup_(buffer_clear) struct buffer after = device_fuzz_save(dev);
    MUST(before.length == after.length);
    MUST(memcmp(before.data, after.data, before.length) == 0);
}

/* A record with any payload: taken over or refused, and usable after that. */
static inline void device_fuzz_restore(struct device *dev, enum state_type type,
                                       const uint8_t *payload, size_t size)
{
    _cleanup_(buffer_clear) struct buffer state = {0};
    struct state_writer w;
    struct error err = ERROR_INIT;

    state_writer_init(&w);
    state_writer_begin(&w, type, dev->instance, 1, 0);
    state_put_bytes(&w, payload, size);
    state_writer_end(&w);
    MUST(state_writer_finish(&w, &state) == 0);
    int r = dev->ops->restore(dev, state.data, state.length, &err);
    MUST(r == 0 || r == -EBADMSG);
    device_fuzz_round_trip(dev);
}

/*
 * The input is a program of up to three bytes an instruction: what to do, where,
 * a value. host does what comes from outside of the guest. Never hangs: each
 * instruction is one call.
 */
static inline void device_fuzz_run(struct device *dev, enum state_type type, const uint8_t *data,
                                   size_t size, void (*host)(struct device *dev, uint8_t value))
{
    static const unsigned widths[] = {1, 2, 4, 8};

    for (size_t i = 0; i + 3 <= size; i += 3) {
        uint64_t offset = data[i + 1] < 0xf0 ? data[i + 1] % 10 : UINT64_MAX - data[i + 1];
        /* Mostly bytes, as the registers are. */
        unsigned width = data[i] & 0x80 ? widths[data[i] >> 5 & 3] : 1;

        switch (data[i] & 0x0f) {
        case 0:
            device_fuzz_round_trip(dev);
            break;
        case 1:
            device_fuzz_restore(dev, type, data + i + 3, size - i - 3);
            break;
        case 2:
            dev->ops->reset(dev);
            break;
        case 3:
        case 4:
            if (host != NULL)
                host(dev, data[i + 2]);
            break;
        case 5:
        case 6:
        case 7:
        case 8: {
            uint64_t value = dev->ops->read(dev, offset, width);

            MUST(value <= UINT8_MAX || value == UINT64_MAX);
            break;
        }
        default:
            dev->ops->write(dev, offset, width, data[i + 2]);
        }
    }
    device_fuzz_round_trip(dev);
}

#endif
