/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vmm/store_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE STASIS_PAGE_SIZE
#define SECTOR 512u
#define SIZE (200 * PAGE + 3 * SECTOR) /* ends within a page */
#define SECTORS (SIZE / SECTOR)
#define RUNS 8
#define STEPS 400

DEFINE_CLEANUP(struct disk, disk_close)
#define _cleanup_disk_ _cleanup_(disk_closep)

/* A disk and what it must hold. */
struct subject {
    struct store_fixture *f;
    struct disk *disk;
    uint8_t *base;   /* what the map under it holds */
    uint8_t *now;    /* what the guest must read */
    bool *touched;   /* sectors written since */
    uint8_t *frozen; /* what it held when it was frozen */
    uint64_t seed;
};

static struct disk *open_disk(struct store_fixture *f, const char *dir, const void *base,
                              uint64_t size, bool keep)
{
    struct error err = ERROR_INIT;
    struct disk *disk = NULL;

    must(disk_open(dir, 0, store_fixture_space(f, base, size), false, keep, &disk, &err), &err);
    return disk;
}

static void assert_holds(struct disk *disk, const uint8_t *want, uint64_t size)
{
    _cleanup_free_ uint8_t *got = malloc(size);

    assert_int_equal(disk_read(disk, 0, got, size), 0);
    assert_memory_equal(got, want, size);
}

/* ---- single promises ---- */

static void reads_its_base_until_it_is_written(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[3 * PAGE];

    memset(base, 7, sizeof(base));
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);
    assert_holds(disk, base, sizeof(base));
    assert_int_equal(disk_write(disk, PAGE + 100, "abc", 3), 0);
    memcpy(base + PAGE + 100, "abc", 3);
    assert_holds(disk, base, sizeof(base));
}

static void refuses_what_lies_outside(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[PAGE + SECTOR] = {1}, buf[2] = {0};
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);

    assert_int_equal(disk_read(disk, sizeof(base) - 1, buf, 2), -EINVAL);
    assert_int_equal(disk_write(disk, sizeof(base) - 1, buf, 2), -EINVAL);
    assert_int_equal(disk_write(disk, UINT64_MAX, buf, 2), -EINVAL);
    assert_int_equal(disk_zero(disk, sizeof(base), 1), -EINVAL);
    assert_int_equal(disk_zero(disk, 1, UINT64_MAX), -EINVAL);
    assert_int_equal(disk_read(disk, sizeof(base), buf, 0), 0);
}

static void a_read_only_disk_has_no_files_and_takes_no_writes(void **state)
{
    struct store_fixture *f = *state;
    struct error err = ERROR_INIT;
    uint8_t base[PAGE] = {1};
    struct disk *made = NULL;

    must(disk_open(f->machine, 0, store_fixture_space(f, base, sizeof(base)), true, false, &made,
                   &err),
         &err);
    _cleanup_disk_ struct disk *disk = made;
    assert_true(disk_is_read_only(disk));
    assert_int_equal(disk_write(disk, 0, base, PAGE), -EROFS);
    assert_int_equal(disk_zero(disk, 0, PAGE), -EROFS);
    assert_int_equal(disk_flush(disk), 0);
    assert_int_equal(disk_freeze(disk, &err), 0);
    assert_false(disk_has_frozen(disk));
    assert_int_equal(rmdir(f->machine), 0); /* empty */
}

static int count_page(uint64_t page, const void *bytes, void *context)
{
    (void)page;
    (void)bytes;
    *(unsigned *)context += 1;
    return 0;
}

static unsigned frozen_pages(struct disk *disk)
{
    unsigned count = 0;

    assert_int_equal(disk_freeze(disk, NULL), 0);
    assert_int_equal(disk_frozen_each(disk, count_page, &count, NULL), 0);
    return count;
}

/* mkfs discards the whole disk: that must not become a page each in the next save. */
static void zeroing_zeros_changes_nothing(void **state)
{
    struct store_fixture *f = *state;
    const uint64_t size = 1000 * PAGE;
    _cleanup_free_ uint8_t *base = calloc(1, size);

    base[500 * PAGE] = 1;
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, size, false);
    assert_int_equal(disk_zero(disk, 0, size), 0);
    base[500 * PAGE] = 0;
    assert_holds(disk, base, size);
    assert_in_range(frozen_pages(disk), 1, 64);
}

static void zeros_hide_what_an_older_overlay_holds(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[4 * PAGE] = {0}, ones[2 * PAGE];

    memset(ones, 1, sizeof(ones));
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);
    assert_int_equal(disk_write(disk, PAGE, ones, sizeof(ones)), 0);
    assert_int_equal(disk_freeze(disk, NULL), 0);
    assert_int_equal(disk_zero(disk, 0, sizeof(base)), 0);
    assert_holds(disk, base, sizeof(base));
}

