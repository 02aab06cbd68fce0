/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the index by itself: what it is given it finds, and a file that is
 * not what was written is refused. */
#include "helper.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/packs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { PACKS = 5 };

/* Packs of made-up ids; those of one key are next to each other. */
struct sample {
    struct fixture *f;
    int dirfd;
    unsigned key_bits; /* of the hashed part of an id */
    struct run_pack packs[PACKS];
    uint8_t *ids[PACKS];
    struct run *run;
};

static struct page_ref sample_id(unsigned key_bits, uint64_t n)
{
    uint64_t seed = n + 1, mask = key_bits == 64 ? UINT64_MAX : (UINT64_C(1) << key_bits) - 1;
    uint64_t lo = random_next(&seed) & mask;

    return page_ref_with_variant((struct page_ref){lo, 0}, (uint16_t)(n % 3 + 1));
}

static void sample_make(struct sample *s, struct fixture *f, unsigned key_bits, uint32_t objects)
{
    uint64_t n = 0;

    *s = (struct sample){.f = f, .key_bits = key_bits};
    s->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (unsigned p = 0; p < PACKS; p++) {
        s->packs[p] = (struct run_pack){.seq = 10 + 3 * p, .objects = objects + p, .number = p};
        memset(s->packs[p].id, (int)p + 1, PACK_ID_SIZE);
        s->ids[p] = malloc((size_t)s->packs[p].objects * PAGE_REF_SIZE + 1);
        for (uint32_t i = 0; i < s->packs[p].objects; i++)
            page_ref_store(sample_id(key_bits, n++), s->ids[p] + (size_t)i * PAGE_REF_SIZE);
    }
}

static void sample_clear(struct sample *s)
{
    for (unsigned p = 0; p < PACKS; p++)
        free(s->ids[p]);
    run_free(s->run);
    close(s->dirfd);
}

static const uint8_t *sample_ids(void *context, const struct run_pack *pack, struct error *err)
{
    const struct sample *s = context;

    (void)err;
    return s->ids[pack->number];
}

static void sample_write(struct sample *s, uint64_t piece_slots)
{
    struct error err = ERROR_INIT;

    must(run_write(s->dirfd, "a.run", s->packs, PACKS, piece_slots, sample_ids, s, &err), &err);
}

static void sample_open(struct sample *s)
{
    struct error err = ERROR_INIT;

    run_free(steal_pointer(s->run));
    must(run_open(s->dirfd, "a.run", &s->run, &err), &err);
}

/* Each object is proposed exactly once, and those of one key in their order. */
static void assert_finds_all(const struct sample *s, struct run *run)
{
    for (uint32_t p = 0; p < PACKS; p++) {
        for (uint32_t i = 0; i < s->packs[p].objects; i++) {
            struct page_ref id = page_ref_load(s->ids[p] + (size_t)i * PAGE_REF_SIZE);
            struct run_cursor c = run_find(run, run_hash(id));
            int64_t last = -1;
            uint32_t place, object;
            unsigned seen = 0;

            while (run_next(run, &c, &place, &object) == 1) {
                struct page_ref there =
                    page_ref_load(s->ids[place] + (size_t)object * PAGE_REF_SIZE);
                int64_t position = (int64_t)place << 32 | object;

                if (!page_ref_same_key(there, id))
                    continue;
                assert_true(position > last);
                last = position;
                seen += place == p && object == i;
            }
            assert_int_equal(seen, 1);
        }
    }
}

static void what_was_written_is_found(void **state)
{
    struct sample s;

    sample_make(&s, *state, 64, 20000);
    sample_write(&s, RUN_PIECE_SLOTS);
    sample_open(&s);
    assert_finds_all(&s, s.run);
    assert_int_equal(s.run->object_count, PACKS * 20000 + 10);
    /* No more than a page may cost. */
    assert_true((double)s.run->map_bytes / (double)s.run->object_count < 12);
    sample_clear(&s);
}

static void colliding_keys_are_all_found(void **state)
{
    struct sample s;

    sample_make(&s, *state, 5, 200);
    sample_write(&s, RUN_PIECE_SLOTS);
    sample_open(&s);
    assert_finds_all(&s, s.run);
    sample_clear(&s);
}

