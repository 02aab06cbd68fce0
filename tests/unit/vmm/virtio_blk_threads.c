/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk served by threads, as a machine has it. */
#include "tests/unit/vmm/store_fixture.h"
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk.h"
#include "vmm/devices/io_threads.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define QUEUE 64u
#define DEPTH 8u /* requests at once: three descriptors each */
#define SECTOR 512u
#define SIZE (48u << 20)
#define HEADERS DRIVER_DATA
#define STATUSES (DRIVER_DATA + 0x1000)
#define DATA (DRIVER_DATA + 0x2000) /* a page each */
#define DEADLINE_MS 120000

struct guest {
    struct driver d;
    struct disk *disk;
    struct store_fixture *f;
    pthread_mutex_t lock; /* the machine's device lock */
    struct io_threads *threads;
    int kick_fd;
    int irq_fd;
    uint64_t deadline_ns;
};

static void on_irq(void *context, uint32_t gsi)
{
    struct guest *g = context;

    (void)gsi;
    assert_int_equal(eventfd_write(g->irq_fd, 1), 0);
}

static void on_kick(void *context)
{
    virtio_blk_work(context);
}

static void lock(struct guest *g)
{
    pthread_mutex_lock(&g->lock);
}

static void unlock(struct guest *g)
{
    pthread_mutex_unlock(&g->lock);
}

static int set_up_queues(void **state, unsigned queues, bool event_index)
{
    struct guest *g = calloc(1, sizeof(*g));
    uint8_t *zeros = calloc(1, SIZE);
    struct error err = ERROR_INIT;
    void *fixture;

    if (store_fixture_setup(&fixture) != 0)
        return -1;
    g->f = fixture;
    must(disk_open(g->f->machine, 0, store_fixture_space(g->f, zeros, SIZE), false, false, &g->disk,
                   &err),
         &err);
    free(zeros);
    driver_init(&g->d);
    g->d.event_index = event_index;
    g->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g->deadline_ns = clock_monotonic_ns() + DEADLINE_MS * UINT64_C(1000000);
    pthread_mutex_init(&g->lock, NULL);
    struct irq_line irq = {.raise = on_irq, .context = g, .gsi = 16};
    g->d.dev = virtio_blk_create(0, g->disk, queues, g->d.mem, &irq);
    virtio_set_kick_fd(g->d.dev, g->kick_fd);
    virtio_blk_use_threads(g->d.dev, &g->lock);
    must(io_threads_create(&g->threads, &err), &err);
    must(io_threads_add(g->threads, g->kick_fd, on_kick, g->d.dev, &err), &err);
    must(io_threads_start(g->threads, 3, &err), &err);
    lock(g);
    driver_start(&g->d, QUEUE, 0);
    virtio_blk_hold(g->d.dev, false);
    unlock(g);
    *state = g;
    return 0;
}

static int set_up(void **state)
{
    return set_up_queues(state, 1, false);
}

static int set_up_event_index(void **state)
{
    return set_up_queues(state, 1, true);
}

static int set_up_four_queues(void **state)
{
    return set_up_queues(state, 4, false);
}

static int tear_down(void **state)
{
    struct guest *g = *state;
    void *fixture = g->f;

    io_threads_free(g->threads);
    driver_clear(&g->d);
    disk_close(g->disk);
    close(g->kick_fd);
    close(g->irq_fd);
    pthread_mutex_destroy(&g->lock);
    store_fixture_teardown(&fixture);
    free(g);
    return 0;
}

static void kick(struct guest *g)
{
    assert_int_equal(eventfd_write(g->kick_fd, 1), 0);
}

static uint8_t *data(struct guest *g, unsigned slot)
{
    return g->d.mem->hva + DATA + slot * STASIS_PAGE_SIZE;
}

static uint8_t status_of(struct guest *g, unsigned slot)
{
    return g->d.mem->hva[STATUSES + slot];
}

