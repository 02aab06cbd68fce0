/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "tests/unit/vmm/device_fixture.h"

#include <errno.h>

/* imgfmt/state.h: the state's header, and the record's up to its payload. */
#define STATE_HEADER_SIZE 16
#define RECORD_VERSION_AT (STATE_HEADER_SIZE + 4)
#define RECORD_LENGTH_AT (STATE_HEADER_SIZE + 8)
#define PAYLOAD_AT (STATE_HEADER_SIZE + 16)

static void irq_probe_raise(void *context, uint32_t gsi)
{
    struct irq_probe *probe = context;

    probe->edges++;
    probe->gsi = gsi;
}

struct irq_line irq_probe_line(struct irq_probe *probe, uint32_t gsi)
{
    *probe = (struct irq_probe){0};
    return (struct irq_line){.raise = irq_probe_raise, .context = probe, .gsi = gsi};
}

unsigned irq_probe_take(struct irq_probe *probe)
{
    unsigned edges = probe->edges;

    probe->edges = 0;
    return edges;
}

uint8_t device_in(struct device *dev, uint64_t offset)
{
    return (uint8_t)dev->ops->read(dev, offset, 1);
}

void device_out(struct device *dev, uint64_t offset, uint8_t value)
{
    dev->ops->write(dev, offset, 1, value);
}

struct buffer device_save(struct device *dev)
{
    struct state_writer w;
    struct buffer out = {0};

    state_writer_init(&w);
    dev->ops->save(dev, &w);
    assert_int_equal(state_writer_finish(&w, &out), 0);
    assert_int_equal(state_check(out.data, out.length, NULL), 0);
    return out;
}

uint8_t *device_payload(struct buffer *state)
{
    return state->data + PAYLOAD_AT;
}

void device_set_version(struct buffer *state, uint16_t version)
{
    store_le16(state->data + RECORD_VERSION_AT, version);
}

int device_restore(struct device *dev, const struct buffer *state, struct error *err)
{
    return dev->ops->restore(dev, state->data, state->length, err);
}

void device_assert_payload(struct device *dev, const uint8_t *payload, size_t length)
{
    _cleanup_(buffer_clear) struct buffer state = device_save(dev);

    assert_int_equal(load_le32(state.data + RECORD_LENGTH_AT), length);
    assert_memory_equal(device_payload(&state), payload, length);
}

void device_assert_refuses(struct device *dev, size_t at, uint8_t value)
{
    _cleanup_(buffer_clear) struct buffer before = device_save(dev), bad = device_save(dev);
    struct error err = ERROR_INIT;

    device_payload(&bad)[at] = value;
    assert_int_equal(device_restore(dev, &bad, &err), -EBADMSG);
    assert_int_equal(err.status, STATUS_CORRUPT);
    _cleanup_(buffer_clear) struct buffer after = device_save(dev);
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.data, after.data, before.length);
}
