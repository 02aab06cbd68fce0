/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "samples.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <xxhash.h>

DEFINE_CLEANUP(struct pack_writer, pack_writer_free)
DEFINE_CLEANUP(struct pack_index, pack_index_free)
DEFINE_CLEANUP(struct pack_encoder, pack_encoder_free)

/* ---- good packs ---- */

static void pages_read_back(void **state)
{
    _cleanup_close_ int fd = sample_pages_pack();
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    uint8_t raw[4][STASIS_PAGE_SIZE];
    uint8_t want[STASIS_PAGE_SIZE];

    (void)state;
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), 0);
    assert_int_equal(index->kind, PACK_PAGES);
    assert_int_equal(index->group_count, SAMPLE_PACK_GROUPS);
    assert_int_equal(index->object_count, SAMPLE_PACK_PAGES);
    assert_int_equal(index->groups[1].first_object, 4);
    assert_true(page_ref_equal(page_ref_load(index->objects[4].bytes), sample_ref(2)));
    assert_int_equal(pack_group_read(fd, "p", index, 0, raw, NULL), 0);
    assert_int_equal(pack_group_check_digest("p", &index->groups[0], raw, NULL), 0);
    for (uint32_t i = 0; i < 4; i++) {
        sample_page(2 * i, want);
        assert_memory_equal(raw[i], want, sizeof(want));
    }
    assert_int_equal(pack_group_read(fd, "p", index, 1, raw, NULL), 0);
    sample_page(1, want);
    assert_memory_equal(raw[0], want, sizeof(want));
}

static void groups_are_raw_where_compression_gains_nothing(void **state)
{
    _cleanup_close_ int fd = sample_pages_pack();
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;

    (void)state;
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), 0);
    assert_int_equal(index->groups[0].codec, PACK_ZSTD);
    assert_true(index->groups[0].stored_bytes < index->groups[0].raw_bytes);
    assert_int_equal(index->groups[1].codec, PACK_RAW);
    assert_int_equal(index->groups[1].stored_bytes, STASIS_PAGE_SIZE);
}

static void nodes_read_back(void **state)
{
    _cleanup_close_ int fd = sample_nodes_pack();
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    uint8_t raw[2 * MAP_NODE_MAX_SIZE];
    struct map_node node;

    (void)state;
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), 0);
    assert_int_equal(index->kind, PACK_NODES);
    assert_int_equal(pack_group_read(fd, "p", index, 0, raw, NULL), 0);
    size_t first = map_node_length(raw, index->groups[0].raw_bytes);
    assert_int_equal(map_node_decode(raw, first, &node, NULL), 0);
    assert_int_equal(node.level, 0);
    struct digest digest = digest_of(raw, first);
    assert_memory_equal(index->objects[0].bytes, digest.bytes, 16);
}

static void an_empty_pack_is_a_pack(void **state)
{
    _cleanup_close_ int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;

    (void)state;
    assert_int_equal(pack_writer_open(fd, PACK_NODES, 1, &w, NULL), 0);
    assert_int_equal(pack_writer_size(w), PACK_HEADER_SIZE + PACK_TRAILER_SIZE);
    assert_int_equal(pack_writer_finish(w, NULL), 0);
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), 0);
    assert_int_equal(index->object_count, 0);
    assert_int_equal(pack_group_read(fd, "p", index, 0, NULL, NULL), -EBADMSG);
}

static void two_packs_have_two_ids(void **state)
{
    _cleanup_close_ int a = sample_nodes_pack();
    _cleanup_close_ int b = sample_nodes_pack();
    _cleanup_(pack_index_freep) struct pack_index *first = NULL;
    _cleanup_(pack_index_freep) struct pack_index *second = NULL;

    (void)state;
    assert_int_equal(pack_index_read(a, "a", &first, NULL), 0);
    assert_int_equal(pack_index_read(b, "b", &second, NULL), 0);
    assert_memory_not_equal(first->id, second->id, PACK_ID_SIZE);
}

