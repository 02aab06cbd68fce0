/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sealed packs a process knows of, where each object lies, and reading it.
 * Packs are numbered in the order the catalogue lists them; a number never changes.
 *
 * A pack is known by its row; its footer is read when it is first needed. From then
 * on the ids of its objects are mapped, and its groups are kept as long as there is
 * room. Which pack may hold a key is asked of runs (run.h): those in files, shared
 * by all processes, and one in memory, the tail, over the packs in no file.
 *
 * All functions are thread-safe. Lock order: index_lock, lock, fd_lock.
 */
#ifndef STASIS_STORE_PACKS_H
#define STASIS_STORE_PACKS_H

#include "base/error.h"
#include "imgfmt/pack.h"
#include "store/cache.h"
#include "store/index.h"
#include "store/run.h"

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
    /* Set once, for whoever asks: */
    int64_t seq;               /* of its row in the catalogue */
    char name[PACK_NAME_SIZE]; /* relative to the store */
    uint8_t id[PACK_ID_SIZE];
    enum pack_kind kind;
    uint64_t bytes;
    uint32_t groups;
    uint32_t objects;
    /* Of packs.c and lookup.c: */
    atomic_int state; /* enum pack_state */
    bool indexed;     /* some run covers it; under packs.lock, as the next five */
    char *damage;     /* what is wrong with it, or NULL */
    int damage_errnum;
    const uint8_t *ids; /* of its objects; NULL until they are needed */
    void *map;          /* where they are */
    size_t map_bytes;
    struct pack_index *index; /* without the ids; NULL until needed; under fd_lock, as all below */
    int fd;                   /* -1 while it is not open */
    unsigned users;           /* of index and fd */
    bool recent;              /* used since the last round of tidying up */
};

#define PACKS_RUNS_MAX 32u

struct packs {
    int store_dirfd; /* not owned */
    int dirfd;       /* of DIR/packs; not owned */
    struct group_cache *cache;
    pthread_rwlock_t lock; /* over all up to the next lock */
    struct pack **list;
    uint32_t count;
    uint32_t capacity;
    uint32_t damaged;
    struct run *runs[PACKS_RUNS_MAX]; /* oldest first */
    unsigned run_count;
    struct run *tail;           /* NULL: empty */
    uint32_t settled;           /* the packs below are indexed, or cannot be */
    uint32_t maps;              /* packs with ids */
    uint64_t map_bytes;         /* of those */
    uint32_t map_hand;          /* where unmapping goes on */
    unsigned pinned_maps;       /* more than 0: nothing is unmapped */
    uint64_t objects;           /* of all packs */
    uint64_t memory_max;        /* what the index may keep in memory; see index_memory.c */
    atomic_bool crowded;        /* all of it would be more */
    pthread_mutex_t index_lock; /* who changes runs and tail */
    uint64_t run_weight;        /* a tail this heavy is written as a run; tests lower it */
    atomic_bool doubtful;       /* the files of the index are not what they should be */
    pthread_mutex_t fd_lock;    /* over index, fd, users, recent of all packs, and: */
    unsigned open_fds;
    uint64_t group_bytes;
    uint32_t hand;
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

/* ---- packs.c ---- */

int packs_init(struct packs *packs, int store_dirfd, int packs_dirfd, struct group_cache *cache);
void packs_clear(struct packs *packs);

/* "packs/HEX.pack" */
void packs_name(const uint8_t id[PACK_ID_SIZE], char out[PACK_NAME_SIZE]);

uint32_t packs_count(struct packs *packs);

/* Takes note of a pack under the next number. Reads nothing: what is missing or
 * damaged shows when it is needed, and the rest of the store stays usable. */
int packs_add(struct packs *packs, const struct pack_row *row, struct error *err);

/* The pack of that number; valid until packs_clear(). */
const struct pack *packs_get(struct packs *packs, uint32_t number);

/* Is it known to be damaged? */
bool packs_is_damaged(struct packs *packs, uint32_t number);

/* The state of a pack; numbers of forgotten packs are never used again. */
enum pack_state packs_state(struct packs *packs, uint32_t number);
void packs_set_state(struct packs *packs, uint32_t number, enum pack_state state);

/* The number of the pack with that row in the catalogue, or PACK_NONE. */
uint32_t packs_number_of(struct packs *packs, int64_t seq);

/* Reads an object; *group_out keeps the bytes alive until it is released. */
int packs_read(struct packs *packs, const struct location *at, struct cached_group **group_out,
               const uint8_t **bytes_out, size_t *length_out, struct error *err);

/* The same, where *group_io is a group held from the last call or NULL: costs
 * next to nothing if the object lies in it. It is replaced, never released
 * twice; the caller releases what it holds at the end. */
int packs_read_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out, struct error *err);
/* And for who reads many in their order, each once (CACHE_PASS). */
int packs_pass_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out, struct error *err);

