/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/platform.h"

#include <string.h>

enum { SECONDS = 0, MINUTES = 2, HOURS = 4, WEEKDAY = 6, DAY = 7, MONTH = 8, YEAR = 9 };
enum { A = 10, B = 11, C = 12, D = 13, SET = 0x80, BINARY = 0x04, H24 = 0x02, UIP = 0x80 };

#define SECOND_US 1000000ll
#define NOON 1709208000ll /* Thursday 2024-02-29 12:00:00 UTC */

struct clock {
    struct device *dev;
    int64_t now_us;
};

static int64_t read_clock(void *context)
{
    return ((struct clock *)context)->now_us;
}

static int setup(void **state)
{
    struct clock *c = calloc(1, sizeof(*c));

    c->now_us = NOON * SECOND_US;
    c->dev = rtc_create(read_clock, c);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    struct clock *c = *state;

    c->dev->ops->destroy(c->dev);
    free(c);
    return 0;
}

static uint8_t get(struct clock *c, uint8_t index)
{
    device_out(c->dev, 0, index);
    return device_in(c->dev, 1);
}

static void put(struct clock *c, uint8_t index, uint8_t value)
{
    device_out(c->dev, 0, index);
    device_out(c->dev, 1, value);
}

static void assert_time(struct clock *c, uint8_t year, uint8_t month, uint8_t day, uint8_t hours,
                        uint8_t minutes, uint8_t seconds)
{
    assert_int_equal(get(c, YEAR), year);
    assert_int_equal(get(c, MONTH), month);
    assert_int_equal(get(c, DAY), day);
    assert_int_equal(get(c, HOURS), hours);
    assert_int_equal(get(c, MINUTES), minutes);
    assert_int_equal(get(c, SECONDS), seconds);
}

/* As Linux sets it: stop, write, go. */
static void set_time(struct clock *c, uint8_t century, uint8_t year, uint8_t month, uint8_t day,
                     uint8_t hours, uint8_t minutes, uint8_t seconds)
{
    uint8_t b = get(c, B);

    put(c, B, b | SET);
    put(c, RTC_CENTURY, century);
    put(c, YEAR, year);
    put(c, MONTH, month);
    put(c, DAY, day);
    put(c, HOURS, hours);
    put(c, MINUTES, minutes);
    put(c, SECONDS, seconds);
    put(c, B, b);
}

static void shows_the_wall_clock_in_bcd(void **state)
{
    struct clock *c = *state;

    assert_time(c, 0x24, 0x02, 0x29, 0x12, 0x00, 0x00);
    assert_int_equal(get(c, WEEKDAY), 5);
    assert_int_equal(get(c, RTC_CENTURY), 0x20);
    c->now_us += (11 * 3600 + 59 * 60 + 59) * SECOND_US;
    assert_time(c, 0x24, 0x02, 0x29, 0x23, 0x59, 0x59);
    c->now_us += SECOND_US;
    assert_time(c, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00);
}

static void shows_binary_when_told(void **state)
{
    struct clock *c = *state;

    put(c, B, H24 | BINARY);
    c->now_us += (11 * 3600 + 59 * 60 + 59) * SECOND_US;
    assert_time(c, 24, 2, 29, 23, 59, 59);
    assert_int_equal(get(c, RTC_CENTURY), 20);
}

static void shows_twelve_hours_when_told(void **state)
{
    static const uint8_t hours[] = {0x12, 0x01, 0x11, 0x92, 0x81, 0x91};
    static const int at[] = {0, 1, 11, 12, 13, 23};
    struct clock *c = *state;

    put(c, B, 0);
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        c->now_us = (NOON - 12 * 3600 + at[i] * 3600) * SECOND_US;
        assert_int_equal(get(c, HOURS), hours[i]);
    }
}

static void takes_twelve_hours_when_told(void **state)
{
    struct clock *c = *state;

    put(c, B, 0);
    set_time(c, 0x20, 0x24, 0x01, 0x01, 0x12, 0, 0); /* 12 am */
    put(c, B, H24);
    assert_int_equal(get(c, HOURS), 0x00);
    put(c, B, 0);
    set_time(c, 0x20, 0x24, 0x01, 0x01, 0x81, 0, 0); /* 1 pm */
    put(c, B, H24);
    assert_int_equal(get(c, HOURS), 0x13);
}

