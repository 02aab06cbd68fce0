/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/reference.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "registry/registry.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void assert_remote(const char *text, const char *host, const char *repository,
                          const char *tag)
{
    _cleanup_(reference_clear) struct reference ref = {0};
    struct error err = ERROR_INIT;

    if (reference_parse(text, &ref, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    assert_false(ref.layout);
    assert_string_equal(ref.host, host);
    assert_string_equal(ref.repository, repository);
    assert_string_equal(ref.tag, tag);
}

static void assert_layout(const char *text, const char *dir, const char *tag)
{
    _cleanup_(reference_clear) struct reference ref = {0};
    struct error err = ERROR_INIT;

    if (reference_parse(text, &ref, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    assert_true(ref.layout);
    assert_string_equal(ref.dir, dir);
    assert_string_equal(ref.tag, tag);
}

static void a_registry_reference_has_host_repository_and_tag(void **state)
{
    (void)state;
    assert_remote("registry.example/debian:12", "registry.example", "debian", "12");
    assert_remote("localhost/a/b-c/d_e", "localhost", "a/b-c/d_e", "latest");
    assert_remote("localhost:5000/web:v1.2_x", "localhost:5000", "web", "v1.2_x");
    assert_remote("127.0.0.1:80/a__b", "127.0.0.1:80", "a__b", "latest");
    assert_remote("[::1]:5000/a/b:t", "[::1]:5000", "a/b", "t");
    assert_remote("r.example/a---b:1", "r.example", "a---b", "1");
}

static void a_layout_reference_has_directory_and_tag(void **state)
{
    (void)state;
    assert_layout("oci:dir", "dir", "latest");
    assert_layout("oci:/a/b:v1", "/a/b", "v1");
    assert_layout("oci:./x:y/dir", "./x:y/dir", "latest");
}

static void a_digest_names_one_manifest(void **state)
{
    _cleanup_(reference_clear) struct reference ref = {0};
    char hex[DIGEST_HEX_SIZE];

    (void)state;
    assert_int_equal(reference_parse("r.example/a@sha256:" HEX64, &ref, NULL), 0);
    assert_true(ref.has_digest);
    assert_null(ref.tag);
    assert_string_equal(digest_hex(&ref.digest, hex), HEX64);
}

static void what_is_no_reference_is_a_usage_error(void **state)
{
    static const char *const bad[] = {
        "oci:",
        "oci::v1",
        "oci:d:bad tag",
        "oci:d:",
        "debian:12",
        "r.example/",
        "r.example/A",
        "r.example/a//b",
        "r.example/a/",
        "r.example/../b",
        "r.example/a:",
        "r.example/a:-x",
        "r.example/a:x/",
        "r.example/a b",
        "r.example:x/a",
        "r.example:99999/a",
        "r.exa mple/a",
        "r.example/a@md5:0",
        "r.example/a@sha256:0",
        "r.example/a___b",
        "r.example/a..b",
        "-r.example/a",
        "[::1/a",
        "r.example/a?b=c",
        "user@r.ex/a",
        "r.example/a#b",
        "r.example:0/a",
        "r.example/a\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct reference ref = {0};
        struct error err = ERROR_INIT;
        if (reference_parse(bad[i], &ref, &err) != -EINVAL || err.status != STATUS_USAGE)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_string_not_equal(err.hint, "");
    }
}

static void too_long_names_are_refused(void **state)
{
    char text[600] = "r.example/";
    struct reference ref = {0};

    (void)state;
    memset(text + strlen(text), 'a', 256);
    assert_int_equal(reference_parse(text, &ref, NULL), -EINVAL);
    snprintf(text, sizeof(text), "r.example/a:%0129d", 1);
    assert_int_equal(reference_parse(text, &ref, NULL), -EINVAL);
}

static void a_reference_is_told_from_a_local_name(void **state)
{
    (void)state;
    assert_true(registry_is_reference("oci:dir"));
    assert_true(registry_is_reference("localhost/a"));
    assert_true(registry_is_reference("host:5000/a"));
    assert_true(registry_is_reference("registry.example/debian:12"));
    assert_false(registry_is_reference("debian:12"));
    assert_false(registry_is_reference("library/debian:12"));
    assert_false(registry_is_reference("web@patched"));
    assert_false(registry_is_reference("./dir/a"));
    assert_false(registry_is_reference("../dir"));
    assert_false(registry_is_reference("/a.b/c"));
}

static void only_this_host_is_local(void **state)
{
    (void)state;
    assert_true(reference_host_is_local("localhost"));
    assert_true(reference_host_is_local("localhost:5000"));
    assert_true(reference_host_is_local("127.3.4.5:1"));
    assert_true(reference_host_is_local("[::1]:5000"));
    assert_false(reference_host_is_local("localhost.example"));
    assert_false(reference_host_is_local("127.0.0.1.example"));
    assert_false(reference_host_is_local("128.0.0.1"));
    assert_false(reference_host_is_local("[::2]"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_registry_reference_has_host_repository_and_tag),
        cmocka_unit_test(a_layout_reference_has_directory_and_tag),
        cmocka_unit_test(a_digest_names_one_manifest),
        cmocka_unit_test(what_is_no_reference_is_a_usage_error),
        cmocka_unit_test(too_long_names_are_refused),
        cmocka_unit_test(a_reference_is_told_from_a_local_name),
        cmocka_unit_test(only_this_host_is_local),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
