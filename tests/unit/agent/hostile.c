/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that are no agent, and hosts that are none: clear errors, no waiting. */
#include "fixture.h"

#include "agent/tree.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "cli/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Until silence counts as such, and until a busy machine has come to answer. */
enum { SHORT_MS = 200, LONG_MS = 120000 };

/* ---- who answers at a machine's socket ---- */

/* Accepts one connection, sends its bytes, and holds it until the other end closes. */
struct peer {
    int listener;
    const void *bytes;
    size_t length;
    bool hang_up;
    bool flood;
    pthread_t thread;
};

static void *peer_main(void *context)
{
    struct peer *peer = context;
    static uint8_t junk[64 << 10];
    _cleanup_close_ int fd = accept(peer->listener, NULL, NULL);

    memset(junk, 0xa5, sizeof(junk));
    if (fd < 0)
        return NULL;
    if (!peer->hang_up && peer->length > 0)
        send(fd, peer->bytes, peer->length, MSG_NOSIGNAL);
    while (peer->flood && send(fd, junk, sizeof(junk), MSG_NOSIGNAL) > 0)
        ;
    while (!peer->hang_up && recv(fd, junk, sizeof(junk), 0) > 0)
        ;
    return NULL;
}

static void peer_start(const struct fixture *f, struct peer *peer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->socket);
    unlink(f->socket);
    peer->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(peer->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(peer->listener, 1), 0);
    assert_int_equal(pthread_create(&peer->thread, NULL, peer_main, peer), 0);
}

static int connect_to(const struct fixture *f, struct peer *peer, int deadline_ms,
                      struct error *err)
{
    struct channel ch;

    peer_start(f, peer);
    int r = agent_connect(f->socket, deadline_ms, &ch, err);
    if (r == 0)
        channel_clear(&ch);
    pthread_join(peer->thread, NULL);
    close(peer->listener);
    return r;
}

static void hello_frame(uint16_t protocol, struct buffer *out)
{
    const struct agent_hello hello = {.protocol = protocol, .version = "9.9"};
    _cleanup_(buffer_clear) struct buffer payload = {0};

    assert_int_equal(agent_hello_encode(&hello, &payload), 0);
    fixture_frame(out, AGENT_HELLO, payload.data, payload.length);
}

static void an_agent_is_greeted(void **state)
{
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct error err = ERROR_INIT;

    assert_int_equal(buffer_append(&bytes, "OK 49152\n", 9), 0);
    hello_frame(AGENT_PROTOCOL, &bytes);
    struct peer peer = {.bytes = bytes.data, .length = bytes.length};
    assert_int_equal(connect_to(*state, &peer, LONG_MS, &err), 0);
}

static void no_socket_means_no_device(void **state)
{
    const struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct channel ch;

    unlink(f->socket);
    assert_int_equal(agent_connect(f->socket, SHORT_MS, &ch, &err), -ENOENT);
    assert_non_null(strstr(err.message, "no vsock device"));
}

static void an_end_means_that_nobody_listens(void **state)
{
    struct peer peer = {.hang_up = true};
    struct error err = ERROR_INIT;

    assert_int_equal(connect_to(*state, &peer, LONG_MS, &err), -ECONNREFUSED);
    assert_non_null(strstr(err.message, "runs no agent"));
}

static void silence_ends_in_time(void **state)
{
    static const char *const beginnings[] = {"", "OK", "OK 1\n", "OK 1\n\x10\0\0"};
    const uint64_t begin = clock_monotonic_ns();

    for (size_t i = 0; i < ARRAY_LEN(beginnings); i++) {
        struct peer peer = {.bytes = beginnings[i], .length = strlen(beginnings[i])};
        struct error err = ERROR_INIT;
        assert_int_equal(connect_to(*state, &peer, SHORT_MS, &err), -ETIMEDOUT);
        assert_non_null(strstr(err.message, "does not answer"));
    }
    assert_in_range((clock_monotonic_ns() - begin) / 1000000, 4 * SHORT_MS, 30000);
}

