/* SPDX-License-Identifier: Apache-2.0 */
/* The probe guest says the truth: what it answers is compared with what is in its
 * memory. It is run by bare KVM calls, so no other part of the project is involved. */
#include "guest/probe/layout.h"
#include "guest/probe/pattern.h"
#include "tests/probe/bare/bare.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1ull << 20)
#define PATIENCE_S 20
#define FREE_PAGE (PROBE_FREE / PROBE_PAGE_SIZE)

static char reply[1024];

/* ---- helpers ---- */

static void next_line(struct bare *bare)
{
    enum bare_stop stop = bare_run_to_line(bare, reply, sizeof(reply), PATIENCE_S);

    if (stop == BARE_FAILED)
        fail_msg("%s", bare->why);
    if (stop != BARE_LINE)
        fail_msg("the guest said nothing (%d)", (int)stop);
}

static struct bare *start(uint64_t bytes)
{
    struct bare *bare = calloc(1, sizeof(*bare));

    assert_non_null(bare);
    if (bare_open(bare, bytes) != 0 || bare_load(bare, PROBE_ELF, "test") != 0)
        fail_msg("%s", bare->why);
    next_line(bare);
    return bare;
}

static void finish(struct bare *bare)
{
    bare_close(bare);
    free(bare);
}

__attribute__((format(printf, 2, 3))) static const char *ask(struct bare *bare, const char *fmt,
                                                             ...)
{
    char command[300];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(command, sizeof(command) - 1, fmt, args);
    va_end(args);
    assert_in_range(n, 1, sizeof(command) - 2);
    command[n] = '\n';
    assert_true(bare_type(bare, command, (size_t)n + 1));
    do
        next_line(bare);
    while (strncmp(reply, "tick ", 5) == 0);
    return reply;
}

static uint64_t field(const char *line, const char *name, int base)
{
    char key[40];
    const char *at;

    snprintf(key, sizeof(key), " %s=", name);
    at = strstr(line, key);
    if (at == NULL)
        fail_msg("no %s in: %s", name, line);
    return strtoull(at + strlen(key), NULL, base);
}

static uint64_t *page_of(struct bare *bare, uint64_t page)
{
    return (uint64_t *)(bare->low + page * PROBE_PAGE_SIZE);
}

static uint64_t sum_here(struct bare *bare, uint64_t page, uint64_t count)
{
    return probe_sum_words(page * PROBE_WORDS_PER_PAGE, page_of(bare, page),
                           count * PROBE_WORDS_PER_PAGE);
}

static const struct probe_shared *shared(struct bare *bare)
{
    return (const struct probe_shared *)(bare->low + PROBE_VARYING);
}

/* ---- tests ---- */

static void says_how_much_memory_it_found(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_string_equal(reply, "stasis-probe 1 ready mem=16777216");
    assert_int_equal(shared(bare)->magic, PROBE_SHARED_MAGIC);
    ask(bare, "info");
    assert_int_equal(field(reply, "pages", 10), 4096);
    assert_int_equal(field(reply, "varying", 10), PROBE_VARYING / PROBE_PAGE_SIZE);
    assert_int_equal(field(reply, "free", 10), FREE_PAGE);
    assert_non_null(strstr(reply, "cmdline=test"));
    finish(bare);
}

static void runs_in_the_smallest_machine(void **state)
{
    struct bare *bare = start(4 * MIB);

    (void)state;
    assert_string_equal(ask(bare, "fill 512 512 1"), "ok pages=512");
    assert_string_equal(ask(bare, "fill 512 513 1"), "error these pages are not free memory");
    finish(bare);
}

static void fills_memory_with_the_words_of_a_seed(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_string_equal(ask(bare, "fill 700 3 0x1234"), "ok pages=3");
    for (uint64_t p = 700; p < 703; p++) {
        for (unsigned i = 0; i < PROBE_WORDS_PER_PAGE; i++)
            assert_true(page_of(bare, p)[i] == probe_word(0x1234, p * PROBE_WORDS_PER_PAGE + i));
    }
    assert_int_equal(page_of(bare, 699)[511], 0);
    assert_int_equal(page_of(bare, 703)[0], 0);
    finish(bare);
}

static void sums_what_is_in_memory(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint64_t whole, parts;

    (void)state;
    ask(bare, "fill 600 100 7");
    page_of(bare, 650)[17] ^= 1; /* a change from outside is seen too */
    whole = field(ask(bare, "sum 600 100"), "sum", 16);
    assert_true(whole == sum_here(bare, 600, 100));
    parts = field(ask(bare, "sum 600 30"), "sum", 16);
    parts += field(ask(bare, "sum 630 70"), "sum", 16);
    assert_true(parts == whole);
    finish(bare);
}