static void an_index_can_be_read_from_its_tail(void **state)
{
    _cleanup_close_ int fd = sample_pages_pack();
    _cleanup_(buffer_clear) struct buffer pack = {0};
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    uint64_t footer;

    (void)state;
    sample_contents(fd, &pack);
    uint8_t *end = pack.data + pack.length;
    assert_int_equal(pack_footer_offset("p", pack.length, end - PACK_TRAILER_SIZE, &footer, NULL),
                     0);
    size_t tail = pack.length - (size_t)footer;
    assert_int_equal(pack_index_decode("p", pack.length, pack.data, end - tail, tail, &index, NULL),
                     0);
    assert_int_equal(index->group_count, SAMPLE_PACK_GROUPS);
    assert_true(index->file_bytes == pack.length);
}

static void groups_read_back_before_the_pack_is_finished(void **state)
{
    _cleanup_close_ int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    uint8_t page[STASIS_PAGE_SIZE];
    uint8_t read[STASIS_PAGE_SIZE];
    struct pack_object_id id;
    uint32_t group;

    (void)state;
    assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
    for (uint32_t i = 0; i < 300; i++) {
        sample_page(i, page);
        page_ref_store(sample_ref(i + 1), id.bytes);
        assert_int_equal(pack_writer_group(w, page, sizeof(page), &id, 1, &group, NULL), 0);
        assert_int_equal(group, i);
    }
    for (uint32_t i = 0; i < 300; i += 7) {
        sample_page(i, page);
        assert_int_equal(pack_group_read(fd, "p", pack_writer_index(w), i, read, NULL), 0);
        assert_memory_equal(read, page, sizeof(page));
    }
    uint64_t size = pack_writer_size(w);
    assert_int_equal(pack_writer_finish(w, NULL), 0);
    assert_true(lseek(fd, 0, SEEK_END) == (off_t)size);
    assert_int_equal(pack_group_read(fd, "p", pack_writer_index(w), 299, read, NULL), 0);
}

/* As threads do that compress ahead of the file. */
static void groups_may_be_encoded_first_and_appended_later(void **state)
{
    enum { GROUPS = 4 };
    _cleanup_close_ int fd = sample_file("", 0);
    _cleanup_(pack_encoder_freep) struct pack_encoder *e = NULL;
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    uint8_t pages[GROUPS][STASIS_PAGE_SIZE], rooms[GROUPS][STASIS_PAGE_SIZE];
    struct pack_encoded encoded[GROUPS];
    uint8_t read[STASIS_PAGE_SIZE];
    struct pack_object_id id;
    uint32_t group;

    (void)state;
    assert_int_equal(pack_encoder_new(1, &e, NULL), 0);
    assert_int_equal(pack_group_encode(e, pages, 0, 0, NULL, encoded, NULL), -EINVAL);
    for (uint32_t i = 0; i < GROUPS; i++) {
        sample_page(i, pages[i]);
        assert_int_equal(
            pack_group_encode(e, pages[i], STASIS_PAGE_SIZE, 1, rooms[i], &encoded[i], NULL), 0);
    }
    assert_ptr_equal(encoded[0].stored, rooms[0]);
    assert_ptr_equal(encoded[1].stored, pages[1]);
    assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
    for (uint32_t i = 0; i < GROUPS; i++) {
        page_ref_store(sample_ref(i + 1), id.bytes);
        assert_int_equal(pack_writer_append(w, &encoded[i], &id, &group, NULL), 0);
    }
    for (uint32_t i = 0; i < GROUPS; i++) {
        assert_int_equal(pack_group_read(fd, "p", pack_writer_index(w), i, read, NULL), 0);
        assert_memory_equal(read, pages[i], sizeof(read));
    }
}

static void a_full_pack_takes_no_more_and_can_be_finished(void **state)
{
    enum { PAGES = PACK_GROUP_RAW_MAX / STASIS_PAGE_SIZE };
    _cleanup_close_ int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);
    struct pack_object_id ids[PAGES];
    uint32_t group;
    int r = 0;

    (void)state;
    for (uint32_t i = 0; i < PAGES; i++) {
        sample_page(2 * i + 1, raw + (size_t)i * STASIS_PAGE_SIZE);
        page_ref_store(sample_ref(i + 1), ids[i].bytes);
    }
    assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
    for (unsigned n = 0; r == 0 && n < 65; n++)
        r = pack_writer_group(w, raw, PACK_GROUP_RAW_MAX, ids, PAGES, &group, NULL);
    assert_int_equal(r, -EFBIG);
    assert_true(pack_writer_size(w) <= PACK_MAX_SIZE);
    assert_int_equal(pack_writer_finish(w, NULL), 0);
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), 0);
    assert_int_equal(index->group_count, 63);
}

