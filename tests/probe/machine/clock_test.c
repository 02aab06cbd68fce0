/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest time on every way a machine can go on. What the guest's clock may have moved by
 * is bounded by the host's, read before and after: no deadline, no tolerance. Waiting is
 * what these tests are about; they wait for a moment of the host's clock.
 */
#include "harness.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "imgfmt/state.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY_MIB = 16, HOLD_MS = 1500 };

#define NS_PER_MS UINT64_C(1000000)
#define US_PER_S 1000000
#define MSR_TSC 0x10

/* Two clocks of one crystal, read through different multipliers. */
#define RATE_NS(ns) ((ns) / 10000 + 100000)

static void wait_ms(uint64_t ms)
{
    uint64_t end = clock_monotonic_ns() + ms * NS_PER_MS;

    while (clock_monotonic_ns() < end) {
        uint64_t left = end - clock_monotonic_ns();
        nanosleep(&(struct timespec){.tv_nsec = (long)min_u64(left, 100 * NS_PER_MS)}, NULL);
    }
}

/* What the guest's clock says, and the host's around it. */
struct reading {
    uint64_t guest_ns;
    uint64_t before_ns;
    uint64_t after_ns;
};

static struct reading read_clock(struct guest *guest)
{
    struct reading reading = {.before_ns = clock_monotonic_ns()};

    reading.guest_ns = ask_number(guest, "ns", 10, "kvmclock");
    reading.after_ns = clock_monotonic_ns();
    return reading;
}

static void boot(struct guest *guest, struct site *site)
{
    guest_boot(guest, site, "m", MEMORY_MIB, 0);
    if (strncmp(ask(guest, "kvmclock"), "ok", 2) != 0)
        skip();
}

/* Guest time has stood still for that long, and never goes back. */
static void assert_held(const struct reading *a, const struct reading *b, uint64_t held_ns)
{
    uint64_t passed_ns = b->after_ns - a->before_ns;

    assert_true(b->guest_ns >= a->guest_ns);
    uint64_t moved_ns = b->guest_ns - a->guest_ns;
    if (moved_ns > passed_ns - held_ns + RATE_NS(passed_ns))
        fail_msg("guest time moved by %llu ms in %llu ms of which it was held for %llu",
                 (unsigned long long)(moved_ns / NS_PER_MS),
                 (unsigned long long)(passed_ns / NS_PER_MS),
                 (unsigned long long)(held_ns / NS_PER_MS));
}

/* Guest time has gone on like the host's. */
static void assert_stepped(const struct reading *a, const struct reading *b)
{
    uint64_t least_ns = b->before_ns - a->after_ns;
    uint64_t most_ns = b->after_ns - a->before_ns;
    uint64_t moved_ns = b->guest_ns - a->guest_ns;

    assert_true(b->guest_ns >= a->guest_ns);
    /* The wall clock that the step is taken by may be slewed against the monotonic one. */
    assert_in_range(moved_ns, least_ns - least_ns / 1000 - RATE_NS(least_ns),
                    most_ns + most_ns / 1000 + RATE_NS(most_ns));
}

static int64_t rtc_us(struct guest *guest)
{
    const char *sign = strstr(ask_ok(guest, "time"), "rtc=");
    char text[CLOCK_RFC3339_SIZE];
    int64_t us;

    assert_non_null(sign);
    assert_int_equal(strlen(sign + 4), 20); /* 2026-01-31T12:34:56Z */
    snprintf(text, sizeof(text), "%.19s.000000Z", sign + 4);
    assert_int_equal(clock_parse_rfc3339(text, &us), 0);
    return us;
}

static void assert_wall_is_the_hosts(struct guest *guest)
{
    int64_t before = clock_wall_us();
    int64_t wall = rtc_us(guest);
    int64_t after = clock_wall_us();

    /* The chip counts seconds. */
    assert_true(wall >= before - US_PER_S && wall <= after);
}

