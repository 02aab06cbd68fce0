/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net between a driver and a network that only listens. */
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"
#include "vmm/net/frame_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE 16u
#define SLOT 5
#define HEADER 12u
#define BUFFER 1526u /* of the driver, for a frame of 1514 bytes */

/* The transmit queue; the fixture's own is the receive queue. */
#define TX_DESC 0x16000u
#define TX_AVAIL 0x17000u
#define TX_USED 0x18000u
#define TX_DATA 0x100000u

/* The control queue. */
#define CTL_DESC 0x19000u
#define CTL_AVAIL 0x1a000u
#define CTL_USED 0x1b000u
#define CTL_DATA 0x1c000u
#define CTL_ANSWER 0x1d000u

#define GUEST_CSUM (1ull << VIRTIO_NET_F_GUEST_CSUM)
#define GUEST_ANNOUNCE (1ull << VIRTIO_NET_F_GUEST_ANNOUNCE)
#define CTRL_VQ (1ull << VIRTIO_NET_F_CTRL_VQ)

#ifndef STASIS_GOLDEN
#error "where are the golden files?"
#endif

static const uint8_t mac[MANIFEST_MAC_SIZE] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct guest {
    struct driver d;
    uint16_t sent;    /* chains put into the transmit queue */
    uint16_t asked;   /* and into the control queue */
    unsigned arrived; /* frames at the network */
    bool keeps;       /* the network knows connections of before a restore */
    size_t length;    /* of the last one */
    struct net_offload offload;
    uint8_t frame[FRAME_SIZE_MAX];
};

static void on_send(const struct net_frame *frame, void *context)
{
    struct guest *g = context;

    assert_in_range(frame->length, FRAME_SIZE_MIN, FRAME_SIZE_MAX);
    g->arrived++;
    g->length = frame->length;
    g->offload = frame->offload;
    memcpy(g->frame, frame->bytes, frame->length);
}

static void plug_into(struct guest *g, const struct net_backend *backend)
{
    struct irq_line irq = irq_probe_line(&g->d.irq, 21);

    if (g->d.dev != NULL)
        g->d.dev->ops->destroy(g->d.dev);
    g->d.dev = virtio_net_create(SLOT, mac, backend, g->d.mem, &irq);
}

static void on_forget(void *context)
{
    (void)context;
}

static void plug(struct guest *g, bool link)
{
    const struct net_backend backend = {
        .send = on_send, .forget = g->keeps ? NULL : on_forget, .context = g};

    plug_into(g, link ? &backend : NULL);
}

/* Into a network with others, where checksums may be left out. */
static void plug_into_tap(struct guest *g)
{
    const struct net_backend backend = {
        .send = on_send, .completes_sums = true, .shared = true, .context = g};

    plug_into(g, &backend);
}

static void start_queue(struct guest *g, uint32_t queue, uint32_t desc, uint32_t avail,
                        uint32_t used)
{
    driver_out(&g->d, R_QUEUE_SEL, queue);
    driver_out(&g->d, R_QUEUE_NUM, QUEUE);
    driver_out(&g->d, R_DESC, desc);
    driver_out(&g->d, R_AVAIL, avail);
    driver_out(&g->d, R_USED, used);
    driver_out(&g->d, R_QUEUE_READY, 1);
}

static void start_driver_without(struct guest *g, uint64_t without)
{
    driver_start(&g->d, QUEUE, without);
    start_queue(g, 1, TX_DESC, TX_AVAIL, TX_USED);
    start_queue(g, 2, CTL_DESC, CTL_AVAIL, CTL_USED);
    virtio_net_hold(g->d.dev, false);
    irq_probe_take(&g->d.irq);
}

static void start_driver(struct guest *g)
{
    start_driver_without(g, 0);
}

static int set_up(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));

    driver_init(&g->d);
    plug(g, true);
    start_driver(g);
    *state = g;
    return 0;
}

static int tear_down(void **state)
{
    struct guest *g = *state;

    driver_clear(&g->d);
    free(g);
    return 0;
}

static uint8_t *at(struct guest *g, uint64_t gpa)
{
    return g->d.mem->hva + gpa;
}

static bool needs_reset(struct guest *g)
{
    return (driver_in(&g->d, R_STATUS) & S_NEEDS_RESET) != 0;
}

/* ---- transmit ---- */

/* Puts what lies at TX_DATA into the transmit queue, in pieces. */
static void offer_pieces(struct guest *g, const uint32_t *lengths, uint16_t count)
{
    uint32_t gpa = TX_DATA;

    for (uint16_t i = 0; i < count; i++) {
        driver_desc(&g->d, TX_DESC, i, gpa, lengths[i], i + 1 < count ? DESC_NEXT : 0,
                    (uint16_t)(i + 1));
        gpa += lengths[i];
    }
    store_le16(at(g, TX_AVAIL + 4 + 2u * (g->sent % QUEUE)), 0);
    store_le16(at(g, TX_AVAIL + 2), ++g->sent);
}