/* Of a machine that was killed before its guest flushed: bytes that no map lists. */
static void zeros_hide_what_a_crash_has_left_unlisted(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[2 * PAGE], zeros[2 * PAGE] = {0};
    _cleanup_free_ char *map = io_format("%s/disk0.1.map", f->machine);

    memset(base, 1, sizeof(base));
    struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);
    uint8_t lost[2 * PAGE];
    memset(lost, 2, sizeof(lost));
    assert_int_equal(disk_write(disk, 0, lost, sizeof(lost)), 0);
    disk_close(disk);
    assert_int_equal(truncate(map, 0), 0);
    disk = open_disk(f, f->machine, base, sizeof(base), true);
    assert_holds(disk, base, sizeof(base));
    assert_int_equal(disk_zero(disk, 0, sizeof(base)), 0);
    assert_holds(disk, zeros, sizeof(zeros));
    disk_close(disk);
}

/* The host's disk was full, say. */
static void zeros_hide_what_a_failed_write_has_left(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[PAGE], zeros[PAGE] = {0}, lost[PAGE];
    struct rlimit limit, before;

    memset(base, 1, sizeof(base));
    memset(lost, 2, sizeof(lost));
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = SECTOR;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int r = disk_write(disk, 0, lost, sizeof(lost));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(r, -EFBIG);
    assert_int_equal(disk_zero(disk, 0, PAGE), 0);
    assert_holds(disk, zeros, sizeof(zeros));
}

static void an_unwritten_disk_freezes_to_nothing(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[PAGE] = {1};
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);

    assert_int_equal(disk_freeze(disk, NULL), 0);
    assert_false(disk_has_frozen(disk));
}

static void a_flush_writes_only_the_changed_part_of_the_map(void **state)
{
    struct store_fixture *f = *state;
    const uint64_t size = 300ull << 20; /* its map takes three pages */
    _cleanup_free_ uint8_t *base = calloc(1, size);
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, size, false);
    _cleanup_free_ char *map = io_format("%s/disk0.1.map", f->machine);
    struct stat st;

    assert_int_equal(disk_write(disk, size - 1, "x", 1), 0);
    assert_int_equal(disk_flush(disk), 0);
    assert_int_equal(stat(map, &st), 0);
    assert_int_equal(st.st_blocks * 512, PAGE);
    assert_int_equal(disk_write(disk, 0, "x", 1), 0);
    assert_int_equal(disk_flush(disk), 0);
    assert_int_equal(stat(map, &st), 0);
    assert_int_equal(st.st_blocks * 512, 2 * PAGE);
}

static void opening_without_keep_forgets(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[PAGE] = {1}, two[PAGE] = {2};
    struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);

    assert_int_equal(disk_write(disk, 0, two, PAGE), 0);
    disk_close(disk);
    disk = open_disk(f, f->machine, base, sizeof(base), false);
    assert_holds(disk, base, sizeof(base));
    disk_close(disk);
}

static void removing_the_overlays_leaves_other_files(void **state)
{
    struct store_fixture *f = *state;
    struct error err = ERROR_INIT;
    uint8_t base[PAGE] = {1}, two[PAGE] = {2};
    struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);
    _cleanup_free_ char *log = io_format("%s/console.log", f->machine);

    assert_int_equal(io_write_file(AT_FDCWD, log, "x", 1, 0600), 0);
    assert_int_equal(disk_write(disk, 0, two, PAGE), 0);
    assert_int_equal(disk_freeze(disk, &err), 0);
    disk_close(disk);
    must(disk_remove_overlays(f->machine, &err), &err);
    assert_int_equal(access(log, F_OK), 0);
    disk = open_disk(f, f->machine, base, sizeof(base), true);
    assert_holds(disk, base, sizeof(base));
    disk_close(disk);
}

/* A machine whose saves fail for long must be saved when they work again. */
static void freezing_works_however_often_no_save_takes_it(void **state)
{
    struct store_fixture *f = *state;
    struct error err = ERROR_INIT;
    uint8_t base[8 * PAGE] = {0}, want[8 * PAGE] = {0};
    struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);

    for (unsigned i = 1; i < 5 * DISK_OVERLAYS_MAX; i++) {
        memset(want + i % 8 * PAGE, (int)i, PAGE);
        assert_int_equal(disk_write(disk, i % 8 * PAGE, want + i % 8 * PAGE, PAGE), 0);
        must(disk_freeze(disk, &err), &err);
        assert_holds(disk, want, sizeof(want));
    }
    disk_close(disk);
    disk = open_disk(f, f->machine, base, sizeof(base), true);
    assert_holds(disk, want, sizeof(want));
    disk_close(disk);
}

