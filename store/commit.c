/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of an ingest. Order: pack data, fdatasync, rename, fsync of the
 * directory, SQLite commit; the packs stay locked by us until that is done, so
 * nobody takes them for leftovers. The write transaction is also where writers
 * meet: within it, no pack can appear that was not compared with ours.
 */
#include "base/cleanup.h"
#include "base/home.h"
#include "base/io.h"
#include "store/ingest_private.h"
#include "store/lease.h"

#include <errno.h>

/* Each round of renaming meets only pages committed since the last: a writer that
 * loses this often loses against a flood. */
#define ROUNDS_MAX 100

static void renames_clear(struct renames *renames)
{
    index_clear(&renames->table);
}

/* ---- checks ---- */

static int check_arguments(const struct ingest *in, const struct ingest_commit *commit,
                           struct error *err)
{
    if (in->failed || in->committed)
        return error_set(err, STATUS_FAILED, EINVAL,
                         "this ingest has failed or was committed already");
    if ((commit->name != NULL || commit->set_head) && commit->machine == NULL)
        return error_set(err, STATUS_FAILED, EINVAL, "a checkpoint's name needs a machine");
    if (commit->name != NULL && !home_name_is_valid(commit->name)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' is not a name for a checkpoint", commit->name);
        error_hint(err, "use letters, digits, '-', '_' and '.', at most %d", MACHINE_NAME_MAX);
        return -EINVAL;
    }
    if ((commit->image == NULL) != (commit->tag == NULL))
        return error_set(err, STATUS_FAILED, EINVAL, "an image needs a name and a tag");
    return 0;
}

static bool has_root(struct ingest *in, const struct digest *root)
{
    struct location at;

    return index_get(&in->nodes, node_id(root)) != NULL ||
           packs_find(&in->store->packs, PACK_NODES, node_id(root), false, 0, UINT32_MAX, &at, 1) !=
               0;
}

/* Packs of other processes have been loaded; db.lock is held. */
static int check_reachable(struct ingest *in, const struct manifest *m, struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    int64_t one;
    int r = 0;

    for (uint32_t i = 0; i < m->space_count; i++)
        if (!has_root(in, &m->spaces[i].root))
            return error_corrupt(err, "the map of '%s', %s, is not in the store", m->spaces[i].name,
                                 digest_hex(&m->spaces[i].root, hex));
    if (m->has_state && !ingest_has_blob(in, &m->state))
        r = db_get_int(&in->store->db, &one, err, "SELECT 1 FROM blob WHERE digest = ?", "d",
                       &m->state);
    if (r == -ENOENT)
        return error_corrupt(err, "the device state %s is not in the store",
                             digest_hex(&m->state, hex));
    return r;
}

/* ---- sealing ---- */

static int seal_pack(unsigned index, unsigned slot, void *context, struct error *err)
{
    const struct ingest *in = context;
    struct own_pack *pack = in->packs[index];
    int r;

    (void)slot;
    if (pack->state != OWN_FINISHED)
        return 0;
    r = store_seal_pack(in->store, pack->fd, own_index(pack)->id, pack->name, err);
    if (r == 0)
        pack->state = OWN_SEALED;
    return r;
}

/* All at the same time, for each has to wait for the disk. */
static int seal(struct ingest *in, struct error *err)
{
    bool any = false;
    int r;

    for (uint32_t i = 0; i < in->pack_count; i++)
        any |= in->packs[i]->state == OWN_FINISHED;
    if (!any)
        return 0;
    r = workers_run(in->store->workers, in->pack_count, seal_pack, in, err);
    if (r < 0)
        return r;
    r = io_sync_dir(in->store->packs_dirfd);
    return r < 0 ? error_errno(err, -r, "writing the store's directory of packs") : 0;
}

/* ---- the transaction ---- */

static int insert_packs(struct ingest *in, struct error *err)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < in->pack_count; i++) {
        const struct own_pack *pack = in->packs[i];

        if (pack->state == OWN_SEALED)
            r = store_insert_pack(&in->store->db, own_index(pack), err);
    }
    return r;
}

static int insert_blobs(struct ingest *in, struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < in->blob_count; i++)
        r = db_run(&in->store->db, err, "INSERT OR IGNORE INTO blob(digest, data) VALUES(?, ?)",
                   "db", &in->blobs[i].digest, in->blobs[i].data, in->blobs[i].length);
    return r;
}

struct encoded {
    struct digest id;
    char *text;
    size_t length;
};

/* A checkpoint to which nothing leads would be garbage. Whoever made it may be about
 * to give it a name, or to make a machine of it: it stays until he is done. */
static int end_lease(struct ingest *in, const struct ingest_commit *commit, const struct digest *id,
                     struct error *err)
{
    return commit->machine != NULL || commit->image != NULL
               ? lease_end_locked(in->store, &in->lease, err)
               : lease_become_pin_locked(in->store, &in->lease, id, err);
}

static int insert_all(struct ingest *in, const struct ingest_commit *commit,
                      const struct manifest *m, const struct encoded *e, struct error *err)
{
    struct db *db = &in->store->db;
    int r = check_reachable(in, m, err);

    if (r == 0)
        r = insert_packs(in, err);
    if (r == 0)
        r = insert_blobs(in, err);
    if (r == 0 && commit->machine != NULL)
        r = catalogue_need_machine(db, commit->machine, err);
    if (r == 0)
        r = catalogue_put_checkpoint(db, &e->id, commit->machine, commit->name, m, e->text,
                                     e->length, err);
    if (r == 0 && commit->set_head)
        r = catalogue_put_head(db, commit->machine, &e->id, err);
    if (r == 0 && commit->image != NULL)
        r = catalogue_put_image(db, commit->image, commit->tag, &e->id, commit->replace_tag, err);
    return r < 0 ? r : end_lease(in, commit, &e->id, err);
}

