/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-balloon with a driver that does as Linux's does, and worse. */
#include "vmm/devices/virtio_balloon.h"

#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE 16u
#define SLOT 7
#define PAGE 4096u
#define RINGS 0x4000u      /* from the rings of one queue to those of the next */
#define FREE_GPA 0x200000u /* where the tests' free pages are */
#define FREE_PFN (FREE_GPA / PAGE)

enum { INFLATE, DEFLATE, STATS, REPORTING, QUEUES };
enum { C_TARGET = R_CONFIG, C_ACTUAL = R_CONFIG + 4, C_POISON = R_CONFIG + 12 };

#ifndef STASIS_GOLDEN
#error "where are the golden files?"
#endif

struct guest {
    struct driver d;
    uint16_t offered[QUEUES];
};

static void start(struct guest *g, uint64_t without)
{
    driver_start(&g->d, QUEUE, without);
    for (uint32_t q = 1; q < QUEUES; q++) {
        driver_out(&g->d, R_QUEUE_SEL, q);
        driver_out(&g->d, R_QUEUE_NUM, QUEUE);
        driver_out(&g->d, R_DESC, DRIVER_DESC + RINGS * q);
        driver_out(&g->d, R_AVAIL, DRIVER_AVAIL + RINGS * q);
        driver_out(&g->d, R_USED, DRIVER_USED + RINGS * q);
        driver_out(&g->d, R_QUEUE_READY, 1);
    }
    irq_probe_take(&g->d.irq);
}

static int set_up(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));
    struct irq_line irq = irq_probe_line(&g->d.irq, 21);

    driver_init(&g->d);
    g->d.dev = virtio_balloon_create(SLOT, g->d.mem, &irq);
    start(g, 0);
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

/* Offers one buffer, and lets the device look. */
static void offer(struct guest *g, unsigned queue, uint64_t gpa, uint32_t length, uint16_t flags)
{
    uint8_t *avail = at(g, DRIVER_AVAIL + RINGS * queue);
    uint16_t head = g->offered[queue] % QUEUE;

    driver_desc(&g->d, DRIVER_DESC + RINGS * queue, head, gpa, length, flags, 0);
    store_le16(avail + 4 + 2 * head, head);
    store_le16(avail + 2, ++g->offered[queue]);
    virtio_kick(g->d.dev);
}

static unsigned given_back(struct guest *g, unsigned queue)
{
    return load_le16(at(g, DRIVER_USED + RINGS * queue + 2));
}

static void inflate(struct guest *g, const uint32_t *pfns, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        store_le32(at(g, DRIVER_DATA + 4 * i), pfns[i]);
    offer(g, INFLATE, DRIVER_DATA, 4 * count, 0);
}

static bool needs_reset(struct guest *g)
{
    return (driver_in(&g->d, R_STATUS) & S_NEEDS_RESET) != 0;
}

static void fill(struct guest *g, unsigned pages)
{
    memset(at(g, FREE_GPA), 0xa5, (size_t)pages * PAGE);
}

static bool is_zero(struct guest *g, unsigned page)
{
    static const uint8_t zeros[PAGE];

    return memcmp(at(g, FREE_GPA + page * PAGE), zeros, PAGE) == 0;
}

static bool is_dirty(const struct guest *g, unsigned page)
{
    uint64_t n = FREE_PFN + page;

    return (g->d.mem->device_dirty[n / 64] >> (n % 64) & 1) != 0;
}

static void forget_dirty(struct guest *g)
{
    memset(g->d.mem->device_dirty, 0, g->d.mem->dirty_words * sizeof(uint64_t));
}

static struct balloon_status status_of(struct guest *g)
{
    struct balloon_status status;

    virtio_balloon_status(g->d.dev, &status);
    return status;
}

/* ---- the balloon ---- */

static void a_target_is_told_to_the_driver(void **state)
{
    struct guest *g = *state;

    assert_int_equal(driver_in(&g->d, C_TARGET), 0);
    virtio_balloon_set_target(g->d.dev, 3u << 20);
    assert_int_equal(irq_probe_take(&g->d.irq), 1);
    assert_int_equal(driver_in(&g->d, R_INTERRUPT), 2);
    assert_int_equal(driver_in(&g->d, C_TARGET), (3u << 20) / PAGE);
    assert_int_equal(status_of(g).target_bytes, 3u << 20);
}

static void the_driver_says_how_much_there_is(void **state)
{
    struct guest *g = *state;

    driver_out(&g->d, C_ACTUAL, 5);
    assert_int_equal(driver_in(&g->d, C_ACTUAL), 5);
    assert_int_equal(status_of(g).actual_bytes, 5 * PAGE);
    g->d.dev->ops->write(g->d.dev, C_ACTUAL, 2, 9); /* no register access */
    driver_out(&g->d, C_TARGET, 9);                 /* not the driver's */
    assert_int_equal(status_of(g).actual_bytes, 5 * PAGE);
    assert_int_equal(status_of(g).target_bytes, 0);
}

