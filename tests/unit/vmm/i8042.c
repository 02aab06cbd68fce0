/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/platform.h"

enum { DATA = 0, STATUS = 4, COMMAND = 4 };

enum { FULL = 0x01, AUX_DATA = 0x20, MODE_ON = 0x45, MODE_RAW = 0x05 };

struct keyboard {
    struct device *dev;
    struct irq_probe irq;
    unsigned resets;
};

static void count_reset(void *context)
{
    ((struct keyboard *)context)->resets++;
}

static int setup(void **state)
{
    struct keyboard *k = calloc(1, sizeof(*k));
    struct irq_line line = irq_probe_line(&k->irq, 1);

    k->dev = i8042_create(&line, count_reset, k);
    *state = k;
    return 0;
}

static int teardown(void **state)
{
    struct keyboard *k = *state;

    k->dev->ops->destroy(k->dev);
    free(k);
    return 0;
}

static bool is_full(struct keyboard *k)
{
    return device_in(k->dev, STATUS) & FULL;
}

/* Fails the test unless the guest reads exactly these bytes. */
static void expect(struct keyboard *k, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_true(is_full(k));
        assert_int_equal(device_in(k->dev, DATA), bytes[i]);
    }
    assert_false(is_full(k));
}

#define EXPECT(k, ...) expect(k, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void set_mode(struct keyboard *k, uint8_t mode)
{
    device_out(k->dev, COMMAND, 0x60);
    device_out(k->dev, DATA, mode);
}

/* What Linux does before it takes keys. */
static void enable(struct keyboard *k, uint8_t mode)
{
    set_mode(k, mode);
    device_out(k->dev, DATA, 0xf4);
    EXPECT(k, 0xfa);
    irq_probe_take(&k->irq);
}

static void passes_its_self_tests(void **state)
{
    struct keyboard *k = *state;

    device_out(k->dev, COMMAND, 0xaa);
    EXPECT(k, 0x55);
    device_out(k->dev, COMMAND, 0xab);
    EXPECT(k, 0x00);
}

static void is_empty_and_unlocked_at_power_on(void **state)
{
    struct keyboard *k = *state;

    assert_int_equal(device_in(k->dev, STATUS), 0x14);
}

static void an_empty_buffer_repeats_the_last_byte(void **state)
{
    struct keyboard *k = *state;

    device_out(k->dev, COMMAND, 0xaa);
    device_in(k->dev, DATA);
    assert_int_equal(device_in(k->dev, DATA), 0x55);
    assert_false(is_full(k));
}

static void keeps_the_command_byte(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, 0x71);
    device_out(k->dev, COMMAND, 0x20);
    EXPECT(k, 0x71);
}

static void the_auxiliary_port_is_absent(void **state)
{
    struct keyboard *k = *state;

    /* The test says that nothing is connected. */
    device_out(k->dev, COMMAND, 0xa9);
    EXPECT(k, 0x01);
    /* Looped back bytes do not come back as the port's. */
    device_out(k->dev, COMMAND, 0xd3);
    device_out(k->dev, DATA, 0x5a);
    assert_int_equal(device_in(k->dev, STATUS) & AUX_DATA, 0);
    EXPECT(k, 0x5a);
    /* What is sent to it is lost, not taken for the keyboard's. */
    device_out(k->dev, COMMAND, 0xd4);
    device_out(k->dev, DATA, 0xff);
    assert_false(is_full(k));
}

static void the_keyboard_identifies_itself(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    device_out(k->dev, DATA, 0xf2);
    EXPECT(k, 0xfa, 0xab, 0x83);
    set_mode(k, MODE_ON);
    device_out(k->dev, DATA, 0xf2);
    EXPECT(k, 0xfa, 0xab, 0x41);
}

static void the_keyboard_resets_and_passes_its_test(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_ON);
    device_out(k->dev, DATA, 0xff);
    EXPECT(k, 0xfa, 0xaa);
}

static void commands_with_a_parameter_take_it(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    device_out(k->dev, DATA, 0xed);
    EXPECT(k, 0xfa);
    device_out(k->dev, DATA, 0x07);
    EXPECT(k, 0xfa);
    device_out(k->dev, DATA, 0xf3);
    EXPECT(k, 0xfa);
    device_out(k->dev, DATA, 0x20);
    EXPECT(k, 0xfa);
}

static void the_scan_code_set_can_be_set_and_asked_for(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    device_out(k->dev, DATA, 0xf0);
    device_out(k->dev, DATA, 0x01);
    EXPECT(k, 0xfa, 0xfa);
    device_out(k->dev, DATA, 0xf0);
    device_out(k->dev, DATA, 0x00);
    EXPECT(k, 0xfa, 0xfa, 0x01);
    device_out(k->dev, DATA, 0xf0);
    device_out(k->dev, DATA, 0x03);
    EXPECT(k, 0xfa, 0xfe);
}