static void a_paused_machine_goes_on_where_it_stopped(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    struct reading first = read_clock(&guest);
    int64_t wall = rtc_us(&guest);
    stasis_ok(site, "pause m");
    uint64_t from = clock_monotonic_ns();
    wait_ms(HOLD_MS);
    uint64_t held_ns = clock_monotonic_ns() - from;
    stasis_ok(site, "resume m");
    struct reading second = read_clock(&guest);
    assert_held(&first, &second, held_ns);
    assert_true(rtc_us(&guest) >= wall);
    assert_true(rtc_us(&guest) <= clock_wall_us() - (int64_t)(held_ns / 1000) + US_PER_S);
    guest_detach(&guest);
}

static void a_paused_machine_may_step_to_now(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    struct reading first = read_clock(&guest);
    stasis_ok(site, "pause m");
    wait_ms(HOLD_MS);
    stasis_ok(site, "resume m --clock host");
    struct reading second = read_clock(&guest);
    assert_stepped(&first, &second);
    assert_wall_is_the_hosts(&guest);
    guest_detach(&guest);
}

static void the_wall_clock_steps_past_all_that_was_missed(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    for (unsigned i = 0; i < 2; i++) {
        stasis_ok(site, "pause m");
        wait_ms(HOLD_MS / 2);
        stasis_ok(site, "resume m");
    }
    stasis_ok(site, "pause m");
    stasis_ok(site, "resume m --clock host");
    assert_wall_is_the_hosts(&guest);
    guest_detach(&guest);
}

static void many_short_pauses_never_step_back(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    struct reading last = read_clock(&guest);
    for (unsigned i = 0; i < 20; i++) {
        stasis_ok(site, "pause m");
        stasis_ok(site, "resume m%s", i % 2 == 0 ? "" : " --clock host");
        struct reading next = read_clock(&guest);
        assert_true(next.guest_ns >= last.guest_ns);
        last = next;
    }
    guest_detach(&guest);
}

struct clocks {
    uint64_t kvmclock_ns;
    uint64_t wall_us;
    uint64_t tsc;
};

static struct clocks saved_clocks(struct site *site, const char *reference)
{
    struct clocks clocks = {0};
    struct state_record record;
    size_t length;
    uint8_t *bytes = checkpoint_state(site, reference, &length);

    assert_int_equal(state_find(bytes, length, STATE_VM_CLOCK, 0, &record), 0);
    clocks.kvmclock_ns = load_le64(record.payload);
    clocks.wall_us = load_le64(record.payload + 16);
    assert_int_equal(state_find(bytes, length, STATE_VCPU_MSRS, 0, &record), 0);
    for (size_t at = 8; at + 16 <= record.length; at += 16)
        if (load_le64(record.payload + at) == MSR_TSC)
            clocks.tsc = load_le64(record.payload + at + 8);
    free(bytes);
    return clocks;
}

/* A checkpoint of a machine that is held is of the moment it was held. */
static void a_checkpoint_of_a_paused_machine_has_the_time_of_the_pause(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    stasis_ok(site, "pause m");
    stasis_ok(site, "save m@one");
    wait_ms(200);
    stasis_ok(site, "save m@two");
    struct clocks one = saved_clocks(site, "m@one");
    struct clocks two = saved_clocks(site, "m@two");
    assert_memory_equal(&one, &two, sizeof(one));
    assert_true(one.tsc != 0);
    guest_detach(&guest);
}

/* A KVM without hardware to help it shows guests the host's counter as it is. */
static bool kvm_moves_counters(void)
{
    uint64_t offset = 0;
    const uint64_t wanted = UINT64_C(1) << 40;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&wanted};
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);

    assert_true(vcpu >= 0);
    ioctl(vcpu, KVM_SET_DEVICE_ATTR, &attr);
    attr.addr = (uintptr_t)&offset;
    ioctl(vcpu, KVM_GET_DEVICE_ATTR, &attr);
    close(vcpu);
    close(vm);
    close(kvm);
    return offset == wanted;
}

