/* SPDX-License-Identifier: Apache-2.0 */
/* Published packs and the list of them. */
#include "registry/packer.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "registry/blob.h"
#include "registry/pack_list.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { PACKS_MAX = 8 };

struct packs {
    unsigned count;
    struct descriptor packs[PACKS_MAX];
    struct pack_index *indexes[PACKS_MAX];
    struct buffer list;
};

static int open_pack(void *context, int *fd_out, struct error *err)
{
    (void)context;
    (void)err;
    *fd_out = memfd_create("pack", MFD_CLOEXEC);
    return 0;
}

static int take_pack(void *context, int fd, struct error *err)
{
    struct packs *p = context;

    assert_true(p->count < PACKS_MAX);
    assert_int_equal(blob_describe(fd, &p->packs[p->count], err), 0);
    assert_int_equal(pack_index_read(fd, "test", &p->indexes[p->count], err), 0);
    assert_int_equal(pack_list_append(&p->list, fd, &p->packs[p->count], err), 0);
    p->count++;
    return 0;
}

static void packs_clear(struct packs *p)
{
    for (unsigned i = 0; i < p->count; i++)
        pack_index_free(p->indexes[i]);
    buffer_clear(&p->list);
}

/* Random pages (level > 0: pages that compress). */
static void make_page(uint8_t *page, uint64_t number, bool regular)
{
    uint64_t x = number * 2654435761u + 1;

    memset(page, 0, STASIS_PAGE_SIZE);
    store_le64(page, number + 1);
    for (size_t i = 8; i < STASIS_PAGE_SIZE && !regular; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        store_le64(page + i, x);
    }
}

static void pack_pages(struct packs *p, unsigned pages, bool regular)
{
    const struct packer_sink sink = {open_pack, take_pack, p};
    struct error err = ERROR_INIT;
    struct packer *packer;
    uint8_t page[STASIS_PAGE_SIZE];

    assert_int_equal(pack_list_begin(&p->list), 0);
    assert_int_equal(packer_new(PACK_PAGES, &sink, &packer, &err), 0);
    for (unsigned i = 0; i < pages; i++) {
        struct pack_object_id id;
        make_page(page, i, regular);
        page_ref_store(page_ref_of(page), id.bytes);
        if (packer_add(packer, &id, page, sizeof(page), &err) < 0)
            fail_msg("%s", err.message);
    }
    if (packer_finish(packer, &err) < 0)
        fail_msg("%s", err.message);
    packer_free(packer);
    pack_list_finish(&p->list, p->count);
}

static void the_same_pages_make_the_same_packs(void **state)
{
    _cleanup_(packs_clear) struct packs a = {0}, b = {0};

    (void)state;
    pack_pages(&a, 600, true);
    pack_pages(&b, 600, true);
    assert_int_equal(a.count, 1);
    assert_int_equal(b.count, 1);
    assert_true(digest_equal(&a.packs[0].digest, &b.packs[0].digest));
}

static void other_pages_make_packs_of_another_id(void **state)
{
    _cleanup_(packs_clear) struct packs a = {0}, b = {0};

    (void)state;
    pack_pages(&a, 600, true);
    pack_pages(&b, 601, true);
    assert_memory_not_equal(a.indexes[0]->id, b.indexes[0]->id, PACK_ID_SIZE);
}

static void published_groups_have_256_pages(void **state)
{
    _cleanup_(packs_clear) struct packs p = {0};

    (void)state;
    pack_pages(&p, 600, true);
    assert_int_equal(p.indexes[0]->group_count, 3);
    assert_int_equal(p.indexes[0]->groups[0].object_count, PACK_PUBLISHED_GROUP_PAGES);
    assert_int_equal(p.indexes[0]->groups[2].object_count, 600 - 512);
}

static void a_full_pack_is_followed_by_the_next(void **state)
{
    enum { PAGES = PACK_MAX_SIZE / STASIS_PAGE_SIZE + 600 };
    _cleanup_(packs_clear) struct packs p = {0};

    (void)state;
    pack_pages(&p, PAGES, false);
    assert_int_equal(p.count, 2);
    assert_true(p.packs[0].size <= PACK_MAX_SIZE);
    assert_true(p.packs[0].size > PACK_MAX_SIZE - (2u << 20));
    assert_int_equal(p.indexes[0]->object_count + p.indexes[1]->object_count, PAGES);
}