/* And sends it; true if the chain comes back. */
static bool send_pieces(struct guest *g, const uint32_t *lengths, uint16_t count)
{
    const uint16_t used = load_le16(at(g, TX_USED + 2));

    offer_pieces(g, lengths, count);
    virtio_kick(g->d.dev);
    return load_le16(at(g, TX_USED + 2)) == (uint16_t)(used + 1);
}

static bool send_frame(struct guest *g, uint32_t length)
{
    const uint32_t whole = HEADER + length;

    return send_pieces(g, &whole, 1);
}

static uint8_t *tx_header(struct guest *g)
{
    memset(at(g, TX_DATA), 0, HEADER);
    return at(g, TX_DATA);
}

static uint8_t *tx_frame(struct guest *g)
{
    return at(g, TX_DATA + HEADER);
}

static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed + i * 7 + i / 256);
}

static void says_its_address_and_that_its_link_is_up(void **state)
{
    struct guest *g = *state;

    for (unsigned i = 0; i < sizeof(mac); i++)
        assert_int_equal(g->d.dev->ops->read(g->d.dev, R_CONFIG + i, 1), mac[i]);
    assert_int_equal(g->d.dev->ops->read(g->d.dev, R_CONFIG + 6, 2), VIRTIO_NET_S_LINK_UP);
    assert_int_equal(driver_in(&g->d, R_DEVICE_ID), 1);
}

static void what_is_sent_reaches_the_network(void **state)
{
    static const uint32_t lengths[] = {14, 60, 1514, FRAME_SIZE_MAX};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        tx_header(g);
        fill(tx_frame(g), lengths[i], i);
        assert_true(send_frame(g, lengths[i]));
        assert_int_equal(g->arrived, i + 1);
        assert_int_equal(g->length, lengths[i]);
        assert_memory_equal(g->frame, tx_frame(g), lengths[i]);
        assert_int_equal(irq_probe_take(&g->d.irq), 1);
    }
}

static void frames_may_be_cut_anywhere(void **state)
{
    static const uint32_t cuts[] = {3, 10, 1, 500, 12};
    struct guest *g = *state;

    tx_header(g);
    fill(tx_frame(g), 514, 9);
    assert_true(send_pieces(g, cuts, ARRAY_LEN(cuts)));
    assert_int_equal(g->length, 514);
    assert_memory_equal(g->frame, tx_frame(g), 514);
}

static void no_network_carries_frames_that_are_too_short_or_too_long(void **state)
{
    static const uint32_t lengths[] = {0, 13, FRAME_SIZE_MAX + 1, 0x200000};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        tx_header(g);
        assert_true(send_frame(g, lengths[i]));
        assert_int_equal(g->arrived, 0);
    }
    assert_false(needs_reset(g));
}

static void a_frame_without_a_whole_header_needs_a_reset(void **state)
{
    struct guest *g = *state;
    const uint32_t cut = HEADER - 1;

    assert_false(send_pieces(g, &cut, 1));
    assert_true(needs_reset(g));
    assert_int_equal(g->arrived, 0);
}

static void ask_for_checksum(struct guest *g, uint16_t start, uint16_t offset)
{
    uint8_t *header = tx_header(g);

    header[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    store_le16(header + 6, start);
    store_le16(header + 8, offset);
}

/* For a driver that starts anew. */
static void empty_transmit_ring(struct guest *g)
{
    memset(at(g, TX_AVAIL), 0, 4);
    memset(at(g, TX_USED), 0, 4);
    g->sent = 0;
}

/* A segment of 4000 bytes, with the checksum at its place in TCP. */
static bool send_segment(struct guest *g, uint8_t type, uint16_t size)
{
    ask_for_checksum(g, 34, 16);
    at(g, TX_DATA)[1] = type;
    store_le16(at(g, TX_DATA) + 4, size);
    fill(tx_frame(g), 4000, 5);
    return send_frame(g, 4000);
}

static void a_large_segment_goes_out_whole(void **state)
{
    struct guest *g = *state;

    assert_true(send_segment(g, VIRTIO_NET_HDR_GSO_TCPV4, 1448));
    assert_int_equal(g->arrived, 1);
    assert_int_equal(g->length, 4000);
    assert_int_equal(g->offload.sum, NET_SUM_THERE);
    assert_int_equal(g->offload.segment, 1448);
    assert_memory_not_equal(g->frame + 50, tx_frame(g) + 50, 2);
    plug_into_tap(g);
    empty_transmit_ring(g);
    start_driver(g);
    assert_true(send_segment(g, VIRTIO_NET_HDR_GSO_TCPV4, 1448));
    assert_int_equal(g->offload.sum, NET_SUM_PARTIAL);
    assert_int_equal(g->offload.segment, 1448);
    assert_memory_equal(g->frame, tx_frame(g), 4000);
}

static void segments_that_no_network_carries_are_lost(void **state)
{
    static const uint8_t types[] = {VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_HDR_GSO_TCPV6,
                                    VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 2, 0xff};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_LEN(types); i++)
        assert_true(send_segment(g, types[i], 1448));
    assert_true(send_segment(g, VIRTIO_NET_HDR_GSO_TCPV4, 0));
    tx_header(g)[1] = VIRTIO_NET_HDR_GSO_TCPV4; /* without a checksum to be completed */
    store_le16(at(g, TX_DATA) + 4, 1448);
    assert_true(send_frame(g, 4000));
    assert_int_equal(g->arrived, 0);
    empty_transmit_ring(g);
    start_driver_without(g, 1ull << VIRTIO_NET_F_HOST_TSO4);
    assert_true(send_segment(g, VIRTIO_NET_HDR_GSO_TCPV4, 1448));
    assert_int_equal(g->arrived, 0);
    assert_false(needs_reset(g));
}

