/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes to look into: a disk of a checkpoint, a part of one, or (tests) a file.
 * Everything that parses what a guest wrote reads through this and nothing else.
 */
#ifndef STASIS_FUSE_MOUNT_SOURCE_H
#define STASIS_FUSE_MOUNT_SOURCE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct source {
    /* Reads exactly length bytes, all inside the size: source_read() has checked
     * that. May be called by many threads at once. */
    int (*read)(void *context, uint64_t offset, void *buf, size_t length);
    void *context;
    uint64_t start; /* added to every offset: where this part lies in the whole */
    uint64_t size_bytes;
};

/* Reads exactly length bytes at offset. -ERANGE if they do not lie inside the
 * source; else what read returns. Thread-safe. */
int source_read(const struct source *src, uint64_t offset, void *buf, size_t length);

/* The bytes [start, start + size_bytes) of a source. -ERANGE if they do not lie
 * inside it. The context stays the caller's. */
int source_part(const struct source *whole, uint64_t start, uint64_t size_bytes,
                struct source *out);

/* A source over an open file of that size; *fd must outlive it. */
struct source source_of_file(const int *fd, uint64_t size_bytes);

#endif
