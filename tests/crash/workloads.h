/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to a store while every write is recorded. Each begins without a
 * store, is small, and does the same each time. */
#ifndef STASIS_TESTS_CRASH_WORKLOADS_H
#define STASIS_TESTS_CRASH_WORKLOADS_H

#include <stddef.h>

struct workload {
    const char *name;
    void (*run)(const char *store_dir);
};

extern const struct workload workloads[];
extern const size_t workload_count;

/* Runs one with the recorder on: root/disk/store is its store. The log is then in
 * shim_log(). */
void workload_record(const struct workload *workload, const char *root);

#endif
