/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-mmio transport, with an entropy source behind it. */
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define SIZE 16u
#define SLOT 3

#ifndef STASIS_GOLDEN
#error "where are the golden files?"
#endif

static int set_up(void **state)
{
    struct driver *d = malloc(sizeof(*d));

    driver_init(d);
    struct irq_line irq = irq_probe_line(&d->irq, 19);
    d->dev = virtio_rng_create(SLOT, d->mem, &irq);
    *state = d;
    return 0;
}

static int tear_down(void **state)
{
    driver_clear(*state);
    free(*state);
    return 0;
}

static void offer_request(struct driver *d)
{
    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 64, DESC_WRITE, 0);
    driver_offer(d, SIZE, 0);
}

static void says_what_it_is(void **state)
{
    struct driver *d = *state;

    assert_int_equal(driver_in(d, R_MAGIC), 0x74726976);
    assert_int_equal(driver_in(d, R_VERSION), 2);
    assert_int_equal(driver_in(d, R_DEVICE_ID), 4);
    assert_int_equal(driver_in(d, R_SHM), UINT32_MAX);
    assert_int_equal(driver_in(d, R_STATUS), 0);
}

static void serves_what_is_offered(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    driver_start(d, SIZE, 0);
    assert_int_equal(driver_in(d, R_STATUS), 15);
    offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 1);
    assert_int_equal(driver_in(d, R_INTERRUPT), 1);
    assert_true(driver_take(d, SIZE, &head, &length));
    assert_int_equal(length, 64);
    driver_out(d, R_ACK, 1);
    assert_int_equal(driver_in(d, R_INTERRUPT), 0);
}

static void a_write_to_the_notify_register_kicks_too(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    driver_start(d, SIZE, 0);
    offer_request(d);
    driver_out(d, R_NOTIFY, 0);
    assert_true(driver_take(d, SIZE, &head, &length));
}

static void what_was_offered_before_driver_ok_is_served_with_it(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    offer_request(d);
    virtio_kick(d->dev);
    assert_false(driver_take(d, SIZE, &head, &length));
    driver_start(d, SIZE, 0);
    assert_true(driver_take(d, SIZE, &head, &length));
}

static void features_it_did_not_offer_are_refused(void **state)
{
    struct driver *d = *state;

    driver_out(d, R_DRIVER_FEATURES_SEL, 1);
    driver_out(d, R_DRIVER_FEATURES, 1 | 1u << 31);
    driver_out(d, R_STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    assert_int_equal(driver_in(d, R_STATUS), S_ACKNOWLEDGE | S_DRIVER);
}

static void version_1_is_a_must(void **state)
{
    struct driver *d = *state;

    driver_start(d, SIZE, 1ull << 32);
    assert_int_equal(driver_in(d, R_STATUS) & S_FEATURES_OK, 0);
}

static void features_are_fixed_once_they_are_accepted(void **state)
{
    struct driver *d = *state;

    driver_start(d, SIZE, 0);
    _cleanup_(buffer_clear) struct buffer before = device_save(d->dev);
    driver_out(d, R_DRIVER_FEATURES, 0);
    _cleanup_(buffer_clear) struct buffer after = device_save(d->dev);
    assert_memory_equal(before.data, after.data, before.length);
}

static void features_behind_64_bits_are_none(void **state)
{
    struct driver *d = *state;

    driver_out(d, R_FEATURES_SEL, 2);
    assert_int_equal(driver_in(d, R_FEATURES), 0);
    driver_out(d, R_FEATURES_SEL, UINT32_MAX);
    assert_int_equal(driver_in(d, R_FEATURES), 0);
    driver_out(d, R_DRIVER_FEATURES_SEL, UINT32_MAX);
    driver_out(d, R_DRIVER_FEATURES, UINT32_MAX);
}

static void a_queue_that_is_not_there_has_no_size(void **state)
{
    struct driver *d = *state;

    assert_int_equal(driver_in(d, R_QUEUE_MAX), 64);
    for (uint32_t i = 1; i < 10; i++) {
        driver_out(d, R_QUEUE_SEL, i);
        assert_int_equal(driver_in(d, R_QUEUE_MAX), 0);
        driver_out(d, R_QUEUE_NUM, 16);
        driver_out(d, R_QUEUE_READY, 1);
        assert_int_equal(driver_in(d, R_QUEUE_READY), 0);
    }
    driver_out(d, R_QUEUE_SEL, UINT32_MAX);
    assert_int_equal(driver_in(d, R_QUEUE_MAX), 0);
}

static void a_queue_in_use_does_not_change(void **state)
{
    struct driver *d = *state;

    driver_start(d, SIZE, 0);
    _cleanup_(buffer_clear) struct buffer before = device_save(d->dev);
    driver_out(d, R_QUEUE_NUM, 2);
    driver_out(d, R_DESC, 0);
    driver_out(d, R_AVAIL + 4, 1);
    driver_out(d, R_USED, 0);
    _cleanup_(buffer_clear) struct buffer after = device_save(d->dev);
    assert_memory_equal(before.data, after.data, before.length);
}

static void a_queue_that_cannot_be_needs_a_reset(void **state)
{
    static const struct {
        uint32_t reg;
        uint32_t value;
    } bad[] = {{R_QUEUE_NUM, 3},         {R_QUEUE_NUM, 128},   {R_QUEUE_NUM, 65536 + 16},
               {R_DESC + 4, 1},          {R_AVAIL, 0xfffffff}, {R_USED, DRIVER_USED + 1},
               {R_DESC, DRIVER_RAM - 16}};
    struct driver *d = *state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        driver_start(d, SIZE, 0);
        driver_out(d, R_QUEUE_READY, 0);
        driver_out(d, R_QUEUE_NUM, SIZE);
        driver_out(d, R_DESC, DRIVER_DESC);
        driver_out(d, R_AVAIL, DRIVER_AVAIL);
        driver_out(d, R_USED, DRIVER_USED);
        driver_out(d, bad[i].reg, bad[i].value);
        driver_out(d, R_QUEUE_READY, 1);
        assert_int_equal(driver_in(d, R_QUEUE_READY), 0);
        assert_int_equal(driver_in(d, R_STATUS) & S_NEEDS_RESET, S_NEEDS_RESET);
    }
}

