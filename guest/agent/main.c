/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent in a guest: does there what `stasis exec`, `cp`, `shell`, `stop` and
 * `clone` ask for, over AF_VSOCK (docs/agent.md). It runs as root and does whatever
 * the host says, which is no more than the host could do anyway; so it must listen to
 * nobody else.
 */
#include "session.h"

#include "agent/messages.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SESSIONS_MAX = 128,
    BACKLOG = 32,
    RETRY_S = 1,
    DESCRIPTORS_MAX = 1024,
    CID_ANY = -1,
    CID_HOST = 2
};

/* As in linux/vm_sockets.h, which is not everywhere. */
struct vsock_address {
    sa_family_t family;
    unsigned short reserved;
    unsigned port;
    unsigned cid;
    unsigned char zero[4];
};

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path));
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, BACKLOG) < 0)
        return -1;
    return fd;
}

static int listen_vsock(void)
{
    const struct vsock_address address = {
        .family = AF_VSOCK,
        .port = AGENT_PORT,
        .cid = (unsigned)CID_ANY,
    };

    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    const int errnum = errno;
    close(fd);
    errno = errnum;
    return -1;
}

/* The driver may be loaded after us. */
static int await_vsock(void)
{
    bool said = false;

    for (;;) {
        int fd = listen_vsock();
        if (fd >= 0)
            return fd;
        if (!said)
            fprintf(stderr, "stasis-agent: waiting for AF_VSOCK: %s\n", strerror(errno));
        said = true;
        sleep(RETRY_S);
    }
}

/* A process of the guest could connect as well, by the loopback transport. */
static bool is_host(int fd)
{
    struct vsock_address peer = {0};
    socklen_t length = sizeof(peer);

    if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0)
        return false;
    return peer.family == AF_UNIX || (peer.family == AF_VSOCK && peer.cid == CID_HOST);
}

static unsigned sessions;

static void reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        if (sessions > 0)
            sessions--;
}

static void serve(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    const int errnum = errno;

    reap();
    if (fd < 0) {
        if (errnum != EINTR && errnum != ECONNABORTED)
            sleep(RETRY_S);
        return;
    }
    pid_t pid = is_host(fd) && sessions < SESSIONS_MAX ? fork() : -1;
    if (pid == 0) {
        signal(SIGCHLD, SIG_DFL);
        close(listener);
        session_serve(fd);
        _exit(0);
    }
    if (pid > 0)
        sessions++;
    close(fd);
}

/* Sessions that end get accept() out of its sleep. */
static void wake(int signum)
{
    (void)signum;
}

/* What is opened later must not become somebody's standard stream, and what whoever
 * started us left open is no business of the commands'. */
static void tidy_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    for (fd = STDERR_FILENO + 1; fd < DESCRIPTORS_MAX; fd++)
        close(fd);
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = wake};
    int listener;

    tidy_descriptors();
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGCHLD, &action, NULL);
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("stasis-agent " STASIS_VERSION);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--listen-unix") == 0)
        listener = listen_unix(argv[2]);
    else if (argc == 1)
        listener = await_vsock();
    else {
        fprintf(stderr, "usage: stasis-agent [--listen-unix PATH | --version]\n");
        return 2;
    }
    if (listener < 0) {
        fprintf(stderr, "stasis-agent: cannot listen: %s\n", strerror(errno));
        return 1;
    }
    for (;;)
        serve(listener);
}
