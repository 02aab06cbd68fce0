/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "imgfmt/pack_layout.h"
#include "imgfmt/pack_mend.h"
#include "samples.h"

#include <errno.h>
#include <fcntl.h>

DEFINE_CLEANUP(struct pack_mend, pack_mend_free)
DEFINE_CLEANUP(struct pack_index, pack_index_free)
DEFINE_CLEANUP(struct pack_writer, pack_writer_free)

static void load(int fd, struct buffer *out)
{
    sample_contents(fd, out);
    close(fd);
}

static struct pack_mend *mend(const struct buffer *pack)
{
    uint8_t *copy = malloc(pack->length + 1);
    struct pack_mend *m = NULL;
    struct error err = ERROR_INIT;

    assert_non_null(copy);
    memcpy(copy, pack->data, pack->length);
    int r = pack_mend_begin("p", copy, pack->length, &m, &err);
    if (r < 0) {
        assert_int_equal(r, -EBADMSG);
        assert_int_equal(err.status, STATUS_CORRUPT);
        return NULL;
    }
    return m;
}

/* Damage is found and the very bytes come back. */
static void expect_mended(const struct buffer *damaged, const struct buffer *good, const char *how,
                          size_t where)
{
    _cleanup_(pack_mend_freep) struct pack_mend *m = mend(damaged);
    size_t count, length;

    if (m == NULL || !pack_mend_is_whole(m))
        fail_msg("%s at byte %zu is not mended", how, where);
    pack_mend_damage(m, &count);
    if (count == 0)
        fail_msg("%s at byte %zu is not found", how, where);
    const uint8_t *bytes = pack_mend_bytes(m, &length);
    assert_int_equal(length, good->length);
    assert_memory_equal(bytes, good->data, length);
}

static void a_sound_pack_has_no_damage(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0};
    size_t count, length;

    (void)state;
    load(sample_protected_pack(), &good);
    _cleanup_(pack_mend_freep) struct pack_mend *m = mend(&good);
    pack_mend_damage(m, &count);
    assert_int_equal(count, 0);
    assert_true(pack_mend_is_whole(m));
    assert_int_equal(pack_mend_index(m)->group_count, SAMPLE_PROTECTED_GROUPS);
    assert_memory_equal(pack_mend_bytes(m, &length), good.data, good.length);
}

static void every_flipped_byte_is_mended(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    for (size_t i = 0; i < pack.length; i++) {
        pack.data[i] ^= (uint8_t)(1 << i % 8);
        expect_mended(&pack, &good, "a flipped bit", i);
        pack.data[i] = good.data[i];
    }
}

/* As a disk loses them: whole sectors, with part of two groups, of a group and the
 * trailer behind it, of parity and footer... */
static void every_lost_sector_is_mended(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    for (size_t size = 512; size <= 4096; size *= 8) {
        for (size_t i = 0; i < pack.length; i += size) {
            size_t n = (size_t)min_u64(size, pack.length - i);

            memset(pack.data + i, 0xa5, n);
            expect_mended(&pack, &good, "a lost sector", i);
            memcpy(pack.data + i, good.data + i, n);
        }
    }
}

static void a_lost_group_is_mended(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    int fd = sample_protected_pack();

    (void)state;
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), 0);
    load(fd, &good);
    for (uint32_t i = 0; i < index->group_count; i++) {
        const struct pack_group *g = &index->groups[i];

        pack.length = 0;
        buffer_append(&pack, good.data, good.length);
        memset(pack.data + g->offset, (int)i, g->stored_bytes);
        expect_mended(&pack, &good, "a lost group", g->offset);
    }
}

static void damage_in_several_places_is_mended(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    /* Three groups and the last trailer; none falls onto another. */
    pack.data[100] ^= 1;
    memset(pack.data + 4096, 7, 100);
    pack.data[3 * 8192 + 1000] ^= 0x80;
    pack.data[pack.length - 1] ^= 1;
    expect_mended(&pack, &good, "much damage", 100);
}

static void a_tail_that_was_cut_off_is_mended(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    for (size_t cut = 1; cut < PACK_TRAILER_SIZE + SAMPLE_PROTECTED_GROUPS * 76; cut += 13) {
        pack.length = good.length - cut;
        expect_mended(&pack, &good, "a cut", pack.length);
    }
}

static void bytes_behind_the_end_are_dropped(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    uint8_t junk[1000] = {1, 2, 3};

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    buffer_append(&pack, junk, sizeof(junk));
    expect_mended(&pack, &good, "junk", good.length);
}