static void pages_in_the_balloon_are_given_back(void **state)
{
    struct guest *g = *state;
    const uint32_t pfns[] = {FREE_PFN + 2, FREE_PFN, FREE_PFN + 1, FREE_PFN + 5};

    fill(g, 6);
    inflate(g, pfns, ARRAY_LEN(pfns));
    assert_int_equal(given_back(g, INFLATE), 1);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(is_zero(g, i), i <= 2 || i == 5);
    assert_int_equal(status_of(g).dropped_bytes, 4 * PAGE);
}

/* Or an incremental checkpoint would have what was in them. */
static void pages_that_were_given_back_count_as_written(void **state)
{
    struct guest *g = *state;
    const uint32_t pfns[] = {FREE_PFN + 1};

    fill(g, 3);
    forget_dirty(g);
    inflate(g, pfns, ARRAY_LEN(pfns));
    assert_false(is_dirty(g, 0));
    assert_true(is_dirty(g, 1));
    assert_false(is_dirty(g, 2));
}

static void a_page_may_be_given_twice(void **state)
{
    struct guest *g = *state;
    const uint32_t pfns[] = {FREE_PFN, FREE_PFN, FREE_PFN};

    fill(g, 1);
    inflate(g, pfns, ARRAY_LEN(pfns));
    assert_false(needs_reset(g));
    assert_int_equal(status_of(g).dropped_bytes, PAGE);
}

static void deflating_changes_nothing(void **state)
{
    struct guest *g = *state;

    fill(g, 1);
    store_le32(at(g, DRIVER_DATA), FREE_PFN);
    offer(g, DEFLATE, DRIVER_DATA, 4, 0);
    assert_int_equal(given_back(g, DEFLATE), 1);
    assert_false(is_zero(g, 0));
}

static void pages_that_are_not_memory_need_a_reset(void **state)
{
    static const uint32_t wrong[] = {DRIVER_RAM / PAGE, 0xd0000, UINT32_MAX};

    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        struct guest *g = *state;
        inflate(g, &wrong[i], 1);
        assert_true(needs_reset(g));
        assert_int_equal(status_of(g).dropped_bytes, 0);
        memset(g->offered, 0, sizeof(g->offered));
        memset(at(g, DRIVER_DESC), 0, DRIVER_DATA - DRIVER_DESC);
        start(g, 0);
    }
}

static void requests_of_no_whole_page_numbers_need_a_reset(void **state)
{
    struct guest *g = *state;

    offer(g, INFLATE, DRIVER_DATA, 6, 0);
    assert_true(needs_reset(g));
}

static void requests_of_too_many_pages_need_a_reset(void **state)
{
    struct guest *g = *state;

    fill(g, 1);
    store_le32(at(g, FREE_GPA), 0);
    offer(g, INFLATE, FREE_GPA, 4 * 1025, 0);
    assert_true(needs_reset(g));
}

/* ---- reports of free pages ---- */

static void reported_pages_are_given_back(void **state)
{
    struct guest *g = *state;

    fill(g, 600);
    forget_dirty(g);
    offer(g, REPORTING, FREE_GPA + PAGE, 598 * PAGE, DESC_WRITE);
    assert_int_equal(given_back(g, REPORTING), 1);
    for (unsigned i = 0; i < 600; i++) {
        assert_int_equal(is_zero(g, i), i > 0 && i < 599);
        assert_int_equal(is_dirty(g, i), i > 0 && i < 599);
    }
    assert_int_equal(status_of(g).dropped_bytes, 598 * PAGE);
}

/* All the memory of a guest that has just booted is reported: it must not be in the
 * next checkpoint's work. */
static void reported_pages_that_were_never_there_are_not_written(void **state)
{
    struct guest *g = *state;

    forget_dirty(g);
    offer(g, REPORTING, FREE_GPA, 16 * PAGE, DESC_WRITE);
    for (unsigned i = 0; i < 16; i++)
        assert_false(is_dirty(g, i));
    assert_int_equal(status_of(g).dropped_bytes, 0);
}

