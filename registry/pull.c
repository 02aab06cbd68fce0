/* SPDX-License-Identifier: Apache-2.0 */
/* Fetching: a chain of SHA-256 from the OCI manifest down. Each blob is checked
 * as a whole, each group against the pack list, and the importer recomputes what
 * pages and nodes are called; nothing is visible before all of it is there. */
#include "registry/registry.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "registry/depot.h"
#include "registry/pack_list.h"
#include "store/catalogue.h"
#include "store/transfer.h"

#include <errno.h>
#include <string.h>

struct pull {
    struct depot *depot;
    struct artifact artifact;
    struct transfer_import *import;
    void *pack_list;
    struct pack_list_reader packs;
    uint8_t *raw; /* one group */
    struct error *err;
};

static void pull_clear(struct pull *p)
{
    transfer_import_free(p->import); /* before what it was fed from */
    depot_close(p->depot);
    artifact_clear(&p->artifact);
    free(p->pack_list);
    free(p->raw);
}

DEFINE_CLEANUP(struct pack_index, pack_index_free)

/* ---- groups ---- */

static int import_nodes(struct pull *p, const struct pack_group *group)
{
    for (size_t at = 0; at < group->raw_bytes;) {
        size_t length = map_node_length(p->raw + at, group->raw_bytes - at);
        if (length == 0)
            return error_corrupt(p->err, "a pack of map nodes holds something else");
        int r = transfer_import_node(p->import, p->raw + at, length, p->err);
        if (r < 0)
            return r;
        at += length;
    }
    return 0;
}

