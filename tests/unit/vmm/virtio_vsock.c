/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock between a driver and a host's end that only notes what it is told. */
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE 16u
#define SLOT 5
#define CID 3u
#define HEADER VSOCK_HEADER_SIZE
#define EVENT_BUFFERS 8u

/* The transmit and event queues; the fixture's own is the receive queue. */
#define RINGS(queue) (0x16000u + 0x3000u * ((queue)-1))
#define DESC(queue) RINGS(queue)
#define AVAIL(queue) (RINGS(queue) + 0x1000u)
#define USED(queue) (RINGS(queue) + 0x2000u)
#define TX 1u
#define EVENT 2u
#define EVENT_DATA 0x1f000u
#define TX_DATA 0x100000u

#ifndef STASIS_GOLDEN
#error "where are the golden files?"
#endif

struct guest {
    struct driver d;
    uint16_t offered[3];
    /* the host's end */
    struct vsock_queue arrived;
    bool has_room;
    bool room;
    unsigned room_changes;
    unsigned resets;
    uint32_t epoch;
};

static void on_send(struct vsock_packet *packet, void *context)
{
    struct guest *g = context;

    vsock_queue_put(&g->arrived, packet);
}

static bool on_has_room(void *context)
{
    const struct guest *g = context;

    return g->has_room;
}

static void on_set_room(bool room, void *context)
{
    struct guest *g = context;

    g->room = room;
    g->room_changes++;
}

static void on_reset(uint32_t epoch, void *context)
{
    struct guest *g = context;

    g->resets++;
    g->epoch = epoch;
    g->room = true;
}

static uint8_t *at(struct guest *g, uint64_t gpa)
{
    return g->d.mem->hva + gpa;
}

static void plug(struct guest *g)
{
    const struct vsock_backend backend = {.send = on_send,
                                          .has_room = on_has_room,
                                          .set_room = on_set_room,
                                          .reset = on_reset,
                                          .context = g};
    struct irq_line irq = irq_probe_line(&g->d.irq, 21);

    g->d.dev = virtio_vsock_create(SLOT, CID, g->d.mem, &irq);
    virtio_vsock_plug(g->d.dev, &backend);
}

static void start_queue(struct guest *g, unsigned queue)
{
    memset(at(g, AVAIL(queue)), 0, 0x1000);
    memset(at(g, USED(queue)), 0, 0x1000);
    g->offered[queue] = 0;
    driver_out(&g->d, R_QUEUE_SEL, queue);
    driver_out(&g->d, R_QUEUE_NUM, QUEUE);
    driver_out(&g->d, R_DESC, DESC(queue));
    driver_out(&g->d, R_AVAIL, AVAIL(queue));
    driver_out(&g->d, R_USED, USED(queue));
    driver_out(&g->d, R_QUEUE_READY, 1);
}

static void offer(struct guest *g, unsigned queue, uint16_t head)
{
    store_le16(at(g, AVAIL(queue) + 4 + 2u * (g->offered[queue] % QUEUE)), head);
    store_le16(at(g, AVAIL(queue) + 2), ++g->offered[queue]);
}

static uint16_t used_count(struct guest *g, unsigned queue)
{
    return load_le16(at(g, USED(queue) + 2));
}

static void offer_event_buffer(struct guest *g, uint16_t index)
{
    driver_desc(&g->d, DESC(EVENT), index, EVENT_DATA + 4u * index, 4, DESC_WRITE, 0);
    offer(g, EVENT, index);
}

static void start_driver(struct guest *g, unsigned event_buffers)
{
    memset(at(g, DRIVER_AVAIL), 0, 0x1000);
    memset(at(g, DRIVER_USED), 0, 0x1000);
    g->d.offered = g->d.seen = 0;
    driver_start(&g->d, QUEUE, 0);
    start_queue(g, TX);
    start_queue(g, EVENT);
    for (uint16_t i = 0; i < event_buffers; i++)
        offer_event_buffer(g, i);
    virtio_vsock_hold(g->d.dev, false);
    irq_probe_take(&g->d.irq);
}

