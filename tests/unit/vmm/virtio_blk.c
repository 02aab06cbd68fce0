/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk over a real disk on a real store. */
#include "tests/unit/vmm/store_fixture.h"
#include "tests/unit/vmm/virtio_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk.h"

#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE 64u
#define SECTOR 512u
#define SIZE (40 * STASIS_PAGE_SIZE)
#define HEADER DRIVER_DATA
#define STATUS (DRIVER_DATA + 0x100)
#define DATA (DRIVER_DATA + 0x1000)

struct guest {
    struct driver d;
    struct disk *disk;
    struct store_fixture *f;
    uint8_t want[SIZE];
};

static int set_up_disk(void **state, bool read_only)
{
    struct guest *g = calloc(1, sizeof(*g));
    struct error err = ERROR_INIT;
    void *fixture;

    if (store_fixture_setup(&fixture) != 0)
        return -1;
    g->f = fixture;
    for (size_t i = 0; i < SIZE; i++)
        g->want[i] = (uint8_t)(i / SECTOR + i % 251);
    must(disk_open(g->f->machine, 0, store_fixture_space(g->f, g->want, SIZE), read_only, false,
                   &g->disk, &err),
         &err);
    driver_init(&g->d);
    struct irq_line irq = irq_probe_line(&g->d.irq, 16);
    g->d.dev = virtio_blk_create(0, g->disk, 1, g->d.mem, &irq);
    driver_start(&g->d, QUEUE, 0);
    *state = g;
    return 0;
}

static int set_up(void **state)
{
    return set_up_disk(state, false);
}

static int set_up_read_only(void **state)
{
    return set_up_disk(state, true);
}

static int tear_down(void **state)
{
    struct guest *g = *state;
    void *fixture = g->f;

    driver_clear(&g->d);
    disk_close(g->disk);
    store_fixture_teardown(&fixture);
    free(g);
    return 0;
}

struct segment {
    uint32_t gpa;
    uint32_t length;
};

/* Sends a request over these segments and returns its status; *written_out as in
 * the used ring. */
static int request_segments(struct guest *g, uint32_t type, uint64_t sector, bool device_writes,
                            const struct segment *segments, uint16_t count, uint32_t *written_out)
{
    uint8_t *header = g->d.mem->hva + HEADER;
    uint32_t head, written;
    uint16_t last = (uint16_t)(count + 1);

    store_le32(header, type);
    store_le32(header + 4, 0);
    store_le64(header + 8, sector);
    g->d.mem->hva[STATUS] = 0xee;
    driver_desc(&g->d, DRIVER_DESC, 0, HEADER, 16, DESC_NEXT, 1);
    for (uint16_t i = 0; i < count; i++)
        driver_desc(&g->d, DRIVER_DESC, (uint16_t)(i + 1), segments[i].gpa, segments[i].length,
                    DESC_NEXT | (device_writes ? DESC_WRITE : 0), (uint16_t)(i + 2));
    driver_desc(&g->d, DRIVER_DESC, last, STATUS, 1, DESC_WRITE, 0);
    driver_offer(&g->d, QUEUE, 0);
    virtio_kick(g->d.dev);
    if (!driver_take(&g->d, QUEUE, &head, &written))
        return -1;
    assert_int_equal(head, 0);
    if (written_out != NULL)
        *written_out = written;
    return g->d.mem->hva[STATUS];
}

static int request(struct guest *g, uint32_t type, uint64_t sector, bool device_writes,
                   uint32_t length)
{
    const struct segment data = {DATA, length};

    return request_segments(g, type, sector, device_writes, &data, length > 0, NULL);
}

static void assert_disk(struct guest *g)
{
    static uint8_t got[SIZE];

    assert_int_equal(disk_read(g->disk, 0, got, SIZE), 0);
    assert_memory_equal(got, g->want, SIZE);
}

static uint8_t *data(struct guest *g)
{
    return g->d.mem->hva + DATA;
}

static void says_its_capacity(void **state)
{
    struct guest *g = *state;

    assert_int_equal(driver_in(&g->d, R_CONFIG), SIZE / SECTOR);
    assert_int_equal(driver_in(&g->d, R_CONFIG + 4), 0);
    assert_int_equal(driver_in(&g->d, R_CONFIG + offsetof(struct virtio_blk_config, blk_size)),
                     SECTOR);
}

