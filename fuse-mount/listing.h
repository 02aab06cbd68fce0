/* SPDX-License-Identifier: Apache-2.0 */
/* The names in one directory at the moment it was opened. */
#ifndef STASIS_FUSE_MOUNT_LISTING_H
#define STASIS_FUSE_MOUNT_LISTING_H

#include <stddef.h>
#include <stdint.h>

/* All names of a directory together; a guest's directory may be any size. 256
 * MiB are about ten million files. */
#define LISTING_BYTES_MAX (256u << 20)

struct listing_entry {
    uint64_t inode; /* what the room that made the listing knows it by */
    uint32_t name;  /* offset into names */
    uint32_t mode;  /* S_IF... bits */
};

struct listing {
    struct listing_entry *entries;
    size_t count, capacity;
    char *names; /* NUL behind each */
    size_t names_bytes, names_capacity;
};

/* Zero-initialised is empty and valid. */
void listing_clear(struct listing *l);
/* Copies the name. -ENOMEM, -EOVERFLOW past LISTING_BYTES_MAX. */
int listing_add(struct listing *l, const char *name, size_t name_length, uint64_t inode,
                uint32_t mode);
const char *listing_name(const struct listing *l, size_t index);

#endif
