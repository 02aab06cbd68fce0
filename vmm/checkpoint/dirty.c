/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/checkpoint/dirty.h"

#include "base/cleanup.h"

#include <errno.h>

int dirty_take(struct board *board, uint64_t *bits, struct error *err)
{
    struct memory *mem = board->memory;

    int r = vm_dirty_log(board->vm, bits, err);
    if (r < 0) {
        dirty_give_back(board, bits);
        return r;
    }
    /* Acquire: what was written before a bit was set is there for whoever copies now. */
    for (uint64_t i = 0; i < mem->dirty_words; i++)
        bits[i] |= __atomic_exchange_n(&mem->device_dirty[i], 0, __ATOMIC_ACQUIRE);
    return 0;
}

/* Into the VMM's own set: KVM's log cannot be written. */
void dirty_give_back(struct board *board, const uint64_t *bits)
{
    struct memory *mem = board->memory;

    for (uint64_t i = 0; i < mem->dirty_words; i++)
        if (bits[i] != 0)
            __atomic_fetch_or(&mem->device_dirty[i], bits[i], __ATOMIC_RELAXED);
}

int dirty_look(struct board *board, uint64_t *recent_out, uint64_t *all_out, struct error *err)
{
    const struct memory *mem = board->memory;
    _cleanup_free_ uint64_t *bits = calloc(mem->dirty_words, sizeof(*bits));
    uint64_t recent = 0, all = 0;

    if (bits == NULL)
        return error_errno(err, ENOMEM, "cannot look at the dirty log");
    int r = vm_dirty_log(board->vm, bits, err);
    dirty_give_back(board, bits); /* also what was read before a failure */
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < mem->dirty_words; i++) {
        recent += (uint64_t)__builtin_popcountll(bits[i]);
        all += (uint64_t)__builtin_popcountll(
            __atomic_load_n(&mem->device_dirty[i], __ATOMIC_RELAXED));
    }
    *recent_out = recent;
    *all_out = all;
    return 0;
}
