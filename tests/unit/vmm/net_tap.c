/* SPDX-License-Identifier: Apache-2.0 */
/* A tap device from both ends: a card that is played here, and the kernel's network,
 * in a network namespace of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/net/frame_queue.h"
#include "vmm/net/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAP "tap7"
#define HOST "10.77.0.1"
#define GUEST "10.77.0.2"

enum {
    PATIENCE_S = 60, /* how long a loaded machine may take */
    ETH = 14,
    IP = 20,
    UDP = 8,
    PORT = 4000,
    MARK = 0x88b5, /* the type of frames of nobody's (IEEE 802, local experiments) */
};

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct card {
    struct net_tap *tap;
    struct net_backend net;
    pthread_mutex_t lock;
    pthread_cond_t came;
    struct frame_queue frames;
};

/* ---- the host's side ---- */

static int any_socket(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    return fd;
}

static struct ifreq request_for(const char *name)
{
    struct ifreq request = {0};

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    return request;
}

static struct sockaddr_in address(const char *text, uint16_t port)
{
    struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons(port)};

    assert_int_equal(inet_pton(AF_INET, text, &out.sin_addr), 1);
    return out;
}

/* A device of those flags that stays when the returned file is closed. */
static int try_tap(const char *name, short flags)
{
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request = request_for(name);

    request.ifr_flags = flags;
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0)
        return -errno;
    return 0;
}

static void remove_tap(const char *name, short flags)
{
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request = request_for(name);

    request.ifr_flags = flags;
    assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
    assert_int_equal(ioctl(fd, TUNSETPERSIST, 0), 0);
}

/* With an address, and knowing the guest's. */
static void bring_up(const char *name)
{
    _cleanup_close_ int fd = any_socket();
    struct ifreq request = request_for(name);
    struct sockaddr_in host = address(HOST, 0), guest = address(GUEST, 0);
    struct arpreq arp = {.arp_flags = ATF_PERM | ATF_COM};

    memcpy(&request.ifr_addr, &host, sizeof(host));
    assert_int_equal(ioctl(fd, SIOCSIFADDR, &request), 0);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    memcpy(&arp.arp_pa, &guest, sizeof(guest));
    memcpy(arp.arp_ha.sa_data, guest_mac, 6);
    arp.arp_ha.sa_family = ARPHRD_ETHER;
    snprintf(arp.arp_dev, sizeof(arp.arp_dev), "%s", name);
    assert_int_equal(ioctl(fd, SIOCSARP, &arp), 0);
}

static void mac_of(const char *name, uint8_t mac[6])
{
    _cleanup_close_ int fd = any_socket();
    struct ifreq request = request_for(name);

    assert_int_equal(ioctl(fd, SIOCGIFHWADDR, &request), 0);
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
}

static void give_up_some_time(int fd)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
}

/* Sees and sends whole frames of one type. */
static int packet_socket(uint16_t type)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(type));
    const struct sockaddr_ll place = {.sll_family = AF_PACKET,
                                      .sll_protocol = htons(type),
                                      .sll_ifindex = (int)if_nametoindex(TAP)};

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&place, sizeof(place)), 0);
    give_up_some_time(fd);
    return fd;
}

static int udp_socket(void)
{
    const struct sockaddr_in host = address(HOST, PORT);
    int fd = any_socket();

    assert_int_equal(bind(fd, (const struct sockaddr *)&host, sizeof(host)), 0);
    give_up_some_time(fd);
    return fd;
}

/* ---- the card ---- */

static void on_frame(const struct net_frame *frame, void *context)
{
    struct card *c = context;

    pthread_mutex_lock(&c->lock);
    frame_queue_put(&c->frames, frame);
    pthread_cond_signal(&c->came);
    pthread_mutex_unlock(&c->lock);
}

/* The next frame of that type; the kernel has others to send. */
static struct frame *wait_for(struct card *c, uint16_t type)
{
    const int64_t deadline = (int64_t)clock_monotonic_ns() + PATIENCE_S * INT64_C(1000000000);
    const struct timespec until = {.tv_sec = deadline / 1000000000,
                                   .tv_nsec = deadline % 1000000000};
    int r = 0;

    while (r == 0) {
        pthread_mutex_lock(&c->lock);
        while (c->frames.first == NULL && r == 0)
            r = pthread_cond_timedwait(&c->came, &c->lock, &until);
        struct frame *frame = frame_queue_take(&c->frames);
        pthread_mutex_unlock(&c->lock);
        if (frame != NULL && load_be16(frame->bytes + 12) == type)
            return frame;
        free(frame);
    }
    fail_msg("no frame came");
    return NULL;
}

