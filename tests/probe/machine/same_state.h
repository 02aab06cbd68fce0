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
#ifndef STASIS_TESTS_PROBE_MACHINE_SAME_STATE_H
#define STASIS_TESTS_PROBE_MACHINE_SAME_STATE_H

#include <stddef.h>
#include <stdint.h>

struct state {
    uint8_t *bytes;
    size_t length;
};

/* Record by record; the running test fails, and what differs is printed. */
void assert_same_records(const struct state *a, const struct state *b);

#endif
