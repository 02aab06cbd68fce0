/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "samples.h"

#include <errno.h>
#include <string.h>

static void expect_equal(const struct manifest *a, const struct manifest *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_true(a->created_us == b->created_us);
    assert_int_equal(a->has_parent, b->has_parent);
    assert_true(digest_equal(&a->parent, &b->parent));
    assert_memory_equal(&a->config, &b->config, sizeof(a->config));
    assert_int_equal(a->has_state, b->has_state);
    assert_true(digest_equal(&a->state, &b->state));
    assert_true(a->state_bytes == b->state_bytes);
    assert_string_equal(a->cpu_features, b->cpu_features);
    assert_int_equal(a->space_count, b->space_count);
    for (uint32_t i = 0; i < a->space_count; i++) {
        const struct manifest_space *s = manifest_space_find(b, a->spaces[i].name);
        assert_non_null(s);
        assert_true(s->size_bytes == a->spaces[i].size_bytes);
        assert_true(digest_equal(&s->root, &a->spaces[i].root));
    }
}

static void expect_round_trip(const struct manifest *m)
{
    _cleanup_free_ char *text = NULL;
    struct manifest read;
    struct error err = ERROR_INIT;
    size_t length;

    assert_int_equal(manifest_encode(m, &text, &length), 0);
    assert_int_equal(strlen(text), length);
    if (manifest_decode(text, length, &read, &err) < 0)
        fail_msg("%s", err.message);
    expect_equal(m, &read);
}

static void manifests_read_back(void **state)
{
    struct manifest m;

    (void)state;
    sample_cold(&m);
    expect_round_trip(&m);
    sample_warm(&m);
    expect_round_trip(&m);
}

static void the_largest_manifest_reads_back(void **state)
{
    struct manifest m;
    struct digest root = digest_of("", 0);

    (void)state;
    sample_warm(&m);
    memset(m.config.cmdline, '\\', MANIFEST_CMDLINE_MAX);
    m.config.vcpus = MANIFEST_VCPUS_MAX;
    m.config.disk_count = MANIFEST_DISKS_MAX;
    for (uint32_t i = 0; m.space_count < MANIFEST_SPACES_MAX; i++) {
        _cleanup_free_ char *name = io_format("disk%u", i);
        assert_int_equal(manifest_space_set(&m, name, UINT64_C(1) << 54, &root), 0);
    }
    assert_int_equal(manifest_space_set(&m, "more", 1, &root), -ENOSPC);
    assert_int_equal(manifest_space_set(&m, "disk0", 512, &root), 0);
    assert_int_equal(manifest_space_set(&m, "sixteen-letters-", 1, &root), -ENAMETOOLONG);
    expect_round_trip(&m);
}

static void the_order_of_spaces_does_not_change_the_id(void **state)
{
    struct manifest a;
    struct manifest b;
    struct digest id_a;
    struct digest id_b;

    (void)state;
    sample_warm(&a);
    b = a;
    b.spaces[0] = a.spaces[4];
    b.spaces[4] = a.spaces[0];
    assert_int_equal(manifest_id(&a, &id_a), 0);
    assert_int_equal(manifest_id(&b, &id_b), 0);
    assert_true(digest_equal(&id_a, &id_b));
    b.created_us++;
    assert_int_equal(manifest_id(&b, &id_b), 0);
    assert_false(digest_equal(&id_a, &id_b));
}