static int set_up(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));

    g->has_room = true;
    driver_init(&g->d);
    plug(g);
    start_driver(g, EVENT_BUFFERS);
    *state = g;
    return 0;
}

static int tear_down(void **state)
{
    struct guest *g = *state;

    vsock_queue_clear(&g->arrived);
    driver_clear(&g->d);
    free(g);
    return 0;
}

static bool needs_reset(struct guest *g)
{
    return (driver_in(&g->d, R_STATUS) & S_NEEDS_RESET) != 0;
}

static void clear_dirty(struct guest *g)
{
    memset(g->d.mem->device_dirty, 0, g->d.mem->dirty_words * 8);
}

static bool anything_dirty(struct guest *g)
{
    for (uint64_t i = 0; i < g->d.mem->dirty_words; i++)
        if (g->d.mem->device_dirty[i] != 0)
            return true;
    return false;
}

/* ---- transmit ---- */

static const struct vsock_header sample = {
    .guest_cid = CID,
    .peer_cid = VSOCK_HOST_CID,
    .guest_port = 0x11223344,
    .peer_port = 0x55667788,
    .type = VSOCK_TYPE_STREAM,
    .op = VSOCK_RW,
    .flags = 0x99aabbcc,
    .buf_alloc = 0x01020304,
    .fwd_cnt = 0xfffefdfc,
};

/* As the guest writes it: 5.10.6. */
static void write_header(uint8_t *p, const struct vsock_header *h, uint32_t length)
{
    store_le64(p, h->guest_cid);
    store_le64(p + 8, h->peer_cid);
    store_le32(p + 16, h->guest_port);
    store_le32(p + 20, h->peer_port);
    store_le32(p + 24, length);
    store_le16(p + 28, h->type);
    store_le16(p + 30, h->op);
    store_le32(p + 32, h->flags);
    store_le32(p + 36, h->buf_alloc);
    store_le32(p + 40, h->fwd_cnt);
}

static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed + i * 7 + i / 256);
}

/* Offers what lies at TX_DATA, in pieces, and kicks. */
static void send_pieces(struct guest *g, const uint32_t *lengths, uint16_t count)
{
    uint32_t gpa = TX_DATA;

    for (uint16_t i = 0; i < count; i++) {
        driver_desc(&g->d, DESC(TX), i, gpa, lengths[i], i + 1 < count ? DESC_NEXT : 0,
                    (uint16_t)(i + 1));
        gpa += lengths[i];
    }
    offer(g, TX, 0);
    virtio_kick(g->d.dev);
}

/* A packet that says it has `says` bytes in a chain of `length` behind the header. */
static void send_packet(struct guest *g, uint32_t says, uint32_t length)
{
    const uint32_t whole = HEADER + length;

    write_header(at(g, TX_DATA), &sample, says);
    fill(at(g, TX_DATA + HEADER), length, 5);
    send_pieces(g, &whole, 1);
}

static void assert_header_equal(const struct vsock_header *a, const struct vsock_header *b)
{
    assert_int_equal(a->guest_cid, b->guest_cid);
    assert_int_equal(a->peer_cid, b->peer_cid);
    assert_int_equal(a->guest_port, b->guest_port);
    assert_int_equal(a->peer_port, b->peer_port);
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->op, b->op);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->buf_alloc, b->buf_alloc);
    assert_int_equal(a->fwd_cnt, b->fwd_cnt);
}

static void says_its_address(void **state)
{
    struct guest *g = *state;

    assert_int_equal(driver_in(&g->d, R_DEVICE_ID), 19);
    assert_int_equal(driver_in(&g->d, R_CONFIG), CID);
    assert_int_equal(driver_in(&g->d, R_CONFIG + 4), 0);
}

