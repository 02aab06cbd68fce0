/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/artifact.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "imgfmt/manifest.h"
#include "imgfmt/pack.h"
#include "imgfmt/state.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define CONFIG_MEDIA_TYPE "application/vnd.stasis.manifest.v1+json"
#define ANNOTATION_CREATED "org.opencontainers.image.created"
#define ANNOTATION_TITLE "org.opencontainers.image.title"
#define DIGEST_PREFIX "sha256:"

static const struct {
    const char *media_type;
    const char *title; /* oras pull names files so; a number is added if it may repeat */
    const char *suffix;
    bool repeats;
    uint64_t max_size;
} layer_kinds[LAYER_KINDS] = {
    [LAYER_NODES] = {"application/vnd.stasis.nodes.v1", "nodes", ".pack", true, PACK_MAX_SIZE},
    [LAYER_PACK_LIST] = {"application/vnd.stasis.index.v1", "packs", ".list", false,
                         PACK_LIST_MAX_SIZE},
    [LAYER_STATE] = {"application/vnd.stasis.state.v1", "state", ".bin", false, STATE_MAX_SIZE},
    [LAYER_PAGES] = {"application/vnd.stasis.pack.v1", "pages", ".pack", true, PACK_MAX_SIZE},
};

void artifact_clear(struct artifact *a)
{
    free(a->layers);
    *a = (struct artifact){0};
}

