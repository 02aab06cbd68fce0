/* SPDX-License-Identifier: Apache-2.0 */
#include "store/transfer.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/catalogue.h"
#include "store/ingest_private.h"
#include "store/walk.h"

#include <errno.h>
#include <stdlib.h>

/* ---- leaving ---- */

struct exporter {
    struct store *store;
    const struct transfer_visitor *visitor;
    struct page_marks sent;
    struct cached_group *near;
    struct error *err;
};

static int export_node(void *context, const struct digest *digest, const uint8_t *bytes,
                       size_t length, const struct map_node *decoded)
{
    struct exporter *ex = context;

    (void)decoded;
    return ex->visitor->node(digest, bytes, length, ex->visitor->context);
}

static int export_page(void *context, struct page_ref ref)
{
    struct exporter *ex = context;
    const uint8_t *bytes;
    int fresh = page_marks_set(&ex->sent, ref);
    int r;

    if (fresh == 0)
        return 0;
    if (fresh == -ENOMEM)
        return error_errno(ex->err, ENOMEM, "reading a checkpoint");
    /* -ENOENT: the read knows better why it is missing. */
    r = store_page_near(ex->store, ref, &ex->near, &bytes, ex->err);
    return r < 0 ? r : ex->visitor->page(ref, bytes, ex->visitor->context);
}

static int export_spaces(struct exporter *ex, const struct manifest *m, bool memory)
{
    const struct transfer_visitor *v = ex->visitor;
    struct tree_walk walk = {.node = v->node != NULL ? export_node : NULL,
                             .page = v->page != NULL ? export_page : NULL,
                             .context = ex,
                             .store = ex->store,
                             .err = ex->err};
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < m->space_count; i++)
        if ((strcmp(m->spaces[i].name, "memory") == 0) == memory)
            r = tree_walk_map(&walk, &m->spaces[i].root,
                              div_round_up(m->spaces[i].size_bytes, STASIS_PAGE_SIZE), NULL);
    tree_walk_clear(&walk);
    return r;
}

static int export_state(struct exporter *ex, const struct manifest *m)
{
    _cleanup_free_ void *data = NULL;
    size_t length;
    int r;

    if (!m->has_state || ex->visitor->blob == NULL)
        return 0;
    r = store_blob_read(ex->store, &m->state, &data, &length, ex->err);
    return r < 0 ? r : ex->visitor->blob(&m->state, data, length, ex->visitor->context);
}

int transfer_export(struct store *store, const struct digest *checkpoint,
                    const struct transfer_visitor *visitor, struct error *err)
{
    _cleanup_(store_unpinp) struct store_pin *pin = NULL;
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    struct exporter ex = {.store = store, .visitor = visitor, .sent = {.store = store}, .err = err};
    int r;

    if (m == NULL)
        return error_errno(err, ENOMEM, "reading a checkpoint");
    r = store_pin(store, checkpoint, &pin, err);
    if (r == 0)
        r = catalogue_manifest_read(store, checkpoint, m, err);
    if (r == 0 && (visitor->node != NULL || visitor->page != NULL)) {
        r = export_spaces(&ex, m, true);
        if (r == 0)
            r = export_spaces(&ex, m, false);
    }
    if (r == 0)
        r = export_state(&ex, m);
    page_marks_clear(&ex.sent);
    cached_group_release(ex.near);
    return r;
}

/* ---- entering ---- */

struct transfer_import {
    struct store *store;
    struct ingest *in;
    struct index arrived;   /* the sender's references; object: our variant */
    struct renames renames; /* those of them that differ */
    struct error *walk_err;
};

DEFINE_CLEANUP(struct transfer_import, transfer_import_free)

int transfer_import_begin(struct store *store, struct transfer_import **out, struct error *err)
{
    _cleanup_(transfer_import_freep) struct transfer_import *im = calloc(1, sizeof(*im));
    int r;

    if (im == NULL)
        return error_errno(err, ENOMEM, "receiving a checkpoint");
    im->store = store;
    r = ingest_begin(store, &im->in, err);
    if (r < 0)
        return r;
    *out = steal_pointer(im);
    return 0;
}

void transfer_import_free(struct transfer_import *im)
{
    if (im == NULL)
        return;
    ingest_free(im->in);
    index_clear(&im->arrived);
    index_clear(&im->renames.table);
    free(im);
}

static int note_arrival(struct transfer_import *im, struct page_ref sender, struct page_ref local,
                        struct error *err)
{
    uint32_t variant = page_ref_variant(local);
    int r = index_add(&im->arrived, sender, 0, variant);

