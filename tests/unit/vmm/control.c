/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket against its clients; there is no machine behind it. */
#include "tests/unit/vmm/store_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/control/client.h"
#include "vmm/process/process.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Far more than a reply, far less than memory. */
#define PATIENCE_BYTES (8u << 20)

struct server {
    char *dir;
    struct process p;
};

static int set_up(void **state)
{
    struct server *server = calloc(1, sizeof(*server));
    struct process *p = &server->p;
    char template[] = "/tmp/stasis-test-control-XXXXXX";
    struct error err = ERROR_INIT;

    if (mkdtemp(template) == NULL)
        return -1;
    server->dir = strdup(template);
    p->socket_path = io_format("%s/socket", server->dir);
    p->name = strdup("web");
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        p->clients[i].fd = -1;
    *state = server;
    must(console_open(server->dir, process_wake, p, &p->console, &err), &err);
    must(control_bind(p, &err), &err);
    must(control_listen(p, &err), &err);
    return 0;
}

static int tear_down(void **state)
{
    struct server *server = *state;
    struct process *p = &server->p;

    control_close(p);
    console_close(p->console);
    close(p->epoll_fd);
    close(p->wake_fd);
    io_remove_tree(server->dir);
    free(server->dir);
    free(p->socket_path);
    free(p->name);
    free(server);
    return 0;
}

/* Serves until nothing is left to be done; fails if that never comes. */
static void serve(struct process *p)
{
    struct epoll_event event;

    for (unsigned turns = 0; epoll_wait(p->epoll_fd, &event, 1, 0) == 1; turns++) {
        const struct watch *watch = event.data.ptr;
        assert_in_range(turns, 0, 100000);
        if (watch->kind == WATCH_LISTEN)
            control_accept(p);
        else
            control_client_event(p, watch->client, event.events);
    }
}

