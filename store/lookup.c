/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding objects. Runs propose, footers decide. A search goes over all runs with
 * the packs' lock held for reading; where it meets something that has to be done
 * first (a footer that is not loaded, a pack that is in no run, a run that is
 * damaged), it ends, that is done without the lock, and the search begins again.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/packs.h"

#include <errno.h>

/* What is looked for, and where what is found goes to. */
struct query {
    enum pack_kind kind;
    struct page_ref id;
    bool any_variant;
    bool first; /* out[0]: the first in a live pack, else the first in a condemned one */
    uint32_t from;
    uint32_t to;
    struct location *out;
    unsigned max;
    unsigned found;
};

/* Why a search has to begin again. */
struct obstacle {
    struct pack *unloaded;
    bool unindexed;
    bool bad_run;
};

static bool is_met(const struct obstacle *o)
{
    return o->unloaded != NULL || o->unindexed || o->bad_run;
}

/* ---- making way ---- */

static void drop_bad_runs_locked(struct packs *packs)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < packs->run_count; i++) {
        struct run *run = packs->runs[i];

        if (!atomic_load(&run->bad)) {
            packs->runs[kept++] = run;
            continue;
        }
        for (uint32_t p = 0; p < run->pack_count; p++)
            if (run->packs[p].number != PACK_NONE)
                packs->list[run->packs[p].number]->indexed = false;
        run_free(run);
        packs->settled = 0;
        atomic_store(&packs->doubtful, true);
    }
    packs->run_count = kept;
    packs_note_size_locked(packs);
    /* An older run that has not been removed yet may cover some. */
    for (uint32_t i = 0; i < packs->count && packs->settled == 0; i++)
        packs_bind(packs, i);
}

static void drop_bad_runs(struct packs *packs)
{
    pthread_rwlock_wrlock(&packs->lock);
    drop_bad_runs_locked(packs);
    pthread_rwlock_unlock(&packs->lock);
}

/* Adds all objects of a pack. */
static int add_objects(struct run *run, const struct pack *pack, uint32_t number,
                       const uint8_t *ids)
{
    int place = run_add_pack(run, pack->seq, pack->id, pack->objects, number);
    int r = place < 0 ? place : 0;

    for (uint32_t i = 0; r == 0 && i < pack->objects; i++)
        r = run_add(run, run_hash(page_ref_load(ids + (size_t)i * PAGE_REF_SIZE)), (uint32_t)place,
                    i);
    return r;
}

/* A tail with room for twice as much. index_lock is held, so nobody else changes the
 * old one, and maps are pinned. */
static int grow_tail(struct packs *packs, uint64_t more)
{
    struct run *old = packs->tail, *fresh;
    uint64_t objects = (old == NULL ? 0 : old->object_count) + more;
    int r = run_new(max_u64(objects * 2, 1024), &fresh);

    for (uint32_t i = 0; r == 0 && old != NULL && i < old->pack_count; i++) {
        uint32_t number = old->packs[i].number;
        const uint8_t *ids = NULL;

        if (packs_state(packs, number) != PACK_FORGOTTEN)
            r = packs_ids(packs, number, &ids, NULL);
        if (r == 0 && ids != NULL)
            r = add_objects(fresh, packs_get(packs, number), number, ids);
        /* It went bad since; the others stay. */
        if (r == -EBADMSG)
            r = 0;
    }
    if (r < 0) {
        run_free(fresh);
        return r;
    }
    pthread_rwlock_wrlock(&packs->lock);
    packs->tail = fresh;
    pthread_rwlock_unlock(&packs->lock);
    run_free(old);
    return 0;
}

static int add_to_tail(struct packs *packs, uint32_t number, struct error *err)
{
    const struct pack *pack = packs_get(packs, number);
    const uint8_t *ids;
    int r = packs_ids(packs, number, &ids, err);

    if (r == -EBADMSG)
        return 0;
    if (r == 0 && (packs->tail == NULL || !run_has_room(packs->tail, pack->objects))) {
        r = grow_tail(packs, pack->objects);
        if (r < 0)
            return error_errno(err, -r, "indexing %s", pack->name);
    }
    if (r < 0)
        return r;
    pthread_rwlock_wrlock(&packs->lock);
    r = add_objects(packs->tail, pack, number, ids);
    packs->list[number]->indexed = r == 0;
    pthread_rwlock_unlock(&packs->lock);
    return r < 0 ? error_errno(err, -r, "indexing %s", pack->name) : 0;
}

