/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/text.h"

#include "test.h"

#include <errno.h>

static void assert_bytes(uint64_t bytes, const char *wanted)
{
    char out[TEXT_SIZE];

    assert_string_equal(text_bytes(bytes, out), wanted);
}

static void sizes_have_a_unit_and_few_digits(void **state)
{
    (void)state;
    assert_bytes(0, "0 B");
    assert_bytes(1023, "1023 B");
    assert_bytes(1024, "1.0 KiB");
    assert_bytes(1536, "1.5 KiB");
    assert_bytes(512ull << 20, "512 MiB");
    assert_bytes(UINT64_MAX, "16 EiB");
}

static void sizes_never_round_to_1024_of_a_unit(void **state)
{
    (void)state;
    assert_bytes((1ull << 20) - 1, "1.0 MiB");
    assert_bytes((1ull << 30) - 1, "1.0 GiB");
}

static void assert_size(const char *text, uint64_t wanted)
{
    uint64_t bytes = 77;

    assert_int_equal(text_parse_size(text, &bytes), 0);
    assert_true(bytes == wanted);
}

static void sizes_are_read_with_units(void **state)
{
    (void)state;
    assert_size("0", 0);
    assert_size("4096", 4096);
    assert_size("4096B", 4096);
    assert_size("512M", 512ull << 20);
    assert_size("512m", 512ull << 20);
    assert_size("2GiB", 2ull << 30);
    assert_size("2GB", 2ull << 30);
    assert_size("1T", 1ull << 40);
}

static void what_is_no_size_is_refused(void **state)
{
    static const char *const wrong[] = {"",
                                        "M",
                                        "-1",
                                        "1.5G",
                                        "512X",
                                        "1MM",
                                        "1iB",
                                        "1Ki ",
                                        " 1K",
                                        "0x1000",
                                        "18446744073709551616",
                                        "17179869184G"};
    uint64_t bytes = 77;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(text_parse_size(wrong[i], &bytes), -EINVAL);
    assert_int_equal(bytes, 77);
}

static void assert_duration(const char *text, uint64_t wanted)
{
    uint64_t ms = 0;

    assert_int_equal(text_parse_duration(text, &ms), 0);
    assert_int_equal(ms, wanted);
}

static void durations_are_seconds_unless_they_say_else(void **state)
{
    uint64_t ms;

    (void)state;
    assert_duration("10", 10000);
    assert_duration("10s", 10000);
    assert_duration("250ms", 250);
    assert_duration("2m", 120000);
    assert_duration("1h", 3600000);
    assert_int_equal(text_parse_duration("1d", &ms), -EINVAL);
    assert_int_equal(text_parse_duration("s", &ms), -EINVAL);
}

static void spans_use_their_largest_unit(void **state)
{
    char out[TEXT_SIZE];

    (void)state;
    assert_string_equal(text_span(0, out), "0s");
    assert_string_equal(text_span(59999999, out), "59s");
    assert_string_equal(text_span(3600ll * 1000000, out), "1h");
    assert_string_equal(text_span(49ll * 3600 * 1000000, out), "2d");
    /* A clock that was set back does not make negative ages. */
    assert_string_equal(text_span(-5000000, out), "0s");
}

static void pauses_are_shown_with_their_fraction(void **state)
{
    char out[TEXT_SIZE];

    (void)state;
    assert_string_equal(text_precise(840, out), "840 us");
    assert_string_equal(text_precise(3140, out), "3.1 ms");
    assert_string_equal(text_precise(1200000, out), "1.20 s");
}

static void text_is_broken_at_spaces(void **state)
{
    char *out = NULL;
    size_t length = 0;
    FILE *file = open_memstream(&out, &length);

    (void)state;
    text_wrap(file, "one two three four", 2, 11);
    fclose(file);
    assert_string_equal(out, "one two\n  three\n  four");
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_a_unit_and_few_digits),
        cmocka_unit_test(sizes_never_round_to_1024_of_a_unit),
        cmocka_unit_test(sizes_are_read_with_units),
        cmocka_unit_test(what_is_no_size_is_refused),
        cmocka_unit_test(durations_are_seconds_unless_they_say_else),
        cmocka_unit_test(spans_use_their_largest_unit),
        cmocka_unit_test(pauses_are_shown_with_their_fraction),
        cmocka_unit_test(text_is_broken_at_spaces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
