/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled for AVX2 (CMakeLists.txt); called only where the processor has it. */
#include "imgfmt/page_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#ifndef __AVX2__
#error "compile this file with -mavx2"
#endif

struct page_hash page_hash_avx2(const void *page)
{
    XXH128_hash_t hash = XXH3_128bits(page, STASIS_PAGE_SIZE);

    return (struct page_hash){.lo = hash.low64, .hi = hash.high64};
}
