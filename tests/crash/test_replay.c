/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crash tests: see README.md. Options, for whoever runs it by hand:
 *
 *   --long          every pair of lost writes, many more random crashes
 *   --seed N        other random choices
 *   --only W        one workload
 */
#include "replay.h"
#include "workloads.h"

#include "../unit/store/helper.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"

#include <inttypes.h>
#include <string.h>

static struct replay options = {.seed = 1, .pairs = 8, .random = 5, .stop = true};
static const char *only;

/* Sanitizers make it slow, and short keys are for the second time: some of the disks do
 * there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

struct recorded {
    char root[64];
    struct model model;
};

/* On a file system in memory if there is one: there are thousands of disks. */
static void record(struct recorded *rec, const struct workload *workload)
{
    size_t bytes;

    snprintf(rec->root, sizeof(rec->root), "/dev/shm/stasis-crash-XXXXXX");
    if (mkdtemp(rec->root) == NULL) {
        snprintf(rec->root, sizeof(rec->root), "/tmp/stasis-crash-XXXXXX");
        assert_non_null(mkdtemp(rec->root));
    }
    workload_record(workload, rec->root);
    const uint8_t *log = shim_log(&bytes);
    model_init(&rec->model, log, bytes);
}

static void forget(struct recorded *rec, bool keep)
{
    model_clear(&rec->model);
    if (!keep)
        io_remove_tree(rec->root);
}

static struct replay_result run(struct recorded *rec)
{
    struct replay replay = options;
    struct replay_result result;

    replay.model = &rec->model;
    replay.dir = rec->root;
    shim_skip_syncs(true);
    replay_run(&replay, &result);
    shim_skip_syncs(false);
    return result;
}

static void every_crash_leaves_what_was_committed(void **state)
{
    const struct workload *workload = *state;
    uint64_t before = clock_monotonic_ns();
    struct replay_result result;
    struct recorded rec;

    if (only != NULL && strcmp(only, workload->name) != 0)
        skip();
    record(&rec, workload);
    result = run(&rec);
    print_message("%s: %zu steps, %" PRIu64 " crashes, %" PRIu64 " different disks, %.1f s\n",
                  workload->name, rec.model.count, result.crashes, result.disks,
                  (double)(clock_monotonic_ns() - before) / 1e9);
    forget(&rec, result.failures != 0);
    if (result.failures != 0) {
        fprintf(stderr, "workload %s, %s", workload->name, result.report);
        fail();
    }
}

/* ---- would it notice? ---- */

static void assert_noticed(enum shim_kind kind, const char *suffix)
{
    struct replay_result result;
    struct recorded rec;

    if (only != NULL)
        skip();
    record(&rec, &workloads[0]);
    assert_true(model_forget_syncs(&rec.model, kind, suffix) > 0);
    result = run(&rec);
    forget(&rec, false);
    assert_true(result.failures > 0);
}

static void packs_that_are_not_synced_are_noticed(void **state)
{
    (void)state;
    assert_noticed(SHIM_SYNC, ".tmp");
}

static void a_directory_that_is_not_synced_is_noticed(void **state)
{
    (void)state;
    assert_noticed(SHIM_SYNC_DIR, "packs");
}

static void a_catalogue_that_is_not_synced_is_noticed(void **state)
{
    (void)state;
    assert_noticed(SHIM_SYNC, "-wal");
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--long") == 0) {
            options.pairs = 60;
            options.random = 2000;
            options.every = 1;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            options.seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            only = argv[++i];
        }
    }
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[24] = {
        cmocka_unit_test(packs_that_are_not_synced_are_noticed),
        cmocka_unit_test(a_directory_that_is_not_synced_is_noticed),
        cmocka_unit_test(a_catalogue_that_is_not_synced_is_noticed),
    };
    size_t count = 3;

#ifdef SANITIZED
    options.every = 8;
#elif defined(STASIS_KEY_BITS)
    options.every = 3;
#endif
    read_options(argc, argv);
    for (size_t i = 0; i < workload_count; i++)
        tests[count++] =
            (struct CMUnitTest){workloads[i].name, every_crash_leaves_what_was_committed, NULL,
                                NULL, (void *)&workloads[i]};
    return _cmocka_run_group_tests("crash", tests, count, NULL, NULL);
}