/* A datagram of RFC 768 whose sums were worked out by hand. */
static void a_checksum_left_to_the_card_is_completed(void **state)
{
    static const uint8_t datagram[] = {0x12, 0x34, 0x00, 0x35, 0x00, 0x0b,
                                       0x1e, 0x20, 'a',  'b',  'c'};
    struct guest *g = *state;

    memset(tx_frame(g), 0xee, 34);
    memcpy(tx_frame(g) + 34, datagram, sizeof(datagram));
    ask_for_checksum(g, 34, 6);
    assert_true(send_frame(g, 34 + sizeof(datagram)));
    assert_int_equal(g->arrived, 1);
    /* 1234 + 0035 + 000b + 1e20 + 6162 + 6300 = f4f6 */
    assert_int_equal(load_be16(g->frame + 40), 0x0b09);
    assert_memory_equal(g->frame + 34, datagram, 6);
    assert_memory_equal(g->frame + 42, "abc", 3);
}

static void a_checksum_of_0_is_sent_as_ffff(void **state)
{
    struct guest *g = *state;

    memset(tx_frame(g), 0, 60);
    memset(tx_frame(g) + 40, 0xff, 2); /* sum ffff: its complement is 0 */
    ask_for_checksum(g, 34, 8);
    assert_true(send_frame(g, 60));
    assert_int_equal(load_be16(g->frame + 42), 0xffff);
}

static void a_checksum_outside_of_the_frame_is_not_written(void **state)
{
    static const uint16_t places[][2] = {{60, 0},      {58, 1},          {34, 25},
                                         {34, 0xffff}, {0xffff, 0xffff}, {61, 0}};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        ask_for_checksum(g, places[i][0], places[i][1]);
        assert_true(send_frame(g, 60));
        assert_int_equal(g->arrived, 0);
    }
    ask_for_checksum(g, 58, 0);
    assert_true(send_frame(g, 60));
    assert_int_equal(g->arrived, 1);
}

static void a_network_that_completes_checksums_is_told_where(void **state)
{
    struct guest *g = *state;

    plug_into_tap(g);
    start_driver(g);
    fill(tx_frame(g), 60, 1);
    ask_for_checksum(g, 34, 8);
    assert_true(send_frame(g, 60));
    assert_memory_equal(g->frame, tx_frame(g), 60);
    assert_int_equal(g->offload.sum, NET_SUM_PARTIAL);
    assert_int_equal(g->offload.sum_start, 34);
    assert_int_equal(g->offload.sum_offset, 8);
    tx_header(g);
    assert_true(send_frame(g, 60));
    assert_int_equal(g->offload.sum, NET_SUM_THERE);
    ask_for_checksum(g, 59, 0);
    assert_true(send_frame(g, 60));
    assert_int_equal(g->arrived, 2);
}

static void a_card_without_a_link_loses_what_is_sent(void **state)
{
    struct guest *g = *state;

    plug(g, false);
    start_driver(g);
    assert_int_equal(g->d.dev->ops->read(g->d.dev, R_CONFIG + 6, 2), 0);
    g->sent = 0;
    memset(at(g, TX_USED), 0, 4);
    tx_header(g);
    assert_true(send_frame(g, 60));
    assert_int_equal(g->arrived, 0);
}

/* ---- receive ---- */

static void offer_buffer_of(struct guest *g, uint32_t length)
{
    const uint16_t index = g->d.offered % QUEUE;

    driver_desc(&g->d, DRIVER_DESC, index, DRIVER_DATA + 0x1000u * index, length, DESC_WRITE, 0);
    driver_offer(&g->d, QUEUE, index);
}

static void offer_buffer(struct guest *g)
{
    offer_buffer_of(g, BUFFER);
}

static void deliver(struct guest *g, uint32_t length, uint64_t seed)
{
    uint8_t frame[2048];

    fill(frame, length, seed);
    virtio_net_receive(g->d.dev, &(struct net_frame){.bytes = frame, .length = length});
}

static bool got_frame(struct guest *g, uint32_t length, uint64_t seed)
{
    static const uint8_t header[HEADER] = {[10] = 1}; /* num_buffers */
    uint8_t want[2048];
    uint32_t head, written;

    if (!driver_take(&g->d, QUEUE, &head, &written))
        return false;
    fill(want, length, seed);
    const uint8_t *buffer = at(g, DRIVER_DATA + 0x1000u * head);
    assert_int_equal(written, HEADER + length);
    assert_memory_equal(buffer, header, HEADER);
    assert_memory_equal(buffer + HEADER, want, length);
    return true;
}

