/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run: an index over a number of packs, from the key of an object to where it may
 * lie. It proposes; whoever asks compares with the ids in the pack's footer.
 *
 * In memory and on disk it is one table of 8-byte slots:
 *
 *   slot = check: 24 bits of the key's hash | pack + 1: 18 bits | object: 22 bits
 *
 * or 0 where nothing is. A key's home is where the high bits of its hash say; its
 * slot is there or behind, before the next empty one. So homes ascend with the
 * hashes, a table can be written piece by piece, and all keys of a range of hashes
 * lie together. Nothing goes round: slots behind the last home take what overflows.
 *
 *   DIR/index/N.run = header | packs | zeros up to 4096 | slots | sums
 *
 *   header, 64 bytes               pack, 32 bytes          sum, 8 bytes
 *    0  magic "STASINDX"            0  seq u64              XXH3-64 of 4096 bytes
 *    8  version u32                 8  id, 16 bytes         of slots
 *   12  number of packs u32        24  objects u32
 *   16  homes u64                  28  reserved u32
 *   24  slots u64
 *   32  objects u64
 *   40  reserved u64
 *   48  XXH3-64 of all that comes before the slots (with zeros here), and of the sums
 *   56  reserved u64
 *
 * All of it is little-endian. Such a file is a cache: whatever is wrong with it, it
 * is dropped and made again from the footers.
 */
#ifndef STASIS_STORE_RUN_H
#define STASIS_STORE_RUN_H

#include "base/bytes.h"
#include "base/error.h"
#include "imgfmt/pack.h"

#include <errno.h>
#include <stdatomic.h>

#define RUN_CHUNK_SLOTS 512u /* 4096 bytes, which one sum is over */
#define RUN_PACKS_MAX ((UINT32_C(1) << 18) - 1)
#define RUN_OBJECTS_MAX (UINT32_C(1) << 22) /* of a pack; no pack's footer can list as many */

/* A pack that a run covers. */
struct run_pack {
    int64_t seq; /* of its row in the catalogue; ascending */
    uint8_t id[PACK_ID_SIZE];
    uint32_t objects;
    uint32_t number; /* what the process calls it; PACK_NONE: nothing in it is to be found */
};

struct run {
    uint64_t *slots; /* as on disk */
    uint64_t homes;
    uint64_t slot_count; /* the last one is empty */
    uint64_t object_count;
    struct run_pack *packs;
    uint32_t pack_count;
    uint32_t pack_capacity;
    /* of one that was read from a file */
    char *name; /* in DIR/index; NULL in memory */
    int fd;
    uint8_t *map;
    uint64_t map_bytes;
    uint64_t slots_offset;
    _Atomic uint64_t *good;   /* a bit for each chunk that has been compared with its sum */
    _Atomic uint64_t touched; /* bytes of slots that may be in memory */
    atomic_bool bad;          /* a chunk was not what its sum says */
};

/* The hash of a key: of all variants of an id the same. */
static inline uint64_t run_hash(struct page_ref id)
{
    uint64_t h = (id.lo ^ (id.hi >> 16)) * UINT64_C(0x9e3779b97f4a7c15);

    return h ^ (h >> 32);
}

/* ---- in memory ---- */

/* An empty table that has room for that many objects. 0 or -ENOMEM. */
int run_new(uint64_t objects, struct run **out);
void run_free(struct run *run); /* NULL is fine */

/* Lists one more pack, under `number`; its objects are then added one by one.
 * Returns its place among the run's packs, -ENOMEM, or -ENOSPC: it has enough. */
int run_add_pack(struct run *run, int64_t seq, const uint8_t id[PACK_ID_SIZE], uint32_t objects,
                 uint32_t number);
/* Objects of one key are found in the order they were added in. 0 or -ENOMEM. */
int run_add(struct run *run, uint64_t hash, uint32_t pack, uint32_t object);
/* Has it room for so many more, without becoming slow? */
bool run_has_room(const struct run *run, uint64_t objects);