/* Two changes that fold onto one another cannot be told apart. */
static void what_cannot_be_mended_is_said_and_left(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    uint8_t raw[STASIS_PAGE_SIZE], want[STASIS_PAGE_SIZE];
    size_t count, length, lost = 0;

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    pack.data[200] ^= 1;
    pack.data[200 + 8192] ^= 2;
    _cleanup_(pack_mend_freep) struct pack_mend *m = mend(&pack);
    assert_non_null(m);
    assert_false(pack_mend_is_whole(m));
    const struct pack_damage *damage = pack_mend_damage(m, &count);
    for (size_t i = 0; i < count; i++)
        lost += !damage[i].mended;
    assert_int_equal(lost, 2);
    assert_memory_equal(pack_mend_bytes(m, &length), pack.data, pack.length);
    for (uint32_t i = 0; i < SAMPLE_PROTECTED_GROUPS; i++) {
        bool is_lost = false;

        for (size_t d = 0; d < count; d++)
            is_lost = is_lost || (damage[d].group == i && !damage[d].mended);
        int r = pack_mend_group(m, i, raw, NULL);
        assert_int_equal(r, is_lost ? -EBADMSG : 0);
        sample_page(i, want);
        if (r == 0)
            assert_memory_equal(raw, want, sizeof(raw));
    }
}

static void a_lost_group_can_be_supplied(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    uint8_t page[STASIS_PAGE_SIZE];
    size_t count, length;

    (void)state;
    load(sample_protected_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    pack.data[200] ^= 1;
    pack.data[200 + 8192] ^= 2;
    _cleanup_(pack_mend_freep) struct pack_mend *m = mend(&pack);
    const struct pack_damage *damage = pack_mend_damage(m, &count);
    for (size_t i = 0; i < count; i++) {
        sample_page(damage[i].group + 1, page);
        assert_int_equal(pack_mend_supply(m, damage[i].group, page, NULL), -EBADMSG);
        sample_page(damage[i].group, page);
        assert_int_equal(pack_mend_supply(m, damage[i].group, page, NULL), 0);
    }
    assert_true(pack_mend_is_whole(m));
    assert_memory_equal(pack_mend_bytes(m, &length), good.data, good.length);
}

static void damage_without_parity_is_found_and_stays(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};

    (void)state;
    load(sample_nodes_pack(), &good);
    buffer_append(&pack, good.data, good.length);
    for (size_t i = 0; i < pack.length; i++) {
        pack.data[i] ^= (uint8_t)(1 << i % 8);
        _cleanup_(pack_mend_freep) struct pack_mend *m = mend(&pack);
        if (m != NULL && pack_mend_is_whole(m))
            fail_msg("byte %zu", i);
        pack.data[i] = good.data[i];
    }
}

static void random_damage_never_gives_wrong_bytes(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    uint8_t raw[STASIS_PAGE_SIZE], want[STASIS_PAGE_SIZE];
    uint64_t seed = 88172645463325252u;

    (void)state;
    load(sample_protected_pack(), &good);
    for (unsigned n = 0; n < 500; n++) {
        pack.length = 0;
        buffer_append(&pack, good.data, good.length);
        for (unsigned k = 0; k < 1 + n % 9; k++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            size_t at = seed % pack.length;
            memset(pack.data + at, (int)(seed >> 32),
                   (size_t)min_u64(1 + (seed >> 40) % 700, pack.length - at));
        }
        _cleanup_(pack_mend_freep) struct pack_mend *m = mend(&pack);
        for (uint32_t i = 0; m != NULL && i < SAMPLE_PROTECTED_GROUPS; i++) {
            sample_page(i, want);
            if (pack_mend_group(m, i, raw, NULL) == 0)
                assert_memory_equal(raw, want, sizeof(raw));
        }
    }
}

static void a_reader_is_rescued(void **state)
{
    int fd = sample_protected_pack();
    _cleanup_(buffer_clear) struct buffer pack = {0};
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    uint8_t raw[STASIS_PAGE_SIZE], want[STASIS_PAGE_SIZE];

    (void)state;
    load(fd, &pack);
    pack.data[PACK_HEADER_SIZE + 5] ^= 1;
    pack.data[pack.length - 100] ^= 1;
    _cleanup_close_ int bad = sample_file(pack.data, pack.length);
    assert_int_equal(pack_index_read(bad, "p", &index, NULL), -EBADMSG);
    assert_int_equal(pack_index_rescue(bad, "p", &index, NULL), 0);
    assert_int_equal(pack_group_read(bad, "p", index, 0, raw, NULL), -EBADMSG);
    assert_int_equal(pack_group_rescue(bad, "p", index, 0, raw, NULL), 0);
    sample_page(0, want);
    assert_memory_equal(raw, want, sizeof(raw));
    index->id[0] ^= 1;
    assert_int_equal(pack_group_rescue(bad, "p", index, 0, raw, NULL), -EBADMSG);
}