static void only_whole_pages_of_a_report_are_given_back(void **state)
{
    struct guest *g = *state;

    fill(g, 3);
    offer(g, REPORTING, FREE_GPA + 1, 2 * PAGE, DESC_WRITE);
    assert_int_equal(at(g, FREE_GPA)[PAGE - 1], 0xa5);
    assert_true(is_zero(g, 1));
    assert_int_equal(at(g, FREE_GPA)[2 * PAGE], 0xa5);
    offer(g, REPORTING, FREE_GPA + 1, PAGE, DESC_WRITE);
    assert_int_equal(at(g, FREE_GPA)[1], 0xa5);
    assert_false(needs_reset(g));
}

static void what_the_device_may_not_write_is_no_report(void **state)
{
    struct guest *g = *state;

    fill(g, 1);
    offer(g, REPORTING, FREE_GPA, PAGE, 0);
    assert_false(is_zero(g, 0));
}

static void a_report_outside_of_memory_needs_a_reset(void **state)
{
    struct guest *g = *state;

    offer(g, REPORTING, DRIVER_RAM - PAGE, 2 * PAGE, DESC_WRITE);
    assert_true(needs_reset(g));
}

/* Twice the same page is harmless, over and over again keeps the loop busy. */
static void a_report_of_more_than_there_is_needs_a_reset(void **state)
{
    struct guest *g = *state;

    driver_desc(&g->d, DRIVER_DESC + RINGS * REPORTING, 1, 0, DRIVER_RAM, DESC_WRITE, 0);
    driver_desc(&g->d, DRIVER_DESC + RINGS * REPORTING, 0, FREE_GPA, PAGE, DESC_WRITE | DESC_NEXT,
                1);
    store_le16(at(g, DRIVER_AVAIL + RINGS * REPORTING + 2), 1);
    virtio_kick(g->d.dev);
    assert_true(needs_reset(g));
}

static void a_guest_that_fills_free_pages_keeps_them(void **state)
{
    struct guest *g = *state;

    driver_out(&g->d, C_POISON, 0xaaaaaaaa);
    fill(g, 1);
    offer(g, REPORTING, FREE_GPA, PAGE, DESC_WRITE);
    assert_false(is_zero(g, 0));
    driver_out(&g->d, C_POISON, 0);
    offer(g, REPORTING, FREE_GPA, PAGE, DESC_WRITE);
    assert_true(is_zero(g, 0));
}

static void queues_are_numbered_without_gaps(void **state)
{
    struct guest *g = *state;

    start(g, 1ull << VIRTIO_BALLOON_F_STATS_VQ);
    fill(g, 1);
    offer(g, STATS, FREE_GPA, PAGE, DESC_WRITE); /* there, reports are */
    assert_true(is_zero(g, 0));
    offer(g, REPORTING, FREE_GPA, PAGE, DESC_WRITE);
    assert_true(needs_reset(g));
}

/* ---- statistics ---- */

static void put_stat(struct guest *g, unsigned n, uint16_t tag, uint64_t value)
{
    store_le16(at(g, DRIVER_DATA + 10 * n), tag);
    store_le64(at(g, DRIVER_DATA + 10 * n + 2), value);
}

static void what_the_driver_begins_with_is_known(void **state)
{
    struct guest *g = *state;

    assert_int_equal(status_of(g).stats.at_ns, 0);
    put_stat(g, 0, VIRTIO_BALLOON_S_MEMFREE, 1234);
    put_stat(g, 1, VIRTIO_BALLOON_S_AVAIL, UINT64_MAX);
    put_stat(g, 2, 99, 5); /* unheard of */
    offer(g, STATS, DRIVER_DATA, 30, 0);
    assert_int_equal(given_back(g, STATS), 1);
    struct balloon_stats stats = status_of(g).stats;
    assert_true(stats.at_ns > 0);
    assert_int_equal(stats.known, 1u << BALLOON_FREE | 1u << BALLOON_AVAILABLE);
    assert_int_equal(stats.values[BALLOON_FREE], 1234);
    assert_true(stats.values[BALLOON_AVAILABLE] == UINT64_MAX);
}

static void a_buffer_stays_with_the_device_until_somebody_asks(void **state)
{
    struct guest *g = *state;

    offer(g, STATS, DRIVER_DATA, 10, 0);
    put_stat(g, 0, VIRTIO_BALLOON_S_MEMFREE, 1);
    offer(g, STATS, DRIVER_DATA, 10, 0);
    virtio_kick(g->d.dev);
    assert_int_equal(given_back(g, STATS), 1);
    virtio_balloon_poll(g->d.dev); /* gives back the old numbers ... */
    assert_int_equal(given_back(g, STATS), 2);
    put_stat(g, 0, VIRTIO_BALLOON_S_MEMFREE, 2);
    offer(g, STATS, DRIVER_DATA, 10, 0); /* ... for new ones */
    assert_int_equal(status_of(g).stats.values[BALLOON_FREE], 2);
    offer(g, STATS, DRIVER_DATA, 10, 0);
    assert_int_equal(given_back(g, STATS), 3);
}