static void a_frame_from_the_network_comes_behind_a_header(void **state)
{
    struct guest *g = *state;

    offer_buffer(g);
    virtio_kick(g->d.dev);
    assert_int_equal(irq_probe_take(&g->d.irq), 0); /* a buffer is no reason to say anything */
    deliver(g, 1514, 3);
    assert_true(got_frame(g, 1514, 3));
    assert_int_equal(irq_probe_take(&g->d.irq), 1);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT), 1);
}

static void frames_wait_in_order_until_there_are_buffers(void **state)
{
    struct guest *g = *state;

    for (unsigned i = 0; i < 5; i++)
        deliver(g, 60 + i, i);
    for (unsigned i = 0; i < 5; i++) {
        assert_false(got_frame(g, 60 + i, i));
        offer_buffer(g);
        virtio_kick(g->d.dev);
        assert_true(got_frame(g, 60 + i, i));
    }
}

static void only_so_much_waits(void **state)
{
    struct guest *g = *state;
    unsigned kept = 0;

    for (unsigned i = 0; i < 3000; i++)
        deliver(g, 1514, 1);
    do {
        offer_buffer(g);
        virtio_kick(g->d.dev);
    } while (got_frame(g, 1514, 1) && ++kept < 3000);
    assert_in_range(kept, 100, 1000);
    deliver(g, 60, 2); /* into the buffer that is left */
    assert_true(got_frame(g, 60, 2));
}

/* A frame of UDP as deliver() makes it, whose checksum at 40 is of some kind. */
static const uint8_t *receive_sum(struct guest *g, const struct net_offload *offload)
{
    uint8_t frame[60];
    uint32_t head, written;

    offer_buffer(g);
    fill(frame, sizeof(frame), 7);
    virtio_net_receive(g->d.dev, &(struct net_frame){
                                     .bytes = frame, .length = sizeof(frame), .offload = *offload});
    if (!driver_take(&g->d, QUEUE, &head, &written))
        return NULL;
    return at(g, DRIVER_DATA + 0x1000u * head);
}

static const struct net_offload partial = {
    .sum = NET_SUM_PARTIAL, .sum_start = 34, .sum_offset = 6};

static void a_driver_that_knows_how_completes_checksums(void **state)
{
    struct guest *g = *state;
    const uint8_t *got = receive_sum(g, &partial);
    uint8_t want[60];

    assert_non_null(got);
    assert_int_equal(got[0], VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_int_equal(load_le16(got + 6), 34);
    assert_int_equal(load_le16(got + 8), 6);
    assert_int_equal(load_le16(got + 10), 1);
    fill(want, sizeof(want), 7);
    assert_memory_equal(got + HEADER, want, sizeof(want));
}

static void for_another_the_card_completes_them(void **state)
{
    struct guest *g = *state;
    uint32_t sum = 0;

    start_driver_without(g, GUEST_CSUM);
    g->d.offered = g->d.seen = 0;
    memset(at(g, DRIVER_AVAIL), 0, 4);
    memset(at(g, DRIVER_USED), 0, 4);
    const uint8_t *got = receive_sum(g, &partial);
    assert_non_null(got);
    assert_int_equal(got[0], 0);
    assert_int_equal(load_le16(got + 6), 0);
    /* All that it covers, it and what was in its place before add up to nothing. */
    uint8_t before[60];
    fill(before, sizeof(before), 7);
    for (unsigned i = 34; i < 60; i += 2)
        sum += load_be16(got + HEADER + i);
    sum += load_be16(before + 40);
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
    got = receive_sum(g, &(struct net_offload){.sum = NET_SUM_GOOD});
    assert_int_equal(got[0], 0);
}

static void a_checksum_that_was_checked_is_not_checked_again(void **state)
{
    struct guest *g = *state;
    const uint8_t *got = receive_sum(g, &(struct net_offload){.sum = NET_SUM_GOOD});

    assert_non_null(got);
    assert_int_equal(got[0], VIRTIO_NET_HDR_F_DATA_VALID);
    got = receive_sum(g, &(struct net_offload){.sum = NET_SUM_THERE});
    assert_int_equal(got[0], 0);
}

static void a_frame_whose_checksum_is_outside_of_it_is_lost(void **state)
{
    static const uint16_t places[][2] = {{60, 0}, {58, 1}, {0xffff, 0xffff}, {34, 25}};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        const struct net_offload offload = {
            .sum = NET_SUM_PARTIAL, .sum_start = places[i][0], .sum_offset = places[i][1]};
        assert_null(receive_sum(g, &offload));
    }
    assert_non_null(receive_sum(g, &partial));
}

/* A tap's neighbours may have larger frames than a driver has room for. */
static void frames_too_large_for_a_driver_are_lost(void **state)
{
    struct guest *g = *state;
    uint32_t head, written;

    offer_buffer(g);
    deliver(g, 1519, 1);
    assert_false(driver_take(&g->d, QUEUE, &head, &written));
    deliver(g, 1518, 1); /* not its fault: 5.1.6.3.1 */
    assert_true(driver_take(&g->d, QUEUE, &head, &written));
    assert_int_equal(written, 0);
    assert_false(needs_reset(g));
    offer_buffer_of(g, HEADER + 1518);
    deliver(g, 1518, 2);
    assert_true(got_frame(g, 1518, 2));
}