static void plug(struct card *c)
{
    struct error err = ERROR_INIT;

    if (net_tap_open(TAP, &c->tap, &err) < 0)
        fail_msg("%s", err.message);
    c->net = net_tap_backend(c->tap);
    bring_up(TAP); /* not before: the kernel would notice in its own time that it is plugged */
}

static void start(struct card *c)
{
    assert_int_equal(c->net.start(on_frame, c, c->net.context, NULL), 0);
}

static void send_bytes(struct card *c, const uint8_t *bytes, size_t length,
                       struct net_offload offload)
{
    c->net.send(&(struct net_frame){.bytes = bytes, .length = length, .offload = offload},
                c->net.context);
}

static int set_up(void **state)
{
    struct card *c = calloc(1, sizeof(*c));
    pthread_condattr_t monotonic;

    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c->came, &monotonic);
    frame_queue_init(&c->frames, 8 << 20);
    assert_int_equal(try_tap(TAP, IFF_TAP | IFF_NO_PI), 0);
    *state = c;
    return 0;
}

static int tear_down(void **state)
{
    struct card *c = *state;

    net_tap_close(c->tap);
    if (if_nametoindex(TAP) != 0)
        remove_tap(TAP, IFF_TAP | IFF_NO_PI);
    frame_queue_clear(&c->frames);
    pthread_cond_destroy(&c->came);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return 0;
}

/* ---- frames ---- */

static void make_frame(uint8_t *frame, size_t length, uint8_t seed)
{
    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 6);
    store_be16(frame + 12, MARK);
    for (size_t i = ETH; i < length; i++)
        frame[i] = (uint8_t)(seed + i);
}

static void what_the_card_sends_comes_out_as_it_is(void **state)
{
    static const size_t lengths[] = {60, 1514, 61};
    struct card *c = *state;
    uint8_t sent[1514], got[2000];

    plug(c);
    _cleanup_close_ int fd = packet_socket(MARK);
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        make_frame(sent, lengths[i], (uint8_t)i);
        send_bytes(c, sent, lengths[i], (struct net_offload){0});
        assert_int_equal(recv(fd, got, sizeof(got), 0), lengths[i]);
        assert_memory_equal(got, sent, lengths[i]);
    }
}

static void what_the_host_sends_reaches_the_card_as_it_is(void **state)
{
    struct card *c = *state;
    uint8_t sent[1514];

    plug(c);
    start(c);
    _cleanup_close_ int fd = packet_socket(MARK);
    for (uint8_t i = 0; i < 100; i++) {
        make_frame(sent, sizeof(sent), i);
        assert_int_equal(send(fd, sent, sizeof(sent), 0), sizeof(sent));
        _cleanup_free_ struct frame *frame = wait_for(c, MARK);
        assert_int_equal(frame->length, sizeof(sent));
        assert_memory_equal(frame->bytes, sent, sizeof(sent));
        assert_int_not_equal(frame->offload.sum, NET_SUM_PARTIAL);
    }
}

static void frames_that_no_card_takes_are_lost(void **state)
{
    struct card *c = *state;
    struct ifreq request = request_for(TAP);
    _cleanup_close_ int control = any_socket();
    uint8_t sent[3000];

    plug(c);
    start(c);
    request.ifr_mtu = 4000;
    assert_int_equal(ioctl(control, SIOCSIFMTU, &request), 0);
    _cleanup_close_ int fd = packet_socket(MARK);
    make_frame(sent, sizeof(sent), 1);
    assert_int_equal(send(fd, sent, sizeof(sent), 0), sizeof(sent));
    make_frame(sent, 1518, 2);
    assert_int_equal(send(fd, sent, 1518, 0), 1518);
    _cleanup_free_ struct frame *frame = wait_for(c, MARK);
    assert_int_equal(frame->length, 1518);
    assert_memory_equal(frame->bytes, sent, 1518);
}

/* ---- checksums ---- */

