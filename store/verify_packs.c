/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verifying packs: which are due, in what order and at what pace; each is read whole
 * from its file, whatever this process has cached, and mended in memory, which tells
 * what is damaged and whether it can be made good.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "store/verify_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

#define DAY_US (INT64_C(86400) * 1000000)

/* So that a cancellation is noticed while the pace makes us wait. */
#define NAP_NS (UINT64_C(100) * 1000000)

#define SAVE_EVERY_NS (UINT64_C(1000) * 1000000)

struct pack_check {
    struct verify *v;
    const struct pack_row *row;
    uint32_t number;
    char name[PACK_NAME_SIZE];
    struct pack_mend *mend; /* NULL: none of it could be had */
    uint8_t *raw;           /* PACK_GROUP_RAW_MAX */
    size_t first_finding;
};

struct turn {
    struct pack_row row;
    uint32_t number;
    int64_t verified_us; /* 0: never */
};

/* ---- pace ---- */

static int report_progress(struct verify *v)
{
    if (v->options->progress != NULL &&
        v->options->progress(v->result.bytes, v->bytes_total, v->options->context) != 0)
        return error_set(v->err, STATUS_INTERRUPTED, ECANCELED, "cancelled");
    return 0;
}

static void nap(uint64_t ns)
{
    const struct timespec t = {.tv_nsec = (long)min_u64(ns, NAP_NS)};

    nanosleep(&t, NULL);
}

/* When so many bytes may have been read. */
static uint64_t due_ns(const struct verify *v)
{
    return v->started_ns +
           (uint64_t)((double)v->result.bytes / (double)v->options->bytes_per_second * 1e9);
}

static int pace(uint64_t bytes, void *context)
{
    struct verify *v = context;
    int r;

    v->result.bytes += bytes;
    for (;;) {
        uint64_t now = clock_monotonic_ns();

        r = report_progress(v);
        if (r < 0 || v->options->bytes_per_second == 0 || now >= due_ns(v))
            return r;
        nap(due_ns(v) - now);
    }
}

/* ---- one pack ---- */

static int check_pages(const struct pack_index *index, const struct pack_group *g,
                       const uint8_t *raw, struct error *e)
{
    for (uint32_t i = 0; i < g->object_count; i++) {
        struct page_ref ref = page_ref_load(index->objects[g->first_object + i].bytes);

        if (!page_ref_same_key(page_ref_of(raw + (size_t)i * STASIS_PAGE_SIZE), ref))
            return error_corrupt(e, "page %u of the group is not what the footer says", i);
    }
    return 0;
}

static int check_nodes(const struct pack_index *index, const struct pack_group *g,
                       const uint8_t *raw, struct error *e)
{
    size_t offset = 0;

    for (uint32_t i = 0; i < g->object_count; i++) {
        size_t length = map_node_length(raw + offset, g->raw_bytes - offset);
        struct map_node node;
        struct digest digest;

        if (length == 0 || length > g->raw_bytes - offset)
            return error_corrupt(e, "the group does not hold the map nodes that the footer lists");
        digest = digest_of(raw + offset, length);
        if (memcmp(digest.bytes, index->objects[g->first_object + i].bytes, PAGE_REF_SIZE) != 0)
            return error_corrupt(e, "map node %u of the group is not what the footer says", i);
        if (map_node_decode(raw + offset, length, &node, e) < 0)
            return -EBADMSG;
        offset += length;
    }
    return offset == g->raw_bytes ? 0 : error_corrupt(e, "the group has bytes behind its nodes");
}

int verify_group(const struct pack_index *index, uint32_t group, const uint8_t *raw,
                 const char *name, struct error *e)
{
    const struct pack_group *g = &index->groups[group];
    int r = pack_group_check_digest(name, g, raw, e);

    if (r < 0)
        return r;
    return index->kind == PACK_PAGES ? check_pages(index, g, raw, e)
                                     : check_nodes(index, g, raw, e);
}

/* All objects of a damaged group count as bad, if only until it is mended. */
static int note_group(const struct pack_check *c, uint32_t group, const char *what,
                      enum verify_state state)
{
    const struct pack_index *index = pack_mend_index(c->mend);
    const struct pack_group *g = &index->groups[group];
    struct index *bad = index->kind == PACK_PAGES ? &c->v->bad_pages : &c->v->bad_nodes;
    uint32_t number;
    int r = verify_note(c->v, c->name, g->offset, what, state, &number);

    for (uint32_t i = 0; r == 0 && i < g->object_count; i++)
        if (index_add(bad, page_ref_load(index->objects[g->first_object + i].bytes), number,
                      c->number) < 0)
            r = verify_out_of_memory(c->v);
    return r;
}

static int note_pack(const struct pack_check *c, uint64_t offset, const char *what,
                     enum verify_state state)
{
    uint32_t finding;
    int r = verify_note(c->v, c->name, offset, what, state, &finding);

    if (r == 0 && c->v->unusable[c->number] == 0)
        c->v->unusable[c->number] = finding + 1;
    return r;
}