/* Puts request `slot` (of DEPTH) into the ring. Lock held. */
static void offer(struct guest *g, unsigned slot, uint32_t type, uint64_t sector, uint32_t length)
{
    const uint16_t first = (uint16_t)(slot * 3);
    const uint32_t header_gpa = HEADERS + slot * 16;
    uint8_t *header = g->d.mem->hva + header_gpa;

    store_le32(header, type);
    store_le64(header + 8, sector);
    g->d.mem->hva[STATUSES + slot] = 0xee;
    driver_desc(&g->d, DRIVER_DESC, first, header_gpa, 16, DESC_NEXT, (uint16_t)(first + 1));
    driver_desc(&g->d, DRIVER_DESC, (uint16_t)(first + 1), DATA + slot * STASIS_PAGE_SIZE, length,
                (uint16_t)(DESC_NEXT | (type == VIRTIO_BLK_T_IN ? DESC_WRITE : 0)),
                (uint16_t)(first + 2));
    driver_desc(&g->d, DRIVER_DESC, (uint16_t)(first + 2), STATUSES + slot, 1, DESC_WRITE, 0);
    driver_offer(&g->d, QUEUE, first);
}

/* The slot of the next request that is done; lock held. */
static bool take(struct guest *g, unsigned *slot_out)
{
    uint32_t head, length;

    if (!driver_take(&g->d, QUEUE, &head, &length))
        return false;
    *slot_out = head / 3;
    return true;
}

static unsigned wait_for_any(struct guest *g)
{
    for (;;) {
        unsigned slot;
        lock(g);
        bool done = take(g, &slot);
        unlock(g);
        if (done)
            return slot;
        assert_true(clock_monotonic_ns() < g->deadline_ns);
        sched_yield();
    }
}

static int request(struct guest *g, uint32_t type, uint64_t sector, uint32_t length)
{
    lock(g);
    offer(g, 0, type, sector, length);
    unlock(g);
    kick(g);
    assert_int_equal(wait_for_any(g), 0);
    return status_of(g, 0);
}

static void a_kick_is_served_by_a_thread(void **state)
{
    struct guest *g = *state;

    memset(data(g, 0), 0x5a, STASIS_PAGE_SIZE);
    assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 8, STASIS_PAGE_SIZE), VIRTIO_BLK_S_OK);
    assert_int_equal(request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    memset(data(g, 0), 0, STASIS_PAGE_SIZE);
    assert_int_equal(request(g, VIRTIO_BLK_T_IN, 8, STASIS_PAGE_SIZE), VIRTIO_BLK_S_OK);
    for (size_t i = 0; i < STASIS_PAGE_SIZE; i++)
        assert_int_equal(data(g, 0)[i], 0x5a);
}

static void nothing_is_begun_while_it_is_held(void **state)
{
    struct guest *g = *state;
    unsigned slot;

    lock(g);
    virtio_blk_hold(g->d.dev, true);
    offer(g, 0, VIRTIO_BLK_T_IN, 0, SECTOR);
    unlock(g);
    virtio_blk_work(g->d.dev); /* as a thread would */
    lock(g);
    virtio_kick(g->d.dev); /* as the event loop would, which has no business here */
    assert_false(take(g, &slot));
    virtio_blk_hold(g->d.dev, false); /* brings about the kick */
    unlock(g);
    assert_int_equal(wait_for_any(g), 0);
}

/* Keeps DEPTH random reads and writes in the ring and checks what comes back. Each slot
 * has a part of the disk of its own. */
struct load {
    struct guest *g;
    uint64_t seed;
    uint64_t left;       /* requests to offer */
    unsigned busy;       /* offered, not done */
    uint8_t want[DEPTH]; /* what the slot's page holds */
    bool is_read[DEPTH];
};

static void load_offer(struct load *load, unsigned slot)
{
    struct guest *g = load->g;

    load->is_read[slot] = random_next(&load->seed) % 2 == 0;
    if (load->is_read[slot]) {
        memset(data(g, slot), 0xee, STASIS_PAGE_SIZE);
    } else {
        load->want[slot] = (uint8_t)random_next(&load->seed);
        memset(data(g, slot), load->want[slot], STASIS_PAGE_SIZE);
    }
    offer(g, slot, load->is_read[slot] ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 8 * slot,
          STASIS_PAGE_SIZE);
    load->left--;
    load->busy++;
}

