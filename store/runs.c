/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of the index, DIR/index/N.run. A newer one has a higher number and may
 * cover what older ones do; these are then removed. A process that still has one
 * mapped keeps it. Who writes holds the lock of the directory; who reads needs none.
 *
 * A new run is durable before an older one is removed, and neither matters: what no
 * run covers is indexed from the footers.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/packs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#define RUN_NAME_SIZE 24 /* 16 digits, ".run", NUL */

/* A pack weighs as much as its objects, and something for opening it. */
#define PACK_WEIGHT 256u

/* An older run is taken into a new one unless it is this many times as large. */
#define RUN_RATIO 4u

DEFINE_CLEANUP(struct run, run_free)

/* ---- the directory ---- */

/* True and its number if it is a run's name. */
static bool parse_name(const char *name, uint64_t *number_out)
{
    uint8_t bytes[8];
    char hex[17];

    if (strlen(name) != 20 || strcmp(name + 16, ".run") != 0)
        return false;
    memcpy(hex, name, 16);
    hex[16] = '\0';
    if (hex_decode(hex, bytes, sizeof(bytes)) < 0)
        return false;
    *number_out = load_be64(bytes);
    return true;
}

static void make_name(uint64_t number, char out[RUN_NAME_SIZE])
{
    snprintf(out, RUN_NAME_SIZE, "%016llx.run", (unsigned long long)number);
}

struct listing {
    uint64_t *numbers; /* ascending */
    size_t count;
    size_t capacity;
};

static void listing_clear(struct listing *l)
{
    free(l->numbers);
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static int add_number(struct listing *l, uint64_t number)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity * 2 + 16;
        uint64_t *list = realloc(l->numbers, capacity * sizeof(*list));

        if (list == NULL)
            return -ENOMEM;
        l->numbers = list;
        l->capacity = capacity;
    }
    l->numbers[l->count++] = number;
    return 0;
}

static int list_runs(int dirfd, struct listing *out)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    uint64_t number;
    int r = 0;

    if (dir == NULL) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    while (r == 0 && (entry = readdir(dir)) != NULL)
        if (parse_name(entry->d_name, &number))
            r = add_number(out, number);
    if (out->count != 0)
        qsort(out->numbers, out->count, sizeof(*out->numbers), compare_numbers);
    return r;
}

