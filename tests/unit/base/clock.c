/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"

#include <errno.h>

static void writes_a_known_time(void **state)
{
    char text[CLOCK_RFC3339_SIZE];

    (void)state;
    assert_string_equal(clock_rfc3339(INT64_C(1769862896123456), text),
                        "2026-01-31T12:34:56.123456Z");
    assert_string_equal(clock_rfc3339(0, text), "1970-01-01T00:00:00.000000Z");
    assert_string_equal(clock_rfc3339(-1, text), "1969-12-31T23:59:59.999999Z");
}

static void reads_back_what_it_wrote(void **state)
{
    static const int64_t times[] = {
        0, 1, 999999, 951782400000000, 1769862896123456, 253402300799999999};
    char text[CLOCK_RFC3339_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        int64_t back = -1;
        assert_int_equal(clock_parse_rfc3339(clock_rfc3339(times[i], text), &back), 0);
        assert_true(back == times[i]);
    }
}

static void refuses_what_is_not_a_time(void **state)
{
    static const char *const texts[] = {"",
                                        "now",
                                        "2026-01-31",
                                        "2026-01-31T12:34:56Z",
                                        "2026-01-31T12:34:56.123456",
                                        "2026-01-31T12:34:56.123456Zz",
                                        "2026-01-31T12:34:56.123456+01:00"};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        int64_t time = 42;
        assert_int_equal(clock_parse_rfc3339(texts[i], &time), -EINVAL);
        assert_true(time == 42);
    }
}

static void monotonic_time_does_not_go_back(void **state)
{
    (void)state;
    uint64_t before = clock_monotonic_ns();
    uint64_t after = clock_monotonic_ns();
    assert_true(before > 0 && after >= before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_a_known_time),
        cmocka_unit_test(reads_back_what_it_wrote),
        cmocka_unit_test(refuses_what_is_not_a_time),
        cmocka_unit_test(monotonic_time_does_not_go_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
