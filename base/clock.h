/* SPDX-License-Identifier: Apache-2.0 */
/* Times: monotonic for measuring, wall clock for people (RFC 3339, UTC). */
#ifndef STASIS_BASE_CLOCK_H
#define STASIS_BASE_CLOCK_H

#include <stdint.h>

#define CLOCK_RFC3339_SIZE 32

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_monotonic_ns(void);

/* CLOCK_REALTIME in microseconds since 1970. */
int64_t clock_wall_us(void);

/* "2026-01-31T12:34:56.123456Z". Returns out. */
char *clock_rfc3339(int64_t wall_us, char out[CLOCK_RFC3339_SIZE]);

/* Reads what clock_rfc3339() writes. 0 or -EINVAL. */
int clock_parse_rfc3339(const char *text, int64_t *wall_us_out);

#endif