static void the_writer_refuses_what_a_reader_would(void **state)
{
    _cleanup_close_ int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    uint8_t raw[2 * STASIS_PAGE_SIZE] = {1};
    struct pack_object_id ids[2] = {{{1}}, {{2}}};
    uint32_t group;

    (void)state;
    assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
    assert_int_equal(pack_writer_group(w, raw, 0, ids, 0, &group, NULL), -EINVAL);
    assert_int_equal(pack_writer_group(w, raw, 4096, ids, 2, &group, NULL), -EINVAL);
    assert_int_equal(pack_writer_group(w, raw, 8191, ids, 2, &group, NULL), -EINVAL);
    ids[1] = (struct pack_object_id){{0}};
    assert_int_equal(pack_writer_group(w, raw, 8192, ids, 2, &group, NULL), -EINVAL);
    ids[1].bytes[15] = 1;
    assert_int_equal(pack_writer_finish(w, NULL), 0);
    assert_int_equal(pack_writer_group(w, raw, 8192, ids, 2, &group, NULL), -EINVAL);
}

static void a_failed_write_is_told_and_can_be_repeated(void **state)
{
    _cleanup_close_ int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;
    uint8_t page[STASIS_PAGE_SIZE];
    struct pack_object_id id = {{1}};
    struct error err = ERROR_INIT;
    uint32_t group;

    (void)state;
    sample_page(1, page);
    assert_int_equal(pack_writer_open(fd, PACK_PAGES, 1, &w, NULL), 0);
    _cleanup_close_ int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    _cleanup_close_ int keep = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    assert_true(dup3(full, fd, O_CLOEXEC) == fd);
    assert_int_equal(pack_writer_group(w, page, sizeof(page), &id, 1, &group, &err), -ENOSPC);
    assert_true(err.hint[0] != '\0');
    assert_true(dup3(keep, fd, O_CLOEXEC) == fd);
    assert_int_equal(pack_writer_group(w, page, sizeof(page), &id, 1, &group, NULL), 0);
    assert_int_equal(group, 0);
}

/* ---- bad packs ---- */

/* What a change of one field of a well-sealed pack leads to. */
static int read_back(const struct buffer *pack, struct error *err)
{
    _cleanup_close_ int fd = sample_file(pack->data, pack->length);
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    uint8_t raw[SAMPLE_PACK_PAGES * STASIS_PAGE_SIZE];

    int r = pack_index_read(fd, "bad", &index, err);
    if (r < 0) {
        assert_null(index);
        return r;
    }
    for (uint32_t i = 0; r == 0 && i < index->group_count; i++) {
        r = pack_group_read(fd, "bad", index, i, raw, err);
        if (r == 0)
            r = pack_group_check_digest("bad", &index->groups[i], raw, err);
    }
    return r;
}

static void any_cut_is_noticed(void **state)
{
    _cleanup_close_ int fd = sample_nodes_pack();
    _cleanup_(buffer_clear) struct buffer pack = {0};
    struct error err = ERROR_INIT;

    (void)state;
    sample_contents(fd, &pack);
    for (size_t whole = pack.length; pack.length > 0;) {
        pack.length--;
        if (read_back(&pack, &err) != -EBADMSG)
            fail_msg("cut to %zu of %zu bytes", pack.length, whole);
        assert_int_equal(err.status, STATUS_CORRUPT);
    }
}

static void any_flipped_bit_is_noticed(void **state)
{
    _cleanup_close_ int fd = sample_nodes_pack();
    _cleanup_(buffer_clear) struct buffer pack = {0};

    (void)state;
    sample_contents(fd, &pack);
    for (size_t i = 0; i < pack.length; i++) {
        pack.data[i] ^= (uint8_t)(1 << i % 8);
        if (read_back(&pack, NULL) != -EBADMSG)
            fail_msg("flipped a bit of byte %zu", i);
        pack.data[i] ^= (uint8_t)(1 << i % 8);
    }
    assert_int_equal(read_back(&pack, NULL), 0);
}

