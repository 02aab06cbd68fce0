/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "samples.h"

#include <xxhash.h>

static void every_single_byte_counts(void **state)
{
    uint8_t page[STASIS_PAGE_SIZE] = {0};

    (void)state;
    assert_true(page_is_zero(page));
    for (size_t i = 0; i < sizeof(page); i++) {
        page[i] = 0x80;
        if (page_is_zero(page))
            fail_msg("byte %zu is not seen", i);
        page[i] = 0;
    }
}

static void what_lies_around_a_page_does_not_count(void **state)
{
    uint8_t bytes[STASIS_PAGE_SIZE + 64];

    (void)state;
    for (size_t shift = 1; shift < 63; shift++) {
        memset(bytes, 0xff, sizeof(bytes));
        memset(bytes + shift, 0, STASIS_PAGE_SIZE);
        assert_true(page_is_zero(bytes + shift));
        assert_false(page_is_zero(bytes + shift - 1));
        assert_false(page_is_zero(bytes + shift + 1));
    }
}

#ifdef STASIS_KEY_BITS
static void short_keys_collide_and_are_never_zero(void **state)
{
    uint8_t page[STASIS_PAGE_SIZE];
    bool seen_variant_one = false;

    (void)state;
    for (uint32_t seed = 1; seed < (8u << STASIS_KEY_BITS) && !seen_variant_one; seed += 2) {
        sample_page(seed, page);
        struct page_ref ref = page_ref_of(page);
        assert_false(page_ref_is_zero(ref));
        assert_true(ref.lo >> STASIS_KEY_BITS == 0);
        seen_variant_one = page_ref_variant(ref) == 1;
        assert_true(!seen_variant_one || ref.lo == 0);
    }
    assert_true(seen_variant_one);
}
#else
static void fresh_references_are_of_the_first_variant(void **state)
{
    uint8_t page[STASIS_PAGE_SIZE];

    (void)state;
    for (uint32_t seed = 0; seed < 64; seed++) {
        sample_page(seed, page);
        struct page_ref ref = page_ref_of(page);
        assert_false(page_ref_is_zero(ref));
        assert_int_equal(page_ref_variant(ref), 0);
        assert_true(page_ref_equal(ref, page_ref_of(page)));
    }
}

/* Pins the key for ever: a store would not find its pages again otherwise. */
static void keys_are_xxh3_of_the_page(void **state)
{
    uint8_t page[STASIS_PAGE_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof(page); i++)
        page[i] = (uint8_t)i;
    struct page_ref ref = page_ref_of(page);
    assert_true(ref.lo == UINT64_C(0xeb4b7c3707879151));
    assert_true(ref.hi == UINT64_C(0x3916578969f0000));
}

/* Whatever instructions this processor has. */
static void keys_are_the_same_as_the_library_computes(void **state)
{
    uint8_t bytes[STASIS_PAGE_SIZE + 1];
    uint8_t *page = bytes + 1;

    (void)state;
    for (uint32_t seed = 0; seed < 100; seed++) {
        sample_page(seed, page);
        XXH128_hash_t want = XXH3_128bits(page, STASIS_PAGE_SIZE);
        struct page_ref ref = page_ref_of(page);
        assert_true(ref.lo == want.low64);
        assert_true(ref.hi == (want.high64 & ~UINT64_C(0xffff)));
    }
}

static void one_bit_makes_another_key(void **state)
{
    uint8_t page[STASIS_PAGE_SIZE];

    (void)state;
    sample_page(1, page);
    struct page_ref before = page_ref_of(page);
    page[4095] ^= 1;
    assert_false(page_ref_same_key(before, page_ref_of(page)));
}
#endif

static void variants_share_a_key(void **state)
{
    struct page_ref ref = {.lo = 5, .hi = UINT64_C(0xabcdef0123450000)};

    (void)state;
    struct page_ref other = page_ref_with_variant(ref, PAGE_VARIANT_MAX);
    assert_int_equal(page_ref_variant(other), PAGE_VARIANT_MAX);
    assert_true(page_ref_same_key(ref, other));
    assert_false(page_ref_equal(ref, other));
    assert_true(page_ref_equal(ref, page_ref_with_variant(other, 0)));
    other.hi ^= UINT64_C(1) << 16;
    assert_false(page_ref_same_key(ref, other));
    other = ref;
    other.lo ^= 1;
    assert_false(page_ref_same_key(ref, other));
}

static void references_are_stored_little_endian(void **state)
{
    struct page_ref ref = {.lo = UINT64_C(0x0102030405060708), .hi = UINT64_C(0x1112131415161718)};
    uint8_t bytes[PAGE_REF_SIZE];

    (void)state;
    page_ref_store(ref, bytes);
    assert_memory_equal(bytes, "\x08\x07\x06\x05\x04\x03\x02\x01\x18\x17\x16\x15\x14\x13\x12\x11",
                        16);
    assert_true(page_ref_equal(page_ref_load(bytes), ref));
}

static void only_the_all_zero_reference_is_zero(void **state)
{
    (void)state;
    assert_true(page_ref_is_zero((struct page_ref){0}));
    assert_false(page_ref_is_zero((struct page_ref){.lo = 1}));
    assert_false(page_ref_is_zero((struct page_ref){.hi = 1}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_single_byte_counts),
        cmocka_unit_test(what_lies_around_a_page_does_not_count),
#ifdef STASIS_KEY_BITS
        cmocka_unit_test(short_keys_collide_and_are_never_zero),
#else
        cmocka_unit_test(fresh_references_are_of_the_first_variant),
        cmocka_unit_test(keys_are_xxh3_of_the_page),
        cmocka_unit_test(keys_are_the_same_as_the_library_computes),
        cmocka_unit_test(one_bit_makes_another_key),
#endif
        cmocka_unit_test(variants_share_a_key),
        cmocka_unit_test(references_are_stored_little_endian),
        cmocka_unit_test(only_the_all_zero_reference_is_zero),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
