/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames to the tap are written by whoever has them: the kernel takes them or loses
 * them, at once. Those from it are read by a thread. Before each goes a header by which
 * checksums are left to whoever does them for nothing: another guest, or a real card.
 */
#include "vmm/net/tap.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/net/frame_queue.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    RECEIVE_MAX = 1518, /* with a VLAN tag; no card here takes larger ones */
    BATCH = 64,         /* frames before it looks whether it shall end */
};

struct net_tap {
    char name[IFNAMSIZ];
    int fd;
    int stop_fd; /* eventfd */
    net_receive_fn *receive;
    void *context;
    pthread_t thread;
    bool started;
};

/* ---- frames ---- */

static void send_frame(const struct net_frame *frame, void *context)
{
    const struct net_tap *tap = context;
    struct virtio_net_hdr_v1 header = {0};
    const struct iovec parts[] = {
        {.iov_base = &header, .iov_len = sizeof(header)},
        {.iov_base = (void *)(uintptr_t)frame->bytes, .iov_len = frame->length},
    };

    if (frame->offload.sum == NET_SUM_PARTIAL) {
        header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        header.csum_start = htole16(frame->offload.sum_start);
        header.csum_offset = htole16(frame->offload.sum_offset);
        header.gso_type = frame->offload.segment > 0 ? VIRTIO_NET_HDR_GSO_TCPV4 : 0;
        header.gso_size = htole16(frame->offload.segment);
    }
    (void)!writev(tap->fd, parts, ARRAY_LEN(parts)); /* a tap that is down loses frames */
}

static struct net_offload offload_of(const struct virtio_net_hdr_v1 *header)
{
    if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0)
        return (struct net_offload){.sum = NET_SUM_PARTIAL,
                                    .sum_start = le16toh(header->csum_start),
                                    .sum_offset = le16toh(header->csum_offset)};
    return (struct net_offload){
        .sum = (header->flags & VIRTIO_NET_HDR_F_DATA_VALID) != 0 ? NET_SUM_GOOD : NET_SUM_THERE};
}

/* 1: one was read, and handed on if it is of a size; 0: there is none. */
static int read_frame(const struct net_tap *tap)
{
    struct virtio_net_hdr_v1 header;
    uint8_t bytes[RECEIVE_MAX + 1];
    const struct iovec parts[] = {
        {.iov_base = &header, .iov_len = sizeof(header)},
        {.iov_base = bytes, .iov_len = sizeof(bytes)},
    };

    ssize_t n = readv(tap->fd, parts, ARRAY_LEN(parts));
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    const size_t length = (size_t)n - sizeof(header);
    if ((size_t)n >= sizeof(header) + FRAME_SIZE_MIN && length <= RECEIVE_MAX)
        tap->receive(
            &(struct net_frame){.bytes = bytes, .length = length, .offload = offload_of(&header)},
            tap->context);
    return 1;
}

static void *tap_main(void *context)
{
    const struct net_tap *tap = context;
    struct pollfd polls[] = {{.fd = tap->fd, .events = POLLIN},
                             {.fd = tap->stop_fd, .events = POLLIN}};
    int r = 0;

    sandbox_thread(SANDBOX_NETWORK);
    while (r >= 0) {
        if (poll(polls, ARRAY_LEN(polls), -1) < 0)
            continue;
        if (polls[1].revents != 0)
            return NULL;
        for (unsigned i = 0; i < BATCH && (r = read_frame(tap)) > 0; i++)
            continue;
    }
    log_event("network: %s is gone (%s)", tap->name, strerror(-r));
    return NULL;
}

/* ---- beginning and end ---- */

static int start(net_receive_fn *receive, void *receive_context, void *context, struct error *err)
{
    struct net_tap *tap = context;

    tap->receive = receive;
    tap->context = receive_context;
    int r = pthread_create(&tap->thread, NULL, tap_main, tap);
    if (r != 0)
        return error_errno(err, r, "cannot start the machine's network");
    tap->started = true;
    return 0;
}

