/* SPDX-License-Identifier: Apache-2.0 */
#include "store/stream.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "tests/unit/store-stream/sample.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

/* The grammar of the stream, written down a second time on purpose. */
enum { HEADER = 16, RECORD_HEADER = 16, CHECK = 8 };
enum { PAGES = 1, NODE = 2, BLOB = 3, MANIFEST = 4, END = 5 };

struct fixture {
    char *dir;
    struct store *from;
    struct store *to;
    struct digest id;
    struct buffer stream; /* of the checkpoint */
};

static int memory_file(const void *data, size_t length)
{
    int fd = memfd_create("stream", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(io_pwrite_full(fd, data, length, 0), 0);
    return fd;
}

static void send_to_buffer(struct store *store, const struct digest *id, struct buffer *out)
{
    _cleanup_close_ int fd = memory_file("", 0);
    struct error err = ERROR_INIT;
    struct stream_result result;
    struct stat st;

    if (stream_send(store, id, fd, NULL, NULL, &result, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(result.bytes, st.st_size);
    assert_int_equal(buffer_reserve(out, (size_t)st.st_size), 0);
    assert_int_equal(io_pread_full(fd, out->data, (size_t)st.st_size, 0), 0);
    out->length = (size_t)st.st_size;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->dir = sample_dir_new();
    f->from = sample_store_open(f->dir, "from");
    f->to = sample_store_open(f->dir, "to");
    f->id = sample_checkpoint(f->from, 1);
    send_to_buffer(f->from, &f->id, &f->stream);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->from);
    store_close(f->to);
    sample_dir_free(f->dir);
    buffer_clear(&f->stream);
    free(f);
    return 0;
}

static int receive(struct fixture *f, const void *data, size_t length, struct stream_result *result,
                   struct error *err)
{
    _cleanup_close_ int fd = memory_file(data, length);

    return stream_receive(f->to, fd, NULL, NULL, false, NULL, NULL, result, err);
}

/* Refused as corrupt, and nothing is left. */
static void assert_refused(struct fixture *f, const void *data, size_t length, const char *what,
                           size_t where)
{
    struct error err = ERROR_INIT;
    struct stream_result result;

    int r = receive(f, data, length, &result, &err);
    if (r != -EBADMSG || err.status != STATUS_CORRUPT)
        fail_msg("%s at %zu: %d, \"%s\"", what, where, r, err.message);
    if (!sample_store_is_empty(f->to))
        fail_msg("%s at %zu: something was kept", what, where);
}

static void copy_stream(const struct fixture *f, struct buffer *out)
{
    assert_int_equal(buffer_append(out, f->stream.data, f->stream.length), 0);
}

/* ---- forging: taking streams apart and signing them again ---- */

/* Where the record after the one at `at` begins. */
static size_t record_end(const uint8_t *stream, size_t at)
{
    return at + RECORD_HEADER + (size_t)load_le64(stream + at + 8) + CHECK;
}

static size_t find_record(const struct buffer *stream, uint32_t type)
{
    for (size_t at = HEADER; at < stream->length; at = record_end(stream->data, at))
        if (load_le32(stream->data + at) == type)
            return at;
    fail_msg("no record of type %u", type);
    return 0;
}

/* Makes all checks and the final digest right again, as a liar would. */
static void sign_again(struct buffer *stream)
{
    for (size_t at = HEADER; at < stream->length; at = record_end(stream->data, at)) {
        uint8_t *record = stream->data + at;
        if (load_le32(record) == END) {
            struct digest all = digest_of(stream->data, at);
            memcpy(record + RECORD_HEADER + 24, all.bytes, DIGEST_SIZE);
        }
        size_t check = record_end(stream->data, at) - CHECK;
        struct digest so_far = digest_of(stream->data, check);
        memcpy(stream->data + check, so_far.bytes, CHECK);
    }
}

static void append_record(struct buffer *stream, uint32_t type, uint32_t flags, const void *payload,
                          size_t length)
{
    static const uint8_t check[CHECK];

    assert_int_equal(buffer_append_le32(stream, type), 0);
    assert_int_equal(buffer_append_le32(stream, flags), 0);
    assert_int_equal(buffer_append_le64(stream, length), 0);
    assert_int_equal(buffer_append(stream, payload, length), 0);
    assert_int_equal(buffer_append(stream, check, sizeof(check)), 0);
}

/* A stream that holds just this record behind its header, well signed. */
static void assert_record_refused(struct fixture *f, uint32_t type, uint32_t flags,
                                  const void *payload, size_t length, const char *what)
{
    _cleanup_(buffer_clear) struct buffer stream = {0};

    assert_int_equal(buffer_append(&stream, f->stream.data, HEADER), 0);
    append_record(&stream, type, flags, payload, length);
    sign_again(&stream);
    assert_refused(f, stream.data, stream.length, what, 0);
}

/* ---- the good case ---- */

static void a_received_checkpoint_is_the_one_that_was_sent(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct stream_result result;

    if (receive(f, f->stream.data, f->stream.length, &result, &err) < 0)
        fail_msg("%s", err.message);
    sample_assert_same(f->from, &f->id, f->to, &result.checkpoint);
    assert_int_equal(result.bytes, f->stream.length);
}

static void sending_twice_gives_the_same_bytes(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer again = {0};

    send_to_buffer(f->from, &f->id, &again);
    assert_int_equal(again.length, f->stream.length);
    assert_memory_equal(again.data, f->stream.data, again.length);
}

static void each_page_travels_once_and_zero_pages_not_at_all(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int fd = memory_file("", 0);
    struct stream_result result;

    assert_int_equal(stream_send(f->from, &f->id, fd, NULL, NULL, &result, NULL), 0);
    /* four in five pages of memory, and of the half of the disk that differs */
    assert_int_equal(result.pages, SAMPLE_MEMORY_PAGES / 5 * 4 + SAMPLE_DISK_PAGES / 2 / 5 * 4);
}

static void a_received_checkpoint_can_be_sent_on(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer onwards = {0};
    struct stream_result result;

    assert_int_equal(receive(f, f->stream.data, f->stream.length, &result, NULL), 0);
    send_to_buffer(f->to, &result.checkpoint, &onwards);
#ifndef STASIS_KEY_BITS
    assert_int_equal(onwards.length, f->stream.length);
    assert_memory_equal(onwards.data, f->stream.data, onwards.length);
#endif
}

static void receiving_twice_gives_the_same_checkpoint(void **state)
{
    struct fixture *f = *state;
    struct stream_result first, second;

    assert_int_equal(receive(f, f->stream.data, f->stream.length, &first, NULL), 0);
    assert_int_equal(receive(f, f->stream.data, f->stream.length, &second, NULL), 0);
    assert_true(digest_equal(&first.checkpoint, &second.checkpoint));
}

struct pipe_reader {
    struct fixture *f;
    int fd;
    int r;
    struct stream_result result;
    struct error err;
};

static void *read_pipe(void *context)
{
    struct pipe_reader *reader = context;

    reader->r = stream_receive(reader->f->to, reader->fd, "copy", "1", false, NULL, NULL,
                               &reader->result, &reader->err);
    return NULL;
}

static void a_stream_goes_through_a_pipe(void **state)
{
    struct fixture *f = *state;
    struct stream_result sent;
    pthread_t thread;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct pipe_reader reader = {.f = f, .fd = fds[0]};
    assert_int_equal(pthread_create(&thread, NULL, read_pipe, &reader), 0);
    assert_int_equal(stream_send(f->from, &f->id, fds[1], NULL, NULL, &sent, NULL), 0);
    close(fds[1]);
    pthread_join(thread, NULL);
    close(fds[0]);
    if (reader.r < 0)
        fail_msg("%s", reader.err.message);
    sample_assert_same(f->from, &f->id, f->to, &reader.result.checkpoint);
    assert_int_equal(sent.bytes, reader.result.bytes);
    assert_int_equal(sent.pages, reader.result.pages);
}

static void what_follows_a_stream_is_left_in_the_pipe(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer two = {0};
    struct stream_result result;
    char rest[5] = "";

    copy_stream(f, &two);
    assert_int_equal(buffer_append(&two, "rest", 4), 0);
    _cleanup_close_ int fd = memory_file(two.data, two.length);
    assert_int_equal(stream_receive(f->to, fd, NULL, NULL, false, NULL, NULL, &result, NULL), 0);
    assert_int_equal(read(fd, rest, sizeof(rest) - 1), 4);
    assert_string_equal(rest, "rest");
}

static void sending_an_unknown_checkpoint_says_so(void **state)
{
    struct fixture *f = *state;
    struct digest unknown = digest_of("?", 1);
    struct error err = ERROR_INIT;
    struct stream_result result;

    _cleanup_close_ int fd = memory_file("", 0);
    assert_int_equal(stream_send(f->from, &unknown, fd, NULL, NULL, &result, &err), -ENOENT);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
}

/* ---- pipes that break, users who stop ---- */

static void a_receiver_that_goes_away_is_an_error_and_no_signal(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct stream_result result;
    sigset_t pending, mask;
    int fds[2];

    /* with the default action the test itself would end */
    signal(SIGPIPE, SIG_DFL);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    close(fds[0]);
    assert_int_equal(stream_send(f->from, &f->id, fds[1], NULL, NULL, &result, &err), -EPIPE);
    close(fds[1]);
    assert_non_null(strstr(err.message, "receiver"));
    sigpending(&pending);
    assert_int_equal(sigismember(&pending, SIGPIPE), 0);
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGPIPE), 0);
}

