/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a damaged pack good again, in memory.
 *
 * A pack with parity has one copy of its trailer, and one XOR over all the rest. The
 * XOR of everything as it is read now differs from it exactly where, folded at the
 * parity's length, something has changed; and by exactly that change. So a part that
 * does not match its checksum is good as soon as the right stretch of that
 * difference is put into it, which the checksum confirms. This makes good any one
 * stretch of damage up to half the parity's length, wherever it lies, and several
 * that do not fall onto one another when folded. Nothing is called good that does
 * not match its checksum.
 */
#ifndef STASIS_IMGFMT_PACK_MEND_H
#define STASIS_IMGFMT_PACK_MEND_H

#include "imgfmt/pack.h"

#include <stdbool.h>

#define PACK_NO_GROUP UINT32_MAX

/* A part of the file that is not as it was written. */
struct pack_damage {
    uint64_t offset;
    uint64_t length;
    const char *what; /* "group", "footer"...; static */
    uint32_t group;   /* or PACK_NO_GROUP */
    bool mended;      /* in memory */
};

struct pack_mend;

/*
 * Takes over data, malloc'ed: the bytes of a pack's file, zeros where they cannot be
 * read. Finds what is damaged and mends what it can. Fails, with data freed, if not
 * even its footer can be had: -EBADMSG; -EPROTONOSUPPORT for a newer version. Not
 * thread-safe.
 */
int pack_mend_begin(const char *name, uint8_t *data, size_t length, struct pack_mend **out,
                    struct error *err);
void pack_mend_free(struct pack_mend *m); /* NULL is fine */

const struct pack_index *pack_mend_index(const struct pack_mend *m);

/* What was found, in no order; valid until pack_mend_free(). */
const struct pack_damage *pack_mend_damage(const struct pack_mend *m, size_t *count_out);

/* Are all bytes (now) as they were written? */
bool pack_mend_is_whole(const struct pack_mend *m);

/* Decodes a group, mended or not damaged in the first place, into raw_out, which has
 * room for its raw_bytes. -EBADMSG if it is lost. */
int pack_mend_group(const struct pack_mend *m, uint32_t group, void *raw_out, struct error *err);

/*
 * Offers the raw bytes of a lost group from elsewhere. -EBADMSG unless they match the
 * group's SHA-256; -ENOTSUP (no message) if they do, but no compression known here
 * makes of them what the file had: then the pack cannot become what it was.
 */
int pack_mend_supply(struct pack_mend *m, uint32_t group, const void *raw, struct error *err);

/* The whole file; worth writing if pack_mend_is_whole(). Valid until
 * pack_mend_free(). */
const uint8_t *pack_mend_bytes(const struct pack_mend *m, size_t *length_out);

/* Reads a file, of which PACK_MAX_SIZE bytes at most, into fresh memory for
 * pack_mend_begin(); what cannot be read (-EIO) is zeros. The caller frees. pace may
 * be NULL; it is called for every megabyte or less, and a non-zero return ends it all
 * (-ECANCELED, no message). */
int pack_mend_load(int fd, const char *name, int (*pace)(uint64_t bytes, void *context),
                   void *context, uint8_t **data_out, size_t *length_out, struct error *err);

/*
 * For readers that go on with a damaged file: as pack_index_read() and
 * pack_group_read(), but from a mended copy in memory. One thread at a time is
 * served, since each takes the memory of a pack. -EBADMSG if it is lost.
 */
int pack_index_rescue(int fd, const char *name, struct pack_index **out, struct error *err);
int pack_group_rescue(int fd, const char *name, const struct pack_index *index, uint32_t group,
                      void *raw_out, struct error *err);

#endif
