/* SPDX-License-Identifier: Apache-2.0 */
/* How a machine is connected: as text, and as a file. And the frames' queue. */
#include "tests/unit/vmm/store_fixture.h"

#include "base/bytes.h"
#include "base/io.h"
#include "vmm/net/frame_queue.h"
#include "vmm/net/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void forwards_are_read_and_written(void **state)
{
    static const char *const texts[][2] = {
        {"8080:80", "127.0.0.1:8080:80/tcp"},
        {"1:65535", "127.0.0.1:1:65535/tcp"},
        {"8080:80/tcp", "127.0.0.1:8080:80/tcp"},
        {"0.0.0.0:53:5353/udp", "0.0.0.0:53:5353/udp"},
        {"255.255.255.255:65535:65535/tcp", "255.255.255.255:65535:65535/tcp"},
    };
    char text[NET_FORWARD_TEXT_SIZE];
    struct net_forward forward;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_int_equal(net_forward_parse(texts[i][0], &forward, NULL), 0);
        assert_string_equal(net_forward_text(&forward, text), texts[i][1]);
    }
}

static void cards_have_the_machines_own_addresses(void **state)
{
    const struct net_settings none = {0};
    const struct net_settings own = {.has_mac = true, .mac = {2, 0, 0, 0, 0, 0xff}};
    struct machine_config config = {.net_count = 2, .nets = {{{2, 1}}, {{2, 2}}}};

    (void)state;
    net_settings_apply(&none, &config);
    assert_int_equal(config.nets[0].mac[1], 1);
    net_settings_apply(&own, &config);
    assert_memory_equal(config.nets[0].mac, own.mac, sizeof(own.mac));
    assert_int_equal(config.nets[1].mac[0], 2);
    assert_int_equal(config.nets[1].mac[5], 0);
}

static void made_up_addresses_are_of_single_stations(void **state)
{
    uint8_t a[MANIFEST_MAC_SIZE], b[MANIFEST_MAC_SIZE];

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        net_mac_make(a);
        net_mac_make(b);
        assert_int_equal(a[0] & 3, 2);
        assert_memory_not_equal(a, b, sizeof(a));
    }
}

static void addresses_are_kept_in_the_file(void **state)
{
    const struct net_settings settings = {.has_mac = true, .mac = {2, 3, 4, 5, 6, 7}};
    static const char *const wrong[] = {"{\"forwards\":[],\"mac\":7,\"mode\":\"user\"}",
                                        "{\"forwards\":[],\"mac\":\"\",\"mode\":\"user\"}",
                                        ("{\"forwards\":[],\"mac\":\"03:00:00:00:00:01\","
                                         "\"mode\":\"user\"}")};
    char dir[] = "/tmp/stasis-test-XXXXXX";
    struct net_settings read;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(net_settings_write(dir, &settings, NULL), 0);
    assert_int_equal(net_settings_read(dir, &read, NULL), 0);
    assert_true(read.has_mac);
    assert_memory_equal(read.mac, settings.mac, sizeof(read.mac));
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char path[64];
        snprintf(path, sizeof(path), "%s/net.json", dir);
        assert_int_equal(io_write_file(AT_FDCWD, path, wrong[i], strlen(wrong[i]), 0600), 0);
        assert_int_equal(net_settings_read(dir, &read, NULL), -EBADMSG);
    }
    io_remove_tree(dir);
}

static void what_is_no_forward_is_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "80",
                                        ":80",
                                        "80:",
                                        "80:80:80",
                                        "80:80/",
                                        "80:80/sctp",
                                        "80:80/tcp/udp",
                                        "0:80",
                                        "80:0",
                                        "65536:80",
                                        "80:99999999999999999999",
                                        "+80:80",
                                        "80:80 ",
                                        " 80:80",
                                        "127.0.0.1:80",
                                        "127.0.0:80:80",
                                        "localhost:80:80",
                                        ":80:80",
                                        "1.2.3.4:5:80:80",
                                        "1111111111111111111111111:80:80",
                                        "127.0.0.1:8080:80/tcptcptcptcptcptcptcptcptcptcp"};
    struct net_forward forward;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct error err = ERROR_INIT;
        assert_int_equal(net_forward_parse(texts[i], &forward, &err), -EINVAL);
        assert_int_equal(err.status, STATUS_USAGE);
        assert_true(err.hint[0] != '\0');
    }
}

static void names_of_tap_devices_are_checked(void **state)
{
    static const char *const wrong[] = {"",      ".",     "..",     "a/b",      "a:1",
                                        "tap%d", "two s", "line\n", "\xc3\xa4", "0123456789abcdef"};
    static const char *const right[] = {"t", "tap0", "vm-web.1", "0123456789abcde"};
    struct net_settings settings = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct error err = ERROR_INIT;
        assert_int_equal(net_settings_set_tap(&settings, wrong[i], &err), -EINVAL);
        assert_int_equal(err.status, STATUS_USAGE);
        assert_true(err.hint[0] != '\0');
        assert_int_equal(settings.mode, NET_MODE_USER);
    }
    for (size_t i = 0; i < ARRAY_LEN(right); i++) {
        assert_int_equal(net_settings_set_tap(&settings, right[i], NULL), 0);
        assert_int_equal(settings.mode, NET_MODE_TAP);
        assert_string_equal(settings.tap, right[i]);
    }
}

struct folder {
    char dir[40];
    char *path;
};

static int make_folder(void **state)
{
    struct folder *folder = calloc(1, sizeof(*folder));

    memcpy(folder->dir, "/tmp/stasis-test-net-XXXXXX", 28);
    if (mkdtemp(folder->dir) == NULL)
        return -1;
    folder->path = io_format("%s/net.json", folder->dir);
    *state = folder;
    return 0;
}