struct stopper {
    uint64_t after;
    uint64_t last;
    unsigned calls;
};

static int stop_after(uint64_t pages, void *context)
{
    struct stopper *s = context;

    assert_true(pages >= s->last);
    s->last = pages;
    s->calls++;
    return pages >= s->after;
}

static void progress_counts_every_page_on_both_sides(void **state)
{
    struct fixture *f = *state;
    struct stopper sent = {.after = UINT64_MAX}, received = {.after = UINT64_MAX};
    struct stream_result result;

    _cleanup_close_ int out = memory_file("", 0);
    assert_int_equal(stream_send(f->from, &f->id, out, stop_after, &sent, &result, NULL), 0);
    assert_int_equal(sent.last, result.pages);
    _cleanup_close_ int in = memory_file(f->stream.data, f->stream.length);
    assert_int_equal(
        stream_receive(f->to, in, NULL, NULL, false, stop_after, &received, &result, NULL), 0);
    assert_int_equal(received.last, result.pages);
    assert_int_equal(received.calls, sent.calls);
}

static void a_cancelled_receive_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct stopper stopper = {.after = 100};
    struct error err = ERROR_INIT;
    struct stream_result result;

    _cleanup_close_ int in = memory_file(f->stream.data, f->stream.length);
    assert_int_equal(
        stream_receive(f->to, in, NULL, NULL, false, stop_after, &stopper, &result, &err),
        -ECANCELED);
    assert_int_equal(err.status, STATUS_INTERRUPTED);
    assert_true(sample_store_is_empty(f->to));
}

