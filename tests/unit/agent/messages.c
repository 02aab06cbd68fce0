/* SPDX-License-Identifier: Apache-2.0 */
/* What frames hold: it comes back as it went, and nothing else is believed. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

static struct frame frame_of(const struct buffer *buf, uint16_t type)
{
    return (struct frame){.type = type, .payload = buf->data, .length = buf->length};
}

/* ---- as it went ---- */

static void a_command_comes_back(void **state)
{
    const char *argv[] = {"ls", "", "-l", NULL};
    const char *environment[] = {"A=b=c", "EMPTY=", NULL};
    const struct agent_exec sent = {
        .flags = AGENT_EXEC_TTY,
        .rows = 50,
        .columns = 132,
        .argv = argv,
        .environment = environment,
        .directory = "/tmp",
        .user = "me",
    };
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct agent_exec got;

    (void)state;
    assert_int_equal(agent_exec_encode(&sent, &payload), 0);
    const struct frame frame = frame_of(&payload, AGENT_EXEC);
    assert_int_equal(agent_exec_decode(&frame, &got), 0);
    assert_int_equal(got.rows, 50);
    assert_int_equal(got.columns, 132);
    assert_string_equal(got.argv[1], "");
    assert_string_equal(got.argv[2], "-l");
    assert_null(got.argv[3]);
    assert_string_equal(got.environment[0], "A=b=c");
    assert_null(got.environment[2]);
    assert_string_equal(got.directory, "/tmp");
    assert_string_equal(got.user, "me");
    agent_exec_clear(&got);
}

static void an_identity_comes_back(void **state)
{
    const uint8_t entropy[4] = {1, 2, 3, 4};
    const struct agent_identity sent = {
        .flags = AGENT_IDENTITY_CLOCK,
        .clock_s = 1700000000,
        .clock_ns = 999999999,
        .entropy = entropy,
        .entropy_length = sizeof(entropy),
        .host_name = "web-2",
        .machine_id = "0123456789abcdef0123456789abcdef",
    };
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct agent_identity got;

    (void)state;
    assert_int_equal(agent_identity_encode(&sent, &payload), 0);
    const struct frame frame = frame_of(&payload, AGENT_IDENTITY);
    assert_int_equal(agent_identity_decode(&frame, &got), 0);
    assert_int_equal(got.clock_s, 1700000000);
    assert_int_equal(got.clock_ns, 999999999);
    assert_memory_equal(got.entropy, entropy, 4);
    assert_string_equal(got.host_name, "web-2");
    assert_string_equal(got.machine_id, sent.machine_id);
}

static void a_file_comes_back(void **state)
{
    const struct agent_entry sent = {
        .mode = 04755, .mtime_s = -1, .mtime_ns = 5, .size_bytes = 1ull << 40, .name = "a b"};
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct agent_entry got;

    (void)state;
    assert_int_equal(agent_entry_encode(&sent, &payload), 0);
    const struct frame frame = frame_of(&payload, AGENT_FILE);
    assert_int_equal(agent_entry_decode(&frame, false, &got), 0);
    assert_int_equal(got.mode, 04755);
    assert_int_equal(got.mtime_s, -1);
    assert_int_equal(got.size_bytes, 1ull << 40);
    assert_string_equal(got.name, "a b");
    assert_string_equal(got.target, "");
}

/* ---- and nothing else ---- */

static void what_is_cut_off_or_too_long_is_refused(void **state)
{
    const char *argv[] = {"ls", "-l", NULL};
    const char *environment[] = {"A=b", NULL};
    const struct agent_exec sent = {
        .argv = argv, .environment = environment, .directory = "/tmp", .user = "me"};
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct agent_exec got;

    (void)state;
    assert_int_equal(agent_exec_encode(&sent, &payload), 0);
    struct frame frame = frame_of(&payload, AGENT_EXEC);
    for (frame.length = 0; frame.length < payload.length; frame.length++) {
        /* In memory of its own, so that a sanitizer sees a read behind it. */
        uint8_t *copy = malloc(frame.length + 1);
        memcpy(copy, payload.data, frame.length);
        const struct frame cut = {.type = AGENT_EXEC, .payload = copy, .length = frame.length};
        assert_int_equal(agent_exec_decode(&cut, &got), -EBADMSG);
        free(copy);
    }
    assert_int_equal(buffer_append_u8(&payload, 0), 0);
    frame = frame_of(&payload, AGENT_EXEC);
    assert_int_equal(agent_exec_decode(&frame, &got), -EBADMSG);
}

