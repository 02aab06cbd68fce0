/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pack list: header and footer of every pack of an artifact in one blob, so
 * that a reader knows which page lies in which group of which pack, and the
 * SHA-256 of each group, before it fetches any of them. All little-endian.
 *
 *   list  = "STASLIST" | version u32 = 1 | pack count u32 | entry...
 *   entry = bytes of the pack u64 | SHA-256 of the pack, 32 bytes | tail bytes u64
 *           | the pack's header, its first PACK_HEADER_SIZE bytes
 *           | the pack's tail: footer and trailer, its last bytes (imgfmt/pack.h)
 *
 * Entries have the order of the artifact's layers: packs of nodes, then of pages.
 */
#ifndef STASIS_REGISTRY_PACK_LIST_H
#define STASIS_REGISTRY_PACK_LIST_H

#include "base/buffer.h"
#include "imgfmt/pack.h"
#include "registry/artifact.h"

/* Begins a list; list_count is put in by pack_list_finish(). */
int pack_list_begin(struct buffer *list);
/* Appends the finished pack in fd. */
int pack_list_append(struct buffer *list, int fd, const struct descriptor *pack, struct error *err);
void pack_list_finish(struct buffer *list, uint32_t count);

/* Walks a list somebody else wrote. */
struct pack_list_reader {
    const uint8_t *data;
    size_t length;
    size_t position;
    uint32_t left; /* entries not read yet */
};

/* data must outlive the reader. -EBADMSG, -EPROTONOSUPPORT. */
int pack_list_read(const void *data, size_t length, struct pack_list_reader *out,
                   struct error *err);

/* The next entry: what the pack must be, and its index (the caller frees it).
 * -EBADMSG also where there is none. */
int pack_list_next(struct pack_list_reader *reader, struct descriptor *pack_out,
                   struct pack_index **index_out, struct error *err);

/* All entries read and nothing behind them? */
int pack_list_end(const struct pack_list_reader *reader, struct error *err);

#endif
