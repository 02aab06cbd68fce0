/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deduplicating store: one place for the pages of all RAM and all disks, the
 * maps that list them, the checkpoints made of those maps, and the names people
 * give them. Many processes may have a store open at once.
 *
 *   DIR/catalogue.db      SQLite (WAL): checkpoints, machines, images, packs, blobs
 *   DIR/packs/ID.pack     sealed packs, immutable
 *   DIR/packs/ID.tmp      a pack some process is writing (flocked by it)
 *   DIR/commits           how many transactions the catalogue once had (db_mark.c)
 *   DIR/leases            empty; whoever uses the store locks a byte of it
 *   DIR/reserve           room for the catalogue on a full disk
 *   DIR/index/N.run       which packs may have a key: a cache (run.h)
 *
 * Crash order: pack data, fdatasync, rename, fsync of the directory, then the
 * SQLite commit. A pack the catalogue does not list is not part of the store.
 */
#ifndef STASIS_STORE_STORE_H
#define STASIS_STORE_STORE_H

#include "base/digest.h"
#include "base/error.h"
#include "imgfmt/manifest.h"
#include "imgfmt/map.h"
#include "imgfmt/page.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

/* Opens the store in dir; makes an empty one if there is none and create is
 * true (-ENOENT otherwise). All functions on a store are thread-safe unless they
 * say otherwise. Removes packs, finished or not, that are not in the catalogue and
 * that no living process owns. How much memory the index may take, in MiB, is asked of
 * the environment: STASIS_INDEX_MEMORY. */
int store_open(const char *dir, bool create, struct store **out, struct error *err);
/* After everything that was opened with it: spaces, ingests. */
void store_close(struct store *store);

/* Lets go of packs that have been collected, so that their space is free: for
 * processes that live long and do little. Any thread; waits for one that commits. */
void store_tidy(struct store *store);

/* Gives back the memory in which decoded pages are kept: what is read again is decoded
 * again. For processes that have read much and may not soon read it again. Any thread. */
void store_forget_pages(struct store *store);

/* How many threads an ingest or a reader of this store uses at once, the caller's own
 * included; 0, as at first: one for each CPU of the process. They are started when they are
 * first of use. Any thread. */
void store_limit_threads(struct store *store, unsigned threads);
unsigned store_threads(struct store *store);

/* How many bytes of what was read this process keeps to read it again: at first a part
 * of the host's memory. Any thread. */
void store_limit_cache(struct store *store, size_t bytes);

/*
 * Keeps a checkpoint readable, whoever removes it and collects garbage meanwhile:
 * for what reads one for long. Ends with store_unpin(), with store_close(), or with
 * the process, whichever comes first. -ENOENT if there is no such checkpoint. A full
 * disk keeps nobody from reading: then there is no pin (*out is NULL), and 0.
 */
struct store_pin;
int store_pin(struct store *store, const struct digest *checkpoint, struct store_pin **out,
              struct error *err);
void store_unpin(struct store_pin *pin); /* NULL is fine */

static inline void store_unpinp(struct store_pin **pin)
{
    store_unpin(*pin);
}

/* ---- reading ---- */

/* Reads one page; a zero reference gives zeros. Every decode is checked. */
int store_page_read(struct store *store, struct page_ref ref, void *page_out, struct error *err);

/* Reads and decodes a map node and checks it against its SHA-256. */
int store_node_read(struct store *store, const struct digest *digest, struct map_node *out,
                    struct error *err);

/* Reads a blob; the caller frees *data_out. Checked against its digest. */
int store_blob_read(struct store *store, const struct digest *digest, void **data_out,
                    size_t *length_out, struct error *err);

/* ---- one address space of a checkpoint ---- */

struct space;

/* Opens a map for reading. size_bytes as in the manifest. The store must outlive
 * the space. A space may be used by many threads. */
int space_open(struct store *store, const struct digest *root, uint64_t size_bytes,
               struct space **out, struct error *err);
void space_close(struct space *space);
uint64_t space_size_bytes(const struct space *space);
uint64_t space_page_count(const struct space *space);

/* Reads bytes [offset, offset + length), which must lie inside the size. */
int space_read(struct space *space, uint64_t offset, void *buf, size_t length, struct error *err);

/* The same if all of it is in memory and decoded; else -EAGAIN, and buf may hold a part. */
int space_read_cached(struct space *space, uint64_t offset, void *buf, size_t length);

/* The reference of one page (zero for a zero page). */
int space_page_ref(struct space *space, uint64_t page, struct page_ref *out, struct error *err);

/* Finds the first page at or after `page` that is not zero: 1 and *page_out,
 * *ref_out; 0 if there is none; negative errno. Proportional to what is present. */
int space_next(struct space *space, uint64_t page, uint64_t *page_out, struct page_ref *ref_out,
               struct error *err);

/* Calls visit for every non-zero page in order with its bytes (whole pages, the
 * last one too, whatever the size; valid during the call), decoding each group
 * once where pages are neighbours. Stops at the first non-zero return of visit and
 * returns it. For restoring RAM and exporting. */
int space_each_page(struct space *space,
                    int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                    struct error *err);

/* Calls visit for every page whose reference differs, in order; equal subtrees
 * are skipped by digest. The spaces may have different sizes: beyond the end of
 * one its pages are zero; a map that lists pages there is an error (-EBADMSG).
 * Both belong to the same store. */
int space_diff(struct space *a, struct space *b,
               int (*visit)(uint64_t page, struct page_ref in_a, struct page_ref in_b,
                            void *context),
               void *context, struct error *err);

/* Writes a whole space to fd (raw; holes where pages are zero; size set). */
int space_export(struct space *space, int fd, struct error *err);

#endif