static void nothing_makes_no_pack(void **state)
{
    _cleanup_(packs_clear) struct packs p = {0};

    (void)state;
    pack_pages(&p, 0, true);
    assert_int_equal(p.count, 0);
}

/* ---- the pack list ---- */

/* Reads the whole list; returns the first error. */
static int read_list(const void *data, size_t length, struct error *err)
{
    struct pack_list_reader reader;

    int r = pack_list_read(data, length, &reader, err);
    while (r == 0 && reader.left > 0) {
        struct pack_index *index = NULL;
        struct descriptor pack;
        r = pack_list_next(&reader, &pack, &index, err);
        pack_index_free(index);
    }
    return r < 0 ? r : pack_list_end(&reader, err);
}

static void a_list_gives_the_packs_back(void **state)
{
    _cleanup_(packs_clear) struct packs p = {0};
    struct pack_list_reader reader;
    struct pack_index *index;
    struct descriptor pack;

    (void)state;
    pack_pages(&p, 600, true);
    assert_int_equal(pack_list_read(p.list.data, p.list.length, &reader, NULL), 0);
    assert_int_equal(pack_list_next(&reader, &pack, &index, NULL), 0);
    assert_int_equal(pack.size, p.packs[0].size);
    assert_true(digest_equal(&pack.digest, &p.packs[0].digest));
    assert_int_equal(index->group_count, p.indexes[0]->group_count);
    assert_true(digest_equal(&index->groups[1].digest, &p.indexes[0]->groups[1].digest));
    pack_index_free(index);
    assert_int_equal(pack_list_end(&reader, NULL), 0);
    assert_int_equal(pack_list_next(&reader, &pack, &index, NULL), -EBADMSG);
}

static void a_list_cut_anywhere_is_refused(void **state)
{
    _cleanup_(packs_clear) struct packs p = {0};

    (void)state;
    pack_pages(&p, 40, true);
    for (size_t length = 0; length < p.list.length; length++) {
        struct error err = ERROR_INIT;
        _cleanup_free_ uint8_t *exact = malloc(length + 1); /* so that overruns are seen */
        memcpy(exact, p.list.data, length);
        if (read_list(exact, length, &err) != -EBADMSG)
            fail_msg("cut at %zu was taken", length);
    }
}

static void a_list_with_absurd_fields_is_refused(void **state)
{
    static const size_t fields[] = {12, 16, 16 + 40};
    _cleanup_(packs_clear) struct packs p = {0};

    (void)state;
    pack_pages(&p, 40, true);
    assert_int_equal(read_list(p.list.data, p.list.length, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        uint8_t before = p.list.data[fields[i] + 3];
        p.list.data[fields[i] + 3] = 0xff;
        assert_int_equal(read_list(p.list.data, p.list.length, NULL), -EBADMSG);
        p.list.data[fields[i] + 3] = before;
    }
    assert_int_equal(buffer_append(&p.list, "x", 1), 0);
    assert_int_equal(read_list(p.list.data, p.list.length, NULL), -EBADMSG);
}

static void a_newer_list_asks_for_a_newer_program(void **state)
{
    _cleanup_(packs_clear) struct packs p = {0};

    (void)state;
    pack_pages(&p, 40, true);
    p.list.data[8] = 2;
    assert_int_equal(read_list(p.list.data, p.list.length, NULL), -EPROTONOSUPPORT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_pages_make_the_same_packs),
        cmocka_unit_test(other_pages_make_packs_of_another_id),
        cmocka_unit_test(published_groups_have_256_pages),
        cmocka_unit_test(a_full_pack_is_followed_by_the_next),
        cmocka_unit_test(nothing_makes_no_pack),
        cmocka_unit_test(a_list_gives_the_packs_back),
        cmocka_unit_test(a_list_cut_anywhere_is_refused),
        cmocka_unit_test(a_list_with_absurd_fields_is_refused),
        cmocka_unit_test(a_newer_list_asks_for_a_newer_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