static void the_counter_goes_on_where_it_stopped(void **state)
{
    struct site *site = *state;
    struct guest guest;

    if (!kvm_moves_counters())
        skip();
    boot(&guest, site);
    stasis_ok(site, "pause m");
    stasis_ok(site, "save m@one");
    uint64_t from = clock_monotonic_ns();
    wait_ms(400); /* less than a second: KVM would let the counter run on */
    uint64_t held_ns = clock_monotonic_ns() - from;
    stasis_ok(site, "resume m");
    stasis_ok(site, "pause m");
    stasis_ok(site, "save m@two");
    uint64_t passed_ns = clock_monotonic_ns() - from;
    struct clocks one = saved_clocks(site, "m@one");
    struct clocks two = saved_clocks(site, "m@two");
    uint64_t clock_ns = two.kvmclock_ns - one.kvmclock_ns;
    assert_true(two.tsc >= one.tsc && two.kvmclock_ns >= one.kvmclock_ns);
    assert_true(clock_ns <= passed_ns - held_ns + RATE_NS(passed_ns));
    /* At no more than 10 GHz it cannot have counted through the pause. */
    assert_true(two.tsc - one.tsc <= (passed_ns - held_ns) * 10);
    guest_detach(&guest);
}

static void a_restore_that_waits_goes_on_where_it_was_saved(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    struct reading first = read_clock(&guest);
    stasis_ok(site, "save m@one");
    uint64_t from = clock_monotonic_ns();
    stasis_ok(site, "restore m@one --discard --paused");
    wait_ms(HOLD_MS);
    uint64_t held_ns = clock_monotonic_ns() - from;
    stasis_ok(site, "resume m");
    struct reading second = read_clock(&guest);
    assert_held(&first, &second, held_ns);
    guest_detach(&guest);
}

static void a_restore_that_waits_steps_when_it_runs(void **state)
{
    struct site *site = *state;
    struct guest guest;

    boot(&guest, site);
    struct reading first = read_clock(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "restore m@one --discard --paused --clock host");
    wait_ms(HOLD_MS);
    stasis_ok(site, "resume m");
    struct reading second = read_clock(&guest);
    assert_stepped(&first, &second);
    assert_wall_is_the_hosts(&guest);
    guest_detach(&guest);
}

/* Rollback, clone, and a new process for the machine. */
static void every_restore_keeps_to_its_policy(void **state)
{
    struct site *site = *state;
    struct guest guest, clone;

    boot(&guest, site);
    struct reading first = read_clock(&guest);
    stasis_ok(site, "save m@one");
    uint64_t from = clock_monotonic_ns();
    wait_ms(HOLD_MS);
    uint64_t held_ns = clock_monotonic_ns() - from;
    stasis_ok(site, "restore m@one --discard");
    struct reading rolled_back = read_clock(&guest);
    assert_held(&first, &rolled_back, held_ns);
    stasis_ok(site, "restore m@one --discard --clock host");
    struct reading stepped = read_clock(&guest);
    assert_stepped(&first, &stepped);
    assert_wall_is_the_hosts(&guest);
    guest_detach(&guest);

    stasis_ok(site, "clone m@one c");
    guest_attach(&clone, site, "c", 0);
    struct reading cloned = read_clock(&clone);
    assert_held(&first, &cloned, held_ns);
    guest_detach(&clone);
    stasis_ok(site, "clone m@one h --clock host");
    guest_attach(&clone, site, "h", 0);
    struct reading now = read_clock(&clone);
    assert_stepped(&first, &now);
    assert_wall_is_the_hosts(&clone);
    guest_detach(&clone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_paused_machine_goes_on_where_it_stopped),
        MACHINE_TEST(a_paused_machine_may_step_to_now),
        MACHINE_TEST(the_wall_clock_steps_past_all_that_was_missed),
        MACHINE_TEST(many_short_pauses_never_step_back),
        MACHINE_TEST(a_checkpoint_of_a_paused_machine_has_the_time_of_the_pause),
        MACHINE_TEST(the_counter_goes_on_where_it_stopped),
        MACHINE_TEST(a_restore_that_waits_goes_on_where_it_was_saved),
        MACHINE_TEST(a_restore_that_waits_steps_when_it_runs),
        MACHINE_TEST(every_restore_keeps_to_its_policy),
    };

    return HARNESS_RUN(tests);
}
