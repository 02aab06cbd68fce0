/* SPDX-License-Identifier: Apache-2.0 */
#include "store/index.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

#define INDEX_MIN_SLOTS 256u

/* The variant is left out, so that all variants of a key meet in one chain. The
 * multiplication spreads truncated keys (STASIS_KEY_BITS) over the table. */
static uint64_t hash_key(struct page_ref id)
{
    uint64_t h = (id.lo ^ (id.hi >> 16)) * UINT64_C(0x9e3779b97f4a7c15);

    return h ^ (h >> 32);
}

void index_clear(struct index *ix)
{
    free(ix->slots);
    *ix = (struct index){0};
}

static void put(struct index_entry *slots, uint64_t slot_count, const struct index_entry *e)
{
    uint64_t i = hash_key(e->id) & (slot_count - 1);

    while (slots[i].pack_plus1 != 0)
        i = (i + 1) & (slot_count - 1);
    slots[i] = *e;
}

/* Where a chain may begin: right behind an empty slot. Going round from there
 * meets the entries of each key in the order they were added. */
static uint64_t chain_start(const struct index *ix)
{
    uint64_t i = 0;

    while (ix->slots[i].pack_plus1 != 0)
        i++;
    return i;
}

static int grow(struct index *ix, uint64_t slot_count)
{
    struct index_entry *slots = calloc(slot_count, sizeof(*slots));

    if (slots == NULL)
        return -ENOMEM;
    if (ix->count != 0) {
        uint64_t start = chain_start(ix);

        for (uint64_t n = 0; n < ix->slot_count; n++) {
            const struct index_entry *e = &ix->slots[(start + n) & (ix->slot_count - 1)];

            if (e->pack_plus1 != 0)
                put(slots, slot_count, e);
        }
    }
    free(ix->slots);
    ix->slots = slots;
    ix->slot_count = slot_count;
    return 0;
}

int index_reserve(struct index *ix, uint64_t more)
{
    uint64_t slot_count = max_u64(ix->slot_count, INDEX_MIN_SLOTS);
    uint64_t need;

    if (add_overflows(ix->count, more, &need) || need > UINT64_MAX / 64)
        return -ENOMEM;
    /* At most 3/4 full: beyond that, probe chains grow fast. */
    while (slot_count / 4 * 3 < need)
        slot_count *= 2;
    return slot_count == ix->slot_count ? 0 : grow(ix, slot_count);
}

int index_add(struct index *ix, struct page_ref id, uint32_t pack, uint32_t object)
{
    struct index_entry e = {.id = id, .pack_plus1 = pack + 1, .object = object};
    int r = index_reserve(ix, 1);

    if (r < 0)
        return r;
    put(ix->slots, ix->slot_count, &e);
    ix->count++;
    return 0;
}

struct index_cursor index_find(const struct index *ix, struct page_ref id)
{
    return (struct index_cursor){.ix = ix, .key = id, .position = hash_key(id)};
}

const struct index_entry *index_next(struct index_cursor *cursor)
{
    const struct index *ix = cursor->ix;

    if (ix->count == 0)
        return NULL;
    for (;;) {
        const struct index_entry *e = &ix->slots[cursor->position & (ix->slot_count - 1)];

        if (e->pack_plus1 == 0)
            return NULL;
        cursor->position++;
        if (page_ref_same_key(e->id, cursor->key))
            return e;
    }
}

const struct index_entry *index_next_exact(struct index_cursor *cursor)
{
    const struct index_entry *e;

    do
        e = index_next(cursor);
    while (e != NULL && !page_ref_equal(e->id, cursor->key));
    return e;
}

struct index_entry *index_get(const struct index *ix, struct page_ref id)
{
    struct index_cursor cursor = index_find(ix, id);

    return (struct index_entry *)index_next_exact(&cursor);
}