static void what_the_guest_sends_reaches_the_host(void **state)
{
    static const uint32_t lengths[] = {0, 1, 4096, VSOCK_WINDOW};
    struct guest *g = *state;
    uint8_t *want = malloc(VSOCK_WINDOW);

    fill(want, VSOCK_WINDOW, 5);
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        send_packet(g, lengths[i], lengths[i]);
        _cleanup_free_ struct vsock_packet *packet = vsock_queue_take(&g->arrived);
        assert_non_null(packet);
        assert_header_equal(&packet->header, &sample);
        assert_int_equal(packet->length, lengths[i]);
        assert_memory_equal(packet->bytes, want, lengths[i]);
        assert_int_equal(irq_probe_take(&g->d.irq), 1);
    }
    assert_int_equal(used_count(g, TX), ARRAY_LEN(lengths));
    free(want);
}

static void packets_may_be_cut_anywhere(void **state)
{
    static const uint32_t cuts[] = {3, 40, 2, 500, 12};
    struct guest *g = *state;
    uint8_t want[513];

    write_header(at(g, TX_DATA), &sample, 513);
    fill(at(g, TX_DATA + HEADER), 513, 9);
    fill(want, 513, 9);
    send_pieces(g, cuts, ARRAY_LEN(cuts));
    _cleanup_free_ struct vsock_packet *packet = vsock_queue_take(&g->arrived);
    assert_non_null(packet);
    assert_header_equal(&packet->header, &sample);
    assert_int_equal(packet->length, 513);
    assert_memory_equal(packet->bytes, want, 513);
}

static void what_follows_a_packet_in_its_chain_is_ignored(void **state)
{
    struct guest *g = *state;

    send_packet(g, 10, 100);
    assert_int_equal(g->arrived.count, 1);
    assert_int_equal(g->arrived.first->length, 10);
    assert_false(needs_reset(g));
}

static void a_packet_that_is_shorter_than_it_says_needs_a_reset(void **state)
{
    struct guest *g = *state;

    send_packet(g, 101, 100);
    assert_true(needs_reset(g));
    assert_int_equal(g->arrived.count, 0);
}

static void a_packet_that_says_it_has_all_memory_needs_a_reset(void **state)
{
    struct guest *g = *state;

    send_packet(g, UINT32_MAX, 100);
    assert_true(needs_reset(g));
}

static void a_packet_without_a_whole_header_needs_a_reset(void **state)
{
    const uint32_t cut = HEADER - 1;
    struct guest *g = *state;

    send_pieces(g, &cut, 1);
    assert_true(needs_reset(g));
    assert_int_equal(g->arrived.count, 0);
}

/* Its connection is to be ended by who knows it. */
static void a_packet_beyond_all_credit_means_nothing(void **state)
{
    struct guest *g = *state;

    send_packet(g, VSOCK_WINDOW + 1, VSOCK_WINDOW + 1);
    assert_false(needs_reset(g));
    assert_int_equal(g->arrived.count, 1);
    assert_int_equal(g->arrived.first->header.op, VSOCK_INVALID);
    assert_int_equal(g->arrived.first->header.guest_port, sample.guest_port);
    assert_int_equal(g->arrived.first->length, 0);
}

static void packets_stay_in_the_ring_while_the_host_has_no_room(void **state)
{
    struct guest *g = *state;

    g->has_room = false;
    send_packet(g, 10, 10);
    assert_int_equal(g->arrived.count, 0);
    assert_int_equal(used_count(g, TX), 0);
    g->has_room = true;
    virtio_vsock_kick(g->d.dev);
    assert_int_equal(g->arrived.count, 1);
}

static void broken_rings_need_a_reset(void **state)
{
    struct guest *g = *state;

    store_le16(at(g, AVAIL(TX) + 2), QUEUE + 1);
    virtio_kick(g->d.dev);
    assert_true(needs_reset(g));
}

/* ---- receive ---- */