static int remove_folder(void **state)
{
    struct folder *folder = *state;

    io_remove_tree(folder->dir);
    free(folder->path);
    free(folder);
    return 0;
}

static void settings_are_kept(void **state)
{
    const struct folder *folder = *state;
    struct net_settings written = {0}, read;
    struct error err = ERROR_INIT;

    for (size_t i = 0; i < NET_FORWARDS_MAX; i++)
        written.forwards[written.forward_count++] =
            (struct net_forward){.udp = i % 2 != 0,
                                 .bind.s_addr = (in_addr_t)i * 77777,
                                 .host_port = (uint16_t)(i + 1),
                                 .guest_port = (uint16_t)(60000 + i)};
    must(net_settings_write(folder->dir, &written, &err), &err);
    must(net_settings_read(folder->dir, &read, &err), &err);
    assert_int_equal(read.mode, NET_MODE_USER);
    assert_int_equal(read.forward_count, NET_FORWARDS_MAX);
    for (size_t i = 0; i < NET_FORWARDS_MAX; i++) {
        char a[NET_FORWARD_TEXT_SIZE], b[NET_FORWARD_TEXT_SIZE];
        assert_string_equal(net_forward_text(&read.forwards[i], a),
                            net_forward_text(&written.forwards[i], b));
    }
    written = (struct net_settings){0};
    must(net_settings_set_tap(&written, "tap0", &err), &err);
    must(net_settings_write(folder->dir, &written, &err), &err);
    must(net_settings_read(folder->dir, &read, &err), &err);
    assert_int_equal(read.mode, NET_MODE_TAP);
    assert_string_equal(read.tap, "tap0");
    written = (struct net_settings){.mode = NET_MODE_NONE};
    must(net_settings_write(folder->dir, &written, &err), &err);
    must(net_settings_read(folder->dir, &read, &err), &err);
    assert_int_equal(read.mode, NET_MODE_NONE);
    assert_int_equal(read.forward_count, 0);
}

static void without_settings_there_is_a_network_and_nothing_is_forwarded(void **state)
{
    const struct folder *folder = *state;
    struct net_settings read = {.mode = NET_MODE_NONE, .forward_count = 3};

    assert_int_equal(net_settings_read(folder->dir, &read, NULL), 0);
    assert_int_equal(read.mode, NET_MODE_USER);
    assert_int_equal(read.forward_count, 0);
}

static void damaged_settings_are_told(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"mode\":\"tap\",\"forwards\":[]}",
        "{\"mode\":\"tap\",\"forwards\":[],\"tap\":7}",
        "{\"mode\":\"tap\",\"forwards\":[],\"tap\":\"a/b\"}",
        "{\"mode\":7,\"forwards\":[]}",
        "{\"mode\":\"user\",\"forwards\":[\"80\"]}",
        "{\"mode\":\"user\",\"forwards\":[80]}",
    };
    const struct folder *folder = *state;
    struct net_settings read;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct error err = ERROR_INIT;
        assert_int_equal(io_write_file(AT_FDCWD, folder->path, texts[i], strlen(texts[i]), 0600),
                         0);
        assert_int_equal(net_settings_read(folder->dir, &read, &err), -EBADMSG);
        assert_non_null(strstr(err.message, "net.json"));
    }
}

/* ---- frames ---- */

static bool put(struct frame_queue *queue, const uint8_t *bytes, size_t length)
{
    return frame_queue_put(queue, &(struct net_frame){.bytes = bytes, .length = length});
}

static void frames_leave_in_the_order_they_came(void **state)
{
    struct frame_queue queue;

    (void)state;
    frame_queue_init(&queue, 10000);
    for (unsigned round = 0; round < 3; round++) {
        for (uint8_t i = 0; i < 9; i++)
            assert_true(put(&queue, &i, i % 2));
        for (uint8_t i = 0; i < 9; i++) {
            struct frame *frame = frame_queue_take(&queue);
            assert_int_equal(frame->length, i % 2);
            if (frame->length > 0)
                assert_int_equal(frame->bytes[0], i);
            free(frame);
        }
        assert_null(frame_queue_take(&queue));
    }
    assert_int_equal(queue.memory_bytes, 0);
}

static void a_full_queue_takes_nothing(void **state)
{
    static const uint8_t bytes[FRAME_SIZE_MAX + 1];
    struct frame_queue queue;
    unsigned count = 0;

    (void)state;
    frame_queue_init(&queue, 3 * FRAME_SIZE_MAX);
    assert_false(put(&queue, bytes, sizeof(bytes)));
    while (put(&queue, bytes, FRAME_SIZE_MAX))
        count++;
    assert_int_equal(count, 2); /* what is kept beside a frame counts */
    while (put(&queue, bytes, 0))
        count++;
    assert_in_range(count, 100, 10000);
    free(frame_queue_take(&queue));
    assert_true(put(&queue, bytes, FRAME_SIZE_MAX));
    frame_queue_clear(&queue);
    assert_null(frame_queue_take(&queue));
    assert_int_equal(queue.memory_bytes, 0);
}

int main(void)
{
#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forwards_are_read_and_written),
        cmocka_unit_test(cards_have_the_machines_own_addresses),
        cmocka_unit_test(made_up_addresses_are_of_single_stations),
        cmocka_unit_test(addresses_are_kept_in_the_file),
        cmocka_unit_test(what_is_no_forward_is_refused),
        cmocka_unit_test(names_of_tap_devices_are_checked),
        FILE_TEST(settings_are_kept),
        FILE_TEST(without_settings_there_is_a_network_and_nothing_is_forwarded),
        FILE_TEST(damaged_settings_are_told),
        cmocka_unit_test(frames_leave_in_the_order_they_came),
        cmocka_unit_test(a_full_queue_takes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
