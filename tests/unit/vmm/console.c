/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vmm/store_fixture.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/process/console.h"

#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1u << 20)

struct subject {
    char dir[40];
    struct console *console;
    _Atomic unsigned wakes;
};

static void count_wake(void *context)
{
    struct subject *s = context;

    s->wakes++;
}

static void open_console(struct subject *s)
{
    struct error err = ERROR_INIT;

    must(console_open(s->dir, count_wake, s, &s->console, &err), &err);
}

static int set_up(void **state)
{
    struct subject *s = calloc(1, sizeof(*s));

    memcpy(s->dir, "/tmp/stasis-test-console-XXXXXX", 32);
    if (mkdtemp(s->dir) == NULL)
        return -1;
    open_console(s);
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    struct subject *s = *state;

    console_close(s->console);
    io_remove_tree(s->dir);
    free(s);
    return 0;
}

static void print(struct subject *s, const char *text)
{
    console_output(s->console, (const uint8_t *)text, strlen(text));
}

static void assert_log(struct subject *s, uint64_t offset, const char *want)
{
    char got[256] = "";
    ssize_t n = console_read(s->console, &offset, got, sizeof(got) - 1);

    assert_int_equal(n, strlen(want));
    assert_string_equal(got, want);
}

static void output_is_in_the_log_after_a_flush(void **state)
{
    struct subject *s = *state;

    print(s, "one ");
    print(s, "two");
    assert_int_equal(console_length(s->console), 0);
    console_flush(s->console);
    assert_int_equal(console_length(s->console), 7);
    assert_log(s, 0, "one two");
    assert_log(s, 4, "two");
    assert_log(s, 7, "");
}

static void wakes_once_until_it_is_flushed(void **state)
{
    struct subject *s = *state;

    print(s, "a");
    print(s, "b");
    assert_int_equal(s->wakes, 1);
    console_flush(s->console);
    print(s, "c");
    assert_int_equal(s->wakes, 2);
}

static void much_output_does_not_wait_for_the_loop(void **state)
{
    struct subject *s = *state;
    _cleanup_free_ uint8_t *bytes = calloc(1, MIB);

    console_output(s->console, bytes, MIB);
    assert_int_equal(console_length(s->console), MIB);
    assert_int_equal(s->wakes, 1);
}

static void a_new_process_appends(void **state)
{
    struct subject *s = *state;

    print(s, "before ");
    console_close(s->console);
    open_console(s);
    print(s, "after");
    console_flush(s->console);
    assert_log(s, 0, "before after");
}

/* Reads all from the start and returns how much that was; each byte once. */
static uint64_t read_all(struct subject *s, uint64_t *first_out)
{
    static uint8_t buf[MIB];
    uint64_t offset = 0, sum = 0;
    ssize_t n;

    *first_out = UINT64_MAX;
    while ((n = console_read(s->console, &offset, buf, sizeof(buf))) > 0) {
        if (*first_out == UINT64_MAX)
            *first_out = offset - (uint64_t)n;
        sum += (uint64_t)n;
        for (ssize_t i = 0; i < n; i += 4096)
            assert_int_equal(buf[i], 'x');
    }
    assert_int_equal(n, 0);
    return sum;
}

static void an_old_part_is_dropped_and_never_read_again(void **state)
{
    struct subject *s = *state;
    _cleanup_free_ uint8_t *bytes = malloc(MIB);
    const uint64_t total = CONSOLE_KEEP_BYTES + 40ull * MIB;
    uint64_t first;

    memset(bytes, 'x', MIB);
    for (uint64_t i = 0; i < total; i += MIB)
        console_output(s->console, bytes, MIB);
    assert_int_equal(console_length(s->console), total);
    uint64_t kept = read_all(s, &first);
    assert_int_equal(first + kept, total);
    assert_in_range(kept, CONSOLE_KEEP_BYTES, CONSOLE_KEEP_BYTES + 16 * MIB);
    /* Another process of the machine knows it too. */
    console_close(s->console);
    open_console(s);
    assert_int_equal(read_all(s, &first), kept);
}

static void *print_much(void *context)
{
    for (unsigned i = 0; i < 20000; i++)
        print(context, "0123456789");
    return NULL;
}

static void nothing_is_lost_between_threads(void **state)
{
    struct subject *s = *state;
    pthread_t threads[3];

    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, print_much, s), 0);
    for (unsigned i = 0; i < 1000; i++) {
        console_flush(s->console);
        assert_int_equal(console_length(s->console) % 10, 0);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    console_flush(s->console);
    assert_int_equal(console_length(s->console), 3 * 20000 * 10);
}

int main(void)
{
#define CONSOLE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CONSOLE_TEST(output_is_in_the_log_after_a_flush),
        CONSOLE_TEST(wakes_once_until_it_is_flushed),
        CONSOLE_TEST(much_output_does_not_wait_for_the_loop),
        CONSOLE_TEST(a_new_process_appends),
        CONSOLE_TEST(an_old_part_is_dropped_and_never_read_again),
        CONSOLE_TEST(nothing_is_lost_between_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