static void a_broken_ring_needs_a_reset_and_says_so_once(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    driver_start(d, SIZE, 0);
    d->offered = 1000;
    driver_offer(d, SIZE, 0);
    virtio_kick(d->dev);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 1);
    assert_int_equal(driver_in(d, R_INTERRUPT), 2);
    assert_int_equal(driver_in(d, R_STATUS) & S_NEEDS_RESET, S_NEEDS_RESET);
    /* The driver cannot talk it out of that. */
    driver_out(d, R_STATUS, 15);
    assert_int_equal(driver_in(d, R_STATUS) & S_NEEDS_RESET, S_NEEDS_RESET);

    d->offered = 0;
    memset(d->mem->hva + DRIVER_AVAIL, 0, 0x1000);
    driver_start(d, SIZE, 0);
    assert_int_equal(driver_in(d, R_STATUS), 15);
    offer_request(d);
    virtio_kick(d->dev);
    assert_true(driver_take(d, SIZE, &head, &length));
}

static void one_kick_serves_at_most_a_ring(void **state)
{
    struct driver *d = *state;

    driver_start(d, SIZE, 0);
    for (unsigned i = 0; i < SIZE; i++)
        offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(load_le16(d->mem->hva + DRIVER_USED + 2), SIZE);
    assert_int_equal(irq_probe_take(&d->irq), 1);
}

static void a_driver_that_polls_gets_no_interrupt(void **state)
{
    struct driver *d = *state;

    driver_start(d, SIZE, 0);
    store_le16(d->mem->hva + DRIVER_AVAIL, 1);
    offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 0);
    assert_int_equal(driver_in(d, R_INTERRUPT), 0);
}

static void a_driver_with_event_indices_gets_the_interrupts_it_asked_for(void **state)
{
    struct driver *d = *state;

    d->event_index = true;
    driver_start(d, SIZE, 0);
    driver_want_interrupt_after(d, SIZE, 1);
    offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 0);
    assert_int_equal(driver_kick_after(d, SIZE), 1);
    offer_request(d);
    offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 1);
    assert_int_equal(driver_kick_after(d, SIZE), 3);
}

static uint64_t drain(int fd)
{
    eventfd_t count = 0;

    (void)eventfd_read(fd, &count);
    return count;
}

/* A vCPU thread must not be kept by what a request takes. */
static void with_an_eventfd_registers_only_signal(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;
    _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    virtio_set_kick_fd(d->dev, fd);
    offer_request(d);
    driver_start(d, SIZE, 0);
    assert_int_equal(drain(fd), 1);
    driver_out(d, R_NOTIFY, 0);
    assert_int_equal(drain(fd), 1);
    assert_false(driver_take(d, SIZE, &head, &length));
    virtio_kick(d->dev);
    assert_true(driver_take(d, SIZE, &head, &length));
    assert_int_equal(drain(fd), 0);
}