static void sum_sees_a_page_that_moved(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint64_t before, after;

    (void)state;
    ask(bare, "write 600 0x55");
    before = field(ask(bare, "sum 600 2"), "sum", 16);
    ask(bare, "write 600 0");
    ask(bare, "write 601 0x55");
    after = field(ask(bare, "sum 600 2"), "sum", 16);
    assert_true(before != after);
    finish(bare);
}

static void sum_of_all_changes_only_with_memory(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint64_t first, wrong;

    (void)state;
    ask(bare, "fill 600 100 9");
    first = field(ask(bare, "sumall"), "sum", 16);
    ask(bare, "count start");
    ask(bare, "ping");
    assert_true(field(ask(bare, "sumall"), "sum", 16) == first);
    page_of(bare, 4095)[511] ^= 1ull << 63;
    wrong = field(ask(bare, "sumall"), "sum", 16);
    assert_true(wrong != first);
    page_of(bare, 4095)[511] ^= 1ull << 63;
    assert_true(field(ask(bare, "sumall"), "sum", 16) == first);
    finish(bare);
}

static void changes_only_what_it_says_it_changes(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint8_t *before = malloc(16 * MIB);

    (void)state;
    assert_non_null(before);
    memcpy(before, bare->low, 16 * MIB);
    ask(bare, "count start");
    ask(bare, "regs 1000");
    ask(bare, "fpu 3");
    ask(bare, "tick on 1");
    ask(bare, "time");
    ask(bare, "sumall");
    ask(bare, "nonsense");
    assert_memory_equal(before, bare->low, PROBE_VARYING);
    assert_memory_equal(before + PROBE_FREE, bare->low + PROBE_FREE, 16 * MIB - PROBE_FREE);
    free(before);
    finish(bare);
}

static void writes_and_reads_single_words(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_string_equal(ask(bare, "write 513 0xfedcba9876543210 511"), "ok");
    assert_true(page_of(bare, 513)[511] == 0xfedcba9876543210);
    page_of(bare, 514)[0] = 77;
    assert_string_equal(ask(bare, "read 514"), "ok value=000000000000004d");
    finish(bare);
}

static void dirties_one_word_in_each_page(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_string_equal(ask(bare, "dirty 100 7 5 600"), "ok pages=100");
    for (uint64_t p = 600; p < 600 + 700; p++) {
        uint64_t value = probe_word(5, p);
        unsigned changed = 0;

        for (unsigned i = 0; i < PROBE_WORDS_PER_PAGE; i++)
            changed += page_of(bare, p)[i] != 0;
        assert_int_equal(changed, (p - 600) % 7 == 0);
        if (changed != 0)
            assert_true(page_of(bare, p)[value % PROBE_WORDS_PER_PAGE] == value);
    }
    finish(bare);
}

static void reaches_memory_above_4_gib(void **state)
{
    const uint64_t high = 3ull << 18; /* the first page above the hole */
    struct bare *bare = start(6ull << 30);

    (void)state;
    assert_string_equal(reply, "stasis-probe 1 ready mem=6442450944");
    ask(bare, "fill %llu 4 3", (unsigned long long)high - 2);
    for (uint64_t p = high - 2; p < high + 2; p++)
        assert_true(page_of(bare, p)[5] == probe_word(3, p * PROBE_WORDS_PER_PAGE + 5));
    assert_string_equal(ask(bare, "fill 1572863 1 3"), "ok pages=1");
    assert_true(page_of(bare, 1572863)[0] == probe_word(3, 1572863ull * PROBE_WORDS_PER_PAGE));
    assert_string_equal(ask(bare, "sum 1572863 2"), "error these pages are not memory");
    finish(bare);
}

/* Ticks give the guest time to count in. */
static void let_run(struct bare *bare, unsigned ticks)
{
    ask(bare, "tick on 5");
    while (ticks-- > 0)
        next_line(bare);
    ask(bare, "tick off");
}

static void counts_only_between_start_and_stop(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint64_t count;

    (void)state;
    let_run(bare, 3);
    assert_string_equal(ask(bare, "count get"), "ok count=0 running=0");
    ask(bare, "count start");
    let_run(bare, 3);
    ask(bare, "count stop");
    count = field(reply, "count", 10);
    assert_true(count > 1000);
    assert_true(shared(bare)->counter == count);
    let_run(bare, 3);
    assert_true(field(ask(bare, "count get"), "count", 10) == count);
    finish(bare);
}