/* pack_index_decode() has checked that a group has 4096 bytes for each object. */
static int import_pages(struct pull *p, const struct pack_index *index,
                        const struct pack_group *group)
{
    for (unsigned i = 0; i < group->object_count; i++) {
        const uint8_t *ref = index->objects[group->first_object + i].bytes;
        int r = transfer_import_page(p->import, page_ref_load(ref),
                                     p->raw + (size_t)i * STASIS_PAGE_SIZE, p->err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int import_group(struct pull *p, int fd, const char *name, const struct pack_index *index,
                        uint32_t number)
{
    const struct pack_group *group = &index->groups[number];

    int r = pack_group_read(fd, name, index, number, p->raw, p->err);
    if (r < 0)
        return r;
    r = pack_group_check_digest(name, group, p->raw, p->err);
    if (r < 0)
        return r;
    return index->kind == PACK_NODES ? import_nodes(p, group) : import_pages(p, index, group);
}

/* ---- packs ---- */

/* The entry of the pack list must be about this layer. */
static int next_index(struct pull *p, const struct layer *layer, struct pack_index **index_out)
{
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    struct descriptor pack;

    int r = pack_list_next(&p->packs, &pack, &index, p->err);
    if (r < 0)
        return r;
    if (!digest_equal(&pack.digest, &layer->blob.digest) || pack.size != layer->blob.size ||
        index->kind != (layer->kind == LAYER_NODES ? PACK_NODES : PACK_PAGES))
        return error_corrupt(p->err, "the pack list and the OCI manifest name different packs");
    *index_out = steal_pointer(index);
    return 0;
}

static int pull_pack(struct pull *p, const struct layer *layer)
{
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    _cleanup_close_ int fd = -1;
    char name[DIGEST_HEX_SIZE];

    int r = next_index(p, layer, &index);
    if (r < 0)
        return r;
    r = p->depot->ops->blob_open(p->depot, &layer->blob, &fd, p->err);
    if (r < 0)
        return r;
    digest_hex(&layer->blob.digest, name);
    for (uint32_t i = 0; i < index->group_count; i++) {
        r = import_group(p, fd, name, index, i);
        if (r < 0)
            return r;
    }
    return 0;
}

static int pull_packs(struct pull *p, enum layer_kind kind)
{
    for (size_t i = 0; i < p->artifact.layer_count; i++) {
        if (p->artifact.layers[i].kind != kind)
            continue;
        int r = pull_pack(p, &p->artifact.layers[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the rest ---- */

static int pull_artifact(struct pull *p, struct digest *manifest_out)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = p->depot->ops->manifest_get(p->depot, &text, &length, manifest_out, p->err);
    if (r < 0)
        return r;
    r = artifact_decode(text, length, &p->artifact, p->err);
    if (r < 0)
        return r;
    p->depot->meter.what = "downloading";
    p->depot->meter.done = 0;
    p->depot->meter.total = artifact_total_bytes(&p->artifact);
    return meter_report(&p->depot->meter, 0, p->err);
}

/* The config is small and says early whether this program can use the rest. */
static int pull_config(struct pull *p, void **text_out)
{
    _cleanup_free_ struct manifest *manifest = calloc(1, sizeof(*manifest));
    _cleanup_free_ void *text = NULL;

    if (manifest == NULL)
        return error_errno(p->err, ENOMEM, "cannot read the manifest");
    int r = depot_read_blob(p->depot, &p->artifact.config, &text, p->err);
    if (r < 0)
        return r;
    r = manifest_decode(text, p->artifact.config.size, manifest, p->err);
    if (r < 0)
        return r;
    *text_out = steal_pointer(text);
    return 0;
}

static int pull_pack_list(struct pull *p)
{
    const struct layer *layer = artifact_find_layer(&p->artifact, LAYER_PACK_LIST);

    if (layer == NULL)
        return error_corrupt(p->err, "the OCI manifest is wrong: it has no pack list, or several");
    int r = depot_read_blob(p->depot, &layer->blob, &p->pack_list, p->err);
    if (r < 0)
        return r;
    return pack_list_read(p->pack_list, layer->blob.size, &p->packs, p->err);
}

static int pull_state(struct pull *p)
{
    for (size_t i = 0; i < p->artifact.layer_count; i++) {
        const struct layer *layer = &p->artifact.layers[i];
        _cleanup_free_ void *data = NULL;
        if (layer->kind != LAYER_STATE)
            continue;
        int r = depot_read_blob(p->depot, &layer->blob, &data, p->err);
        if (r == 0)
            r = transfer_import_blob(p->import, data, layer->blob.size, p->err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int pull_contents(struct pull *p)
{
    int r = pull_pack_list(p);
    if (r < 0)
        return r;
    r = pull_packs(p, LAYER_NODES);
    if (r < 0)
        return r;
    r = pull_state(p);
    if (r < 0)
        return r;
    r = pull_packs(p, LAYER_PAGES);
    if (r < 0)
        return r;
    return pack_list_end(&p->packs, p->err);
}

/* In ASCII, whatever the locale. */
static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Where the caller gives no name: HOST/REPOSITORY, or the layout's directory. */
static char *image_name(const struct reference *ref)
{
    if (!ref->layout)
        return io_format("%s/%s", ref->host, ref->repository);
    _cleanup_free_ char *real = realpath(ref->dir, NULL); /* "." has a name there */
    const char *slash = real == NULL ? NULL : strrchr(real, '/');
    if (slash == NULL || !is_alphanumeric(slash[1]))
        return io_format("image");
    char *name = io_format("%.255s", slash + 1);
    /* A directory may be called what no image can. */
    for (char *c = name; *c != '\0'; c++)
        if (!is_alphanumeric(*c) && strchr("._-", *c) == NULL)
            *c = '-';
    return name;
}

static char *image_tag(const struct reference *ref, const struct digest *manifest)
{
    char hex[DIGEST_HEX_SIZE];

    if (ref->tag != NULL)
        return io_format("%s", ref->tag);
    return io_format("%.12s", digest_hex(manifest, hex));
}

/* The config's digest is the checkpoint's id, so a name that is taken shows before
 * anything large is fetched. */
static int check_name(struct pull *p, struct store *store, const char *image, const char *tag)
{
    struct digest there;
    struct error ignored;

    if (catalogue_image_get(store, image, tag, &there, &ignored) < 0 ||
        digest_equal(&there, &p->artifact.config.digest))
        return 0;
    return error_set(p->err, STATUS_EXISTS, EEXIST, "the image %s:%s is another checkpoint", image,
                     tag);
}

static int pull_all(struct pull *p, struct store *store, const struct reference *ref,
                    const char *image, const char *tag, bool replace,
                    struct registry_result *result)
{
    _cleanup_free_ void *config = NULL;

    int r = pull_artifact(p, &result->manifest);
    if (r < 0 || (image != NULL && !replace && (r = check_name(p, store, image, tag)) < 0))
        return r;
    r = pull_config(p, &config);
    if (r < 0)
        return r;
    p->raw = malloc(PACK_GROUP_RAW_MAX);
    if (p->raw == NULL)
        return error_errno(p->err, ENOMEM, "cannot fetch the image");
    r = transfer_import_begin(store, &p->import, p->err);
    if (r < 0)
        return r;
    r = pull_contents(p);
    if (r < 0)
        return r;
    _cleanup_free_ char *own_image = image_name(ref);
    _cleanup_free_ char *own_tag = image_tag(ref, &result->manifest);
    return transfer_import_finish(p->import, config, p->artifact.config.size,
                                  image != NULL ? image : own_image, tag != NULL ? tag : own_tag,
                                  image == NULL || replace, &result->checkpoint, p->err);
}

int registry_pull(struct store *store, const char *source, const char *image, const char *tag,
                  const struct registry_options *options, struct registry_result *out,
                  struct error *err)
{
    _cleanup_(reference_clear) struct reference ref = {0};
    _cleanup_(pull_clear) struct pull p = {.err = err};
    struct registry_result result = {0};

    int r = reference_parse(source, &ref, err);
    if (r < 0)
        return r;
    r = depot_open(&ref, options, false, &p.depot, err);
    if (r == 0)
        r = pull_all(&p, store, &ref, image, tag, options != NULL && options->replace_tag, &result);
    if (r < 0) {
        error_prefix(err, "cannot pull %s", source);
        return r;
    }
    result.total_bytes = artifact_total_bytes(&p.artifact);
    result.transferred_bytes = p.depot->meter.done;
    *out = result;
    return 0;
}