static void garbage_is_told(void **state)
{
    static const char garbage[] = "OK 1\nHTTP/1.1 400 Bad Request\r\n\r\n and more of it";
    static const char endless[] = "OK 111111111111111111111111111111111111111111";
    struct peer peers[] = {
        {.bytes = garbage, .length = sizeof(garbage)},
        {.bytes = endless, .length = sizeof(endless)},
        {.bytes = "OK 1\n", .length = 5, .flood = true},
    };

    for (size_t i = 0; i < ARRAY_LEN(peers); i++) {
        struct error err = ERROR_INIT;
        assert_int_equal(connect_to(*state, &peers[i], LONG_MS, &err), -EBADMSG);
        assert_non_null(strstr(err.message, "none of an agent"));
    }
}

static void another_protocol_is_told(void **state)
{
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct error err = ERROR_INIT;

    assert_int_equal(buffer_append(&bytes, "OK 1\n", 5), 0);
    hello_frame(7, &bytes);
    struct peer peer = {.bytes = bytes.data, .length = bytes.length};
    assert_int_equal(connect_to(*state, &peer, LONG_MS, &err), -EPROTO);
    assert_non_null(strstr(err.message, "protocol 7"));
    assert_true(err.hint[0] != '\0');
}

/* ---- an agent's answers to exec ---- */

/* Plays an agent that sends these bytes and then closes its side. */
static int exec_against(const struct buffer *bytes, int *code_out, struct error *err)
{
    static const char *nothing[] = {NULL};
    const struct agent_exec request = {.flags = AGENT_EXEC_INPUT,
                                       .argv = nothing,
                                       .environment = nothing,
                                       .directory = "",
                                       .user = ""};
    _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const struct exec_streams streams = {.in = null, .out = null, .err = null, .escape = -1};
    struct channel ch;
    int fds[2];

    fixture_pair(fds);
    if (bytes->length > 0)
        assert_int_equal(io_write_full(fds[1], bytes->data, bytes->length), 0);
    shutdown(fds[1], SHUT_WR);
    channel_init(&ch, fds[0], SHORT_MS);
    int r = exec_run(&ch, &request, &streams, code_out, err);
    channel_clear(&ch);
    close(fds[1]);
    return r;
}

static void a_lost_connection_is_no_exit_code(void **state)
{
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct error err = ERROR_INIT;
    int code = -1;

    (void)state;
    assert_int_equal(exec_against(&bytes, &code, &err), -ECONNRESET);
    assert_int_equal(err.status, STATUS_EXEC_FAILED);
    assert_int_equal(code, -1);
    fixture_frame(&bytes, AGENT_OUTPUT, "some output", 11);
    assert_int_equal(exec_against(&bytes, &code, &err), -ECONNRESET);
}

static void assert_nonsense(uint16_t type, const void *payload, size_t length)
{
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct error err = ERROR_INIT;
    int code = -1;

    fixture_frame(&bytes, type, payload, length);
    assert_int_equal(exec_against(&bytes, &code, &err), -EBADMSG);
    assert_int_equal(err.status, STATUS_EXEC_FAILED);
    assert_int_equal(code, -1);
}

static void answers_that_cannot_be_are_refused(void **state)
{
    static const uint8_t code_256[8] = {0, 0, 0, 0, 0, 1};
    static const uint8_t signal_65[8] = {1, 0, 0, 0, 65};
    static const uint8_t kind_2[8] = {2};
    static const uint8_t taken[4] = {1};

    (void)state;
    assert_nonsense(0, NULL, 0);
    assert_nonsense(999, NULL, 0);
    assert_nonsense(AGENT_EXIT, NULL, 0);
    assert_nonsense(AGENT_EXIT, code_256, 8);
    assert_nonsense(AGENT_EXIT, signal_65, 8);
    assert_nonsense(AGENT_EXIT, kind_2, 8);
    assert_nonsense(AGENT_ERROR, "x", 1);
    assert_nonsense(AGENT_INPUT_TAKEN, taken, 4); /* more than was given */
    assert_nonsense(AGENT_HELLO, NULL, 0);
}