static void a_new_command_ends_the_wait_for_a_parameter(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    device_out(k->dev, DATA, 0xed);
    device_out(k->dev, DATA, 0xee);
    EXPECT(k, 0xfa, 0xee);
    device_out(k->dev, DATA, 0xf4);
    EXPECT(k, 0xfa);
}

static void unknown_commands_are_refused_not_ignored(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    device_out(k->dev, DATA, 0x12);
    EXPECT(k, 0xfe);
    device_out(k->dev, DATA, 0xef);
    EXPECT(k, 0xfe);
}

static void resends_its_last_byte(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    device_out(k->dev, DATA, 0xf2);
    EXPECT(k, 0xfa, 0xab, 0x83);
    device_out(k->dev, DATA, 0xfe);
    EXPECT(k, 0x83);
}

static void every_command_of_a_driver_is_answered(void **state)
{
    struct keyboard *k = *state;

    /* A guest that waits for an answer to any keyboard command gets one. */
    for (unsigned command = 0; command < 256; command++) {
        k->dev->ops->reset(k->dev);
        device_out(k->dev, DATA, (uint8_t)command);
        assert_true(is_full(k));
    }
}

static void interrupts_for_each_byte_of_an_answer(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_ON);
    device_out(k->dev, DATA, 0xf2);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(irq_probe_take(&k->irq), 1);
        assert_int_equal(k->irq.gsi, 1);
        device_in(k->dev, DATA);
    }
    assert_int_equal(irq_probe_take(&k->irq), 0);
}

static void does_not_interrupt_unless_told_to(void **state)
{
    struct keyboard *k = *state;

    device_out(k->dev, DATA, 0xf2);
    device_in(k->dev, DATA);
    assert_int_equal(irq_probe_take(&k->irq), 0);
    /* Once told, for the byte that waits. */
    set_mode(k, MODE_ON);
    assert_int_equal(irq_probe_take(&k->irq), 1);
}

static void controller_answers_go_first(void **state)
{
    struct keyboard *k = *state;

    device_out(k->dev, DATA, 0xee);
    device_out(k->dev, COMMAND, 0xaa);
    EXPECT(k, 0x55, 0xee);
}

static void a_disabled_keyboard_holds_its_bytes_back(void **state)
{
    struct keyboard *k = *state;

    device_out(k->dev, DATA, 0xee);
    device_out(k->dev, COMMAND, 0xad);
    assert_false(is_full(k));
    device_out(k->dev, COMMAND, 0xae);
    EXPECT(k, 0xee);
}

static void pulses_and_outputs_reset_the_machine(void **state)
{
    struct keyboard *k = *state;

    device_out(k->dev, COMMAND, 0xfe);
    assert_int_equal(k->resets, 1);
    device_out(k->dev, COMMAND, 0xff); /* pulses nothing */
    assert_int_equal(k->resets, 1);
    device_out(k->dev, COMMAND, 0xd1);
    device_out(k->dev, DATA, 0xdf);
    assert_int_equal(k->resets, 1);
    device_out(k->dev, COMMAND, 0xd1);
    device_out(k->dev, DATA, 0xde);
    assert_int_equal(k->resets, 2);
}

static void ctrl_alt_del_in_the_guests_scan_codes(void **state)
{
    struct keyboard *k = *state;

    enable(k, MODE_ON);
    assert_true(i8042_ctrl_alt_del(k->dev));
    assert_int_equal(irq_probe_take(&k->irq), 1);
    EXPECT(k, 0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d);
    set_mode(k, MODE_RAW);
    assert_true(i8042_ctrl_alt_del(k->dev));
    EXPECT(k, 0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14);
}

static void ctrl_alt_del_needs_an_enabled_keyboard(void **state)
{
    struct keyboard *k = *state;

    assert_false(i8042_ctrl_alt_del(k->dev));
    enable(k, MODE_ON);
    set_mode(k, MODE_ON | 0x10);
    assert_false(i8042_ctrl_alt_del(k->dev));
    set_mode(k, MODE_ON & ~0x01);
    assert_false(i8042_ctrl_alt_del(k->dev));
    set_mode(k, MODE_ON);
    assert_true(i8042_ctrl_alt_del(k->dev));
    /* No room for a second one. */
    assert_true(i8042_ctrl_alt_del(k->dev));
    assert_false(i8042_ctrl_alt_del(k->dev));
}

static void a_queue_that_is_full_loses_whole_answers_only(void **state)
{
    struct keyboard *k = *state;

    set_mode(k, MODE_RAW);
    for (unsigned i = 0; i < 6; i++)
        device_out(k->dev, DATA, 0xf2);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(device_in(k->dev, DATA), 0xfa);
        assert_int_equal(device_in(k->dev, DATA), 0xab);
        assert_int_equal(device_in(k->dev, DATA), 0x83);
    }
    assert_false(is_full(k));
}

