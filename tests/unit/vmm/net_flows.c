/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of the guest's connections, and how they are reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/net/checksum.h"
#include "vmm/net/flows.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#ifndef STASIS_GOLDEN
#error "where are the golden files?"
#endif

enum { ACK = 0x10, PSH_ACK = 0x18, SYN = 0x02, RST = 0x04, SLOT = 2, IP = 14, TCP = 34 };

/* A segment of 10.0.2.15 to port 80 of 10.0.2.2. */
static void make_segment(uint8_t frame[60], uint16_t port, uint32_t acked, uint8_t flags)
{
    static const uint8_t start[] = {
        0x52, 0x55, 10, 0,  2, 2, 0x52, 0x54, 0,  0x12, 0x34, 0x56, 8,  0, /* Ethernet */
        0x45, 0,    0,  40, 0, 0, 0,    0,    64, 6,    0,    0,    10, 0, 2, 15, 10, 0, 2, 2,
    };

    memset(frame, 0, 60);
    memcpy(frame, start, sizeof(start));
    store_be16(frame + TCP, port);
    store_be16(frame + TCP + 2, 80);
    store_be32(frame + TCP + 8, acked);
    frame[TCP + 12] = 5 << 4;
    frame[TCP + 13] = flags;
}

static void guest_sends(struct flows *flows, uint16_t port, uint32_t acked, uint8_t flags)
{
    uint8_t frame[60];

    make_segment(frame, port, acked, flags);
    assert_true(flows_sent(flows, frame, sizeof(frame), NULL));
}

static uint16_t port_of(const struct flows *flows, uint32_t index)
{
    return load_be16(flows->list[index].ends + 8);
}

/* ---- what is remembered ---- */

static void a_connection_is_remembered_with_what_was_acknowledged_last(void **state)
{
    struct flows flows = {0};

    (void)state;
    guest_sends(&flows, 1000, 5, ACK);
    guest_sends(&flows, 1000, 77, PSH_ACK);
    assert_int_equal(flows.count, 1);
    assert_int_equal(port_of(&flows, 0), 1000);
    assert_int_equal(flows.list[0].acked, 77);
}

static void what_begins_a_connection_is_sent_again_anyway(void **state)
{
    struct flows flows = {0};

    (void)state;
    guest_sends(&flows, 1000, 0, SYN);
    assert_int_equal(flows.count, 0);
    guest_sends(&flows, 1000, 1, SYN | ACK); /* that of a server is not */
    assert_int_equal(flows.count, 1);
}

static void a_reset_by_the_guest_ends_a_connection(void **state)
{
    struct flows flows = {0};

    (void)state;
    for (uint16_t port = 1; port <= 3; port++)
        guest_sends(&flows, port, 1, ACK);
    guest_sends(&flows, 2, 1, RST | ACK);
    guest_sends(&flows, 9, 1, RST); /* of one that is not known */
    assert_int_equal(flows.count, 2);
    assert_int_equal(port_of(&flows, 0), 3);
    assert_int_equal(port_of(&flows, 1), 1);
}

static void those_not_heard_of_for_longest_make_room(void **state)
{
    struct flows flows = {0};

    (void)state;
    for (uint16_t port = 1; port <= FLOWS_MAX; port++)
        guest_sends(&flows, port, 1, ACK);
    guest_sends(&flows, 1, 2, ACK);
    guest_sends(&flows, FLOWS_MAX + 1, 1, ACK);
    assert_int_equal(flows.count, FLOWS_MAX);
    assert_int_equal(port_of(&flows, 0), FLOWS_MAX + 1);
    assert_int_equal(port_of(&flows, 1), 1);
    assert_int_equal(port_of(&flows, 2), FLOWS_MAX);
    assert_int_equal(port_of(&flows, FLOWS_MAX - 1), 3);
}