static void a_reset_forgets_on_disk_too(void **state)
{
    struct store_fixture *f = *state;
    struct error err = ERROR_INIT;
    uint8_t base[PAGE] = {1}, two[PAGE] = {2}, three[PAGE] = {3};
    struct disk *disk = open_disk(f, f->machine, base, sizeof(base), false);

    assert_int_equal(disk_write(disk, 0, two, PAGE), 0);
    assert_int_equal(disk_freeze(disk, &err), 0);
    assert_int_equal(disk_write(disk, 0, two, PAGE), 0);
    must(disk_reset(disk, store_fixture_space(f, three, PAGE), &err), &err);
    assert_holds(disk, three, PAGE);
    assert_false(disk_has_frozen(disk));
    disk_close(disk);
    disk = open_disk(f, f->machine, three, PAGE, true);
    assert_holds(disk, three, PAGE);
    disk_close(disk);
}

/* Bits behind the last page would be pages that no map has. */
static void a_map_with_pages_behind_the_end_is_read_without_them(void **state)
{
    struct store_fixture *f = *state;
    uint8_t base[3 * PAGE] = {1}, all[8];
    _cleanup_free_ char *data = io_format("%s/disk0.4", f->machine);
    _cleanup_free_ char *map = io_format("%s/disk0.4.map", f->machine);

    memset(all, 0xff, sizeof(all));
    assert_int_equal(io_write_file(AT_FDCWD, data, "", 0, 0600), 0);
    assert_int_equal(io_write_file(AT_FDCWD, map, all, sizeof(all), 0600), 0);
    _cleanup_disk_ struct disk *disk = open_disk(f, f->machine, base, sizeof(base), true);
    assert_int_equal(frozen_pages(disk), 3);
}

/* ---- any sequence of everything, and crashes ---- */

static void random_range(struct subject *s, uint64_t *offset_out, uint64_t *length_out)
{
    uint64_t kind = random_next(&s->seed) % 4;
    uint64_t unit = kind == 0 ? PAGE : SECTOR;
    uint64_t max = kind == 1 ? 40 * PAGE : 4 * PAGE;
    uint64_t offset = align_down(random_next(&s->seed) % SIZE, unit);
    uint64_t length = align_down(random_next(&s->seed) % max, unit) + unit;

    *offset_out = offset;
    *length_out = min_u64(length, SIZE - offset);
}

static void touch(struct subject *s, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / SECTOR; i < (offset + length) / SECTOR; i++)
        s->touched[i] = true;
}

static void step_write(struct subject *s)
{
    uint64_t offset, length;

    random_range(s, &offset, &length);
    for (uint64_t i = 0; i < length; i += 8) {
        uint64_t word = random_next(&s->seed);
        memcpy(s->now + offset + i, &word, 8);
    }
    touch(s, offset, length);
    assert_int_equal(disk_write(s->disk, offset, s->now + offset, length), 0);
}

static void step_zero(struct subject *s)
{
    uint64_t offset, length;

    random_range(s, &offset, &length);
    memset(s->now + offset, 0, length);
    touch(s, offset, length);
    assert_int_equal(disk_zero(s->disk, offset, length), 0);
}

static void step_flush(struct subject *s)
{
    assert_int_equal(disk_flush(s->disk), 0);
    memset(s->touched, 0, SECTORS);
}

static void step_freeze(struct subject *s)
{
    struct error err = ERROR_INIT;

    must(disk_freeze(s->disk, &err), &err);
    memcpy(s->frozen, s->now, SIZE);
}

struct collected {
    uint8_t *bytes;
    uint64_t next;
};

static int collect(uint64_t page, const void *bytes, void *context)
{
    struct collected *c = context;
    uint64_t offset = page * PAGE;

    assert_true(page >= c->next);
    c->next = page + 1;
    if (bytes != NULL)
        memcpy(c->bytes + offset, bytes, min_u64(PAGE, SIZE - offset));
    else
        memset(c->bytes + offset, 0, min_u64(PAGE, SIZE - offset));
    return 0;
}

/* A save: base and frozen pages together are the disk at the freeze. */
static void step_rebase(struct subject *s)
{
    struct collected c = {.bytes = s->base};

    if (!disk_has_frozen(s->disk))
        step_freeze(s);
    assert_int_equal(disk_frozen_each(s->disk, collect, &c, NULL), 0);
    assert_memory_equal(s->base, s->frozen, SIZE);
    disk_rebase(s->disk, store_fixture_space(s->f, s->base, SIZE));
}

