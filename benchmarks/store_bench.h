/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of bench_store share. A benchmark is not a test: whatever fails
 * ends the program with a message, so nothing here returns an error.
 *
 * Where a figure is "per core used", the processor time of the whole process is
 * what counts, for ours and for the reference: other work on the machine then
 * hardly shows. Where somebody waits for the result, it is the time that passes.
 */
#ifndef STASIS_BENCHMARKS_STORE_BENCH_H
#define STASIS_BENCHMARKS_STORE_BENCH_H

#include "store/ingest.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- tools ---- */

#define RUNS_MAX 64

/* Several runs of ours and of the reference, taken in turns. */
struct runs {
    unsigned count;
    double ours[RUNS_MAX];
    double reference[RUNS_MAX];
};

void runs_add(struct runs *runs, double ours, double reference);
double median_of(const double *values, unsigned count);

/* Prints what benchmarks/store.sh hands to `figure`. */
void print_figure(const char *name, double ours, double reference, double goal, const char *better,
                  const char *unit);
void print_runs(const char *name, const struct runs *runs, double goal, const char *better,
                const char *unit);

/* The same where the goal is what ours has to reach by itself. */
void print_runs_limit(const char *name, const struct runs *runs, double limit, const char *better,
                      const char *unit);

__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *fmt, ...);
/* Ends the program with err's message if r is negative. */
void need(int r, const struct error *err, const char *what);

double seconds_now(void);
double cpu_seconds(void); /* of the whole process */
unsigned online_cpus(void);

/* A random number; the same ones in every run of the program. */
uint64_t random_next(uint64_t *state);

/* A new path in the folder of work. The caller frees it. */
char *work_path(const char *work, const char *name);
void remove_tree(const char *path);

struct store *open_store(const char *dir);
/* Commits one map as the disk of a cold checkpoint. */
struct digest commit_map(struct ingest *in, const struct digest *root, uint64_t size_bytes);

/* ---- the floor: the same steps as bare loops ---- */

/* The distinct non-zero pages of some memory in zstd -1 groups of 64 KiB. */
struct floor_groups {
    uint8_t *stored;
    size_t stored_bytes;
    size_t count;
    size_t *offsets; /* count + 1 of them */
    uint32_t *raw_bytes;
    uint64_t pages;   /* non-zero ones */
    uint64_t *firsts; /* page numbers: the first of each group */
};

/* Zero scan, XXH3-128, look-up, zstd -1. Without I/O. */
void floor_pack(const uint8_t *data, uint64_t pages, struct floor_groups *out);
void floor_groups_clear(struct floor_groups *g);
/* Decompresses `count` groups from number `first` on, or those that `order` (may be
 * NULL) lists there; returns the bytes. */
uint64_t floor_unpack(const struct floor_groups *g, const size_t *order, size_t first,
                      size_t count);
/* Zero scan, XXH3-128, look-up, comparison with a page in memory: `twice` holds
 * the same pages. Returns the time of the loop without building the table. */
double floor_compare(const uint8_t *data, const uint8_t *twice, uint64_t pages);
/* Look-ups of ids in a table of them, in batches with prefetch: a second's worth
 * of them in millions. */
double floor_lookups(const struct page_ref *ids, uint64_t count);

/* ---- the figures ---- */

void bench_data(const char *work, const uint8_t *data, uint64_t pages);
void bench_commit(const char *work, const uint8_t *pages);
void bench_map_overhead(const char *work);
void bench_index(const char *work);
void bench_gc(const char *work, const uint8_t *data, uint64_t pages);

#endif