static void only_whole_tcp_headers_count(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
    } changes[] = {
        {13, 6},      /* ARP */
        {IP, 0x65},   /* IPv6, or what */
        {IP, 0x44},   /* too short a header */
        {IP, 0x4f},   /* options that leave no room for TCP */
        {IP + 9, 17}, /* UDP */
    };
    struct flows flows = {0};
    uint8_t frame[60];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        make_segment(frame, 1000, 1, ACK);
        frame[changes[i].at] = changes[i].value;
        assert_true(flows_sent(&flows, frame, sizeof(frame), NULL));
    }
    make_segment(frame, 1000, 1, ACK);
    for (size_t length = 0; length < TCP + 20; length++)
        assert_true(flows_sent(&flows, frame, length, NULL));
    assert_int_equal(flows.count, 0);
    assert_true(flows_sent(&flows, frame, TCP + 20, NULL));
    assert_int_equal(flows.count, 1);
}

/* ---- resets ---- */

static void assert_is_reset(const uint8_t *frame, uint32_t sequence)
{
    uint8_t pseudo[32] = {0};

    assert_memory_equal(frame, "\x52\x54\x00\x12\x34\x56\x52\x55\x0a\x00\x02\x02\x08\x00", IP);
    assert_memory_equal(frame + IP + 12, "\x0a\x00\x02\x02\x0a\x00\x02\x0f", 8);
    assert_int_equal(load_be16(frame + IP + 2), 40);
    assert_int_equal(load_be16(frame + TCP), 80);
    assert_int_equal(load_be16(frame + TCP + 2), 1000);
    assert_int_equal(load_be32(frame + TCP + 4), sequence);
    assert_int_equal(frame[TCP + 12], 5 << 4);
    assert_int_equal(frame[TCP + 13], RST);
    /* With the checksums in, the sums are zero. */
    assert_int_equal(internet_checksum(frame + IP, 20), 0);
    memcpy(pseudo, frame + IP + 12, 8);
    pseudo[9] = 6;
    pseudo[11] = 20;
    memcpy(pseudo + 12, frame + TCP, 20);
    assert_int_equal(internet_checksum(pseudo, sizeof(pseudo)), 0);
}

static void a_reset_is_what_the_guest_waits_for(void **state)
{
    uint8_t reset[FLOW_RESET_SIZE];
    struct flows flows = {0};

    (void)state;
    guest_sends(&flows, 1000, 77, ACK);
    flows_reset(&flows, 0, reset);
    assert_is_reset(reset, 77);
}

/* It had not acknowledged all that had come to it. */
static void what_comes_of_a_lost_connection_is_answered_by_a_reset(void **state)
{
    uint8_t frame[60], reset[FLOW_RESET_SIZE];
    struct flows flows = {0};

    (void)state;
    guest_sends(&flows, 1000, 77, ACK);
    flows_lose(&flows);
    make_segment(frame, 1000, 99, PSH_ACK);
    for (unsigned i = 0; i < 2; i++) {
        memset(reset, 0, sizeof(reset));
        assert_false(flows_sent(&flows, frame, sizeof(frame), reset));
        assert_is_reset(reset, 99);
    }
    guest_sends(&flows, 1001, 5, ACK); /* others are not lost */
}

static void a_new_connection_of_the_same_ends_is_not_lost(void **state)
{
    struct flows flows = {0};

    (void)state;
    guest_sends(&flows, 1000, 77, ACK);
    flows_lose(&flows);
    guest_sends(&flows, 1000, 0, SYN);
    guest_sends(&flows, 1000, 5, ACK);
    assert_int_equal(flows.count, 1);
    assert_false(flows.list[0].lost);
}

/* ---- state ---- */

static struct buffer save(const struct flows *flows)
{
    struct buffer out = {0};
    struct state_writer w;

    state_writer_init(&w);
    flows_save(flows, SLOT, &w);
    assert_int_equal(state_writer_finish(&w, &out), 0);
    assert_int_equal(state_check(out.data, out.length, NULL), 0);
    return out;
}