static void a_short_buffer_tells_less(void **state)
{
    struct guest *g = *state;

    put_stat(g, 0, VIRTIO_BALLOON_S_MEMFREE, 7);
    offer(g, STATS, DRIVER_DATA, 9, 0);
    assert_false(needs_reset(g));
    assert_int_equal(status_of(g).stats.known, 0);
}

/* ---- state ---- */

static void a_reset_empties_the_balloon_and_keeps_the_target(void **state)
{
    struct guest *g = *state;

    virtio_balloon_set_target(g->d.dev, PAGE);
    driver_out(&g->d, C_ACTUAL, 1);
    driver_out(&g->d, R_STATUS, 0);
    assert_int_equal(status_of(g).actual_bytes, 0);
    assert_int_equal(status_of(g).target_bytes, PAGE);
}

static struct buffer read_golden(void)
{
    _cleanup_free_ char *bytes = NULL;
    struct buffer out = {0};
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, STASIS_GOLDEN "/device-virtio-balloon-1.state", 4096,
                                  &bytes, &length),
                     0);
    assert_int_equal(state_check(bytes, length, NULL), 0);
    assert_int_equal(buffer_append(&out, bytes, length), 0);
    return out;
}

static void the_golden_state_restores(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer golden = read_golden();

    assert_int_equal(device_restore(g->d.dev, &golden, NULL), 0);
    assert_int_equal(status_of(g).target_bytes, 0x600 * PAGE);
    assert_int_equal(status_of(g).actual_bytes, 0x123 * PAGE);
    assert_int_equal(driver_in(&g->d, C_POISON), 0x5a5a5a5a);
    assert_int_equal(driver_in(&g->d, R_STATUS), 15);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->d.dev);
    assert_int_equal(again.length, golden.length);
    assert_memory_equal(again.data, golden.data, golden.length);
}

static void the_same_driver_makes_the_same_bytes(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer golden = read_golden();

    virtio_balloon_set_target(g->d.dev, 0x600 * PAGE);
    driver_out(&g->d, R_ACK, 2);
    driver_out(&g->d, C_ACTUAL, 0x123);
    driver_out(&g->d, C_POISON, 0x5a5a5a5a);
    _cleanup_(buffer_clear) struct buffer got = device_save(g->d.dev);
    assert_int_equal(got.length, golden.length);
    assert_memory_equal(got.data, golden.data, golden.length);
}

static void a_target_of_all_memory_is_refused(void **state)
{
    struct guest *g = *state;
    _cleanup_(buffer_clear) struct buffer bad = read_golden();

    store_le32(bad.data + bad.length - 16, DRIVER_RAM / PAGE); /* 12 bytes and 4 behind */
    assert_int_equal(device_restore(g->d.dev, &bad, NULL), -EBADMSG);
}

int main(void)
{
#define BALLOON_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        BALLOON_TEST(a_target_is_told_to_the_driver),
        BALLOON_TEST(the_driver_says_how_much_there_is),
        BALLOON_TEST(pages_in_the_balloon_are_given_back),
        BALLOON_TEST(pages_that_were_given_back_count_as_written),
        BALLOON_TEST(a_page_may_be_given_twice),
        BALLOON_TEST(deflating_changes_nothing),
        BALLOON_TEST(pages_that_are_not_memory_need_a_reset),
        BALLOON_TEST(requests_of_no_whole_page_numbers_need_a_reset),
        BALLOON_TEST(requests_of_too_many_pages_need_a_reset),
        BALLOON_TEST(reported_pages_are_given_back),
        BALLOON_TEST(reported_pages_that_were_never_there_are_not_written),
        BALLOON_TEST(only_whole_pages_of_a_report_are_given_back),
        BALLOON_TEST(what_the_device_may_not_write_is_no_report),
        BALLOON_TEST(a_report_outside_of_memory_needs_a_reset),
        BALLOON_TEST(a_report_of_more_than_there_is_needs_a_reset),
        BALLOON_TEST(a_guest_that_fills_free_pages_keeps_them),
        BALLOON_TEST(queues_are_numbered_without_gaps),
        BALLOON_TEST(what_the_driver_begins_with_is_known),
        BALLOON_TEST(a_buffer_stays_with_the_device_until_somebody_asks),
        BALLOON_TEST(a_short_buffer_tells_less),
        BALLOON_TEST(a_reset_empties_the_balloon_and_keeps_the_target),
        BALLOON_TEST(the_golden_state_restores),
        BALLOON_TEST(the_same_driver_makes_the_same_bytes),
        BALLOON_TEST(a_target_of_all_memory_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
