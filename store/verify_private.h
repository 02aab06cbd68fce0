/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that verify and repair share. */
#ifndef STASIS_STORE_VERIFY_PRIVATE_H
#define STASIS_STORE_VERIFY_PRIVATE_H

#include "imgfmt/pack_mend.h"
#include "store/catalogue.h"
#include "store/private.h"
#include "store/usage.h"

struct finding {
    char *file;
    uint64_t offset;
    char *what;
    enum verify_state state;
    uint64_t *hits; /* a bit for each checkpoint */
};

struct verify {
    struct store *store;
    const struct verify_options *options;
    struct verify_result result;
    struct error *err;
    struct finding *findings;
    size_t finding_count;
    size_t finding_capacity;
    struct index bad_pages; /* those in bad groups; pack: number of the finding; object: pack */
    struct index bad_nodes;
    uint32_t *unusable; /* by pack: number of the finding + 1 that concerns all of it */
    uint32_t pack_count;
    struct catalogue_checkpoint *checkpoints; /* only ids are sure to be set */
    size_t checkpoint_count;
    size_t current;       /* checkpoint that is being walked */
    bool catalogue_wrong; /* nothing is recorded in it then */
    bool catalogue_torn;  /* SQLite cannot make sense of it: no row is mended */
    uint64_t bytes_total;
    uint64_t started_ns;    /* of reading packs, for the rate */
    int64_t run_started_us; /* of the run this one goes on with, or of this one */
    int64_t *marks;         /* rows of packs found good and not recorded yet */
    uint32_t mark_count;
    bool marks_saved;  /* some, by this run or the one it goes on with */
    uint64_t saved_ns; /* when they last were */
};

/* ---- verify.c ---- */

/* -ENOMEM, said. */
int verify_out_of_memory(struct verify *v);

/* Takes note of what is wrong; *number_out may be NULL. */
int verify_note(struct verify *v, const char *file, uint64_t offset, const char *what,
                enum verify_state state, uint32_t *number_out);

/* A failed query: damage of the catalogue is noted (0), all else is returned. */
int verify_tolerate(struct verify *v, int r, const struct error *e);

/* ---- verify_packs.c ---- */

int verify_packs(struct verify *v);

/* ---- repair.c ---- */

/* Looks for the lost groups of the pack of that number elsewhere. 0 or -ENOMEM. */
int repair_supply(struct verify *v, struct pack_mend *m, uint32_t number);

/* Finds the same pack, whole, in a source: 1 and *out, 0, or -ENOMEM. */
int repair_find_pack(struct verify *v, const struct pack_row *row, struct pack_mend **out);

/* Is it the pack that the catalogue lists? */
bool repair_lists(const struct pack_index *index, const struct pack_row *row);

/* Does every group match its SHA-256 and hold what the footer says? And is it
 * the pack that the catalogue lists? */
bool repair_is_right(const struct pack_mend *m, const struct pack_row *row, struct error *e);

/* Replaces the pack's file by these bytes, durably. */
int repair_write_pack(struct store *store, const char *name, const struct pack_mend *m,
                      struct error *err);

/* Takes a checkpoint's manifest, or device state, from a source, if it is to be
 * mended: true if it is. */
bool repair_manifest(struct verify *v, const struct digest *id);
bool repair_blob(struct verify *v, const struct digest *digest);

/* Does the group, decoded, hold the objects that the footer lists? */
int verify_group(const struct pack_index *index, uint32_t group, const uint8_t *raw,
                 const char *name, struct error *e);

#endif
