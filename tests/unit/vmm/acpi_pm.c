/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/platform.h"

enum { CONTROL = 0, STATUS = 1, RESET = 2, SLEEP_ENABLE = 0x20 };

struct power {
    struct device *dev;
    unsigned offs, resets;
};

static void count_off(void *context)
{
    ((struct power *)context)->offs++;
}

static void count_reset(void *context)
{
    ((struct power *)context)->resets++;
}

static int setup(void **state)
{
    struct power *p = calloc(1, sizeof(*p));

    p->dev = acpi_pm_create(count_off, count_reset, p);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct power *p = *state;

    p->dev->ops->destroy(p->dev);
    free(p);
    return 0;
}

static void sleep_type_5_powers_off(void **state)
{
    struct power *p = *state;

    device_out(p->dev, CONTROL, ACPI_PM_S5 << 2 | SLEEP_ENABLE);
    assert_int_equal(p->offs, 1);
    assert_int_equal(p->resets, 0);
}

static void nothing_happens_before_sleep_is_enabled(void **state)
{
    struct power *p = *state;

    device_out(p->dev, CONTROL, ACPI_PM_S5 << 2);
    assert_int_equal(p->offs, 0);
    assert_int_equal(device_in(p->dev, CONTROL), ACPI_PM_S5 << 2);
}

static void other_sleep_types_do_nothing(void **state)
{
    struct power *p = *state;

    for (unsigned type = 0; type < 8; type++) {
        if (type != ACPI_PM_S5)
            device_out(p->dev, CONTROL, (uint8_t)(type << 2 | SLEEP_ENABLE));
    }
    assert_int_equal(p->offs, 0);
}

static void the_reset_value_resets(void **state)
{
    struct power *p = *state;

    device_out(p->dev, RESET, ACPI_PM_RESET + 1);
    assert_int_equal(p->resets, 0);
    device_out(p->dev, RESET, ACPI_PM_RESET);
    assert_int_equal(p->resets, 1);
    assert_int_equal(p->offs, 0);
}

static void status_says_not_woken_whatever_is_written(void **state)
{
    struct power *p = *state;

    device_out(p->dev, STATUS, 0x80);
    assert_int_equal(device_in(p->dev, STATUS), 0);
    assert_int_equal(p->offs + p->resets, 0);
}

static void what_is_not_a_register_access_does_nothing(void **state)
{
    struct power *p = *state;

    p->dev->ops->write(p->dev, CONTROL, 4, ACPI_PM_S5 << 2 | SLEEP_ENABLE);
    p->dev->ops->write(p->dev, RESET, 2, ACPI_PM_RESET);
    device_out(p->dev, 3, ACPI_PM_RESET);
    assert_int_equal(p->offs + p->resets, 0);
    assert_true(p->dev->ops->read(p->dev, CONTROL, 2) == UINT64_MAX);
}

static void its_state_survives(void **state)
{
    static const uint8_t golden_v1[] = {0x08};
    struct power *p = *state;

    device_out(p->dev, CONTROL, 0x08);
    device_assert_payload(p->dev, golden_v1, sizeof(golden_v1));
    _cleanup_(buffer_clear) struct buffer saved = device_save(p->dev);
    p->dev->ops->reset(p->dev);
    assert_int_equal(device_in(p->dev, CONTROL), 0);
    assert_int_equal(device_restore(p->dev, &saved, NULL), 0);
    assert_int_equal(device_in(p->dev, CONTROL), 0x08);
    assert_int_equal(p->offs, 0);
}

static void refuses_a_state_that_cannot_be(void **state)
{
    struct power *p = *state;

    device_assert_refuses(p->dev, 0, SLEEP_ENABLE);
    device_assert_refuses(p->dev, 0, 0x01);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sleep_type_5_powers_off),
        TEST(nothing_happens_before_sleep_is_enabled),
        TEST(other_sleep_types_do_nothing),
        TEST(the_reset_value_resets),
        TEST(status_says_not_woken_whatever_is_written),
        TEST(what_is_not_a_register_access_does_nothing),
        TEST(its_state_survives),
        TEST(refuses_a_state_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
