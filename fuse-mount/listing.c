/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/listing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void listing_clear(struct listing *l)
{
    free(l->entries);
    free(l->names);
    *l = (struct listing){0};
}

static int listing_reserve(struct listing *l, size_t name_bytes)
{
    if (l->names_bytes + name_bytes + l->count * sizeof(*l->entries) > LISTING_BYTES_MAX)
        return -EOVERFLOW;
    if (l->count == l->capacity) {
        size_t capacity = l->capacity == 0 ? 32 : l->capacity * 2;
        void *grown = reallocarray(l->entries, capacity, sizeof(*l->entries));

        if (grown == NULL)
            return -ENOMEM;
        l->entries = grown;
        l->capacity = capacity;
    }
    if (l->names_bytes + name_bytes > l->names_capacity) {
        size_t capacity = l->names_capacity * 2 + name_bytes + 512;
        char *grown = realloc(l->names, capacity);

        if (grown == NULL)
            return -ENOMEM;
        l->names = grown;
        l->names_capacity = capacity;
    }
    return 0;
}

int listing_add(struct listing *l, const char *name, size_t name_length, uint64_t inode,
                uint32_t mode)
{
    int r = listing_reserve(l, name_length + 1);

    if (r < 0)
        return r;
    memcpy(l->names + l->names_bytes, name, name_length);
    l->names[l->names_bytes + name_length] = '\0';
    l->entries[l->count++] =
        (struct listing_entry){.inode = inode, .name = (uint32_t)l->names_bytes, .mode = mode};
    l->names_bytes += name_length + 1;
    return 0;
}

const char *listing_name(const struct listing *l, size_t index)
{
    return l->names + l->entries[index].name;
}