/* The next pack that no run covers, or PACK_NONE. */
static uint32_t next_unsettled(struct packs *packs)
{
    uint32_t number = PACK_NONE;

    pthread_rwlock_wrlock(&packs->lock);
    while (packs->settled < packs->count) {
        const struct pack *pack = packs->list[packs->settled];

        if (!pack->indexed && pack->damage == NULL && pack_state_of(pack) != PACK_FORGOTTEN) {
            number = packs->settled;
            break;
        }
        packs->settled++;
    }
    pthread_rwlock_unlock(&packs->lock);
    return number;
}

static bool is_settled(struct packs *packs)
{
    bool settled;

    pthread_rwlock_rdlock(&packs->lock);
    settled = packs->settled == packs->count;
    pthread_rwlock_unlock(&packs->lock);
    return settled;
}

int packs_index(struct packs *packs, struct error *err)
{
    uint32_t number;
    int r = 0;

    if (is_settled(packs))
        return 0;
    pthread_mutex_lock(&packs->index_lock);
    packs_pin(packs, true);
    while (r == 0 && (number = next_unsettled(packs)) != PACK_NONE)
        r = add_to_tail(packs, number, err);
    packs_pin(packs, false);
    pthread_mutex_unlock(&packs->index_lock);
    return r;
}

/* Negative: it cannot be done now. */
static int make_way(struct packs *packs, const struct obstacle *o)
{
    int r = 0;

    if (o->bad_run)
        drop_bad_runs(packs);
    if (o->bad_run || o->unindexed)
        r = packs_index(packs, NULL);
    if (r == 0 && o->unloaded != NULL)
        r = packs_load(packs, o->unloaded, NULL);
    /* A damaged pack is none any more. */
    return r == -EBADMSG ? 0 : r;
}

/* ---- one key ---- */

/* Takes what was found: true if that is enough. */
static bool take(struct packs *packs, struct query *q, const struct location *at)
{
    if (!q->first) {
        if (q->found < q->max)
            q->out[q->found] = *at;
        q->found++;
        return false;
    }
    if (q->found == 0)
        q->out[0] = *at;
    q->found = 1;
    if (pack_state_of(packs->list[at->pack]) != PACK_LIVE)
        return false;
    q->out[0] = *at;
    return true;
}

static bool is_wanted(const struct query *q, const struct pack *pack, uint32_t number)
{
    return number >= q->from && number < q->to && pack->kind == q->kind && pack->damage == NULL &&
           pack_state_of(pack) != PACK_FORGOTTEN;
}

static bool matches(const struct query *q, struct page_ref id)
{
    return q->any_variant ? page_ref_same_key(id, q->id) : page_ref_equal(id, q->id);
}

/* True if enough was found. */
static bool search_run(struct packs *packs, struct run *run, struct query *q, struct obstacle *o)
{
    struct run_cursor c = run_find(run, run_hash(q->id));
    uint32_t place, object;
    int r;

    while ((r = run_next(run, &c, &place, &object)) == 1) {
        struct location at = {.pack = run->packs[place].number, .object = object};

        if (at.pack == PACK_NONE || !is_wanted(q, packs->list[at.pack], at.pack))
            continue;
        if (packs->list[at.pack]->ids == NULL) {
            o->unloaded = packs->list[at.pack];
            continue;
        }
        at.id = page_ref_load(packs->list[at.pack]->ids + (size_t)object * PAGE_REF_SIZE);
        if (matches(q, at.id) && take(packs, q, &at))
            return true;
    }
    o->bad_run |= r < 0;
    return false;
}

static void search_locked(struct packs *packs, struct query *q, struct obstacle *o)
{
    q->found = 0;
    *o = (struct obstacle){.unindexed = packs->settled < packs->count};
    for (unsigned i = 0; i < packs->run_count; i++)
        if (search_run(packs, packs->runs[i], q, o))
            return;
    if (packs->tail != NULL)
        search_run(packs, packs->tail, q, o);
}