static void a_run_in_pieces_is_the_same_to_a_reader(void **state)
{
    struct sample s;

    /* With few keys, chains go over the ends of pieces and of the table. */
    for (unsigned bits = 4; bits <= 64; bits += 20) {
        sample_make(&s, *state, bits, 1000);
        sample_write(&s, RUN_CHUNK_SLOTS);
        sample_open(&s);
        assert_finds_all(&s, s.run);
        sample_clear(&s);
    }
}

static void an_empty_run_finds_nothing(void **state)
{
    struct sample s;
    uint32_t place, object;

    sample_make(&s, *state, 64, 0);
    for (unsigned p = 0; p < PACKS; p++)
        s.packs[p].objects = 0;
    sample_write(&s, RUN_PIECE_SLOTS);
    sample_open(&s);
    for (uint64_t i = 0; i < 100; i++) {
        struct run_cursor c = run_find(s.run, run_hash(sample_id(64, i)));

        assert_int_equal(run_next(s.run, &c, &place, &object), 0);
    }
    sample_clear(&s);
}

static void a_table_in_memory_finds_what_was_added(void **state)
{
    struct sample s;
    struct run *run;

    for (unsigned bits = 3; bits <= 64; bits += 61) {
        sample_make(&s, *state, bits, 700);
        assert_int_equal(run_new(PACKS * 700 + 10, &run), 0);
        for (unsigned p = 0; p < PACKS; p++) {
            assert_int_equal(
                run_add_pack(run, s.packs[p].seq, s.packs[p].id, s.packs[p].objects, p), p);
            for (uint32_t i = 0; i < s.packs[p].objects; i++)
                assert_int_equal(
                    run_add(run, run_hash(page_ref_load(s.ids[p] + (size_t)i * PAGE_REF_SIZE)), p,
                            i),
                    0);
        }
        assert_finds_all(&s, run);
        run_free(run);
        sample_clear(&s);
    }
}

static void packs_are_found_by_their_rows(void **state)
{
    struct sample s;

    sample_make(&s, *state, 64, 1);
    sample_write(&s, RUN_PIECE_SLOTS);
    sample_open(&s);
    for (int64_t seq = 0; seq < 30; seq++)
        assert_int_equal(run_pack_of(s.run, seq),
                         seq >= 10 && seq < 10 + 3 * PACKS && (seq - 10) % 3 == 0 ? (seq - 10) / 3
                                                                                  : -1);
    sample_clear(&s);
}

/* ---- damage ---- */

/* Every byte of the file counts: opening it or checking it finds that it changed. */
static void every_flipped_byte_is_found(void **state)
{
    struct sample s;
    _cleanup_free_ char *good = NULL;
    size_t size;

    sample_make(&s, *state, 64, 40);
    sample_write(&s, RUN_PIECE_SLOTS);
    assert_int_equal(io_read_file(s.dirfd, "a.run", 1 << 20, &good, &size), 0);
    for (size_t i = 0; i < size; i++) {
        int fd = openat(s.dirfd, "a.run", O_RDWR | O_CLOEXEC);
        uint8_t byte = (uint8_t)(good[i] ^ 1 << i % 8);
        struct run *run = NULL;
        uint64_t offset;
        int r;

        assert_int_equal(io_pwrite_full(fd, &byte, 1, i), 0);
        r = run_open(s.dirfd, "a.run", &run, NULL);
        if (r == 0)
            r = run_check(run, &offset, NULL);
        if (r == 0)
            fail_msg("byte %zu of the run was flipped unnoticed", i);
        assert_int_equal(r, -EBADMSG);
        run_free(run);
        byte = (uint8_t)good[i];
        assert_int_equal(io_pwrite_full(fd, &byte, 1, i), 0);
        close(fd);
    }
    sample_clear(&s);
}