static void what_is_not_a_register_access_does_nothing(void **state)
{
    struct keyboard *k = *state;

    k->dev->ops->write(k->dev, COMMAND, 2, 0xfe);
    device_out(k->dev, 1, 0xfe);
    assert_int_equal(k->resets, 0);
    assert_true(k->dev->ops->read(k->dev, STATUS, 4) == UINT64_MAX);
    assert_int_equal(device_in(k->dev, 1), 0xff);
}

static void make_interesting(struct keyboard *k)
{
    enable(k, MODE_ON);
    device_out(k->dev, DATA, 0xf3);
    device_out(k->dev, DATA, 0x00);
    device_out(k->dev, DATA, 0xed);
    device_out(k->dev, DATA, 0x02);
    device_out(k->dev, DATA, 0xf2);
    device_out(k->dev, DATA, 0xed);
    device_out(k->dev, COMMAND, 0xab);
    device_out(k->dev, COMMAND, 0xd1);
}

static const uint8_t golden_v1[] = {
    0x45, 0xcf, 0xd1, 1,    1,    0x00, 0xfa, 0xed, 1, 2, 0x02, 0x00, 0xfa, 8, 0xfa,
    0xfa, 0xfa, 0xfa, 0xfa, 0xab, 0x41, 0xfa, 0,    0, 0, 0,    0,    0,    0, 0,
};

static void version_1_of_its_state_stays_as_it_is(void **state)
{
    struct keyboard *k = *state;

    make_interesting(k);
    device_assert_payload(k->dev, golden_v1, sizeof(golden_v1));
}

static void goes_on_after_a_restore_as_if_nothing_had_been(void **state)
{
    struct keyboard *k = *state;
    void *other_state = NULL;

    make_interesting(k);
    _cleanup_(buffer_clear) struct buffer saved = device_save(k->dev);
    setup(&other_state);
    struct keyboard *other = other_state;
    assert_int_equal(device_restore(other->dev, &saved, NULL), 0);
    assert_int_equal(other->irq.edges, 0);
    device_assert_payload(other->dev, golden_v1, sizeof(golden_v1));
    device_out(other->dev, DATA, 0xde); /* the parameter of 0xd1 */
    assert_int_equal(other->resets, 1);
    EXPECT(other, 0x00, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xab, 0x41, 0xfa);
    teardown(&other_state);
}

static void refuses_a_state_that_cannot_be(void **state)
{
    struct keyboard *k = *state;

    device_assert_refuses(k->dev, 2, 0x61); /* a command without parameter */
    device_assert_refuses(k->dev, 3, 2);    /* flags */
    device_assert_refuses(k->dev, 4, 0xff);
    device_assert_refuses(k->dev, 8, 2);
    device_assert_refuses(k->dev, 7, 0xf4); /* a command without parameter */
    device_assert_refuses(k->dev, 9, 0);    /* scan code sets */
    device_assert_refuses(k->dev, 9, 3);
    device_assert_refuses(k->dev, 13, 17); /* more than fits */
}

static void reset_is_power_on(void **state)
{
    struct keyboard *k = *state;
    _cleanup_(buffer_clear) struct buffer fresh = device_save(k->dev);

    make_interesting(k);
    k->dev->ops->reset(k->dev);
    _cleanup_(buffer_clear) struct buffer after = device_save(k->dev);
    assert_memory_equal(fresh.data, after.data, fresh.length);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(passes_its_self_tests),
        TEST(is_empty_and_unlocked_at_power_on),
        TEST(an_empty_buffer_repeats_the_last_byte),
        TEST(keeps_the_command_byte),
        TEST(the_auxiliary_port_is_absent),
        TEST(the_keyboard_identifies_itself),
        TEST(the_keyboard_resets_and_passes_its_test),
        TEST(commands_with_a_parameter_take_it),
        TEST(the_scan_code_set_can_be_set_and_asked_for),
        TEST(a_new_command_ends_the_wait_for_a_parameter),
        TEST(unknown_commands_are_refused_not_ignored),
        TEST(resends_its_last_byte),
        TEST(every_command_of_a_driver_is_answered),
        TEST(interrupts_for_each_byte_of_an_answer),
        TEST(does_not_interrupt_unless_told_to),
        TEST(controller_answers_go_first),
        TEST(a_disabled_keyboard_holds_its_bytes_back),
        TEST(pulses_and_outputs_reset_the_machine),
        TEST(ctrl_alt_del_in_the_guests_scan_codes),
        TEST(ctrl_alt_del_needs_an_enabled_keyboard),
        TEST(a_queue_that_is_full_loses_whole_answers_only),
        TEST(what_is_not_a_register_access_does_nothing),
        TEST(version_1_of_its_state_stays_as_it_is),
        TEST(goes_on_after_a_restore_as_if_nothing_had_been),
        TEST(refuses_a_state_that_cannot_be),
        TEST(reset_is_power_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