static void output_and_code_are_believed(void **state)
{
    static const uint8_t end[8] = {0, 0, 0, 0, 9};
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct error err = ERROR_INIT;
    int code = -1;

    (void)state;
    fixture_frame(&bytes, AGENT_OUTPUT, "out", 3);
    fixture_frame(&bytes, AGENT_OUTPUT, NULL, 0);
    fixture_frame(&bytes, AGENT_EXIT, end, 8);
    assert_int_equal(exec_against(&bytes, &code, &err), 0);
    assert_int_equal(code, 9);
}

/* ---- an agent's files ---- */

static const struct tree_options plain = {.mode_mask = 0777};

struct entry_spec {
    uint16_t type;
    const char *name, *target;
};

static void add_entry(struct buffer *out, const struct entry_spec *spec)
{
    const struct agent_entry entry = {
        .mode = 0755, .size_bytes = 10, .name = spec->name, .target = spec->target};
    _cleanup_(buffer_clear) struct buffer payload = {0};

    assert_int_equal(agent_entry_encode(&entry, &payload), 0);
    fixture_frame(out, spec->type, payload.data, payload.length);
}

/* Receives into DIR/box what an agent like this sends that was asked for a path. */
static int receive_asked(const struct fixture *f, const struct buffer *bytes, const char *asked,
                         struct error *err)
{
    struct tree_options options = plain;
    _cleanup_free_ char *box = fixture_path(f, "box");
    struct channel ch;
    int fds[2];

    io_remove_tree(box);
    assert_int_equal(mkdir(box, 0755), 0);
    fixture_pair(fds);
    assert_int_equal(io_write_full(fds[1], bytes->data, bytes->length), 0);
    shutdown(fds[1], SHUT_WR);
    channel_init(&ch, fds[0], SHORT_MS);
    options.asked = asked;
    int r = tree_receive(&ch, box, &options, err);
    channel_clear(&ch);
    close(fds[1]);
    return r;
}

static int receive(const struct fixture *f, const struct buffer *bytes, struct error *err)
{
    return receive_asked(f, bytes, NULL, err);
}

static void names_cannot_lead_out(void **state)
{
    static const char *const names[] = {"..", "../escaped", "/tmp/escaped", "a/b", ""};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        _cleanup_(buffer_clear) struct buffer bytes = {0};
        struct error err = ERROR_INIT;
        add_entry(&bytes, &(struct entry_spec){AGENT_FILE, names[i], NULL});
        assert_int_equal(receive(*state, &bytes, &err), -EBADMSG);
    }
}

/* Whoever copies a report into his home does not want a .bashrc there. */
static void only_what_was_asked_for_comes(void **state)
{
    static const struct {
        const char *asked, *sent;
        bool good;
    } cases[] = {
        {"/etc/hosts", "hosts", true}, {"hosts", "hosts", true},   {"/var/log//", "log", true},
        {"/etc/hosts", ".ssh", false}, {"/etc/hosts", ".", false}, {"/etc/.", ".", true},
        {"/etc/.", "etc", false},      {"/", ".", true},           {"..", ".", true},
        {"/etc/hosts", "etc", false},  {".", ".bashrc", false},    {"", ".", true},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(buffer_clear) struct buffer bytes = {0};
        struct error err = ERROR_INIT;
        add_entry(&bytes, &(struct entry_spec){AGENT_DIRECTORY, cases[i].sent, NULL});
        fixture_frame(&bytes, AGENT_DIRECTORY_END, NULL, 0);
        fixture_frame(&bytes, AGENT_TREE_END, NULL, 0);
        const int r = receive_asked(*state, &bytes, cases[i].asked, &err);
        if (r != (cases[i].good ? 0 : -EBADMSG))
            fail_msg("%s for %s: %d %s", cases[i].sent, cases[i].asked, r, err.message);
    }
}

static void a_link_that_was_sent_is_not_entered(void **state)
{
    const struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    _cleanup_free_ char *escaped = fixture_path(f, "escaped");
    struct error err = ERROR_INIT;
    struct stat st;

    add_entry(&bytes, &(struct entry_spec){AGENT_DIRECTORY, "top", NULL});
    add_entry(&bytes, &(struct entry_spec){AGENT_LINK, "d", f->dir});
    add_entry(&bytes, &(struct entry_spec){AGENT_DIRECTORY, "d", NULL});
    add_entry(&bytes, &(struct entry_spec){AGENT_FILE, "escaped", NULL});
    fixture_frame(&bytes, AGENT_FILE_END, "\0\0\0\0\0\0\0\0", 8);
    assert_true(receive(f, &bytes, &err) < 0);
    assert_true(lstat(escaped, &st) < 0);
}