static uint32_t add_up(uint32_t sum, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        sum += i % 2 == 0 ? (uint32_t)bytes[i] << 8 : bytes[i];
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Of the pseudo header before a UDP datagram. */
static uint32_t pseudo_sum(const uint8_t *ip, size_t length)
{
    return add_up(IPPROTO_UDP + (uint32_t)length, ip + 12, 8);
}

/* From the guest to the host's socket; its own checksum is left to whoever is next. */
static size_t make_datagram(uint8_t *frame, const char *text)
{
    const struct sockaddr_in host = address(HOST, PORT), guest = address(GUEST, 9);
    const size_t length = UDP + strlen(text);
    uint8_t *ip = frame + ETH, *udp = ip + IP;

    memset(frame, 0, ETH + IP + length);
    mac_of(TAP, frame);
    memcpy(frame + 6, guest_mac, 6);
    store_be16(frame + 12, ETHERTYPE_IP);
    ip[0] = 0x45;
    store_be16(ip + 2, (uint16_t)(IP + length));
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    memcpy(ip + 12, &guest.sin_addr, 4);
    memcpy(ip + 16, &host.sin_addr, 4);
    store_be16(ip + 10, (uint16_t)~add_up(0, ip, IP));
    store_be16(udp, 9);
    store_be16(udp + 2, PORT);
    store_be16(udp + 4, (uint16_t)length);
    store_be16(udp + 6, (uint16_t)pseudo_sum(ip, length));
    memcpy(udp + UDP, text, strlen(text));
    return ETH + IP + length;
}

static void the_host_completes_checksums(void **state)
{
    const struct net_offload partial = {
        .sum = NET_SUM_PARTIAL, .sum_start = ETH + IP, .sum_offset = 6};
    struct card *c = *state;
    uint8_t frame[200];
    char got[100];

    plug(c);
    _cleanup_close_ int fd = udp_socket();
    /* Taken as it is, the first one's checksum is wrong. */
    send_bytes(c, frame, make_datagram(frame, "wrong"), (struct net_offload){0});
    send_bytes(c, frame, make_datagram(frame, "partial"), partial);
    assert_int_equal(recv(fd, got, sizeof(got), 0), 7);
    assert_memory_equal(got, "partial", 7);
    assert_true(c->net.completes_sums);
}

static void the_host_leaves_checksums_to_the_card(void **state)
{
    const struct sockaddr_in guest = address(GUEST, 9);
    struct card *c = *state;

    plug(c);
    start(c);
    _cleanup_close_ int fd = udp_socket();
    assert_int_equal(sendto(fd, "text", 4, 0, (const struct sockaddr *)&guest, sizeof(guest)), 4);
    _cleanup_free_ struct frame *frame = wait_for(c, ETHERTYPE_IP);
    const uint8_t *ip = frame->bytes + ETH;
    assert_int_equal(frame->length, ETH + IP + UDP + 4);
    assert_int_equal(frame->offload.sum, NET_SUM_PARTIAL);
    assert_int_equal(frame->offload.sum_start, ETH + IP);
    assert_int_equal(frame->offload.sum_offset, 6);
    assert_int_equal(load_be16(ip + IP + 6), pseudo_sum(ip, UDP + 4));
    assert_memory_equal(ip + IP + UDP, "text", 4);
}

/* TCP from the guest, to a port where nobody listens. */
static void make_segment(uint8_t *frame, size_t length)
{
    uint8_t *ip = frame + ETH, *tcp = ip + IP;

    make_datagram(frame, "");
    store_be16(ip + 2, (uint16_t)(length - ETH));
    ip[9] = IPPROTO_TCP;
    store_be16(ip + 10, 0);
    store_be16(ip + 10, (uint16_t)~add_up(0, ip, IP));
    memset(tcp, 0, length - ETH - IP);
    store_be16(tcp, 9);
    store_be16(tcp + 2, PORT);
    tcp[12] = 5 << 4;
    tcp[13] = 0x10; /* ACK */
    store_be16(tcp + 16, (uint16_t)add_up(IPPROTO_TCP + (uint32_t)(length - ETH - IP), ip + 12, 8));
}

/* The host's network takes it whole, and cuts it where it must. */
static void a_large_segment_goes_out_whole(void **state)
{
    enum { LENGTH = 5000 };
    const struct net_offload offload = {
        .sum = NET_SUM_PARTIAL, .sum_start = ETH + IP, .sum_offset = 16, .segment = 1448};
    struct card *c = *state;
    uint8_t sent[LENGTH], got[LENGTH + 1];

    plug(c);
    _cleanup_close_ int fd = packet_socket(ETHERTYPE_IP);
    make_segment(sent, LENGTH);
    send_bytes(c, sent, LENGTH, offload);
    assert_int_equal(recv(fd, got, sizeof(got), 0), LENGTH);
    assert_memory_equal(got, sent, LENGTH);
}

/* Programs that had it before leave their settings behind. */
static void what_others_have_set_does_not_matter(void **state)
{
    const struct sockaddr_in guest = address(GUEST, 9);
    struct ifreq request = request_for(TAP);
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    const int header = 20, big_endian = 1;
    struct card *c = *state;

    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
    assert_int_equal(ioctl(fd, TUNSETVNETHDRSZ, &header), 0);
    assert_int_equal(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4), 0);
    (void)ioctl(fd, TUNSETVNETBE, &big_endian);
    close(fd);
    plug(c);
    start(c);
    _cleanup_close_ int udp = udp_socket();
    assert_int_equal(sendto(udp, "text", 4, 0, (const struct sockaddr *)&guest, sizeof(guest)), 4);
    _cleanup_free_ struct frame *frame = wait_for(c, ETHERTYPE_IP);
    assert_int_equal(frame->length, ETH + IP + UDP + 4);
    assert_int_equal(frame->offload.sum_start, ETH + IP);
}

