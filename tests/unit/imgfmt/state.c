/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "imgfmt/state.h"
#include "samples.h"

#include <errno.h>

/* Offsets in sample_state(): the first record's header is behind the state's. */
enum { FIRST = 16, FIRST_PAYLOAD = 32, SECOND = 48, THIRD = 72, END = 88 };

static int set_up(void **state)
{
    struct buffer *buf = calloc(1, sizeof(*buf));

    *state = buf;
    return sample_state(buf);
}

static int tear_down(void **state)
{
    buffer_clear(*state);
    free(*state);
    return 0;
}

static void records_read_back(void **state)
{
    const struct buffer *b = *state;
    struct state_record r;
    char tail[4];

    assert_int_equal(b->length, END);
    assert_int_equal(state_check(b->data, b->length, NULL), 0);
    assert_int_equal(state_find(b->data, b->length, STATE_VCPU_REGS, 1, &r), 0);
    assert_int_equal(r.version, 1);
    assert_true(state_get_u64(&r) == UINT64_C(0x1122334455667788));
    assert_int_equal(state_get_remaining(&r), 4);
    assert_true(state_get_u32(&r) == 0x99aabbcc);
    assert_int_equal(state_record_done(&r, NULL), 0);
    assert_int_equal(state_find(b->data, b->length, STATE_SERIAL, 0, &r), 0);
    assert_int_equal(r.version, 2);
    assert_int_equal(state_get_u8(&r), 7);
    assert_int_equal(state_get_u16(&r), 0x0102);
    state_get_bytes(&r, tail, sizeof(tail));
    assert_memory_equal(tail, "tail", 4);
    assert_int_equal(state_record_done(&r, NULL), 0);
}

static void what_is_not_there_is_not_found(void **state)
{
    const struct buffer *b = *state;
    struct state_record r;

    assert_int_equal(state_find(b->data, b->length, STATE_VCPU_REGS, 0, &r), -ENOENT);
    assert_int_equal(state_find(b->data, b->length, STATE_RTC, 0, &r), -ENOENT);
}

static void a_needed_record_is_there_and_known_or_the_error_says_which(void **state)
{
    const struct buffer *b = *state;
    struct state_record r;
    struct error err = ERROR_INIT;

    assert_int_equal(state_find_known(b->data, b->length, STATE_VCPU_REGS, 1, 1, &r, &err), 0);
    assert_int_equal(r.instance, 1);
    assert_int_equal(state_find_known(b->data, b->length, STATE_VCPU_REGS, 2, 1, &r, &err),
                     -EBADMSG);
    assert_non_null(strstr(err.message, "no record vcpu.regs of instance 2"));
    assert_int_equal(state_find_known(b->data, b->length, STATE_VCPU_REGS, 1, 0, &r, &err),
                     -EPROTONOSUPPORT);
    assert_non_null(strstr(err.message, "version 1 of record vcpu.regs"));
    assert_true(err.hint[0] != '\0');
}

static int collect(const struct state_record *record, void *context)
{
    struct buffer *seen = context;

    return buffer_append_le16(seen, (uint16_t)record->type);
}

static int stop(const struct state_record *record, void *context)
{
    (void)record;
    ++*(int *)context;
    return 7;
}

static void records_are_visited_in_order(void **state)
{
    const struct buffer *b = *state;
    _cleanup_(buffer_clear) struct buffer seen = {0};
    int visits = 0;

    assert_int_equal(state_each(b->data, b->length, collect, &seen), 0);
    assert_int_equal(seen.length, 6);
    assert_int_equal(load_le16(seen.data), STATE_VCPU_REGS);
    assert_int_equal(load_le16(seen.data + 2), STATE_SERIAL);
    assert_int_equal(load_le16(seen.data + 4), 60000);
    assert_int_equal(state_each(b->data, b->length, stop, &visits), 7);
    assert_int_equal(visits, 1);
}

static void reading_past_a_record_gives_zeros_and_is_told(void **state)
{
    const struct buffer *b = *state;
    struct state_record r;
    struct error err = ERROR_INIT;

    assert_int_equal(state_find(b->data, b->length, STATE_VCPU_REGS, 1, &r), 0);
    state_get_u64(&r);
    assert_true(state_get_u64(&r) == 0);
    assert_int_equal(state_get_u8(&r), 0);
    assert_int_equal(state_get_remaining(&r), 0);
    assert_int_equal(state_record_done(&r, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "vcpu.regs of instance 1, version 1"));
    assert_non_null(strstr(err.message, "too few"));
}

static void leaving_bytes_unread_is_told(void **state)
{
    const struct buffer *b = *state;
    struct state_record r;
    struct error err = ERROR_INIT;

    assert_int_equal(state_find(b->data, b->length, STATE_VCPU_REGS, 1, &r), 0);
    state_get_u64(&r);
    assert_int_equal(state_record_done(&r, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "too many"));
}

static void no_records_are_a_state(void **state)
{
    _cleanup_(buffer_clear) struct buffer out = {0};
    struct state_writer w;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_writer_finish(&w, &out), 0);
    state_writer_clear(&w);
    assert_int_equal(out.length, 16);
    assert_int_equal(state_check(out.data, out.length, NULL), 0);
}

