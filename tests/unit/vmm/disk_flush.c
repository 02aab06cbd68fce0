/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to a disk while a flush waits for the host's. The linker puts
 * __wrap_fdatasync() in the place of fdatasync(). */
#include "tests/unit/vmm/store_fixture.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define PAGE STASIS_PAGE_SIZE
#define PAGES 128u

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

static unsigned syncs;
static void (*meanwhile)(void); /* once, before the next one */
static int failure;             /* of the next one */
static struct disk *disk;

int __wrap_fdatasync(int fd)
{
    void (*act)(void) = meanwhile;

    syncs++;
    meanwhile = NULL;
    if (act != NULL)
        act();
    if (failure != 0) {
        errno = failure;
        failure = 0;
        return -1;
    }
    return __real_fdatasync(fd);
}

static void write_page(uint64_t page)
{
    uint8_t bytes[PAGE];

    memset(bytes, (int)page + 1, sizeof(bytes));
    assert_int_equal(disk_write(disk, page * PAGE, bytes, PAGE), 0);
}

static void write_page_5(void)
{
    write_page(5);
}

/* Is the page in the map's file? */
static bool is_listed(struct store_fixture *f, uint64_t page)
{
    _cleanup_free_ char *path = io_format("%s/disk0.1.map", f->machine);
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, path, 4096, &bytes, &length), 0);
    return page / 8 < length && ((uint8_t)bytes[page / 8] >> (page % 8) & 1) != 0;
}

static int set_up(void **state)
{
    static const uint8_t zeros[PAGES * PAGE];
    struct error err = ERROR_INIT;

    if (store_fixture_setup(state) != 0)
        return -1;
    struct store_fixture *f = *state;
    must(disk_open(f->machine, 0, store_fixture_space(f, zeros, sizeof(zeros)), false, false, &disk,
                   &err),
         &err);
    assert_int_equal(disk_flush(disk), 0);
    syncs = 0;
    return 0;
}

static int tear_down(void **state)
{
    disk_close(disk);
    return store_fixture_teardown(state);
}

/* Its data may not be durable yet: after a power cut the page would be one that nobody
 * ever wrote. */
static void a_page_written_meanwhile_is_listed_by_the_next_flush(void **state)
{
    write_page(1);
    meanwhile = write_page_5;
    assert_int_equal(disk_flush(disk), 0);
    assert_true(is_listed(*state, 1));
    assert_false(is_listed(*state, 5));
    assert_int_equal(disk_flush(disk), 0);
    assert_true(is_listed(*state, 5));
}

static void what_was_written_again_meanwhile_is_synced_by_the_next_flush(void **state)
{
    (void)state;
    write_page(5);
    assert_int_equal(disk_flush(disk), 0);
    write_page(1);
    meanwhile = write_page_5;
    assert_int_equal(disk_flush(disk), 0);
    syncs = 0;
    assert_int_equal(disk_flush(disk), 0);
    assert_int_equal(syncs, 1); /* the data; the map is what it was */
    assert_int_equal(disk_flush(disk), 0);
    assert_int_equal(syncs, 1);
}

static void the_data_is_durable_before_it_is_listed(void **state)
{
    write_page(1);
    failure = EIO;
    assert_int_equal(disk_flush(disk), -EIO);
    assert_false(is_listed(*state, 1));
}

static void a_failed_flush_stays_one(void **state)
{
    (void)state;
    write_page(1);
    failure = EIO;
    assert_int_equal(disk_flush(disk), -EIO);
    assert_int_equal(disk_flush(disk), -EIO);
}

int main(void)
{
#define FLUSH_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        FLUSH_TEST(a_page_written_meanwhile_is_listed_by_the_next_flush),
        FLUSH_TEST(what_was_written_again_meanwhile_is_synced_by_the_next_flush),
        FLUSH_TEST(the_data_is_durable_before_it_is_listed),
        FLUSH_TEST(a_failed_flush_stays_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