/* ---- life ---- */

static void a_tap_serves_one_card_after_the_other(void **state)
{
    struct card *c = *state;
    uint8_t sent[60];

    plug(c);
    for (uint8_t i = 0; i < 3; i++) {
        start(c);
        _cleanup_close_ int fd = packet_socket(MARK);
        make_frame(sent, sizeof(sent), i);
        assert_int_equal(send(fd, sent, sizeof(sent), 0), sizeof(sent));
        _cleanup_free_ struct frame *frame = wait_for(c, MARK);
        assert_memory_equal(frame->bytes, sent, sizeof(sent));
        c->net.stop(c->net.context);
    }
    c->net.stop(c->net.context); /* twice is nothing */
    assert_null(c->net.free);    /* it is not the card's */
}

static void a_tap_that_goes_away_is_survived(void **state)
{
    struct card *c = *state;
    struct ifreq request = request_for(TAP);
    _cleanup_close_ int control = any_socket();
    uint8_t sent[60];

    plug(c);
    start(c);
    request.ifr_flags = 0;
    assert_int_equal(ioctl(control, SIOCSIFFLAGS, &request), 0);
    make_frame(sent, sizeof(sent), 1);
    send_bytes(c, sent, sizeof(sent), (struct net_offload){0}); /* lost */
    bring_up(TAP);
    _cleanup_close_ int fd = packet_socket(MARK);
    assert_int_equal(send(fd, sent, sizeof(sent), 0), sizeof(sent));
    free(wait_for(c, MARK));
}

/* ---- errors ---- */

static void assert_refused(const char *name, enum error_status status, const char *hint)
{
    struct net_tap *tap = NULL;
    struct error err = ERROR_INIT;

    assert_true(net_tap_open(name, &tap, &err) < 0);
    assert_null(tap);
    assert_int_equal(err.status, status);
    assert_non_null(strstr(err.message, name));
    assert_non_null(strstr(err.hint, hint));
}

static void a_tap_that_does_not_exist_is_not_made(void **state)
{
    (void)state;
    assert_refused("tap8", STATUS_NOT_FOUND, "ip tuntap add tap8 mode tap");
    assert_int_equal(if_nametoindex("tap8"), 0);
}

static void a_tap_is_for_one_machine(void **state)
{
    struct card *c = *state;

    plug(c);
    assert_refused(TAP, STATUS_BUSY, "each its own");
    net_tap_close(c->tap);
    plug(c); /* and free again */
}

static void what_is_no_tap_is_refused(void **state)
{
    (void)state;
    assert_refused("lo", STATUS_USAGE, "mode tap");
    assert_int_equal(try_tap("tun9", IFF_TUN | IFF_NO_PI), 0);
    assert_refused("tun9", STATUS_USAGE, "mode tap");
    remove_tap("tun9", IFF_TUN | IFF_NO_PI);
    assert_int_equal(try_tap("tap9", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE), 0);
    assert_refused("tap9", STATUS_USAGE, "mode tap");
    remove_tap("tap9", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
}

/* Whose it is not, and who may not even open /dev/net/tun. */
static void without_rights_it_is_said_how_to_get_them(void **state)
{
    struct error err = ERROR_INIT;
    struct net_tap *tap;
    int status;

    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        if (setresuid(65534, 65534, 65534) < 0)
            _exit(1);
        if (net_tap_open(TAP, &tap, &err) >= 0 || err.hint[0] == '\0')
            _exit(2);
        _exit(err.errnum == EACCES || err.errnum == EPERM ? 0 : 3);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 1)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Nothing of it is seen outside. */
static int enter_namespace(void)
{
    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return -errno;
    return try_tap("try", IFF_TAP | IFF_NO_PI);
}

int main(void)
{
#define TAP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TAP_TEST(what_the_card_sends_comes_out_as_it_is),
        TAP_TEST(what_the_host_sends_reaches_the_card_as_it_is),
        TAP_TEST(frames_that_no_card_takes_are_lost),
        TAP_TEST(the_host_completes_checksums),
        TAP_TEST(the_host_leaves_checksums_to_the_card),
        TAP_TEST(a_large_segment_goes_out_whole),
        TAP_TEST(what_others_have_set_does_not_matter),
        TAP_TEST(a_tap_serves_one_card_after_the_other),
        TAP_TEST(a_tap_that_goes_away_is_survived),
        TAP_TEST(a_tap_that_does_not_exist_is_not_made),
        TAP_TEST(a_tap_is_for_one_machine),
        TAP_TEST(what_is_no_tap_is_refused),
        TAP_TEST(without_rights_it_is_said_how_to_get_them),
    };

    int r = enter_namespace();
    if (r < 0) {
        printf("skip: no tap can be made here: %s\n", strerror(-r));
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