/* -EAGAIN: other processes committed pages that clash with ours, or condemned packs. */
static int transact(struct ingest *in, const struct ingest_commit *commit, const struct manifest *m,
                    const struct encoded *e, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&in->store->db);
    _cleanup_(renames_clear) struct renames clashing = {0};
    uint32_t to;
    int r = db_begin(db, err);

    if (r < 0)
        return r;
    r = store_load_packs_locked(in->store, err);
    if (r == 0)
        r = packs_index(&in->store->packs, err);
    to = packs_count(&in->store->packs);
    if (r == 0)
        r = ingest_find_clashes(in, to, &clashing, err);
    if (r == 0 && clashing.table.count != 0)
        r = -EAGAIN;
    if (r == 0)
        r = ingest_keep_locked(in, err);
    if (r == 0)
        r = insert_all(in, commit, m, e, err);
    if (r < 0) {
        db_rollback(db);
        return r;
    }
    /* If this fails, the log may still hold the commit, and a later recovery find
     * it: the packs must stay. Unlisted, they go when the store is opened next. */
    in->committed = true;
    r = db_commit(db, err);
    if (r == 0)
        in->lease.id = 0;
    /* Our own commit does not change the version that store_refresh() looks at: if
     * this cannot load our packs now, the next one must try. */
    if (r == 0 && store_load_packs_locked(in->store, NULL) < 0)
        in->store->data_version = -1;
    return r;
}

/* ---- the whole ---- */

static unsigned manifest_roots(struct manifest *m, struct digest *roots[MANIFEST_SPACES_MAX])
{
    for (uint32_t i = 0; i < m->space_count; i++)
        roots[i] = &m->spaces[i].root;
    return m->space_count;
}

static void apply_moved(const struct ingest *in, struct manifest *m)
{
    for (uint32_t i = 0; i < m->space_count; i++) {
        for (size_t k = 0; k < in->moved_count; k++) {
            if (digest_equal(&m->spaces[i].root, &in->moved[k].from)) {
                m->spaces[i].root = in->moved[k].to;
                break;
            }
        }
    }
}

/* Compares with what was committed meanwhile, and renames until nothing clashes. */
static int settle(struct ingest *in, struct manifest *m, struct error *err)
{
    struct digest *roots[MANIFEST_SPACES_MAX];
    unsigned root_count = manifest_roots(m, roots);

    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        _cleanup_(renames_clear) struct renames clashing = {0};
        int r = store_refresh(in->store, err);
        uint32_t to = packs_count(&in->store->packs);

        if (r == 0)
            r = packs_index(&in->store->packs, err);

        if (r == 0)
            r = ingest_find_clashes(in, to, &clashing, err);
        if (r == 0 && clashing.table.count == 0)
            in->checked = to;
        if (r < 0 || clashing.table.count == 0)
            return r;
        r = ingest_rename_pages(in, &clashing, to, roots, root_count, err);
        if (r < 0) {
            in->failed = true;
            return r;
        }
    }
    return error_set(err, STATUS_BUSY, EBUSY, "too many others write to the store");
}

static int check_names_early(struct ingest *in, const struct ingest_commit *commit,
                             struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&in->store->db);
    int r = 0;

    if (commit->machine != NULL)
        r = catalogue_need_machine(db, commit->machine, err);
    if (r == 0)
        r = catalogue_check_names(db, NULL, commit->machine, commit->name, commit->image,
                                  commit->tag, commit->replace_tag, err);
    return r;
}

static int attempt(struct ingest *in, const struct ingest_commit *commit, struct manifest *m,
                   struct digest *id_out, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    struct encoded e = {0};
    int r = settle(in, m, err);

    if (r == 0)
        r = ingest_keep(in, m, err);
    if (r == 0)
        r = seal(in, err);
    if (r < 0)
        return r;
    r = manifest_encode(m, &text, &e.length);
    if (r == -EINVAL)
        return error_set(err, STATUS_FAILED, EINVAL, "the manifest is not a valid one");
    if (r < 0)
        return error_errno(err, -r, "writing the manifest");
    e.text = text;
    e.id = digest_of(text, e.length);
    r = transact(in, commit, m, &e, err);
    if (r == 0)
        *id_out = e.id;
    return r;
}

int ingest_commit(struct ingest *in, const struct ingest_commit *commit, struct digest *id_out,
                  struct error *err)
{
    _cleanup_free_ struct manifest *m = NULL;
    int r = check_arguments(in, commit, err);

    if (r == 0)
        r = check_names_early(in, commit, err);
    if (r == 0)
        r = ingest_flush(in, err);
    if (r < 0)
        return r;
    m = malloc(sizeof(*m));
    if (m == NULL)
        return error_errno(err, ENOMEM, "committing");
    *m = *commit->manifest;
    apply_moved(in, m);
    do
        r = attempt(in, commit, m, id_out, err);
    while (r == -EAGAIN);
    /* If this fails, the index is made from footers, and the next one tries. */
    if (r == 0)
        packs_write_runs(&in->store->packs, false, NULL);
    return r;
}