static void misuse_of_the_writer_is_remembered(void **state)
{
    struct buffer out = {0};
    struct state_writer w;

    (void)state;
    state_writer_init(&w);
    state_put_u8(&w, 1);
    assert_int_equal(state_writer_finish(&w, &out), -EINVAL);
    state_writer_clear(&w);

    state_writer_init(&w);
    state_writer_begin(&w, STATE_RTC, 0, 1, 0);
    assert_int_equal(state_writer_finish(&w, &out), -EINVAL);
    state_writer_clear(&w);

    state_writer_init(&w);
    state_writer_begin(&w, STATE_RTC, 0, 1, 0);
    state_writer_begin(&w, STATE_RTC, 1, 1, 0);
    state_writer_end(&w);
    assert_int_equal(state_writer_finish(&w, &out), -EINVAL);
    state_writer_clear(&w);

    state_writer_init(&w);
    state_writer_end(&w);
    assert_int_equal(state_writer_finish(&w, &out), -EINVAL);
    state_writer_clear(&w);
    assert_null(out.data);
}

static void too_much_state_is_refused(void **state)
{
    struct buffer out = {0};
    struct state_writer w;

    (void)state;
    state_writer_init(&w);
    state_writer_begin(&w, STATE_RTC, 0, 1, 0);
    state_put_bytes(&w, "", (size_t)STATE_MAX_SIZE + 1);
    state_writer_end(&w);
    assert_int_equal(state_writer_finish(&w, &out), -EFBIG);
    state_writer_clear(&w);
}

static void a_state_cut_anywhere_is_refused(void **state)
{
    const struct buffer *b = *state;

    for (size_t cut = 0; cut < b->length; cut++) {
        _cleanup_free_ uint8_t *copy = malloc(cut + 1);
        memcpy(copy, b->data, cut);
        assert_int_equal(state_check(copy, cut, NULL), -EBADMSG);
    }
}

static void bytes_behind_the_last_record_are_refused(void **state)
{
    struct buffer *b = *state;

    assert_int_equal(buffer_append_le64(b, 0), 0);
    assert_int_equal(state_check(b->data, b->length, NULL), -EBADMSG);
    assert_int_equal(buffer_append_le64(b, 0), 0);
    assert_int_equal(state_check(b->data, b->length, NULL), -EBADMSG);
}

static void every_wrong_field_is_refused(void **state)
{
    static const struct {
        size_t offset;
        uint32_t value;
        int result;
    } cases[] = {
        {0, 0, -EBADMSG},                               /* magic */
        {8, 2, -EPROTONOSUPPORT},                       /* format */
        {12, 2, -EBADMSG},                              /* count too small */
        {12, 4, -EBADMSG},                              /* count too large */
        {12, UINT32_MAX, -EBADMSG},                     /* count endless */
        {FIRST, 0x10000, -EPROTONOSUPPORT},             /* type 0 */
        {FIRST, 0x1ffff, -EPROTONOSUPPORT},             /* type 65535 */
        {FIRST + 4, 0x20001, -EPROTONOSUPPORT},         /* flags */
        {FIRST + 8, UINT32_MAX, -EBADMSG},              /* length */
        {FIRST + 8, 9, -EBADMSG},                       /* length: its padding is not zero */
        {FIRST + 12, 1, -EBADMSG},                      /* reserved */
        {FIRST_PAYLOAD + 12, 1, -EBADMSG},              /* padding */
        {SECOND, STATE_VCPU_REGS | 1u << 16, -EBADMSG}, /* a type and instance twice */
        {THIRD + 4, 1, -EPROTONOSUPPORT},               /* an unknown type, no longer optional */
        {THIRD + 8, 8, -EBADMSG},                       /* length past the end */
    };
    const struct buffer *b = *state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t bytes[END];
        struct error err = ERROR_INIT;
        memcpy(bytes, b->data, END);
        store_le32(bytes + cases[i].offset, cases[i].value);
        int r = state_check(bytes, END, &err);
        if (r != cases[i].result)
            fail_msg("case %zu: %d, %s", i, r, err.message);
        assert_true(r != -EPROTONOSUPPORT || err.hint[0] != '\0');
    }
}

static void names_are_known_or_unknown(void **state)
{
    (void)state;
    assert_string_equal(state_type_name(STATE_VCPU_REGS), "vcpu.regs");
    assert_string_equal(state_type_name(STATE_VIRTIO_RNG), "virtio.rng");
    assert_string_equal(state_type_name(STATE_VIRTIO_NET), "virtio.net");
    assert_string_equal(state_type_name(STATE_VIRTIO_BALLOON), "virtio.balloon");
    assert_string_equal(state_type_name(STATE_VIRTIO_VSOCK), "virtio.vsock");
    assert_string_equal(state_type_name(STATE_VMGENID), "vmgenid");
    assert_string_equal(state_type_name((enum state_type)60000), "unknown");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(records_read_back),
        TEST(what_is_not_there_is_not_found),
        TEST(a_needed_record_is_there_and_known_or_the_error_says_which),
        TEST(records_are_visited_in_order),
        TEST(reading_past_a_record_gives_zeros_and_is_told),
        TEST(leaving_bytes_unread_is_told),
        cmocka_unit_test(no_records_are_a_state),
        cmocka_unit_test(misuse_of_the_writer_is_remembered),
        cmocka_unit_test(too_much_state_is_refused),
        TEST(a_state_cut_anywhere_is_refused),
        TEST(bytes_behind_the_last_record_are_refused),
        TEST(every_wrong_field_is_refused),
        cmocka_unit_test(names_are_known_or_unknown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
