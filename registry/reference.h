/* SPDX-License-Identifier: Apache-2.0 */
/* What people type to name an artifact in a registry or an image layout. */
#ifndef STASIS_REGISTRY_REFERENCE_H
#define STASIS_REGISTRY_REFERENCE_H

#include "base/digest.h"
#include "base/error.h"

#include <stdbool.h>

struct reference {
    bool layout; /* oci:DIR[:TAG] */
    char *dir;   /* of a layout; else NULL */
    char *host;  /* of a registry, with its port if it has one; else NULL */
    char *repository;
    char *tag;       /* as given, or "latest"; NULL if there is a digest */
    bool tag_given;  /* false: the tag is the default one */
    bool has_digest; /* HOST/REPO@sha256:HEX: one OCI manifest and no other */
    struct digest digest;
};

/* Reads "oci:DIR[:TAG]" or "HOST[:PORT]/REPO[:TAG|@sha256:HEX]" by the grammar of
 * the OCI distribution specification. -EINVAL (STATUS_USAGE) and what is wrong.
 * The caller frees with reference_clear(). */
int reference_parse(const char *text, struct reference *out, struct error *err);
void reference_clear(struct reference *ref);

/* localhost, 127.0.0.0/8 or [::1], with or without port: no TLS is expected. */
bool reference_host_is_local(const char *host);

#endif
