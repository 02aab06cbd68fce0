/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/platform.h"

#include <errno.h>
#include <string.h>

enum { DATA = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

enum {
    IER_RX = 1,
    IER_TX = 2,
    IER_LINE = 4,
    IER_MODEM = 8,
    IIR_MODEM = 0,
    IIR_NONE = 1,
    IIR_TX = 2,
    IIR_RX = 4,
    IIR_LINE = 6,
    IIR_TIMEOUT = 12,
    OUT2 = 8,
    LOOP = 16,
};

struct port {
    struct device *dev;
    struct irq_probe irq;
    uint8_t sent[64];
    size_t sent_count;
};

static void take(const uint8_t *bytes, size_t length, void *context)
{
    struct port *port = context;

    assert_true(port->sent_count + length <= sizeof(port->sent));
    memcpy(port->sent + port->sent_count, bytes, length);
    port->sent_count += length;
}

static int setup(void **state)
{
    struct port *port = calloc(1, sizeof(*port));
    struct irq_line line = irq_probe_line(&port->irq, 4);
    const struct serial_backend backend = {.output = take, .context = port};

    port->dev = serial_create(&line, &backend);
    *state = port;
    return 0;
}

static int teardown(void **state)
{
    struct port *port = *state;

    port->dev->ops->destroy(port->dev);
    free(port);
    return 0;
}

static size_t type(struct port *port, const char *text)
{
    return serial_input(port->dev, (const uint8_t *)text, strlen(text));
}

/* As a driver does: FIFOs with a trigger level of 1, interrupts through. */
static void start(struct port *port, uint8_t ier)
{
    device_out(port->dev, FCR, 0x07);
    device_out(port->dev, MCR, 0x03 | OUT2);
    device_out(port->dev, IER, ier);
}

static void sends_each_byte_at_once(void **state)
{
    struct port *port = *state;

    device_out(port->dev, DATA, 'h');
    assert_int_equal(port->sent_count, 1);
    device_out(port->dev, DATA, 'i');
    assert_memory_equal(port->sent, "hi", 2);
    assert_int_equal(device_in(port->dev, LSR), 0x60);
}

static void divisor_and_data_share_an_address(void **state)
{
    struct port *port = *state;

    device_out(port->dev, LCR, 0x83);
    device_out(port->dev, DATA, 0x34);
    device_out(port->dev, IER, 0x12);
    assert_int_equal(device_in(port->dev, DATA), 0x34);
    assert_int_equal(device_in(port->dev, IER), 0x12);
    device_out(port->dev, LCR, 0x03);
    assert_int_equal(port->sent_count, 0);
    assert_int_equal(device_in(port->dev, IER), 0);
    assert_int_equal(device_in(port->dev, LCR), 0x03);
}

static void keeps_the_scratch_register(void **state)
{
    struct port *port = *state;

    device_out(port->dev, SCR, 0xa5);
    assert_int_equal(device_in(port->dev, SCR), 0xa5);
}

static void bits_that_do_not_exist_read_as_zero(void **state)
{
    struct port *port = *state;

    device_out(port->dev, IER, 0xf0);
    assert_int_equal(device_in(port->dev, IER), 0);
    device_out(port->dev, MCR, 0xe0);
    assert_int_equal(device_in(port->dev, MCR), 0);
}

static void is_recognised_as_a_16550a(void **state)
{
    struct port *port = *state;

    assert_int_equal(device_in(port->dev, IIR), 0x01);
    device_out(port->dev, FCR, 0x01);
    assert_int_equal(device_in(port->dev, IIR), 0xc1);
    /* Not a 16750: its 64-byte FIFO does not turn on. */
    device_out(port->dev, LCR, 0x80);
    device_out(port->dev, FCR, 0x21);
    assert_int_equal(device_in(port->dev, IIR), 0xc1);
}

static void loopback_connects_the_modem_lines(void **state)
{
    struct port *port = *state;

    assert_int_equal(device_in(port->dev, MSR), 0xb0);
    device_out(port->dev, MCR, LOOP | 0x0a);
    assert_int_equal(device_in(port->dev, MSR) & 0xf0, 0x90);
    device_out(port->dev, MCR, LOOP | 0x05);
    assert_int_equal(device_in(port->dev, MSR) & 0xf0, 0x60);
}

static void loopback_returns_bytes_and_sends_none(void **state)
{
    struct port *port = *state;

    device_out(port->dev, FCR, 0x01);
    device_out(port->dev, MCR, LOOP);
    device_out(port->dev, DATA, 'x');
    assert_int_equal(port->sent_count, 0);
    assert_int_equal(device_in(port->dev, LSR), 0x61);
    assert_int_equal(device_in(port->dev, DATA), 'x');
}

static void loopback_keeps_typed_bytes_out(void **state)
{
    struct port *port = *state;

    device_out(port->dev, MCR, LOOP);
    assert_int_equal(type(port, "a"), 0);
    device_out(port->dev, MCR, 0);
    assert_int_equal(type(port, "a"), 1);
}

static void modem_changes_are_noted_until_read(void **state)
{
    struct port *port = *state;

    device_out(port->dev, MCR, LOOP);
    assert_int_equal(device_in(port->dev, MSR), 0x0b);
    assert_int_equal(device_in(port->dev, MSR), 0x00);
    device_out(port->dev, MCR, LOOP | 0x04);
    assert_int_equal(device_in(port->dev, MSR), 0x40);
    device_out(port->dev, MCR, LOOP);
    assert_int_equal(device_in(port->dev, MSR), 0x04);
}

static void fifo_takes_sixteen_bytes_in_order(void **state)
{
    struct port *port = *state;

    device_out(port->dev, FCR, 0x01);
    assert_int_equal(serial_input_room(port->dev), 16);
    assert_int_equal(type(port, "0123456789abcdefXYZ"), 16);
    assert_int_equal(serial_input_room(port->dev), 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(device_in(port->dev, LSR) & 0x01, 1);
        assert_int_equal(device_in(port->dev, DATA), "0123456789abcdef"[i]);
    }
    assert_int_equal(device_in(port->dev, LSR), 0x60);
}

static void without_fifo_there_is_room_for_one(void **state)
{
    struct port *port = *state;

    assert_int_equal(type(port, "ab"), 1);
    assert_int_equal(device_in(port->dev, DATA), 'a');
    assert_int_equal(type(port, "b"), 1);
}

static void an_empty_receiver_reads_as_zero(void **state)
{
    struct port *port = *state;

    type(port, "a");
    device_in(port->dev, DATA);
    assert_int_equal(device_in(port->dev, DATA), 0);
    assert_int_equal(serial_input_room(port->dev), 1);
}

static void clearing_the_fifo_drops_what_is_in_it(void **state)
{
    struct port *port = *state;

    device_out(port->dev, FCR, 0x01);
    type(port, "abc");
    device_out(port->dev, FCR, 0x03);
    assert_int_equal(device_in(port->dev, LSR), 0x60);
    type(port, "abc");
    device_out(port->dev, FCR, 0x00);
    assert_int_equal(device_in(port->dev, LSR), 0x60);
}

static void loopback_beyond_the_fifo_is_an_overrun(void **state)
{
    struct port *port = *state;

    start(port, IER_LINE);
    device_out(port->dev, MCR, LOOP);
    for (unsigned i = 0; i < 17; i++)
        device_out(port->dev, DATA, (uint8_t)i);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_LINE);
    assert_int_equal(device_in(port->dev, LSR), 0x63);
    assert_int_equal(device_in(port->dev, LSR), 0x61);
    assert_int_equal(device_in(port->dev, IIR), 0xc1);
}

