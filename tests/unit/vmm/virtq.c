/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 8u

static int set_up(void **state)
{
    struct driver *d = malloc(sizeof(*d));

    driver_init(d);
    d->queue = (struct virtq){.size = SIZE,
                              .ready = true,
                              .desc_gpa = DRIVER_DESC,
                              .avail_gpa = DRIVER_AVAIL,
                              .used_gpa = DRIVER_USED};
    *state = d;
    return 0;
}

static int tear_down(void **state)
{
    driver_clear(*state);
    free(*state);
    return 0;
}

static struct virtq_chain chain; /* large */

static int pop(struct driver *d)
{
    return virtq_pop(&d->queue, d->mem, &chain);
}

static void an_empty_ring_gives_nothing(void **state)
{
    assert_int_equal(pop(*state), 0);
}

static void a_chain_comes_with_its_segments_in_order(void **state)
{
    struct driver *d = *state;

    driver_desc(d, DRIVER_DESC, 3, DRIVER_DATA, 16, DESC_NEXT, 5);
    driver_desc(d, DRIVER_DESC, 5, DRIVER_DATA + 0x100, 32, DESC_NEXT | DESC_WRITE, 0);
    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA + 0x200, 1, DESC_WRITE, 0);
    driver_offer(d, SIZE, 3);
    assert_int_equal(pop(d), 1);
    assert_int_equal(chain.head, 3);
    assert_int_equal(chain.count, 3);
    assert_int_equal(chain.readable_bytes, 16);
    assert_int_equal(chain.writable_bytes, 33);
    assert_ptr_equal(chain.segments[1].hva, d->mem->hva + DRIVER_DATA + 0x100);
    assert_int_equal(pop(d), 0);
}

static void the_rings_go_round_for_ever(void **state)
{
    struct driver *d = *state;
    uint32_t head, length;

    driver_desc(d, DRIVER_DESC, 1, DRIVER_DATA, 4, DESC_WRITE, 0);
    for (uint32_t i = 0; i < 200000; i++) { /* past the 16 bits of the indices */
        driver_offer(d, SIZE, 1);
        if (pop(d) != 1)
            fail_msg("chain %u is missing", i);
        virtq_push(&d->queue, d->mem, chain.head, i);
        assert_true(driver_take(d, SIZE, &head, &length));
        assert_int_equal(head, 1);
        assert_int_equal(length, i);
    }
}

static void a_full_ring_is_given_out_whole(void **state)
{
    struct driver *d = *state;

    d->offered = d->queue.next_avail = 65533;
    for (uint16_t i = 0; i < SIZE; i++) {
        driver_desc(d, DRIVER_DESC, i, DRIVER_DATA, 4, 0, 0);
        driver_offer(d, SIZE, i);
    }
    for (uint16_t i = 0; i < SIZE; i++) {
        assert_int_equal(pop(d), 1);
        assert_int_equal(chain.head, i);
    }
    assert_int_equal(pop(d), 0);
}

static void an_index_that_jumps_breaks_the_queue(void **state)
{
    struct driver *d = *state;

    d->offered = SIZE; /* one more than fits with the next */
    driver_offer(d, SIZE, 0);
    assert_int_equal(pop(d), -EPROTO);
    d->offered = UINT16_MAX - 1; /* backwards */
    driver_offer(d, SIZE, 0);
    assert_int_equal(pop(d), -EPROTO);
}

static void loops_end(void **state)
{
    struct driver *d = *state;

    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 4, DESC_NEXT, 0);
    driver_offer(d, SIZE, 0);
    assert_int_equal(pop(d), -EPROTO);
    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 0, DESC_NEXT, 1); /* of empty segments, too */
    driver_desc(d, DRIVER_DESC, 1, DRIVER_DATA, 0, DESC_NEXT, 0);
    assert_int_equal(pop(d), -EPROTO);
}

static void descriptors_outside_of_the_table_are_refused(void **state)
{
    struct driver *d = *state;

    driver_offer(d, SIZE, SIZE);
    assert_int_equal(pop(d), -EPROTO);
    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 4, DESC_NEXT, SIZE);
    store_le16(d->mem->hva + DRIVER_AVAIL + 4, 0);
    assert_int_equal(pop(d), -EPROTO);
    store_le16(d->mem->hva + DRIVER_AVAIL + 4, UINT16_MAX);
    assert_int_equal(pop(d), -EPROTO);
}

