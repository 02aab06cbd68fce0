/* SPDX-License-Identifier: Apache-2.0 */
/* tap_listen INTERFACE: a line for each ARP or RARP frame that comes in there:
 * OPERATION SENDER-MAC SENDER-ADDRESS TARGET-ADDRESS. */
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static const char *operation_name(unsigned operation)
{
    static const char *const names[] = {"", "arp-request", "arp-reply", "rarp-request",
                                        "rarp-reply"};

    return operation < sizeof(names) / sizeof(names[0]) ? names[operation] : "other";
}

static void tell(const struct ether_arp *arp)
{
    char sender[INET_ADDRSTRLEN], target[INET_ADDRSTRLEN];
    const uint8_t *mac = arp->arp_sha;

    inet_ntop(AF_INET, arp->arp_spa, sender, sizeof(sender));
    inet_ntop(AF_INET, arp->arp_tpa, target, sizeof(target));
    printf("%s %02x:%02x:%02x:%02x:%02x:%02x %s %s\n", operation_name(ntohs(arp->arp_op)), mac[0],
           mac[1], mac[2], mac[3], mac[4], mac[5], sender, target);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_ll from, place = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    struct ether_arp arp;

    int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL));
    place.sll_ifindex = argc == 2 ? (int)if_nametoindex(argv[1]) : 0;
    if (place.sll_ifindex == 0 || fd < 0 ||
        bind(fd, (struct sockaddr *)&place, sizeof(place)) < 0) {
        perror("tap_listen");
        return 1;
    }
    for (;;) {
        socklen_t length = sizeof(from);
        ssize_t n = recvfrom(fd, &arp, sizeof(arp), 0, (struct sockaddr *)&from, &length);
        const uint16_t type = n < 0 ? 0 : ntohs(from.sll_protocol);
        if (n == (ssize_t)sizeof(arp) && from.sll_pkttype != PACKET_OUTGOING &&
            (type == ETHERTYPE_ARP || type == ETHERTYPE_REVARP))
            tell(&arp);
    }
}