static unsigned search(struct packs *packs, struct query *q)
{
    bool done, pinned = false;
    struct obstacle o;

    do {
        pthread_rwlock_rdlock(&packs->lock);
        search_locked(packs, q, &o);
        pthread_rwlock_unlock(&packs->lock);
        done = !is_met(&o);
        /* What is loaded for this search stays until it ends, or it might never. */
        if (!done && !pinned)
            packs_pin(packs, pinned = true);
        if (!done)
            done = make_way(packs, &o) < 0;
    } while (!done);
    if (pinned)
        packs_pin(packs, false);
    return q->found;
}

unsigned packs_find(struct packs *packs, enum pack_kind kind, struct page_ref id, bool any_variant,
                    uint32_t from, uint32_t to, struct location *out, unsigned max)
{
    struct query q = {.kind = kind,
                      .id = id,
                      .any_variant = any_variant,
                      .from = from,
                      .to = to,
                      .out = out,
                      .max = max};

    unsigned found = search(packs, &q);

    packs_shed(packs);
    return found;
}

static void search_pack(struct packs *packs, uint32_t number, struct query *q)
{
    const struct pack *pack = packs_get(packs, number);
    const uint8_t *ids;

    if (pack->kind != q->kind || packs_ids(packs, number, &ids, NULL) < 0)
        return;
    for (uint32_t i = 0; i < pack->objects; i++) {
        struct location at = {page_ref_load(ids + (size_t)i * PAGE_REF_SIZE), number, i};

        if (matches(q, at.id))
            take(packs, q, &at);
    }
}

unsigned packs_search(struct packs *packs, enum pack_kind kind, struct page_ref id,
                      struct location *out, unsigned max)
{
    struct query q = {.kind = kind, .id = id, .out = out, .max = max};
    uint32_t count = packs_count(packs);

    packs_pin(packs, true);
    for (uint32_t i = 0; i < count; i++) {
        packs_repin(packs);
        search_pack(packs, i, &q);
    }
    packs_pin(packs, false);
    if (q.found != 0)
        atomic_store(&packs->doubtful, true);
    return q.found;
}

/* ---- many keys ---- */

/*
 * A look-up waits for memory twice, for the slot and for the id. In a batch, these
 * waits go on side by side: all slots are asked for before the first is looked at,
 * and so are the ids.
 */
enum { BATCH = 64 };

struct batch {
    struct packs *packs;
    enum pack_kind kind;
    const struct page_ref *keys;
    uint32_t to;
    struct location *out;
    struct run_cursor cursors[BATCH];
    uint64_t hashes[BATCH];
    const uint8_t *ids[BATCH]; /* of the candidate */
    uint8_t open[BATCH];       /* keys no run has had anything for yet */
    unsigned open_count;
    uint8_t slow[BATCH]; /* keys the quick way is not enough for */
    unsigned slow_count;
};

static void ask_for_slots(struct batch *b, const struct run *run)
{
    for (unsigned i = 0; i < b->open_count; i++) {
        unsigned k = b->open[i];

        b->cursors[k] = run_find(run, b->hashes[k]);
        run_prefetch(run, &b->cursors[k]);
    }
}

/* Where the candidate's id is, or NULL if it cannot be told here. */
static const uint8_t *candidate(const struct batch *b, uint32_t number, uint32_t object)
{
    const struct pack *pack = number == PACK_NONE ? NULL : b->packs->list[number];

    if (pack == NULL || number >= b->to || pack->kind != b->kind || pack->ids == NULL ||
        pack_state_of(pack) != PACK_LIVE || pack->damage != NULL)
        return NULL;
    return pack->ids + (size_t)object * PAGE_REF_SIZE;
}

/* Puts keys that have a candidate into `found`; the others stay open. */
static unsigned look_at_slots(struct batch *b, struct run *run, uint8_t *found)
{
    unsigned count = 0, still_open = 0;

    for (unsigned i = 0; i < b->open_count; i++) {
        unsigned k = b->open[i];
        uint32_t place = 0, object = 0;
        int r = run_next(run, &b->cursors[k], &place, &object);

        if (r == 0) {
            b->open[still_open++] = (uint8_t)k;
            continue;
        }
        uint32_t number = r == 1 ? run->packs[place].number : PACK_NONE;

        b->ids[k] = candidate(b, number, object);
        if (b->ids[k] == NULL) {
            b->slow[b->slow_count++] = (uint8_t)k;
            continue;
        }
        __builtin_prefetch(b->ids[k]);
        b->out[k] = (struct location){.pack = number, .object = object};
        found[count++] = (uint8_t)k;
    }
    b->open_count = still_open;
    return count;
}