static int note_damage(const struct pack_check *c)
{
    size_t count;
    const struct pack_damage *damage = pack_mend_damage(c->mend, &count);
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct pack_damage *d = &damage[i];
        enum verify_state state = d->mended ? VERIFY_MENDABLE : VERIFY_LOST;
        char what[160];

        snprintf(what, sizeof(what), "%s of %llu bytes is damaged", d->what,
                 (unsigned long long)d->length);
        r = d->group != PACK_NO_GROUP ? note_group(c, d->group, what, state)
                                      : note_pack(c, d->offset, what, state);
    }
    return r;
}

/* What its checksums say is good (again) must also be what it claims to be. */
static int check_groups(const struct pack_check *c)
{
    const struct pack_index *index = pack_mend_index(c->mend);
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < index->group_count; i++) {
        struct error e = ERROR_INIT;

        c->v->result.groups++;
        r = pack_mend_group(c->mend, i, c->raw, &e);
        if (r == -ENOMEM)
            return verify_out_of_memory(c->v);
        if (r == 0 && verify_group(index, i, c->raw, c->name, &e) < 0)
            r = note_group(c, i, e.message, VERIFY_LOST);
        else
            r = 0;
    }
    return r;
}

static int load_pack(struct pack_check *c, struct error *e)
{
    _cleanup_close_ int fd = openat(c->v->store->dirfd, c->name, O_RDONLY | O_CLOEXEC);
    struct error why = ERROR_INIT;
    size_t length;
    uint8_t *data;
    int r;

    if (fd < 0)
        return error_errno(e, errno, "%s", c->name);
    r = pack_mend_load(fd, c->name, pace, c->v, &data, &length, e);
    if (r < 0)
        return r;
    r = pack_mend_begin(c->name, data, length, &c->mend, &why);
    if (r == 0 && !repair_lists(pack_mend_index(c->mend), c->row)) {
        pack_mend_free(steal_pointer(c->mend));
        return error_corrupt(e, "%s: it is not the pack that the catalogue lists", c->name);
    }
    if (r < 0)
        *e = why;
    return r;
}

/* ---- mending ---- */

static void set_states(const struct pack_check *c, enum verify_state state)
{
    for (size_t i = c->first_finding; i < c->v->finding_count; i++)
        c->v->findings[i].state = state;
}

/* What is known to be wrong with the pack is wrong no more, or need not be. */
static int mend_pack(struct pack_check *c)
{
    struct pack_mend *copy = NULL;
    struct error e = ERROR_INIT;
    int r = c->mend != NULL ? repair_supply(c->v, c->mend, c->number) : 0;

    if (r < 0)
        return r;
    if (c->mend == NULL || !pack_mend_is_whole(c->mend) || !repair_is_right(c->mend, c->row, &e)) {
        r = repair_find_pack(c->v, c->row, &copy);
        if (r <= 0)
            return r;
        pack_mend_free(c->mend);
        c->mend = copy;
    }
    set_states(c, VERIFY_MENDABLE);
    if (!c->v->options->repair)
        return 0;
    r = repair_write_pack(c->v->store, c->name, c->mend, &e);
    if (r == 0)
        set_states(c, VERIFY_MENDED);
    else
        r = verify_note(c->v, c->name, 0, e.message, VERIFY_MENDABLE, NULL);
    return r;
}

/* ---- when a pack was last found good ---- */

/* Together once a second: a store of many small packs shall not wait for the disk
 * after each. Only worth something the next time, so a store that cannot be written
 * to, or is full, can be verified all the same. */
static void save_marks(struct verify *v, bool at_end)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    int r = v->catalogue_wrong ? -EBADMSG : db_begin(db, NULL);

    if (r == 0 && !at_end)
        r = db_run(db, NULL, "INSERT OR REPLACE INTO meta VALUES('verify_started', ?)", "i",
                   v->run_started_us);
    for (uint32_t i = 0; r == 0 && i < v->mark_count; i++)
        r = db_run(db, NULL, "INSERT OR REPLACE INTO verified VALUES(?1, ?2, row_sum(?1, ?2))",
                   "ii", v->marks[i], v->run_started_us);
    if (r == 0 && at_end)
        r = db_run(db, NULL, "DELETE FROM meta WHERE key = 'verify_started'", "");
    if (r == 0 && at_end)
        r = db_run(db, NULL, "DELETE FROM verified WHERE seq NOT IN (SELECT seq FROM pack)", "");
    if (r == 0)
        db_commit(db, NULL);
    else if (!v->catalogue_wrong)
        db_rollback(db);
    v->mark_count = 0;
    v->marks_saved = true;
    v->saved_ns = clock_monotonic_ns();
}

static void remember(struct verify *v, int64_t seq)
{
    v->marks[v->mark_count++] = seq;
    if (clock_monotonic_ns() - v->saved_ns > SAVE_EVERY_NS)
        save_marks(v, false);
}

static int64_t last_verified(struct db *db, int64_t seq, int64_t now)
{
    int64_t at = 0;
    int r = db_get_int(db, &at, NULL,
                       "SELECT at_us FROM verified WHERE seq = ? AND sum = row_sum(seq, at_us)",
                       "i", seq);

    return r < 0 || at > now ? 0 : at;
}

