/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page: 4096 bytes of RAM or of a disk, the one unit of both; and the
 * reference by which a map names it.
 *
 *   reference = 112 bits of XXH3-128 of the page + a 16-bit variant
 *
 * XXH3 is not cryptographic: the key part only finds candidates, bytes decide.
 * Two different pages with one key are stored as variants 0, 1, ... of it. The
 * all-zero reference stands for the all-zero page, which is never stored.
 * Variants are a matter of one store: who receives a page from outside computes
 * its key and chooses its variant himself.
 */
#ifndef STASIS_IMGFMT_PAGE_H
#define STASIS_IMGFMT_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#define STASIS_PAGE_SIZE 4096u
#define STASIS_PAGE_SHIFT 12
#define PAGE_REF_SIZE 16 /* bytes of a reference on disk: lo then hi, little-endian */

struct page_ref {
    uint64_t lo;
    uint64_t hi; /* bits 0-15: the variant */
};

#define PAGE_VARIANT_MAX UINT16_MAX

/* Is every byte zero? page is STASIS_PAGE_SIZE bytes, any alignment. */
bool page_is_zero(const void *page);

/*
 * The reference of variant 0 of a page. Never all zero: a page other than the
 * zero page whose key happens to be zero starts at variant 1. A build with
 * -DSTASIS_KEY_BITS=16 keeps only that many bits of the key, so that collisions
 * happen all the time; it is for tests.
 */
struct page_ref page_ref_of(const void *page);

/* The reference of another variant of the same key. */
struct page_ref page_ref_with_variant(struct page_ref ref, uint16_t variant);
uint16_t page_ref_variant(struct page_ref ref);

bool page_ref_is_zero(struct page_ref ref);
bool page_ref_equal(struct page_ref a, struct page_ref b);
bool page_ref_same_key(struct page_ref a, struct page_ref b);

struct page_ref page_ref_load(const uint8_t bytes[PAGE_REF_SIZE]);
void page_ref_store(struct page_ref ref, uint8_t bytes[PAGE_REF_SIZE]);

#endif
