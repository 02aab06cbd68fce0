/* SPDX-License-Identifier: Apache-2.0 */
/* Tries the crashes that a log allows: puts the disk each of them may leave into a
 * fresh directory and has it checked. */
#ifndef STASIS_TESTS_CRASH_REPLAY_H
#define STASIS_TESTS_CRASH_REPLAY_H

#include "model.h"

struct replay {
    const struct model *model;
    const char *dir; /* for the disks; the store is in dir/disk/store */
    uint64_t seed;   /* of what is chosen at random */
    unsigned pairs;  /* try all pairs of lost steps where so many may be lost, or fewer */
    unsigned random; /* so many further crashes at each position */
    unsigned every;  /* check every Nth disk; 0: all */
    bool stop;       /* at the first failure */
};

struct replay_result {
    uint64_t crashes; /* possible ones that were looked at */
    uint64_t disks;   /* different disks, which were checked */
    uint64_t failures;
    char report[8192]; /* of the first failure */
};

void replay_run(const struct replay *replay, struct replay_result *result);

#endif