static void typing_interrupts_once(void **state)
{
    struct port *port = *state;

    start(port, IER_RX);
    type(port, "a");
    assert_int_equal(irq_probe_take(&port->irq), 1);
    assert_int_equal(port->irq.gsi, 4);
    type(port, "b");
    assert_int_equal(irq_probe_take(&port->irq), 0);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_RX);
}

static void below_the_trigger_level_the_cause_is_the_time_out(void **state)
{
    struct port *port = *state;

    start(port, IER_RX);
    device_out(port->dev, FCR, 0x81); /* trigger level 8 */
    type(port, "1234567");
    assert_int_equal(irq_probe_take(&port->irq), 1);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_TIMEOUT);
    type(port, "8");
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_RX);
}

static void a_handler_that_takes_one_byte_is_called_for_each(void **state)
{
    struct port *port = *state;

    start(port, IER_RX);
    device_out(port->dev, FCR, 0xc1);
    type(port, "abc");
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(irq_probe_take(&port->irq), 1);
        assert_int_equal(device_in(port->dev, DATA), 'a' + i);
    }
    assert_int_equal(irq_probe_take(&port->irq), 0);
}

static void enabling_the_transmit_interrupt_fires_it(void **state)
{
    struct port *port = *state;

    start(port, IER_TX);
    assert_int_equal(irq_probe_take(&port->irq), 1);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_TX);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_NONE);
    /* Off and on again: as new. */
    device_out(port->dev, IER, 0);
    device_out(port->dev, IER, IER_TX);
    assert_int_equal(irq_probe_take(&port->irq), 1);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_TX);
}