static void load_done(struct load *load, unsigned slot)
{
    struct guest *g = load->g;

    load->busy--;
    assert_int_equal(status_of(g, slot), VIRTIO_BLK_S_OK);
    if (load->is_read[slot])
        for (size_t i = 0; i < STASIS_PAGE_SIZE; i += 64)
            assert_int_equal(data(g, slot)[i], load->want[slot]);
}

/* Takes what is done and offers as much again; false if there was nothing. Lock held. */
static bool load_step(struct load *load)
{
    unsigned slot;
    bool any = false;

    while (take(load->g, &slot)) {
        load_done(load, slot);
        if (load->left > 0)
            load_offer(load, slot);
        any = true;
    }
    return any;
}

static void load_begin(struct load *load, struct guest *g, uint64_t requests)
{
    *load = (struct load){.g = g, .seed = 5, .left = requests};
    for (unsigned slot = 0; slot < DEPTH; slot++)
        load_offer(load, slot);
}

static void many_at_once_read_what_was_written(void **state)
{
    struct guest *g = *state;
    struct load load;

    lock(g);
    load_begin(&load, g, 3000);
    unlock(g);
    kick(g);
    while (load.busy > 0) {
        lock(g);
        bool any = load_step(&load);
        unlock(g);
        if (any)
            kick(g);
        assert_true(clock_monotonic_ns() < g->deadline_ns);
    }
}

/* Waits for the interrupt it has asked for. */
static void sleep_until_interrupt(struct guest *g)
{
    struct pollfd fd = {.fd = g->irq_fd, .events = POLLIN};
    eventfd_t count;

    assert_int_equal(poll(&fd, 1, DEADLINE_MS), 1);
    assert_int_equal(eventfd_read(g->irq_fd, &count), 0);
}

/* 2.7.10.1: the driver's side. */
static bool must_kick(struct guest *g, uint16_t before)
{
    uint16_t event = driver_kick_after(&g->d, QUEUE);

    return (uint16_t)(g->d.offered - event - 1) < (uint16_t)(g->d.offered - before);
}

/* A driver that kicks only when it is asked to, and sleeps until it is woken: were a kick
 * or an interrupt too few, it would sleep for ever. */
static void nobody_sleeps_for_ever_with_event_indices(void **state)
{
    struct guest *g = *state;
    struct load load;

    lock(g);
    load_begin(&load, g, 20000);
    unlock(g);
    kick(g);
    while (load.busy > 0) {
        lock(g);
        uint16_t before = g->d.offered;
        bool any = load_step(&load);
        driver_want_interrupt_after(&g->d, QUEUE, g->d.seen);
        any = load_step(&load) || any;
        bool kicks = must_kick(g, before);
        driver_out(&g->d, R_ACK, 1);
        unlock(g);
        if (kicks)
            kick(g);
        if (!any && load.busy > 0)
            sleep_until_interrupt(g);
    }
}

/* Of queue 0, by its record: chains taken and not given back. */
static unsigned in_flight(struct guest *g)
{
    enum { AT_NEXT_AVAIL = 40, AT_NEXT_USED = 42 };
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->d.dev);
    const uint8_t *payload = device_payload(&saved);

    return (uint16_t)(load_le16(payload + AT_NEXT_AVAIL) - load_le16(payload + AT_NEXT_USED));
}

static void holding_waits_for_what_is_under_way(void **state)
{
    struct guest *g = *state;
    struct load load;

    lock(g);
    load_begin(&load, g, 3000);
    unlock(g);
    kick(g);
    for (unsigned i = 0; load.busy > 0; i++) {
        lock(g);
        bool any = load_step(&load);
        if (i % 8 == 0) {
            virtio_blk_hold(g->d.dev, true);
            assert_int_equal(in_flight(g), 0);
            virtio_blk_hold(g->d.dev, false);
        }
        unlock(g);
        if (any)
            kick(g);
        assert_true(clock_monotonic_ns() < g->deadline_ns);
    }
}