/* What a hostile driver has behind its rings decides about its own notifications only. */
static void any_event_indices_are_survived(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    d->event_index = true;
    driver_start(d, SIZE, 0);
    for (unsigned i = 0; i < 70000; i++) {
        driver_want_interrupt_after(d, SIZE, (uint16_t)(i * 40503u));
        store_le16(d->mem->hva + DRIVER_USED + 4 + 8 * SIZE, (uint16_t)(i * 30011u));
        offer_request(d);
        virtio_kick(d->dev);
        if (!driver_take(d, SIZE, &head, &length))
            fail_msg("request %u was not served", i);
    }
    assert_int_equal(driver_in(d, R_STATUS), 15);
}

static void odd_accesses_do_nothing(void **state)
{
    struct driver *d = *state;

    driver_start(d, SIZE, 0);
    _cleanup_(buffer_clear) struct buffer before = device_save(d->dev);
    for (unsigned size = 1; size <= 8; size *= 2)
        for (uint64_t offset = 0; offset < 0x1000; offset++) {
            if (size == 4 && offset < R_CONFIG)
                continue;
            (void)d->dev->ops->read(d->dev, offset, size);
            d->dev->ops->write(d->dev, offset, size, UINT64_MAX);
        }
    _cleanup_(buffer_clear) struct buffer after = device_save(d->dev);
    assert_memory_equal(before.data, after.data, before.length);
}

/* ---- state ---- */

static void a_restored_device_goes_on_where_it_was(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    driver_start(d, SIZE, 0);
    offer_request(d);
    virtio_kick(d->dev);
    assert_true(driver_take(d, SIZE, &head, &length));
    _cleanup_(buffer_clear) struct buffer saved = device_save(d->dev);
    d->dev->ops->reset(d->dev);
    assert_int_equal(device_restore(d->dev, &saved, NULL), 0);
    _cleanup_(buffer_clear) struct buffer again = device_save(d->dev);
    assert_memory_equal(saved.data, again.data, saved.length);
    offer_request(d);
    virtio_kick(d->dev);
    assert_true(driver_take(d, SIZE, &head, &length));
    assert_false(driver_take(d, SIZE, &head, &length));
}

/* Nothing of them is in the record: what is saved has asked for all its interrupts. */
static void event_indices_go_on_after_a_restore(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    d->event_index = true;
    driver_start(d, SIZE, 0);
    for (unsigned i = 0; i < 5; i++) {
        offer_request(d);
        virtio_kick(d->dev);
        assert_true(driver_take(d, SIZE, &head, &length));
    }
    irq_probe_take(&d->irq);
    _cleanup_(buffer_clear) struct buffer saved = device_save(d->dev);
    d->dev->ops->reset(d->dev);
    assert_int_equal(device_restore(d->dev, &saved, NULL), 0);
    driver_want_interrupt_after(d, SIZE, 6);
    offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 0);
    offer_request(d);
    virtio_kick(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 1);
    assert_int_equal(driver_kick_after(d, SIZE), 7);
}

/* Kicks and interrupts that were under way when it was saved are not lost. */
static void resuming_looks_at_queues_and_raises_again(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    driver_start(d, SIZE, 0);
    offer_request(d); /* and its kick is lost */
    _cleanup_(buffer_clear) struct buffer saved = device_save(d->dev);
    assert_int_equal(device_restore(d->dev, &saved, NULL), 0);
    d->dev->ops->resume(d->dev);
    assert_true(driver_take(d, SIZE, &head, &length));
    assert_true(irq_probe_take(&d->irq) >= 1);
    /* It was served, but the interrupt is lost. */
    _cleanup_(buffer_clear) struct buffer served = device_save(d->dev);
    assert_int_equal(device_restore(d->dev, &served, NULL), 0);
    d->dev->ops->resume(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 1);
    driver_out(d, R_ACK, 1);
    d->dev->ops->resume(d->dev);
    assert_int_equal(irq_probe_take(&d->irq), 0);
}

