/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collecting garbage beside writers and readers in other processes.
 *
 * One rule carries it: everything that a checkpoint of the catalogue, or a pin,
 * reaches is in a live pack. Whoever changes the catalogue keeps it true:
 *
 *   writer     lease at the present epoch; then the view of packs
 *              what it finds in a condemned pack is missing: it stores it again
 *              commit, one transaction: lease still there; packs that were condemned
 *              and without which its checkpoint is incomplete are live again (keep.c)
 *   collector  marks what checkpoints and pins reach
 *              one transaction: nothing unmarked has come; packs in which nothing is
 *              marked are condemned; the epoch moves on
 *              one transaction: packs condemned at an epoch are deleted when every
 *              writer that began before it has ended; only then their files go
 *   reader     pin: a copy of the checkpoint's row; so removing that changes nothing
 *
 * A writer that began before packs were condemned may rely on them, and its lease
 * keeps them; one that began later does not. A sparse pack is condemned when what is
 * needed of it has been written again under the same ids, in the same transaction
 * that lists the new packs.
 *
 * Killed at any point, the collector leaves condemned packs, which the next run
 * deletes, or files the catalogue does not list, which opening the store removes.
 * tests/model/ explores all interleavings of this with writers, readers and crashes.
 */
#include "store/gc.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "store/gc_private.h"
#include "store/lease.h"

#include <errno.h>
#include <time.h>

/* Sparse packs are written again in rounds, so that a full disk needs room for one. */
#define ROUND_BYTES (UINT64_C(256) << 20)

/* Writers may commit faster than what they commit is marked, but not for ever. */
#define ROUNDS_MAX 1000

#define POLL_NS 20000000L

struct collector {
    struct store *store;
    const struct gc_options *options;
    struct gc_result *result;
    struct marks marks;
    uint64_t deadline_ns;
    struct error *err;
};

/* Ends the transaction that db_begin() began. */
static int finish(struct db *db, int r, struct error *err)
{
    if (r < 0)
        db_rollback(db);
    return r < 0 ? r : db_commit(db, err);
}

/* ---- names ---- */

static int count_orphans(struct collector *c)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&c->store->db);
    int64_t count = 0;
    int r = db_get_int(db, &count, c->err, "SELECT count(*) FROM checkpoint WHERE" DB_ORPHAN, "");

    c->result->checkpoints = (uint64_t)count;
    return r;
}

static int check_rows(struct collector *c)
{
    _cleanup_(db_unlockp) struct db *locked = db_locked(&c->store->db);

    int r = store_packs_are_listed_right(c->store, c->err);

    (void)locked;
    if (r != 0)
        return r < 0 ? r : 0;
    error_corrupt(c->err, "the store's catalogue.db has a damaged entry of a pack,"
                          " so nothing is removed");
    error_hint(c->err, "'stasis verify' says which");
    return -EBADMSG;
}

/* Leases of the dead, checkpoints without a name, states without a checkpoint. */
static int clear_names(struct collector *c)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&c->store->db);
    int r = db_begin(db, c->err);

    if (r < 0)
        return r;
    r = lease_drop_dead_locked(c->store, c->err);
    if (r == 0)
        r = db_run(db, c->err, "DELETE FROM checkpoint WHERE" DB_ORPHAN, "");
    if (r == 0)
        c->result->checkpoints += (uint64_t)db_changes(db);
    if (r == 0)
        r = catalogue_remove_blobs(db, c->err);
    return finish(db, r, c->err);
}

/* ---- what can go ---- */

static bool is_dead(const struct gc_pack *pack)
{
    return pack->seq != 0 && !pack->condemned && pack->live == 0;
}

static bool is_sparse(const struct gc_pack *pack)
{
    return pack->seq != 0 && !pack->condemned && pack->live != 0 &&
           pack->alone < pack->objects - pack->objects / 2;
}

static void estimate(struct collector *c)
{
    struct gc_result *result = c->result;

    for (uint32_t i = 0; i < c->marks.count; i++) {
        const struct gc_pack *pack = &c->marks.packs[i];

        result->packs_dead += is_dead(pack) || (pack->condemned && !pack->revive);
        if (is_dead(pack) || (pack->condemned && !pack->revive))
            result->freeable_bytes += pack->bytes;
        if (!is_sparse(pack))
            continue;
        result->packs_sparse++;
        result->freeable_bytes +=
            pack->bytes - (uint64_t)((double)pack->bytes * pack->alone / pack->objects);
    }
}

/* ---- condemning ---- */

typedef bool choice(const struct gc_pack *pack);

static bool is_victim(const struct gc_pack *pack)
{
    return pack->victim;
}

static int condemn_pack(struct collector *c, struct gc_pack *pack, int64_t epoch)
{
    return db_run(&c->store->db, c->err,
                  "UPDATE pack SET condemned = ? WHERE seq = ? AND condemned IS NULL", "ii", epoch,
                  pack->seq);
}

