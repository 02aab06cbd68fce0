/* SPDX-License-Identifier: Apache-2.0 */
#include "store/usage.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/catalogue.h"
#include "store/walk.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

struct counter {
    struct page_marks marks;
    struct tree_walk walk;
    uint64_t fresh; /* pages marked since it was last set to 0 */
};

static int count_page(void *context, struct page_ref ref)
{
    struct counter *c = context;
    int r = page_marks_set(&c->marks, ref);

    if (r == -ENOMEM)
        return error_errno(c->walk.err, ENOMEM, "counting pages");
    /* A page that is missing takes no room; 'verify' is there to complain. */
    c->fresh += r == 1;
    return 0;
}

static int skip_bad_node(void *context, const struct digest *digest, const struct error *why)
{
    (void)context;
    (void)digest;
    (void)why;
    return 0;
}

static void counter_init(struct counter *c, struct store *store, struct error *err)
{
    *c = (struct counter){
        .marks = {.store = store},
        .walk = {
            .page = count_page, .bad = skip_bad_node, .context = c, .store = store, .err = err}};
}

static void counter_clear(struct counter *c)
{
    page_marks_clear(&c->marks);
    tree_walk_clear(&c->walk);
}

/* Counts what a checkpoint adds to those counted before. */
static int count_checkpoint(struct counter *c, const struct digest *id, uint64_t *logical_io)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    int r;

    if (m == NULL)
        return error_errno(c->walk.err, ENOMEM, "counting pages");
    r = catalogue_manifest_read(c->marks.store, id, m, c->walk.err);
    for (uint32_t i = 0; r == 0 && i < m->space_count; i++) {
        uint64_t pages = 0;

        r = tree_walk_map(&c->walk, &m->spaces[i].root,
                          div_round_up(m->spaces[i].size_bytes, STASIS_PAGE_SIZE), &pages);
        *logical_io += pages * STASIS_PAGE_SIZE;
    }
    return r;
}

/* The same for one that may have been removed since it was listed. */
static int count_listed(struct counter *c, const struct digest *id, uint64_t *logical_io)
{
    int r = count_checkpoint(c, id, logical_io);

    return r == -ENOENT ? 0 : r;
}

/* ---- the whole store ---- */

static int count_rows(struct store *store, struct store_usage *u, uint64_t *stored_pages,
                      struct error *err)
{
    static const char *const queries[] = {
        "SELECT count(*) FROM checkpoint",
        "SELECT count(*) FROM machine",
        "SELECT count(*) FROM image",
        "SELECT coalesce(sum(bytes), 0) FROM pack",
        "SELECT coalesce(sum(bytes), 0) FROM pack WHERE kind = 2",
        "SELECT count(*) FROM pack",
        "SELECT coalesce(sum(objects), 0) FROM pack WHERE kind = 1",
    };
    uint64_t *outs[] = {&u->checkpoints,    &u->machines, &u->images,  &u->stored_bytes,
                        &u->metadata_bytes, &u->packs,    stored_pages};
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(queries); i++) {
        int64_t value = 0;

        r = db_get_int(db, &value, err, queries[i], "");
        *outs[i] = (uint64_t)value;
    }
    return r;
}

static void add_files(struct store *store, struct store_usage *u)
{
    static const char *const files[] = {"catalogue.db", "catalogue.db-wal"};
    struct statvfs fs;
    struct stat st;

    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (fstatat(store->dirfd, files[i], &st, 0) == 0)
            u->metadata_bytes += (uint64_t)st.st_size;
    if (fstatvfs(store->dirfd, &fs) == 0)
        u->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
}