static void a_time_that_was_set_runs_on(void **state)
{
    struct clock *c = *state;

    set_time(c, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
    assert_time(c, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
    c->now_us += 2 * SECOND_US;
    assert_time(c, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    assert_int_equal(get(c, RTC_CENTURY), 0x20);
}

static void registers_stand_still_while_being_set(void **state)
{
    struct clock *c = *state;

    put(c, B, SET | H24);
    c->now_us += 3600 * SECOND_US;
    assert_time(c, 0x24, 0x02, 0x29, 0x12, 0x00, 0x00);
    put(c, MINUTES, 0x30);
    put(c, B, H24);
    assert_time(c, 0x24, 0x02, 0x29, 0x12, 0x30, 0x00);
}

static void a_register_set_while_running_counts_at_once(void **state)
{
    struct clock *c = *state;

    put(c, HOURS, 0x05);
    assert_time(c, 0x24, 0x02, 0x29, 0x05, 0x00, 0x00);
}

static void impossible_dates_are_taken_somehow(void **state)
{
    struct clock *c = *state;

    set_time(c, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
    put(c, B, H24 | BINARY);
    set_time(c, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
    set_time(c, 0, 0, 0, 0, 0, 0, 0);
    assert_in_range(get(c, SECONDS), 0, 59);
    assert_in_range(get(c, MONTH), 1, 12);
}

static void announces_the_update_of_each_second(void **state)
{
    struct clock *c = *state;

    assert_int_equal(get(c, A), 0x26);
    c->now_us += SECOND_US - 1;
    assert_int_equal(get(c, A), 0x26 | UIP);
    c->now_us += 1;
    assert_int_equal(get(c, A), 0x26);
    put(c, A, 0xff);
    assert_int_equal(get(c, A), 0x7f);
}

static void never_announces_an_update_while_being_set(void **state)
{
    struct clock *c = *state;

    put(c, B, SET | H24);
    c->now_us += SECOND_US - 1;
    assert_int_equal(get(c, A), 0x26);
}

static void who_polls_for_an_update_sees_it_once(void **state)
{
    struct clock *c = *state;

    put(c, A, 0x20); /* no periodic flag */
    get(c, C);
    assert_int_equal(get(c, C), 0);
    c->now_us += SECOND_US;
    assert_int_equal(get(c, C), 0x10);
    assert_int_equal(get(c, C), 0);
}

static void who_polls_for_a_period_sees_it(void **state)
{
    struct clock *c = *state;

    get(c, C);
    c->now_us += 976; /* rate 6: 1024 a second */
    assert_int_equal(get(c, C), 0x40);
    assert_int_equal(get(c, C), 0);
}

static void has_a_good_battery(void **state)
{
    struct clock *c = *state;

    assert_int_equal(get(c, D), 0x80);
    put(c, D, 0);
    assert_int_equal(get(c, D), 0x80);
}

static void keeps_its_memory_over_a_reset(void **state)
{
    struct clock *c = *state;

    put(c, 0x0e, 0x55);
    put(c, 0x7f, 0xaa);
    set_time(c, 0x20, 0x30, 0x01, 0x01, 0, 0, 0);
    put(c, B, SET);
    c->dev->ops->reset(c->dev);
    assert_int_equal(get(c, 0x0e), 0x55);
    assert_int_equal(get(c, 0x7f), 0xaa);
    assert_int_equal(get(c, YEAR), 0x30);
    assert_int_equal(get(c, B), H24);
}

static void the_nmi_bit_is_not_part_of_the_index(void **state)
{
    struct clock *c = *state;

    put(c, 0x20, 0x77);
    assert_int_equal(get(c, 0xa0), 0x77);
}

static void what_is_not_a_register_access_does_nothing(void **state)
{
    struct clock *c = *state;

    put(c, 0x20, 0x11);
    c->dev->ops->write(c->dev, 1, 2, 0x2222);
    device_out(c->dev, 2, 0x22);
    assert_int_equal(get(c, 0x20), 0x11);
    assert_int_equal(device_in(c->dev, 0), 0xff);
    assert_true(c->dev->ops->read(c->dev, 1, 4) == UINT64_MAX);
}

static void version_1_of_its_state_stays_as_it_is(void **state)
{
    struct clock *c = *state;
    uint8_t golden[1 + 8 + 8 + 128] = {/* index; an hour ahead; noon and an hour */
                                       0x33, 0x00, 0xa4, 0x93, 0xd6, 0x00, 0,    0, 0,
                                       0x00, 0x94, 0x43, 0xd6, 0x84, 0x12, 0x06, 0};

    golden[17 + A] = 0x26;
    golden[17 + B] = H24;
    golden[17 + 1] = 0x30; /* an alarm */
    golden[17 + 0x33] = 0x5a;
    put(c, HOURS, 0x13);
    put(c, 1, 0x30);
    put(c, 0x33, 0x5a);
    get(c, SECONDS);
    get(c, C);
    device_out(c->dev, 0, 0x33);
    device_assert_payload(c->dev, golden, sizeof(golden));
}

static void a_restored_clock_is_as_far_ahead_as_the_saved_one(void **state)
{
    struct clock *c = *state;

    set_time(c, 0x20, 0x24, 0x02, 0x29, 0x13, 0x00, 0x00);
    put(c, 0x20, 0x42);
    _cleanup_(buffer_clear) struct buffer saved = device_save(c->dev);
    void *other_state = NULL;
    setup(&other_state);
    struct clock *other = other_state;
    other->now_us += 60 * SECOND_US;
    assert_int_equal(device_restore(other->dev, &saved, NULL), 0);
    assert_time(other, 0x24, 0x02, 0x29, 0x13, 0x01, 0x00);
    assert_int_equal(get(other, 0x20), 0x42);
    teardown(&other_state);
}

static void a_clock_saved_while_being_set_can_be_finished(void **state)
{
    struct clock *c = *state;

    put(c, B, SET | H24);
    put(c, HOURS, 0x07);
    _cleanup_(buffer_clear) struct buffer saved = device_save(c->dev);
    c->dev->ops->reset(c->dev);
    assert_int_equal(device_restore(c->dev, &saved, NULL), 0);
    put(c, MINUTES, 0x08);
    put(c, B, H24);
    assert_time(c, 0x24, 0x02, 0x29, 0x07, 0x08, 0x00);
}

static void refuses_a_state_that_cannot_be(void **state)
{
    struct clock *c = *state;

    device_assert_refuses(c->dev, 0, 0x80);      /* index */
    device_assert_refuses(c->dev, 8, 0x40);      /* ahead by ages */
    device_assert_refuses(c->dev, 8, 0x80);      /* behind by ages */
    device_assert_refuses(c->dev, 16, 0x7f);     /* flags read in ages */
    device_assert_refuses(c->dev, 17 + A, 0xa6); /* updating */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(shows_the_wall_clock_in_bcd),
        TEST(shows_binary_when_told),
        TEST(shows_twelve_hours_when_told),
        TEST(takes_twelve_hours_when_told),
        TEST(a_time_that_was_set_runs_on),
        TEST(registers_stand_still_while_being_set),
        TEST(a_register_set_while_running_counts_at_once),
        TEST(impossible_dates_are_taken_somehow),
        TEST(announces_the_update_of_each_second),
        TEST(never_announces_an_update_while_being_set),
        TEST(who_polls_for_an_update_sees_it_once),
        TEST(who_polls_for_a_period_sees_it),
        TEST(has_a_good_battery),
        TEST(keeps_its_memory_over_a_reset),
        TEST(the_nmi_bit_is_not_part_of_the_index),
        TEST(what_is_not_a_register_access_does_nothing),
        TEST(version_1_of_its_state_stays_as_it_is),
        TEST(a_restored_clock_is_as_far_ahead_as_the_saved_one),
        TEST(a_clock_saved_while_being_set_can_be_finished),
        TEST(refuses_a_state_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
