/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving what was restored gives the same device state, record by record, but
 * for what is a reading of a clock. The mask, and why each is in it:
 *
 *   vcpu.msrs   the data of MSR 0x10 (TSC) and 0x6e0 (TSC_DEADLINE): the counter
 *               runs on between restore and save, and KVM forgets a deadline that
 *               has passed. The counter must have moved forwards, and by no more
 *               than the time that has passed.
 *   vcpu.lapic  the timer's current count (offset 0x390): computed from what is
 *               left of its period
 *   vm.pit      count_load_time of each channel: host time of the last load
 *   vm.clock    kvmclock, the host's wall clock, the guest's wall clock
 *
 * Nothing else is masked; the RTC keeps its time as an offset, which stays.
 */
#include "harness.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "imgfmt/state.h"

#include <linux/kvm.h>
#include <stdlib.h>

enum { MEMORY_MIB = 16, MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0, APIC_TMCCT = 0x390 };

struct state {
    uint8_t *bytes;
    size_t length;
};

static struct state state_of(struct site *site, const char *reference)
{
    struct state state;
    struct error err = ERROR_INIT;

    state.bytes = checkpoint_state(site, reference, &state.length);
    if (state_check(state.bytes, state.length, &err) < 0)
        fail_msg("%s: %s", reference, err.message);
    return state;
}

/* ---- the mask ---- */

static void mask_msrs(uint8_t *payload, size_t length)
{
    for (size_t at = 8; at + 16 <= length; at += 16) {
        uint64_t index = load_le64(payload + at);
        if (index == MSR_TSC || index == MSR_TSC_DEADLINE)
            memset(payload + at + 8, 0, 8);
    }
}

static void mask_pit(uint8_t *payload, size_t length)
{
    struct kvm_pit_state2 pit;

    assert_int_equal(length, sizeof(pit));
    memcpy(&pit, payload, length);
    for (size_t i = 0; i < ARRAY_LEN(pit.channels); i++)
        pit.channels[i].count_load_time = 0;
    memcpy(payload, &pit, length);
}

static void mask_record(enum state_type type, uint8_t *payload, size_t length)
{
    switch (type) {
    case STATE_VCPU_MSRS:
        mask_msrs(payload, length);
        break;
    case STATE_VCPU_LAPIC:
        memset(payload + APIC_TMCCT, 0, 4);
        break;
    case STATE_VM_PIT:
        mask_pit(payload, length);
        break;
    case STATE_VM_CLOCK:
        memset(payload, 0, length);
        break;
    default:
        break;
    }
}

/* ---- comparing ---- */

struct comparison {
    const struct state *other;
    unsigned records;
    unsigned differences;
};

static uint8_t *masked(const struct state_record *record)
{
    uint8_t *copy = malloc(record->length + 1);

    assert_non_null(copy);
    memcpy(copy, record->payload, record->length);
    mask_record(record->type, copy, record->length);
    return copy;
}

static void report(const struct state_record *a, const uint8_t *left, const uint8_t *right)
{
    for (size_t i = 0; i < a->length; i++)
        if (left[i] != right[i])
            print_error("%s %u: byte 0x%zx is %02x, was %02x\n", state_type_name(a->type),
                        a->instance, i, right[i], left[i]);
}

static int compare_record(const struct state_record *a, void *context)
{
    struct comparison *comparison = context;
    struct state_record b;

    comparison->records++;
    if (state_find(comparison->other->bytes, comparison->other->length, a->type, a->instance, &b) <
            0 ||
        b.version != a->version || b.length != a->length || b.flags != a->flags) {
        print_error("%s %u is missing or of another shape\n", state_type_name(a->type),
                    a->instance);
        comparison->differences++;
        return 0;
    }
    uint8_t *left = masked(a);
    uint8_t *right = masked(&b);
    if (memcmp(left, right, a->length) != 0) {
        comparison->differences++;
        report(a, left, right);
    }
    free(left);
    free(right);
    return 0;
}

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
    struct comparison comparison = {.other = &b};
    struct comparison back = {.other = &a};

    state_each(a.bytes, a.length, compare_record, &comparison);
    state_each(b.bytes, b.length, compare_record, &back);
    assert_int_equal(comparison.differences, 0);
    assert_int_equal(back.differences, 0);
    assert_int_equal(comparison.records, back.records);
    assert_true(comparison.records > 15);
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