static void offer_buffer(struct guest *g, uint32_t length)
{
    const uint16_t index = g->d.offered % QUEUE;

    driver_desc(&g->d, DRIVER_DESC, index, DRIVER_DATA + 0x2000u * index, length, DESC_WRITE, 0);
    driver_offer(&g->d, QUEUE, index);
}

static bool deliver(struct guest *g, uint32_t length, uint64_t seed)
{
    struct vsock_packet *packet = vsock_packet_new(&sample, length);

    fill(packet->bytes, length, seed);
    packet->epoch = g->epoch;
    return virtio_vsock_receive(g->d.dev, packet);
}

/* The next buffer that came back: its payload's length, -1 if there is none. */
static int got(struct guest *g, const uint8_t **payload_out)
{
    uint8_t want[HEADER];
    uint32_t head, written;

    if (!driver_take(&g->d, QUEUE, &head, &written))
        return -1;
    const uint8_t *buffer = at(g, DRIVER_DATA + 0x2000u * head);
    assert_true(written >= HEADER);
    struct vsock_header turned = sample;
    turned.guest_cid = sample.peer_cid;
    turned.peer_cid = sample.guest_cid;
    turned.guest_port = sample.peer_port;
    turned.peer_port = sample.guest_port;
    write_header(want, &turned, written - HEADER);
    assert_memory_equal(buffer, want, HEADER);
    *payload_out = buffer + HEADER;
    return (int)(written - HEADER);
}

static bool got_packet(struct guest *g, uint32_t length, uint64_t seed)
{
    const uint8_t *payload;
    uint8_t want[4096];

    if (got(g, &payload) != (int)length)
        return false;
    fill(want, length, seed);
    assert_memory_equal(payload, want, length);
    return true;
}

static void what_the_host_sends_reaches_the_guest(void **state)
{
    struct guest *g = *state;

    offer_buffer(g, HEADER + 4096);
    offer_buffer(g, HEADER + 4096);
    virtio_kick(g->d.dev);
    assert_int_equal(irq_probe_take(&g->d.irq), 0);
    clear_dirty(g);
    assert_true(deliver(g, 0, 0));
    assert_true(got_packet(g, 0, 0));
    assert_true(anything_dirty(g));
    assert_true(deliver(g, 1000, 3));
    assert_true(got_packet(g, 1000, 3));
    assert_int_equal(irq_probe_take(&g->d.irq), 2);
}

static void a_long_packet_takes_as_many_buffers_as_it_needs(void **state)
{
    static const uint32_t parts[] = {4096, 4096, 1, 1807};
    struct guest *g = *state;
    uint8_t want[10000];
    const uint8_t *payload;
    size_t done = 0;

    fill(want, sizeof(want), 4);
    assert_true(deliver(g, sizeof(want), 4));
    assert_true(deliver(g, 5, 1));
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        assert_int_equal(got(g, &payload), -1);
        offer_buffer(g, HEADER + parts[i]);
        virtio_kick(g->d.dev);
        assert_int_equal(got(g, &payload), parts[i]);
        assert_memory_equal(payload, want + done, parts[i]);
        done += parts[i];
    }
    assert_int_equal(done, sizeof(want));
    offer_buffer(g, HEADER + 4096);
    virtio_kick(g->d.dev);
    assert_true(got_packet(g, 5, 1));
}

static void a_buffer_without_room_needs_a_reset(void **state)
{
    struct guest *g = *state;

    offer_buffer(g, HEADER - 1);
    deliver(g, 0, 0);
    assert_true(needs_reset(g));
}

static void a_buffer_for_nothing_but_headers_needs_a_reset(void **state)
{
    struct guest *g = *state;

    offer_buffer(g, HEADER);
    deliver(g, 0, 0);
    assert_false(needs_reset(g));
    offer_buffer(g, HEADER);
    deliver(g, 1, 0);
    assert_true(needs_reset(g));
}