static void writing_the_same_enable_bits_fires_nothing(void **state)
{
    struct port *port = *state;

    start(port, IER_TX);
    device_in(port->dev, IIR);
    irq_probe_take(&port->irq);
    device_out(port->dev, IER, IER_TX);
    assert_int_equal(irq_probe_take(&port->irq), 0);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_NONE);
}

static void every_byte_sent_makes_the_transmitter_empty_anew(void **state)
{
    struct port *port = *state;

    start(port, IER_TX);
    irq_probe_take(&port->irq);
    /* A handler that answers each interrupt with a byte and never reads IIR. */
    for (unsigned i = 0; i < 5; i++) {
        device_out(port->dev, DATA, 'x');
        assert_int_equal(irq_probe_take(&port->irq), 1);
    }
}

static void receive_goes_before_transmit(void **state)
{
    struct port *port = *state;

    start(port, IER_RX | IER_TX);
    type(port, "a");
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_RX);
    /* Asking did not take the transmit interrupt away. */
    device_in(port->dev, DATA);
    assert_int_equal(device_in(port->dev, IIR), 0xc0 | IIR_TX);
}

static void modem_interrupt_comes_last_and_ends_with_a_read(void **state)
{
    struct port *port = *state;

    device_out(port->dev, MCR, LOOP);
    device_out(port->dev, MCR, OUT2);
    device_out(port->dev, IER, IER_MODEM);
    assert_int_equal(irq_probe_take(&port->irq), 1);
    assert_int_equal(device_in(port->dev, IIR), IIR_MODEM);
    device_in(port->dev, MSR);
    assert_int_equal(device_in(port->dev, IIR), IIR_NONE);
}

static void without_out2_no_interrupt_gets_out(void **state)
{
    struct port *port = *state;

    start(port, IER_RX);
    device_out(port->dev, MCR, 0);
    type(port, "a");
    assert_int_equal(irq_probe_take(&port->irq), 0);
    device_out(port->dev, MCR, OUT2);
    assert_int_equal(irq_probe_take(&port->irq), 1);
}

static void what_is_not_a_register_access_does_nothing(void **state)
{
    struct port *port = *state;

    port->dev->ops->write(port->dev, DATA, 4, 0x41424344);
    port->dev->ops->write(port->dev, 1000, 1, 0x41);
    assert_int_equal(port->sent_count, 0);
    assert_true(port->dev->ops->read(port->dev, DATA, 2) == UINT64_MAX);
    assert_int_equal(device_in(port->dev, 1000), 0xff);
}

/* Registers, FIFO and pending interrupts all differ from power-on. */
static void make_interesting(struct port *port)
{
    device_out(port->dev, LCR, 0x80);
    device_out(port->dev, DATA, 0x01);
    device_out(port->dev, IER, 0x02);
    device_out(port->dev, LCR, 0x13);
    device_out(port->dev, FCR, 0x89);
    device_out(port->dev, MCR, LOOP);
    for (unsigned i = 0; i < 17; i++)
        device_out(port->dev, DATA, (uint8_t)('a' + i));
    device_in(port->dev, DATA);
    device_in(port->dev, DATA);
    device_out(port->dev, MCR, 0x0b);
    device_out(port->dev, SCR, 0x77);
    device_out(port->dev, IER, IER_RX | IER_TX);
}

static const uint8_t golden_v1[] = {
    0x03, 0x89, 0x13, 0x0b, 0xbb, 0x77, 0x01, 0x02, 0x02, 0x01, 0x04, 14,  'c', 'd',
    'e',  'f',  'g',  'h',  'i',  'j',  'k',  'l',  'm',  'n',  'o',  'p', 0,   0,
};

static void version_1_of_its_state_stays_as_it_is(void **state)
{
    struct port *port = *state;

    make_interesting(port);
    device_assert_payload(port->dev, golden_v1, sizeof(golden_v1));
}

static void goes_on_after_a_restore_as_if_nothing_had_been(void **state)
{
    struct port *port = *state;
    void *other_state = NULL;

    make_interesting(port);
    _cleanup_(buffer_clear) struct buffer saved = device_save(port->dev);
    setup(&other_state);
    struct port *other = other_state;
    assert_int_equal(device_restore(other->dev, &saved, NULL), 0);
    device_assert_payload(other->dev, golden_v1, sizeof(golden_v1));
    assert_int_equal(other->irq.edges, 0); /* the edge is in the saved irqchip */
    assert_int_equal(device_in(other->dev, LSR), 0x63);
    for (unsigned i = 0; i < 14; i++)
        assert_int_equal(device_in(other->dev, DATA), 'c' + i);
    assert_int_equal(device_in(other->dev, IIR), 0xc0 | IIR_TX);
    teardown(&other_state);
}

