/* SPDX-License-Identifier: Apache-2.0 */
#include "imgfmt/page.h"

#include "base/bytes.h"
#include "imgfmt/page_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define VARIANT_MASK ((uint64_t)PAGE_VARIANT_MAX)

/* A vector the compiler maps to whatever the target has (two SSE2 registers at
 * the x86-64 baseline); aligned(1) because guest buffers may lie anywhere. */
typedef uint64_t word_vector __attribute__((vector_size(32), aligned(1), may_alias));

bool page_is_zero(const void *page)
{
    enum { STEP = 8 }; /* vectors between two tests: a non-zero page is found out early */
    const word_vector *v = page;
    const word_vector *end = v + STASIS_PAGE_SIZE / sizeof(*v);

    for (; v < end; v += STEP) {
        word_vector any = ((v[0] | v[1]) | (v[2] | v[3])) | ((v[4] | v[5]) | (v[6] | v[7]));
        if ((any[0] | any[1] | any[2] | any[3]) != 0)
            return false;
    }
    return true;
}

static struct page_hash hash_of(const void *page)
{
    if (__builtin_cpu_supports("avx2"))
        return page_hash_avx2(page);
    XXH128_hash_t hash = XXH3_128bits(page, STASIS_PAGE_SIZE);
    return (struct page_hash){.lo = hash.low64, .hi = hash.high64};
}

struct page_ref page_ref_of(const void *page)
{
    struct page_hash hash = hash_of(page);
    struct page_ref ref = {.lo = hash.lo, .hi = hash.hi & ~VARIANT_MASK};

#ifdef STASIS_KEY_BITS
    _Static_assert(STASIS_KEY_BITS > 0 && STASIS_KEY_BITS < 64, "a test key is part of lo");
    ref.lo &= (UINT64_C(1) << STASIS_KEY_BITS) - 1;
    ref.hi = 0;
#endif
    if (page_ref_is_zero(ref))
        ref.hi = 1;
    return ref;
}

struct page_ref page_ref_with_variant(struct page_ref ref, uint16_t variant)
{
    ref.hi = (ref.hi & ~VARIANT_MASK) | variant;
    return ref;
}

uint16_t page_ref_variant(struct page_ref ref)
{
    return (uint16_t)(ref.hi & VARIANT_MASK);
}

bool page_ref_is_zero(struct page_ref ref)
{
    return (ref.lo | ref.hi) == 0;
}

bool page_ref_equal(struct page_ref a, struct page_ref b)
{
    return ((a.lo ^ b.lo) | (a.hi ^ b.hi)) == 0;
}

bool page_ref_same_key(struct page_ref a, struct page_ref b)
{
    return ((a.lo ^ b.lo) | ((a.hi ^ b.hi) & ~VARIANT_MASK)) == 0;
}

struct page_ref page_ref_load(const uint8_t bytes[PAGE_REF_SIZE])
{
    return (struct page_ref){.lo = load_le64(bytes), .hi = load_le64(bytes + 8)};
}

void page_ref_store(struct page_ref ref, uint8_t bytes[PAGE_REF_SIZE])
{
    store_le64(bytes, ref.lo);
    store_le64(bytes + 8, ref.hi);
}
