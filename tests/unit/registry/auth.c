/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/auth.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "tests/unit/store-stream/sample.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void assert_challenge(const char *header, const char *scheme, const char *realm,
                             const char *service, const char *scope)
{
    struct auth_challenge c;

    if (auth_challenge_parse(header, &c) < 0)
        fail_msg("%s: not understood", header);
    assert_string_equal(c.scheme, scheme);
    assert_string_equal(c.realm, realm);
    assert_string_equal(c.service, service);
    assert_string_equal(c.scope, scope);
}

static void challenges_are_read_as_rfc_9110_writes_them(void **state)
{
    (void)state;
    assert_challenge("Basic realm=\"x\"", "basic", "x", "", "");
    assert_challenge("Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                     "bearer", "https://a/t", "s", "repository:a:pull,push");
    assert_challenge("bearer  realm = ", "bearer", "", "", "");
    assert_challenge("BEARER Realm=tok, SERVICE=\"a \\\"b\\\" c\"", "bearer", "tok", "a \"b\" c",
                     "");
    assert_challenge("Basic realm=\"b\", Bearer realm=\"t\"", "bearer", "t", "", "");
    assert_challenge("Bearer realm=\"t\", Basic realm=\"b\"", "bearer", "t", "", "");
    assert_challenge("Negotiate, Basic realm=\"b\"", "basic", "b", "", "");
    assert_challenge("Bearer realm=\"t\",error=\"insufficient_scope\"", "bearer", "t", "", "");
}

static void what_is_no_challenge_is_not_answered(void **state)
{
    static const char *const bad[] = {
        "", ",,,", "\"", "Digest realm=\"x\"", "=", "Negotiate abc=="};
    struct auth_challenge c;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(auth_challenge_parse(bad[i], &c), -ENOENT);
}

static void endless_fields_are_not_read(void **state)
{
    char header[5000] = "Bearer realm=\"";
    struct auth_challenge c;

    (void)state;
    memset(header + strlen(header), 'a', 4000);
    assert_int_equal(auth_challenge_parse(header, &c), -ENOENT);
    memset(header, 'B', 4000);
    assert_int_equal(auth_challenge_parse(header, &c), -ENOENT);
}

/* ---- stored credentials ---- */

static int setup(void **state)
{
    static const char *const variables[] = {"REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR",
                                            "DOCKER_CONFIG", "HOME"};

    for (size_t i = 0; i < ARRAY_LEN(variables); i++)
        unsetenv(variables[i]);
    *state = sample_dir_new();
    return 0;
}

static int teardown(void **state)
{
    sample_dir_free(*state);
    return 0;
}

static void write_auth(const char *dir, const char *name, const char *text, const char *variable)
{
    _cleanup_free_ char *path = io_format("%s/%s", dir, name);

    assert_int_equal(io_write_file(AT_FDCWD, path, text, strlen(text), 0600), 0);
    setenv(variable, name[0] == 'c' ? dir : path, 1);
}

static void assert_credentials(const char *host, const char *repository, const char *expected)
{
    _cleanup_free_ char *basic = NULL;

    if (expected == NULL) {
        assert_int_equal(auth_find_credentials(host, repository, &basic), -ENOENT);
        return;
    }
    assert_int_equal(auth_find_credentials(host, repository, &basic), 0);
    assert_string_equal(basic, expected);
}

static void the_most_precise_entry_counts(void **state)
{
    write_auth(*state, "auth.json",
               "{\"auths\":{\"r.example\":{\"auth\":\"aG9zdA==\"},"
               "\"r.example/a\":{\"auth\":\"YQ==\"},\"r.example/a/b\":{\"auth\":\"YWI=\"},"
               "\"https://old.example/v1/\":{\"auth\":\"b2xk\"}}}",
               "REGISTRY_AUTH_FILE");
    assert_credentials("r.example", "a/b", "YWI=");
    assert_credentials("r.example", "a/b/c", "YWI=");
    assert_credentials("r.example", "a/x", "YQ==");
    assert_credentials("r.example", "x", "aG9zdA==");
    assert_credentials("old.example", "x", "b2xk");
    assert_credentials("example", "x", NULL);
    assert_credentials("r.example:5000", "x", NULL);
}

static void the_first_file_that_knows_the_host_counts(void **state)
{
    write_auth(*state, "config.json",
               "{\"auths\":{\"a.example\":{\"auth\":\"Yw==\"},"
               "\"b.example\":{\"auth\":\"Yg==\"}}}",
               "DOCKER_CONFIG");
    write_auth(*state, "auth.json", "{\"auths\":{\"a.example\":{\"auth\":\"YQ==\"}}}",
               "REGISTRY_AUTH_FILE");
    assert_credentials("a.example", "x", "YQ==");
    assert_credentials("b.example", "x", "Yg==");
}

static void credentials_that_would_break_a_header_are_not_used(void **state)
{
    write_auth(*state, "auth.json",
               "{\"auths\":{\"a.example\":{\"auth\":\"YQ==\\r\\nX-Evil: 1\"},"
               "\"b.example\":{\"auth\":7},\"c.example\":[]}}",
               "REGISTRY_AUTH_FILE");
    assert_credentials("a.example", "x", NULL);
    assert_credentials("b.example", "x", NULL);
    assert_credentials("c.example", "x", NULL);
}

static void files_that_are_no_json_are_passed_over(void **state)
{
    write_auth(*state, "auth.json", "not json", "REGISTRY_AUTH_FILE");
    assert_credentials("a.example", "x", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(challenges_are_read_as_rfc_9110_writes_them),
        cmocka_unit_test(what_is_no_challenge_is_not_answered),
        cmocka_unit_test(endless_fields_are_not_read),
        cmocka_unit_test_setup_teardown(the_most_precise_entry_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(the_first_file_that_knows_the_host_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(credentials_that_would_break_a_header_are_not_used, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(files_that_are_no_json_are_passed_over, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
