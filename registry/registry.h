/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints in OCI registries and OCI image layouts (OCI distribution and image
 * specifications 1.1). One artifact is one checkpoint:
 *
 *   artifactType application/vnd.stasis.machine.v1
 *   config       the manifest (application/vnd.stasis.manifest.v1+json)
 *   layers       map nodes, pack index, device state, page packs (<= 64 MiB each)
 */
#ifndef STASIS_REGISTRY_REGISTRY_H
#define STASIS_REGISTRY_REGISTRY_H

#include "base/error.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct registry_options {
    /* what: "connecting", "packing", "uploading", "downloading"; bytes, total 0 if it is
     * not known yet; non-zero cancels; may be NULL */
    int (*progress)(const char *what, uint64_t done, uint64_t total, void *context);
    void *context;
    bool plain_http;  /* also chosen by itself for localhost and 127.0.0.0/8 */
    bool replace_tag; /* pull: a name that was given may be another checkpoint's until now */
};

struct registry_result {
    struct digest checkpoint;
    struct digest manifest;     /* of the OCI manifest */
    uint64_t total_bytes;       /* of all blobs */
    uint64_t transferred_bytes; /* of those that were not there yet */
};

/* Is this reference for a registry or layout: "oci:DIR[:TAG]", or
 * "HOST[:PORT]/REPO[:TAG]" with a HOST that has a '.', a ':' or is localhost? */
bool registry_is_reference(const char *reference);

/* Uploads a checkpoint to dest. Blobs that are there are not sent again; the OCI
 * manifest goes last. Credentials from ~/.docker/config.json or
 * $REGISTRY_AUTH_FILE where the registry asks for them. */
int registry_push(struct store *store, const struct digest *checkpoint, const char *dest,
                  const struct registry_options *options, struct registry_result *out,
                  struct error *err);

/* Downloads into the store and tags it image:tag (NULL: named after the source, whose
 * tag moves with it). -EEXIST, before anything is fetched, if a tag that was given is
 * another checkpoint's and replace_tag is not set.
 * Everything is checked against SHA-256 from the OCI manifest down. A download
 * that was cut off leaves nothing half done in the store. */
int registry_pull(struct store *store, const char *source, const char *image, const char *tag,
                  const struct registry_options *options, struct registry_result *out,
                  struct error *err);

#endif
