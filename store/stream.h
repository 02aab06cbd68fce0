/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole checkpoint as one stream of bytes over any pipe, like zfs send. The
 * grammar of the stream is at the top of stream.c.
 */
#ifndef STASIS_STORE_STREAM_H
#define STASIS_STORE_STREAM_H

#include "store/store.h"

struct stream_result {
    struct digest checkpoint;
    uint64_t bytes; /* of the stream */
    uint64_t pages;
};

/* Writes the checkpoint to fd. progress may be NULL; non-zero cancels. */
int stream_send(struct store *store, const struct digest *checkpoint, int fd,
                int (*progress)(uint64_t done_pages, void *context), void *context,
                struct stream_result *out, struct error *err);

/* Reads one stream from fd into the store. Nothing of it is visible before the
 * end has come and all of it has been checked. image and tag may be NULL. */
int stream_receive(struct store *store, int fd, const char *image, const char *tag,
                   bool replace_tag, int (*progress)(uint64_t done_pages, void *context),
                   void *context, struct stream_result *out, struct error *err);

#endif
