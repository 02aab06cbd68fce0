/* SPDX-License-Identifier: Apache-2.0 */
/* Rates and orders of `top`, from answers as machines give them. */
#include "cli/top.h"

#include "base/cleanup.h"

#include "test.h"

#include <string.h>

static json_t *answer(int pid, int uptime_us, int cpu_us, int reads, int read_bytes, int in_bytes)
{
    return json_pack(
        "{s:s, s:b, s:i, s:i, s:i, s:{s:i}, s:{s:i, s:i, s:i}, s:[{s:s, s:{s:i, s:i}}, {s:s, "
        "s:{s:i}}]}",
        "state", "running", "saving", 0, "pid", pid, "uptime_us", uptime_us, "cpu_us", cpu_us,
        "kvm", "exits", 10 * uptime_us / 1000, "memory", "resident_bytes", 3000, "shared_bytes",
        1000, "unique_bytes", 2000, "devices", "type", "virtio-blk", "counters", "reads", reads,
        "read_bytes", read_bytes, "type", "virtio-net", "counters", "in_bytes", in_bytes);
}

static json_int_t number(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void rates_are_differences_over_the_time_between(void **state)
{
    _cleanup_json_ json_t *before = answer(7, 1000000, 400000, 10, 4096, 100);
    _cleanup_json_ json_t *now = answer(7, 3000000, 1400000, 30, 12288, 700);
    _cleanup_json_ json_t *row = top_row("m", before, now);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(row, "name")), "m");
    assert_string_equal(json_string_value(json_object_get(row, "state")), "running");
    assert_int_equal(number(row, "cpu_percent"), 50);
    assert_int_equal(number(row, "requests_per_s"), 10);
    assert_int_equal(number(row, "read_bytes_per_s"), 4096);
    assert_int_equal(number(row, "in_bytes_per_s"), 300);
    assert_int_equal(number(row, "exits_per_s"), 10000);
    assert_int_equal(number(row, "unique_bytes"), 2000);
}

static void without_a_look_before_rates_are_since_the_start(void **state)
{
    _cleanup_json_ json_t *now = answer(7, 2000000, 1000000, 20, 8192, 600);
    _cleanup_json_ json_t *row = top_row("m", NULL, now);

    (void)state;
    assert_int_equal(number(row, "cpu_percent"), 50);
    assert_int_equal(number(row, "read_bytes_per_s"), 4096);
}

static void another_process_of_the_name_begins_anew(void **state)
{
    _cleanup_json_ json_t *before = answer(7, 9000000, 9000000, 900, 9000, 900);
    _cleanup_json_ json_t *now = answer(8, 1000000, 250000, 10, 4096, 100);
    _cleanup_json_ json_t *row = top_row("m", before, now);

    (void)state;
    assert_int_equal(number(row, "cpu_percent"), 25);
    assert_int_equal(number(row, "requests_per_s"), 10);
}

/* The hardware is made anew, the process stays. */
static void a_reset_of_the_guest_makes_no_huge_rate(void **state)
{
    _cleanup_json_ json_t *before = answer(7, 1000000, 100, 900, 9000, 900);
    _cleanup_json_ json_t *now = answer(7, 2000000, 200, 5, 4096, 100);
    _cleanup_json_ json_t *row = top_row("m", before, now);

    (void)state;
    assert_int_equal(number(row, "requests_per_s"), 5);
    assert_int_equal(number(row, "read_bytes_per_s"), 4096);
}

static void a_machine_that_does_not_answer_has_a_row_of_nulls(void **state)
{
    _cleanup_json_ json_t *row = top_row("m", NULL, NULL);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(row, "state")), "silent");
    for (const struct output_column *c = top_columns + 2; c->title != NULL; c++)
        assert_true(json_is_null(json_object_get(row, c->key)));
}

static void dirty_is_what_was_seen_or_else_what_the_last_save_found(void **state)
{
    _cleanup_json_ json_t *before = answer(7, 1000000, 0, 0, 0, 0);
    _cleanup_json_ json_t *now = answer(7, 2000000, 0, 0, 0, 0);

    (void)state;
    _cleanup_json_ json_t *unknown = top_row("m", before, now);
    assert_true(json_is_null(json_object_get(unknown, "dirty_bytes_per_s")));
    json_object_set_new(now, "last_save",
                        json_pack("{s:i, s:i}", "pages", 100, "interval_us", 2000000));
    _cleanup_json_ json_t *saved = top_row("m", before, now);
    assert_int_equal(number(saved, "dirty_bytes_per_s"), 50 * 4096);
    json_object_set_new(before, "written", json_pack("{s:i}", "total_bytes", 8192));
    json_object_set_new(now, "written", json_pack("{s:i}", "total_bytes", 16384));
    _cleanup_json_ json_t *seen = top_row("m", before, now);
    assert_int_equal(number(seen, "dirty_bytes_per_s"), 8192);
}

static void assert_order(const char *order, const char *wanted)
{
    _cleanup_json_ json_t *rows =
        json_pack("[{s:s, s:i, s:i}, {s:s, s:i, s:i}, {s:s, s:i, s:i}]", "name", "b", "cpu_percent",
                  5, "in_bytes_per_s", 9, "name", "c", "cpu_percent", 70, "in_bytes_per_s", 1,
                  "name", "a", "cpu_percent", 5, "in_bytes_per_s", 2);
    char got[4] = "";

    top_sort(rows, order);
    for (size_t i = 0; i < 3; i++)
        got[i] = json_string_value(json_object_get(json_array_get(rows, i), "name"))[0];
    assert_string_equal(got, wanted);
}

static void rows_are_sorted_most_first_and_then_by_name(void **state)
{
    (void)state;
    assert_order("cpu", "cab");
    assert_order("net", "bac");
    assert_order("name", "abc");
    assert_order("memory", "abc");
}

static void every_order_has_a_key_of_its_own(void **state)
{
    static const char keys[] = "cmdnea";

    (void)state;
    for (size_t i = 0; keys[i] != '\0'; i++)
        assert_ptr_equal(top_order_of_key(keys[i]), top_orders[i]);
    assert_null(top_orders[strlen(keys)]);
    assert_null(top_order_of_key('q'));
    assert_null(top_order_of_key('\0'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_differences_over_the_time_between),
        cmocka_unit_test(without_a_look_before_rates_are_since_the_start),
        cmocka_unit_test(another_process_of_the_name_begins_anew),
        cmocka_unit_test(a_reset_of_the_guest_makes_no_huge_rate),
        cmocka_unit_test(a_machine_that_does_not_answer_has_a_row_of_nulls),
        cmocka_unit_test(dirty_is_what_was_seen_or_else_what_the_last_save_found),
        cmocka_unit_test(rows_are_sorted_most_first_and_then_by_name),
        cmocka_unit_test(every_order_has_a_key_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
