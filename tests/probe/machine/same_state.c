/* SPDX-License-Identifier: Apache-2.0 */
#include "same_state.h"

#include "harness.h"

#include "base/bytes.h"
#include "imgfmt/state.h"

#include <linux/kvm.h>
#include <stdlib.h>

enum { MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0, APIC_TMCCT = 0x390, RECORDS_MIN = 15 };

/* ---- the mask ---- */

static void mask_msrs(uint8_t *payload, size_t length)
{
    for (size_t at = 8; at + 16 <= length; at += 16) {
        uint64_t index = load_le64(payload + at);
        if (index == MSR_TSC || index == MSR_TSC_DEADLINE)
            memset(payload + at + 8, 0, 8);
    }
}

static void mask_pit(uint8_t *payload, size_t length)
{
    struct kvm_pit_state2 pit;

    assert_int_equal(length, sizeof(pit));
    memcpy(&pit, payload, length);
    for (size_t i = 0; i < ARRAY_LEN(pit.channels); i++)
        pit.channels[i].count_load_time = 0;
    memcpy(payload, &pit, length);
}

static void mask_record(enum state_type type, uint8_t *payload, size_t length)
{
    switch (type) {
    case STATE_VCPU_MSRS:
        mask_msrs(payload, length);
        break;
    case STATE_VCPU_LAPIC:
        memset(payload + APIC_TMCCT, 0, 4);
        break;
    case STATE_VM_PIT:
        mask_pit(payload, length);
        break;
    case STATE_VM_CLOCK:
        memset(payload, 0, length);
        break;
    default:
        break;
    }
}

/* ---- comparing ---- */

struct comparison {
    const struct state *other;
    unsigned records;
    unsigned differences;
};

static uint8_t *masked(const struct state_record *record)
{
    uint8_t *copy = malloc(record->length + 1);

    assert_non_null(copy);
    memcpy(copy, record->payload, record->length);
    mask_record(record->type, copy, record->length);
    return copy;
}

static void report(const struct state_record *a, const uint8_t *left, const uint8_t *right)
{
    for (size_t i = 0; i < a->length; i++)
        if (left[i] != right[i])
            print_error("%s %u: byte 0x%zx is %02x, was %02x\n", state_type_name(a->type),
                        a->instance, i, right[i], left[i]);
}

static int compare_record(const struct state_record *a, void *context)
{
    struct comparison *comparison = context;
    struct state_record b;

    comparison->records++;
    if (state_find(comparison->other->bytes, comparison->other->length, a->type, a->instance, &b) <
            0 ||
        b.version != a->version || b.length != a->length || b.flags != a->flags) {
        print_error("%s %u is missing or of another shape\n", state_type_name(a->type),
                    a->instance);
        comparison->differences++;
        return 0;
    }
    uint8_t *left = masked(a);
    uint8_t *right = masked(&b);
    if (memcmp(left, right, a->length) != 0) {
        comparison->differences++;
        report(a, left, right);
    }
    free(left);
    free(right);
    return 0;
}

void assert_same_records(const struct state *a, const struct state *b)
{
    struct comparison comparison = {.other = b};
    struct comparison back = {.other = a};

    state_each(a->bytes, a->length, compare_record, &comparison);
    state_each(b->bytes, b->length, compare_record, &back);
    assert_int_equal(comparison.differences, 0);
    assert_int_equal(back.differences, 0);
    assert_int_equal(comparison.records, back.records);
    assert_true(comparison.records > RECORDS_MIN);
}
