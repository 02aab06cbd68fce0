/* SPDX-License-Identifier: Apache-2.0 */
#include "replay.h"

#include "witness.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* ---- disks seen ---- */

struct seen {
    uint64_t *sums;
    size_t count;
    size_t capacity; /* a power of two */
};

static bool seen_put(struct seen *seen, uint64_t sum)
{
    uint64_t *old = seen->sums;
    size_t old_capacity = seen->capacity;

    sum |= 1; /* 0 is a free slot */
    if (seen->count * 2 >= seen->capacity) {
        seen->capacity = old_capacity == 0 ? 1024 : old_capacity * 2;
        seen->sums = calloc(seen->capacity, sizeof(*seen->sums));
        seen->count = 0;
        if (seen->sums == NULL)
            abort();
        for (size_t i = 0; i < old_capacity; i++)
            if (old[i] != 0)
                seen_put(seen, old[i]);
        free(old);
    }
    for (size_t i = sum >> 1;; i++) {
        uint64_t *slot = &seen->sums[i & (seen->capacity - 1)];

        if (*slot == sum)
            return false;
        if (*slot == 0) {
            *slot = sum;
            seen->count++;
            return true;
        }
    }
}

/* ---- one crash ---- */

struct run {
    const struct replay *replay;
    struct replay_result *result;
    struct seen seen;
    size_t at;
    size_t marks;    /* before at: what is promised depends on them */
    size_t *pending; /* steps that may be lost */
    size_t pending_count;
    uint8_t *fates;
    uint64_t random;
};

static uint64_t next_random(struct run *run)
{
    uint64_t *s = &run->random;

    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * UINT64_C(0x2545f4914f6cdd1d);
}

/* What was not kept, and what came last. */
static void report_steps(const struct run *run, char *out, size_t size)
{
    static const char *const fates[] = {"", "lost", "empty", "torn"};
    size_t used = 0;

    for (size_t i = 0; i < run->at && used < size; i++) {
        bool pending = model_is_pending(run->replay->model, i, run->at);
        char text[400];

        if (i + 12 >= run->at || (pending && run->fates[i] != FATE_KEPT))
            used += (size_t)snprintf(out + used, size - used, "  %4zu %-5s %s\n", i,
                                     pending ? fates[run->fates[i]] : "",
                                     model_describe(run->replay->model, i, text, sizeof(text)));
    }
}

static void fail_crash(struct run *run, uint64_t sum, uint64_t torn, const struct image *image,
                       const char *wrong)
{
    struct replay_result *result = run->result;
    _cleanup_free_ char *keep = io_format("%s/failed-%016" PRIx64, run->replay->dir, sum);
    char steps[4096] = "";

    if (result->failures++ != 0)
        return;
    if (mkdir(keep, 0700) == 0)
        image_write(image, keep);
    report_steps(run, steps, sizeof(steps));
    snprintf(result->report, sizeof(result->report),
             "seed %" PRIu64 ", disk %016" PRIx64 " (torn %" PRIu64 "), crash before step %zu of"
             " %zu\n%s\nthe disk as it was: %s\n%s",
             run->replay->seed, sum, torn, run->at, run->replay->model->count, wrong, keep, steps);
}

static void check_disk(struct run *run, uint64_t sum, uint64_t torn, const struct image *image)
{
    _cleanup_free_ char *dir = io_format("%s/disk", run->replay->dir);
    _cleanup_free_ char *store = io_format("%s/store", dir);
    const char *wrong;

    if (run->replay->every > 1 && next_random(run) % run->replay->every != 0)
        return;
    run->result->disks++;
    io_remove_tree(dir);
    if (mkdir(dir, 0700) < 0)
        abort();
    image_write(image, dir);
    wrong = witness_check(run->replay->model, run->at, store);
    if (wrong != NULL)
        fail_crash(run, sum, torn, image, wrong);
}

static bool is_over(const struct run *run)
{
    return run->replay->stop && run->result->failures != 0;
}