static void nothing_is_encoded_that_could_not_be_decoded(void **state)
{
    struct manifest good;
    char *text = NULL;
    size_t length;

    (void)state;
    sample_warm(&good);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        struct manifest m = good;                                                                  \
        struct error err = ERROR_INIT;                                                             \
        change;                                                                                    \
        assert_int_equal(manifest_encode(&m, &text, &length), -EINVAL);                            \
        assert_null(text);                                                                         \
        assert_int_equal(manifest_check(&m, &err), -EBADMSG);                                      \
        assert_true(strncmp(err.message, "manifest: ", 10) == 0);                                  \
    } while (0)
    REFUSED(m.kind = 7);
    REFUSED(m.kind = CHECKPOINT_COLD);
    REFUSED(m.created_us = -1);
    REFUSED(m.created_us = INT64_MAX);
    REFUSED(m.config.vcpus = 0);
    REFUSED(m.config.vcpus = MANIFEST_VCPUS_MAX + 1);
    REFUSED(m.config.memory_bytes = 0);
    REFUSED(m.config.memory_bytes -= 1);
    REFUSED(m.config.memory_bytes += STASIS_PAGE_SIZE); /* other than what was saved */
    REFUSED(m.config.memory_bytes = UINT64_MAX - STASIS_PAGE_SIZE + 1);
    REFUSED(m.config.disk_count = MANIFEST_DISKS_MAX + 1);
    REFUSED(m.config.disk_count = 3); /* there is no space disk2 */
    REFUSED(m.config.net_count = 1);  /* without an address */
    REFUSED(m.config.net_count = MANIFEST_NETS_MAX + 1);
    REFUSED((m.config.net_count = 1, m.config.nets[0].mac[0] = 1));
    REFUSED(memset(m.config.cmdline, 'x', sizeof(m.config.cmdline)));
    REFUSED(m.config.cmdline[0] = '\n');
    REFUSED(m.space_count = MANIFEST_SPACES_MAX + 1);
    REFUSED(m.spaces[0].name[0] = '\0');
    REFUSED(memcpy(m.spaces[0].name, "..", 3));
    REFUSED(m.spaces[1] = m.spaces[0]);
    REFUSED(m.spaces[0].size_bytes = UINT64_MAX);
    REFUSED(m.spaces[0].size_bytes = (UINT64_C(1) << 54) + 512);
    REFUSED(m.spaces[0].size_bytes = 0);
    REFUSED(m.spaces[0].size_bytes = 513);
    REFUSED(m.has_state = false);
    REFUSED(m.state_bytes = 0);
    REFUSED(m.state_bytes = UINT64_MAX);
#undef REFUSED
}

static void a_command_line_must_be_utf8(void **state)
{
    struct manifest m;
    char *text = NULL;
    size_t length;

    (void)state;
    sample_cold(&m);
    memcpy(m.config.cmdline, "\xff", 2);
    assert_int_equal(manifest_encode(&m, &text, &length), -EINVAL);
}

/* ---- hostile texts ---- */

