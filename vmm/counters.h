/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counting what a machine does, for `stats` (docs/control.md). A counter is a plain
 * uint64_t that only these functions touch: any thread may read it at any time, and
 * counting neither locks nor orders anything.
 */
#ifndef STASIS_VMM_COUNTERS_H
#define STASIS_VMM_COUNTERS_H

#include <stdint.h>

/* Any thread. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* By the one thread that ever counts there: no locked instruction. */
static inline void counter_add_own(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline uint64_t counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Is given counters one by one; names are literals, those of bytes end in "_bytes". */
struct counter_visitor {
    void (*visit)(const char *name, uint64_t value, void *context);
    void *context;
};

static inline void counter_visit(const struct counter_visitor *visitor, const char *name,
                                 const uint64_t *counter)
{
    visitor->visit(name, counter_read(counter), visitor->context);
}

#endif