static void buffers_outside_of_ram_are_refused(void **state)
{
    static const struct {
        uint64_t gpa;
        uint32_t length;
    } bad[] = {
        {DRIVER_RAM, 1},  {DRIVER_RAM - 1, 2}, {DRIVER_RAM - 1, UINT32_MAX},
        {UINT64_MAX, 1},  {UINT64_MAX, 2},     {UINT64_MAX - 3, UINT32_MAX},
        {1ull << 63, 16}, {0, UINT32_MAX},     {0xd0000000, 1},
    };
    struct driver *d = *state;

    driver_offer(d, SIZE, 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        driver_desc(d, DRIVER_DESC, 0, bad[i].gpa, bad[i].length, 0, 0);
        assert_int_equal(pop(d), -EPROTO);
        driver_desc(d, DRIVER_DESC, 0, bad[i].gpa, bad[i].length, DESC_WRITE, 0);
        assert_int_equal(pop(d), -EPROTO);
    }
    driver_desc(d, DRIVER_DESC, 0, DRIVER_RAM - 1, 1, 0, 0);
    assert_int_equal(pop(d), 1);
}

static void what_is_read_comes_before_what_is_written(void **state)
{
    struct driver *d = *state;

    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 4, DESC_NEXT | DESC_WRITE, 1);
    driver_desc(d, DRIVER_DESC, 1, DRIVER_DATA, 4, 0, 0);
    driver_offer(d, SIZE, 0);
    assert_int_equal(pop(d), -EPROTO);
}

static void indirect_tables_may_be_longer_than_the_ring(void **state)
{
    struct driver *d = *state;
    enum { COUNT = 200 };

    for (uint16_t i = 0; i < COUNT; i++)
        driver_desc(d, DRIVER_INDIRECT, i, DRIVER_DATA + i, 1, i + 1 < COUNT ? DESC_NEXT : 0,
                    (uint16_t)(i + 1));
    driver_desc(d, DRIVER_DESC, 2, DRIVER_INDIRECT, 16 * COUNT, DESC_INDIRECT, 0);
    driver_offer(d, SIZE, 2);
    assert_int_equal(pop(d), 1);
    assert_int_equal(chain.head, 2);
    assert_int_equal(chain.count, COUNT);
    assert_int_equal(chain.readable_bytes, COUNT);
}

static void crooked_indirect_tables_are_refused(void **state)
{
    static const struct {
        uint64_t gpa;
        uint32_t length;
        uint16_t flags;
    } bad[] = {
        {DRIVER_INDIRECT, 0, DESC_INDIRECT},
        {DRIVER_INDIRECT, 15, DESC_INDIRECT},
        {DRIVER_INDIRECT, 16 * 257, DESC_INDIRECT},
        {DRIVER_INDIRECT, UINT32_MAX - 15, DESC_INDIRECT},
        {DRIVER_INDIRECT, 16, DESC_INDIRECT | DESC_NEXT},
        {DRIVER_RAM, 16, DESC_INDIRECT},
        {UINT64_MAX - 7, 16, DESC_INDIRECT},
        {DRIVER_INDIRECT + 16, 16, DESC_INDIRECT}, /* indirect again */
        {DRIVER_INDIRECT + 32, 32, DESC_INDIRECT}, /* a loop */
    };
    struct driver *d = *state;

    driver_desc(d, DRIVER_INDIRECT, 0, DRIVER_DATA, 1, 0, 0);
    driver_desc(d, DRIVER_INDIRECT, 1, DRIVER_INDIRECT, 16, DESC_INDIRECT, 0);
    driver_desc(d, DRIVER_INDIRECT, 2, DRIVER_DATA, 1, DESC_NEXT, 1);
    driver_desc(d, DRIVER_INDIRECT, 3, DRIVER_DATA, 1, DESC_NEXT, 0);
    driver_offer(d, SIZE, 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        driver_desc(d, DRIVER_DESC, 0, bad[i].gpa, bad[i].length, bad[i].flags, 0);
        assert_int_equal(pop(d), -EPROTO);
    }
}

static void queues_that_do_not_lie_in_ram_are_not_valid(void **state)
{
    struct driver *d = *state;
    const struct virtq good = d->queue;
    struct virtq bad[] = {good, good, good, good, good, good, good, good, good, good};

    assert_true(virtq_is_valid(&good, d->mem));
    bad[0].size = 0;
    bad[1].size = 6;
    bad[2].size = 512;
    bad[3].desc_gpa += 8;
    bad[4].avail_gpa += 1;
    bad[5].used_gpa += 2;
    bad[6].desc_gpa = DRIVER_RAM - 64;
    bad[7].avail_gpa = DRIVER_RAM - 4;
    bad[8].used_gpa = UINT64_MAX - 3;
    bad[9].desc_gpa = UINT64_MAX - 15;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(virtq_is_valid(&bad[i], d->mem));
}