struct forged {
    struct buffer pack;
    uint8_t *header;
    uint8_t *entry0;
    uint8_t *entry1;
    uint8_t *objects;
    uint8_t *trailer;
};

static void forge(struct forged *f)
{
    _cleanup_close_ int fd = sample_pages_pack();

    *f = (struct forged){0};
    sample_contents(fd, &f->pack);
    f->header = f->pack.data;
    f->trailer = f->pack.data + f->pack.length - PACK_TRAILER_SIZE;
    f->entry0 = f->pack.data + load_le64(f->trailer);
    f->entry1 = f->entry0 + 60;
    f->objects = f->entry1 + 60;
}

/* Seals the forged pack again, so that its checksum is no help to the reader. */
static void expect(struct forged *f, int result, const char *what)
{
    struct error err = ERROR_INIT;

    sample_pack_reseal(&f->pack);
    int r = read_back(&f->pack, &err);
    if (r != result)
        fail_msg("%s: %d, %s", what, r, err.message);
    if (r < 0)
        assert_non_null(strstr(err.message, "bad"));
    if (r == -EPROTONOSUPPORT)
        assert_true(err.hint[0] != '\0');
    buffer_clear(&f->pack);
}

static void a_sealed_pack_is_believed(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    expect(&f, 0, "unchanged");
    forge(&f);
    store_le32(f.header + 16, 0x80000000);
    expect(&f, 0, "unknown compat flag");
}

static void forged_headers_are_refused(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    f.header[0] = 'X';
    expect(&f, -EBADMSG, "magic");
    forge(&f);
    store_le32(f.header + 8, 2);
    expect(&f, -EPROTONOSUPPORT, "version");
    forge(&f);
    store_le32(f.header + 12, 3);
    expect(&f, -EBADMSG, "kind");
    forge(&f);
    store_le32(f.header + 20, 1);
    expect(&f, -EPROTONOSUPPORT, "incompat");
    forge(&f);
    f.header[63] = 1;
    expect(&f, -EBADMSG, "reserved");
}

static void forged_trailers_are_refused(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    store_le64(f.trailer, UINT64_MAX);
    expect(&f, -EBADMSG, "footer far outside");
    forge(&f);
    store_le64(f.trailer, 0);
    expect(&f, -EBADMSG, "footer in the header");
    forge(&f);
    store_le64(f.trailer + 8, UINT64_MAX);
    expect(&f, -EBADMSG, "endless footer");
    forge(&f);
    store_le32(f.trailer + 16, UINT32_MAX);
    expect(&f, -EBADMSG, "too many groups");
    forge(&f);
    store_le32(f.trailer + 20, UINT32_MAX);
    expect(&f, -EBADMSG, "too many objects");
    forge(&f);
    store_le32(f.trailer + 28, 1);
    expect(&f, -EBADMSG, "reserved");
    forge(&f);
    store_le64(f.trailer + 32, 1);
    expect(&f, -EBADMSG, "a checksum of no parity");
    forge(&f);
    store_le32(f.trailer + 24, UINT32_MAX);
    expect(&f, -EBADMSG, "endless parity");
    forge(&f);
    store_le32(f.trailer + 24, 64);
    expect(&f, -EBADMSG, "parity where groups are");
}

/* 4 entries are as long as 15 object ids: the lengths add up, the groups do not. */
static void counts_that_trade_groups_for_objects_are_refused(void **state)
{
    _cleanup_(buffer_clear) struct buffer pack = {0};
    uint8_t header[PACK_HEADER_SIZE] = "STASPACK\1\0\0\0\1";
    uint8_t trailer[PACK_TRAILER_SIZE] = {0};
    struct error err = ERROR_INIT;
    uint8_t zeros[240] = {0};

    (void)state;
    store_le64(trailer, PACK_HEADER_SIZE);
    store_le64(trailer + 8, sizeof(zeros));
    store_le32(trailer + 20, 15);
    memcpy(trailer + 48, "STASPEND", 8);
    for (int groups = 0; groups <= 4; groups += 4) {
        store_le32(trailer + 16, (uint32_t)groups);
        store_le32(trailer + 20, groups == 0 ? 15 : 0);
        pack.length = 0;
        buffer_append(&pack, header, sizeof(header));
        buffer_append(&pack, zeros, sizeof(zeros));
        buffer_append(&pack, trailer, sizeof(trailer));
        sample_pack_reseal(&pack);
        assert_int_equal(read_back(&pack, &err), -EBADMSG);
        assert_null(strstr(err.message, "checksum"));
    }
}