static int dial(struct process *p)
{
    struct error err = ERROR_INIT;
    int fd;

    must(control_connect(p->socket_path, -1, &fd, &err), &err);
    serve(p);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* The next line, without its end; "" when the server has hung up. */
static void hear(int fd, char *line, size_t size)
{
    size_t n = 0;

    while (n + 1 < size && recv(fd, line + n, 1, MSG_DONTWAIT) == 1 && line[n] != '\n')
        n++;
    line[n] = '\0';
}

static bool hung_up(int fd)
{
    char c;

    return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

static unsigned clients(const struct process *p)
{
    unsigned n = 0;

    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        n += p->clients[i].fd >= 0;
    return n;
}

static void requests_are_answered_in_order_however_they_are_cut(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    _cleanup_close_ int fd = dial(p);
    char line[1024];

    say(fd, "{\"verb\":");
    serve(p);
    say(fd, "\"pause\"}\n{\"verb\":\"resume\"}\n");
    serve(p);
    for (unsigned i = 0; i < 2; i++) {
        hear(fd, line, sizeof(line));
        assert_non_null(strstr(line, "\"ok\":false"));
        assert_non_null(strstr(line, "ending")); /* it has no machine */
    }
    assert_int_equal(clients(p), 1);
}

/* A stopped process accepts nobody, and the kernel makes callers wait once its queue
 * is full. */
static void a_full_queue_does_not_hold_a_caller_for_ever(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    int fds[CLIENTS_MAX * 8];
    unsigned waiting = 0;
    struct error err = ERROR_INIT;
    int r = 0;

    while (r == 0 && waiting < ARRAY_LEN(fds))
        if ((r = control_connect(p->socket_path, 20, &fds[waiting], &err)) == 0)
            waiting++;
    assert_int_equal(r, -EAGAIN);
    assert_in_range(waiting, 1, ARRAY_LEN(fds) - 1);
    assert_int_equal(control_call(fds[0], "status", NULL, NULL, &err), -EAGAIN);
    while (waiting > 0)
        close(fds[--waiting]);
}

static void garbage_is_answered_once_and_ends_the_connection(void **state)
{
    static const char *const garbage[] = {"x\ny\nz\n", "[]\n", "{\"verb\":1}\n", "\n",
                                          "{\"verb\":\"a\",\"verb\":\"b\"}\n"};
    struct process *p = &((struct server *)*state)->p;
    char line[1024];

    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        _cleanup_close_ int fd = dial(p);
        say(fd, garbage[i]);
        serve(p);
        hear(fd, line, sizeof(line));
        assert_non_null(strstr(line, "bad request"));
        assert_true(hung_up(fd));
        assert_int_equal(clients(p), 0);
    }
}

static void a_line_without_end_is_refused(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    _cleanup_close_ int fd = dial(p);
    char bytes[4096], line[1024];

    memset(bytes, 'a', sizeof(bytes));
    while (clients(p) == 1) {
        (void)!send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
        serve(p);
    }
    hear(fd, line, sizeof(line));
    assert_non_null(strstr(line, "too long"));
}

/* Sends for as long as the server takes it; returns how much that was. */
static size_t flood(struct process *p, int fd, const char *text)
{
    size_t sent = 0;

    while (sent < PATIENCE_BYTES) {
        ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            sent += (size_t)n;
        serve(p);
        if (n < 0)
            break;
    }
    return sent;
}

static void who_reads_no_answers_is_not_read_for_ever(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    _cleanup_close_ int fd = dial(p);
    char request[12000] = "", line[1024];

    for (size_t n = 0; n + 20 < sizeof(request); n += 17)
        memcpy(request + n, "{\"verb\":\"pause\"}\n", 18);
    assert_true(flood(p, fd, request) < PATIENCE_BYTES);
    assert_int_equal(clients(p), 1);
    /* When it reads again, it gets on. */
    for (unsigned i = 0; i < 20000; i++) {
        hear(fd, line, sizeof(line));
        serve(p);
    }
    hear(fd, line, sizeof(line));
    assert_true(flood(p, fd, request) > 0);
}

static void who_sends_behind_a_bad_request_is_not_heard(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    _cleanup_close_ int fd = dial(p);
    int tiny = 1;

    /* The reply does not fit, so the connection stays a while. */
    setsockopt(p->clients[0].fd, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
    assert_true(flood(p, fd, "no json\n") < PATIENCE_BYTES);
}

static void connections_beyond_the_limit_are_closed_and_others_go_on(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    int fds[CLIENTS_MAX + 40];
    const size_t count = sizeof(fds) / sizeof(fds[0]);
    char line[1024];

    for (size_t i = 0; i < count; i++)
        fds[i] = dial(p);
    assert_int_equal(clients(p), CLIENTS_MAX);
    assert_true(hung_up(fds[count - 1]));
    say(fds[0], "{\"verb\":\"pause\"}\n");
    serve(p);
    hear(fds[0], line, sizeof(line));
    assert_non_null(strstr(line, "ending"));
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    serve(p);
    assert_int_equal(clients(p), 0);
    _cleanup_close_ int fd = dial(p);
    assert_true(fd >= 0);
    assert_int_equal(clients(p), 1);
}

static void a_message_cut_within_a_character_is_still_told(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    _cleanup_close_ int fd = dial(p);
    struct error err = ERROR_INIT;
    char line[1024];

    error_set(&err, STATUS_FAILED, EIO, "cannot open /home/\xff\xc3");
    control_reply_error(p, &p->clients[0], &err);
    hear(fd, line, sizeof(line));
    assert_non_null(strstr(line, "cannot open /home/??"));
}

static void a_slow_console_client_gets_all_of_a_long_log(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    _cleanup_close_ int fd = dial(p);
    const size_t length = 3 << 20;
    _cleanup_free_ uint8_t *want = malloc(length), *got = malloc(length);
    size_t n = 0;

    for (size_t i = 0; i < length; i++)
        want[i] = (uint8_t)(i * 7 + i / 4096);
    console_output(p->console, want, length);
    p->clients[0].is_console = true;
    control_console_ready(p);
    while (n < length) {
        ssize_t r = recv(fd, got + n, 10000, MSG_DONTWAIT);
        serve(p);
        if (r > 0)
            n += (size_t)r;
        assert_int_equal(clients(p), 1);
    }
    assert_memory_equal(got, want, length);
}

static void closing_does_not_wait_for_a_client_that_reads_nothing(void **state)
{
    struct process *p = &((struct server *)*state)->p;
    const size_t length = 4 << 20;
    _cleanup_free_ uint8_t *bytes = calloc(1, length);
    int fds[8];

    console_output(p->console, bytes, length);
    for (unsigned i = 0; i < 8; i++) {
        fds[i] = dial(p);
        p->clients[i].is_console = true;
    }
    control_console_ready(p);
    alarm(20); /* 2 s for all of them, not each */
    control_close(p);
    alarm(0);
    assert_int_equal(clients(p), 0);
    for (unsigned i = 0; i < 8; i++)
        close(fds[i]);
}

int main(void)
{
#define CONTROL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CONTROL_TEST(requests_are_answered_in_order_however_they_are_cut),
        CONTROL_TEST(a_full_queue_does_not_hold_a_caller_for_ever),
        CONTROL_TEST(garbage_is_answered_once_and_ends_the_connection),
        CONTROL_TEST(a_line_without_end_is_refused),
        CONTROL_TEST(who_reads_no_answers_is_not_read_for_ever),
        CONTROL_TEST(who_sends_behind_a_bad_request_is_not_heard),
        CONTROL_TEST(connections_beyond_the_limit_are_closed_and_others_go_on),
        CONTROL_TEST(a_message_cut_within_a_character_is_still_told),
        CONTROL_TEST(a_slow_console_client_gets_all_of_a_long_log),
        CONTROL_TEST(closing_does_not_wait_for_a_client_that_reads_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
