/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that several threads write, while it is flushed and saved. */
#include "tests/unit/vmm/store_fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#define PAGE STASIS_PAGE_SIZE
#define SECTOR 512u
#define PAGES 96u
#define SIZE (PAGES * PAGE)
#define SECTORS (SIZE / SECTOR)
#define WRITERS 3u
#define ROUNDS 40u

/* Sector i belongs to writer i % WRITERS, so that each page has sectors of all. */
struct subject {
    struct store_fixture *f;
    struct disk *disk;
    uint8_t *base;
    _Atomic uint64_t done[SECTORS]; /* the last number that was written there, and returned */
    _Atomic bool stop;
    pthread_t threads[WRITERS];
};

struct writer {
    struct subject *s;
    unsigned index;
};

static void fill(uint8_t *sector, uint64_t number)
{
    for (unsigned i = 0; i < SECTOR; i += 8)
        store_le64(sector + i, number);
}

/* A sector holds one number, all through; 0 before anybody wrote. */
static uint64_t number_in(const uint8_t *sector)
{
    for (unsigned i = 8; i < SECTOR; i += 8)
        assert_int_equal(load_le64(sector + i), load_le64(sector));
    return load_le64(sector);
}

static void write_number(struct writer *w, uint64_t *seed, uint64_t number)
{
    uint8_t bytes[SECTOR];
    uint64_t sector = random_next(seed) % (SECTORS / WRITERS) * WRITERS + w->index;

    fill(bytes, number);
    if (disk_write(w->s->disk, sector * SECTOR, bytes, SECTOR) == 0)
        w->s->done[sector] = number;
}

static void *write_for_ever(void *context)
{
    struct writer *w = context;
    uint64_t seed = 77 + w->index;

    for (uint64_t number = 1; !w->s->stop; number++)
        write_number(w, &seed, number);
    return NULL;
}

static void start(struct subject *s, struct store_fixture *f, struct writer writers[WRITERS])
{
    struct error err = ERROR_INIT;

    s->f = f;
    s->base = calloc(1, SIZE);
    must(disk_open(f->machine, 0, store_fixture_space(f, s->base, SIZE), false, false, &s->disk,
                   &err),
         &err);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){s, i};
        assert_int_equal(pthread_create(&s->threads[i], NULL, write_for_ever, &writers[i]), 0);
    }
}

static void stop(struct subject *s)
{
    s->stop = true;
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(s->threads[i], NULL);
}

static void assert_holds_all(struct subject *s)
{
    _cleanup_free_ uint8_t *got = malloc(SIZE);

    assert_int_equal(disk_read(s->disk, 0, got, SIZE), 0);
    for (uint64_t i = 0; i < SECTORS; i++)
        assert_int_equal(number_in(got + i * SECTOR), s->done[i]);
}

static void finish(struct subject *s)
{
    disk_close(s->disk);
    free(s->base);
}

static int collect(uint64_t page, const void *bytes, void *context)
{
    uint8_t *base = context;

    if (bytes != NULL)
        memcpy(base + page * PAGE, bytes, PAGE);
    else
        memset(base + page * PAGE, 0, PAGE);
    return 0;
}

static void save(struct subject *s)
{
    struct error err = ERROR_INIT;

    must(disk_prepare_freeze(s->disk, &err), &err);
    must(disk_freeze(s->disk, &err), &err);
    must(disk_frozen_each(s->disk, collect, s->base, &err), &err);
    disk_rebase(s->disk, store_fixture_space(s->f, s->base, SIZE));
}

/* Sectors of one page are completed from below once, and by one thread. */
static void saves_beside_writers_lose_nothing(void **state)
{
    static struct subject s;
    struct writer writers[WRITERS];

    start(&s, *state, writers);
    for (unsigned i = 0; i < ROUNDS; i++) {
        save(&s);
        assert_int_equal(disk_flush(s.disk), 0);
    }
    stop(&s);
    assert_holds_all(&s);
    finish(&s);
}

static void copy_overlay(struct subject *s, const char *to, const char *name)
{
    _cleanup_free_ char *source = io_format("%s/%s", s->f->machine, name);
    _cleanup_free_ char *target = io_format("%s/%s", to, name);
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, source, 16 << 20, &bytes, &length), 0);
    assert_int_equal(io_write_file(AT_FDCWD, target, bytes, length, 0600), 0);
}