static double cpu_seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void sleeps_when_told_to_and_wakes_for_commands(void **state)
{
    struct bare *bare = start(16 * MIB);
    double before;

    (void)state;
    assert_string_equal(ask(bare, "idle on"), "ok");
    for (unsigned i = 0; i < 100; i++)
        assert_string_equal(ask(bare, "ping"), "ok");
    before = cpu_seconds();
    assert_int_equal(bare_run_to_line(bare, reply, sizeof(reply), 1), BARE_KICKED);
    assert_true(cpu_seconds() - before < 0.5);
    ask(bare, "count start"); /* work keeps it awake */
    let_run(bare, 3);
    assert_true(field(ask(bare, "count stop"), "count", 10) > 1000);
    assert_string_equal(ask(bare, "idle off"), "ok");
    assert_string_equal(ask(bare, "ping"), "ok");
    finish(bare);
}

static void churn_finds_a_page_of_another_moment(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint64_t written, old;

    (void)state;
    ask(bare, "churn start 600 50 7");
    let_run(bare, 10);
    ask(bare, "churn stop");
    written = field(ask(bare, "churn check"), "written", 10);
    assert_true(written > 50);
    old = page_of(bare, 620)[0];
    page_of(bare, 620)[0] = old - 50;
    ask(bare, "churn check");
    assert_non_null(strstr(reply, "error a page is not of this moment"));
    assert_int_equal(field(reply, "page", 10), 620);
    page_of(bare, 620)[0] = old;
    assert_true(field(ask(bare, "churn check"), "written", 10) == written);
    finish(bare);
}

static void general_registers_hold(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_string_equal(ask(bare, "regs"), "ok");
    finish(bare);
}

/* Kicks the guest out of its spinning and changes a register under it. */
static void a_changed_register_is_found(void **state)
{
    struct bare *bare = start(16 * MIB);
    struct kvm_regs regs;
    bool spinning = false;

    (void)state;
    assert_true(bare_type(bare, "regs 10000000000000\n", 20));
    for (unsigned i = 0; i < 200 && !spinning; i++) {
        assert_int_equal(bare_run_to_line(bare, reply, sizeof(reply), 1), BARE_KICKED);
        assert_int_equal(ioctl(bare->vcpu, KVM_GET_REGS, &regs), 0);
        spinning = (regs.r9 >> 48) == 0xa5c3;
    }
    assert_true(spinning);
    regs.r9 ^= 1;
    regs.rcx = 10;
    assert_int_equal(ioctl(bare->vcpu, KVM_SET_REGS, &regs), 0);
    next_line(bare);
    assert_string_equal(reply, "error a register changed register=8");
    finish(bare);
}

static void floating_point_state_holds_and_a_change_is_found(void **state)
{
    struct bare *bare = start(16 * MIB);
    struct kvm_fpu fpu;

    (void)state;
    ask(bare, "fpu 0x123456789");
    ask(bare, "sumall");
    assert_string_equal(ask(bare, "fpucheck"), "ok");
    assert_int_equal(ioctl(bare->vcpu, KVM_GET_FPU, &fpu), 0);
    fpu.xmm[3][0] ^= 1;
    assert_int_equal(ioctl(bare->vcpu, KVM_SET_FPU, &fpu), 0);
    ask(bare, "fpucheck");
    assert_string_equal(reply, "error floating point state changed mask=0000000000000008");
    finish(bare);
}

static void tells_the_time(void **state)
{
    struct bare *bare = start(16 * MIB);
    char wanted[5];
    time_t now = time(NULL);
    struct tm tm;
    uint64_t first, second;

    (void)state;
    gmtime_r(&now, &tm);
    strftime(wanted, sizeof(wanted), "%Y", &tm);
    ask(bare, "time");
    assert_int_equal(strlen(reply), strlen("ok rtc=2026-01-31T12:34:56Z"));
    assert_memory_equal(reply + strlen("ok rtc="), wanted, 4);
    first = field(ask(bare, "tsc"), "tsc", 10);
    second = field(ask(bare, "tsc"), "tsc", 10);
    assert_true(second > first);
    finish(bare);
}

static void kvmclock_runs_with_the_hosts_clock(void **state)
{
    struct bare *bare = start(16 * MIB);
    uint64_t start_ns, ns, sec;

    (void)state;
    if (strncmp(ask(bare, "kvmclock"), "ok", 2) != 0) {
        finish(bare);
        skip();
    }
    start_ns = field(reply, "ns", 10);
    sec = field(reply, "boot_sec", 10);
    assert_in_range((uint64_t)time(NULL) - sec, 0, 60);
    let_run(bare, 10); /* 50 ms */
    ns = field(ask(bare, "kvmclock"), "ns", 10) - start_ns;
    assert_in_range(ns, 45000000, 20000000000);
    finish(bare);
}