/* Since when packs need not be read again. A run that goes on with another counts as
 * having begun with it. */
static int64_t begin_run(struct verify *v)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    int64_t now = clock_wall_us(), since = INT64_MAX, started;

    v->run_started_us = now;
    if (v->options->max_age_us != 0)
        since = now - (int64_t)min_u64(v->options->max_age_us, (uint64_t)now);
    if (v->options->again ||
        db_get_int(db, &started, NULL, "SELECT value FROM meta WHERE key = 'verify_started'", "") <
            0 ||
        started > now || started < now - DAY_US)
        return since;
    v->run_started_us = started;
    v->marks_saved = true;
    return started < since ? started : since;
}

/* ---- all packs ---- */

static int check_pack(struct verify *v, const struct turn *turn, uint8_t *raw)
{
    struct pack_check c = {.v = v,
                           .row = &turn->row,
                           .number = turn->number,
                           .raw = raw,
                           .first_finding = v->finding_count};
    uint64_t before = v->result.bytes;
    struct error e = ERROR_INIT;
    int r;

    packs_name(turn->row.id, c.name);
    r = load_pack(&c, &e);
    v->result.packs++;
    if (r == -ENOMEM || r == -EMFILE || r == -ENFILE) {
        r = error_errno(v->err, -r, "verifying %s", c.name);
    } else if (r == -ECANCELED) {
        /* Said by pace(). */
    } else if (r < 0) {
        r = note_pack(&c, 0, e.message, VERIFY_LOST);
    } else {
        *(turn->row.kind == PACK_PAGES ? &v->result.pages : &v->result.nodes) += turn->row.objects;
        r = note_damage(&c);
        if (r == 0)
            r = check_groups(&c);
    }
    if (r == 0 && v->finding_count != c.first_finding)
        r = mend_pack(&c);
    else if (r == 0)
        remember(v, turn->row.seq);
    pack_mend_free(c.mend);
    if (r == 0)
        r = pace(turn->row.bytes - min_u64(turn->row.bytes, v->result.bytes - before), v);
    return r;
}

/* The row of a pack this process has loaded: 1, or 0 if it is gone. */
static int read_row(struct verify *v, struct db *db, uint32_t number, struct pack_row *out)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    struct error e = ERROR_INIT;
    int r = db_prepare(db, &stmt, &e, "SELECT " PACK_ROW " FROM pack WHERE id = ?", "b",
                       packs_get(&v->store->packs, number)->id, (size_t)PACK_ID_SIZE);

    if (r == 0)
        r = db_step(db, stmt, &e);
    if (r == 1 && store_pack_row(stmt, out, &e) < 0)
        r = -EBADMSG;
    return r < 0 ? verify_tolerate(v, r, &e) : r;
}

static int oldest_first(const void *a, const void *b)
{
    const struct turn *x = a, *y = b;

    if (x->verified_us != y->verified_us)
        return x->verified_us < y->verified_us ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* All rows at once: the catalogue is not held while packs are read. */
static int list_packs(struct verify *v, struct turn *list, uint32_t *count_out, int64_t since,
                      int64_t now)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&v->store->db);
    uint32_t count = 0;
    int r = 0;

    for (uint32_t i = 0; r >= 0 && i < v->pack_count; i++) {
        struct turn *turn = &list[count];

        r = read_row(v, db, i, &turn->row);
        if (r != 1)
            continue;
        turn->number = i;
        turn->verified_us = last_verified(db, turn->row.seq, now);
        if (turn->verified_us != 0 && turn->verified_us >= since) {
            v->result.packs_skipped++;
            continue;
        }
        v->bytes_total += turn->row.bytes;
        count++;
    }
    qsort(list, count, sizeof(*list), oldest_first);
    *count_out = count;
    return r < 0 ? r : 0;
}

int verify_packs(struct verify *v)
{
    _cleanup_free_ struct turn *list = NULL;
    _cleanup_free_ int64_t *marks = NULL;
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);
    uint32_t count = 0;
    int r;

    v->pack_count = packs_count(&v->store->packs);
    v->started_ns = v->saved_ns = clock_monotonic_ns();
    list = calloc(v->pack_count + 1u, sizeof(*list));
    v->marks = marks = calloc(v->pack_count + 1u, sizeof(*marks));
    v->unusable = calloc(v->pack_count + 1u, sizeof(*v->unusable));
    if (raw == NULL || list == NULL || marks == NULL || v->unusable == NULL)
        return verify_out_of_memory(v);
    r = list_packs(v, list, &count, begin_run(v), clock_wall_us());
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = check_pack(v, &list[i], raw);
    /* What was verified within a second is verified again within a second; where
     * nobody asks for ages, that is worth no write. */
    if (v->marks_saved || v->options->max_age_us != 0 ||
        clock_monotonic_ns() - v->started_ns > SAVE_EVERY_NS)
        save_marks(v, r == 0);
    return r;
}