static void reads_any_sectors(void **state)
{
    struct guest *g = *state;
    static const struct {
        uint64_t sector;
        uint32_t count;
    } ranges[] = {{0, 1}, {7, 3}, {0, SIZE / SECTOR}, {SIZE / SECTOR - 1, 1}, {3, 0}};

    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        uint32_t length = ranges[i].count * SECTOR;
        assert_int_equal(request(g, VIRTIO_BLK_T_IN, ranges[i].sector, true, length),
                         VIRTIO_BLK_S_OK);
        assert_memory_equal(data(g), g->want + ranges[i].sector * SECTOR, length);
    }
}

static void writes_any_sectors(void **state)
{
    struct guest *g = *state;
    uint64_t seed = 5;

    for (unsigned i = 0; i < 100; i++) {
        uint64_t sector = random_next(&seed) % (SIZE / SECTOR);
        uint64_t count = 1 + random_next(&seed) % 30;
        count = min_u64(count, SIZE / SECTOR - sector);
        for (uint64_t k = 0; k < count * SECTOR; k++)
            data(g)[k] = g->want[sector * SECTOR + k] = (uint8_t)random_next(&seed);
        assert_int_equal(request(g, VIRTIO_BLK_T_OUT, sector, false, (uint32_t)count * SECTOR),
                         VIRTIO_BLK_S_OK);
    }
    assert_int_equal(request(g, VIRTIO_BLK_T_FLUSH, 0, false, 0), VIRTIO_BLK_S_OK);
    assert_disk(g);
}

static void segments_may_be_cut_anywhere(void **state)
{
    static const struct segment cut[] = {
        {DATA, 1}, {DATA + 0x1000, 700}, {DATA + 0x2000, 2}, {DATA + 0x3000, 833}};
    struct guest *g = *state;
    uint32_t written;
    size_t n = 0;

    assert_int_equal(request_segments(g, VIRTIO_BLK_T_IN, 9, true, cut, 4, &written),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(written, 3 * SECTOR + 1);
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(g->d.mem->hva + cut[i].gpa, g->want + 9 * SECTOR + n, cut[i].length);
        memset(g->d.mem->hva + cut[i].gpa, (int)i + 1, cut[i].length);
        memset(g->want + 20 * SECTOR + n, (int)i + 1, cut[i].length);
        n += cut[i].length;
    }
    assert_int_equal(request_segments(g, VIRTIO_BLK_T_OUT, 20, false, cut, 4, &written),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(written, 1);
    assert_disk(g);
}

static void what_lies_behind_the_end_is_an_error(void **state)
{
    struct guest *g = *state;
    static const uint64_t sectors[] = {SIZE / SECTOR, SIZE / SECTOR - 1, UINT64_MAX,
                                       UINT64_MAX / SECTOR, 1ull << 55};

    for (size_t i = 0; i < ARRAY_LEN(sectors); i++) {
        assert_int_equal(request(g, VIRTIO_BLK_T_IN, sectors[i], true, 2 * SECTOR),
                         VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(g, VIRTIO_BLK_T_OUT, sectors[i], false, 2 * SECTOR),
                         VIRTIO_BLK_S_IOERR);
    }
    assert_disk(g);
}

static void parts_of_sectors_are_an_error(void **state)
{
    struct guest *g = *state;

    assert_int_equal(request(g, VIRTIO_BLK_T_IN, 0, true, 100), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 0, false, SECTOR + 1), VIRTIO_BLK_S_IOERR);
    assert_disk(g);
}

static int zero(struct guest *g, uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    store_le64(data(g), sector);
    store_le32(data(g) + 8, sectors);
    store_le32(data(g) + 12, flags);
    return request(g, type, 0, false, 16);
}

static void discard_and_write_zeroes_make_zeros(void **state)
{
    struct guest *g = *state;

    assert_int_equal(zero(g, VIRTIO_BLK_T_DISCARD, 3, 50, 0), VIRTIO_BLK_S_OK);
    memset(g->want + 3 * SECTOR, 0, 50 * SECTOR);
    assert_int_equal(zero(g, VIRTIO_BLK_T_WRITE_ZEROES, 100, 9, 1), VIRTIO_BLK_S_OK);
    memset(g->want + 100 * SECTOR, 0, 9 * SECTOR);
    assert_int_equal(zero(g, VIRTIO_BLK_T_WRITE_ZEROES, SIZE / SECTOR - 1, 1, 0), VIRTIO_BLK_S_OK);
    memset(g->want + SIZE - SECTOR, 0, SECTOR);
    assert_disk(g);
}