int artifact_add_layer(struct artifact *a, enum layer_kind kind, const struct descriptor *blob)
{
    if (a->layer_count >= ARTIFACT_LAYERS_MAX)
        return -ENOSPC;
    /* powers of two, so that adding many stays cheap */
    if ((a->layer_count & (a->layer_count - 1)) == 0) {
        size_t capacity = a->layer_count == 0 ? 1 : a->layer_count * 2;
        struct layer *grown = realloc(a->layers, capacity * sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        a->layers = grown;
    }
    a->layers[a->layer_count++] = (struct layer){kind, *blob};
    return 0;
}

uint64_t artifact_total_bytes(const struct artifact *a)
{
    uint64_t total = a->config.size;

    for (size_t i = 0; i < a->layer_count; i++)
        total += a->layers[i].blob.size; /* each below 2^30, at most 2^14: no overflow */
    return total;
}

const struct layer *artifact_find_layer(const struct artifact *a, enum layer_kind kind)
{
    const struct layer *found = NULL;

    for (size_t i = 0; i < a->layer_count; i++) {
        if (a->layers[i].kind != kind)
            continue;
        if (found != NULL)
            return NULL;
        found = &a->layers[i];
    }
    return found;
}

char *artifact_digest_text(const struct digest *d, char out[ARTIFACT_DIGEST_SIZE])
{
    memcpy(out, DIGEST_PREFIX, strlen(DIGEST_PREFIX));
    digest_hex(d, out + strlen(DIGEST_PREFIX));
    return out;
}

int artifact_digest_parse(const char *text, struct digest *out)
{
    char canonical[ARTIFACT_DIGEST_SIZE];
    struct digest d;

    if (strncmp(text, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0 ||
        digest_parse(text + strlen(DIGEST_PREFIX), &d) < 0)
        return -EINVAL;
    if (strcmp(artifact_digest_text(&d, canonical), text) != 0)
        return -EINVAL;
    *out = d;
    return 0;
}

/* ---- encoding ---- */

static json_t *encode_descriptor(const char *media_type, const struct descriptor *blob,
                                 const char *title)
{
    char digest[ARTIFACT_DIGEST_SIZE];

    artifact_digest_text(&blob->digest, digest);
    if (title == NULL)
        return json_pack("{s:s, s:s, s:I}", "mediaType", media_type, "digest", digest, "size",
                         (json_int_t)blob->size);
    return json_pack("{s:s, s:s, s:I, s:{s:s}}", "mediaType", media_type, "digest", digest, "size",
                     (json_int_t)blob->size, "annotations", ANNOTATION_TITLE, title);
}

static json_t *encode_layers(const struct artifact *a)
{
    _cleanup_json_ json_t *list = json_array();

    for (unsigned kind = 0; kind < LAYER_KINDS && list != NULL; kind++) {
        unsigned number = 0;
        for (size_t i = 0; i < a->layer_count; i++) {
            char title[48];
            if (a->layers[i].kind != kind)
                continue;
            if (layer_kinds[kind].repeats)
                snprintf(title, sizeof(title), "%s-%04u%s", layer_kinds[kind].title, number++,
                         layer_kinds[kind].suffix);
            else
                snprintf(title, sizeof(title), "%s%s", layer_kinds[kind].title,
                         layer_kinds[kind].suffix);
            if (json_array_append_new(list, encode_descriptor(layer_kinds[kind].media_type,
                                                              &a->layers[i].blob, title)) < 0)
                return NULL;
        }
    }
    return steal_pointer(list);
}

int artifact_encode(const struct artifact *a, char **text_out, size_t *length_out,
                    struct error *err)
{
    char created[CLOCK_RFC3339_SIZE];

    clock_rfc3339(a->created_us, created);
    _cleanup_json_ json_t *root =
        json_pack("{s:i, s:s, s:s, s:o, s:o, s:{s:s}}", "schemaVersion", 2, "mediaType",
                  OCI_MEDIA_TYPE_MANIFEST, "artifactType", ARTIFACT_TYPE, "config",
                  encode_descriptor(CONFIG_MEDIA_TYPE, &a->config, NULL), "layers",
                  encode_layers(a), "annotations", ANNOTATION_CREATED, created);
    _cleanup_free_ char *text =
        root == NULL ? NULL : json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL)
        return error_errno(err, ENOMEM, "cannot encode the OCI manifest");
    if (strlen(text) > ARTIFACT_MAX_SIZE)
        return error_set(err, STATUS_FAILED, EFBIG,
                         "the OCI manifest would have %zu bytes, more than registries take",
                         strlen(text));
    *length_out = strlen(text);
    *text_out = steal_pointer(text);
    return 0;
}

/* ---- decoding ---- */

static int bad_manifest(struct error *err, const char *what)
{
    return error_corrupt(err, "the OCI manifest is wrong: %s", what);
}

static int decode_descriptor(const json_t *value, uint64_t max_size, struct descriptor *out,
                             struct error *err)
{
    const char *digest = json_string_value(json_object_get(value, "digest"));
    const json_t *size = json_object_get(value, "size");

    if (digest == NULL || artifact_digest_parse(digest, &out->digest) < 0)
        return bad_manifest(err, "a digest is missing or not sha256: with 64 hex digits");
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return bad_manifest(err, "a size is missing or no number");
    out->size = (uint64_t)json_integer_value(size);
    if (out->size > max_size)
        return error_corrupt(err,
                             "the OCI manifest is wrong: %s has %llu bytes, at most %llu can be",
                             digest, (unsigned long long)out->size, (unsigned long long)max_size);
    return 0;
}

static int decode_layer(const json_t *value, struct artifact *a, struct error *err)
{
    const char *media_type = json_string_value(json_object_get(value, "mediaType"));
    struct descriptor blob;

    if (media_type == NULL)
        return bad_manifest(err, "a layer has no media type");
    for (unsigned kind = 0; kind < LAYER_KINDS; kind++) {
        if (strcmp(media_type, layer_kinds[kind].media_type) != 0)
            continue;
        int r = decode_descriptor(value, layer_kinds[kind].max_size, &blob, err);
        if (r < 0)
            return r;
        r = artifact_add_layer(a, kind, &blob);
        return r < 0 ? error_errno(err, -r, "cannot read the OCI manifest") : 0;
    }
    return 0; /* something newer versions add; what is needed is checked by the importer */
}

static int decode_layers(const json_t *layers, struct artifact *a, struct error *err)
{
    size_t i;
    json_t *value;

    if (!json_is_array(layers) || json_array_size(layers) > ARTIFACT_LAYERS_MAX)
        return bad_manifest(err, "it has no layers, or too many");
    json_array_foreach(layers, i, value)
    {
        int r = decode_layer(value, a, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A manifest of something else, or a list of manifests? */
static int check_kind(const json_t *root, struct error *err)
{
    const json_t *config = json_object_get(root, "config");
    const char *config_type = json_string_value(json_object_get(config, "mediaType"));
    const char *type = json_string_value(json_object_get(root, "artifactType"));
    bool ours = config_type != NULL && strcmp(config_type, CONFIG_MEDIA_TYPE) == 0 &&
                (type == NULL || strcmp(type, ARTIFACT_TYPE) == 0);

    if (ours)
        return 0;
    int r = error_set(err, STATUS_FAILED, EINVAL, "it is not a Stasis machine but %s",
                      json_object_get(root, "manifests") != NULL ? "a list of container images"
                      : type != NULL || config_type != NULL      ? "another kind of image"
                                                                 : "something else");
    error_hint(err, "only what stasis push has published can be pulled");
    return r;
}

int artifact_decode(const char *text, size_t length, struct artifact *out, struct error *err)
{
    _cleanup_(artifact_clear) struct artifact a = {0};
    json_error_t why;

    _cleanup_json_ json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    /* jansson's message quotes the text, which is not ours to print */
    if (!json_is_object(root))
        return bad_manifest(err, "it is not a JSON object");
    const json_t *version = json_object_get(root, "schemaVersion");
    if (!json_is_integer(version) || json_integer_value(version) != 2)
        return bad_manifest(err, "its schemaVersion is not 2");
    int r = check_kind(root, err);
    if (r < 0)
        return r;
    r = decode_descriptor(json_object_get(root, "config"), MANIFEST_MAX_SIZE, &a.config, err);
    if (r < 0)
        return r;
    r = decode_layers(json_object_get(root, "layers"), &a, err);
    if (r < 0)
        return r;
    *out = a;
    a = (struct artifact){0};
    return 0;
}