/* fates are set: is this disk new, and what does the store make of it? */
static void try(struct run *run)
{
    uint64_t torn = next_random(run), sum;
    struct image image;

    if (is_over(run))
        return;
    run->result->crashes++;
    image_build(&image, run->replay->model, run->at, run->fates, torn);
    sum = image_sum(&image) + run->marks * UINT64_C(0x9e3779b97f4a7c15);
    if (seen_put(&run->seen, sum))
        check_disk(run, sum, torn, &image);
    image_clear(&image);
}

/* ---- the crashes at one position ---- */

static void set_all(struct run *run, enum fate fate)
{
    memset(run->fates, fate, run->at);
}

static void try_all(struct run *run)
{
    for (unsigned fate = FATE_KEPT; fate <= FATE_TORN; fate++) {
        set_all(run, (enum fate)fate);
        try(run);
    }
}

/* Everything up to a step and nothing behind it: the crashes of a disk that keeps
 * the order. */
static void try_prefixes(struct run *run)
{
    set_all(run, FATE_KEPT);
    for (size_t i = run->pending_count; i-- > 0;) {
        run->fates[run->pending[i]] = FATE_LOST;
        try(run);
    }
}

static void try_singles(struct run *run)
{
    for (unsigned fate = FATE_LOST; fate <= FATE_TORN; fate++) {
        set_all(run, FATE_KEPT);
        for (size_t i = 0; i < run->pending_count; i++) {
            run->fates[run->pending[i]] = (uint8_t)fate;
            try(run);
            run->fates[run->pending[i]] = FATE_KEPT;
        }
    }
    set_all(run, FATE_LOST);
    for (size_t i = 0; i < run->pending_count; i++) {
        run->fates[run->pending[i]] = FATE_KEPT;
        try(run);
        run->fates[run->pending[i]] = FATE_LOST;
    }
}

static void try_pairs(struct run *run)
{
    if (run->pending_count > run->replay->pairs)
        return;
    set_all(run, FATE_KEPT);
    for (size_t i = 0; i < run->pending_count; i++) {
        run->fates[run->pending[i]] = FATE_LOST;
        for (size_t k = i + 1; k < run->pending_count; k++) {
            run->fates[run->pending[k]] = FATE_LOST;
            try(run);
            run->fates[run->pending[k]] = FATE_KEPT;
        }
        run->fates[run->pending[i]] = FATE_KEPT;
    }
}

static void try_random(struct run *run)
{
    if (run->pending_count < 2)
        return;
    for (unsigned n = 0; n < run->replay->random; n++) {
        /* From nearly all kept to nearly all lost. */
        unsigned share = (unsigned)(next_random(run) % 100);

        set_all(run, FATE_KEPT);
        for (size_t i = 0; i < run->pending_count; i++)
            if (next_random(run) % 100 < share)
                run->fates[run->pending[i]] = (uint8_t)(1 + next_random(run) % 3);
        try(run);
    }
}

static void try_position(struct run *run, size_t at)
{
    run->at = at;
    run->pending_count = 0;
    for (size_t i = 0; i < at; i++)
        if (model_is_pending(run->replay->model, i, at))
            run->pending[run->pending_count++] = i;
    try_all(run);
    try_prefixes(run);
    try_singles(run);
    try_pairs(run);
    try_random(run);
}

/* Positions at which what may be lost, or what is promised, is about to change. */
static bool is_position(const struct model *m, size_t at)
{
    uint32_t kind = at == m->count ? SHIM_MARK : m->steps[at].record->kind;

    return kind == SHIM_MARK || kind == SHIM_SYNC || kind == SHIM_SYNC_DIR;
}

void replay_run(const struct replay *replay, struct replay_result *result)
{
    const struct model *m = replay->model;
    struct run run = {.replay = replay, .result = result};

    *result = (struct replay_result){0};
    run.pending = calloc(m->count + 1, sizeof(*run.pending));
    run.fates = calloc(m->count + 1, 1);
    run.random = replay->seed * 2 + 1;
    if (run.pending == NULL || run.fates == NULL)
        abort();
    for (size_t at = 0; at <= m->count; at++) {
        if (is_position(m, at))
            try_position(&run, at);
        run.marks += at < m->count && m->steps[at].record->kind == SHIM_MARK;
    }
    free(run.pending);
    free(run.fates);
    free(run.seen.sums);
}