static void what_is_saved_comes_back_in_order(void **state)
{
    struct flows flows = {0}, again = {.count = 7};

    (void)state;
    for (uint16_t port = 1; port <= 20; port++)
        guest_sends(&flows, port, port * 1000u, ACK);
    _cleanup_(buffer_clear) struct buffer saved = save(&flows);
    assert_int_equal(flows_restore(&again, SLOT, saved.data, saved.length, NULL), 0);
    assert_int_equal(port_of(&again, 19), 1);
    _cleanup_(buffer_clear) struct buffer twice = save(&again);
    assert_int_equal(twice.length, saved.length);
    assert_memory_equal(twice.data, saved.data, saved.length);
    assert_int_equal(flows_restore(&again, SLOT + 1, saved.data, saved.length, NULL), 0);
    assert_int_equal(again.count, 0);
}

static void nothing_is_saved_of_no_connections(void **state)
{
    struct flows flows = {0};
    struct state_record record;

    (void)state;
    _cleanup_(buffer_clear) struct buffer saved = save(&flows);
    assert_int_equal(state_find(saved.data, saved.length, STATE_NET_CONNECTIONS, SLOT, &record),
                     -ENOENT);
}

static struct buffer record_of(uint32_t count, uint32_t entries)
{
    static const uint8_t entry[16], macs[12];
    struct buffer out = {0};
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_NET_CONNECTIONS, SLOT, 1, STATE_FLAG_OPTIONAL);
    state_put_bytes(&w, macs, sizeof(macs));
    state_put_u32(&w, count);
    for (uint32_t i = 0; i < entries; i++)
        state_put_bytes(&w, entry, sizeof(entry));
    state_writer_end(&w);
    assert_int_equal(state_writer_finish(&w, &out), 0);
    return out;
}

static void a_record_that_cannot_be_is_refused(void **state)
{
    static const struct {
        uint32_t count, entries;
        int result;
    } cases[] = {
        {FLOWS_MAX, FLOWS_MAX, 0}, {FLOWS_MAX + 1, FLOWS_MAX + 1, -EBADMSG},
        {2, 1, -EBADMSG},          {1, 2, -EBADMSG},
        {UINT32_MAX, 0, -EBADMSG},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(buffer_clear) struct buffer saved = record_of(cases[i].count, cases[i].entries);
        struct flows flows = {.count = 7};
        assert_int_equal(flows_restore(&flows, SLOT, saved.data, saved.length, NULL),
                         cases[i].result);
        assert_int_equal(flows.count, cases[i].result == 0 ? cases[i].count : 0);
    }
}

static void the_golden_state_restores(void **state)
{
    _cleanup_free_ char *bytes = NULL;
    struct flows flows;
    size_t length;

    (void)state;
    assert_int_equal(io_read_file(AT_FDCWD, STASIS_GOLDEN "/device-net-connections-1.state", 4096,
                                  &bytes, &length),
                     0);
    assert_int_equal(state_check(bytes, length, NULL), 0);
    assert_int_equal(flows_restore(&flows, SLOT, bytes, length, NULL), 0);
    assert_int_equal(flows.count, 2);
    assert_int_equal(port_of(&flows, 0), 1001);
    assert_int_equal(flows.list[1].acked, 5000);
    _cleanup_(buffer_clear) struct buffer again = save(&flows);
    assert_int_equal(again.length, length);
    assert_memory_equal(again.data, bytes, length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connection_is_remembered_with_what_was_acknowledged_last),
        cmocka_unit_test(what_begins_a_connection_is_sent_again_anyway),
        cmocka_unit_test(a_reset_by_the_guest_ends_a_connection),
        cmocka_unit_test(those_not_heard_of_for_longest_make_room),
        cmocka_unit_test(only_whole_tcp_headers_count),
        cmocka_unit_test(a_reset_is_what_the_guest_waits_for),
        cmocka_unit_test(what_comes_of_a_lost_connection_is_answered_by_a_reset),
        cmocka_unit_test(a_new_connection_of_the_same_ends_is_not_lost),
        cmocka_unit_test(what_is_saved_comes_back_in_order),
        cmocka_unit_test(nothing_is_saved_of_no_connections),
        cmocka_unit_test(a_record_that_cannot_be_is_refused),
        cmocka_unit_test(the_golden_state_restores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