/* The same if the group is decoded already, else -EAGAIN. */
int packs_peek_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out);

/* A text for "not found" errors: names a damaged pack if there is one. */
int packs_missing(struct packs *packs, const char *what, struct error *err);

/* Which group of a pack holds that object; object < object_count. */
uint32_t pack_group_of_object(const struct pack_index *index, uint32_t object);

/* ---- lookup.c ---- */

/*
 * Finds objects of that kind among the packs numbered from..to-1 that are not
 * forgotten: with exactly this id, or (any_variant) with its key. Fills up to max of
 * out and returns how many there are, which may be more. Packs whose footers cannot
 * be read are left out.
 */
unsigned packs_find(struct packs *packs, enum pack_kind kind, struct page_ref id, bool any_variant,
                    uint32_t from, uint32_t to, struct location *out, unsigned max);

/*
 * For each of n keys an object with that key (any variant) in a live pack among
 * 0..to-1; else one in a condemned pack; else its pack is PACK_NONE. What is found is
 * a candidate: packs_find() knows the others.
 */
void packs_find_batch(struct packs *packs, enum pack_kind kind, const struct page_ref *keys,
                      unsigned n, uint32_t to, struct location *first_out);

/* The same as packs_find() for an exact id, without the index: by looking through
 * all footers. For what must be there and is not found. */
unsigned packs_search(struct packs *packs, enum pack_kind kind, struct page_ref id,
                      struct location *out, unsigned max);

/* Sees to it that every pack can be found in, or fails where that is for now not
 * possible (files or memory have run out). Damaged packs are left out. Who must not
 * miss a page calls this before looking it up. */
int packs_index(struct packs *packs, struct error *err);

/* ---- runs.c ---- */

/* Opens the files of the index. What is missing or wrong is done without. */
int packs_open_runs(struct packs *packs);

/* Writes the tail to a file if it has grown enough, together with older runs that
 * are no longer much larger: each object is written a few times in all. all: one
 * new run over everything. Waits for others who do the same only if all is true. */
int packs_write_runs(struct packs *packs, bool all, struct error *err);

/* Compares the files of the index with their checksums and with the packs; calls
 * found for what is wrong. */
int packs_check_runs(struct packs *packs,
                     int (*found)(const char *file, uint64_t offset, const char *what,
                                  void *context),
                     void *context, struct error *err);

/* ---- index_memory.c ---- */

#define PACKS_MEMORY_DEFAULT (UINT64_C(1) << 30)

/* How much memory the index may take, files that are mapped included. Whatever does
 * not fit is read again when it is needed; 0 is slow and works. */
void packs_limit_memory(struct packs *packs, uint64_t bytes);

/* What of the files of the index and of footers is in memory, at most. */
uint64_t packs_memory(struct packs *packs);

/* ---- for lookup.c, runs.c and index_memory.c ---- */

static inline bool packs_are_crowded(const struct packs *packs)
{
    return atomic_load_explicit(&packs->crowded, memory_order_relaxed);
}

/* After packs or runs have come or gone; packs.lock is held for writing. */
void packs_note_size_locked(struct packs *packs);
/* Gives memory back if there is more in use than may be. No lock is held. */
void packs_shed(struct packs *packs);
/* The same for ids alone, before some more bytes of them are mapped; packs.lock is held
 * for writing. */
void packs_shed_ids_locked(struct packs *packs, uint64_t more);
/* The part of memory_max that is for the groups of packs. */
uint64_t packs_group_bytes_max(const struct packs *packs);
void packs_unmap_locked(struct packs *packs, struct pack *pack);

static inline enum pack_state pack_state_of(const struct pack *pack)
{
    return (enum pack_state)atomic_load_explicit(&pack->state, memory_order_acquire);
}

/* Reads a footer, so that ids and groups are there: 0, or what is in the way:
 * -EBADMSG if the pack is damaged (then and from now on). No lock is held. */
int packs_load(struct packs *packs, struct pack *pack, struct error *err);

/* The ids of a pack's objects, which are loaded if they were not; valid while maps
 * are pinned. Errors as packs_load(). */
int packs_ids(struct packs *packs, uint32_t number, const uint8_t **out, struct error *err);
/* Pinned maps stay: each call with true is followed by one with false. */
void packs_pin(struct packs *packs, bool pin);
/* Whoever goes through many packs with maps pinned calls this now and then: maps he
 * got before may go. */
void packs_repin(struct packs *packs);

/* Is it something that may pass? Then the pack is not damaged. */
static inline bool packs_is_passing(int r)
{
    return r == -ENOMEM || r == -EMFILE || r == -ENFILE;
}

/* Finds the run that covers a pack, newest first, and tells it the pack's number.
 * packs.lock is held for writing. */
void packs_bind(struct packs *packs, uint32_t number);

#endif