/* Puts a read in the ring that takes milliseconds. Lock held. */
static void offer_long_read(struct guest *g, uint16_t segments, uint32_t length)
{
    store_le32(g->d.mem->hva + HEADERS, VIRTIO_BLK_T_IN);
    store_le64(g->d.mem->hva + HEADERS + 8, 0);
    driver_desc(&g->d, DRIVER_INDIRECT, 0, HEADERS, 16, DESC_NEXT, 1);
    for (uint16_t i = 1; i <= segments; i++)
        driver_desc(&g->d, DRIVER_INDIRECT, i, DATA, length, DESC_NEXT | DESC_WRITE,
                    (uint16_t)(i + 1));
    driver_desc(&g->d, DRIVER_INDIRECT, (uint16_t)(segments + 1), STATUSES, 1, DESC_WRITE, 0);
    driver_desc(&g->d, DRIVER_DESC, 0, DRIVER_INDIRECT, 16u * (segments + 2u), DESC_INDIRECT, 0);
    driver_offer(&g->d, QUEUE, 0);
}

/* Has it begun, and not ended yet? The lock is held then. */
static bool catch_long_read(struct guest *g)
{
    lock(g);
    offer_long_read(g, 254, 64 << 10);
    unlock(g);
    kick(g);
    for (;;) {
        lock(g);
        if (in_flight(g) > 0)
            return true;
        bool done = load_le16(g->d.mem->hva + DRIVER_USED + 2) == g->d.offered;
        unlock(g);
        if (done)
            return false;
        assert_true(clock_monotonic_ns() < g->deadline_ns);
        sched_yield();
    }
}

static void holding_waits_for_a_request_that_takes_its_time(void **state)
{
    struct guest *g = *state;

    while (!catch_long_read(g))
        continue;
    virtio_blk_hold(g->d.dev, true);
    assert_int_equal(in_flight(g), 0);
    assert_int_equal(load_le16(g->d.mem->hva + DRIVER_USED + 2), g->d.offered);
    unlock(g);
}

static void a_reset_waits_for_a_request_that_takes_its_time(void **state)
{
    struct guest *g = *state;

    while (!catch_long_read(g))
        continue;
    const uint16_t offered = g->d.offered;
    driver_out(&g->d, R_STATUS, 0);
    assert_int_equal(load_le16(g->d.mem->hva + DRIVER_USED + 2), offered);
    unlock(g);
}

static void each_request_is_told_of(void **state)
{
    struct guest *g = *state;

    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 0, SECTOR), VIRTIO_BLK_S_OK);
        sleep_until_interrupt(g);
    }
}

/* 2.4.2: after a reset the device does not touch the driver's memory. */
static void a_reset_waits_for_what_is_under_way(void **state)
{
    struct guest *g = *state;

    for (unsigned i = 0; i < 300; i++) {
        lock(g);
        for (unsigned slot = 0; slot < DEPTH; slot++)
            offer(g, slot, VIRTIO_BLK_T_IN, 8 * slot, STASIS_PAGE_SIZE);
        unlock(g);
        kick(g);
        if (i % 2 == 0)
            sched_yield();
        lock(g);
        driver_out(&g->d, R_STATUS, 0);
        memset(g->d.mem->hva + DRIVER_DATA, 0xee, 0x2000 + DEPTH * STASIS_PAGE_SIZE);
        memset(g->d.mem->hva + DRIVER_AVAIL, 0, 0x2000);
        unlock(g);
        virtio_blk_work(g->d.dev);
        lock(g);
        for (size_t k = 0; k < 0x2000 + DEPTH * STASIS_PAGE_SIZE; k++)
            if (g->d.mem->hva[DRIVER_DATA + k] != 0xee)
                fail_msg("byte %zu was written after the reset", k);
        g->d.offered = g->d.seen = 0;
        driver_start(&g->d, QUEUE, 0);
        unlock(g);
    }
}

static void a_queue_that_is_taken_away_is_left_alone(void **state)
{
    struct guest *g = *state;

    for (unsigned i = 0; i < 100; i++) {
        lock(g);
        for (unsigned slot = 0; slot < DEPTH; slot++)
            offer(g, slot, VIRTIO_BLK_T_IN, 8 * slot, STASIS_PAGE_SIZE);
        unlock(g);
        kick(g);
        lock(g);
        driver_out(&g->d, R_QUEUE_READY, 0);
        memset(g->d.mem->hva + DRIVER_AVAIL, 0, 0x2000);
        unlock(g);
        virtio_blk_work(g->d.dev);
        lock(g);
        assert_int_equal(load_le16(g->d.mem->hva + DRIVER_USED + 2), 0);
        g->d.offered = g->d.seen = 0;
        driver_start(&g->d, QUEUE, 0);
        unlock(g);
    }
}