static void a_flipped_slot_is_noticed_by_who_meets_it(void **state)
{
    struct sample s;
    uint32_t place, object;
    unsigned bad = 0;
    uint8_t byte;
    int fd;

    sample_make(&s, *state, 64, 2000);
    sample_write(&s, RUN_PIECE_SLOTS);
    fd = openat(s.dirfd, "a.run", O_RDWR | O_CLOEXEC);
    assert_int_equal(io_pread_full(fd, &byte, 1, 4096 + 5 * 4096 + 77), 0);
    byte ^= 0x20;
    assert_int_equal(io_pwrite_full(fd, &byte, 1, 4096 + 5 * 4096 + 77), 0);
    close(fd);
    sample_open(&s);
    for (uint64_t i = 0; i < 5000; i++) {
        struct run_cursor c = run_find(s.run, run_hash(sample_id(64, i)));
        int r;

        while ((r = run_next(s.run, &c, &place, &object)) == 1)
            ;
        assert_true(r == 0 || r == -EBADMSG);
        /* Who meets it first; from then on nobody believes any of it. */
        if (r < 0 && bad++ == 0)
            assert_int_equal(c.position / RUN_CHUNK_SLOTS, 5);
        assert_true(r < 0 || bad == 0);
    }
    assert_true(bad > 0);
    assert_true(s.run->bad);
    sample_clear(&s);
}

static void a_run_that_is_cut_short_or_longer_is_refused(void **state)
{
    struct sample s;
    struct stat st;
    _cleanup_free_ char *path = NULL;

    sample_make(&s, *state, 64, 40);
    sample_write(&s, RUN_PIECE_SLOTS);
    path = io_format("%s/a.run", s.f->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size + 1), 0);
    assert_int_equal(run_open(s.dirfd, "a.run", &s.run, NULL), -EBADMSG);
    for (off_t size = st.st_size - 1; size >= 0; size -= size > 300 ? 97 : 1) {
        assert_int_equal(truncate(path, size), 0);
        assert_int_equal(run_open(s.dirfd, "a.run", &s.run, NULL), -EBADMSG);
    }
    sample_clear(&s);
}

/* Counts near 2^64, which a careless sum would wrap around. */
static void counts_that_cannot_be_are_refused(void **state)
{
    static const uint64_t counts[] = {0,
                                      1,
                                      UINT64_C(1) << 32,
                                      UINT64_C(1) << 52,
                                      (UINT64_C(1) << 61) + 512,
                                      UINT64_MAX,
                                      UINT64_MAX & ~UINT64_C(511)};
    struct sample s;

    sample_make(&s, *state, 64, 40);
    sample_write(&s, RUN_PIECE_SLOTS);
    for (unsigned field = 0; field < 3; field++) {
        for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
            int fd = openat(s.dirfd, "a.run", O_RDWR | O_CLOEXEC);
            uint8_t good[8], bad[8];

            store_le64(bad, counts[i]);
            assert_int_equal(io_pread_full(fd, good, 8, 16 + 8 * field), 0);
            assert_int_equal(io_pwrite_full(fd, bad, 8, 16 + 8 * field), 0);
            assert_int_equal(run_open(s.dirfd, "a.run", &s.run, NULL), -EBADMSG);
            assert_int_equal(io_pwrite_full(fd, good, 8, 16 + 8 * field), 0);
            close(fd);
        }
    }
    sample_open(&s);
    sample_clear(&s);
}

static void a_failed_write_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    int dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct run_pack many = {.seq = 1, .objects = 10};
    struct error err = ERROR_INIT;
    struct sample s;

    sample_make(&s, f, 64, 3);
    free(s.ids[2]);
    s.ids[2] = NULL;
    many.number = 2;
    assert_true(run_write(dirfd, "b.run", &many, 1, RUN_PIECE_SLOTS, sample_ids, &s, &err) < 0);
    assert_int_equal(faccessat(dirfd, "b.run", F_OK, 0), -1);
    assert_int_equal(faccessat(dirfd, "b.run.tmp", F_OK, 0), -1);
    close(dirfd);
    sample_clear(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_is_found),
        TEST(colliding_keys_are_all_found),
        TEST(a_run_in_pieces_is_the_same_to_a_reader),
        TEST(an_empty_run_finds_nothing),
        TEST(a_table_in_memory_finds_what_was_added),
        TEST(packs_are_found_by_their_rows),
        TEST(every_flipped_byte_is_found),
        TEST(a_flipped_slot_is_noticed_by_who_meets_it),
        TEST(a_run_that_is_cut_short_or_longer_is_refused),
        TEST(counts_that_cannot_be_are_refused),
        TEST(a_failed_write_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
