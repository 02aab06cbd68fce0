/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing into the store. An ingest deduplicates pages (candidates by key,
 * decided by bytes), packs what is new, builds maps and, at the end, makes all
 * of it visible with one catalogue transaction. Nothing of an ingest that was
 * freed without a commit remains.
 */
#ifndef STASIS_STORE_INGEST_H
#define STASIS_STORE_INGEST_H

#include "store/store.h"

struct ingest;

struct ingest_stats {
    uint64_t pages;     /* non-zero pages given */
    uint64_t pages_new; /* of these, stored because nothing equal was there */
    uint64_t nodes_new;
    uint64_t stored_bytes; /* of packs written */
};

/* One thread at a time may use an ingest; several may exist at once. It is freed, whatever
 * became of it, before its store is closed. */
int ingest_begin(struct store *store, struct ingest **out, struct error *err);
void ingest_free(struct ingest *in); /* abandons what was not committed */
void ingest_get_stats(const struct ingest *in, struct ingest_stats *out);

/* Stores a page unless an equal one is there and returns its reference (zero for
 * the zero page). The bytes are copied. */
int ingest_page(struct ingest *in, const void *page, struct page_ref *ref_out, struct error *err);

/*
 * The same for many at once, with the threads of the store: pages[0..count-1] need not
 * lie together, and refs_out[] gets their references, the same as ingest_page() in that
 * order would give. Equal pages among them are stored once. The bytes must stand still
 * during the call and are not needed after it. Uses a few MiB however many there are;
 * who wants progress or to cancel gives INGEST_BATCH_PAGES at a time. After a failure
 * the ingest can only be freed.
 */
int ingest_pages(struct ingest *in, const void *const *pages, size_t count,
                 struct page_ref *refs_out, struct error *err);

/* A good number for each call. */
#define INGEST_BATCH_PAGES 2048u

/* Stores a node if it is new. */
int ingest_node(struct ingest *in, const struct map_node *node, struct digest *digest_out,
                struct error *err);

/* Stores a small value (device state). */
int ingest_blob(struct ingest *in, const void *data, size_t length, struct digest *digest_out,
                struct error *err);

/* ---- maps: path copying ---- */

struct map_builder;

/* Begins a map of page_count pages that equals the map with root *base (of
 * base_page_count pages; NULL: all zero) but for the pages set afterwards. The
 * base was committed before the ingest began or is the ingest's own; -ESTALE if
 * it is younger (begin the ingest after choosing the base). */
int map_builder_begin(struct ingest *in, const struct digest *base, uint64_t base_page_count,
                      uint64_t page_count, struct map_builder **out, struct error *err);
/* Pages strictly ascending; a zero reference clears a page. */
int map_builder_set(struct map_builder *b, uint64_t page, struct page_ref ref, struct error *err);
/* Stores the bytes of a page (NULL: zeros) as ingest_pages() does, and sets it; in one
 * order with map_builder_set(). stays: the bytes stay where and as they are until
 * map_builder_finish(), so that they need not be copied. */
int map_builder_put(struct map_builder *b, uint64_t page, const void *bytes, bool stays,
                    struct error *err);
/* Writes the changed nodes; metadata is proportional to what changed. */
int map_builder_finish(struct map_builder *b, struct digest *root_out, struct error *err);
void map_builder_free(struct map_builder *b);

/* Stores the bytes of fd (a regular file or block device) from offset 0 to
 * size_bytes as a space: holes are skipped by SEEK_DATA. progress may be NULL;
 * a non-zero return of it cancels (-ECANCELED). */
int ingest_file(struct ingest *in, int fd, uint64_t size_bytes,
                int (*progress)(uint64_t done_bytes, void *context), void *context,
                struct digest *root_out, struct error *err);

/* The same for bytes in memory (kernels, tests). */
int ingest_memory(struct ingest *in, const void *data, uint64_t size_bytes, struct digest *root_out,
                  struct error *err);

/* ---- commit ---- */

struct ingest_commit {
    const struct manifest *manifest;
    const char *machine; /* record it as a checkpoint of this machine; or NULL */
    const char *name;    /* its name within the machine; or NULL */
    bool set_head;       /* it becomes where the machine's present state builds on */
    const char *image;   /* record it as image NAME with tag; or NULL */
    const char *tag;
    bool replace_tag; /* an image of that name and tag may be moved */
};

/*
 * Seals the packs durably and commits everything in one transaction. A manifest
 * that names a node or blob that is neither in the store nor in this ingest is
 * refused (-EBADMSG). -EEXIST: name or tag taken; -ENOENT: no such machine. After a
 * failure the ingest can only be freed, or, for -EEXIST, committed again under another name.
 *
 * If another process has meanwhile stored a different page under a reference that
 * this ingest chose, the ingest renames its own: the committed maps then have other
 * roots than the given manifest. So whoever builds on the checkpoint reads its
 * roots from catalogue_manifest_read(*id_out). The old roots are not in the store.
 */
int ingest_commit(struct ingest *in, const struct ingest_commit *commit, struct digest *id_out,
                  struct error *err);

#endif
