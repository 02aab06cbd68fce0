/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `fill` and `blk write` write and what `sum` adds up, so that a test on
 * the host can say beforehand what the guest must answer. A position counts
 * 8-byte words: page * 512 + index in RAM, lba * 64 + index on a disk.
 *
 * The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable
 * Pseudorandom Number Generators, OOPSLA 2014). The sum of a range is the sum,
 * modulo 2^64, of its words' contributions: sums of adjacent ranges add up, and a
 * word that moves changes the sum as surely as one that is lost.
 */
#ifndef PROBE_PATTERN_H
#define PROBE_PATTERN_H

#include <stdint.h>

static inline uint64_t probe_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The word at a position of what was filled from seed. */
static inline uint64_t probe_word(uint64_t seed, uint64_t position)
{
    return probe_mix(seed + (position + 1) * 0x9e3779b97f4a7c15ull);
}

/* What one word adds to a sum. */
static inline uint64_t probe_sum_word(uint64_t position, uint64_t word)
{
    return probe_mix(word + (position + 1) * 0xd1342543de82ef95ull);
}

/* What count words adds to a sum; the first is at position. */
static inline uint64_t probe_sum_words(uint64_t position, const uint64_t *words, uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += probe_sum_word(position + i, words[i]);
    return sum;
}

#endif