static bool anything_dirty(struct guest *g)
{
    for (uint64_t i = 0; i < g->d.mem->dirty_words; i++)
        if (g->d.mem->device_dirty[i] != 0)
            return true;
    return false;
}

static void what_is_written_is_noted_as_dirty(void **state)
{
    const uint64_t page = (DRIVER_DATA + HEADER + 60) / STASIS_PAGE_SIZE;
    struct guest *g = *state;

    offer_buffer(g);
    memset(g->d.mem->device_dirty, 0, g->d.mem->dirty_words * 8);
    deliver(g, 60, 1);
    assert_true(g->d.mem->device_dirty[page / 64] >> (page % 64) & 1);
}

static void a_card_that_is_held_writes_nothing(void **state)
{
    struct guest *g = *state;

    const uint32_t unseen = HEADER + 60;

    offer_buffer(g);
    offer_buffer(g);
    virtio_net_hold(g->d.dev, true);
    tx_header(g);
    offer_pieces(g, &unseen, 1); /* the kick was not served when the guest stood still */
    memset(g->d.mem->device_dirty, 0, g->d.mem->dirty_words * 8);
    deliver(g, 60, 1);
    deliver(g, 61, 2);
    assert_false(anything_dirty(g));
    assert_int_equal(g->arrived, 0);
    assert_false(got_frame(g, 60, 1));
    assert_int_equal(irq_probe_take(&g->d.irq), 0);
    virtio_net_hold(g->d.dev, false);
    assert_true(got_frame(g, 60, 1));
    assert_true(got_frame(g, 61, 2));
    assert_int_equal(g->arrived, 1);
}

static void a_card_is_held_until_the_machine_first_runs(void **state)
{
    struct guest *g = *state;

    plug(g, true);
    memset(at(g, DRIVER_AVAIL), 0, 64);
    driver_start(&g->d, QUEUE, 0);
    g->d.offered = 0;
    offer_buffer(g);
    deliver(g, 60, 1);
    assert_false(got_frame(g, 60, 1));
    virtio_net_hold(g->d.dev, false);
    assert_true(got_frame(g, 60, 1));
}

static void nothing_waits_for_a_driver_that_is_not_there(void **state)
{
    struct guest *g = *state;

    driver_out(&g->d, R_STATUS, 0);
    deliver(g, 60, 1);
    memset(at(g, DRIVER_AVAIL), 0, 64);
    g->d.offered = 0;
    start_driver(g);
    offer_buffer(g);
    virtio_kick(g->d.dev);
    assert_false(got_frame(g, 60, 1));
}

static void a_reset_forgets_what_waits(void **state)
{
    struct guest *g = *state;

    deliver(g, 60, 1);
    g->d.offered = 0;
    start_driver(g);
    offer_buffer(g);
    virtio_kick(g->d.dev);
    assert_false(got_frame(g, 60, 1));
}

static void a_buffer_that_is_too_small_needs_a_reset(void **state)
{
    struct guest *g = *state;

    offer_buffer_of(g, HEADER + 59);
    deliver(g, 60, 1);
    assert_true(needs_reset(g));
    deliver(g, 60, 1); /* and nothing more happens */
    assert_true(needs_reset(g));
}

static void a_buffer_the_card_may_not_write_needs_a_reset(void **state)
{
    struct guest *g = *state;

    driver_desc(&g->d, DRIVER_DESC, 0, DRIVER_DATA, BUFFER, 0, 0);
    driver_offer(&g->d, QUEUE, 0);
    deliver(g, 60, 1);
    assert_true(needs_reset(g));
}

static void a_broken_ring_needs_a_reset(void **state)
{
    struct guest *g = *state;

    store_le16(at(g, DRIVER_AVAIL + 2), QUEUE + 1);
    virtio_kick(g->d.dev); /* nobody looks without a frame */
    assert_false(needs_reset(g));
    deliver(g, 60, 1);
    assert_true(needs_reset(g));
}

/* ---- control ---- */

enum { NO_ANSWER = 0xaa };

/* Asks something of the card, with that much room for its answer, which is returned. */
static uint8_t ask_with_room(struct guest *g, const uint8_t *request, uint32_t length,
                             uint32_t room)
{
    memcpy(at(g, CTL_DATA), request, length);
    *at(g, CTL_ANSWER) = NO_ANSWER;
    driver_desc(&g->d, CTL_DESC, 0, CTL_DATA, length, room > 0 ? DESC_NEXT : 0, 1);
    driver_desc(&g->d, CTL_DESC, 1, CTL_ANSWER, room, DESC_WRITE, 0);
    store_le16(at(g, CTL_AVAIL + 4 + 2u * (g->asked % QUEUE)), 0);
    store_le16(at(g, CTL_AVAIL + 2), ++g->asked);
    virtio_kick(g->d.dev);
    return *at(g, CTL_ANSWER);
}

