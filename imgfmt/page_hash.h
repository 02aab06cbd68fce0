/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3-128 of a page for one instruction set; for page.c alone. Debian's libxxhash
 * is built for the x86-64 baseline; inlined for AVX2 it is two to three times as
 * fast on a page that is in the cache, as one is after the scan for zeros. */
#ifndef STASIS_IMGFMT_PAGE_HASH_H
#define STASIS_IMGFMT_PAGE_HASH_H

#include "imgfmt/page.h"

struct page_hash {
    uint64_t lo;
    uint64_t hi;
};

/* For processors with AVX2. */
struct page_hash page_hash_avx2(const void *page);

#endif