static void forged_group_places_are_refused(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    store_le64(f.entry1, PACK_HEADER_SIZE);
    expect(&f, -EBADMSG, "overlap");
    forge(&f);
    store_le64(f.entry0, 0);
    expect(&f, -EBADMSG, "inside the header");
    forge(&f);
    store_le64(f.entry1, UINT64_MAX - 1);
    expect(&f, -EBADMSG, "outside");
    forge(&f);
    store_le32(f.entry0 + 8, load_le32(f.entry0 + 8) - 1);
    expect(&f, -EBADMSG, "a hole");
    forge(&f);
    store_le32(f.entry0 + 8, UINT32_MAX);
    expect(&f, -EBADMSG, "endless");
    forge(&f);
    store_le32(f.entry0 + 8, 0);
    expect(&f, -EBADMSG, "empty");
}

static void forged_group_sizes_are_refused(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    store_le32(f.entry0 + 12, 0);
    expect(&f, -EBADMSG, "nothing raw");
    forge(&f);
    store_le32(f.entry0 + 12, 3 * STASIS_PAGE_SIZE);
    expect(&f, -EBADMSG, "fewer raw bytes than pages");
    forge(&f);
    store_le32(f.entry0 + 12, UINT32_MAX);
    expect(&f, -EBADMSG, "endless raw");
    forge(&f);
    f.entry0[16] = PACK_RAW;
    expect(&f, -EBADMSG, "zstd called raw");
    forge(&f);
    f.entry1[16] = PACK_ZSTD;
    expect(&f, -EBADMSG, "raw called zstd");
    forge(&f);
    f.entry1[16] = 2;
    expect(&f, -EBADMSG, "codec");
    forge(&f);
    f.entry1[17] = 1;
    expect(&f, -EBADMSG, "reserved");
}

static void forged_object_counts_are_refused(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    store_le16(f.entry1 + 18, 0);
    store_le32(f.entry1 + 12, 0);
    expect(&f, -EBADMSG, "no objects");
    forge(&f);
    store_le16(f.entry0 + 18, 5);
    store_le32(f.entry0 + 12, 5 * STASIS_PAGE_SIZE);
    expect(&f, -EBADMSG, "more than the trailer says");
    forge(&f);
    store_le16(f.entry0 + 18, 3);
    store_le32(f.entry0 + 12, 3 * STASIS_PAGE_SIZE);
    expect(&f, -EBADMSG, "fewer than the trailer says");
    forge(&f);
    store_le16(f.entry0 + 18, 257);
    store_le32(f.entry0 + 12, 257 * STASIS_PAGE_SIZE);
    expect(&f, -EBADMSG, "more than a group may hold");
    forge(&f);
    memset(f.objects + 16, 0, 16);
    expect(&f, -EBADMSG, "the zero page");
}

static void stored_bytes_are_checked_before_use(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    f.pack.data[PACK_HEADER_SIZE + 8] ^= 1;
    expect(&f, -EBADMSG, "stored bytes");
    forge(&f);
    f.entry0[20] ^= 1;
    expect(&f, -EBADMSG, "checksum");
    forge(&f);
    f.entry0[28] ^= 1;
    expect(&f, -EBADMSG, "SHA-256");
}