static uint8_t ask(struct guest *g, uint8_t class, uint8_t command)
{
    return ask_with_room(g, (const uint8_t[]){class, command, 0, 0}, 4, 1);
}

static uint8_t say_announced(struct guest *g)
{
    return ask_with_room(
        g, (const uint8_t[]){VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK}, 2, 1);
}

static void what_the_card_cannot_do_is_refused(void **state)
{
    struct guest *g = *state;

    for (unsigned class = 0; class < 8; class ++)
        for (unsigned command = 0; command < 3; command++)
            if (class != VIRTIO_NET_CTRL_ANNOUNCE || command != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
                assert_int_equal(ask(g, (uint8_t) class, (uint8_t)command), VIRTIO_NET_ERR);
    assert_int_equal(say_announced(g), VIRTIO_NET_OK);
    assert_int_equal(load_le16(at(g, CTL_USED + 2)), g->asked);
    assert_int_equal(load_le32(at(g, CTL_USED + 8 + 8u * ((g->asked - 1u) % QUEUE))), 1);
    assert_false(needs_reset(g));
}

static void half_a_command_needs_a_reset(void **state)
{
    struct guest *g = *state;

    assert_int_equal(ask_with_room(g, (const uint8_t[]){3}, 1, 1), NO_ANSWER);
    assert_true(needs_reset(g));
}

static void without_its_feature_there_is_no_control_queue(void **state)
{
    struct guest *g = *state;

    start_driver_without(g, CTRL_VQ);
    assert_int_equal(say_announced(g), NO_ANSWER);
    assert_int_equal(load_le16(at(g, CTL_USED + 2)), 0);
    assert_false(needs_reset(g));
}

/* ---- state ---- */

static uint64_t read_status(struct guest *g)
{
    return g->d.dev->ops->read(g->d.dev, R_CONFIG + 6, 2);
}

/* What a driver finds whose machine was saved on a network of its own, and goes on here. */
static void move_to_tap(struct guest *g)
{
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);

    driver_out(&g->d, R_ACK, 3);
    plug_into_tap(g);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
}

static void a_driver_that_moved_is_asked_to_announce_itself(void **state)
{
    struct guest *g = *state;

    move_to_tap(g);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT) & 2, 2);
    irq_probe_take(&g->d.irq);
    g->d.dev->ops->resume(g->d.dev);
    virtio_net_hold(g->d.dev, false);
    assert_true(irq_probe_take(&g->d.irq) > 0);
    assert_int_equal(g->arrived, 0); /* that is for the driver to say */
    assert_int_equal(say_announced(g), VIRTIO_NET_OK);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
}

static void a_command_without_room_for_the_answer_needs_a_reset(void **state)
{
    struct guest *g = *state;

    move_to_tap(g);
    assert_int_equal(ask_with_room(g, (const uint8_t[]){3, 0}, 2, 0), NO_ANSWER);
    assert_true(needs_reset(g));
    assert_int_equal(read_status(g) & VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_ANNOUNCE);
}

static void what_is_asked_for_is_saved(void **state)
{
    struct guest *g = *state;

    move_to_tap(g);
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    assert_int_equal(again.length, saved.length);
    assert_memory_equal(again.data, saved.data, saved.length);
    driver_out(&g->d, R_ACK, 3);
    _cleanup_(buffer_clear) struct buffer seen = device_save(g->d.dev);
    assert_int_equal(device_restore(g->d.dev, &seen, NULL), 0);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT), 2); /* once more: this is another place */
    /* On a network of its own there is nobody to hear it. */
    plug(g, true);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
}

static void a_driver_that_starts_anew_is_asked_for_nothing(void **state)
{
    struct guest *g = *state;

    move_to_tap(g);
    driver_out(&g->d, R_STATUS, 0);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
    start_driver(g);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
    assert_int_equal(g->arrived, 0);
}

/* RFC 903, as QEMU does it. */
static void for_one_that_cannot_the_card_does(void **state)
{
    static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54,
                                   0x00, 0x12, 0x34, 0x56, 0x80, 0x35, 0x00, 0x01,
                                   0x08, 0x00, 0x06, 0x04, 0x00, 0x03};
    static const uint8_t none[18];
    struct guest *g = *state;

    start_driver_without(g, GUEST_ANNOUNCE);
    move_to_tap(g);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
    assert_int_equal(g->arrived, 0); /* the machine does not run yet */
    virtio_net_hold(g->d.dev, false);
    assert_int_equal(g->arrived, 1);
    assert_int_equal(g->length, 60);
    assert_memory_equal(g->frame, head, sizeof(head));
    assert_memory_equal(g->frame + 22, mac, 6);
    assert_memory_equal(g->frame + 28, none, 4);
    assert_memory_equal(g->frame + 32, mac, 6);
    assert_memory_equal(g->frame + 38, none, 18);
    virtio_net_hold(g->d.dev, true);
    virtio_net_hold(g->d.dev, false);
    assert_int_equal(g->arrived, 1); /* a pause is no move */
}

