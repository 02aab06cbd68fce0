/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of decoded groups. Most have 64 KiB; these come from chunks in huge pages
 * and go back to them, for the allocator would give them to the kernel and take them
 * from it again, page by page, as the cache drops one and decodes the next. Counted:
 * it lives as long as somebody holds a group. Thread-safe.
 */
#ifndef STASIS_STORE_GROUP_MEMORY_H
#define STASIS_STORE_GROUP_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct group_memory;

/* A group's bytes, and where they are from. */
struct group_bytes {
    uint8_t *bytes;
    uint32_t chunk; /* GROUP_ALONE: malloc() */
};

#define GROUP_ALONE UINT32_MAX

/* With one reference. */
struct group_memory *group_memory_new(void);
void group_memory_release(struct group_memory *m); /* NULL is fine */

/* Whether new chunks are of huge pages, all but the first few: not where memory is
 * counted in pages. At first they are. */
void group_memory_set_huge(struct group_memory *m, bool huge);

/* -ENOMEM. With it comes a reference, which group_memory_give() lets go. */
int group_memory_take(struct group_memory *m, size_t bytes, struct group_bytes *out);
void group_memory_give(struct group_memory *m, const struct group_bytes *g);

/* Gives the chunks in which no group lies back to the system. */
void group_memory_trim(struct group_memory *m);

#endif