static void the_host_is_told_of_room(void **state)
{
    struct guest *g = *state;
    const uint8_t *payload;
    unsigned given = 0;

    while (g->room && given < 1000) {
        deliver(g, 4096, 1);
        given++;
    }
    assert_in_range(given, 10, 100);
    assert_int_equal(g->room_changes, 1);
    for (unsigned i = 0; i < given; i++) {
        offer_buffer(g, HEADER + 4096);
        virtio_kick(g->d.dev);
        assert_int_equal(got(g, &payload), 4096);
        if (i == 0)
            assert_false(g->room); /* not for each of them */
    }
    assert_true(g->room);
    assert_int_equal(g->room_changes, 2);
}

static void without_a_driver_there_is_nobody_to_give_to(void **state)
{
    struct guest *g = *state;

    driver_out(&g->d, R_STATUS, 0);
    assert_false(deliver(g, 1, 1));
    driver_out(&g->d, R_STATUS, S_ACKNOWLEDGE | S_DRIVER);
    assert_false(deliver(g, 1, 1));
}

static void a_confused_driver_gets_nothing(void **state)
{
    struct guest *g = *state;

    send_packet(g, 101, 100);
    assert_true(needs_reset(g));
    assert_false(deliver(g, 1, 1));
}

static void a_driver_that_starts_afresh_has_no_connections(void **state)
{
    struct guest *g = *state;
    const unsigned resets = g->resets;
    const uint32_t epoch = g->epoch;

    deliver(g, 5, 1);
    start_driver(g, EVENT_BUFFERS);
    assert_true(g->resets > resets);
    assert_int_not_equal(g->epoch, epoch);
    offer_buffer(g, HEADER + 4096);
    virtio_kick(g->d.dev);
    assert_false(got_packet(g, 5, 1));
    /* What was under way when it started. */
    const uint32_t now = g->epoch;
    g->epoch = epoch;
    assert_true(deliver(g, 6, 1));
    g->epoch = now;
    assert_true(deliver(g, 7, 1));
    assert_true(got_packet(g, 7, 1));
}

/* ---- held ---- */

static void a_device_that_is_held_touches_nothing(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);

    assert_true(saved.length > 0);
    offer_buffer(g, HEADER + 4096);
    virtio_vsock_hold(g->d.dev, true);
    clear_dirty(g);
    assert_true(deliver(g, 5, 1));
    send_packet(g, 10, 10);
    virtio_vsock_kick(g->d.dev);
    assert_false(anything_dirty(g));
    assert_int_equal(g->arrived.count, 0);
    assert_int_equal(irq_probe_take(&g->d.irq), 0);
    virtio_vsock_hold(g->d.dev, false);
    assert_true(got_packet(g, 5, 1));
    assert_int_equal(g->arrived.count, 1);
}

static void a_machine_that_goes_on_after_a_save_keeps_its_connections(void **state)
{
    struct guest *g = *state;
    const unsigned resets = g->resets;

    offer_buffer(g, HEADER + 4096);
    virtio_vsock_hold(g->d.dev, true);
    deliver(g, 5, 1);
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
    assert_true(saved.length > 0);
    virtio_vsock_hold(g->d.dev, false);
    assert_true(got_packet(g, 5, 1));
    assert_int_equal(g->resets, resets);
    assert_int_equal(used_count(g, EVENT), 0);
}

/* ---- restored ---- */

/* A machine that was saved a moment ago. */
static void put_back(struct guest *g)
{
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);

    virtio_vsock_hold(g->d.dev, true);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    virtio_vsock_hold(g->d.dev, false);
}

static void give_event_buffer_back(struct guest *g)
{
    offer_event_buffer(g, 0);
    virtio_kick(g->d.dev);
}