static void nobody_is_announced_without_a_driver(void **state)
{
    struct guest *g = *state;

    driver_out(&g->d, R_STATUS, 0);
    move_to_tap(g);
    virtio_net_hold(g->d.dev, false);
    assert_int_equal(g->arrived, 0);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
}

static void what_waited_is_lost_by_a_restore(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);

    deliver(g, 60, 1);
    virtio_net_hold(g->d.dev, true);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT), 0);
    virtio_net_hold(g->d.dev, false);
    offer_buffer(g);
    virtio_kick(g->d.dev);
    assert_false(got_frame(g, 60, 1));
    deliver(g, 61, 2);
    assert_true(got_frame(g, 61, 2));
}

static void a_driver_is_told_when_the_link_is_not_as_it_was(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);

    plug(g, false);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT), 2); /* configuration change */
    irq_probe_take(&g->d.irq);
    g->d.dev->ops->resume(g->d.dev);
    assert_int_equal(irq_probe_take(&g->d.irq), 1);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    driver_out(&g->d, R_ACK, 2);
    assert_int_equal(device_restore(g->d.dev, &again, NULL), 0);
    assert_int_equal(irq_probe_take(&g->d.irq), 0); /* it is as it was then */
}

/* Sends a segment of TCP by which the card knows of a connection. */
static void talk(struct guest *g)
{
    tx_header(g);
    memset(tx_frame(g), 0, 60);
    tx_frame(g)[12] = 8; /* IPv4 */
    tx_frame(g)[14] = 0x45;
    tx_frame(g)[14 + 9] = 6;
    tx_frame(g)[34 + 13] = 0x10; /* ACK */
    assert_true(send_frame(g, 60));
}

static bool got_reset(struct guest *g)
{
    uint32_t head, written;

    return driver_take(&g->d, QUEUE, &head, &written) &&
           at(g, DRIVER_DATA + 0x1000u * head + HEADER)[34 + 13] == 0x04;
}

/* Its network has forgotten them. */
static void connections_of_a_restored_guest_are_reset(void **state)
{
    struct guest *g = *state;

    talk(g);
    assert_int_equal(g->arrived, 1);
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
    offer_buffer(g);
    virtio_net_hold(g->d.dev, true);
    virtio_net_hold(g->d.dev, false);
    assert_false(got_reset(g)); /* by a pause nothing is lost */
    virtio_net_hold(g->d.dev, true);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    g->d.offered = g->d.seen = 0;
    g->sent = 1;
    offer_buffer(g);
    assert_false(got_reset(g)); /* it does not run yet */
    virtio_net_hold(g->d.dev, false);
    assert_true(got_reset(g));
    offer_buffer(g);
    virtio_net_hold(g->d.dev, true);
    virtio_net_hold(g->d.dev, false);
    assert_false(got_reset(g)); /* once, until it says something */
    talk(g);
    assert_true(got_reset(g));
    assert_int_equal(g->arrived, 1);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    assert_int_equal(again.length, saved.length); /* if this is restored, too */
}

static void a_network_that_knows_the_connections_resets_nothing(void **state)
{
    struct guest *g = *state;

    g->keeps = true;
    plug(g, true);
    start_driver(g);
    talk(g);
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    offer_buffer(g);
    virtio_net_hold(g->d.dev, false);
    talk(g);
    assert_false(got_reset(g));
    assert_int_equal(g->arrived, 2);
}

/* Restores a card's record alone changed at one place: behind the transport's. */
static int restore_changed(struct guest *g, size_t from_end, uint8_t value)
{
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
    struct error err = ERROR_INIT;

    uint8_t *byte = saved.data + saved.length - from_end;
    assert_int_not_equal(*byte, value);
    *byte = value;
    int r = device_restore(g->d.dev, &saved, &err);
    if (r < 0)
        assert_int_equal(err.status, STATUS_CORRUPT);
    return r;
}

static void a_state_that_cannot_be_is_refused(void **state)
{
    struct guest *g = *state;

    /* The payload, 6 + 2 bytes, comes last. */
    assert_int_equal(restore_changed(g, 8, 0x53), -EBADMSG); /* the address of a group */
    assert_int_equal(driver_in(&g->d, R_STATUS), 0);         /* reset, not half restored */
    assert_int_equal(restore_changed(g, 2, 5), -EBADMSG);
    assert_int_equal(restore_changed(g, 1, 1), -EBADMSG);
    assert_int_equal(restore_changed(g, 2, 0), 0);
}

/* A clone that shall have an address of its own. */
static void a_driver_is_told_when_the_address_is_not_as_it_was(void **state)
{
    struct guest *g = *state;

    irq_probe_take(&g->d.irq);
    driver_out(&g->d, R_ACK, 3);
    assert_int_equal(restore_changed(g, 3, 0x57), 0);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT) & 2, 2);
    assert_true(irq_probe_take(&g->d.irq) > 0);
    /* What it then finds is the card's own. */
    for (uint32_t i = 0; i < sizeof(mac); i++)
        assert_int_equal(g->d.dev->ops->read(g->d.dev, R_CONFIG + i, 1), mac[i]);
}

