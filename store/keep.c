/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a writer owes the collector (gc.c): when it commits, everything its checkpoint
 * reaches is its own or in a live pack. It may rely on things in packs that were
 * condemned while it wrote, which its lease has kept; those packs it makes live
 * again, in the transaction of its commit.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/ingest_private.h"
#include "store/walk.h"

#include <errno.h>

enum { COPIES_MAX = 16 };

struct keep {
    struct ingest *in;
    struct error *err;
    struct cached_group *near;
};

static int list_pack(struct keep *k, uint32_t number)
{
    struct ingest *in = k->in;
    int64_t seq = packs_get(&in->store->packs, number)->seq;
    int64_t *list;

    for (size_t i = 0; i < in->revived_count; i++)
        if (in->revived[i] == seq)
            return 0;
    list = realloc(in->revived, (in->revived_count + 1) * sizeof(*list));
    if (list == NULL)
        return error_errno(k->err, ENOMEM, "committing");
    in->revived = list;
    in->revived[in->revived_count++] = seq;
    return 0;
}

static bool copy_is_good(struct keep *k, enum pack_kind kind, const struct location *at,
                         const struct digest *digest)
{
    const uint8_t *bytes;
    struct digest actual;
    size_t length;

    if (packs_read_near(&k->in->store->packs, at, &k->near, &bytes, &length, NULL) < 0)
        return false;
    if (kind == PACK_PAGES)
        return page_ref_same_key(page_ref_of(bytes), at->id);
    actual = digest_of(bytes, length);
    return digest_equal(&actual, digest);
}

static int lost(struct keep *k, enum pack_kind kind)
{
    error_set(k->err, STATUS_BUSY, ESTALE, "a %s that this checkpoint needs has been removed",
              kind == PACK_PAGES ? "page" : "map");
    error_hint(k->err, "the checkpoint it builds on was removed meanwhile: start from another");
    return -ESTALE;
}

/* An object is in a live pack, or a condemned one that has it is listed. Where it is
 * in both, the live copy must be a good one. */
static int need(struct keep *k, enum pack_kind kind, struct page_ref id,
                const struct digest *digest)
{
    struct packs *packs = &k->in->store->packs;
    struct location at[COPIES_MAX];
    unsigned live = 0, n;

    if (ingest_owns(k->in, kind, id))
        return 0;
    n = packs_find(packs, kind, id, false, 0, UINT32_MAX, at, COPIES_MAX);
    if (n == 0)
        return lost(k, kind);
    n = (unsigned)min_u64(n, COPIES_MAX);
    for (unsigned i = 0; i < n; i++)
        live += packs_state(packs, at[i].pack) == PACK_LIVE;
    if (live == n)
        return 0;
    for (unsigned i = 0; i < n; i++)
        if (packs_state(packs, at[i].pack) == PACK_LIVE && copy_is_good(k, kind, &at[i], digest))
            return 0;
    for (unsigned i = 0; i < n; i++)
        if (packs_state(packs, at[i].pack) == PACK_CONDEMNED)
            return list_pack(k, at[i].pack);
    return 0;
}

static int need_page(void *context, struct page_ref ref)
{
    return need(context, PACK_PAGES, ref, NULL);
}

static int need_node(void *context, const struct digest *digest, const uint8_t *bytes,
                     size_t length, const struct map_node *decoded)
{
    (void)bytes;
    (void)length;
    (void)decoded;
    return need(context, PACK_NODES, node_id(digest), digest);
}

static int read_node(void *context, const struct digest *digest, struct cached_group **group_out,
                     const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    struct keep *k = context;

    return ingest_node_bytes(k->in, digest, group_out, bytes_out, length_out, err);
}

static int walk(struct keep *k, const struct manifest *m)
{
    struct tree_walk tree = {.read = read_node,
                             .node = need_node,
                             .page = need_page,
                             .context = k,
                             .store = k->in->store,
                             .err = k->err};
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < m->space_count; i++)
        r = tree_walk_map(&tree, &m->spaces[i].root,
                          div_round_up(m->spaces[i].size_bytes, STASIS_PAGE_SIZE), NULL);
    tree_walk_clear(&tree);
    return r;
}

static int any_is_condemned(struct store *store, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int64_t one;
    int r = db_get_int(db, &one, err, "SELECT 1 FROM pack WHERE condemned IS NOT NULL LIMIT 1", "");

    return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

int ingest_keep(struct ingest *in, const struct manifest *m, struct error *err)
{
    struct keep k = {.in = in, .err = err};
    int64_t epoch = atomic_load(&in->store->epoch);
    int r = any_is_condemned(in->store, err);

    in->revived_count = 0;
    if (r == 1 || (r == 0 && epoch != in->lease.epoch))
        r = walk(&k, m);
    cached_group_release(k.near);
    if (r == 0) {
        in->kept_epoch = epoch;
        in->kept = true;
    }
    return r;
}

int ingest_keep_locked(struct ingest *in, struct error *err)
{
    struct db *db = &in->store->db;
    int64_t epoch;
    int r = 0;

    if (!in->kept || in->kept_epoch != atomic_load(&in->store->epoch))
        return -EAGAIN;
    for (size_t i = 0; r == 0 && i < in->revived_count; i++)
        r = db_run(db, err, "UPDATE pack SET condemned = NULL WHERE seq = ?", "i", in->revived[i]);
    return r < 0 || in->revived_count == 0 ? r : store_next_epoch(db, &epoch, err);
}
