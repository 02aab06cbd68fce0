/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include "cli/interrupt.h"
#include "test.h"

#include <signal.h>

static void the_line_says_what_done_total_rate_and_rest(void **state)
{
    char line[160];

    (void)state;
    assert_string_equal(
        progress_format("importing disk0", 1ull << 30, 4ull << 30, 2000000000ull, line),
        "importing disk0  1.0 GiB of 4.0 GiB, 25%, 512 MiB/s, 6s left");
}

static void without_a_total_there_is_no_rest(void **state)
{
    char line[160];

    (void)state;
    assert_string_equal(progress_format("sending", 1 << 20, 0, 1000000000ull, line),
                        "sending  1.0 MiB, 1.0 MiB/s");
}

static void the_beginning_divides_by_nothing(void **state)
{
    char line[160];

    (void)state;
    assert_string_equal(progress_format("x", 0, 100, 0, line), "x  0 B of 100 B, 0%, 0 B/s");
}

/* The last one: the flag stays. */
static void an_interrupt_cancels(void **state)
{
    struct progress p;

    (void)state;
    progress_begin(&p, "x", 0);
    assert_int_equal(progress_step(&p, 1), 0);
    raise(SIGINT);
    assert_true(interrupt_pending());
    assert_int_not_equal(progress_step(&p, 2), 0);
    assert_int_not_equal(progress_bytes_of(2, 3, &p), 0);
    progress_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_line_says_what_done_total_rate_and_rest),
        cmocka_unit_test(without_a_total_there_is_no_rest),
        cmocka_unit_test(the_beginning_divides_by_nothing),
        cmocka_unit_test(an_interrupt_cancels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