/* The place of the pack with that row, or -1. */
int64_t run_pack_of(const struct run *run, int64_t seq);

/* ---- files ---- */

/* Opens a run. -EBADMSG and what is wrong with it; slots are not read yet. */
int run_open(int dirfd, const char *name, struct run **out, struct error *err);
/* The same of an open file, which it takes over; name is for messages. */
int run_open_fd(int fd, const char *name, struct run **out, struct error *err);

/* The ids of the objects of a pack, 16 bytes each, or NULL and err; valid until the
 * next call. */
typedef const uint8_t *(*run_ids)(void *context, const struct run_pack *pack, struct error *err);

/* The slots that are in memory at once while a run is written: 128 MiB of them. */
#define RUN_PIECE_SLOTS (UINT64_C(1) << 24)

/* Writes the run over these packs (seq ascending) as a new file, durably. Memory is
 * bounded: piece_slots (RUN_PIECE_SLOTS; a multiple of RUN_CHUNK_SLOTS) slots at a
 * time, for each of which all ids are looked through. */
int run_write(int dirfd, const char *name, const struct run_pack *packs, uint32_t pack_count,
              uint64_t piece_slots, run_ids ids, void *context, struct error *err);

/* Compares all chunks with their sums: -EBADMSG with the offset of the first that
 * differs. */
int run_check(struct run *run, uint64_t *offset_out, struct error *err);

/* ---- looking up ---- */

struct run_cursor {
    uint64_t position;
    uint32_t check;
};

static inline struct run_cursor run_find(const struct run *run, uint64_t hash)
{
    return (struct run_cursor){.position = (uint64_t)((unsigned __int128)hash * run->homes >> 64),
                               .check = (uint32_t)(hash & 0xffffff)};
}

static inline void run_prefetch(const struct run *run, const struct run_cursor *c)
{
    __builtin_prefetch(&run->slots[c->position]);
}

/* Gives back the memory of the slots of a run that was read from a file: what is looked
 * at again comes from there and is compared with its sum again. Nobody else may look at
 * the run meanwhile. */
void run_forget_slots(struct run *run);

/* Compares a chunk with its sum, once: false (and the run is bad from now on) if it
 * differs or cannot be read. */
bool run_check_chunk(struct run *run, uint64_t chunk);

static inline bool run_chunk_is_good(struct run *run, uint64_t chunk)
{
    if (run->good == NULL ||
        (atomic_load_explicit(&run->good[chunk / 64], memory_order_relaxed) >> chunk % 64 & 1) != 0)
        return true;
    return run_check_chunk(run, chunk);
}

/* The next slot that may be of the cursor's key: 1 and the place of the pack among
 * the run's, and the object in it; 0 if there is no more; -EBADMSG: the run is bad.
 * Thread-safe. */
static inline int run_next(struct run *run, struct run_cursor *c, uint32_t *pack_out,
                           uint32_t *object_out)
{
    if (atomic_load_explicit(&run->bad, memory_order_relaxed) ||
        (c->position < run->slot_count && !run_chunk_is_good(run, c->position / RUN_CHUNK_SLOTS)))
        return -EBADMSG;
    while (c->position < run->slot_count) {
        uint64_t slot = le64toh(run->slots[c->position]);

        if (slot == 0)
            return 0;
        c->position++;
        if (slot >> 40 == c->check) {
            *pack_out = (uint32_t)(slot >> 22 & RUN_PACKS_MAX) - 1;
            *object_out = (uint32_t)(slot & (RUN_OBJECTS_MAX - 1));
            /* Only a file that was made so lists what is not there. */
            if (*pack_out < run->pack_count && *object_out < run->packs[*pack_out].objects)
                return 1;
        }
        if (c->position % RUN_CHUNK_SLOTS == 0 && c->position < run->slot_count &&
            !run_chunk_is_good(run, c->position / RUN_CHUNK_SLOTS))
            return -EBADMSG;
    }
    return 0;
}

#endif
