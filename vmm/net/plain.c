/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/net/plain.h"

#include "base/bytes.h"
#include "vmm/net/frame_queue.h"

#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>

/* Sizes, and offsets in the header before. */
enum {
    ETHER_TYPE = 12,
    ARP_SIZE = 28,
    IP_SIZE = 20,
    IP_TOTAL_LENGTH = 2,
    IP_FRAGMENT = 6,
    IP_PROTOCOL = 9,
    IP_VERSION_AND_SIZE = 0x45,
    TCP_FLAGS = 13,
    UDP_SIZE = 8,
    UDP_LENGTH = 4,
};

static bool udp_is_plain(const uint8_t *udp, size_t length)
{
    return length >= UDP_SIZE && load_be16(udp + UDP_LENGTH) >= UDP_SIZE &&
           load_be16(udp + UDP_LENGTH) <= length;
}

static bool ip_is_plain(const uint8_t *ip, size_t length)
{
    if (length < IP_SIZE || ip[0] != IP_VERSION_AND_SIZE)
        return false;
    const size_t total = load_be16(ip + IP_TOTAL_LENGTH);
    if (total < IP_SIZE || total > length ||
        (load_be16(ip + IP_FRAGMENT) & (IP_MF | IP_OFFMASK)) != 0)
        return false;
    return ip[IP_PROTOCOL] != IPPROTO_UDP || udp_is_plain(ip + IP_SIZE, total - IP_SIZE);
}

bool frame_is_plain(const uint8_t *frame, size_t length)
{
    if (length < FRAME_SIZE_MIN)
        return false;
    const uint8_t *packet = frame + FRAME_SIZE_MIN;
    length -= FRAME_SIZE_MIN;
    switch (load_be16(frame + ETHER_TYPE)) {
    case ETHERTYPE_ARP:
        return length >= ARP_SIZE;
    case ETHERTYPE_IP:
        return ip_is_plain(packet, length);
    default:
        return false;
    }
}

bool frame_may_open(const uint8_t *frame, size_t length)
{
    const uint8_t *ip = frame + FRAME_SIZE_MIN;
    const uint8_t *tcp = ip + IP_SIZE;

    if (load_be16(frame + ETHER_TYPE) != ETHERTYPE_IP)
        return false;
    return ip[IP_PROTOCOL] != IPPROTO_TCP || length <= FRAME_SIZE_MIN + IP_SIZE + TCP_FLAGS ||
           (tcp[TCP_FLAGS] & (TH_SYN | TH_ACK)) == TH_SYN;
}