static void counts_beyond_the_payload_are_refused(void **state)
{
    uint8_t payload[12] = {0};
    const struct frame frame = {.type = AGENT_EXEC, .payload = payload, .length = sizeof(payload)};
    struct agent_exec got;

    (void)state;
    store_le32(payload + 8, UINT32_MAX);
    assert_int_equal(agent_exec_decode(&frame, &got), -EBADMSG);
}

static int decode_name(const char *name, uint16_t type, const char *target, bool first)
{
    const struct agent_entry sent = {.mode = 0644, .name = name, .target = target};
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct agent_entry got;

    assert_int_equal(agent_entry_encode(&sent, &payload), 0);
    const struct frame frame = frame_of(&payload, type);
    return agent_entry_decode(&frame, first, &got);
}

static void names_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const bad[] = {"", "..", "a/b", "/", "/etc", "../x", "./x"};
    char longest[258];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(decode_name(bad[i], AGENT_FILE, NULL, true), -EBADMSG);
    memset(longest, 'x', sizeof(longest));
    longest[256] = '\0';
    assert_int_equal(decode_name(longest, AGENT_FILE, NULL, false), -EBADMSG);
    longest[255] = '\0';
    assert_int_equal(decode_name(longest, AGENT_FILE, NULL, false), 0);
    assert_int_equal(decode_name(".", AGENT_DIRECTORY, NULL, true), 0);
    assert_int_equal(decode_name(".", AGENT_DIRECTORY, NULL, false), -EBADMSG);
    assert_int_equal(decode_name("...", AGENT_FILE, NULL, false), 0);
}

static void only_links_have_targets(void **state)
{
    (void)state;
    assert_int_equal(decode_name("x", AGENT_LINK, "/etc", false), 0);
    assert_int_equal(decode_name("x", AGENT_LINK, NULL, false), -EBADMSG);
    assert_int_equal(decode_name("x", AGENT_FILE, "/etc", false), -EBADMSG);
}

static void a_host_name_cannot_be_a_line_of_a_file(void **state)
{
    static const char *const bad[] = {"a b", "a\nb", "a/b", "\x80"};
    struct agent_identity got;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_(buffer_clear) struct buffer payload = {0};
        const struct agent_identity sent = {.host_name = bad[i], .machine_id = ""};
        assert_int_equal(agent_identity_encode(&sent, &payload), 0);
        const struct frame frame = frame_of(&payload, AGENT_IDENTITY);
        assert_int_equal(agent_identity_decode(&frame, &got), -EBADMSG);
    }
}

/* ---- frames ---- */

static void a_frame_that_is_too_long_is_none(void **state)
{
    struct channel ch = {.fd = -1};
    struct frame frame;

    (void)state;
    assert_int_equal(buffer_append_le32(&ch.in, AGENT_FRAME_MAX + 1), 0);
    assert_int_equal(buffer_append_le32(&ch.in, AGENT_HELLO), 0);
    assert_int_equal(channel_next(&ch, &frame), -EBADMSG);
    channel_clear(&ch);
}

static void a_frame_in_pieces_is_put_together(void **state)
{
    struct channel ch = {.fd = -1};
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct frame frame;

    (void)state;
    fixture_frame(&bytes, AGENT_OUTPUT, "hello", 5);
    for (size_t i = 0; i < bytes.length; i++) {
        assert_int_equal(channel_next(&ch, &frame), 0);
        assert_int_equal(buffer_append_u8(&ch.in, bytes.data[i]), 0);
    }
    assert_int_equal(channel_next(&ch, &frame), 1);
    assert_int_equal(frame.type, AGENT_OUTPUT);
    assert_int_equal(frame.length, 5);
    assert_memory_equal(frame.payload, "hello", 5);
    assert_int_equal(channel_next(&ch, &frame), 0);
    channel_clear(&ch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_comes_back),
        cmocka_unit_test(an_identity_comes_back),
        cmocka_unit_test(a_file_comes_back),
        cmocka_unit_test(what_is_cut_off_or_too_long_is_refused),
        cmocka_unit_test(counts_beyond_the_payload_are_refused),
        cmocka_unit_test(names_that_lead_elsewhere_are_refused),
        cmocka_unit_test(only_links_have_targets),
        cmocka_unit_test(a_host_name_cannot_be_a_line_of_a_file),
        cmocka_unit_test(a_frame_that_is_too_long_is_none),
        cmocka_unit_test(a_frame_in_pieces_is_put_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
