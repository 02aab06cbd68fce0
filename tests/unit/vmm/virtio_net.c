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

#ifndef STASIS_GOLDEN
#error "where are the golden files?"
#endif

static const uint8_t mac[MANIFEST_MAC_SIZE] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct guest {
    struct driver d;
    uint16_t sent;    /* chains put into the transmit queue */
    unsigned arrived; /* frames at the network */
    size_t length;    /* of the last one */
    uint8_t frame[FRAME_SIZE_MAX];
};

static void on_send(const uint8_t *frame, size_t length, void *context)
{
    struct guest *g = context;

    assert_in_range(length, FRAME_SIZE_MIN, FRAME_SIZE_MAX);
    g->arrived++;
    g->length = length;
    memcpy(g->frame, frame, length);
}

static void plug(struct guest *g, bool link)
{
    const struct net_backend backend = {.send = on_send, .context = g};
    struct irq_line irq = irq_probe_line(&g->d.irq, 21);

    g->d.dev = virtio_net_create(SLOT, mac, link ? &backend : NULL, g->d.mem, &irq);
}

static void start_driver(struct guest *g)
{
    driver_start(&g->d, QUEUE, 0);
    driver_out(&g->d, R_QUEUE_SEL, 1);
    driver_out(&g->d, R_QUEUE_NUM, QUEUE);
    driver_out(&g->d, R_DESC, TX_DESC);
    driver_out(&g->d, R_AVAIL, TX_AVAIL);
    driver_out(&g->d, R_USED, TX_USED);
    driver_out(&g->d, R_QUEUE_READY, 1);
    virtio_net_hold(g->d.dev, false);
    irq_probe_take(&g->d.irq);
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

static void segments_to_be_cut_are_lost(void **state)
{
    struct guest *g = *state;

    tx_header(g)[1] = VIRTIO_NET_HDR_GSO_TCPV4;
    assert_true(send_frame(g, 4000));
    assert_int_equal(g->arrived, 0);
}

static void ask_for_checksum(struct guest *g, uint16_t start, uint16_t offset)
{
    uint8_t *header = tx_header(g);

    header[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    store_le16(header + 6, start);
    store_le16(header + 8, offset);
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

static void a_card_without_a_link_loses_what_is_sent(void **state)
{
    struct guest *g = *state;

    g->d.dev->ops->destroy(g->d.dev);
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
    virtio_net_receive(g->d.dev, frame, length);
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

    g->d.dev->ops->destroy(g->d.dev);
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

/* ---- state ---- */

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

    g->d.dev->ops->destroy(g->d.dev);
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
    assert_int_equal(restore_changed(g, 2, 2), -EBADMSG);
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

static void the_golden_state_restores(void **state)
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
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    assert_int_equal(again.length, length);
    assert_memory_equal(again.data, bytes, length);
    /* Its receive ring goes on at 3. */
    g->d.offered = g->d.seen = 3;
    virtio_net_hold(g->d.dev, false);
    offer_buffer(g);
    deliver(g, 60, 1);
    assert_true(got_frame(g, 60, 1));
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
        NET_TEST(segments_to_be_cut_are_lost),
        NET_TEST(a_checksum_left_to_the_card_is_completed),
        NET_TEST(a_checksum_of_0_is_sent_as_ffff),
        NET_TEST(a_checksum_outside_of_the_frame_is_not_written),
        NET_TEST(a_card_without_a_link_loses_what_is_sent),
        NET_TEST(a_frame_from_the_network_comes_behind_a_header),
        NET_TEST(frames_wait_in_order_until_there_are_buffers),
        NET_TEST(only_so_much_waits),
        NET_TEST(what_is_written_is_noted_as_dirty),
        NET_TEST(a_card_that_is_held_writes_nothing),
        NET_TEST(a_card_is_held_until_the_machine_first_runs),
        NET_TEST(nothing_waits_for_a_driver_that_is_not_there),
        NET_TEST(a_reset_forgets_what_waits),
        NET_TEST(a_buffer_that_is_too_small_needs_a_reset),
        NET_TEST(a_buffer_the_card_may_not_write_needs_a_reset),
        NET_TEST(a_broken_ring_needs_a_reset),
        NET_TEST(what_waited_is_lost_by_a_restore),
        NET_TEST(a_driver_is_told_when_the_link_is_not_as_it_was),
        NET_TEST(a_state_that_cannot_be_is_refused),
        NET_TEST(a_driver_is_told_when_the_address_is_not_as_it_was),
        NET_TEST(the_golden_state_restores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