static void a_cancelled_send_stops(void **state)
{
    struct fixture *f = *state;
    struct stopper stopper = {.after = 100};
    struct error err = ERROR_INIT;
    struct stream_result result;

    _cleanup_close_ int out = memory_file("", 0);
    assert_int_equal(stream_send(f->from, &f->id, out, stop_after, &stopper, &result, &err),
                     -ECANCELED);
    assert_int_equal(err.status, STATUS_INTERRUPTED);
}

/* ---- damage ---- */

static void no_stream_at_all_is_refused(void **state)
{
    assert_refused(*state, "", 0, "nothing", 0);
}

static void something_else_is_refused(void **state)
{
    static const char text[] = "error: no such machine: web\n";

    assert_refused(*state, text, sizeof(text) - 1, "text", 0);
}

static void a_stream_cut_anywhere_is_refused(void **state)
{
    struct fixture *f = *state;
    size_t last = f->stream.length - 1;

    for (size_t at = HEADER; at < f->stream.length;) { /* around every fifth record */
        assert_refused(f, f->stream.data, at, "cut", at);
        assert_refused(f, f->stream.data, at + 1, "cut", at + 1);
        for (int i = 0; i < 5 && at < f->stream.length; i++)
            at = record_end(f->stream.data, at);
    }
    assert_refused(f, f->stream.data, last, "cut", last);
}

static void a_flipped_bit_anywhere_is_refused(void **state)
{
    struct fixture *f = *state;
    size_t step = f->stream.length / 150;

    for (size_t at = HEADER; at < f->stream.length; at += step) {
        f->stream.data[at] ^= 0x10;
        assert_refused(f, f->stream.data, f->stream.length, "flip", at);
        f->stream.data[at] ^= 0x10;
    }
}

