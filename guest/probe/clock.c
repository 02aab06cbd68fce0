/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/probe/clock.h"
#include "guest/probe/io.h"

#define CMOS_INDEX 0x70
#define CMOS_DATA 0x71
#define PIT_CHANNEL2 0x42
#define PIT_COMMAND 0x43
#define PIT_GATE 0x61
#define PIT_HZ 1193182ull
#define PIT_TICKS 11932 /* 10 ms */

/* Looks, each an exit. An update of the clock chip lasts 2 ms; a chip that is not
 * there seems to be updated for ever. */
#define RTC_PATIENCE 10000
#define PIT_PATIENCE 200000

/* Linux, Documentation/virt/kvm/x86/msr.rst. */
struct kvm_time {
    volatile uint32_t version;
    uint32_t pad0;
    volatile uint64_t tsc_timestamp;
    volatile uint64_t system_time;
    volatile uint32_t tsc_to_system_mul;
    volatile int8_t tsc_shift;
    volatile uint8_t flags;
    uint8_t pad[2];
};

struct kvm_wall {
    volatile uint32_t version;
    volatile uint32_t sec;
    volatile uint32_t nsec;
};

extern struct kvm_time kvm_system_time;
extern struct kvm_wall kvm_wall_clock;
extern uint64_t kvmclock_enabled;

static uint64_t ns_per_tick; /* 32.32 fixed point */

bool clock_has_kvmclock(void)
{
    return kvmclock_enabled != 0 && kvm_system_time.tsc_to_system_mul != 0;
}

static uint64_t kvmclock_scale(uint64_t delta)
{
    int shift = kvm_system_time.tsc_shift;

    delta = shift < 0 ? delta >> -shift : delta << shift;
    return (uint64_t)((unsigned __int128)delta * kvm_system_time.tsc_to_system_mul >> 32);
}

uint64_t clock_kvmclock_ns(uint8_t *flags_out)
{
    uint32_t version;
    uint64_t now;

    do {
        version = kvm_system_time.version & ~1u;
        __asm__ volatile("" ::: "memory");
        now = kvm_system_time.system_time + kvmclock_scale(rdtsc() - kvm_system_time.tsc_timestamp);
        *flags_out = kvm_system_time.flags;
        __asm__ volatile("" ::: "memory");
    } while (kvm_system_time.version != version);
    return now;
}

void clock_kvm_wall(uint32_t *sec_out, uint32_t *nsec_out)
{
    *sec_out = kvm_wall_clock.sec;
    *nsec_out = kvm_wall_clock.nsec;
}

static uint8_t cmos_read(uint8_t index)
{
    outb(CMOS_INDEX, index);
    return inb(CMOS_DATA);
}

static void rtc_read_registers(uint8_t out[6])
{
    static const uint8_t index[6] = {9, 8, 7, 4, 2, 0};

    for (unsigned i = 0; i < 6; i++)
        out[i] = cmos_read(index[i]);
}

static bool rtc_is_steady(void)
{
    for (unsigned i = 0; i < RTC_PATIENCE; i++) {
        if ((cmos_read(0x0a) & 0x80) == 0)
            return true;
    }
    return false;
}

static unsigned rtc_number(uint8_t raw, bool binary)
{
    return binary ? raw : (raw >> 4) * 10u + (raw & 15u);
}

bool clock_rtc(struct rtc_time *out)
{
    uint8_t now[6], again[6];
    uint8_t mode = cmos_read(0x0b);
    bool binary = (mode & 4) != 0, pm, same;
    unsigned hour;

    do {
        if (!rtc_is_steady())
            return false;
        rtc_read_registers(now);
        rtc_read_registers(again);
        same = true;
        for (unsigned i = 0; i < 6; i++)
            same = same && now[i] == again[i];
    } while (!same);
    pm = (mode & 2) == 0 && (now[3] & 0x80) != 0;
    hour = rtc_number(now[3] & 0x7f, binary);
    if ((mode & 2) == 0)
        hour = hour % 12 + (pm ? 12 : 0);
    *out = (struct rtc_time){2000 + rtc_number(now[0], binary), rtc_number(now[1], binary),
                             rtc_number(now[2], binary),        hour,
                             rtc_number(now[4], binary),        rtc_number(now[5], binary)};
    return true;
}

/* Counts the TSC through 10 ms of PIT channel 2 (mode 0: OUT rises at zero). */
static uint64_t measure_tick(void)
{
    uint8_t gate = inb(PIT_GATE) & 0x0c;
    uint64_t start, ticks = 0;

    outb(PIT_GATE, gate);
    outb(PIT_COMMAND, 0xb0);
    outb(PIT_CHANNEL2, PIT_TICKS & 0xff);
    outb(PIT_CHANNEL2, PIT_TICKS >> 8);
    outb(PIT_GATE, gate | 1);
    start = rdtsc();
    for (unsigned i = 0; i < PIT_PATIENCE && ticks == 0; i++) {
        if ((inb(PIT_GATE) & 0x20) != 0)
            ticks = rdtsc() - start;
    }
    outb(PIT_GATE, gate);
    if (ticks == 0)
        return 0;
    return ((PIT_TICKS * 1000000000ull / PIT_HZ) << 32) / ticks;
}

uint64_t clock_now_ns(void)
{
    uint8_t flags;

    if (clock_has_kvmclock())
        return clock_kvmclock_ns(&flags);
    if (ns_per_tick == 0)
        ns_per_tick = measure_tick();
    return (uint64_t)((unsigned __int128)rdtsc() * ns_per_tick >> 32);
}
