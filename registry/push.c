/* SPDX-License-Identifier: Apache-2.0 */
/* Publishing: packs are made one at a time and handed on, so that a checkpoint of
 * any size needs one pack of temporary space. The OCI manifest goes last: a push
 * that stops anywhere leaves blobs nobody refers to, and no tag. */
#include "registry/registry.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "registry/blob.h"
#include "registry/depot.h"
#include "registry/pack_list.h"
#include "registry/packer.h"
#include "store/catalogue.h"
#include "store/transfer.h"

#include <errno.h>

struct push {
    struct depot *depot;
    struct artifact artifact;
    struct buffer pack_list;
    uint32_t pack_count;
    enum layer_kind pack_kind; /* of the packs the packer makes now */
    struct packer *packer;
    uint64_t page_bytes;    /* to pack: what the maps list */
    uint64_t packed_bytes;  /* of these, packed */
    uint64_t sent_bytes;    /* of blobs that were not there yet */
    uint64_t reported_step; /* progress of packing, in units of PACKING_STEP */
    struct error *err;
};

/* Packing is reported this often, in bytes. */
#define PACKING_STEP (1u << 20)

static void push_clear(struct push *p)
{
    depot_close(p->depot);
    artifact_clear(&p->artifact);
    buffer_clear(&p->pack_list);
    packer_free(p->packer);
}

/* ---- blobs ---- */

static int put_layer(struct push *p, enum layer_kind kind, const struct descriptor *blob, int fd)
{
    bool sent;

    p->depot->meter.what = "uploading";
    p->depot->meter.total = p->depot->meter.done + blob->size;
    int r = depot_put_blob(p->depot, blob, fd, &sent, p->err);
    if (r < 0)
        return r;
    if (sent)
        p->sent_bytes += blob->size;
    if (kind == LAYER_KINDS) /* the config is no layer */
        return 0;
    r = artifact_add_layer(&p->artifact, kind, blob);
    return r < 0 ? error_errno(p->err, -r, "cannot list the image's blobs") : 0;
}

static int put_bytes(struct push *p, enum layer_kind kind, const void *data, size_t length,
                     struct descriptor *blob_out)
{
    const struct descriptor blob = {digest_of(data, length), length};
    _cleanup_close_ int fd = -1;

    int r = p->depot->ops->temp_file(p->depot, &fd, p->err);
    if (r < 0)
        return r;
    r = io_write_full(fd, data, length);
    if (r < 0)
        return error_errno(p->err, -r, "cannot write a temporary file");
    r = put_layer(p, kind, &blob, fd);
    if (r == 0 && blob_out != NULL)
        *blob_out = blob;
    return r;
}

/* ---- packs ---- */

static int open_pack(void *context, int *fd_out, struct error *err)
{
    struct push *p = context;

    return p->depot->ops->temp_file(p->depot, fd_out, err);
}

static int pack_finished(void *context, int fd, struct error *err)
{
    struct push *p = context;
    struct descriptor blob;

    int r = blob_describe(fd, &blob, err);
    if (r < 0)
        return r;
    r = pack_list_append(&p->pack_list, fd, &blob, err);
    if (r < 0)
        return r;
    p->pack_count++;
    return put_layer(p, p->pack_kind, &blob, fd);
}

static int begin_packing(struct push *p, enum layer_kind kind)
{
    const struct packer_sink sink = {open_pack, pack_finished, p};

    p->pack_kind = kind;
    return packer_new(kind == LAYER_NODES ? PACK_NODES : PACK_PAGES, &sink, &p->packer, p->err);
}

static int finish_packing(struct push *p)
{
    int r = packer_finish(p->packer, p->err);

    packer_free(steal_pointer(p->packer));
    return r;
}

/* ---- walking the checkpoint ---- */

static int visit_node(const struct digest *digest, const void *bytes, size_t length, void *context)
{
    struct push *p = context;
    struct pack_object_id id;
    struct map_node node;

    int r = map_node_decode(bytes, length, &node, p->err);
    if (r < 0)
        return r;
    if (node.level == 0)
        p->page_bytes += (uint64_t)__builtin_popcount(node.present) * STASIS_PAGE_SIZE;
    memcpy(id.bytes, digest->bytes, sizeof(id.bytes));
    return packer_add(p->packer, &id, bytes, length, p->err);
}

static int visit_blob(const struct digest *digest, const void *data, size_t length, void *context)
{
    struct push *p = context;

    (void)digest;
    return put_bytes(p, LAYER_STATE, data, length, NULL);
}

