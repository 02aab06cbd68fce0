/* SPDX-License-Identifier: Apache-2.0 */
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* What the threads share out; lives on the stack of workers_run(). */
struct round {
    unsigned count;
    workers_job *job;
    void *context;
    atomic_uint next; /* the first job that nobody has begun */
    /* under the pool's lock, while there is one */
    unsigned slots; /* given to threads */
    int result;
    unsigned failed; /* the lowest job that failed, if result is negative */
    struct error *err;
};

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t work; /* there may be something to do, or to end */
    pthread_cond_t idle; /* the last helper has left the round */
    unsigned limit;
    bool quit;
    struct round *round; /* the present one, or NULL */
    unsigned helpers;    /* that may still join it */
    unsigned active;     /* that are in it */
    bool busy;           /* somebody is in workers_run() with the threads */
    unsigned thread_count;
    pthread_t threads[WORKERS_MAX - 1];
};

static unsigned cpus(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

static unsigned bounded(unsigned threads)
{
    if (threads == 0)
        threads = cpus();
    return threads < WORKERS_MAX ? threads : WORKERS_MAX;
}

int workers_new(unsigned threads, struct workers **out)
{
    struct workers *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return -ENOMEM;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    pthread_cond_init(&w->idle, NULL);
    w->limit = bounded(threads);
    *out = w;
    return 0;
}

void workers_free(struct workers *w)
{
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->thread_count; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->idle);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void workers_limit(struct workers *w, unsigned threads)
{
    pthread_mutex_lock(&w->lock);
    w->limit = bounded(threads);
    pthread_mutex_unlock(&w->lock);
}

unsigned workers_threads(struct workers *w)
{
    unsigned threads;

    pthread_mutex_lock(&w->lock);
    threads = w->limit;
    pthread_mutex_unlock(&w->lock);
    return threads;
}

/* ---- doing jobs ---- */

static void lock(struct workers *w)
{
    if (w != NULL)
        pthread_mutex_lock(&w->lock);
}

static void unlock(struct workers *w)
{
    if (w != NULL)
        pthread_mutex_unlock(&w->lock);
}

/* Jobs begin in their order, so all below a failed one have begun, and will have
 * ended when the round does: the lowest failure is no matter of luck. */
static void note_failure(struct round *round, unsigned index, int r, const struct error *why)
{
    if (round->result < 0 && round->failed < index)
        return;
    round->result = r;
    round->failed = index;
    if (round->err != NULL)
        *round->err = *why;
}

/* Takes jobs until none is left. w: whose lock guards the round, or NULL. */
static void do_jobs(struct workers *w, struct round *round, unsigned slot)
{
    struct error why = ERROR_INIT;

    for (;;) {
        unsigned index = atomic_fetch_add_explicit(&round->next, 1, memory_order_relaxed);
        int r;

        if (index >= round->count)
            return;
        r = round->job(index, slot, round->context, &why);
        if (r >= 0)
            continue;
        /* No other job shall begin. Nobody adds so often that it wraps around. */
        atomic_store_explicit(&round->next, round->count, memory_order_relaxed);
        lock(w);
        note_failure(round, index, r, &why);
        unlock(w);
        return;
    }
}

static void *help(void *context)
{
    struct workers *w = context;

    pthread_mutex_lock(&w->lock);
    while (!w->quit) {
        struct round *round = w->round;
        unsigned slot;

        if (round == NULL || w->helpers == 0) {
            pthread_cond_wait(&w->work, &w->lock);
            continue;
        }
        w->helpers--;
        w->active++;
        slot = round->slots++;
        pthread_mutex_unlock(&w->lock);
        do_jobs(w, round, slot);
        pthread_mutex_lock(&w->lock);
        if (--w->active == 0)
            pthread_cond_signal(&w->idle);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are for the threads that expect them. */
static void start_threads(struct workers *w, unsigned wanted)
{
    sigset_t all, before;

    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* not sent by anybody: a call that a filter refused */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (w->thread_count < wanted &&
           pthread_create(&w->threads[w->thread_count], NULL, help, w) == 0)
        w->thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Opens the round to helpers: false if the threads are busy or none could help. */
static bool open_round(struct workers *w, struct round *round)
{
    unsigned wanted;

    if (w == NULL || round->count < 2)
        return false;
    pthread_mutex_lock(&w->lock);
    wanted = (w->limit < round->count ? w->limit : round->count) - 1;
    if (w->busy || wanted == 0) {
        pthread_mutex_unlock(&w->lock);
        return false;
    }
    w->busy = true;
    if (w->thread_count < wanted)
        start_threads(w, wanted);
    w->round = round;
    w->helpers = wanted;
    for (unsigned i = 0; i < wanted; i++)
        pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    return true;
}

/* Who has not come by now is not needed any more. */
static void close_round(struct workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->round = NULL;
    w->helpers = 0;
    while (w->active != 0)
        pthread_cond_wait(&w->idle, &w->lock);
    w->busy = false;
    pthread_mutex_unlock(&w->lock);
}

int workers_run(struct workers *w, unsigned count, workers_job *job, void *context,
                struct error *err)
{
    struct round round = {.count = count, .job = job, .context = context, .slots = 1, .err = err};

    atomic_init(&round.next, 0);
    if (open_round(w, &round)) {
        do_jobs(w, &round, 0);
        close_round(w);
    } else {
        do_jobs(NULL, &round, 0);
    }
    return round.result;
}
