/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of the benchmarks of machines, static so that it runs in a guest that has
 * nothing else:
 *
 *   vmm_load blk DEVICE     in the guest: reads and writes a disk
 *   vmm_load net IP PORT    in the guest: receives from and sends to a peer
 *   vmm_load serve PORT     on the host: that peer
 *
 * Prints "bench NAME VALUE": requests or MB a second.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MIB (1u << 20)
#define DEPTH_MAX 32u
#define BLOCK_MAX (128u << 10)
#define ROUNDS 3 /* of everything: who reads this takes the median */
#define NET_BYTES (8u * MIB)

_Noreturn static void die(const char *what)
{
    printf("bench failed: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- disks ---- */

struct load {
    const char *name;
    bool writes;
    bool random;
    uint32_t block;
    unsigned depth;
    unsigned count;
    uint64_t from; /* the part of the disk it is about */
    uint64_t length;
};

/* The base is what the image held; the part behind it is what the guest has written. */
enum { BASE = 0, WRITTEN = 64, PART = 32 };

static const struct load loads[] = {
    {"base.read", false, false, 128 << 10, 4, 128, BASE *MIB, PART *MIB},
    {"base.randread", false, true, 4096, 8, 1500, BASE *MIB, PART *MIB},
    {"write", true, false, 128 << 10, 4, 256, WRITTEN *MIB, PART *MIB},
    {"read", false, false, 128 << 10, 4, 256, WRITTEN *MIB, PART *MIB},
    {"randread1", false, true, 4096, 1, 1500, WRITTEN *MIB, PART *MIB},
    {"randread", false, true, 4096, 16, 3000, WRITTEN *MIB, PART *MIB},
    {"randwrite", true, true, 4096, 16, 3000, WRITTEN *MIB, PART *MIB},
};

static uint8_t *buffers;

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * UINT64_C(0x2545f4914f6cdd1d);
}

static void submit(aio_context_t aio, int fd, const struct load *l, unsigned number, unsigned slot,
                   uint64_t *seed, struct iocb *cb)
{
    uint64_t blocks = l->length / l->block;
    uint64_t block = (l->random ? next_random(seed) : number) % blocks;

    *cb = (struct iocb){
        .aio_data = slot,
        .aio_fildes = (uint32_t)fd,
        .aio_lio_opcode = l->writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_buf = (uintptr_t)(buffers + (size_t)slot * BLOCK_MAX),
        .aio_nbytes = l->block,
        .aio_offset = (int64_t)(l->from + block * l->block),
    };
    if (syscall(SYS_io_submit, aio, 1L, &cb) != 1)
        die("io_submit");
}

/* Keeps `depth` requests under way. */
static double run_load(int fd, const struct load *l, uint64_t *seed)
{
    struct iocb cbs[DEPTH_MAX];
    struct io_event events[DEPTH_MAX];
    aio_context_t aio = 0;
    unsigned offered = 0, done = 0;

    if (syscall(SYS_io_setup, DEPTH_MAX, &aio) < 0)
        die("io_setup");
    double start = now();
    for (; offered < l->depth; offered++)
        submit(aio, fd, l, offered, offered, seed, &cbs[offered]);
    while (done < l->count) {
        long n = syscall(SYS_io_getevents, aio, 1L, (long)DEPTH_MAX, events, NULL);
        if (n < 1)
            die("io_getevents");
        for (long i = 0; i < n; i++, done++) {
            unsigned slot = (unsigned)events[i].data;
            if (events[i].res != l->block)
                die("a request");
            if (offered < l->count)
                submit(aio, fd, l, offered++, slot, seed, &cbs[slot]);
        }
    }
    if (l->writes && fsync(fd) < 0)
        die("fsync");
    double seconds = now() - start;
    syscall(SYS_io_destroy, aio);
    return l->block == 4096 ? l->count / seconds : (double)l->count * l->block / 1e6 / seconds;
}

static void measure_disk(const char *path)
{
    uint64_t seed = 42;
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

    if (fd < 0)
        die(path);
    buffers = aligned_alloc(4096, (size_t)DEPTH_MAX * BLOCK_MAX);
    if (buffers == NULL)
        die("memory");
    for (size_t i = 0; i < (size_t)DEPTH_MAX * BLOCK_MAX; i++)
        buffers[i] =
            (uint8_t)(next_random(&seed) >> (i % 4 == 0 ? 32 : 60)); /* compresses by half */
    for (unsigned round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
            printf("bench %s %.1f\n", loads[i].name, run_load(fd, &loads[i], &seed));
    close(fd);
}

/* ---- network ---- */

static void send_all(int fd, uint8_t *buffer, size_t size, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, buffer, bytes < size ? bytes : size);
        if (n <= 0)
            die("send");
        bytes -= (size_t)n;
    }
}

static void receive_all(int fd, uint8_t *buffer, size_t size, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = read(fd, buffer, bytes < size ? bytes : size);
        if (n <= 0)
            die("receive");
        bytes -= (size_t)n;
    }
}

static struct sockaddr_in address(const char *ip, const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET};

    to.sin_port = htons((uint16_t)strtoul(port, NULL, 10));
    if (inet_pton(AF_INET, ip, &to.sin_addr) != 1)
        die(ip);
    return to;
}

/* A connection each: 'r' for receiving, 's' for sending, which the peer confirms. */
static double run_transfer(const struct sockaddr_in *to, char what, uint8_t *buffer, size_t size)
{
    uint8_t byte = (uint8_t)what;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0)
        die("connect");
    double start = now();
    send_all(fd, &byte, 1, 1);
    if (what == 'r')
        receive_all(fd, buffer, size, NET_BYTES);
    else
        send_all(fd, buffer, size, NET_BYTES);
    if (what == 's')
        receive_all(fd, &byte, 1, 1);
    double seconds = now() - start;
    close(fd);
    return NET_BYTES / 1e6 / seconds;
}

static void measure_net(const char *ip, const char *port)
{
    static uint8_t buffer[256 << 10];
    struct sockaddr_in to = address(ip, port);

    for (unsigned round = 0; round < ROUNDS; round++) {
        printf("bench receive %.1f\n", run_transfer(&to, 'r', buffer, sizeof(buffer)));
        printf("bench send %.1f\n", run_transfer(&to, 's', buffer, sizeof(buffer)));
    }
}

static void serve_peer(int fd)
{
    static uint8_t buffer[256 << 10];
    uint8_t what;

    if (read(fd, &what, 1) != 1)
        return;
    if (what == 'r') {
        send_all(fd, buffer, sizeof(buffer), NET_BYTES);
        (void)!read(fd, &what, 1); /* until the peer has it all */
    } else {
        receive_all(fd, buffer, sizeof(buffer), NET_BYTES);
        send_all(fd, &what, 1, 1);
    }
}

_Noreturn static void serve(const char *port)
{
    struct sockaddr_in at = address("127.0.0.1", port);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 4) < 0)
        die("listen");
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        if (peer < 0)
            die("accept");
        serve_peer(peer);
        close(peer);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && strcmp(argv[1], "blk") == 0)
        measure_disk(argv[2]);
    else if (argc == 4 && strcmp(argv[1], "net") == 0)
        measure_net(argv[2], argv[3]);
    else if (argc == 3 && strcmp(argv[1], "serve") == 0)
        serve(argv[2]);
    else
        return 2;
    return 0;
}
