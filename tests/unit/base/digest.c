/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/digest.h"

#include <errno.h>
#include <string.h>

/* FIPS 180-4 examples. */
#define SHA256_ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define SHA256_EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void digests_are_sha256(void **state)
{
    char hex[DIGEST_HEX_SIZE];

    (void)state;
    struct digest abc = digest_of("abc", 3);
    assert_string_equal(digest_hex(&abc, hex), SHA256_ABC);
    struct digest empty = digest_of("", 0);
    assert_string_equal(digest_hex(&empty, hex), SHA256_EMPTY);
    assert_false(digest_equal(&abc, &empty));
}

static void hex_reads_back_in_either_case(void **state)
{
    struct digest abc = digest_of("abc", 3);
    struct digest read;
    char upper[DIGEST_HEX_SIZE] = SHA256_ABC;

    (void)state;
    assert_int_equal(digest_parse(SHA256_ABC, &read), 0);
    assert_true(digest_equal(&read, &abc));
    for (char *p = upper; *p != '\0'; p++)
        *p = *p >= 'a' ? (char)(*p - 'a' + 'A') : *p;
    assert_int_equal(digest_parse(upper, &read), 0);
    assert_true(digest_equal(&read, &abc));
}

static void refuses_hex_of_any_other_length_or_letter(void **state)
{
    char text[DIGEST_HEX_SIZE + 1] = SHA256_ABC;
    struct digest read;

    (void)state;
    assert_int_equal(digest_parse("", &read), -EINVAL);
    text[63] = '\0';
    assert_int_equal(digest_parse(text, &read), -EINVAL);
    memcpy(text, SHA256_ABC "0", DIGEST_HEX_SIZE + 1);
    assert_int_equal(digest_parse(text, &read), -EINVAL);
    memcpy(text, SHA256_ABC, DIGEST_HEX_SIZE);
    text[10] = 'g';
    assert_int_equal(digest_parse(text, &read), -EINVAL);
}

static void stream_of_parts_is_digest_of_the_whole(void **state)
{
    struct digest_stream *s = digest_stream_new();

    (void)state;
    digest_stream_update(s, "a", 1);
    struct digest a = digest_stream_peek(s);
    digest_stream_update(s, "bc", 2);
    struct digest abc = digest_stream_peek(s);
    digest_stream_free(s);
    struct digest want_a = digest_of("a", 1);
    struct digest want_abc = digest_of("abc", 3);
    assert_true(digest_equal(&a, &want_a));
    assert_true(digest_equal(&abc, &want_abc));
    digest_stream_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_sha256),
        cmocka_unit_test(hex_reads_back_in_either_case),
        cmocka_unit_test(refuses_hex_of_any_other_length_or_letter),
        cmocka_unit_test(stream_of_parts_is_digest_of_the_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