static void the_golden_state_of_version_1_restores(void **state)
{
    struct guest *g = *state;
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(
        io_read_file(AT_FDCWD, STASIS_GOLDEN "/device-virtio-net-1.state", 4096, &bytes, &length),
        0);
    assert_int_equal(state_check(bytes, length, NULL), 0);
    assert_int_equal(g->d.dev->ops->restore(g->d.dev, bytes, length, NULL), 0);
    assert_int_equal(driver_in(&g->d, R_STATUS), 15);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP);
    /* Its receive ring goes on at 3. */
    g->d.offered = g->d.seen = 3;
    virtio_net_hold(g->d.dev, false);
    offer_buffer(g);
    deliver(g, 60, 1);
    assert_true(got_frame(g, 60, 1));
}

/* Saved by a driver that was asked to announce itself. */
static void the_golden_state_restores_to_the_same_bytes(void **state)
{
    struct guest *g = *state;
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(
        io_read_file(AT_FDCWD, STASIS_GOLDEN "/device-virtio-net-2.state", 4096, &bytes, &length),
        0);
    assert_int_equal(state_check(bytes, length, NULL), 0);
    plug_into_tap(g);
    assert_int_equal(g->d.dev->ops->restore(g->d.dev, bytes, length, NULL), 0);
    assert_int_equal(read_status(g), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT), 3);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    assert_int_equal(again.length, length);
    assert_memory_equal(again.data, bytes, length);
    /* One frame each way and two commands were there before. */
    store_le16(at(g, DRIVER_AVAIL + 2), 1);
    store_le16(at(g, TX_AVAIL + 2), 1);
    store_le16(at(g, CTL_AVAIL + 2), g->asked = 2);
    virtio_net_hold(g->d.dev, false);
    assert_int_equal(say_announced(g), VIRTIO_NET_OK);
    assert_int_equal(load_le16(at(g, CTL_USED + 2)), 3);
}

int main(void)
{
#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        NET_TEST(says_its_address_and_that_its_link_is_up),
        NET_TEST(what_is_sent_reaches_the_network),
        NET_TEST(frames_may_be_cut_anywhere),
        NET_TEST(no_network_carries_frames_that_are_too_short_or_too_long),
        NET_TEST(a_frame_without_a_whole_header_needs_a_reset),
        NET_TEST(a_large_segment_goes_out_whole),
        NET_TEST(segments_that_no_network_carries_are_lost),
        NET_TEST(a_checksum_left_to_the_card_is_completed),
        NET_TEST(a_checksum_of_0_is_sent_as_ffff),
        NET_TEST(a_checksum_outside_of_the_frame_is_not_written),
        NET_TEST(a_network_that_completes_checksums_is_told_where),
        NET_TEST(a_card_without_a_link_loses_what_is_sent),
        NET_TEST(a_frame_from_the_network_comes_behind_a_header),
        NET_TEST(frames_wait_in_order_until_there_are_buffers),
        NET_TEST(only_so_much_waits),
        NET_TEST(a_driver_that_knows_how_completes_checksums),
        NET_TEST(for_another_the_card_completes_them),
        NET_TEST(a_checksum_that_was_checked_is_not_checked_again),
        NET_TEST(a_frame_whose_checksum_is_outside_of_it_is_lost),
        NET_TEST(frames_too_large_for_a_driver_are_lost),
        NET_TEST(what_is_written_is_noted_as_dirty),
        NET_TEST(a_card_that_is_held_writes_nothing),
        NET_TEST(a_card_is_held_until_the_machine_first_runs),
        NET_TEST(nothing_waits_for_a_driver_that_is_not_there),
        NET_TEST(a_reset_forgets_what_waits),
        NET_TEST(a_buffer_that_is_too_small_needs_a_reset),
        NET_TEST(a_buffer_the_card_may_not_write_needs_a_reset),
        NET_TEST(a_broken_ring_needs_a_reset),
        NET_TEST(what_the_card_cannot_do_is_refused),
        NET_TEST(half_a_command_needs_a_reset),
        NET_TEST(a_command_without_room_for_the_answer_needs_a_reset),
        NET_TEST(without_its_feature_there_is_no_control_queue),
        NET_TEST(a_driver_that_moved_is_asked_to_announce_itself),
        NET_TEST(what_is_asked_for_is_saved),
        NET_TEST(a_driver_that_starts_anew_is_asked_for_nothing),
        NET_TEST(for_one_that_cannot_the_card_does),
        NET_TEST(nobody_is_announced_without_a_driver),
        NET_TEST(what_waited_is_lost_by_a_restore),
        NET_TEST(a_driver_is_told_when_the_link_is_not_as_it_was),
        NET_TEST(connections_of_a_restored_guest_are_reset),
        NET_TEST(a_network_that_knows_the_connections_resets_nothing),
        NET_TEST(a_state_that_cannot_be_is_refused),
        NET_TEST(a_driver_is_told_when_the_address_is_not_as_it_was),
        NET_TEST(the_golden_state_of_version_1_restores),
        NET_TEST(the_golden_state_restores_to_the_same_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
