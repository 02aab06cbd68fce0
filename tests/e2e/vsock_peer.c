/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock_peer echo ADDRESS   sends back what comes, to any number of callers at a time
 * vsock_peer join ADDRESS   standard input goes there, what comes back to standard output
 *
 * ADDRESS is vsock:CID:PORT, tcp:IPV4:PORT, unix:PATH or guest:PATH:PORT, which is a port of
 * the guest behind a machine's socket. The ends of both ways are passed on apart from each other.
 * Linked statically, for guests that have nothing. Exit code 3: refused; 4: the
 * connection broke.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { REFUSED = 3, BROKEN = 4, CHUNK = 64 << 10 };

static void die(int code, const char *what)
{
    fprintf(stderr, "vsock_peer: %s: %s\n", what, strerror(errno));
    exit(code);
}

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_vm vm;
        struct sockaddr_in in;
        struct sockaddr_un un;
    };
    socklen_t length;
    const char *greet; /* the guest's port, or NULL */
};

static struct address parse(char *text)
{
    struct address a = {0};
    char *rest = strchr(text, ':');
    char *last = strrchr(text, ':');

    if (rest == NULL)
        die(2, text);
    if (strncmp(text, "vsock:", 6) == 0) {
        a.vm.svm_family = AF_VSOCK;
        a.vm.svm_cid = (unsigned)strtoul(rest + 1, NULL, 10);
        a.vm.svm_port = (unsigned)strtoul(last + 1, NULL, 10);
        a.length = sizeof(a.vm);
        return a;
    }
    if (strncmp(text, "tcp:", 4) == 0) {
        *last = '\0';
        a.in.sin_family = AF_INET;
        a.in.sin_port = htons((unsigned short)strtoul(last + 1, NULL, 10));
        if (inet_pton(AF_INET, rest + 1, &a.in.sin_addr) != 1)
            die(2, text);
        a.length = sizeof(a.in);
        return a;
    }
    if (strncmp(text, "guest:", 6) == 0) {
        a.greet = last + 1;
        *last = '\0';
    }
    a.un.sun_family = AF_UNIX;
    snprintf(a.un.sun_path, sizeof(a.un.sun_path), "%s", rest + 1);
    a.length = sizeof(a.un);
    return a;
}

static void write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0)
            die(BROKEN, "write");
        bytes += n;
        length -= (size_t)n;
    }
}

static void echo(int fd)
{
    static char bytes[CHUNK];
    ssize_t n;

    while ((n = read(fd, bytes, sizeof(bytes))) > 0)
        write_all(fd, bytes, (size_t)n);
    if (n < 0)
        die(BROKEN, "read");
    exit(0);
}

static void serve(const struct address *a)
{
    int fd = socket(a->any.sa_family, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, &a->any, a->length) < 0 || listen(fd, 64) < 0)
        die(1, "listen");
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        if (peer < 0)
            die(1, "accept");
        if (fork() == 0)
            echo(peer);
        close(peer);
    }
}

static void greet(int fd, const char *port)
{
    char line[64];
    size_t length = 0;

    dprintf(fd, "CONNECT %s\n", port);
    while (length + 1 < sizeof(line) && read(fd, line + length, 1) == 1 && line[length] != '\n')
        length++;
    line[length] = '\0';
    if (strncmp(line, "OK ", 3) != 0) {
        errno = ECONNREFUSED;
        die(REFUSED, port);
    }
}

static int dial(const struct address *a)
{
    int fd = socket(a->any.sa_family, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, &a->any, a->length) < 0)
        die(REFUSED, "connect");
    if (a->greet != NULL)
        greet(fd, a->greet);
    return fd;
}

/* Ends at a SIGTERM, but only while it waits for something to send. */
static void send_input(int fd)
{
    static char bytes[CHUNK];
    struct pollfd input = {.fd = 0, .events = POLLIN};
    sigset_t none, end;
    ssize_t n;

    sigemptyset(&none);
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    while (ppoll(&input, 1, NULL, &none) > 0 && (n = read(0, bytes, sizeof(bytes))) > 0)
        write_all(fd, bytes, (size_t)n);
    shutdown(fd, SHUT_WR);
    exit(0);
}

/* One process a direction: neither waits for the other. A broken connection is told to
 * one of them only; the other one finds its end. */
static void join(int fd)
{
    static char bytes[CHUNK];
    int status = 0;
    ssize_t n;
    pid_t writer = fork();

    if (writer == 0)
        send_input(fd);
    while ((n = read(fd, bytes, sizeof(bytes))) > 0)
        write_all(1, bytes, (size_t)n);
    kill(writer, SIGTERM);
    if (n < 0)
        die(BROKEN, "read");
    waitpid(writer, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        exit(BROKEN);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc != 3)
        return 2;
    const struct address a = parse(argv[2]);
    if (strcmp(argv[1], "echo") == 0)
        serve(&a);
    else
        join(dial(&a));
    return 0;
}
