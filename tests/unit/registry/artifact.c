/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/artifact.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define CONFIG_TYPE "application/vnd.stasis.manifest.v1+json"
#define PACK_TYPE "application/vnd.stasis.pack.v1"

static void fill(struct artifact *a)
{
    a->config = (struct descriptor){digest_of("c", 1), 500};
    a->created_us = 1767225600000000;
    for (unsigned i = 0; i < 6; i++) {
        struct descriptor blob = {digest_of(&i, sizeof(i)), 1000 + i};
        static const enum layer_kind kinds[] = {LAYER_PAGES, LAYER_NODES,     LAYER_STATE,
                                                LAYER_PAGES, LAYER_PACK_LIST, LAYER_PAGES};
        assert_int_equal(artifact_add_layer(a, kinds[i], &blob), 0);
    }
}

static void what_is_encoded_comes_back_by_kind_and_order(void **state)
{
    static const unsigned order[] = {1, 4, 2, 0, 3, 5};
    _cleanup_(artifact_clear) struct artifact a = {0}, b = {0};
    _cleanup_free_ char *text = NULL;
    struct error err = ERROR_INIT;
    size_t length;

    (void)state;
    fill(&a);
    assert_int_equal(artifact_encode(&a, &text, &length, &err), 0);
    if (artifact_decode(text, length, &b, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(b.layer_count, ARRAY_LEN(order));
    for (size_t i = 0; i < b.layer_count; i++) {
        assert_int_equal(b.layers[i].kind, a.layers[order[i]].kind);
        assert_int_equal(b.layers[i].blob.size, a.layers[order[i]].blob.size);
        assert_true(digest_equal(&b.layers[i].blob.digest, &a.layers[order[i]].blob.digest));
    }
    assert_true(digest_equal(&a.config.digest, &b.config.digest));
    assert_int_equal(artifact_total_bytes(&b), 500 + 6 * 1000 + 15);
    assert_int_equal(artifact_find_layer(&b, LAYER_PACK_LIST)->blob.size, 1004);
    assert_null(artifact_find_layer(&b, LAYER_PAGES)); /* there are three */
}

/* The bytes are what every registry has stored: they must never change. */
static void the_bytes_are_those_of_the_specification(void **state)
{
    static const char expected[] =
        "{\"annotations\":{\"org.opencontainers.image.created\":\"2026-01-01T00:00:00.000000Z\"},"
        "\"artifactType\":\"application/vnd.stasis.machine.v1\","
        "\"config\":{\"digest\":\"sha256:" HEX64 "\",\"mediaType\":\"" CONFIG_TYPE
        "\",\"size\":500},"
        "\"layers\":[{\"annotations\":{\"org.opencontainers.image.title\":\"pages-0000.pack\"},"
        "\"digest\":\"sha256:" HEX64 "\",\"mediaType\":\"" PACK_TYPE "\",\"size\":7}],"
        "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"schemaVersion\":2}";
    _cleanup_(artifact_clear) struct artifact a = {.created_us = 1767225600000000};
    _cleanup_free_ char *text = NULL;
    struct descriptor blob = {.size = 7};
    size_t length;

    (void)state;
    digest_parse(HEX64, &blob.digest);
    a.config = (struct descriptor){blob.digest, 500};
    assert_int_equal(artifact_add_layer(&a, LAYER_PAGES, &blob), 0);
    assert_int_equal(artifact_encode(&a, &text, &length, NULL), 0);
    assert_string_equal(text, expected);
    assert_int_equal(length, strlen(expected));
}

static char *manifest_with(const char *config_type, const char *digest, const char *size,
                           const char *media_type)
{
    return io_format("{\"schemaVersion\":2,\"config\":{\"mediaType\":\"%s\",\"digest\":"
                     "\"sha256:" HEX64 "\",\"size\":2},\"layers\":[{\"mediaType\":\"%s\","
                     "\"digest\":\"%s\",\"size\":%s}]}",
                     config_type, media_type, digest, size);
}

static int decode(const char *text, struct error *err)
{
    _cleanup_(artifact_clear) struct artifact a = {0};

    return artifact_decode(text, strlen(text), &a, err);
}

static void hostile_layers_are_refused(void **state)
{
    static const struct {
        const char *digest;
        const char *size;
    } bad[] = {
        {"sha256:../../../../etc/passwd", "1"},
        {"sha256:" HEX64 "/..", "1"},
        {"../" HEX64, "1"},
        {"sha512:" HEX64, "1"},
        {"sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", "1"},
        {"", "1"},
        {"sha256:" HEX64, "-1"},
        {"sha256:" HEX64, "67108865"},
        {"sha256:" HEX64, "9223372036854775807"},
        {"sha256:" HEX64, "1.5"},
        {"sha256:" HEX64, "\"1\""},
        {"sha256:" HEX64, "null"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct error err = ERROR_INIT;
        _cleanup_free_ char *text =
            manifest_with(CONFIG_TYPE, bad[i].digest, bad[i].size, PACK_TYPE);
        if (decode(text, &err) != -EBADMSG || err.status != STATUS_CORRUPT)
            fail_msg("%s was taken", text);
    }
}

static void layers_of_unknown_kinds_are_left_out(void **state)
{
    _cleanup_(artifact_clear) struct artifact a = {0};
    _cleanup_free_ char *text =
        manifest_with(CONFIG_TYPE, "sha256:" HEX64, "1", "application/vnd.stasis.trace.v9");

    (void)state;
    assert_int_equal(artifact_decode(text, strlen(text), &a, NULL), 0);
    assert_int_equal(a.layer_count, 0);
}

static void an_image_of_containers_is_not_a_machine(void **state)
{
    struct error err = ERROR_INIT;
    _cleanup_free_ char *text =
        manifest_with("application/vnd.oci.image.config.v1+json", "sha256:" HEX64, "1", "tar");

    (void)state;
    assert_int_equal(decode(text, &err), -EINVAL);
    assert_non_null(strstr(err.message, "not a Stasis machine"));
    assert_string_not_equal(err.hint, "");
    assert_int_equal(decode("{\"schemaVersion\":2,\"manifests\":[]}", &err), -EINVAL);
}

static void what_is_no_manifest_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "null",
        "{}",
        "{\"schemaVersion\":1}",
        "{\"schemaVersion\":\"2\"}",
        "{\"schemaVersion\":2,\"schemaVersion\":2}",
        "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" CONFIG_TYPE "\"}}",
        "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" CONFIG_TYPE
        "\",\"digest\":\"sha256:" HEX64 "\",\"size\":1}}",
        "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" CONFIG_TYPE
        "\",\"digest\":\"sha256:" HEX64 "\",\"size\":1},\"layers\":[7]}",
        "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" CONFIG_TYPE
        "\",\"digest\":\"sha256:" HEX64 "\",\"size\":99999999},\"layers\":[]}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct error err = ERROR_INIT;
        if (decode(bad[i], &err) != -EBADMSG)
            fail_msg("%s: %s", bad[i], err.message);
    }
}

static void layers_are_limited(void **state)
{
    _cleanup_(artifact_clear) struct artifact a = {0};
    struct descriptor blob = {.size = 1};

    (void)state;
    for (unsigned i = 0; i < ARTIFACT_LAYERS_MAX; i++)
        assert_int_equal(artifact_add_layer(&a, LAYER_PAGES, &blob), 0);
    assert_int_equal(artifact_add_layer(&a, LAYER_PAGES, &blob), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_encoded_comes_back_by_kind_and_order),
        cmocka_unit_test(the_bytes_are_those_of_the_specification),
        cmocka_unit_test(hostile_layers_are_refused),
        cmocka_unit_test(layers_of_unknown_kinds_are_left_out),
        cmocka_unit_test(an_image_of_containers_is_not_a_machine),
        cmocka_unit_test(what_is_no_manifest_is_refused),
        cmocka_unit_test(layers_are_limited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