static void step_reopen(struct subject *s)
{
    disk_close(s->disk);
    s->disk = open_disk(s->f, s->f->machine, s->base, SIZE, true);
    /* The newest overlay takes the writes again: what is frozen is less. */
    step_freeze(s);
}

static void copy_files(const char *from, const char *to)
{
    _cleanup_closedir_ DIR *dir = opendir(from);

    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        _cleanup_free_ char *source = io_format("%s/%s", from, entry->d_name);
        _cleanup_free_ char *target = io_format("%s/%s", to, entry->d_name);
        _cleanup_free_ char *bytes = NULL;
        size_t length;
        if (entry->d_name[0] == '.')
            continue;
        assert_int_equal(io_read_file(AT_FDCWD, source, 16 << 20, &bytes, &length), 0);
        assert_int_equal(io_write_file(AT_FDCWD, target, bytes, length, 0600), 0);
    }
}

/* What a machine killed at this moment would find: all that was flushed, and of
 * what was written since the old or the new content of each sector. */
static void step_crash(struct subject *s)
{
    _cleanup_free_ char *dir = io_format("%s/crashed", s->f->dir);
    _cleanup_free_ uint8_t *got = malloc(SIZE);

    assert_int_equal(mkdir(dir, 0700), 0);
    copy_files(s->f->machine, dir);
    struct disk *disk = open_disk(s->f, dir, s->base, SIZE, true);
    assert_int_equal(disk_read(disk, 0, got, SIZE), 0);
    for (uint64_t i = 0; i < SECTORS; i++) {
        const uint64_t at = i * SECTOR;
        if (!s->touched[i])
            assert_memory_equal(got + at, s->now + at, SECTOR);
        /* A touched sector may have passed through any content since the flush. */
    }
    disk_close(disk);
    assert_int_equal(io_remove_tree(dir), 0);
}

static void run_steps(struct subject *s)
{
    for (unsigned i = 0; i < STEPS; i++) {
        uint64_t dice = random_next(&s->seed) % 100;
        if (dice < 55)
            step_write(s);
        else if (dice < 75)
            step_zero(s);
        else if (dice < 85)
            step_flush(s);
        else if (dice < 90)
            step_freeze(s);
        else if (dice < 94)
            step_rebase(s);
        else if (dice < 97)
            step_reopen(s);
        else
            step_crash(s);
        if (i % 16 == 0)
            assert_holds(s->disk, s->now, SIZE);
    }
    assert_holds(s->disk, s->now, SIZE);
}

static void holds_what_a_plain_array_would(void **state)
{
    struct store_fixture *f = *state;

    for (unsigned run = 0; run < RUNS; run++) {
        struct subject s = {.f = f, .seed = 1000 + run};
        s.base = calloc(1, SIZE);
        s.now = calloc(1, SIZE);
        s.frozen = calloc(1, SIZE);
        s.touched = calloc(1, SECTORS);
        for (uint64_t i = 0; i < SIZE; i += PAGE)
            if (random_next(&s.seed) % 2 == 0)
                memset(s.base + i, (int)(i / PAGE), min_u64(PAGE, SIZE - i));
        memcpy(s.now, s.base, SIZE);
        memcpy(s.frozen, s.base, SIZE);
        s.disk = open_disk(f, f->machine, s.base, SIZE, false);
        run_steps(&s);
        disk_close(s.disk);
        free(s.base);
        free(s.now);
        free(s.frozen);
        free(s.touched);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(reads_its_base_until_it_is_written),
        STORE_TEST(refuses_what_lies_outside),
        STORE_TEST(a_read_only_disk_has_no_files_and_takes_no_writes),
        STORE_TEST(zeroing_zeros_changes_nothing),
        STORE_TEST(zeros_hide_what_an_older_overlay_holds),
        STORE_TEST(zeros_hide_what_a_crash_has_left_unlisted),
        STORE_TEST(zeros_hide_what_a_failed_write_has_left),
        STORE_TEST(an_unwritten_disk_freezes_to_nothing),
        STORE_TEST(a_flush_writes_only_the_changed_part_of_the_map),
        STORE_TEST(opening_without_keep_forgets),
        STORE_TEST(removing_the_overlays_leaves_other_files),
        STORE_TEST(freezing_works_however_often_no_save_takes_it),
        STORE_TEST(a_reset_forgets_on_disk_too),
        STORE_TEST(a_map_with_pages_behind_the_end_is_read_without_them),
        STORE_TEST(holds_what_a_plain_array_would),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