static void a_broken_request_stops_the_device_and_not_the_threads(void **state)
{
    struct guest *g = *state;

    lock(g);
    driver_desc(&g->d, DRIVER_DESC, 0, HEADERS, 15, 0, 0);
    driver_offer(&g->d, QUEUE, 0);
    unlock(g);
    kick(g);
    for (bool broken = false; !broken; sched_yield()) {
        lock(g);
        broken = (driver_in(&g->d, R_STATUS) & S_NEEDS_RESET) != 0;
        unlock(g);
        assert_true(clock_monotonic_ns() < g->deadline_ns);
    }
    lock(g);
    memset(g->d.mem->hva + DRIVER_AVAIL, 0, 0x2000);
    g->d.offered = g->d.seen = 0;
    driver_start(&g->d, QUEUE, 0);
    unlock(g);
    assert_int_equal(request(g, VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
}

/* More than segments and their size allow: a driver that keeps to both never asks. */
static void a_request_has_a_limit(void **state)
{
    struct guest *g = *state;
    enum { SEGMENTS = 254, LENGTH = 128 << 10 };

    lock(g);
    offer_long_read(g, SEGMENTS, LENGTH);
    unlock(g);
    kick(g);
    assert_int_equal(wait_for_any(g), 0);
    assert_int_equal(status_of(g, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_in(&g->d, R_CONFIG + offsetof(struct virtio_blk_config, seg_max)),
                     SEGMENTS);
    assert_int_equal(driver_in(&g->d, R_CONFIG + offsetof(struct virtio_blk_config, size_max)),
                     64 << 10);
}

/* ---- several queues ---- */

enum { RINGS = 0x100000, RING_STRIDE = 0x4000 };

/* Queue `index` with one request in it, which writes its number. */
static void start_queue(struct guest *g, uint32_t index)
{
    const uint32_t desc = RINGS + index * RING_STRIDE, avail = desc + 0x1000, used = desc + 0x2000;
    const uint32_t header = HEADERS + index * 16;

    memset(data(g, index), (int)index + 1, SECTOR);
    store_le32(g->d.mem->hva + header, VIRTIO_BLK_T_OUT);
    store_le64(g->d.mem->hva + header + 8, index);
    driver_desc(&g->d, desc, 0, header, 16, DESC_NEXT, 1);
    driver_desc(&g->d, desc, 1, DATA + index * STASIS_PAGE_SIZE, SECTOR, DESC_NEXT, 2);
    driver_desc(&g->d, desc, 2, STATUSES + index, 1, DESC_WRITE, 0);
    store_le16(g->d.mem->hva + avail + 2, 1);
    driver_out(&g->d, R_QUEUE_SEL, index);
    driver_out(&g->d, R_QUEUE_READY, 0);
    driver_out(&g->d, R_QUEUE_NUM, 16);
    driver_out(&g->d, R_DESC, desc);
    driver_out(&g->d, R_AVAIL, avail);
    driver_out(&g->d, R_USED, used);
    driver_out(&g->d, R_QUEUE_READY, 1);
}

static uint16_t used_index(struct guest *g, uint32_t index)
{
    lock(g);
    uint16_t used = load_le16(g->d.mem->hva + RINGS + index * RING_STRIDE + 0x2002);
    unlock(g);
    return used;
}

static void each_queue_is_served(void **state)
{
    struct guest *g = *state;
    uint8_t got[4 * SECTOR];

    lock(g);
    driver_out(&g->d, R_FEATURES_SEL, 0);
    assert_true(driver_in(&g->d, R_FEATURES) & 1u << VIRTIO_BLK_F_MQ);
    assert_int_equal(
        g->d.dev->ops->read(g->d.dev, R_CONFIG + offsetof(struct virtio_blk_config, num_queues), 2),
        4);
    for (uint32_t i = 0; i < 4; i++)
        start_queue(g, i);
    unlock(g);
    kick(g); /* one for all of them */
    for (uint32_t i = 0; i < 4; i++)
        while (used_index(g, i) != 1) {
            assert_true(clock_monotonic_ns() < g->deadline_ns);
            sched_yield();
        }
    assert_int_equal(disk_read(g->disk, 0, got, sizeof(got)), 0);
    for (size_t i = 0; i < sizeof(got); i++)
        assert_int_equal(got[i], i / SECTOR + 1);
}

/* As from a checkpoint that a device with one queue was saved in. */
static void the_state_of_fewer_queues_restores(void **state)
{
    struct guest *g = *state;
    struct irq_line irq = {.raise = on_irq, .context = g, .gsi = 16};
    struct device *old = virtio_blk_create(0, g->disk, 1, g->d.mem, &irq);
    struct device *now = g->d.dev;
    struct error err = ERROR_INIT;

    lock(g);
    g->d.dev = old;
    driver_start(&g->d, QUEUE, 0);
    _cleanup_(buffer_clear) struct buffer saved = device_save(old);
    g->d.dev = now;
    must(device_restore(now, &saved, &err), &err);
    driver_out(&g->d, R_QUEUE_SEL, 1);
    assert_int_equal(driver_in(&g->d, R_QUEUE_READY), 0);
    unlock(g);
    assert_int_equal(request(g, VIRTIO_BLK_T_IN, 0, SECTOR), VIRTIO_BLK_S_OK);
    lock(g);
    _cleanup_(buffer_clear) struct buffer more = device_save(now);
    assert_int_equal(device_restore(old, &more, &err), -EBADMSG);
    unlock(g);
    old->ops->destroy(old);
}

/* ---- the pool ---- */

static void count_and_wait(void *context)
{
    pthread_barrier_wait(context);
}

/* One kick, one thread: another kick while that is busy wakes another. */
static void kicks_are_served_at_once(void **state)
{
    struct io_threads *t = NULL;
    pthread_barrier_t both;
    _cleanup_close_ int a = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    _cleanup_close_ int b = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct error err = ERROR_INIT;

    (void)state;
    pthread_barrier_init(&both, NULL, 3);
    must(io_threads_create(&t, &err), &err);
    must(io_threads_add(t, a, count_and_wait, &both, &err), &err);
    must(io_threads_add(t, b, count_and_wait, &both, &err), &err);
    must(io_threads_start(t, 2, &err), &err);
    assert_int_equal(eventfd_write(a, 1), 0);
    assert_int_equal(eventfd_write(b, 1), 0);
    pthread_barrier_wait(&both); /* or never */
    io_threads_stop(t);
    io_threads_free(t);
    io_threads_free(NULL);
    pthread_barrier_destroy(&both);
}

int main(void)
{
#define BLK_TEST(name, prepare) cmocka_unit_test_setup_teardown(name, prepare, tear_down)
    const struct CMUnitTest tests[] = {
        BLK_TEST(a_kick_is_served_by_a_thread, set_up),
        BLK_TEST(nothing_is_begun_while_it_is_held, set_up),
        BLK_TEST(many_at_once_read_what_was_written, set_up),
        BLK_TEST(nobody_sleeps_for_ever_with_event_indices, set_up_event_index),
        BLK_TEST(holding_waits_for_what_is_under_way, set_up),
        BLK_TEST(holding_waits_for_a_request_that_takes_its_time, set_up),
        BLK_TEST(a_reset_waits_for_a_request_that_takes_its_time, set_up),
        BLK_TEST(each_request_is_told_of, set_up),
        BLK_TEST(a_reset_waits_for_what_is_under_way, set_up),
        BLK_TEST(a_queue_that_is_taken_away_is_left_alone, set_up),
        BLK_TEST(a_broken_request_stops_the_device_and_not_the_threads, set_up),
        BLK_TEST(a_request_has_a_limit, set_up),
        BLK_TEST(each_queue_is_served, set_up_four_queues),
        BLK_TEST(the_state_of_fewer_queues_restores, set_up_four_queues),
        cmocka_unit_test(kicks_are_served_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