    if (r == 0 && !page_ref_equal(sender, local))
        r = index_add(&im->renames.table, sender, 0, variant);
    return r < 0 ? error_errno(err, -r, "receiving a page") : 0;
}

int transfer_import_page(struct transfer_import *im, struct page_ref sender_ref, const void *bytes,
                         struct error *err)
{
    const struct index_entry *before = index_get(&im->arrived, sender_ref);
    struct page_ref local;
    int r;

    if (page_ref_is_zero(sender_ref) || page_is_zero(bytes) ||
        !page_ref_same_key(page_ref_of(bytes), sender_ref))
        return error_corrupt(err, "a page was received that is not what it is called");
    r = ingest_page(im->in, bytes, &local, err);
    if (r < 0)
        return r;
    if (before == NULL)
        return note_arrival(im, sender_ref, local, err);
    if (before->object != page_ref_variant(local))
        return error_corrupt(err, "two different pages were received under one name");
    return 0;
}

int transfer_import_node(struct transfer_import *im, const void *bytes, size_t length,
                         struct error *err)
{
    struct digest digest;
    struct map_node node;
    int r = map_node_decode(bytes, length, &node, err);

    if (r < 0)
        return r;
    digest = digest_of(bytes, length);
    return ingest_encoded_node(im->in, bytes, length, &digest, err);
}

int transfer_import_blob(struct transfer_import *im, const void *data, size_t length,
                         struct error *err)
{
    struct digest digest;

    /* Blobs wait in memory. A checkpoint has one, its device state. */
    if (im->in->blob_count != 0)
        return error_corrupt(err, "more blobs were received than a checkpoint has");
    return ingest_blob(im->in, data, length, &digest, err);
}

/* ---- the end of an import ---- */

static int read_node(void *context, const struct digest *digest, struct cached_group **group_out,
                     const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    struct transfer_import *im = context;

    return ingest_node_bytes(im->in, digest, group_out, bytes_out, length_out, err);
}

static int check_page(void *context, struct page_ref ref)
{
    struct transfer_import *im = context;
    uint8_t bytes[PAGE_REF_SIZE];
    char hex[2 * PAGE_REF_SIZE + 1];

    /* Pages of this import count by the sender's names only: a page of ours may have
     * been given a name that means another page to him. */
    if (index_get(&im->arrived, ref) != NULL || ingest_view_has_page(im->in, ref))
        return 0;
    page_ref_store(ref, bytes);
    return error_corrupt(im->walk_err, "page %s was not received and is not in the store",
                         hex_encode(bytes, sizeof(bytes), hex));
}

/* All that the manifest reaches is there. */
static int check_closure(struct transfer_import *im, const struct manifest *m, struct error *err)
{
    struct tree_walk walk = {
        .read = read_node, .page = check_page, .context = im, .store = im->store, .err = err};
    int r = 0;

    im->walk_err = err;
    for (uint32_t i = 0; r == 0 && i < m->space_count; i++)
        r = tree_walk_map(&walk, &m->spaces[i].root,
                          div_round_up(m->spaces[i].size_bytes, STASIS_PAGE_SIZE), NULL);
    tree_walk_clear(&walk);
    if (r < 0)
        error_prefix(err, "the received checkpoint is incomplete");
    return r;
}

/* The maps name pages as the sender does; where we had to name them otherwise,
 * they are written again. */
static int translate(struct transfer_import *im, struct manifest *m, struct error *err)
{
    struct digest *roots[MANIFEST_SPACES_MAX];

    if (im->renames.table.count == 0)
        return 0;
    for (uint32_t i = 0; i < m->space_count; i++)
        roots[i] = &m->spaces[i].root;
    return ingest_rewrite_maps(im->in, &im->renames, true, roots, m->space_count, err);
}

int transfer_import_finish(struct transfer_import *im, const char *manifest, size_t length,
                           const char *image, const char *tag, bool replace_tag,
                           struct digest *id_out, struct error *err)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    struct ingest_commit commit = {
        .manifest = m, .image = image, .tag = tag, .replace_tag = replace_tag};
    int r;

    if (m == NULL)
        return error_errno(err, ENOMEM, "receiving a checkpoint");
    r = manifest_decode(manifest, length, m, err);
    if (r == 0)
        r = check_closure(im, m, err);
    if (r == 0)
        r = translate(im, m, err);
    return r < 0 ? r : ingest_commit(im->in, &commit, id_out, err);
}