static int open_dir(struct packs *packs)
{
    int fd = openat(packs->store_dirfd, "index", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* ---- opening ---- */

/* Replaces the runs. index_lock is held. What they do not cover goes into a fresh
 * tail when it is needed. */
static void adopt(struct packs *packs, struct run **runs, unsigned count)
{
    struct run *old[PACKS_RUNS_MAX], *tail;
    unsigned old_count;

    pthread_rwlock_wrlock(&packs->lock);
    old_count = packs->run_count;
    memcpy(old, packs->runs, sizeof(old));
    memcpy(packs->runs, runs, count * sizeof(*runs));
    packs->run_count = count;
    tail = steal_pointer(packs->tail);
    packs->settled = 0;
    for (uint32_t i = 0; i < packs->count; i++) {
        packs->list[i]->indexed = false;
        packs_bind(packs, i);
    }
    packs_note_size_locked(packs);
    pthread_rwlock_unlock(&packs->lock);
    run_free(tail);
    for (unsigned i = 0; i < old_count; i++)
        run_free(old[i]);
}

/* -EAGAIN: one has been removed meanwhile, so there is a newer one. */
static int open_listed(struct packs *packs, int dirfd, const struct listing *l, struct run **runs,
                       unsigned *count_out)
{
    /* The newest, if there are too many. */
    size_t first = l->count > PACKS_RUNS_MAX ? l->count - PACKS_RUNS_MAX : 0;

    for (size_t i = first; i < l->count; i++) {
        char name[RUN_NAME_SIZE];
        int r;

        make_name(l->numbers[i], name);
        r = run_open(dirfd, name, &runs[*count_out], NULL);
        if (r == -ENOENT)
            return -EAGAIN;
        if (r == 0)
            ++*count_out;
        else if (!packs_is_passing(r))
            atomic_store(&packs->doubtful, true);
    }
    return 0;
}

static int open_runs(struct packs *packs, int dirfd)
{
    int r = -EAGAIN;

    /* More rounds than this only cost others' work. */
    for (unsigned round = 0; r == -EAGAIN && round < 10; round++) {
        _cleanup_(listing_clear) struct listing l = {0};
        struct run *runs[PACKS_RUNS_MAX];
        unsigned count = 0;

        r = list_runs(dirfd, &l);
        if (r == 0)
            r = open_listed(packs, dirfd, &l, runs, &count);
        if (r == 0) {
            adopt(packs, runs, count);
            continue;
        }
        while (count > 0)
            run_free(runs[--count]);
    }
    return r;
}

int packs_open_runs(struct packs *packs)
{
    _cleanup_close_ int dirfd = open_dir(packs);
    int r;

    if (dirfd < 0)
        return dirfd == -ENOENT ? 0 : dirfd;
    pthread_mutex_lock(&packs->index_lock);
    r = open_runs(packs, dirfd);
    pthread_mutex_unlock(&packs->index_lock);
    return r;
}

/* ---- writing ---- */

static uint64_t weight_of_run(const struct run *run)
{
    return run->object_count + (uint64_t)run->pack_count * PACK_WEIGHT;
}

/* How much of a run can be found: what is in packs that have not been forgotten. */
static uint64_t weight_in_use(struct packs *packs, const struct run *run)
{
    uint64_t weight = 0;

    for (uint32_t i = 0; i < run->pack_count; i++) {
        uint32_t number = run->packs[i].number;

        if (number != PACK_NONE && pack_state_of(packs->list[number]) != PACK_FORGOTTEN)
            weight += run->packs[i].objects + PACK_WEIGHT;
    }
    return weight;
}

/* Can the pack be in a run? */
static bool is_listable(const struct pack *pack)
{
    return pack->damage == NULL && pack_state_of(pack) != PACK_FORGOTTEN &&
           pack->objects <= RUN_OBJECTS_MAX;
}

/* Of what is in no file. */
static uint64_t loose_weight_locked(struct packs *packs)
{
    uint64_t weight = packs->tail == NULL ? 0 : weight_of_run(packs->tail);

    for (uint32_t i = packs->settled; i < packs->count; i++)
        if (!packs->list[i]->indexed && is_listable(packs->list[i]))
            weight += packs->list[i]->objects + PACK_WEIGHT;
    return weight;
}

static bool is_worth_it(struct packs *packs)
{
    bool worth;

    pthread_rwlock_rdlock(&packs->lock);
    worth = loose_weight_locked(packs) >= packs->run_weight || atomic_load(&packs->doubtful);
    pthread_rwlock_unlock(&packs->lock);
    return worth;
}

/* Marks the runs that stay: the oldest ones as long as they are much larger than all
 * that comes behind them, and most of them is in use. */
static unsigned choose_kept_locked(struct packs *packs, bool all)
{
    uint64_t weight = loose_weight_locked(packs);
    unsigned kept = packs->run_count;

    if (all || atomic_load(&packs->doubtful))
        return 0;
    while (kept > 0 && (weight_in_use(packs, packs->runs[kept - 1]) < weight * RUN_RATIO ||
                        kept >= PACKS_RUNS_MAX - 1))
        weight += weight_in_use(packs, packs->runs[--kept]);
    for (unsigned i = 0; i < kept; i++)
        if (weight_in_use(packs, packs->runs[i]) < weight_of_run(packs->runs[i]) / 4 * 3)
            kept = i;
    return kept;
}

struct plan {
    struct packs *packs;
    unsigned kept; /* runs that stay */
    struct run_pack *list;
    uint32_t count;
};

static void plan_clear(struct plan *plan)
{
    free(plan->list);
}

/* Lists the packs of the new run: those in the tail and in runs that do not stay. */
static int make_plan_locked(struct packs *packs, bool all, struct plan *plan)
{
    plan->packs = packs;
    plan->kept = choose_kept_locked(packs, all);
    plan->list = calloc(packs->count + 1u, sizeof(*plan->list));
    if (plan->list == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < packs->count && plan->count < RUN_PACKS_MAX; i++) {
        const struct pack *pack = packs->list[i];
        bool stays = false;

        if (!is_listable(pack))
            continue;
        for (unsigned k = 0; k < plan->kept && !stays; k++) {
            int64_t place = run_pack_of(packs->runs[k], pack->seq);

            stays = place >= 0 && packs->runs[k]->packs[place].number == i;
        }
        if (stays)
            continue;
        plan->list[plan->count] =
            (struct run_pack){.seq = pack->seq, .objects = pack->objects, .number = i};
        memcpy(plan->list[plan->count++].id, pack->id, PACK_ID_SIZE);
    }
    return 0;
}

static const uint8_t *ids_of(void *context, const struct run_pack *pack, struct error *err)
{
    const struct plan *plan = context;
    const uint8_t *ids;

    packs_repin(plan->packs);
    return packs_ids(plan->packs, pack->number, &ids, err) < 0 ? NULL : ids;
}

/* Leaves out packs whose footers cannot be read. */
static int load_planned(struct plan *plan, struct error *err)
{
    uint32_t kept = 0;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < plan->count; i++) {
        const uint8_t *ids;

        packs_repin(plan->packs);
        r = packs_ids(plan->packs, plan->list[i].number, &ids, err);
        if (r == 0)
            plan->list[kept++] = plan->list[i];
        if (r == -EBADMSG)
            r = 0;
    }
    plan->count = kept;
    return r;
}

static bool is_kept(const struct plan *plan, const char *name)
{
    bool kept = false;

    pthread_rwlock_rdlock(&plan->packs->lock);
    for (unsigned i = 0; i < plan->kept; i++)
        kept |= strcmp(plan->packs->runs[i]->name, name) == 0;
    pthread_rwlock_unlock(&plan->packs->lock);
    return kept;
}

/* Everything older that does not stay, and what writers that died left behind. */
static int remove_others(const struct plan *plan, int dirfd, const char *fresh)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return -EIO;
    }
    while ((entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, fresh) != 0 &&
            !is_kept(plan, entry->d_name))
            unlinkat(dirfd, entry->d_name, 0);
    return 0;
}

