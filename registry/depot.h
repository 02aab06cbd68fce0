/* SPDX-License-Identifier: Apache-2.0 */
/* Where artifacts are kept: a registry over HTTP (remote.c) or an OCI image
 * layout in a directory (layout.c). One thread at a time. */
#ifndef STASIS_REGISTRY_DEPOT_H
#define STASIS_REGISTRY_DEPOT_H

#include "registry/artifact.h"
#include "registry/reference.h"
#include "registry/registry.h"

struct depot;

/* Where a long transfer stands; the base of what progress() is told. */
struct meter {
    const struct registry_options *options; /* may be NULL */
    const char *what;
    uint64_t done;  /* bytes of finished blobs */
    uint64_t total; /* 0 if it is not known yet */
};

/* Reports done + within; -ECANCELED (and err) if the caller wants to stop. */
int meter_report(const struct meter *meter, uint64_t within, struct error *err);

struct depot_ops {
    /* An empty unnamed file near where blobs go: nothing of it remains if it is
     * not put. */
    int (*temp_file)(struct depot *depot, int *fd_out, struct error *err);
    int (*blob_has)(struct depot *depot, const struct descriptor *blob, bool *out,
                    struct error *err);
    /* fd is a temp_file() that holds exactly the blob. */
    int (*blob_put)(struct depot *depot, const struct descriptor *blob, int fd, struct error *err);
    /* A file that holds the blob, checked against its digest. */
    int (*blob_open)(struct depot *depot, const struct descriptor *blob, int *fd_out,
                     struct error *err);
    /* Makes the tag point at this manifest; all its blobs are there. */
    int (*manifest_put)(struct depot *depot, const char *text, size_t length,
                        const struct digest *digest, struct error *err);
    /* The manifest the reference names, checked against its digest. */
    int (*manifest_get)(struct depot *depot, char **text_out, size_t *length_out,
                        struct digest *digest_out, struct error *err);
    void (*close)(struct depot *depot);
};

struct depot {
    const struct depot_ops *ops;
    struct meter meter;
};

/* Opens what ref names, which must outlive it. create: an image layout is made if
 * there is none. */
int depot_open(const struct reference *ref, const struct registry_options *options, bool create,
               struct depot **out, struct error *err);
void depot_close(struct depot *depot);

/* Puts a blob unless it is there; *sent_out says which. */
int depot_put_blob(struct depot *depot, const struct descriptor *blob, int fd, bool *sent_out,
                   struct error *err);

/* Reads a whole checked blob into memory; the caller frees *data_out. */
int depot_read_blob(struct depot *depot, const struct descriptor *blob, void **data_out,
                    struct error *err);

/* Back ends. */
int layout_open(const struct reference *ref, bool create, struct depot **out, struct error *err);
int remote_open(const struct reference *ref, bool plain_http, bool may_push, struct depot **out,
                struct error *err);

#endif