/* A guest cannot make checkpoints that do not restore. */
static void a_driver_that_asks_for_the_impossible_is_restored_too(void **state)
{
    struct driver *d = *state;

    driver_out(d, R_DRIVER_FEATURES, UINT32_MAX);
    _cleanup_(buffer_clear) struct buffer saved = device_save(d->dev);
    assert_int_equal(device_restore(d->dev, &saved, NULL), 0);
    driver_out(d, R_STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
    assert_int_equal(driver_in(d, R_STATUS) & S_FEATURES_OK, 0);
}

/* Where things are in the record, version 1. */
enum {
    AT_DEVICE_ID = 0,
    AT_FEATURES = 16,
    AT_QUEUE_COUNT = 32,
    AT_QUEUE_SIZE = 36,
    AT_DESC = 44,
};

static void states_that_cannot_be_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
    } bad[] = {{AT_DEVICE_ID, 2},    {AT_FEATURES, 1},   {AT_FEATURES + 7, 0x80},
               {AT_QUEUE_COUNT, 2},  {AT_QUEUE_SIZE, 3}, {AT_QUEUE_SIZE, 0},
               {AT_QUEUE_SIZE, 128}, {AT_DESC, 1},       {AT_DESC + 7, 0xff}};
    struct driver *d = *state;

    driver_start(d, SIZE, 0);
    _cleanup_(buffer_clear) struct buffer good = device_save(d->dev);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_(buffer_clear) struct buffer state_bytes = device_save(d->dev);
        struct error err = ERROR_INIT;
        device_payload(&state_bytes)[bad[i].at] = bad[i].value;
        assert_int_equal(device_restore(d->dev, &state_bytes, &err), -EBADMSG);
        assert_int_equal(err.status, STATUS_CORRUPT);
        assert_int_equal(driver_in(d, R_STATUS), 0); /* reset, not half restored */
        assert_int_equal(device_restore(d->dev, &good, NULL), 0);
    }
    device_set_version(&good, 2);
    assert_int_equal(device_restore(d->dev, &good, NULL), -EPROTONOSUPPORT);
}

/* The layout of the record, version 1, is for ever. */
static void the_golden_state_restores_to_known_registers(void **state)
{
    struct driver *d = *state;
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(
        io_read_file(AT_FDCWD, STASIS_GOLDEN "/device-virtio-mmio-1.state", 4096, &bytes, &length),
        0);
    assert_int_equal(state_check(bytes, length, NULL), 0);
    assert_int_equal(d->dev->ops->restore(d->dev, bytes, length, NULL), 0);
    assert_int_equal(driver_in(d, R_STATUS), 15);
    assert_int_equal(driver_in(d, R_INTERRUPT), 1);
    assert_int_equal(driver_in(d, R_QUEUE_READY), 1);
    _cleanup_(buffer_clear) struct buffer again = device_save(d->dev);
    assert_int_equal(again.length, length);
    assert_memory_equal(again.data, bytes, length);
    /* Its ring goes on at 5. */
    d->offered = d->seen = 5;
    offer_request(d);
    virtio_kick(d->dev);
    uint32_t head, written;
    assert_true(driver_take(d, SIZE, &head, &written));
    assert_int_equal(written, 64);
}

int main(void)
{
#define MMIO_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        MMIO_TEST(says_what_it_is),
        MMIO_TEST(serves_what_is_offered),
        MMIO_TEST(a_write_to_the_notify_register_kicks_too),
        MMIO_TEST(what_was_offered_before_driver_ok_is_served_with_it),
        MMIO_TEST(features_it_did_not_offer_are_refused),
        MMIO_TEST(version_1_is_a_must),
        MMIO_TEST(features_are_fixed_once_they_are_accepted),
        MMIO_TEST(features_behind_64_bits_are_none),
        MMIO_TEST(a_queue_that_is_not_there_has_no_size),
        MMIO_TEST(a_queue_in_use_does_not_change),
        MMIO_TEST(a_queue_that_cannot_be_needs_a_reset),
        MMIO_TEST(a_broken_ring_needs_a_reset_and_says_so_once),
        MMIO_TEST(one_kick_serves_at_most_a_ring),
        MMIO_TEST(a_driver_that_polls_gets_no_interrupt),
        MMIO_TEST(a_driver_with_event_indices_gets_the_interrupts_it_asked_for),
        MMIO_TEST(with_an_eventfd_registers_only_signal),
        MMIO_TEST(any_event_indices_are_survived),
        MMIO_TEST(odd_accesses_do_nothing),
        MMIO_TEST(a_restored_device_goes_on_where_it_was),
        MMIO_TEST(event_indices_go_on_after_a_restore),
        MMIO_TEST(resuming_looks_at_queues_and_raises_again),
        MMIO_TEST(a_driver_that_asks_for_the_impossible_is_restored_too),
        MMIO_TEST(states_that_cannot_be_are_refused),
        MMIO_TEST(the_golden_state_restores_to_known_registers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
