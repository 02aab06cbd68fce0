/* SPDX-License-Identifier: Apache-2.0 */
/* The sealed packs a process knows of: their footers, where each object lies,
 * and reading it. Packs are numbered in the order the catalogue lists them; a
 * number never changes. Thread-safe. */
#ifndef STASIS_STORE_PACKS_H
#define STASIS_STORE_PACKS_H

#include "base/error.h"
#include "imgfmt/pack.h"
#include "store/cache.h"
#include "store/index.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PACK_NAME_SIZE 48 /* "packs/", 32 digits, ".pack", NUL */

/* No pack's number. */
#define PACK_NONE UINT32_MAX

/* What may still be done with a pack. A condemned one may become live again. */
enum pack_state {
    PACK_LIVE,
    PACK_CONDEMNED, /* readers read it; writers treat what they find in it as missing */
    PACK_FORGOTTEN, /* its file may be gone: nothing is found in it */
};

struct pack {
    int64_t seq;               /* of its row in the catalogue */
    atomic_int state;          /* enum pack_state; packs_set_state() */
    char name[PACK_NAME_SIZE]; /* relative to the store */
    uint8_t id[PACK_ID_SIZE];
    enum pack_kind kind;
    struct pack_index *index; /* without the object ids; NULL if it is damaged */
    char *damage;             /* what is wrong with it, or NULL */
    int fd;                   /* -1 while it is not open */
    unsigned users;           /* of fd */
};

struct packs {
    int dirfd; /* of DIR/packs; not owned */
    struct group_cache *cache;
    pthread_rwlock_t lock; /* over all below but the packs' fd and users */
    struct pack **list;
    uint32_t count;
    uint32_t capacity;
    uint32_t damaged;
    struct index pages;
    struct index nodes;
    pthread_mutex_t fd_lock;
    unsigned open_fds;
};

/* What the catalogue says of a pack. */
struct pack_row {
    int64_t seq;
    uint8_t id[PACK_ID_SIZE];
    enum pack_kind kind;
    uint64_t bytes;
    uint32_t groups;
    uint32_t objects;
    int64_t condemned; /* the epoch at which it was, or -1 */
};

struct location {
    struct page_ref id;
    uint32_t pack;
    uint32_t object;
};

int packs_init(struct packs *packs, int dirfd, struct group_cache *cache);
void packs_clear(struct packs *packs);

/* "packs/HEX.pack" */
void packs_name(const uint8_t id[PACK_ID_SIZE], char out[PACK_NAME_SIZE]);

uint32_t packs_count(struct packs *packs);

/* Reads a pack's footer and indexes it under the next number. A pack that is
 * missing or damaged takes a number too, and its damage is kept: the rest of the
 * store stays usable. */
int packs_add(struct packs *packs, const struct pack_row *row, struct error *err);

/*
 * Finds objects of that kind among the packs numbered from..to-1 that are not
 * forgotten: with exactly this id, or (any_variant) with its key. Fills up to max of out and
 * returns how many there are, which may be more.
 */
unsigned packs_find(struct packs *packs, enum pack_kind kind, struct page_ref id, bool any_variant,
                    uint32_t from, uint32_t to, struct location *out, unsigned max);

/*
 * For each of n keys the first object with that key (any variant) in a live pack
 * among 0..to-1; else the first in a condemned one; else its pack is PACK_NONE. What
 * is found is a candidate: packs_find() knows the others.
 */
void packs_find_batch(struct packs *packs, enum pack_kind kind, const struct page_ref *keys,
                      unsigned n, uint32_t to, struct location *first_out);

/* The state of a pack; numbers of forgotten packs are never used again. */
enum pack_state packs_state(struct packs *packs, uint32_t number);
void packs_set_state(struct packs *packs, uint32_t number, enum pack_state state);

/* The number of the pack with that row in the catalogue, or PACK_NONE. */
uint32_t packs_number_of(struct packs *packs, int64_t seq);

/* The pack of that number; valid until packs_clear(). */
const struct pack *packs_get(struct packs *packs, uint32_t number);

/* Reads an object; *group_out keeps the bytes alive until it is released. */
int packs_read(struct packs *packs, const struct location *at, struct cached_group **group_out,
               const uint8_t **bytes_out, size_t *length_out, struct error *err);

/* The same, where *group_io is a group held from the last call or NULL: costs
 * next to nothing if the object lies in it. It is replaced, never released
 * twice; the caller releases what it holds at the end. */
int packs_read_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out, struct error *err);

/* A text for "not found" errors: names a damaged pack if there is one. */
int packs_missing(struct packs *packs, const char *what, struct error *err);

/* Which group of a pack holds that object; object < object_count. */
uint32_t pack_group_of_object(const struct pack_index *index, uint32_t object);

#endif
