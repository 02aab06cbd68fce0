/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs that need an agent, with machines whose guest has none: what is said then;
 * and with the real agent, which runs beside and is reached by a relay in the place of
 * the machine's vsock socket; and with something there that is no agent.
 */
#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEMORY_MIB = 8, CHUNK = 4096, GREETING_MAX = 64 };

/* ---- an agent, and the way to it ---- */

static struct {
    pid_t agent;
    int listener;
    char path[108];     /* of the agent's socket */
    const char *answer; /* instead of an agent: what each caller hears */
    size_t answer_length;
} beside;

static void unix_address(const char *path, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(out->sun_path, sizeof(out->sun_path), "%s", path);
}

static int connect_agent(void)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    unix_address(beside.path, &address);
    for (uint64_t end = now_ms() + DEADLINE_MS; now_ms() < end; usleep(5000))
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
            return fd;
    close(fd);
    return -1;
}

static bool move(int from, int to)
{
    char chunk[CHUNK];

    ssize_t n = recv(from, chunk, sizeof(chunk), 0);
    for (ssize_t done = 0, sent; n > 0 && done < n; done += sent)
        if ((sent = send(to, chunk + done, (size_t)(n - done), MSG_NOSIGNAL)) < 0)
            return false;
    return n > 0;
}

/* "CONNECT 1024\n", as the machine's own socket is asked. */
static bool greeted(int fd)
{
    char line[GREETING_MAX] = "";

    for (size_t i = 0; i + 1 < sizeof(line) && recv(fd, &line[i], 1, 0) == 1; i++)
        if (line[i] == '\n')
            return strcmp(line, "CONNECT 1024\n") == 0;
    return false;
}

static void *relay_one(void *context)
{
    const int host = (int)(intptr_t)context;
    int guest = greeted(host) ? connect_agent() : -1;
    struct pollfd fds[2] = {{.fd = host, .events = POLLIN}, {.fd = guest, .events = POLLIN}};
    bool open = guest >= 0 && send(host, "OK 49152\n", 9, MSG_NOSIGNAL) == 9;

    while (open && poll(fds, 2, -1) > 0) {
        if (fds[0].revents != 0)
            open = move(host, guest);
        if (open && fds[1].revents != 0)
            open = move(guest, host);
    }
    close(host);
    if (guest >= 0)
        close(guest);
    return NULL;
}

/* Says it, and listens to the rest. */
static void *lie_to_one(void *context)
{
    const int host = (int)(intptr_t)context;
    char chunk[CHUNK];

    if (greeted(host) && send(host, "OK 49152\n", 9, MSG_NOSIGNAL) == 9 &&
        send(host, beside.answer, beside.answer_length, MSG_NOSIGNAL) >= 0)
        while (recv(host, chunk, sizeof(chunk), 0) > 0)
            continue;
    close(host);
    return NULL;
}