static void stop(void *context)
{
    struct net_tap *tap = context;
    eventfd_t count;

    if (!tap->started)
        return;
    (void)eventfd_write(tap->stop_fd, 1);
    pthread_join(tap->thread, NULL);
    (void)eventfd_read(tap->stop_fd, &count); /* for the next card */
    tap->started = false;
}

struct net_backend net_tap_backend(struct net_tap *tap)
{
    return (struct net_backend){.send = send_frame,
                                .completes_sums = true,
                                .shared = true,
                                .start = start,
                                .stop = stop,
                                .context = tap};
}

void net_tap_close(struct net_tap *tap)
{
    if (tap == NULL)
        return;
    stop(tap);
    if (tap->fd >= 0)
        close(tap->fd);
    if (tap->stop_fd >= 0)
        close(tap->stop_fd);
    free(tap);
}

/* ---- taking hold of a device ---- */

static int tun_error(int number, struct error *err)
{
    if (number == EACCES || number == EPERM) {
        error_set(err, STATUS_HOST_CANNOT, number, "this user may not open /dev/net/tun");
        error_hint(err, "elsewhere everybody may: sudo chmod 666 /dev/net/tun");
        return -number;
    }
    error_errno(err, number, "cannot open /dev/net/tun");
    err->status = STATUS_HOST_CANNOT;
    error_hint(err, "load the kernel's module: sudo modprobe tun; --net user needs none");
    return -number;
}

static int take_error(const char *name, int number, struct error *err)
{
    switch (number) {
    case EBUSY:
        error_set(err, STATUS_BUSY, number, "%s is taken, by another machine or program", name);
        error_hint(err, "a tap device is for one machine: give each its own");
        break;
    case EPERM:
        error_set(err, STATUS_FAILED, number, "this user may not use %s", name);
        error_hint(err,
                   "let it be his: sudo ip tuntap del %s mode tap; "
                   "sudo ip tuntap add %s mode tap user $USER",
                   name, name);
        break;
    case EINVAL:
        error_set(err, STATUS_USAGE, number, "%s is not a tap device with one queue", name);
        error_hint(err, "make one: sudo ip tuntap add NAME mode tap user $USER");
        break;
    default:
        error_errno(err, number, "cannot use the tap device %s", name);
    }
    return -number;
}

/* The kernel would make a device that is not there, of whoever may. */
static int look_at(const char *name, struct error *err)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (fd < 0)
        return error_errno(err, errno, "cannot look for %s", name);
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) {
        if (errno != ENODEV)
            return error_errno(err, errno, "cannot look for %s", name);
        error_set(err, STATUS_NOT_FOUND, ENODEV, "there is no tap device %s", name);
        error_hint(err,
                   "make it first: sudo ip tuntap add %s mode tap user $USER; "
                   "sudo ip link set %s up",
                   name, name);
        return -ENODEV;
    }
    if ((request.ifr_flags & IFF_UP) == 0)
        log_event("network: %s is down: nothing goes through it until ip link set %s up", name,
                  name);
    return 0;
}

static int take(const char *name, int fd, struct error *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    const int header_size = sizeof(struct virtio_net_hdr_v1), little_endian = 1;

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        return take_error(name, errno, err);
    /* What somebody else left behind stays with the device. */
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 ||
        ioctl(fd, TUNSETVNETLE, &little_endian) < 0 || ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM) < 0)
        return take_error(name, errno == EINVAL ? EOPNOTSUPP : errno, err);
    return 0;
}

int net_tap_open(const char *name, struct net_tap **out, struct error *err)
{
    struct net_tap *tap = calloc(1, sizeof(*tap));

    if (tap == NULL)
        return error_errno(err, ENOMEM, "cannot open %s", name);
    snprintf(tap->name, sizeof(tap->name), "%s", name);
    tap->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    tap->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int r = tap->fd < 0 ? tun_error(errno, err) : 0;
    if (r == 0 && tap->stop_fd < 0)
        r = error_errno(err, errno, "cannot open %s", name);
    if (r == 0)
        r = look_at(tap->name, err);
    if (r == 0)
        r = take(tap->name, tap->fd, err);
    if (r < 0) {
        net_tap_close(tap);
        return r;
    }
    *out = tap;
    return 0;
}