/* Frames that zstd would happily unpack to something else. */
static void a_frame_must_hold_exactly_its_group(void **state)
{
    struct forged f;

    (void)state;
    forge(&f);
    uint32_t stored = load_le32(f.entry0 + 8);
    uint8_t *frame = f.header + PACK_HEADER_SIZE;
    /* Frame header descriptor at 4; a content size of 16384 takes 2 bytes, less 256. */
    assert_int_equal(load_le16(frame + 5), 4 * STASIS_PAGE_SIZE - 256);
    store_le16(frame + 5, 4 * STASIS_PAGE_SIZE - 257);
    store_le64(f.entry0 + 20, XXH3_64bits(frame, stored));
    expect(&f, -EBADMSG, "content size");
    forge(&f);
    frame = f.header + PACK_HEADER_SIZE;
    frame[0] ^= 1;
    store_le64(f.entry0 + 20, XXH3_64bits(frame, stored));
    expect(&f, -EBADMSG, "no frame");
}

static void nodes_cannot_be_smaller_than_a_header(void **state)
{
    _cleanup_close_ int fd = sample_nodes_pack();
    struct buffer pack = {0};
    struct error err = ERROR_INIT;

    (void)state;
    sample_contents(fd, &pack);
    uint8_t *trailer = pack.data + pack.length - PACK_TRAILER_SIZE;
    uint8_t *entry = pack.data + load_le64(trailer);
    store_le32(entry + 12, 15);
    sample_pack_reseal(&pack);
    assert_int_equal(read_back(&pack, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "2 objects in 15 bytes"));
    buffer_clear(&pack);
}

static void too_large_a_file_is_no_pack(void **state)
{
    _cleanup_close_ int fd = sample_pages_pack();
    struct pack_index *index = NULL;

    (void)state;
    assert_int_equal(ftruncate(fd, (off_t)PACK_MAX_SIZE + 1), 0);
    assert_int_equal(pack_index_read(fd, "p", &index, NULL), -EBADMSG);
}

/* ---- threads ---- */

static void *read_many(void *arg)
{
    int fd = *(int *)arg;
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    uint8_t raw[4 * STASIS_PAGE_SIZE];
    uintptr_t failures = pack_index_read(fd, "p", &index, NULL) != 0;

    for (unsigned i = 0; failures == 0 && i < 200; i++)
        failures += pack_group_read(fd, "p", index, i % 2, raw, NULL) != 0 ||
                    pack_group_check_digest("p", &index->groups[i % 2], raw, NULL) != 0;
    return (void *)failures;
}

static void threads_may_read_one_pack(void **state)
{
    _cleanup_close_ int fd = sample_pages_pack();
    pthread_t threads[4];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_many, &fd), 0);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        void *failures;
        pthread_join(threads[i], &failures);
        assert_null(failures);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_read_back),
        cmocka_unit_test(groups_are_raw_where_compression_gains_nothing),
        cmocka_unit_test(nodes_read_back),
        cmocka_unit_test(an_empty_pack_is_a_pack),
        cmocka_unit_test(two_packs_have_two_ids),
        cmocka_unit_test(an_index_can_be_read_from_its_tail),
        cmocka_unit_test(groups_read_back_before_the_pack_is_finished),
        cmocka_unit_test(groups_may_be_encoded_first_and_appended_later),
        cmocka_unit_test(a_full_pack_takes_no_more_and_can_be_finished),
        cmocka_unit_test(the_writer_refuses_what_a_reader_would),
        cmocka_unit_test(a_failed_write_is_told_and_can_be_repeated),
        cmocka_unit_test(any_cut_is_noticed),
        cmocka_unit_test(any_flipped_bit_is_noticed),
        cmocka_unit_test(a_sealed_pack_is_believed),
        cmocka_unit_test(forged_headers_are_refused),
        cmocka_unit_test(forged_trailers_are_refused),
        cmocka_unit_test(counts_that_trade_groups_for_objects_are_refused),
        cmocka_unit_test(forged_group_places_are_refused),
        cmocka_unit_test(forged_group_sizes_are_refused),
        cmocka_unit_test(forged_object_counts_are_refused),
        cmocka_unit_test(stored_bytes_are_checked_before_use),
        cmocka_unit_test(a_frame_must_hold_exactly_its_group),
        cmocka_unit_test(nodes_cannot_be_smaller_than_a_header),
        cmocka_unit_test(too_large_a_file_is_no_pack),
        cmocka_unit_test(threads_may_read_one_pack),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