static void *relay_main(void *context)
{
    pthread_t thread;
    int fd;

    (void)context;
    while ((fd = accept4(beside.listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        if (pthread_create(&thread, NULL, beside.answer != NULL ? lie_to_one : relay_one,
                           (void *)(intptr_t)fd) == 0)
            pthread_detach(thread);
    return NULL;
}

/* From here on the machine's guest seems to run what answers there. */
static void take_socket(struct site *site, const char *machine, pthread_t *thread)
{
    struct sockaddr_un address;
    char *path = home_machine_vsock(&site->home, machine);

    unlink(path);
    unix_address(path, &address);
    beside.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(beside.listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(beside.listener, 16), 0);
    assert_int_equal(pthread_create(thread, NULL, relay_main, NULL), 0);
    free(path);
}

static void give_socket_back(pthread_t thread)
{
    shutdown(beside.listener, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(beside.listener);
}

static void put_agent_beside(struct site *site, const char *machine, pthread_t *thread)
{
    snprintf(beside.path, sizeof(beside.path), "%s/agent", site->dir);
    beside.agent = fork();
    if (beside.agent == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(STASIS_AGENT_PROGRAM, "stasis-agent", "--listen-unix", beside.path, NULL);
        _exit(127);
    }
    take_socket(site, machine, thread);
}

static void remove_agent(pthread_t thread)
{
    give_socket_back(thread);
    kill(beside.agent, SIGKILL);
    waitpid(beside.agent, NULL, 0);
}

/* ---- with an agent ---- */

/* The harness puts --home behind the words, so commands here have no "--" in front. */

static void write_file(const struct site *site, const char *name, const char *text, mode_t mode)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", site->dir, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    chmod(path, mode);
}

static void commands_run_and_files_move(void **state)
{
    struct site *site = *state;
    struct guest guest;
    pthread_t thread;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    put_agent_beside(site, "m", &thread);
    stasis_ok(site, "exec m echo hello");
    assert_string_equal(site->out, "hello\n");
    assert_int_equal(stasis(site, "exec m false"), 1);
    assert_string_equal(site->err, "");
    stasis_fails(site, 127, "no-such-command", "exec m no-such-command");
    stasis_fails(site, 126, "/etc/passwd", "exec m /etc/passwd");
    stasis_ok(site, "exec m -e A=one -w /usr printenv A");
    assert_string_equal(site->out, "one\n");
    write_file(site, "input", "typed\n", 0644);
    char input[256];
    snprintf(input, sizeof(input), "%s/input", site->dir);
    site->input = input;
    stasis_ok(site, "exec m -i cat");
    assert_string_equal(site->out, "typed\n");
    site->input = NULL;
    stasis_ok(site, "cp %s/input m:%s/there", site->dir, site->dir);
    stasis_ok(site, "cp m:%s/there %s/back", site->dir, site->dir);
    stasis_ok(site, "exec m cmp %s/input %s/back", site->dir, site->dir);
    stasis_fails(site, 10, "no-such", "cp m:%s/no-such %s/x", site->dir, site->dir);
    stasis_ok(site, "pause m");
    stasis_fails(site, 125, "is paused", "exec m true");
    remove_agent(thread);
    guest_detach(&guest);
}

static void a_machine_that_ends_ends_its_commands(void **state)
{
    struct site *site = *state;
    struct guest guest;
    pthread_t thread;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    put_agent_beside(site, "m", &thread);
    stasis_ok(site, "exec m true");
    kill(beside.agent, SIGKILL);
    remove_agent(thread);
    stasis_fails(site, 125, "hint: ", "exec m true");
    guest_detach(&guest);
}

/* ---- with something else ---- */

static void answers_that_are_garbage_are_told(void **state)
{
    static const char hello[] = "\x10\0\0\0\x01\0\0\0stasisag\x01\0\x01\0\0\0007\0SSH-2.0\r\n\r\n";
    static const char web[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    const struct {
        const char *answer;
        size_t length;
        const char *says;
    } cases[] = {
        {web, sizeof(web), "the guest's answer is none of an agent\nhint: "},
        {hello, sizeof(hello), "no answer of an agent"},
    };
    struct site *site = *state;
    struct guest guest;
    pthread_t thread;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        beside.answer = cases[i].answer;
        beside.answer_length = cases[i].length;
        take_socket(site, "m", &thread);
        stasis_fails(site, 125, cases[i].says, "exec m true");
        stasis_fails(site, 125, cases[i].says, "shell m");
        stasis_fails(site, 13, cases[i].says, "cp /etc/passwd m:/x");
        stasis_fails(site, 13, cases[i].says, "cp m:/x %s/x", site->dir);
        stasis_fails(site, 1, "m does not listen", "stop m"); /* nor to keys */
        stasis_ok(site, "restore m@one --discard");
        give_socket_back(thread);
    }
    beside.answer = NULL;
    guest_detach(&guest);
}

/* ---- without one ---- */

static void without_an_agent_it_says_so_at_once(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    const uint64_t begin = now_ms();
    stasis_fails(site, 125, "m runs no agent", "exec m true");
    stasis_fails(site, 125, "m runs no agent", "shell m");
    stasis_fails(site, 10, "m runs no agent", "cp m:/x %s/x", site->dir);
    stasis_fails(site, 10, "m runs no agent", "cp /etc/passwd m:/x");
    assert_in_range(now_ms() - begin, 0, DEADLINE_MS);
    guest_detach(&guest);
}

static void a_clone_without_an_agent_runs_as_it_is(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "clone m plain");
    stasis_fails(site, 10, "own runs, but is not a machine of its own", "clone m own --identity");
    stasis_ok(site, "resume own"); /* it runs */
    guest_detach(&guest);
}

static void mistakes_are_told_before_anything_is_done(void **state)
{
    struct site *site = *state;

    stasis_fails(site, 125, "no machine 'm'", "exec m true");
    stasis_fails(site, 10, "no machine 'm'", "cp /etc/passwd m:/x");
    stasis_fails(site, 2, "one place in a machine", "cp /etc/passwd /tmp/x");
    stasis_fails(site, 2, "one place in a machine", "cp a:/x b:/y");
    stasis_fails(site, 2, "nothing changes it", "cp /etc/passwd m@one:/x");
    stasis_fails(site, 2, "one host name", "clone m n -n 2 --hostname x");
    stasis_fails(site, 2, "cannot be a host name", "clone m n --hostname a/b");
    stasis_fails(site, 2, "paused", "clone m n --identity --paused");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(commands_run_and_files_move),
        MACHINE_TEST(a_machine_that_ends_ends_its_commands),
        MACHINE_TEST(answers_that_are_garbage_are_told),
        MACHINE_TEST(without_an_agent_it_says_so_at_once),
        MACHINE_TEST(a_clone_without_an_agent_runs_as_it_is),
        MACHINE_TEST(mistakes_are_told_before_anything_is_done),
    };

    return HARNESS_RUN(tests);
}
