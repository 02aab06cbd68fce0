/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a disk may hold after a crash, given the log of a run (shim.h).
 *
 * Only syncs promise anything. What was written to a file and not followed by its
 * fsync or fdatasync may be there or not, each 512-byte sector for itself, whatever
 * the order, and its size may be there without its data; a name made, changed or
 * removed and not followed by an fsync of its directory likewise. That is weaker
 * than any file system in use, which is the point. Two rules are kept that all of
 * them keep: a sector is never half written, and a write changes only its own bytes.
 *
 * A crash is a position in the log and a fate for each step before it that no sync
 * has made durable. Nothing needs to be tried between syncs: a crash there is one
 * right before the next sync with all later steps lost.
 */
#ifndef STASIS_TESTS_CRASH_MODEL_H
#define STASIS_TESTS_CRASH_MODEL_H

#include "shim.h"

enum fate {
    FATE_KEPT,
    FATE_LOST,
    FATE_EMPTY, /* a write: the file has the size, but zeros. A rename: both names */
    FATE_TORN,  /* a write: some sectors. A rename: neither name */
};

struct model_step {
    const struct shim_record *record;
    uint32_t object;  /* number of the file meant, UINT32_MAX: none */
    size_t synced_at; /* the step that makes it durable, SIZE_MAX: none */
};

struct model {
    struct model_step *steps;
    size_t count;
    uint32_t object_count;
};

/* Reads a log; aborts when memory is out, as all of this does. The log must outlive
 * the model. */
void model_init(struct model *m, const uint8_t *log, size_t bytes);
void model_clear(struct model *m);

/* As if those syncs had never been asked for: kind of a path that ends so. Returns
 * how many there were. For seeing that the checks would notice. */
size_t model_forget_syncs(struct model *m, enum shim_kind kind, const char *suffix);

/* May the step be lost in a crash before step `at`? */
bool model_is_pending(const struct model *m, size_t step, size_t at);

/* A line for people: what the step does. */
const char *model_describe(const struct model *m, size_t step, char *out, size_t size);

/* ---- the disk after a crash ---- */

struct image_file {
    char path[SHIM_PATH_MAX];
    bool is_dir;
    uint32_t object;
};

struct image_object {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

struct image {
    struct image_file *files;
    size_t count;
    struct image_object *objects;
    uint32_t object_count;
};

/* The disk after a crash before step `at`; fates[0..at-1], of which those of steps
 * that are not pending are not looked at. seed chooses torn sectors. */
void image_build(struct image *image, const struct model *m, size_t at, const uint8_t *fates,
                 uint64_t seed);
void image_clear(struct image *image);
/* Equal images, equal sums. */
uint64_t image_sum(const struct image *image);
/* Writes it below dir, which exists and is empty. */
void image_write(const struct image *image, const char *dir);

#endif