/* What a machine that is killed now would find has all that had returned before the
 * flush, or something newer. */
static void assert_flushed(struct subject *s, const uint64_t before[SECTORS])
{
    _cleanup_free_ char *dir = io_format("%s/crashed", s->f->dir);
    _cleanup_free_ uint8_t *got = malloc(SIZE);
    struct error err = ERROR_INIT;
    struct disk *disk = NULL;

    assert_int_equal(mkdir(dir, 0700), 0);
    copy_overlay(s, dir, "disk0.1.map");
    copy_overlay(s, dir, "disk0.1");
    must(disk_open(dir, 0, store_fixture_space(s->f, s->base, SIZE), false, true, &disk, &err),
         &err);
    assert_int_equal(disk_read(disk, 0, got, SIZE), 0);
    for (uint64_t i = 0; i < SECTORS; i++)
        assert_true(load_le64(got + i * SECTOR) >= before[i]);
    disk_close(disk);
    assert_int_equal(io_remove_tree(dir), 0);
}

static void a_flush_covers_all_that_had_returned(void **state)
{
    static struct subject s;
    static uint64_t before[SECTORS];
    struct writer writers[WRITERS];

    start(&s, *state, writers);
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        for (uint64_t k = 0; k < SECTORS; k++)
            before[k] = s.done[k];
        assert_int_equal(disk_flush(s.disk), 0);
        assert_flushed(&s, before);
    }
    stop(&s);
    assert_holds_all(&s);
    finish(&s);
}

static void *flush_for_ever(void *context)
{
    struct subject *s = context;

    while (!s->stop)
        (void)disk_flush(s->disk);
    return NULL;
}

/* Where overlays come and go, while others flush them. */
static void flushes_and_saves_do_not_meet(void **state)
{
    static struct subject s;
    struct writer writers[WRITERS];
    pthread_t flusher;

    start(&s, *state, writers);
    assert_int_equal(pthread_create(&flusher, NULL, flush_for_ever, &s), 0);
    for (unsigned i = 0; i < ROUNDS; i++)
        save(&s);
    stop(&s);
    pthread_join(flusher, NULL);
    assert_holds_all(&s);
    finish(&s);
}

static void what_was_just_used_is_read_without_waiting(void **state)
{
    struct store_fixture *f = *state;
    struct error err = ERROR_INIT;
    struct disk *disk = NULL;
    uint8_t bytes[PAGE], got[2 * PAGE];
    static uint8_t base[400 * PAGE]; /* zeros from the third page on */

    memset(base, 3, 2 * PAGE);
    memset(bytes, 7, sizeof(bytes));
    must(disk_open(f->machine, 0, store_fixture_space(f, base, sizeof(base)), false, false, &disk,
                   &err),
         &err);
    assert_int_equal(disk_write(disk, 0, bytes, PAGE), 0);
    assert_int_equal(disk_read_cached(disk, 0, got, PAGE), 0);
    assert_memory_equal(got, bytes, PAGE);
    assert_int_equal(disk_read_cached(disk, PAGE, got, PAGE), -EAGAIN); /* of the base */
    assert_int_equal(disk_read(disk, PAGE, got, 1), 0);
    assert_int_equal(disk_read_cached(disk, PAGE + 1, got, PAGE - 1), 0);
    assert_memory_equal(got, base + PAGE + 1, PAGE - 1);
    memset(got, 0, sizeof(got));
    assert_int_equal(disk_read_cached(disk, 0, got, sizeof(got)), 0);
    assert_memory_equal(got, bytes, PAGE);
    assert_memory_equal(got + PAGE, base + PAGE, PAGE);
    assert_int_equal(disk_read(disk, 300 * PAGE, got, PAGE), 0);
    assert_int_equal(disk_read_cached(disk, 301 * PAGE, got, PAGE), 0);
    for (size_t i = 0; i < PAGE; i++)
        assert_int_equal(got[i], 0);
    assert_int_equal(disk_read_cached(disk, sizeof(base), got, 1), -EINVAL);
    disk_close(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(saves_beside_writers_lose_nothing),
        STORE_TEST(a_flush_covers_all_that_had_returned),
        STORE_TEST(flushes_and_saves_do_not_meet),
        STORE_TEST(what_was_just_used_is_read_without_waiting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
