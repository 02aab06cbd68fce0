/* SPDX-License-Identifier: Apache-2.0 */
/* Makes packs for publishing: objects go in one by one, finished packs of at most
 * PACK_MAX_SIZE come out. The same objects always give the same files. */
#ifndef STASIS_REGISTRY_PACKER_H
#define STASIS_REGISTRY_PACKER_H

#include "imgfmt/pack.h"

struct packer;

struct packer_sink {
    /* An empty file for the next pack; the packer closes it. */
    int (*open)(void *context, int *fd_out, struct error *err);
    /* A pack is finished. */
    int (*finished)(void *context, int fd, struct error *err);
    void *context;
};

/* sink is copied. */
int packer_new(enum pack_kind kind, const struct packer_sink *sink, struct packer **out,
               struct error *err);
void packer_free(struct packer *p);

/* Bytes are copied. */
int packer_add(struct packer *p, const struct pack_object_id *id, const void *bytes, size_t length,
               struct error *err);

/* Finishes what is open; without objects there is no pack. */
int packer_finish(struct packer *p, struct error *err);

#endif