static void a_restored_driver_is_told_that_connections_are_gone(void **state)
{
    struct guest *g = *state;
    const unsigned resets = g->resets;

    memset(at(g, EVENT_DATA), 0xee, 4);
    put_back(g);
    assert_true(g->resets > resets);
    assert_int_equal(used_count(g, EVENT), 1);
    assert_int_equal(load_le32(at(g, USED(EVENT) + 8)), 4); /* bytes */
    assert_int_equal(load_le32(at(g, EVENT_DATA)), 0);      /* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET */
    assert_true(irq_probe_take(&g->d.irq) >= 1);
    give_event_buffer_back(g);
    virtio_kick(g->d.dev);
    assert_int_equal(used_count(g, EVENT), 1); /* once */
}

static void what_waited_before_a_restore_is_lost(void **state)
{
    struct guest *g = *state;

    deliver(g, 5, 1);
    put_back(g);
    give_event_buffer_back(g);
    offer_buffer(g, HEADER + 4096);
    virtio_kick(g->d.dev);
    assert_false(got_packet(g, 5, 1));
}

static void no_packet_comes_before_the_driver_has_taken_note(void **state)
{
    struct guest *g = *state;

    offer_buffer(g, HEADER + 4096);
    put_back(g);
    assert_true(deliver(g, 5, 1));
    virtio_kick(g->d.dev);
    assert_false(got_packet(g, 5, 1));
    send_packet(g, 10, 10); /* the guest's own go on meanwhile */
    assert_int_equal(g->arrived.count, 1);
    give_event_buffer_back(g);
    assert_true(got_packet(g, 5, 1));
}

static void the_event_waits_for_a_buffer(void **state)
{
    struct guest *g = *state;

    start_driver(g, 0);
    put_back(g);
    offer_buffer(g, HEADER + 4096);
    assert_true(deliver(g, 5, 1));
    assert_int_equal(used_count(g, EVENT), 0);
    offer_event_buffer(g, 0);
    virtio_kick(g->d.dev);
    assert_int_equal(used_count(g, EVENT), 1);
    assert_false(got_packet(g, 5, 1));
    give_event_buffer_back(g);
    assert_true(got_packet(g, 5, 1));
}

/* 2.7.10: otherwise it need not say that it has given the buffer back. */
static void a_driver_with_event_indices_is_asked_to_say_so(void **state)
{
    struct guest *g = *state;

    g->d.event_index = true;
    start_driver(g, EVENT_BUFFERS);
    put_back(g);
    assert_int_equal(used_count(g, EVENT), 1);
    assert_int_equal(load_le16(at(g, USED(EVENT) + 4 + 8u * QUEUE)), EVENT_BUFFERS);
}

static void saved_with_the_event_under_way_it_is_not_told_again(void **state)
{
    struct guest *g = *state;

    put_back(g);
    put_back(g);
    put_back(g);
    assert_int_equal(used_count(g, EVENT), 1);
    offer_buffer(g, HEADER + 4096);
    deliver(g, 5, 1);
    assert_false(got_packet(g, 5, 1));
    give_event_buffer_back(g);
    assert_true(got_packet(g, 5, 1));
    put_back(g); /* a new one, because there may be connections again */
    assert_int_equal(used_count(g, EVENT), 2);
}

static void a_driver_that_starts_afresh_needs_no_event(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);

    virtio_vsock_hold(g->d.dev, true);
    assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
    start_driver(g, EVENT_BUFFERS);
    assert_int_equal(used_count(g, EVENT), 0);
    offer_buffer(g, HEADER + 4096);
    deliver(g, 5, 1);
    assert_true(got_packet(g, 5, 1));
}

static void what_is_restored_is_saved_the_same(void **state)
{
    struct guest *g = *state;

    for (unsigned sent = 0; sent < 2; sent++) {
        _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
        virtio_vsock_hold(g->d.dev, true);
        assert_int_equal(device_restore(g->d.dev, &saved, NULL), 0);
        _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
        assert_int_equal(again.length, saved.length);
        assert_memory_equal(again.data, saved.data, saved.length);
        virtio_vsock_hold(g->d.dev, false); /* sends the event */
    }
}

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

