/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The OCI image manifest of one checkpoint (OCI image specification 1.1,
 * "Guidelines for Artifact Usage"):
 *
 *   artifactType application/vnd.stasis.machine.v1
 *   config       the checkpoint's manifest: its digest is the checkpoint's id
 *   layers       packs of map nodes, the pack list, device state, packs of pages
 *
 * It is made only from what it describes (its time is the checkpoint's), so that
 * the same checkpoint always gives the same bytes.
 */
#ifndef STASIS_REGISTRY_ARTIFACT_H
#define STASIS_REGISTRY_ARTIFACT_H

#include "base/digest.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define OCI_MEDIA_TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_MEDIA_TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define ARTIFACT_TYPE "application/vnd.stasis.machine.v1"
#define ARTIFACT_MAX_SIZE (4u << 20) /* what registries accept for a manifest */
#define ARTIFACT_LAYERS_MAX 16384u
/* 16 bytes a page: enough for 256 GiB of pages that all differ. */
#define PACK_LIST_MAX_SIZE (1u << 30)

struct descriptor {
    struct digest digest;
    uint64_t size;
};

enum layer_kind {
    LAYER_NODES,     /* a pack of map nodes */
    LAYER_PACK_LIST, /* pack_list.h */
    LAYER_STATE,     /* device state, a blob */
    LAYER_PAGES,     /* a pack of pages */
    LAYER_KINDS,
};

struct layer {
    enum layer_kind kind;
    struct descriptor blob;
};

struct artifact {
    struct descriptor config;
    int64_t created_us;
    struct layer *layers;
    size_t layer_count;
};

void artifact_clear(struct artifact *a);
/* -ENOMEM, -ENOSPC beyond ARTIFACT_LAYERS_MAX. */
int artifact_add_layer(struct artifact *a, enum layer_kind kind, const struct descriptor *blob);

/* Layers come out by kind, and in the order they were added within one. The
 * caller frees *text_out. -EFBIG beyond ARTIFACT_MAX_SIZE. */
int artifact_encode(const struct artifact *a, char **text_out, size_t *length_out,
                    struct error *err);

/* Reads what a registry gave: every digest is well formed and every size within
 * what its kind may have afterwards. Layers of unknown kinds are left out.
 * -EBADMSG; -EINVAL (with a hint) for an artifact that is not of Stasis. */
int artifact_decode(const char *text, size_t length, struct artifact *out, struct error *err);

/* Bytes of config and all layers. */
uint64_t artifact_total_bytes(const struct artifact *a);

/* The only layer of that kind, or NULL if there is none or more than one. */
const struct layer *artifact_find_layer(const struct artifact *a, enum layer_kind kind);

/* "sha256:HEX", as OCI writes it. out has ARTIFACT_DIGEST_SIZE bytes. */
#define ARTIFACT_DIGEST_SIZE (7 + DIGEST_HEX_SIZE)
char *artifact_digest_text(const struct digest *d, char out[ARTIFACT_DIGEST_SIZE]);
/* Only that form, lower case. 0 or -EINVAL. */
int artifact_digest_parse(const char *text, struct digest *out);

#endif
