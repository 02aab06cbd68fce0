/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/net/flows.h"

#include "vmm/net/checksum.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

enum {
    /* Offsets in a frame, in an IPv4 packet and in a TCP header. */
    ETHER_TYPE = 12,
    IP = 14,
    IP_TOTAL_LENGTH = 2,
    IP_LIFETIME = 8,
    IP_PROTOCOL = 9,
    IP_SUM = 10,
    IP_ADDRESSES = 12,
    IP_SIZE = 20,
    TCP_SEQUENCE = 4,
    TCP_ACK = 8,
    TCP_HEADER_SIZE = 12,
    TCP_FLAGS = 13,
    TCP_SUM = 16,
    TCP_SIZE = 20,

    FLAG_RST = 0x04,
    FLAG_ACK = 0x10,
    RECORD_V1 = 1,
};

/* The TCP header of an IPv4 packet's first or only part, or NULL. */
static const uint8_t *find_tcp(const uint8_t *frame, size_t length)
{
    if (length < IP + IP_SIZE + TCP_SIZE || load_be16(frame + ETHER_TYPE) != ETHERTYPE_IP)
        return NULL;
    const size_t header = (frame[IP] & 15u) * 4u;
    if (frame[IP] >> 4 != 4 || header < IP_SIZE || length < IP + header + TCP_SIZE ||
        frame[IP + IP_PROTOCOL] != IPPROTO_TCP)
        return NULL;
    return frame + IP + header;
}

static uint32_t find_flow(const struct flows *flows, const uint8_t ends[12])
{
    uint32_t i = 0;

    while (i < flows->count && memcmp(flows->list[i].ends, ends, sizeof(flows->list[i].ends)) != 0)
        i++;
    return i;
}

static void remove_flow(struct flows *flows, uint32_t at)
{
    if (at < flows->count)
        memmove(&flows->list[at], &flows->list[at + 1],
                (--flows->count - at) * sizeof(flows->list[0]));
}

/* Puts it first, wherever it was. */
static void note_flow(struct flows *flows, uint32_t at, const struct flow *flow)
{
    if (at == flows->count && flows->count < FLOWS_MAX)
        flows->count++;
    if (at == FLOWS_MAX)
        at--; /* the oldest makes room */
    memmove(&flows->list[1], &flows->list[0], at * sizeof(*flow));
    flows->list[0] = *flow;
}

/* ---- resets ---- */

static uint16_t tcp_checksum(const uint8_t *ip)
{
    uint8_t bytes[12 + TCP_SIZE] = {[9] = IPPROTO_TCP, [11] = TCP_SIZE};

    memcpy(bytes, ip + IP_ADDRESSES, 8); /* the pseudo header: RFC 9293, 3.1 */
    memcpy(bytes + 12, ip + IP_SIZE, TCP_SIZE);
    return internet_checksum(bytes, sizeof(bytes));
}

static void make_reset(const struct flows *flows, const struct flow *flow,
                       uint8_t out[FLOW_RESET_SIZE])
{
    uint8_t *ip = out + IP, *tcp = ip + IP_SIZE;

    memset(out, 0, FLOW_RESET_SIZE);
    memcpy(out, flows->guest_mac, ETH_ALEN);
    memcpy(out + ETH_ALEN, flows->peer_mac, ETH_ALEN);
    store_be16(out + ETHER_TYPE, ETHERTYPE_IP);
    ip[0] = 0x45;
    store_be16(ip + IP_TOTAL_LENGTH, IP_SIZE + TCP_SIZE);
    ip[IP_LIFETIME] = 64;
    ip[IP_PROTOCOL] = IPPROTO_TCP;
    memcpy(ip + IP_ADDRESSES, flow->ends + 4, 4);
    memcpy(ip + IP_ADDRESSES + 4, flow->ends, 4);
    store_be16(ip + IP_SUM, internet_checksum(ip, IP_SIZE));
    memcpy(tcp, flow->ends + 10, 2);
    memcpy(tcp + 2, flow->ends + 8, 2);
    store_be32(tcp + TCP_SEQUENCE, flow->acked);
    tcp[TCP_HEADER_SIZE] = TCP_SIZE / 4 << 4;
    tcp[TCP_FLAGS] = FLAG_RST;
    store_be16(tcp + TCP_SUM, tcp_checksum(ip));
}

void flows_reset(const struct flows *flows, uint32_t index, uint8_t out[FLOW_RESET_SIZE])
{
    make_reset(flows, &flows->list[index], out);
}

void flows_lose(struct flows *flows)
{
    for (uint32_t i = 0; i < flows->count; i++)
        flows->list[i].lost = true;
}

bool flows_sent(struct flows *flows, const uint8_t *frame, size_t length,
                uint8_t reset_out[FLOW_RESET_SIZE])
{
    const uint8_t *tcp = find_tcp(frame, length);
    struct flow flow = {.lost = false};

    if (tcp == NULL)
        return true;
    memcpy(flow.ends, frame + IP + IP_ADDRESSES, 8);
    memcpy(flow.ends + 8, tcp, 4);
    flow.acked = load_be32(tcp + TCP_ACK);
    const uint32_t at = find_flow(flows, flow.ends);
    /* Without ACK it is the first segment of another one. */
    if ((tcp[TCP_FLAGS] & FLAG_RST) != 0 || (tcp[TCP_FLAGS] & FLAG_ACK) == 0) {
        remove_flow(flows, at);
        return true;
    }
    if (at < flows->count && flows->list[at].lost) {
        make_reset(flows, &flow, reset_out);
        return false;
    }
    memcpy(flows->peer_mac, frame, ETH_ALEN);
    memcpy(flows->guest_mac, frame + ETH_ALEN, ETH_ALEN);
    note_flow(flows, at, &flow);
    return true;
}

/* ---- state ---- */

void flows_save(const struct flows *flows, uint16_t slot, struct state_writer *w)
{
    if (flows->count == 0)
        return;
    state_writer_begin(w, STATE_NET_CONNECTIONS, slot, RECORD_V1, STATE_FLAG_OPTIONAL);
    state_put_bytes(w, flows->guest_mac, sizeof(flows->guest_mac));
    state_put_bytes(w, flows->peer_mac, sizeof(flows->peer_mac));
    state_put_u32(w, flows->count);
    for (uint32_t i = 0; i < flows->count; i++) {
        state_put_bytes(w, flows->list[i].ends, sizeof(flows->list[i].ends));
        state_put_u32(w, flows->list[i].acked);
    }
    state_writer_end(w);
}

static int load(struct flows *flows, struct state_record *record, struct error *err)
{
    state_get_bytes(record, flows->guest_mac, sizeof(flows->guest_mac));
    state_get_bytes(record, flows->peer_mac, sizeof(flows->peer_mac));
    const uint32_t count = state_get_u32(record);
    if (count > FLOWS_MAX)
        return error_corrupt(err, "the state of the network card in slot %u has %u connections",
                             record->instance, count);
    for (uint32_t i = 0; i < count; i++) {
        state_get_bytes(record, flows->list[i].ends, sizeof(flows->list[i].ends));
        flows->list[i].acked = state_get_u32(record);
    }
    int r = state_record_done(record, err);
    if (r == 0)
        flows->count = count;
    return r;
}

int flows_restore(struct flows *flows, uint16_t slot, const void *state, size_t length,
                  struct error *err)
{
    struct state_record record;

    memset(flows, 0, sizeof(*flows));
    if (state_find(state, length, STATE_NET_CONNECTIONS, slot, &record) < 0 ||
        record.version != RECORD_V1)
        return 0;
    return load(flows, &record, err);
}