/* Longer than any parity, so that it is folded on the way and at the end. */
static void a_large_pack_costs_three_to_six_percent(void **state)
{
    enum { PAGES = PACK_GROUP_RAW_MAX / STASIS_PAGE_SIZE };
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);
    struct pack_object_id ids[PAGES];
    uint32_t group;

    (void)state;
    for (unsigned groups = 5; groups <= 10; groups += 5) {
        int fd = sample_file("", 0);
        _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;

        assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
        assert_int_equal(pack_writer_protect(w, NULL), 0);
        for (uint32_t g = 0; g < groups; g++) {
            for (uint32_t i = 0; i < PAGES; i++) {
                sample_page(2 * (g * PAGES + i) + 1, raw + (size_t)i * STASIS_PAGE_SIZE);
                page_ref_store(sample_ref(g * PAGES + i + 1), ids[i].bytes);
            }
            assert_int_equal(
                pack_writer_group(w, raw, PACK_GROUP_RAW_MAX, ids, PAGES, &group, NULL), 0);
        }
        uint64_t size = pack_writer_size(w);
        assert_int_equal(pack_writer_finish(w, NULL), 0);
        good.length = pack.length = 0;
        load(fd, &good);
        assert_int_equal(good.length, size);
        uint32_t parity = pack_writer_index(w)->parity_bytes;
        assert_in_range(parity * 1000 / good.length, 29, 63);
        buffer_append(&pack, good.data, good.length);
        memset(pack.data + (3u << 20) - parity / 4, 0, parity / 2);
        expect_mended(&pack, &good, "a wide hole", 3u << 20);
    }
}

/* The parity is made once, whatever happens to its bytes. */
static void a_finish_that_failed_can_be_repeated(void **state)
{
    _cleanup_(buffer_clear) struct buffer good = {0}, pack = {0};
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    int fd = sample_file("", 0);
    uint8_t page[STASIS_PAGE_SIZE];
    struct pack_object_id id;
    uint32_t group;

    (void)state;
    assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
    assert_int_equal(pack_writer_protect(w, NULL), 0);
    for (uint32_t i = 0; i < 9; i++) {
        sample_page(i, page);
        page_ref_store(sample_ref(i + 1), id.bytes);
        assert_int_equal(pack_writer_group(w, page, sizeof(page), &id, 1, &group, NULL), 0);
    }
    assert_int_equal(pack_writer_protect(w, NULL), -EINVAL);
    _cleanup_close_ int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    _cleanup_close_ int keep = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    assert_true(dup3(full, fd, O_CLOEXEC) == fd);
    assert_int_equal(pack_writer_finish(w, NULL), -ENOSPC);
    assert_true(dup3(keep, fd, O_CLOEXEC) == fd);
    assert_int_equal(pack_writer_finish(w, NULL), 0);
    load(fd, &good);
    buffer_append(&pack, good.data, good.length);
    pack.data[5000] ^= 1;
    expect_mended(&pack, &good, "a flipped bit", 5000);
}

static void parity_has_its_length(void **state)
{
    (void)state;
    assert_int_equal(pack_parity_length(64), 64);
    assert_int_equal(pack_parity_length(8192), 8192);
    assert_int_equal(pack_parity_length(100000), 8192);
    assert_int_equal(pack_parity_length(PACK_PARITY_MAX), PACK_PARITY_MAX / 16);
    assert_int_equal(pack_parity_length(PACK_MAX_SIZE), PACK_PARITY_MAX);
    for (uint64_t n = PACK_PARITY_MAX + 1; n < PACK_MAX_SIZE; n += 12345) {
        uint32_t length = pack_parity_length(n);

        assert_int_equal(PACK_PARITY_MAX % length, 0);
        assert_in_range(length, n / 32, n / 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_pack_has_no_damage),
        cmocka_unit_test(every_flipped_byte_is_mended),
        cmocka_unit_test(every_lost_sector_is_mended),
        cmocka_unit_test(a_lost_group_is_mended),
        cmocka_unit_test(damage_in_several_places_is_mended),
        cmocka_unit_test(a_tail_that_was_cut_off_is_mended),
        cmocka_unit_test(bytes_behind_the_end_are_dropped),
        cmocka_unit_test(what_cannot_be_mended_is_said_and_left),
        cmocka_unit_test(a_lost_group_can_be_supplied),
        cmocka_unit_test(damage_without_parity_is_found_and_stays),
        cmocka_unit_test(random_damage_never_gives_wrong_bytes),
        cmocka_unit_test(a_reader_is_rescued),
        cmocka_unit_test(a_large_pack_costs_three_to_six_percent),
        cmocka_unit_test(a_finish_that_failed_can_be_repeated),
        cmocka_unit_test(parity_has_its_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