static int count_all(struct store *store, struct store_usage *u, struct error *err)
{
    struct catalogue_checkpoint *list;
    struct counter c;
    size_t count;
    int r = catalogue_checkpoint_list(store, NULL, &list, &count, err);

    if (r < 0)
        return r;
    counter_init(&c, store, err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = count_listed(&c, &list[i].id, &u->logical_bytes);
    u->unique_bytes = c.fresh * STASIS_PAGE_SIZE;
    counter_clear(&c);
    catalogue_checkpoints_free(list, count);
    return r;
}

int store_usage_get(struct store *store, struct store_usage *out, struct error *err)
{
    struct store_usage u = {0};
    uint64_t stored_pages = 0;
    int r = store_refresh(store, err);

    if (r == 0)
        r = count_rows(store, &u, &stored_pages, err);
    if (r == 0)
        r = count_all(store, &u, err);
    if (r < 0)
        return r;
    add_files(store, &u);
    /* A commit between the two counts may make the second larger. */
    if (stored_pages * STASIS_PAGE_SIZE > u.unique_bytes)
        u.garbage_bytes = stored_pages * STASIS_PAGE_SIZE - u.unique_bytes;
    *out = u;
    return 0;
}

/* ---- one machine ---- */

/* The checkpoints that removing the machine would remove (mine), or would not. */
static int list_ids(struct store *store, const char *machine, bool mine, struct digest **out,
                    size_t *count_out, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    _cleanup_free_ struct digest *list = NULL;
    size_t count = 0, capacity = 0;
    int r = db_prepare(db, &stmt, err,
                       "SELECT id FROM checkpoint WHERE ?2 = (machine IS ?1"
                       " AND id NOT IN (SELECT id FROM image)"
                       " AND id NOT IN (SELECT head FROM machine WHERE name != ?1"
                       "                AND head IS NOT NULL)"
                       " AND id NOT IN (SELECT origin FROM machine WHERE name != ?1))",
                       "ti", machine, (int64_t)mine);

    while (r == 0 && (r = db_step(db, stmt, err)) == 1) {
        if (count == capacity) {
            struct digest *more;

            capacity = capacity * 2 + 16;
            more = realloc(list, capacity * sizeof(*list));
            if (more == NULL)
                return error_errno(err, ENOMEM, "counting pages");
            list = more;
        }
        r = db_column_digest(stmt, 0, &list[count++], err);
    }
    if (r < 0)
        return r;
    *out = steal_pointer(list);
    *count_out = count;
    return 0;
}

static int count_ids(struct counter *c, const char *machine, bool mine, struct error *err)
{
    _cleanup_free_ struct digest *list = NULL;
    uint64_t logical = 0;
    size_t count = 0;
    int r = list_ids(c->marks.store, machine, mine, &list, &count, err);

    for (size_t i = 0; r == 0 && i < count; i++) {
        r = count_checkpoint(c, &list[i], &logical);
        /* Removed since it was listed. */
        if (r == -ENOENT)
            r = 0;
    }
    return r;
}

int store_usage_machine(struct store *store, const char *machine, uint64_t *unique_bytes_out,
                        struct error *err)
{
    struct catalogue_machine *m;
    struct counter c;
    int r = catalogue_machine_get(store, machine, &m, err);

    if (r < 0)
        return r;
    catalogue_machines_free(m, 1);
    r = store_refresh(store, err);
    if (r < 0)
        return r;
    counter_init(&c, store, err);
    r = count_ids(&c, machine, false, err);
    c.fresh = 0;
    if (r == 0)
        r = count_ids(&c, machine, true, err);
    if (r == 0)
        *unique_bytes_out = c.fresh * STASIS_PAGE_SIZE;
    counter_clear(&c);
    return r;
}

/* ---- one checkpoint ---- */

static int count_others(struct counter *c, const struct digest *id, struct error *err)
{
    struct catalogue_checkpoint *list;
    uint64_t logical = 0;
    size_t count;
    int r = catalogue_checkpoint_list(c->marks.store, NULL, &list, &count, err);

    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++)
        if (!digest_equal(&list[i].id, id))
            r = count_listed(c, &list[i].id, &logical);
    catalogue_checkpoints_free(list, count);
    return r;
}

/* A map that others have, too, is known by its root and not walked again. */
static int count_space(struct counter *c, const struct manifest_space *space, uint64_t *logical_out,
                       uint64_t *unique_out)
{
    uint64_t pages = 0;

    c->fresh = 0;
    int r = tree_walk_map(&c->walk, &space->root, div_round_up(space->size_bytes, STASIS_PAGE_SIZE),
                          &pages);
    *logical_out = pages * STASIS_PAGE_SIZE;
    *unique_out = c->fresh * STASIS_PAGE_SIZE;
    return r;
}

int store_usage_checkpoint(struct store *store, const struct digest *id, const struct manifest *m,
                           struct checkpoint_usage *out, struct error *err)
{
    struct checkpoint_usage usage = {0};
    struct counter c;
    int r = store_refresh(store, err);

    if (r < 0)
        return r;
    counter_init(&c, store, err);
    r = count_others(&c, id, err);
    for (uint32_t i = 0; r == 0 && i < m->space_count; i++) {
        r = count_space(&c, &m->spaces[i], &usage.spaces[i].logical_bytes,
                        &usage.spaces[i].unique_bytes);
        usage.logical_bytes += usage.spaces[i].logical_bytes;
        usage.unique_bytes += usage.spaces[i].unique_bytes;
    }
    counter_clear(&c);
    if (r == 0)
        *out = usage;
    return r;
}
