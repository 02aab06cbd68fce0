/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

enum { DEADLINE_S = 60 };

int fixture_directory(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    signal(SIGPIPE, SIG_IGN);
    snprintf(f->dir, sizeof(f->dir), "/tmp/stasis-agent-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->socket, sizeof(f->socket), "%s/socket", f->dir);
    *state = f;
    return 0;
}

static bool is_served(const void *context)
{
    const struct fixture *f = context;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->socket);
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

int fixture_start(void **state)
{
    fixture_directory(state);
    struct fixture *f = *state;

    f->agent = fork();
    assert_true(f->agent >= 0);
    if (f->agent == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(STASIS_AGENT_PROGRAM, "stasis-agent", "--listen-unix", f->socket, NULL);
        _exit(127);
    }
    assert_true(fixture_await(is_served, f));
    return 0;
}

int fixture_stop(void **state)
{
    struct fixture *f = *state;

    int status = SIGKILL;
    if (f->agent > 0) {
        kill(f->agent, SIGKILL);
        waitpid(f->agent, &status, 0);
    }
    io_remove_tree(f->dir);
    free(f);
    /* It must not have ended before. */
    if (status != SIGKILL)
        print_error("the agent ended with %#x\n", (unsigned)status);
    return status == SIGKILL ? 0 : -1;
}

void fixture_connect(const struct fixture *f, struct channel *out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct error err = ERROR_INIT;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->socket);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(agent_attach(fd, DEADLINE_S * 1000, out, &err), 0);
}

char *fixture_path(const struct fixture *f, const char *name)
{
    return io_format("%s/%s", f->dir, name);
}

void fixture_write(const struct fixture *f, const char *name, const void *bytes, size_t length)
{
    _cleanup_free_ char *path = fixture_path(f, name);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    uint8_t chunk[4096];

    assert_true(fd >= 0);
    if (bytes != NULL) {
        assert_int_equal(io_write_full(fd, bytes, length), 0);
        return;
    }
    for (size_t done = 0; done < length; done += sizeof(chunk)) {
        assert_int_equal(getrandom(chunk, sizeof(chunk), 0), sizeof(chunk));
        const size_t n = length - done < sizeof(chunk) ? length - done : sizeof(chunk);
        assert_int_equal(io_write_full(fd, chunk, n), 0);
    }
}

char *fixture_read(const struct fixture *f, const char *name)
{
    _cleanup_free_ char *path = fixture_path(f, name);
    char *text = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, path, 1 << 20, &text, &length), 0);
    return text;
}

bool fixture_same(const struct fixture *f, const char *a, const char *b)
{
    _cleanup_free_ char *path_a = fixture_path(f, a), *path_b = fixture_path(f, b);
    _cleanup_fclose_ FILE *file_a = fopen(path_a, "re"), *file_b = fopen(path_b, "re");
    char chunk_a[4096], chunk_b[4096];
    size_t n;

    assert_true(file_a != NULL && file_b != NULL);
    do {
        n = fread(chunk_a, 1, sizeof(chunk_a), file_a);
        if (fread(chunk_b, 1, sizeof(chunk_b), file_b) != n || memcmp(chunk_a, chunk_b, n) != 0)
            return false;
    } while (n > 0);
    return true;
}

bool fixture_await(bool (*condition)(const void *context), const void *context)
{
    const struct timespec nap = {.tv_nsec = 5000000};

    for (int i = 0; i < DEADLINE_S * 200; i++) {
        if (condition(context))
            return true;
        nanosleep(&nap, NULL);
    }
    return false;
}

void fixture_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

void fixture_frame(struct buffer *out, uint16_t type, const void *payload, size_t length)
{
    assert_int_equal(buffer_append_le32(out, (uint32_t)length), 0);
    assert_int_equal(buffer_append_le16(out, type), 0);
    assert_int_equal(buffer_append_le16(out, 0), 0);
    if (length > 0)
        assert_int_equal(buffer_append(out, payload, length), 0);
}