static void equal_states_are_equal_bytes(void **state)
{
    struct port *port = *state;

    /* Once around the FIFO: the same content in another place. */
    device_out(port->dev, FCR, 0x01);
    type(port, "ab");
    _cleanup_(buffer_clear) struct buffer before = device_save(port->dev);
    device_in(port->dev, DATA);
    device_in(port->dev, DATA);
    type(port, "ab");
    _cleanup_(buffer_clear) struct buffer after = device_save(port->dev);
    assert_memory_equal(before.data, after.data, before.length);
}

static void refuses_a_state_that_cannot_be(void **state)
{
    struct port *port = *state;

    device_assert_refuses(port->dev, 0, 0x10);  /* IER */
    device_assert_refuses(port->dev, 1, 0x02);  /* FCR without FIFOs */
    device_assert_refuses(port->dev, 1, 0x31);  /* FCR */
    device_assert_refuses(port->dev, 3, 0x20);  /* MCR */
    device_assert_refuses(port->dev, 8, 0x01);  /* LSR errors */
    device_assert_refuses(port->dev, 9, 2);     /* a flag */
    device_assert_refuses(port->dev, 10, 0x05); /* cause */
    device_assert_refuses(port->dev, 11, 2);    /* more than fits without FIFOs */
    device_out(port->dev, FCR, 0x01);
    device_assert_refuses(port->dev, 11, 17);
}

static void refuses_a_newer_version_with_a_hint(void **state)
{
    struct port *port = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(port->dev);
    struct error err = ERROR_INIT;

    device_set_version(&saved, 2);
    assert_int_equal(device_restore(port->dev, &saved, &err), -EPROTONOSUPPORT);
    assert_string_not_equal(err.hint, "");
}

static void refuses_a_state_without_a_serial_port(void **state)
{
    struct port *port = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(port->dev);
    struct error err = ERROR_INIT;

    port->dev->instance = 1;
    assert_int_equal(device_restore(port->dev, &saved, &err), -EBADMSG);
}

static void reset_is_power_on(void **state)
{
    struct port *port = *state;
    _cleanup_(buffer_clear) struct buffer fresh = device_save(port->dev);

    make_interesting(port);
    port->dev->ops->reset(port->dev);
    _cleanup_(buffer_clear) struct buffer after = device_save(port->dev);
    assert_memory_equal(fresh.data, after.data, fresh.length);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sends_each_byte_at_once),
        TEST(divisor_and_data_share_an_address),
        TEST(keeps_the_scratch_register),
        TEST(bits_that_do_not_exist_read_as_zero),
        TEST(is_recognised_as_a_16550a),
        TEST(loopback_connects_the_modem_lines),
        TEST(loopback_returns_bytes_and_sends_none),
        TEST(loopback_keeps_typed_bytes_out),
        TEST(modem_changes_are_noted_until_read),
        TEST(fifo_takes_sixteen_bytes_in_order),
        TEST(without_fifo_there_is_room_for_one),
        TEST(an_empty_receiver_reads_as_zero),
        TEST(clearing_the_fifo_drops_what_is_in_it),
        TEST(loopback_beyond_the_fifo_is_an_overrun),
        TEST(typing_interrupts_once),
        TEST(below_the_trigger_level_the_cause_is_the_time_out),
        TEST(a_handler_that_takes_one_byte_is_called_for_each),
        TEST(enabling_the_transmit_interrupt_fires_it),
        TEST(writing_the_same_enable_bits_fires_nothing),
        TEST(every_byte_sent_makes_the_transmitter_empty_anew),
        TEST(receive_goes_before_transmit),
        TEST(modem_interrupt_comes_last_and_ends_with_a_read),
        TEST(without_out2_no_interrupt_gets_out),
        TEST(what_is_not_a_register_access_does_nothing),
        TEST(version_1_of_its_state_stays_as_it_is),
        TEST(goes_on_after_a_restore_as_if_nothing_had_been),
        TEST(equal_states_are_equal_bytes),
        TEST(refuses_a_state_that_cannot_be),
        TEST(refuses_a_newer_version_with_a_hint),
        TEST(refuses_a_state_without_a_serial_port),
        TEST(reset_is_power_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