static int condemn_locked(struct collector *c, choice *chosen, struct compaction *compaction)
{
    struct db *db = &c->store->db;
    int64_t epoch;
    int r = store_next_epoch(db, &epoch, c->err);

    if (r == 0 && compaction != NULL)
        r = compaction_list_locked(compaction, c->err);
    for (uint32_t i = 0; r == 0 && i < c->marks.count; i++) {
        struct gc_pack *pack = &c->marks.packs[i];

        if (chosen(pack))
            r = condemn_pack(c, pack, epoch);
        else if (pack->revive)
            r = db_run(db, c->err, "UPDATE pack SET condemned = NULL WHERE seq = ?", "i",
                       pack->seq);
    }
    return r;
}

/* -EAGAIN: there are checkpoints or pins that have not been marked. */
static int try_condemn(struct collector *c, choice *chosen, struct compaction *compaction)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&c->store->db);
    int r = db_begin(db, c->err);

    if (r < 0)
        return r;
    r = marks_are_behind_locked(&c->marks);
    if (r == 1)
        r = -EAGAIN;
    if (r == 0)
        r = condemn_locked(c, chosen, compaction);
    if (r == 0 && compaction != NULL)
        compaction_keep(compaction);
    r = finish(db, r, c->err);
    if (r == 0)
        r = store_load_packs_locked(c->store, c->err);
    return r;
}

/* A victim in which something new was marked since it was copied is none. */
static void spare_changed(struct collector *c, const uint32_t *live)
{
    for (uint32_t i = 0; i < c->marks.count; i++)
        if (c->marks.packs[i].live != live[i])
            c->marks.packs[i].victim = false;
}

static int mark_and_condemn(struct collector *c, choice *chosen, struct compaction *compaction)
{
    _cleanup_free_ uint32_t *live = calloc(c->marks.count + 1u, sizeof(*live));

    if (live == NULL)
        return error_errno(c->err, ENOMEM, "collecting garbage");
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        int r = try_condemn(c, chosen, compaction);

        if (r != -EAGAIN)
            return r;
        for (uint32_t i = 0; i < c->marks.count; i++)
            live[i] = c->marks.packs[i].live;
        r = marks_roots(&c->marks, true);
        if (r < 0)
            return r;
        spare_changed(c, live);
    }
    return error_set(c->err, STATUS_BUSY, EBUSY, "too many others write to the store");
}

/* What was chosen is condemned now. */
static void note_condemned(struct collector *c, choice *chosen)
{
    for (uint32_t i = 0; i < c->marks.count; i++) {
        struct gc_pack *pack = &c->marks.packs[i];

        if (chosen(pack)) {
            pack->condemned = true;
            pack->victim = false;
        }
        if (pack->revive)
            pack->condemned = pack->revive = false;
    }
}

static int condemn(struct collector *c, choice *chosen, struct compaction *compaction)
{
    bool any = false;
    int r;

    for (uint32_t i = 0; i < c->marks.count; i++)
        any |= chosen(&c->marks.packs[i]) || c->marks.packs[i].revive;
    if (!any)
        return 0;
    r = mark_and_condemn(c, chosen, compaction);
    if (r == 0)
        note_condemned(c, chosen);
    return r;
}

/* ---- deleting ---- */

struct doomed {
    uint8_t id[PACK_ID_SIZE];
    int64_t seq;
    uint64_t bytes;
};

/* The condemned packs that no writer relies on any more; the others are counted. */
static int list_doomed_locked(struct collector *c, struct doomed **list_out, size_t *count_out)
{
    struct db *db = &c->store->db;
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int64_t oldest;
    int r = lease_oldest_locked(c->store, &oldest, c->err);

    c->result->packs_waiting = c->result->waiting_bytes = 0;
    if (r == 0)
        r = db_prepare(db, &stmt, c->err,
                       "SELECT " PACK_ROW " FROM pack WHERE condemned IS NOT NULL", "");
    while (r == 0 && (r = db_step(db, stmt, c->err)) == 1) {
        struct pack_row row;
        struct doomed *list;

        r = store_pack_row(stmt, &row, c->err);
        if (r == 0 && row.condemned > oldest) {
            c->result->packs_waiting++;
            c->result->waiting_bytes += row.bytes;
            continue;
        }
        list = r == 0 ? reallocarray(*list_out, *count_out + 1, sizeof(*list)) : NULL;
        if (list == NULL)
            return r < 0 ? r : error_errno(c->err, ENOMEM, "collecting garbage");
        *list_out = list;
        list[*count_out] = (struct doomed){.seq = row.seq, .bytes = row.bytes};
        memcpy(list[(*count_out)++].id, row.id, PACK_ID_SIZE);
    }
    return r;
}

static int delete_locked(struct collector *c, struct doomed **list_out, size_t *count_out)
{
    struct db *db = &c->store->db;
    int64_t epoch;
    int r = list_doomed_locked(c, list_out, count_out);

    if (r == 0 && *count_out != 0)
        r = store_next_epoch(db, &epoch, c->err);
    for (size_t i = 0; r == 0 && i < *count_out; i++)
        r = db_run(db, c->err, "DELETE FROM pack WHERE seq = ?", "i", (*list_out)[i].seq);
    return r;
}