static void crooked_ranges_are_refused(void **state)
{
    struct guest *g = *state;

    assert_int_equal(zero(g, VIRTIO_BLK_T_DISCARD, SIZE / SECTOR, 1, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(zero(g, VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(zero(g, VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(zero(g, VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(zero(g, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(g, VIRTIO_BLK_T_DISCARD, 0, false, 15), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(g, VIRTIO_BLK_T_DISCARD, 0, false, 0), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(g, VIRTIO_BLK_T_DISCARD, 0, false, 16 * 17), VIRTIO_BLK_S_UNSUPP);
    assert_disk(g);
}

static void says_its_id(void **state)
{
    struct guest *g = *state;

    assert_int_equal(request(g, VIRTIO_BLK_T_GET_ID, 0, true, VIRTIO_BLK_ID_BYTES),
                     VIRTIO_BLK_S_OK);
    assert_string_equal((char *)data(g), "stasis-disk0");
}

static void unknown_requests_are_not_supported(void **state)
{
    struct guest *g = *state;

    assert_int_equal(request(g, 77, 0, true, SECTOR), VIRTIO_BLK_S_UNSUPP);
}

static void requests_without_header_or_status_need_a_reset(void **state)
{
    struct guest *g = *state;

    driver_desc(&g->d, DRIVER_DESC, 0, HEADER, 15, DESC_NEXT, 1);
    driver_desc(&g->d, DRIVER_DESC, 1, STATUS, 1, DESC_WRITE, 0);
    driver_offer(&g->d, QUEUE, 0);
    virtio_kick(g->d.dev);
    assert_int_equal(driver_in(&g->d, R_STATUS) & S_NEEDS_RESET, S_NEEDS_RESET);
    memset(g->d.mem->hva + DRIVER_AVAIL, 0, 64);
    g->d.offered = 0;
    driver_start(&g->d, QUEUE, 0);
    driver_desc(&g->d, DRIVER_DESC, 0, HEADER, 16, 0, 0);
    driver_offer(&g->d, QUEUE, 0);
    virtio_kick(g->d.dev);
    assert_int_equal(driver_in(&g->d, R_STATUS) & S_NEEDS_RESET, S_NEEDS_RESET);
}

static void what_it_reads_is_noted_as_dirty(void **state)
{
    struct guest *g = *state;
    const uint64_t page = DATA / STASIS_PAGE_SIZE;

    memset(g->d.mem->device_dirty, 0, g->d.mem->dirty_words * 8);
    assert_int_equal(request(g, VIRTIO_BLK_T_IN, 0, true, SECTOR), VIRTIO_BLK_S_OK);
    assert_true(g->d.mem->device_dirty[page / 64] >> (page % 64) & 1);
    memset(g->d.mem->device_dirty, 0, g->d.mem->dirty_words * 8);
    assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 0, false, SECTOR), VIRTIO_BLK_S_OK);
    assert_false(g->d.mem->device_dirty[page / 64] >> (page % 64) & 1);
}

static void a_read_only_disk_is_read_and_not_written(void **state)
{
    struct guest *g = *state;

    driver_out(&g->d, R_FEATURES_SEL, 0);
    assert_true(driver_in(&g->d, R_FEATURES) & 1u << VIRTIO_BLK_F_RO);
    assert_int_equal(request(g, VIRTIO_BLK_T_IN, 0, true, SECTOR), VIRTIO_BLK_S_OK);
    assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 0, false, SECTOR), VIRTIO_BLK_S_IOERR);
    assert_int_not_equal(zero(g, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(request(g, VIRTIO_BLK_T_FLUSH, 0, false, 0), VIRTIO_BLK_S_OK);
    assert_disk(g);
}

int main(void)
{
#define BLK_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        BLK_TEST(says_its_capacity),
        BLK_TEST(reads_any_sectors),
        BLK_TEST(writes_any_sectors),
        BLK_TEST(segments_may_be_cut_anywhere),
        BLK_TEST(what_lies_behind_the_end_is_an_error),
        BLK_TEST(parts_of_sectors_are_an_error),
        BLK_TEST(discard_and_write_zeroes_make_zeros),
        BLK_TEST(crooked_ranges_are_refused),
        BLK_TEST(says_its_id),
        BLK_TEST(unknown_requests_are_not_supported),
        BLK_TEST(requests_without_header_or_status_need_a_reset),
        BLK_TEST(what_it_reads_is_noted_as_dirty),
        cmocka_unit_test_setup_teardown(a_read_only_disk_is_read_and_not_written, set_up_read_only,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