static int next_name(int dirfd, char out[RUN_NAME_SIZE])
{
    _cleanup_(listing_clear) struct listing l = {0};
    int r = list_runs(dirfd, &l);
    uint64_t newest = l.count == 0 ? 0 : l.numbers[l.count - 1];

    if (r == 0 && newest == UINT64_MAX)
        r = -EOVERFLOW;
    make_name(newest + 1, out);
    return r;
}

/* index_lock and the lock of the directory are held. */
static int write_run(struct packs *packs, int dirfd, bool all, struct error *err)
{
    _cleanup_(plan_clear) struct plan plan = {0};
    char name[RUN_NAME_SIZE];
    int r;

    pthread_rwlock_rdlock(&packs->lock);
    r = make_plan_locked(packs, all, &plan);
    pthread_rwlock_unlock(&packs->lock);
    if (r == 0)
        r = next_name(dirfd, name);
    if (r < 0)
        return error_errno(err, -r, "writing the index");
    packs_pin(packs, true);
    r = load_planned(&plan, err);
    if (r == 0)
        r = run_write(dirfd, name, plan.list, plan.count, RUN_PIECE_SLOTS, ids_of, &plan, err);
    packs_pin(packs, false);
    if (r == 0)
        r = remove_others(&plan, dirfd, name);
    if (r < 0)
        return r;
    atomic_store(&packs->doubtful, false);
    r = open_runs(packs, dirfd);
    return r < 0 ? error_errno(err, -r, "opening the new index") : 0;
}

static int make_dir(struct packs *packs, struct error *err)
{
    int dirfd = open_dir(packs);

    if (dirfd == -ENOENT) {
        if (mkdirat(packs->store_dirfd, "index", 0700) < 0 && errno != EEXIST)
            return error_errno(err, errno, "making the directory of the index");
        if (io_sync_dir(packs->store_dirfd) < 0)
            return error_errno(err, EIO, "making the directory of the index");
        dirfd = open_dir(packs);
    }
    return dirfd < 0 ? error_errno(err, -dirfd, "opening the directory of the index") : dirfd;
}

/* 1 if the lock is ours. */
static int lock_dir(int dirfd, bool wait, struct error *err)
{
    while (flock(dirfd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR)
            return error_errno(err, errno, "locking the directory of the index");
    }
    return 1;
}

static int write_locked(struct packs *packs, int dirfd, bool all, struct error *err)
{
    int r = 0;

    /* Somebody else may have done it. */
    if (!all)
        r = open_runs(packs, dirfd);
    if (r < 0)
        return error_errno(err, -r, "opening the index");
    return all || is_worth_it(packs) ? write_run(packs, dirfd, all, err) : 0;
}

