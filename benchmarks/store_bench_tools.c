/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "benchmarks/store_bench.h"

#include <errno.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void runs_add(struct runs *runs, double ours, double reference)
{
    if (runs->count == RUNS_MAX)
        fail("too many runs");
    runs->ours[runs->count] = ours;
    runs->reference[runs->count++] = reference;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double median_of(const double *values, unsigned count)
{
    double sorted[RUNS_MAX];

    if (count == 0 || count > RUNS_MAX)
        fail("no median of %u runs", count);
    memcpy(sorted, values, count * sizeof(*values));
    qsort(sorted, count, sizeof(*sorted), compare_doubles);
    return sorted[count / 2];
}

void print_figure(const char *name, double ours, double reference, double goal, const char *better,
                  const char *unit)
{
    printf("%s %.4g %.4g %.3g %s %s\n", name, ours, reference, goal, better, unit);
    fflush(stdout);
}

void print_runs(const char *name, const struct runs *runs, double goal, const char *better,
                const char *unit)
{
    print_figure(name, median_of(runs->ours, runs->count), median_of(runs->reference, runs->count),
                 goal, better, unit);
}

void print_runs_limit(const char *name, const struct runs *runs, double limit, const char *better,
                      const char *unit)
{
    printf("%s %.4g %.4g =%.4g %s %s\n", name, median_of(runs->ours, runs->count),
           median_of(runs->reference, runs->count), limit, better, unit);
    fflush(stdout);
}

void fail(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fputs("bench_store: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

void need(int r, const struct error *err, const char *what)
{
    if (r < 0)
        fail("%s: %s", what, err != NULL && err->message[0] != '\0' ? err->message : strerror(-r));
}

static double clock_seconds(clockid_t clock)
{
    struct timespec t;

    if (clock_gettime(clock, &t) < 0)
        fail("no clock: %s", strerror(errno));
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double seconds_now(void)
{
    return clock_seconds(CLOCK_MONOTONIC);
}

unsigned online_cpus(void)
{
    return (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

double cpu_seconds(void)
{
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

/* splitmix64 */
uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

char *work_path(const char *work, const char *name)
{
    char *path;

    if (asprintf(&path, "%s/%s", work, name) < 0)
        fail("out of memory");
    return path;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void remove_tree(const char *path)
{
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
        fail("cannot remove %s: %s", path, strerror(errno));
}

struct store *open_store(const char *dir)
{
    struct error err = ERROR_INIT;
    struct store *store;

    need(store_open(dir, true, &store, &err), &err, "opening a store");
    return store;
}

struct digest commit_map(struct ingest *in, const struct digest *root, uint64_t size_bytes)
{
    _cleanup_free_ struct manifest *m = calloc(1, sizeof(*m));
    struct ingest_commit commit = {.manifest = m};
    struct error err = ERROR_INIT;
    struct digest id;

    if (m == NULL)
        fail("out of memory");
    m->kind = CHECKPOINT_COLD;
    m->created_us = clock_wall_us(); /* no two are the same */
    m->config.vcpus = 1;
    m->config.memory_bytes = 256u << 20;
    m->config.disk_count = 1;
    need(manifest_space_set(m, "disk0", size_bytes, root), NULL, "naming a disk");
    need(ingest_commit(in, &commit, &id, &err), &err, "committing");
    return id;
}
