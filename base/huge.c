/* SPDX-License-Identifier: Apache-2.0 */
#include "base/huge.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

void *huge_alloc(size_t bytes)
{
    size_t whole;
    void *memory;

    if (bytes > SIZE_MAX - HUGE_PAGE_BYTES)
        return NULL;
    whole = (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    memory = aligned_alloc(HUGE_PAGE_BYTES, whole);
    /* Advice: a kernel without huge pages refuses it, and nothing is lost. */
    if (memory != NULL)
        madvise(memory, whole, MADV_HUGEPAGE);
    return memory;
}
