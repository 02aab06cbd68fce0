/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a store promised, and whether it kept it. A workload announces each call that
 * changes the store, and what the store's catalogue says once it has returned; both
 * go into the shim's log as marks. So for every crash it is known which calls had
 * returned (their effect must be there), which were under way (there whole or not at
 * all) and which had not begun.
 */
#ifndef STASIS_TESTS_CRASH_WITNESS_H
#define STASIS_TESTS_CRASH_WITNESS_H

#include "model.h"
#include "store/store.h"

/* ---- disks with known content ---- */

/* A disk whose page n is fill_page(seeds[n]); seed 0: a page of zeros. */
struct disk {
    unsigned pages;
    const uint32_t *seeds;
};

/* How a disk becomes a checkpoint; as in struct ingest_commit. */
struct put {
    const char *machine; /* its head moves, too */
    const char *name;
    const char *image; /* with tag "1", replaced */
};

/* One ingest of a disk with its commit. */
int put_disk(struct store *store, const struct disk *disk, const struct put *put,
             struct digest *id_out, struct error *err);

/* ---- a workload's side ---- */

/* Announces a call; returns its number. */
uint64_t call_begin(void);
/* It has returned. store (where nobody else writes): what changed is found out by
 * listing the catalogue. */
void call_end(uint64_t call, struct store *store);
/* Where others write at the same time: lines that came ("+...") and went ("-..."). */
void call_end_with(uint64_t call, const char *lines);
/* The content of a checkpoint, for comparison. */
void call_content(const struct digest *id, const struct disk *disk);
/* Flips a bit in a group of every pack of the store, durably. From here on a crash is
 * followed by a repair before the store is looked at. */
void damage_packs(const char *store_dir);
/* Forgets what call_end() knows of the catalogue: before each workload. */
void calls_reset(void);

/* What the catalogue says, a line for each thing, sorted; the caller frees. */
char *list_store(struct store *store);

/* ---- the checker's side ---- */

/*
 * Opens the store in dir, as after a crash before step `at`, and checks it: what it
 * lists and what that contains, verify, leftovers, that it takes a new checkpoint.
 * NULL, or what is wrong, in a static buffer.
 */
const char *witness_check(const struct model *m, size_t at, const char *dir);

/* The same, where what the store must list is known; a checkpoint whose content the
 * log does not tell must hold `other`. */
const char *witness_check_listed(const struct model *m, const char *dir, const char *lines,
                                 const struct disk *other);

#endif