static void a_link_that_was_sent_is_not_written_through(void **state)
{
    const struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    _cleanup_free_ char *victim = fixture_path(f, "victim");
    struct error err = ERROR_INIT;

    fixture_write(f, "victim", "whole", 5);
    add_entry(&bytes, &(struct entry_spec){AGENT_DIRECTORY, "top", NULL});
    add_entry(&bytes, &(struct entry_spec){AGENT_LINK, "file", victim});
    add_entry(&bytes, &(struct entry_spec){AGENT_FILE, "file", NULL});
    fixture_frame(&bytes, AGENT_FILE_END, "\0\0\0\0\0\0\0\0", 8);
    fixture_frame(&bytes, AGENT_DIRECTORY_END, NULL, 0);
    fixture_frame(&bytes, AGENT_TREE_END, NULL, 0);
    assert_int_equal(receive(f, &bytes, &err), 0);
    _cleanup_free_ char *content = fixture_read(f, "victim");
    assert_string_equal(content, "whole");
}

static void assert_refused(const struct fixture *f, const struct buffer *bytes)
{
    struct error err = ERROR_INIT;

    assert_int_equal(receive(f, bytes, &err), -EBADMSG);
}

static void frames_out_of_order_are_refused(void **state)
{
    static const uint16_t alone[] = {AGENT_FILE_END, AGENT_DIRECTORY_END, AGENT_TREE_END,
                                     AGENT_DATA,     AGENT_EXIT,          4711};

    for (size_t i = 0; i < ARRAY_LEN(alone); i++) {
        _cleanup_(buffer_clear) struct buffer bytes = {0};
        fixture_frame(&bytes, alone[i], "\0\0\0\0\0\0\0\0", 8);
        assert_refused(*state, &bytes);
    }
    _cleanup_(buffer_clear) struct buffer twice = {0};
    add_entry(&twice, &(struct entry_spec){AGENT_FILE, "a", NULL});
    add_entry(&twice, &(struct entry_spec){AGENT_FILE, "b", NULL});
    assert_refused(*state, &twice);
    _cleanup_(buffer_clear) struct buffer second = {0};
    add_entry(&second, &(struct entry_spec){AGENT_FILE, "a", NULL});
    fixture_frame(&second, AGENT_FILE_END, "\0\0\0\0\0\0\0\0", 8);
    add_entry(&second, &(struct entry_spec){AGENT_FILE, "b", NULL}); /* one only was asked for */
    assert_refused(*state, &second);
}

static void a_file_is_no_longer_than_it_said(void **state)
{
    static const char *const data[] = {
        "\0\0\0\0\0\0\0\0more than ten",            /* beyond the end */
        "\x0b\0\0\0\0\0\0\0x",                      /* begins there */
        "\xff\xff\xff\xff\xff\xff\xff\xffoverflow", /* beyond all */
    };
    static const size_t lengths[] = {8 + 13, 8 + 1, 8 + 8};

    for (size_t i = 0; i < ARRAY_LEN(data); i++) {
        _cleanup_(buffer_clear) struct buffer bytes = {0};
        add_entry(&bytes, &(struct entry_spec){AGENT_FILE, "a", NULL});
        fixture_frame(&bytes, AGENT_DATA, data[i], lengths[i]);
        assert_refused(*state, &bytes);
    }
}

static void directories_are_not_endlessly_deep(void **state)
{
    _cleanup_(buffer_clear) struct buffer bytes = {0};
    struct error err = ERROR_INIT;

    for (unsigned i = 0; i < TREE_DEPTH_MAX + 1; i++)
        add_entry(&bytes, &(struct entry_spec){AGENT_DIRECTORY, "d", NULL});
    assert_int_equal(receive(*state, &bytes, &err), -ELOOP);
}

/* ---- a host that is none ---- */