static void mistakes_get_an_error_and_nothing_else(void **state)
{
    static const struct {
        const char *command, *reply;
    } cases[] = {
        {"nonsense", "error no such command"},
        {"pin", "error no such command"},
        {"fill", "error usage: fill START COUNT SEED"},
        {"fill 600 1", "error usage: fill START COUNT SEED"},
        {"fill 600 1 2 3", "error usage: fill START COUNT SEED"},
        {"fill x 1 2", "error usage: fill START COUNT SEED"},
        {"fill 600 1 99999999999999999999", "error usage: fill START COUNT SEED"},
        {"fill 511 1 2", "error these pages are not free memory"},
        {"fill 600 0xffffffffffffffff 2", "error these pages are not free memory"},
        {"fill 0xffffffffffffffff 2 2", "error these pages are not free memory"},
        {"sum 0x9f 2", "error these pages are not memory"},
        {"write 600 1 512", "error a page has 512 words"},
        {"dirty 0x100000000 0x100000001 1", "error these pages are not free memory"},
        {"dirty 2 100000 1", "error these pages are not free memory"},
        {"count up", "error count start, count stop or count get"},
        {"tick on 0", "error tick on MS (1 to 3600000) or tick off"},
        {"churn start 1 2", "error churn start START COUNT BURST"},
        {"blk info", "error no such disk"},
        {"blk use 0", "error no such disk"},
        {"rng 4", "error no entropy device"},
    };
    struct bare *bare = start(16 * MIB);
    uint64_t sum = field(ask(bare, "sumall"), "sum", 16);

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(ask(bare, "%s", cases[i].command), cases[i].reply);
    assert_true(field(ask(bare, "sumall"), "sum", 16) == sum);
    finish(bare);
}

static void a_line_too_long_is_refused_whole(void **state)
{
    struct bare *bare = start(16 * MIB);
    char line[400];

    (void)state;
    memset(line, ' ', sizeof(line));
    memcpy(line, "ping", 4);
    line[sizeof(line) - 1] = '\n';
    assert_true(bare_type(bare, line, sizeof(line)));
    next_line(bare);
    assert_string_equal(reply, "error line too long");
    assert_string_equal(ask(bare, "ping"), "ok");
    finish(bare);
}

static void empty_lines_and_carriage_returns_say_nothing(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_true(bare_type(bare, "\n\r\n  \n", 6));
    assert_string_equal(ask(bare, "ping\r"), "ok");
    assert_string_equal(ask(bare, "count get"), "ok count=0 running=0");
    finish(bare);
}

static void an_exception_is_reported_and_powers_off(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    ask(bare, "crash");
    assert_non_null(strstr(reply, "error exception vector=6 cpl=3 code=0000000000000000 rip="));
    assert_int_equal(bare_run(bare), BARE_OFF);
    finish(bare);
}

static void powers_off_and_resets(void **state)
{
    struct bare *bare = start(16 * MIB);

    (void)state;
    assert_string_equal(ask(bare, "off"), "ok");
    assert_int_equal(bare_run(bare), BARE_OFF);
    finish(bare);
    bare = start(16 * MIB);
    assert_string_equal(ask(bare, "reset"), "ok");
    assert_int_equal(bare_run(bare), BARE_RESET);
    finish(bare);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_how_much_memory_it_found),
        cmocka_unit_test(runs_in_the_smallest_machine),
        cmocka_unit_test(fills_memory_with_the_words_of_a_seed),
        cmocka_unit_test(sums_what_is_in_memory),
        cmocka_unit_test(sum_sees_a_page_that_moved),
        cmocka_unit_test(sum_of_all_changes_only_with_memory),
        cmocka_unit_test(changes_only_what_it_says_it_changes),
        cmocka_unit_test(writes_and_reads_single_words),
        cmocka_unit_test(dirties_one_word_in_each_page),
        cmocka_unit_test(reaches_memory_above_4_gib),
        cmocka_unit_test(counts_only_between_start_and_stop),
        cmocka_unit_test(sleeps_when_told_to_and_wakes_for_commands),
        cmocka_unit_test(churn_finds_a_page_of_another_moment),
        cmocka_unit_test(general_registers_hold),
        cmocka_unit_test(a_changed_register_is_found),
        cmocka_unit_test(floating_point_state_holds_and_a_change_is_found),
        cmocka_unit_test(tells_the_time),
        cmocka_unit_test(kvmclock_runs_with_the_hosts_clock),
        cmocka_unit_test(mistakes_get_an_error_and_nothing_else),
        cmocka_unit_test(a_line_too_long_is_refused_whole),
        cmocka_unit_test(empty_lines_and_carriage_returns_say_nothing),
        cmocka_unit_test(an_exception_is_reported_and_powers_off),
        cmocka_unit_test(powers_off_and_resets),
    };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("skip: /dev/kvm: %s\n", strerror(errno));
        return 77;
    }
    close(fd);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