static void a_flipped_bit_in_any_field_of_a_record_is_refused(void **state)
{
    static const uint32_t types[] = {PAGES, NODE, BLOB, MANIFEST, END};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        size_t record = find_record(&f->stream, types[i]);
        for (size_t at = record; at < record + RECORD_HEADER + 8; at++) {
            f->stream.data[at] ^= 0x01;
            assert_refused(f, f->stream.data, f->stream.length, "flip", at);
            f->stream.data[at] ^= 0x01;
        }
    }
}

static void damage_is_reported_where_it_is(void **state)
{
    struct fixture *f = *state;
    size_t record = find_record(&f->stream, BLOB);
    struct error err = ERROR_INIT;
    struct stream_result result;
    char position[32];

    snprintf(position, sizeof(position), "byte %zu", record);
    f->stream.data[record + RECORD_HEADER + 4] ^= 0x80;
    assert_int_equal(receive(f, f->stream.data, f->stream.length, &result, &err), -EBADMSG);
    if (strstr(err.message, position) == NULL || strstr(err.message, "blob record") == NULL)
        fail_msg("%s", err.message);
}

static void swapped_records_are_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer stream = {0};
    const uint8_t *p = f->stream.data;
    size_t first = HEADER, second = record_end(p, first), end = record_end(p, second);

    assert_int_equal(buffer_append(&stream, p, first), 0);
    assert_int_equal(buffer_append(&stream, p + second, end - second), 0);
    assert_int_equal(buffer_append(&stream, p + first, second - first), 0);
    assert_int_equal(buffer_append(&stream, p + end, f->stream.length - end), 0);
    assert_refused(f, stream.data, stream.length, "swap", first);
}

static void a_missing_record_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer stream = {0};
    const uint8_t *p = f->stream.data;
    size_t at = find_record(&f->stream, PAGES), end = record_end(p, at);

    assert_int_equal(buffer_append(&stream, p, at), 0);
    assert_int_equal(buffer_append(&stream, p + end, f->stream.length - end), 0);
    assert_refused(f, stream.data, stream.length, "hole", at);
}

/* A sender that lies signs its lies: the importer and the counts must notice. */
static void a_well_signed_stream_without_a_record_is_refused(void **state)
{
    static const uint32_t types[] = {PAGES, NODE, BLOB, MANIFEST};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        _cleanup_(buffer_clear) struct buffer stream = {0};
        const uint8_t *p = f->stream.data;
        size_t at = find_record(&f->stream, types[i]), end = record_end(p, at);
        assert_int_equal(buffer_append(&stream, p, at), 0);
        assert_int_equal(buffer_append(&stream, p + end, f->stream.length - end), 0);
        sign_again(&stream);
        assert_refused(f, stream.data, stream.length, "without", types[i]);
    }
}

static void a_checkpoint_whose_pages_did_not_come_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer stream = {0};
    const uint8_t *p = f->stream.data;
    uint64_t pages = 0;

    assert_int_equal(buffer_append(&stream, p, HEADER), 0);
    for (size_t at = HEADER; at < f->stream.length; at = record_end(p, at))
        if (load_le32(p + at) != PAGES)
            assert_int_equal(buffer_append(&stream, p + at, record_end(p, at) - at), 0);
    size_t end = find_record(&stream, END);
    memcpy(stream.data + end + RECORD_HEADER, &pages, sizeof(pages)); /* counts agree */
    sign_again(&stream);
    assert_refused(f, stream.data, stream.length, "no pages", 0);
}

static void a_page_with_a_wrong_reference_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer stream = {0};

    copy_stream(f, &stream);
    size_t record = find_record(&stream, PAGES);
    stream.data[record + RECORD_HEADER + 8 + 2] ^= 0x40; /* the key of its first page */
    sign_again(&stream);
    assert_refused(f, stream.data, stream.length, "key", record);
}

static void a_node_that_is_none_is_refused(void **state)
{
    static const uint8_t junk[64] = {1, 2, 3};

    assert_record_refused(*state, NODE, 0, junk, sizeof(junk), "node");
}