static int delete_rows(struct collector *c, struct doomed **list_out, size_t *count_out)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&c->store->db);
    int r = db_begin(db, c->err);

    if (r < 0)
        return r;
    r = finish(db, delete_locked(c, list_out, count_out), c->err);
    return r < 0 ? r : store_load_packs_locked(c->store, c->err);
}

static int delete_doomed(struct collector *c)
{
    _cleanup_free_ struct doomed *list = NULL;
    char name[PACK_NAME_SIZE];
    size_t count = 0;
    int r = delete_rows(c, &list, &count);

    if (r < 0)
        return r;
    /* The rows are gone for good; a file that stays is a leftover. */
    for (size_t i = 0; i < count; i++) {
        packs_name(list[i].id, name);
        if (unlinkat(c->store->dirfd, name, 0) < 0)
            continue;
        c->result->packs_removed++;
        c->result->freed_bytes += list[i].bytes;
    }
    return 0;
}

/* Deletes what can be deleted, and waits for the rest as long as there is time. */
static int delete_all(struct collector *c)
{
    for (;;) {
        const struct timespec pause = {.tv_nsec = POLL_NS};
        int r = delete_doomed(c);

        if (r < 0 || c->result->packs_waiting == 0 || clock_monotonic_ns() >= c->deadline_ns)
            return r;
        r = gc_progress(c->options, "waiting for writers", 0, 0, c->err);
        if (r < 0)
            return r;
        nanosleep(&pause, NULL);
    }
}

/* ---- sparse packs ---- */

/* Chooses the next ones and copies what is needed. 1 if there are any. */
static int copy_round(struct collector *c, struct compaction *compaction, uint32_t *next_io)
{
    uint64_t bytes = 0;
    int r = 0, any = 0;

    for (; r == 0 && *next_io < c->marks.count && bytes < ROUND_BYTES; (*next_io)++) {
        struct gc_pack *pack = &c->marks.packs[*next_io];

        if (!is_sparse(pack))
            continue;
        bytes += pack->bytes;
        any = 1;
        r = compaction_add(compaction, pack, c->err);
        if (r == 0)
            r = gc_progress(c->options, "writing packs again",
                            c->result->copied_bytes + compaction_bytes(compaction), 0, c->err);
    }
    return r < 0 ? r : any;
}

static void forget_victims(struct collector *c)
{
    for (uint32_t i = 0; i < c->marks.count; i++)
        c->marks.packs[i].victim = false;
}

static int compact_round(struct collector *c, uint32_t *next_io)
{
    struct compaction *compaction;
    int r = compaction_begin(&c->marks, &compaction, c->err), any;

    if (r < 0)
        return r;
    any = r = copy_round(c, compaction, next_io);
    if (r == 1)
        r = compaction_seal(compaction, c->err);
    if (r == 0 && any == 1)
        r = condemn(c, is_victim, compaction);
    if (r == 0)
        c->result->copied_bytes += compaction_bytes(compaction);
    forget_victims(c);
    compaction_free(compaction);
    return r < 0 ? r : any;
}

static int compact(struct collector *c)
{
    uint32_t next = 0;
    int r;

    while ((r = compact_round(c, &next)) == 1) {
        /* Room for the next round. */
        r = delete_doomed(c);
        if (r < 0)
            return r;
    }
    return r;
}

/* ---- the whole ---- */

/* May be begun again after a failure: what was freed stays counted. */
static int collect(struct collector *c)
{
    bool dry = c->options->dry_run;
    int r = check_rows(c);

    if (r == 0)
        r = dry ? count_orphans(c) : clear_names(c);
    if (r == 0)
        r = store_refresh(c->store, c->err);
    if (r == 0)
        r = marks_begin(&c->marks, c->store, c->options, c->err);
    if (r == 0)
        r = marks_roots(&c->marks, !dry);
    if (r < 0)
        return r;
    c->result->packs_dead = c->result->packs_sparse = c->result->freeable_bytes = 0;
    estimate(c);
    if (dry)
        return 0;
    r = condemn(c, is_dead, NULL);
    if (r == 0)
        r = delete_doomed(c);
    if (r == 0)
        r = compact(c);
    return r == 0 ? delete_all(c) : r;
}

int store_gc(struct store *store, const struct gc_options *options, struct gc_result *out,
             struct error *err)
{
    static const struct gc_options none = {0};
    struct collector c = {.store = store, .result = out, .err = err};
    int r;

    *out = (struct gc_result){0};
    c.options = options != NULL ? options : &none;
    c.deadline_ns = clock_monotonic_ns() + c.options->wait_ms * UINT64_C(1000000);
    if (c.options->dry_run) {
        r = collect(&c);
        marks_clear(&c.marks);
        return r;
    }
    r = lease_lock_collector(store, err);
    if (r < 0)
        return r;
    r = collect(&c);
    marks_clear(&c.marks);
    if (r == -ENOSPC && store_release_reserve(store)) {
        r = collect(&c);
        marks_clear(&c.marks);
    }
    if (r == 0)
        store_make_reserve(store);
    lease_unlock_collector(store);
    return r;
}