/* The payload, 8 + 2 + 2 bytes and padding of 4, comes last. */
static void a_state_out_of_range_is_refused(void **state)
{
    struct guest *g = *state;

    assert_int_equal(restore_changed(g, 16, 4), -EBADMSG); /* another guest's address */
    assert_int_equal(driver_in(&g->d, R_STATUS), 0);
    assert_int_equal(restore_changed(g, 8, 2), -EBADMSG);
    assert_int_equal(restore_changed(g, 6, 1), -EBADMSG); /* a place without an event */
    assert_int_equal(restore_changed(g, 8, 1), 0);
}

static void the_golden_state_restores(void **state)
{
    struct guest *g = *state;
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(
        io_read_file(AT_FDCWD, STASIS_GOLDEN "/device-virtio-vsock-1.state", 4096, &bytes, &length),
        0);
    assert_int_equal(state_check(bytes, length, NULL), 0);
    virtio_vsock_hold(g->d.dev, true);
    assert_int_equal(g->d.dev->ops->restore(g->d.dev, bytes, length, NULL), 0);
    assert_int_equal(driver_in(&g->d, R_STATUS), 15);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    assert_int_equal(again.length, length);
    assert_memory_equal(again.data, bytes, length);
    /* One event was under way, for which the driver had offered 8 buffers. */
    virtio_vsock_hold(g->d.dev, false);
    offer_buffer(g, HEADER + 4096);
    assert_true(deliver(g, 5, 1));
    assert_false(got_packet(g, 5, 1));
    give_event_buffer_back(g);
    assert_true(got_packet(g, 5, 1));
}

int main(void)
{
#define VSOCK_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(says_its_address),
        VSOCK_TEST(what_the_guest_sends_reaches_the_host),
        VSOCK_TEST(packets_may_be_cut_anywhere),
        VSOCK_TEST(what_follows_a_packet_in_its_chain_is_ignored),
        VSOCK_TEST(a_packet_that_is_shorter_than_it_says_needs_a_reset),
        VSOCK_TEST(a_packet_that_says_it_has_all_memory_needs_a_reset),
        VSOCK_TEST(a_packet_without_a_whole_header_needs_a_reset),
        VSOCK_TEST(a_packet_beyond_all_credit_means_nothing),
        VSOCK_TEST(packets_stay_in_the_ring_while_the_host_has_no_room),
        VSOCK_TEST(broken_rings_need_a_reset),
        VSOCK_TEST(what_the_host_sends_reaches_the_guest),
        VSOCK_TEST(a_long_packet_takes_as_many_buffers_as_it_needs),
        VSOCK_TEST(a_buffer_without_room_needs_a_reset),
        VSOCK_TEST(a_buffer_for_nothing_but_headers_needs_a_reset),
        VSOCK_TEST(the_host_is_told_of_room),
        VSOCK_TEST(without_a_driver_there_is_nobody_to_give_to),
        VSOCK_TEST(a_confused_driver_gets_nothing),
        VSOCK_TEST(a_driver_that_starts_afresh_has_no_connections),
        VSOCK_TEST(a_device_that_is_held_touches_nothing),
        VSOCK_TEST(a_machine_that_goes_on_after_a_save_keeps_its_connections),
        VSOCK_TEST(a_restored_driver_is_told_that_connections_are_gone),
        VSOCK_TEST(what_waited_before_a_restore_is_lost),
        VSOCK_TEST(no_packet_comes_before_the_driver_has_taken_note),
        VSOCK_TEST(the_event_waits_for_a_buffer),
        VSOCK_TEST(a_driver_with_event_indices_is_asked_to_say_so),
        VSOCK_TEST(saved_with_the_event_under_way_it_is_not_told_again),
        VSOCK_TEST(a_driver_that_starts_afresh_needs_no_event),
        VSOCK_TEST(what_is_restored_is_saved_the_same),
        VSOCK_TEST(a_state_out_of_range_is_refused),
        VSOCK_TEST(the_golden_state_restores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
