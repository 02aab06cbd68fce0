/* SPDX-License-Identifier: Apache-2.0 */
/* Saving what was restored gives the same device state: whole machines, by the commands
 * that people use. points_test.c does it at many more points. */
#include "harness.h"
#include "same_state.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "imgfmt/state.h"

#include <stdlib.h>

enum { MEMORY_MIB = 16, MSR_TSC = 0x10 };

static struct state state_of(struct site *site, const char *reference)
{
    struct state state;
    struct error err = ERROR_INIT;

    state.bytes = checkpoint_state(site, reference, &state.length);
    if (state_check(state.bytes, state.length, &err) < 0)
        fail_msg("%s: %s", reference, err.message);
    return state;
}

/* ---- comparing ---- */

static uint64_t tsc_of(const struct state *state)
{
    struct state_record record;

    assert_int_equal(state_find(state->bytes, state->length, STATE_VCPU_MSRS, 0, &record), 0);
    for (size_t at = 8; at + 16 <= record.length; at += 16)
        if (load_le64(record.payload + at) == MSR_TSC)
            return load_le64(record.payload + at + 8);
    fail_msg("no TSC in the state");
    return 0;
}

static uint64_t tsc_ticks(const struct state *state, uint64_t ns)
{
    struct state_record record;

    assert_int_equal(state_find(state->bytes, state->length, STATE_VCPU_TSC_KHZ, 0, &record), 0);
    return ns / 1000 * load_le32(record.payload) / 1000;
}

/* elapsed_ns: at least what has passed for the guest between the two. */
static void assert_same_state(struct site *site, const char *first, const char *second,
                              uint64_t elapsed_ns)
{
    struct state a = state_of(site, first);
    struct state b = state_of(site, second);

    assert_same_records(&a, &b);
    uint64_t moved = tsc_of(&b) - tsc_of(&a);
    if (elapsed_ns > 0 && moved > tsc_ticks(&a, elapsed_ns))
        fail_msg("the time-stamp counter has moved by %llu", (unsigned long long)moved);
    free(a.bytes);
    free(b.bytes);
}

/* ---- a machine with something in every device ---- */

static void prepare(struct guest *guest, struct site *site)
{
    guest_boot(guest, site, "m", MEMORY_MIB, 2);
    ask_ok(guest, "fpu 0x1234567");
    ask_ok(guest, "time"); /* leaves the RTC's index */
    ask_ok(guest, "rng 16");
    ask_ok(guest, "blk write 3 3 3");
    ask(guest, "kvmclock");
}

static uint64_t saved_paused(struct site *site)
{
    stasis_ok(site, "pause m");
    uint64_t before = clock_monotonic_ns();
    stasis_ok(site, "save m@first");
    return before;
}

static void saved_again_in_place_it_is_the_same(void **state)
{
    struct site *site = *state;
    struct guest guest;

    prepare(&guest, site);
    uint64_t before = saved_paused(site);
    stasis_ok(site, "save m@second");
    assert_same_state(site, "m@first", "m@second", clock_monotonic_ns() - before);
    guest_detach(&guest);
}

static void restored_in_place_it_is_the_same(void **state)
{
    struct site *site = *state;
    struct guest guest;

    prepare(&guest, site);
    uint64_t before = saved_paused(site);
    stasis_ok(site, "resume m");
    guest_fill(&guest, 5);
    ask_ok(&guest, "fpu 0x7654321");
    ask_ok(&guest, "rng 32");
    ask_ok(&guest, "blk read 0 8 600");
    ask_ok(&guest, "count start"); /* so that it is somewhere else */
    ask_ok(&guest, "blk use 1");
    stasis_ok(site, "restore m@first --discard --paused");
    stasis_ok(site, "save m@second");
    assert_same_state(site, "m@first", "m@second", clock_monotonic_ns() - before);
    stasis_ok(site, "restore m@second --discard");
    stasis_ok(site, "save m@third");
    assert_same_state(site, "m@first", "m@third", 0);
    stasis_ok(site, "resume m");
    ask_ok(&guest, "fpucheck");
    guest_detach(&guest);
}

static void restored_freshly_it_is_the_same(void **state)
{
    struct site *site = *state;
    struct guest guest;

    prepare(&guest, site);
    uint64_t before = saved_paused(site);
    guest_detach(&guest);
    stasis_ok(site, "kill m");
    stasis_ok(site, "restore m@first --paused");
    stasis_ok(site, "save m@second");
    assert_same_state(site, "m@first", "m@second", clock_monotonic_ns() - before);
    guest_attach(&guest, site, "m", 2);
    stasis_ok(site, "resume m");
    ask_ok(&guest, "fpucheck");
    guest_detach(&guest);
}

static void two_clones_saved_at_once_are_the_same(void **state)
{
    struct site *site = *state;
    struct guest guest;

    prepare(&guest, site);
    uint64_t before = saved_paused(site);
    guest_detach(&guest);
    stasis_ok(site, "clone m@first c -n 2 --paused");
    pid_t one = stasis_begin(site, "save c-1@x");
    pid_t two = stasis_begin(site, "save c-2@x");
    assert_int_equal(stasis_end(site, one), 0);
    assert_int_equal(stasis_end(site, two), 0);
    assert_same_state(site, "c-1@x", "c-2@x", 0);
    assert_same_state(site, "m@first", "c-1@x", clock_monotonic_ns() - before);
    assert_same_state(site, "m@first", "c-2@x", clock_monotonic_ns() - before);
}

/* A save of a guest that runs is taken at any instruction. */
static void states_of_a_running_guest_come_back_the_same(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char from[16], to[16];

    prepare(&guest, site);
    ask_ok(&guest, "tick on 1"); /* exits, kvmclock */
    guest_type(&guest, "blk sum 0 8192\nblk sum 0 8192\nblk sum 0 8192\nblk sum 0 8192\n");
    for (unsigned i = 0; i < 10; i++)
        stasis_ok(site, "save m@r%u", i);
    for (unsigned i = 0; i < 10; i++) {
        snprintf(from, sizeof(from), "m@r%u", i);
        snprintf(to, sizeof(to), "m@t%u", i);
        stasis_ok(site, "restore %s --discard --paused", from);
        stasis_ok(site, "save %s", to);
        assert_same_state(site, from, to, 0);
    }
    guest_detach(&guest);
}

/* The probe uses one CPU; the other waits for its start-up interrupt. */
static void a_second_cpu_that_waits_is_the_same(void **state)
{
    struct site *site = *state;

    stasis_ok(site, "run -d --name m --paused --cpus 2 --memory 16M --kernel %s", PROBE_ELF);
    struct guest guest;
    guest_attach(&guest, site, "m", 0);
    stasis_ok(site, "resume m");
    guest_wait_banner(&guest);
    uint64_t before = saved_paused(site);
    guest_detach(&guest);
    stasis_ok(site, "clone m@first c --paused");
    stasis_ok(site, "save c@x");
    assert_same_state(site, "m@first", "c@x", clock_monotonic_ns() - before);
    stasis_ok(site, "resume c");
    guest_attach(&guest, site, "c", 0);
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(saved_again_in_place_it_is_the_same),
        MACHINE_TEST(restored_in_place_it_is_the_same),
        MACHINE_TEST(restored_freshly_it_is_the_same),
        MACHINE_TEST(two_clones_saved_at_once_are_the_same),
        MACHINE_TEST(states_of_a_running_guest_come_back_the_same),
        MACHINE_TEST(a_second_cpu_that_waits_is_the_same),
    };

    return HARNESS_RUN(tests);
}
