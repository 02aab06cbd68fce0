/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of the index. All that look-ups go to is mapped from files: the slots of
 * runs, and the ids in the footers of packs. As long as all of it would fit into
 * memory_max, nothing happens here. Beyond that ("crowded") slots take one half of it
 * at most and ids and groups a quarter each; what is too much is unmapped and comes
 * from its file again when it is needed. Look-ups then go by neighbours first
 * (lookup.c), so that what was stored together is found with one look into a run.
 *
 * Nothing is found less for it: a page that was overlooked would be given a reference
 * that another page may have, and a reader must find every page anyway.
 */
#include "base/bytes.h"
#include "store/packs.h"

/* Groups of this many bytes are kept: those of some fifteen million pages. */
#define GROUP_BYTES_MAX (UINT64_C(64) << 20)

/* A process may have 65530 mappings (vm.max_map_count); the store takes a part. */
#define MAPS_MAX 16384u

static uint64_t slots_max(const struct packs *packs)
{
    return packs->memory_max / 2;
}

static uint64_t ids_max(const struct packs *packs)
{
    return packs_are_crowded(packs) ? packs->memory_max / 4 : UINT64_MAX;
}

uint64_t packs_group_bytes_max(const struct packs *packs)
{
    return min_u64(GROUP_BYTES_MAX, packs->memory_max / 4);
}

void packs_note_size_locked(struct packs *packs)
{
    uint64_t all = packs->objects * PAGE_REF_SIZE;

    for (unsigned i = 0; i < packs->run_count; i++)
        all += packs->runs[i]->map_bytes;
    atomic_store_explicit(&packs->crowded, all > packs->memory_max / 4 * 3, memory_order_relaxed);
}

void packs_limit_memory(struct packs *packs, uint64_t bytes)
{
    pthread_rwlock_wrlock(&packs->lock);
    packs->memory_max = bytes;
    packs_note_size_locked(packs);
    pthread_rwlock_unlock(&packs->lock);
    packs_shed(packs);
}

/* packs.lock is held. */
static uint64_t slots_in_memory(const struct packs *packs)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < packs->run_count; i++)
        bytes += atomic_load_explicit(&packs->runs[i]->touched, memory_order_relaxed);
    return bytes;
}

uint64_t packs_memory(struct packs *packs)
{
    uint64_t bytes;

    pthread_rwlock_rdlock(&packs->lock);
    bytes = slots_in_memory(packs) + packs->map_bytes;
    pthread_mutex_lock(&packs->fd_lock);
    bytes += packs->group_bytes;
    pthread_mutex_unlock(&packs->fd_lock);
    pthread_rwlock_unlock(&packs->lock);
    return bytes;
}

void packs_shed_ids_locked(struct packs *packs, uint64_t more)
{
    while (packs->maps != 0 && packs->pinned_maps == 0 &&
           (packs->maps >= MAPS_MAX || packs->map_bytes + more > ids_max(packs)))
        packs_unmap_locked(packs, packs->list[packs->map_hand++ % packs->count]);
}

void packs_shed(struct packs *packs)
{
    bool crowded;

    if (!packs_are_crowded(packs))
        return;
    pthread_rwlock_rdlock(&packs->lock);
    crowded = slots_in_memory(packs) > slots_max(packs) || packs->map_bytes > ids_max(packs);
    pthread_rwlock_unlock(&packs->lock);
    if (!crowded)
        return;
    pthread_rwlock_wrlock(&packs->lock);
    if (slots_in_memory(packs) > slots_max(packs))
        for (unsigned i = 0; i < packs->run_count; i++)
            run_forget_slots(packs->runs[i]);
    packs_shed_ids_locked(packs, 0);
    pthread_rwlock_unlock(&packs->lock);
}