int packs_write_runs(struct packs *packs, bool all, struct error *err)
{
    _cleanup_close_ int dirfd = -1;
    int r;

    /* The second time it is known which of the packs are damaged. */
    if (!all && (!is_worth_it(packs) || packs_index(packs, NULL) < 0 || !is_worth_it(packs)))
        return 0;
    dirfd = make_dir(packs, err);
    if (dirfd < 0)
        return dirfd;
    r = lock_dir(dirfd, all, err);
    if (r <= 0)
        return r;
    pthread_mutex_lock(&packs->index_lock);
    r = write_locked(packs, dirfd, all, err);
    pthread_mutex_unlock(&packs->index_lock);
    return r;
}

/* ---- checking ---- */

struct run_check {
    struct packs *packs;
    int (*found)(const char *file, uint64_t offset, const char *what, void *context);
    void *context;
    struct error *err;
};

/* From here on this process does without files: an index that is wrong in one place
 * is not to be believed in others. */
static void distrust(struct packs *packs)
{
    pthread_rwlock_rdlock(&packs->lock);
    for (unsigned i = 0; i < packs->run_count; i++)
        atomic_store(&packs->runs[i]->bad, true);
    pthread_rwlock_unlock(&packs->lock);
}

static int complain(const struct run_check *c, const char *name, uint64_t offset, const char *what)
{
    _cleanup_free_ char *file = io_format("index/%s", name);

    distrust(c->packs);
    return c->found(file, offset, what, c->context);
}

/* Is the object where the run says? */
static bool run_lists(struct run *run, struct page_ref id, uint32_t place, uint32_t object)
{
    struct run_cursor cursor = run_find(run, run_hash(id));
    uint32_t p, o;
    int r;

    while ((r = run_next(run, &cursor, &p, &o)) == 1)
        if (p == place && o == object)
            return true;
    return false;
}

/* The number of a pack that a run covers, if it can be read. */
static const uint8_t *ids_of_covered(struct packs *packs, const struct run_pack *pack)
{
    uint32_t number = packs_number_of(packs, pack->seq);
    const uint8_t *ids = NULL;

    if (number == PACK_NONE || packs_get(packs, number)->objects != pack->objects ||
        memcmp(packs_get(packs, number)->id, pack->id, PACK_ID_SIZE) != 0)
        return NULL;
    return packs_ids(packs, number, &ids, NULL) < 0 ? NULL : ids;
}

/* Its sums are right; so what is missing was never in it. */
static int check_objects(const struct run_check *c, struct run *run)
{
    for (uint32_t p = 0; p < run->pack_count; p++) {
        packs_repin(c->packs);

        const uint8_t *ids = ids_of_covered(c->packs, &run->packs[p]);

        for (uint32_t i = 0; ids != NULL && i < run->packs[p].objects; i++)
            if (!run_lists(run, page_ref_load(ids + (size_t)i * PAGE_REF_SIZE), p, i))
                return complain(c, run->name, 0, "it lacks objects of the packs it covers");
    }
    return 0;
}

static int check_run(const struct run_check *c, int dirfd, const char *name)
{
    _cleanup_(run_freep) struct run *run = NULL;
    struct error e = ERROR_INIT;
    uint64_t offset = 0;
    int r = run_open(dirfd, name, &run, &e);

    if (r == 0)
        r = run_check(run, &offset, &e);
    /* Replaced meanwhile. */
    if (r == -ENOENT)
        return 0;
    if (packs_is_passing(r))
        return error_errno(c->err, -r, "checking index/%s", name);
    return r < 0 ? complain(c, name, offset, e.message) : check_objects(c, run);
}

int packs_check_runs(struct packs *packs,
                     int (*found)(const char *file, uint64_t offset, const char *what,
                                  void *context),
                     void *context, struct error *err)
{
    struct run_check c = {packs, found, context, err};
    _cleanup_(listing_clear) struct listing l = {0};
    _cleanup_close_ int dirfd = open_dir(packs);
    int r = dirfd < 0 ? dirfd : list_runs(dirfd, &l);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return error_errno(err, -r, "reading the directory of the index");
    packs_pin(packs, true);
    for (size_t i = 0; r == 0 && i < l.count; i++) {
        char name[RUN_NAME_SIZE];

        make_name(l.numbers[i], name);
        r = check_run(&c, dirfd, name);
    }
    packs_pin(packs, false);
    return r;
}
