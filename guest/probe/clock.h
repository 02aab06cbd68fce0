/* SPDX-License-Identifier: Apache-2.0 */
/* The clocks a guest sees. */
#ifndef PROBE_CLOCK_H
#define PROBE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct rtc_time {
    unsigned year, month, day, hour, minute, second;
};

/* kvmclock was offered and is on. */
bool clock_has_kvmclock(void);

/* Nanoseconds of kvmclock since the machine was made; flags as in the ABI. */
uint64_t clock_kvmclock_ns(uint8_t *flags_out);

/* kvmclock's wall clock at its zero. */
void clock_kvm_wall(uint32_t *sec_out, uint32_t *nsec_out);

/* False if there is no such chip. */
bool clock_rtc(struct rtc_time *out);

/* Nanoseconds from an arbitrary start: kvmclock, else the TSC measured against
 * the PIT once. 0 if there is neither. */
uint64_t clock_now_ns(void);

#endif