static void copies_cross_segments_and_stop_at_the_end(void **state)
{
    struct driver *d = *state;
    char buf[8] = "";

    memcpy(d->mem->hva + DRIVER_DATA, "abc", 3);
    memcpy(d->mem->hva + DRIVER_DATA + 0x100, "defg", 4);
    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 3, DESC_NEXT, 1);
    driver_desc(d, DRIVER_DESC, 1, DRIVER_DATA + 0x100, 4, DESC_NEXT, 2);
    driver_desc(d, DRIVER_DESC, 2, DRIVER_DATA + 0x2000, 2, DESC_NEXT | DESC_WRITE, 3);
    driver_desc(d, DRIVER_DESC, 3, DRIVER_DATA + 0x4000, 2, DESC_WRITE, 0);
    driver_offer(d, SIZE, 0);
    assert_int_equal(pop(d), 1);
    assert_true(virtq_chain_read(&chain, 1, buf, 5));
    assert_string_equal(buf, "bcdef");
    assert_false(virtq_chain_read(&chain, 3, buf, 5));
    assert_false(virtq_chain_read(&chain, UINT64_MAX, buf, 2));
    assert_true(virtq_chain_write(&chain, d->mem, 1, "xy", 2));
    assert_int_equal(d->mem->hva[DRIVER_DATA + 0x2001], 'x');
    assert_int_equal(d->mem->hva[DRIVER_DATA + 0x4000], 'y');
    assert_false(virtq_chain_write(&chain, d->mem, 3, "xy", 2));
}

static bool is_dirty(struct driver *d, uint64_t gpa)
{
    uint64_t page = gpa / 4096;

    return (d->mem->device_dirty[page / 64] >> (page % 64) & 1) != 0;
}

static void what_the_device_writes_is_noted_as_dirty(void **state)
{
    struct driver *d = *state;

    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA + 4090, 100, DESC_WRITE, 0);
    driver_offer(d, SIZE, 0);
    assert_int_equal(pop(d), 1);
    assert_false(is_dirty(d, DRIVER_DATA));
    assert_true(virtq_chain_write(&chain, d->mem, 4, "abcd", 4));
    assert_true(is_dirty(d, DRIVER_DATA));
    assert_true(is_dirty(d, DRIVER_DATA + 4096));
    assert_false(is_dirty(d, DRIVER_DATA + 8192));
    assert_false(is_dirty(d, DRIVER_USED));
    virtq_push(&d->queue, d->mem, 0, 4);
    assert_true(is_dirty(d, DRIVER_USED));
    assert_false(is_dirty(d, DRIVER_AVAIL));
    assert_false(is_dirty(d, DRIVER_DESC));
}

static void interrupts_can_be_declined(void **state)
{
    struct driver *d = *state;

    assert_true(virtq_wants_interrupt(&d->queue, d->mem));
    store_le16(d->mem->hva + DRIVER_AVAIL, 1);
    assert_false(virtq_wants_interrupt(&d->queue, d->mem));
}

/* Pushes so many, then asks. */
static bool wants_after(struct driver *d, unsigned pushes)
{
    for (unsigned i = 0; i < pushes; i++)
        virtq_push(&d->queue, d->mem, 0, 0);
    return virtq_wants_interrupt(&d->queue, d->mem);
}

static void an_interrupt_comes_when_the_event_is_passed(void **state)
{
    struct driver *d = *state;

    d->queue.event_index = true;
    driver_want_interrupt_after(d, SIZE, 2);
    assert_false(wants_after(d, 2));
    assert_true(wants_after(d, 1)); /* the third, number 2 */
    assert_false(wants_after(d, 5));
    driver_want_interrupt_after(d, SIZE, 9);
    assert_true(wants_after(d, 8)); /* 8 to 15 at once */
    assert_false(wants_after(d, 0));
}