/* Pages that several leaves list are packed once, so packing may end early. */
static int report_packing(struct push *p)
{
    const struct meter packing = {p->depot->meter.options, "packing", p->packed_bytes,
                                  max_u64(p->page_bytes, p->packed_bytes)};

    if (p->packed_bytes / PACKING_STEP == p->reported_step)
        return 0;
    p->reported_step = p->packed_bytes / PACKING_STEP;
    return meter_report(&packing, 0, p->err);
}

static int visit_page(struct page_ref ref, const void *bytes, void *context)
{
    struct push *p = context;
    struct pack_object_id id;

    page_ref_store(ref, id.bytes);
    int r = packer_add(p->packer, &id, bytes, STASIS_PAGE_SIZE, p->err);
    if (r < 0)
        return r;
    p->packed_bytes += STASIS_PAGE_SIZE;
    return report_packing(p);
}

static int push_packs(struct push *p, struct store *store, const struct digest *checkpoint,
                      enum layer_kind kind)
{
    const struct transfer_visitor visitor = {
        .node = kind == LAYER_NODES ? visit_node : NULL,
        .blob = kind == LAYER_NODES ? visit_blob : NULL,
        .page = kind == LAYER_PAGES ? visit_page : NULL,
        .context = p,
    };

    int r = begin_packing(p, kind);
    if (r < 0)
        return r;
    r = transfer_export(store, checkpoint, &visitor, p->err);
    if (r < 0)
        return r;
    return finish_packing(p);
}

static int push_pack_list(struct push *p)
{
    pack_list_finish(&p->pack_list, p->pack_count);
    return put_bytes(p, LAYER_PACK_LIST, p->pack_list.data, p->pack_list.length, NULL);
}

static int push_config(struct push *p, struct store *store, const struct digest *checkpoint)
{
    _cleanup_free_ struct manifest *manifest = calloc(1, sizeof(*manifest));
    _cleanup_free_ char *text = NULL;
    size_t length;

    if (manifest == NULL)
        return error_errno(p->err, ENOMEM, "cannot read the manifest");
    int r = catalogue_manifest_read(store, checkpoint, manifest, p->err);
    if (r < 0)
        return r;
    r = manifest_encode(manifest, &text, &length);
    if (r < 0)
        return error_errno(p->err, -r, "cannot encode the manifest");
    p->artifact.created_us = manifest->created_us;
    return put_bytes(p, LAYER_KINDS, text, length, &p->artifact.config);
}

static int push_artifact(struct push *p, struct digest *manifest_out)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = artifact_encode(&p->artifact, &text, &length, p->err);
    if (r < 0)
        return r;
    *manifest_out = digest_of(text, length);
    return p->depot->ops->manifest_put(p->depot, text, length, manifest_out, p->err);
}

static int push_all(struct push *p, struct store *store, const struct digest *checkpoint,
                    struct digest *manifest_out)
{
    if (pack_list_begin(&p->pack_list) < 0)
        return error_errno(p->err, ENOMEM, "cannot list the packs");
    int r = push_packs(p, store, checkpoint, LAYER_NODES);
    if (r < 0)
        return r;
    r = push_packs(p, store, checkpoint, LAYER_PAGES);
    if (r < 0)
        return r;
    r = push_pack_list(p);
    if (r < 0)
        return r;
    r = push_config(p, store, checkpoint);
    if (r < 0)
        return r;
    return push_artifact(p, manifest_out);
}

int registry_push(struct store *store, const struct digest *checkpoint, const char *dest,
                  const struct registry_options *options, struct registry_result *out,
                  struct error *err)
{
    _cleanup_(reference_clear) struct reference ref = {0};
    _cleanup_(push_clear) struct push p = {.err = err};
    struct digest manifest;

    int r = reference_parse(dest, &ref, err);
    if (r < 0)
        return r;
    if (ref.has_digest) {
        r = error_set(err, STATUS_USAGE, EINVAL, "cannot push to %s: a digest is no tag", dest);
        error_hint(err, "write HOST[:PORT]/REPOSITORY:TAG");
        return r;
    }
    r = depot_open(&ref, options, true, &p.depot, err);
    if (r == 0)
        r = push_all(&p, store, checkpoint, &manifest);
    if (r < 0) {
        error_prefix(err, "cannot push to %s", dest);
        return r;
    }
    *out = (struct registry_result){*checkpoint, manifest, artifact_total_bytes(&p.artifact),
                                    p.sent_bytes};
    return 0;
}
