/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"

void driver_init(struct driver *d)
{
    *d = (struct driver){0};
    assert_int_equal(memory_create(DRIVER_RAM, &d->mem, NULL), 0);
}

void driver_clear(struct driver *d)
{
    if (d->dev != NULL)
        d->dev->ops->destroy(d->dev);
    memory_free(d->mem);
}

static uint8_t *at(struct driver *d, uint64_t gpa)
{
    return d->mem->hva + gpa;
}

void driver_desc(struct driver *d, uint64_t table, uint16_t index, uint64_t gpa, uint32_t length,
                 uint16_t flags, uint16_t next)
{
    uint8_t *desc = at(d, table + 16ull * index);

    store_le64(desc, gpa);
    store_le32(desc + 8, length);
    store_le16(desc + 12, flags);
    store_le16(desc + 14, next);
}

void driver_offer(struct driver *d, uint16_t queue_size, uint16_t head)
{
    store_le16(at(d, DRIVER_AVAIL + 4 + 2u * (d->offered % queue_size)), head);
    d->offered++;
    store_le16(at(d, DRIVER_AVAIL + 2), d->offered);
}

bool driver_take(struct driver *d, uint16_t queue_size, uint32_t *head_out, uint32_t *length_out)
{
    if (load_le16(at(d, DRIVER_USED + 2)) == d->seen)
        return false;
    const uint8_t *entry = at(d, DRIVER_USED + 4 + 8u * (d->seen % queue_size));
    *head_out = load_le32(entry);
    *length_out = load_le32(entry + 4);
    d->seen++;
    return true;
}

uint32_t driver_in(struct driver *d, uint32_t reg)
{
    return (uint32_t)d->dev->ops->read(d->dev, reg, 4);
}

void driver_out(struct driver *d, uint32_t reg, uint32_t value)
{
    d->dev->ops->write(d->dev, reg, 4, value);
}

void driver_want_interrupt_after(struct driver *d, uint16_t queue_size, uint16_t index)
{
    store_le16(at(d, DRIVER_AVAIL + 4 + 2u * queue_size), index);
}

uint16_t driver_kick_after(struct driver *d, uint16_t queue_size)
{
    return load_le16(at(d, DRIVER_USED + 4 + 8u * queue_size));
}

void driver_start(struct driver *d, uint16_t queue_size, uint64_t without)
{
    if (!d->event_index)
        without |= 1ull << 29;
    driver_out(d, R_STATUS, 0);
    driver_out(d, R_STATUS, S_ACKNOWLEDGE | S_DRIVER);
    for (uint32_t i = 0; i < 2; i++) {
        driver_out(d, R_FEATURES_SEL, i);
        driver_out(d, R_DRIVER_FEATURES_SEL, i);
        driver_out(d, R_DRIVER_FEATURES,
                   driver_in(d, R_FEATURES) & ~(uint32_t)(without >> (32 * i)));
    }
    driver_out(d, R_STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    driver_out(d, R_QUEUE_SEL, 0);
    driver_out(d, R_QUEUE_NUM, queue_size);
    driver_out(d, R_DESC, DRIVER_DESC);
    driver_out(d, R_AVAIL, DRIVER_AVAIL);
    driver_out(d, R_USED, DRIVER_USED);
    driver_out(d, R_QUEUE_READY, 1);
    driver_out(d, R_STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}