/* The text of a sample with the first `from` replaced by `to`. */
static char *edited(void (*sample)(struct manifest *), const char *from, const char *to)
{
    _cleanup_free_ char *text = NULL;
    struct manifest m;
    size_t length;

    sample(&m);
    assert_int_equal(manifest_encode(&m, &text, &length), 0);
    const char *at = strstr(text, from);
    if (at == NULL)
        fail_msg("no %s in %s", from, text);
    return io_format("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void expect(void (*sample)(struct manifest *), const char *from, const char *to, int result)
{
    _cleanup_free_ char *text = edited(sample, from, to);
    struct manifest read = {.space_count = 42};
    struct error err = ERROR_INIT;

    int r = manifest_decode(text, strlen(text), &read, &err);
    if (r != result)
        fail_msg("%s -> %s: %d, %s", from, to, r, err.message);
    if (r == 0)
        return;
    assert_int_equal(read.space_count, 42);
    assert_true(strncmp(err.message, "manifest: ", 10) == 0);
    if (r == -EPROTONOSUPPORT)
        assert_true(err.hint[0] != '\0');
}

static void wrong_types_and_ranges_are_refused(void **state)
{
    static const char *const edits[][2] = {
        {"\"vcpus\":2", "\"vcpus\":0"},
        {"\"vcpus\":2", "\"vcpus\":17"},
        {"\"vcpus\":2", "\"vcpus\":-1"},
        {"\"vcpus\":2", "\"vcpus\":4294967298"},
        {"\"vcpus\":2", "\"vcpus\":2.0"},
        {"\"vcpus\":2", "\"vcpus\":\"2\""},
        {"\"vcpus\":2", "\"vcpus\":99999999999999999999"},
        {",\"vcpus\":2", ""},
        {"\"memory_bytes\":268435456", "\"memory_bytes\":268435457"},
        {"\"memory_bytes\":268435456", "\"memory_bytes\":9223372036854775807"},
        {"\"rng\":true", "\"rng\":1"},
        {"\"read_only\":false", "\"read_only\":null"},
        {"{\"read_only\":false}", "[]"},
        {"\"cmdline\":\"", "\"cmdline\":\"\\u0000"},
        {"\"cmdline\":\"", "\"cmdline\":\"\\n"},
        {"\"kind\":\"warm\"", "\"kind\":\"cold\""},
        {"\"kind\":\"warm\"", "\"kind\":\"hot\""},
        {"2026-01-31", "2026-13-31"},
        {"2026-01-31", "1969-01-31"},
        {"12:34:56.123456Z", "12:34:56Z"},
        {"\"schema\":1", "\"schema\":0"},
        {"\"schema\":1", "\"schema\":\"1\""},
        {",\"schema\":1", ""},
        {"sha256:", "sha512:"},
        {"sha256:", "SHA256:"},
        {"sha256:e4", "sha256:4"},
        {"\"disk1\"", "\"disk9\""},
        {"\"disk1\"", "\"disk0\""},
        {"\"disk1\"", "\"Disk1\""},
        {"\"disk1\"", "\"a/../../x\""},
        {"\"size_bytes\":512", "\"size_bytes\":511"},
        {"\"size_bytes\":512", "\"size_bytes\":18014398509482496"},
        {"\"size_bytes\":12345", "\"size_bytes\":0"},
        {"\"size_bytes\":12345", "\"size_bytes\":67108865"},
        {"\"compat\":[],", ""},
        {"\"incompat\":[],", ""},
        {"\"incompat\":[]", "\"incompat\":{}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
        expect(sample_warm, edits[i][0], edits[i][1], -EBADMSG);
}

static void network_cards_have_addresses_of_stations(void **state)
{
    static const char mac[] = "\"52:54:00:12:34:56\"";
    static const char *const edits[] = {
        "\"53:54:00:12:34:56\"",
        "\"00:00:00:00:00:00\"",
        "\"ff:ff:ff:ff:ff:ff\"",
        "\"52:54:00:12:34\"",
        "\"52:54:0:12:34:56\"",
        "\"52:54:00:12:34:56:78\"",
        "\"52:54:00:12:34:5g\"",
        "\"5C:54:00:12:34:56\"",
        "\" 2:54:00:12:34:56\"",
        "\"52-54-00-12-34-56\"",
        "\"\"",
        "7",
        "null",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
        expect(sample_net, mac, edits[i], -EBADMSG);
    expect(sample_net, "\"net\":[{", "\"net\":[[],{", -EBADMSG);
    expect(sample_cold, "\"rng\"", "\"net\":[],\"rng\"", -EBADMSG);
    expect(sample_cold, "\"rng\"", "\"net\":null,\"rng\"", -EBADMSG);
}

static void sockets_are_there_or_not_spoken_of(void **state)
{
    static const char *const edits[] = {"false", "null", "1", "\"true\"", "{}"};

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        char edit[32];
        snprintf(edit, sizeof(edit), "\"vsock\":%s", edits[i]);
        expect(sample_vsock, "\"vsock\":true", edit, -EBADMSG);
    }
}

static void a_balloon_is_there_or_not_spoken_of(void **state)
{
    (void)state;
    expect(sample_cpu, "\"balloon\":true", "\"balloon\":false", -EBADMSG);
    expect(sample_cpu, "\"balloon\":true", "\"balloon\":1", -EBADMSG);
}

static void only_known_cpu_baselines_are_accepted(void **state)
{
    static const char *const edits[] = {"\"host\"", "\"v9\"", "\"\"", "2", "null", "[\"v2\"]"};

    (void)state;
    expect(sample_cpu, "\"cpu\":\"v2\"", "\"cpu\":\"v3\"", 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
        expect(sample_cpu, "\"v2\"", edits[i], -EBADMSG);
}

static void cpu_features_are_names(void **state)
{
    static const char *const edits[] = {
        "\"\"",        "\"a b\"",   "\"A\"",
        "\"\\u0000\"", "7",         "[\"cx16\"]",
        "null",        "\"cx16/\"", "\"abcdefghijklmnopqrstuvwxyz0123456\""};

    (void)state;
    expect(sample_cpu, "\"cx16\"", "\"nosuchfeature\"", 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
        expect(sample_cpu, "\"cx16\"", edits[i], -EBADMSG);
    expect(sample_warm, "\"created\"", "\"cpu_features\":[],\"created\"", -EBADMSG);
    expect(sample_warm, "\"created\"", "\"cpu_features\":[\"avx\"],\"created\"", 0);
    expect(sample_cold, "\"created\"", "\"cpu_features\":[\"avx\"],\"created\"", -EBADMSG);
}

static void only_the_canonical_spelling_is_accepted(void **state)
{
    static const char *const edits[][2] = {
        {"{\"compat\":[],", "{ \"compat\":[],"},
        {"\"kind\":\"warm\"", "\"kind\":\"w\\u0061rm\""},
        {"{\"compat\":[],", "{\"compat\":[],\"compat\":[],"},
        {"{\"compat\":[],\"config\"", "{\"config\""},
        {"sha256:e471", "sha256:E471"},
        {"\"disk1\":{\"root\"", "\"disk1\":{\"a\":1,\"root\""},
        {"\"rng\":true,", "\"rng\":true,\"sound\":true,"},
        {"\"kind\":\"warm\"", "\"kind\":\"warm\",\"name\":\"x\""},
        {"\"vcpus\":2}", "\"vcpus\":2}\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
        expect(sample_warm, edits[i][0], edits[i][1], -EBADMSG);
}

static void newer_manifests_are_told_from_broken_ones(void **state)
{
    (void)state;
    expect(sample_cold, "\"schema\":1", "\"schema\":2", -EPROTONOSUPPORT);
    expect(sample_cold, "\"incompat\":[]", "\"incompat\":[\"tpm\"]", -EPROTONOSUPPORT);
    expect(sample_cold, "\"incompat\":[]", "\"incompat\":[\"\\u001b[2J\"]", -EPROTONOSUPPORT);
}

static void compatible_additions_are_skipped(void **state)
{
    (void)state;
    expect(sample_cold, "\"compat\":[]", "\"aaa\":{\"b\":[1]},\"compat\":[\"aaa\"]", 0);
    expect(sample_cold, "\"compat\":[],\"config\":{",
           "\"compat\":[\"aaa\"],\"config\":{\"audio\":true,", 0);
    expect(sample_cold, "\"compat\":[]", "\"compat\":[\"aaa\"] ", -EBADMSG);
}

static void names_of_features_cannot_drive_a_terminal(void **state)
{
    _cleanup_free_ char *text =
        edited(sample_cold, "\"incompat\":[]", "\"incompat\":[\"\\u001b[2J\"]");
    struct manifest read;
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(manifest_decode(text, strlen(text), &read, &err), -EPROTONOSUPPORT);
    assert_null(strchr(err.message, '\033'));
}

static void a_text_cut_anywhere_is_refused(void **state)
{
    _cleanup_free_ char *text = NULL;
    struct manifest m;
    struct manifest read;
    size_t length;

    (void)state;
    sample_warm(&m);
    assert_int_equal(manifest_encode(&m, &text, &length), 0);
    for (size_t cut = 0; cut < length; cut++)
        assert_int_equal(manifest_decode(text, cut, &read, NULL), -EBADMSG);
    assert_int_equal(manifest_decode(text, length + 1, &read, NULL), -EBADMSG);
}

static void endless_texts_are_not_parsed(void **state)
{
    _cleanup_free_ char *text = malloc(MANIFEST_MAX_SIZE + 1);
    struct manifest read;
    struct error err = ERROR_INIT;

    (void)state;
    memset(text, '[', MANIFEST_MAX_SIZE + 1);
    assert_int_equal(manifest_decode(text, MANIFEST_MAX_SIZE + 1, &read, &err), -EBADMSG);
    assert_int_equal(manifest_decode(text, MANIFEST_MAX_SIZE, &read, &err), -EBADMSG);
    assert_int_equal(manifest_decode("[]", 2, &read, &err), -EBADMSG);
}

static void a_config_travels_alone(void **state)
{
    struct manifest m;
    struct machine_config read;

    (void)state;
    sample_warm(&m);
    _cleanup_json_ json_t *json = machine_config_to_json(&m.config);
    assert_non_null(json);
    assert_int_equal(machine_config_from_json(json, &read, NULL), 0);
    assert_memory_equal(&read, &m.config, sizeof(read));
    json_object_set_new(json, "vcpus", json_integer(0));
    assert_int_equal(machine_config_from_json(json, &read, NULL), -EBADMSG);
    assert_int_equal(machine_config_from_json(NULL, &read, NULL), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifests_read_back),
        cmocka_unit_test(the_largest_manifest_reads_back),
        cmocka_unit_test(the_order_of_spaces_does_not_change_the_id),
        cmocka_unit_test(nothing_is_encoded_that_could_not_be_decoded),
        cmocka_unit_test(a_command_line_must_be_utf8),
        cmocka_unit_test(wrong_types_and_ranges_are_refused),
        cmocka_unit_test(network_cards_have_addresses_of_stations),
        cmocka_unit_test(sockets_are_there_or_not_spoken_of),
        cmocka_unit_test(a_balloon_is_there_or_not_spoken_of),
        cmocka_unit_test(only_known_cpu_baselines_are_accepted),
        cmocka_unit_test(cpu_features_are_names),
        cmocka_unit_test(only_the_canonical_spelling_is_accepted),
        cmocka_unit_test(newer_manifests_are_told_from_broken_ones),
        cmocka_unit_test(compatible_additions_are_skipped),
        cmocka_unit_test(names_of_features_cannot_drive_a_terminal),
        cmocka_unit_test(a_text_cut_anywhere_is_refused),
        cmocka_unit_test(endless_texts_are_not_parsed),
        cmocka_unit_test(a_config_travels_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