static void a_manifest_that_is_none_is_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buffer_clear) struct buffer stream = {0};

    copy_stream(f, &stream);
    size_t record = find_record(&stream, MANIFEST);
    stream.data[record + RECORD_HEADER + 1] = '!';
    sign_again(&stream);
    assert_refused(f, stream.data, stream.length, "manifest", record);
}

static void records_that_cannot_be_are_refused(void **state)
{
    static const uint8_t zeros[128 << 10];
    struct fixture *f = *state;
    uint8_t pages[8 + 16 + 4096] = {1};

    assert_record_refused(f, 0, 0, zeros, 16, "type 0");
    assert_record_refused(f, 77, 0, zeros, 16, "type 77");
    assert_record_refused(f, BLOB, 1, zeros, 16, "flags");
    assert_record_refused(f, PAGES, 2, pages, sizeof(pages), "flags");
    assert_record_refused(f, PAGES, 0, zeros, sizeof(zeros), "too many pages");
    assert_record_refused(f, PAGES, 0, zeros, 8, "no pages");
    assert_record_refused(f, PAGES, 0, pages, sizeof(pages) - 1, "half a page");
    assert_record_refused(f, PAGES, 1, pages, sizeof(pages), "no zstd frame");
    pages[0] = 17;
    assert_record_refused(f, PAGES, 0, pages, sizeof(pages), "17 pages");
    pages[0] = 0;
    assert_record_refused(f, PAGES, 0, pages, sizeof(pages), "0 pages");
    pages[0] = 1;
    pages[4] = 1;
    assert_record_refused(f, PAGES, 0, pages, sizeof(pages), "reserved");
    assert_record_refused(f, NODE, 0, zeros, 4096, "long node");
    assert_record_refused(f, END, 0, zeros, 56, "end without manifest");
    assert_record_refused(f, MANIFEST, 0, zeros, 0, "empty manifest");
}

/* A length without bytes behind it must not make us ask for its memory. */
static void an_absurd_length_is_refused(void **state)
{
    static const uint64_t lengths[] = {UINT64_MAX, 1ull << 60, (64u << 20) + 1, 64u << 20};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        _cleanup_(buffer_clear) struct buffer stream = {0};
        assert_int_equal(buffer_append(&stream, f->stream.data, HEADER), 0);
        assert_int_equal(buffer_append_le32(&stream, BLOB), 0);
        assert_int_equal(buffer_append_le32(&stream, 0), 0);
        assert_int_equal(buffer_append_le64(&stream, lengths[i]), 0);
        assert_refused(f, stream.data, stream.length, "length", i);
    }
}

static void a_newer_version_asks_for_a_newer_program(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;
    struct stream_result result;

    f->stream.data[8] = 2;
    assert_int_equal(receive(f, f->stream.data, f->stream.length, &result, &err), -EPROTONOSUPPORT);
    assert_string_not_equal(err.hint, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(a_received_checkpoint_is_the_one_that_was_sent),
        T(sending_twice_gives_the_same_bytes),
        T(each_page_travels_once_and_zero_pages_not_at_all),
        T(a_received_checkpoint_can_be_sent_on),
        T(receiving_twice_gives_the_same_checkpoint),
        T(a_stream_goes_through_a_pipe),
        T(what_follows_a_stream_is_left_in_the_pipe),
        T(sending_an_unknown_checkpoint_says_so),
        T(a_receiver_that_goes_away_is_an_error_and_no_signal),
        T(progress_counts_every_page_on_both_sides),
        T(a_cancelled_receive_leaves_nothing),
        T(a_cancelled_send_stops),
        T(no_stream_at_all_is_refused),
        T(something_else_is_refused),
        T(a_stream_cut_anywhere_is_refused),
        T(a_flipped_bit_anywhere_is_refused),
        T(a_flipped_bit_in_any_field_of_a_record_is_refused),
        T(damage_is_reported_where_it_is),
        T(swapped_records_are_refused),
        T(a_missing_record_is_refused),
        T(a_well_signed_stream_without_a_record_is_refused),
        T(a_checkpoint_whose_pages_did_not_come_is_refused),
        T(a_page_with_a_wrong_reference_is_refused),
        T(a_node_that_is_none_is_refused),
        T(a_manifest_that_is_none_is_refused),
        T(records_that_cannot_be_are_refused),
        T(an_absurd_length_is_refused),
        T(a_newer_version_asks_for_a_newer_program),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