static void the_agent_survives_what_is_no_request(void **state)
{
    struct fixture *f = *state;
    static const uint16_t types[] = {0, AGENT_HELLO, AGENT_INPUT, 999, 0xffff};
    struct frame frame;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct channel ch;
        fixture_connect(f, &ch);
        assert_int_equal(channel_send(&ch, types[i], "junk", 4), 0);
        assert_int_equal(channel_receive(&ch, &frame), 0);
        assert_int_equal(frame.type, AGENT_ERROR);
        channel_clear(&ch);
    }
    struct channel ch;
    fixture_connect(f, &ch);
    assert_int_equal(send(ch.fd, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, MSG_NOSIGNAL), 8);
    assert_int_equal(channel_receive(&ch, &frame), 0);
    assert_int_equal(frame.type, AGENT_ERROR);
    channel_clear(&ch);
}

static void requests_that_cannot_be_read_are_told(void **state)
{
    static const uint16_t types[] = {AGENT_EXEC, AGENT_COPY_IN, AGENT_COPY_OUT, AGENT_SHUTDOWN,
                                     AGENT_IDENTITY};
    struct frame frame;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct channel ch;
        fixture_connect(*state, &ch);
        assert_int_equal(channel_send(&ch, types[i], "\xff\xff\xff\xff\xff", 5), 0);
        assert_int_equal(channel_receive(&ch, &frame), 0);
        assert_int_equal(frame.type, AGENT_ERROR);
        channel_clear(&ch);
    }
}

static void input_beyond_the_window_ends_the_command(void **state)
{
    static const uint8_t chunk[32 << 10];
    const char *argv[] = {"sleep", "600", NULL};
    const char *nothing[] = {NULL};
    const struct agent_exec request = {.flags = AGENT_EXEC_INPUT,
                                       .argv = argv,
                                       .environment = nothing,
                                       .directory = "",
                                       .user = ""};
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct channel ch;
    struct frame frame;

    fixture_connect(*state, &ch);
    assert_int_equal(agent_exec_encode(&request, &payload), 0);
    assert_int_equal(channel_send(&ch, AGENT_EXEC, payload.data, payload.length), 0);
    /* 64 KiB of it fit into the pipe. */
    for (int i = 0; i < 12; i++)
        assert_int_equal(channel_send(&ch, AGENT_INPUT, chunk, sizeof(chunk)), 0);
    do
        assert_int_equal(channel_receive(&ch, &frame), 0);
    while (frame.type == AGENT_INPUT_TAKEN);
    assert_int_equal(frame.type, AGENT_ERROR);
    channel_clear(&ch);
}

int main(void)
{
    const struct CMUnitTest peers[] = {
        cmocka_unit_test(an_agent_is_greeted),
        cmocka_unit_test(no_socket_means_no_device),
        cmocka_unit_test(an_end_means_that_nobody_listens),
        cmocka_unit_test(silence_ends_in_time),
        cmocka_unit_test(garbage_is_told),
        cmocka_unit_test(another_protocol_is_told),
        cmocka_unit_test(a_lost_connection_is_no_exit_code),
        cmocka_unit_test(answers_that_cannot_be_are_refused),
        cmocka_unit_test(output_and_code_are_believed),
        cmocka_unit_test(names_cannot_lead_out),
        cmocka_unit_test(only_what_was_asked_for_comes),
        cmocka_unit_test(a_link_that_was_sent_is_not_entered),
        cmocka_unit_test(a_link_that_was_sent_is_not_written_through),
        cmocka_unit_test(frames_out_of_order_are_refused),
        cmocka_unit_test(a_file_is_no_longer_than_it_said),
        cmocka_unit_test(directories_are_not_endlessly_deep),
    };
    const struct CMUnitTest hosts[] = {
        cmocka_unit_test(the_agent_survives_what_is_no_request),
        cmocka_unit_test(requests_that_cannot_be_read_are_told),
        cmocka_unit_test(input_beyond_the_window_ends_the_command),
    };

    int failed = cmocka_run_group_tests(peers, fixture_directory, fixture_stop);
    return failed + cmocka_run_group_tests(hosts, fixture_start, fixture_stop);
}
