/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

DEFINE_CLEANUP(struct workers, workers_free)

static struct workers *make(unsigned threads)
{
    struct workers *w;

    assert_int_equal(workers_new(threads, &w), 0);
    return w;
}

/* ---- every job once ---- */

enum { JOBS = 5000 };

static int count_job(unsigned index, unsigned slot, void *context, struct error *err)
{
    atomic_uint *counts = context;

    (void)slot;
    (void)err;
    atomic_fetch_add(&counts[index], 1);
    return 0;
}

static void assert_each_once(struct workers *w)
{
    _cleanup_free_ atomic_uint *counts = calloc(JOBS, sizeof(*counts));

    assert_int_equal(workers_run(w, JOBS, count_job, counts, NULL), 0);
    for (unsigned i = 0; i < JOBS; i++)
        assert_int_equal(counts[i], 1);
}

static void every_job_is_done_once(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(4);

    (void)state;
    for (unsigned round = 0; round < 20; round++)
        assert_each_once(w);
}

static void without_threads_the_caller_does_it_all(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(1);

    (void)state;
    assert_each_once(w);
    assert_each_once(NULL);
}

static void no_jobs_are_no_work(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(4);

    (void)state;
    assert_int_equal(workers_run(w, 0, count_job, NULL, NULL), 0);
}

/* ---- at the same time ---- */

struct meeting {
    pthread_barrier_t barrier;
    atomic_uint slots[WORKERS_MAX];
};

/* Returns only when all the others have come. */
static int meet(unsigned index, unsigned slot, void *context, struct error *err)
{
    struct meeting *m = context;

    (void)index;
    (void)err;
    pthread_barrier_wait(&m->barrier);
    atomic_fetch_add(&m->slots[slot], 1);
    return 0;
}

static void jobs_run_at_once_and_each_thread_has_a_slot(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(3);
    struct meeting m = {0};

    (void)state;
    assert_int_equal(workers_threads(w), 3);
    pthread_barrier_init(&m.barrier, NULL, 3);
    assert_int_equal(workers_run(w, 3, meet, &m, NULL), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(m.slots[i], 1);
    pthread_barrier_destroy(&m.barrier);
}

static void a_raised_limit_brings_more_threads(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(1);
    struct meeting m = {0};

    (void)state;
    workers_limit(w, 2);
    pthread_barrier_init(&m.barrier, NULL, 2);
    assert_int_equal(workers_run(w, 2, meet, &m, NULL), 0);
    pthread_barrier_destroy(&m.barrier);
}

struct crowd {
    atomic_uint inside, most;
};

static int note_crowd(unsigned index, unsigned slot, void *context, struct error *err)
{
    struct crowd *c = context;
    unsigned inside = atomic_fetch_add(&c->inside, 1) + 1, most = atomic_load(&c->most);

    (void)index;
    (void)slot;
    (void)err;
    while (inside > most && !atomic_compare_exchange_weak(&c->most, &most, inside))
        ;
    atomic_fetch_sub(&c->inside, 1);
    return 0;
}

static void a_lowered_limit_holds(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(4);
    struct meeting m = {0};
    struct crowd c = {0};

    (void)state;
    pthread_barrier_init(&m.barrier, NULL, 4);
    assert_int_equal(workers_run(w, 4, meet, &m, NULL), 0); /* four there are */
    pthread_barrier_destroy(&m.barrier);
    workers_limit(w, 2);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(workers_run(w, 200, note_crowd, &c, NULL), 0);
    assert_true(c.most <= 2);
}

/* ---- failures ---- */

struct failing {
    unsigned from; /* jobs from here on fail */
    atomic_uint begun;
};

static int fail_from(unsigned index, unsigned slot, void *context, struct error *err)
{
    struct failing *f = context;

    (void)slot;
    atomic_fetch_add(&f->begun, 1);
    if (index < f->from)
        return 0;
    return error_set(err, STATUS_FAILED, EPROTO, "job %u", index);
}

static void the_lowest_failure_is_reported(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(4);

    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        struct failing f = {.from = round % 20};
        struct error err = ERROR_INIT;
        char message[32];

        snprintf(message, sizeof(message), "job %u", f.from);
        assert_int_equal(workers_run(w, 40, fail_from, &f, &err), -EPROTO);
        assert_string_equal(err.message, message);
    }
}

static void after_a_failure_nothing_is_begun(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(4);
    struct failing f = {.from = 100};

    (void)state;
    assert_int_equal(workers_run(w, 100000, fail_from, &f, NULL), -EPROTO);
    /* Each thread may be in one job when the first fails. */
    assert_true(f.begun <= 104);
    assert_each_once(w);
}

/* ---- who calls ---- */

static int run_inside(unsigned index, unsigned slot, void *context, struct error *err)
{
    _cleanup_free_ atomic_uint *counts = calloc(JOBS, sizeof(*counts));
    int r;

    (void)index;
    (void)slot;
    r = workers_run(context, 100, count_job, counts, err);
    for (unsigned i = 0; r == 0 && i < 100; i++)
        r = counts[i] == 1 ? 0 : -EIO;
    return r;
}

static void a_job_may_have_jobs(void **state)
{
    _cleanup_(workers_freep) struct workers *w = make(3);
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(workers_run(w, 20, run_inside, w, &err), 0);
}

static void *run_often(void *context)
{
    struct error err = ERROR_INIT;
    intptr_t failures = 0;

    for (unsigned i = 0; i < 100; i++)
        failures += run_inside(0, 0, context, &err) != 0;
    return (void *)failures;
}

static void threads_may_call_at_once(void **state)
{
    enum { CALLERS = 4 };
    _cleanup_(workers_freep) struct workers *w = make(3);
    pthread_t callers[CALLERS];

    (void)state;
    for (unsigned i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&callers[i], NULL, run_often, w), 0);
    for (unsigned i = 0; i < CALLERS; i++) {
        void *failures;

        pthread_join(callers[i], &failures);
        assert_null(failures);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_job_is_done_once),
        cmocka_unit_test(without_threads_the_caller_does_it_all),
        cmocka_unit_test(no_jobs_are_no_work),
        cmocka_unit_test(jobs_run_at_once_and_each_thread_has_a_slot),
        cmocka_unit_test(a_raised_limit_brings_more_threads),
        cmocka_unit_test(a_lowered_limit_holds),
        cmocka_unit_test(the_lowest_failure_is_reported),
        cmocka_unit_test(after_a_failure_nothing_is_begun),
        cmocka_unit_test(a_job_may_have_jobs),
        cmocka_unit_test(threads_may_call_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