static void events_go_round_with_the_indices(void **state)
{
    static const struct {
        uint16_t before;
        uint16_t pushes;
        uint16_t event;
        bool wants;
    } cases[] = {
        {65535, 1, 65535, true}, {65535, 1, 0, false},     {65534, 4, 0, true},
        {65534, 4, 1, true},     {65534, 4, 2, false},     {65534, 4, 65533, false},
        {0, 8, 65535, false},    {32768, 8, 32767, false}, {32768, 8, 32775, true},
    };
    struct driver *d = *state;

    d->queue.event_index = true;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        d->queue.next_used = d->queue.signalled = cases[i].before;
        driver_want_interrupt_after(d, SIZE, cases[i].event);
        if (wants_after(d, cases[i].pushes) != cases[i].wants)
            fail_msg("case %zu", i);
    }
}

/* Each of 2^17 in its turn, by a driver that always waits for the next. */
static void no_event_is_missed_on_the_way_round(void **state)
{
    struct driver *d = *state;

    d->queue.event_index = true;
    for (uint32_t i = 0; i < 1u << 17; i++) {
        driver_want_interrupt_after(d, SIZE, (uint16_t)i);
        if (!wants_after(d, 1))
            fail_msg("no interrupt for %u", i);
    }
}

static void event_indices_make_the_flags_mean_nothing(void **state)
{
    struct driver *d = *state;

    d->queue.event_index = true;
    store_le16(d->mem->hva + DRIVER_AVAIL, 1);
    assert_true(wants_after(d, 1));
    d->queue.event_index = false;
    assert_false(wants_after(d, 1));
}

static void an_armed_queue_asks_for_the_next_chain(void **state)
{
    struct driver *d = *state;

    d->offered = d->queue.next_avail = 65535;
    store_le16(d->mem->hva + DRIVER_AVAIL + 2, 65535);
    d->queue.event_index = true;
    assert_false(virtq_arm(&d->queue, d->mem));
    assert_int_equal(driver_kick_after(d, SIZE), 65535);
    driver_desc(d, DRIVER_DESC, 0, DRIVER_DATA, 4, 0, 0);
    driver_offer(d, SIZE, 0);
    assert_true(virtq_arm(&d->queue, d->mem)); /* there is one: it need not kick */
    assert_int_equal(pop(d), 1);
    assert_int_equal(driver_kick_after(d, SIZE), 65535);
    assert_false(virtq_arm(&d->queue, d->mem));
    assert_int_equal(driver_kick_after(d, SIZE), 0);
}

static void a_driver_without_event_indices_finds_nothing_behind_its_ring(void **state)
{
    struct driver *d = *state;

    d->queue.next_avail = d->offered = 77;
    store_le16(d->mem->hva + DRIVER_AVAIL + 2, 77);
    assert_false(virtq_arm(&d->queue, d->mem));
    assert_int_equal(driver_kick_after(d, SIZE), 0);
}

static void asking_for_a_kick_is_noted_as_dirty(void **state)
{
    struct driver *d = *state;

    d->queue.event_index = true;
    virtq_arm(&d->queue, d->mem);
    assert_true(is_dirty(d, DRIVER_USED));
}

int main(void)
{
#define QUEUE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        QUEUE_TEST(an_empty_ring_gives_nothing),
        QUEUE_TEST(a_chain_comes_with_its_segments_in_order),
        QUEUE_TEST(the_rings_go_round_for_ever),
        QUEUE_TEST(a_full_ring_is_given_out_whole),
        QUEUE_TEST(an_index_that_jumps_breaks_the_queue),
        QUEUE_TEST(loops_end),
        QUEUE_TEST(descriptors_outside_of_the_table_are_refused),
        QUEUE_TEST(buffers_outside_of_ram_are_refused),
        QUEUE_TEST(what_is_read_comes_before_what_is_written),
        QUEUE_TEST(indirect_tables_may_be_longer_than_the_ring),
        QUEUE_TEST(crooked_indirect_tables_are_refused),
        QUEUE_TEST(queues_that_do_not_lie_in_ram_are_not_valid),
        QUEUE_TEST(copies_cross_segments_and_stop_at_the_end),
        QUEUE_TEST(what_the_device_writes_is_noted_as_dirty),
        QUEUE_TEST(interrupts_can_be_declined),
        QUEUE_TEST(an_interrupt_comes_when_the_event_is_passed),
        QUEUE_TEST(events_go_round_with_the_indices),
        QUEUE_TEST(no_event_is_missed_on_the_way_round),
        QUEUE_TEST(event_indices_make_the_flags_mean_nothing),
        QUEUE_TEST(an_armed_queue_asks_for_the_next_chain),
        QUEUE_TEST(a_driver_without_event_indices_finds_nothing_behind_its_ring),
        QUEUE_TEST(asking_for_a_kick_is_noted_as_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