static void look_at_ids(struct batch *b, const uint8_t *found, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned k = found[i];

        b->out[k].id = page_ref_load(b->ids[k]);
        if (!page_ref_same_key(b->out[k].id, b->keys[k]))
            b->slow[b->slow_count++] = (uint8_t)k;
    }
}

static void ask_run(struct batch *b, struct run *run)
{
    uint8_t found[BATCH];
    unsigned count;

    ask_for_slots(b, run);
    count = look_at_slots(b, run, found);
    look_at_ids(b, found, count);
}

static void find_first(struct batch *b, unsigned k)
{
    struct query q = {.kind = b->kind,
                      .id = b->keys[k],
                      .any_variant = true,
                      .first = true,
                      .to = b->to,
                      .out = &b->out[k],
                      .max = 1};

    if (search(b->packs, &q) == 0)
        b->out[k].pack = PACK_NONE;
}

static void find_some(struct batch *b, unsigned n)
{
    struct packs *packs = b->packs;

    b->slow_count = 0;
    b->open_count = n;
    for (unsigned i = 0; i < n; i++) {
        b->hashes[i] = run_hash(b->keys[i]);
        b->open[i] = (uint8_t)i;
        b->out[i].pack = PACK_NONE;
    }
    pthread_rwlock_rdlock(&packs->lock);
    for (unsigned i = 0; i < packs->run_count; i++)
        ask_run(b, packs->runs[i]);
    if (packs->tail != NULL)
        ask_run(b, packs->tail);
    pthread_rwlock_unlock(&packs->lock);
    for (unsigned i = 0; i < b->slow_count; i++)
        find_first(b, b->slow[i]);
}

/* ---- many keys, and more index than memory ---- */

/* Behind the last one found; some that were there may have changed since. */
enum { NEIGHBOURS = 16 };

/* Is the key that of an object shortly behind `last`, whose footer is there? */
static bool is_neighbour(const struct batch *b, struct page_ref key, const struct location *last,
                         struct location *out)
{
    const uint8_t *ids = candidate(b, last->pack, 0);
    uint32_t end = ids == NULL ? 0 : b->packs->list[last->pack]->objects;

    end = (uint32_t)min_u64(end, (uint64_t)last->object + 1 + NEIGHBOURS);
    for (uint32_t i = last->object + 1; i < end; i++) {
        struct page_ref id = page_ref_load(ids + (size_t)i * PAGE_REF_SIZE);

        if (!page_ref_same_key(id, key))
            continue;
        *out = (struct location){id, last->pack, i};
        return true;
    }
    return false;
}

/* A look into a run may have to wait for the disk. What was stored one after the other
 * is often looked for in that order; so each key is first looked for where the last one
 * was found, and the runs are asked only where such a stretch begins. */
static void find_by_neighbours(struct batch *b, unsigned n, struct location *last_io)
{
    for (unsigned i = 0; i < n; i++) {
        bool found;

        pthread_rwlock_rdlock(&b->packs->lock);
        found = is_neighbour(b, b->keys[i], last_io, &b->out[i]);
        pthread_rwlock_unlock(&b->packs->lock);
        if (!found)
            find_first(b, i);
        if (b->out[i].pack != PACK_NONE)
            *last_io = b->out[i];
        packs_shed(b->packs);
    }
}

void packs_find_batch(struct packs *packs, enum pack_kind kind, const struct page_ref *keys,
                      unsigned n, uint32_t to, struct location *first_out)
{
    struct batch b = {.packs = packs, .kind = kind, .to = to};
    struct location last = {.pack = PACK_NONE};

    packs_index(packs, NULL);
    for (unsigned done = 0; done < n; done += BATCH) {
        unsigned count = n - done < BATCH ? n - done : BATCH;

        b.keys = keys + done;
        b.out = first_out + done;
        if (packs_are_crowded(packs))
            find_by_neighbours(&b, count, &last);
        else
            find_some(&b, count);
    }
}
