/* SPDX-License-Identifier: Apache-2.0 */
/* A vCPU's records against KVM itself, with no guest in it: what is written to a vCPU is
 * in another one that is made of its state, and what is not in the state is gone from one
 * that goes back to it. */
#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/kvm/internal.h"
#include "vmm/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    SKIPPED = 77,
    MSR_SPEC_CTRL = 0x48,
    MTRR_BASE_0 = 0x200,
    MTRR_MASK_0 = 0x201,
    MTRR_FIX_64K = 0x250,
    MTRR_FIX_4K_LAST = 0x26f,
    MTRR_DEFAULT = 0x2ff,
    MC0_CTL = 0x400,
    MC3_ADDR = 0x40e,
};

struct subject {
    struct memory *memory;
    struct kvm_vm *vm;
};

static void ignore_access(bool is_write, uint64_t where, unsigned size, uint8_t *data,
                          void *context)
{
    (void)is_write;
    (void)where;
    (void)size;
    (void)data;
    (void)context;
}

static void ignore_port(bool is_write, uint16_t port, unsigned size, uint8_t *data, void *context)
{
    ignore_access(is_write, port, size, data, context);
}

static void ignore_stop(enum vm_stop why, const char *message, void *context)
{
    (void)why;
    (void)message;
    (void)context;
}

static void must(int r, const struct error *err)
{
    if (r < 0)
        fail_msg("%s", err->message);
}

static struct subject make_vm(unsigned vcpus)
{
    const struct vm_exits exits = {
        .io = ignore_port, .mmio = ignore_access, .stopped = ignore_stop};
    struct subject s = {0};
    struct error err = ERROR_INIT;

    must(memory_create(LAYOUT_MEMORY_MIN, &s.memory, &err), &err);
    must(vm_create(s.memory, vcpus, &exits, &s.vm, &err), &err);
    return s;
}

static void free_vm(struct subject *s)
{
    vm_free(s->vm);
    memory_free(s->memory);
}

static struct subject make_booted_vm(unsigned vcpus)
{
    const struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
    struct kvm_sregs sregs;
    struct subject s = make_vm(vcpus);
    struct error err = ERROR_INIT;

    must(vm_get_sregs(s.vm, &sregs, &err), &err);
    must(vm_prepare_boot(s.vm, CPU_BASELINE_HOST, &regs, &sregs, &err), &err);
    return s;
}

static struct buffer save(struct subject *s)
{
    struct state_writer w;
    struct buffer out = {0};
    struct error err = ERROR_INIT;

    state_writer_init(&w);
    must(vm_state_save(s->vm, 0, &w, &err), &err);
    assert_int_equal(state_writer_finish(&w, &out), 0);
    state_writer_clear(&w);
    return out;
}

static void restore(struct subject *s, const struct buffer *state)
{
    struct error err = ERROR_INIT;
    int64_t wall_us;

    must(vm_state_restore(s->vm, state->data, state->length, &wall_us, &err), &err);
}

static bool write_msr(struct subject *s, uint32_t index, uint64_t value)
{
    struct vcpu_msr_pair msrs = {.count = 1, .entries = {{.index = index, .data = value}}};

    return ioctl(s->vm->vcpus[0].fd, KVM_SET_MSRS, &msrs) == 1;
}

static uint64_t read_msr(struct subject *s, uint32_t index)
{
    struct vcpu_msr_pair msrs = {.count = 1, .entries = {{.index = index}}};

    assert_int_equal(ioctl(s->vm->vcpus[0].fd, KVM_GET_MSRS, &msrs), 1);
    return msrs.entries[0].data;
}

/* ---- what KVM does not list by itself ---- */

static const struct {
    uint32_t index;
    uint64_t value;
} unlisted[] = {
    {MTRR_DEFAULT, 0xc06},
    {MTRR_BASE_0, 0x80000000},
    {MTRR_MASK_0, 0xf80000800},
    {MTRR_FIX_64K, 0x606060606060606},
    {MTRR_FIX_4K_LAST, 0x505050505050505},
    {MC0_CTL, UINT64_MAX},
    {MC3_ADDR, 0x123000},
};

static void memory_types_and_machine_checks_are_part_of_a_vcpu(void **state)
{
    struct subject from = make_booted_vm(1), to = make_vm(1);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(unlisted); i++)
        assert_true(write_msr(&from, unlisted[i].index, unlisted[i].value));
    _cleanup_(buffer_clear) struct buffer saved = save(&from);
    restore(&to, &saved);
    for (size_t i = 0; i < ARRAY_LEN(unlisted); i++)
        assert_int_equal(read_msr(&to, unlisted[i].index), unlisted[i].value);
    free_vm(&from);
    free_vm(&to);
}

static void what_came_after_the_checkpoint_is_gone_when_going_back(void **state)
{
    struct subject s = make_booted_vm(1);
    struct error err = ERROR_INIT;

    (void)state;
    must(vm_start(s.vm, &err), &err);
    _cleanup_(buffer_clear) struct buffer saved = save(&s);
    assert_true(write_msr(&s, MTRR_BASE_0, 0x80000000));
    assert_true(write_msr(&s, MC0_CTL, UINT64_MAX));
    const bool speculation = write_msr(&s, MSR_SPEC_CTRL, 1);
    restore(&s, &saved);
    assert_int_equal(read_msr(&s, MTRR_BASE_0), 0);
    assert_int_equal(read_msr(&s, MC0_CTL), 0);
    if (speculation)
        assert_int_equal(read_msr(&s, MSR_SPEC_CTRL), 0);
    assert_int_equal(read_msr(&s, MTRR_DEFAULT), 0xc06);
    free_vm(&s);
}

/* ---- records that are wrong ---- */

/* What edit() makes of each record's payload; false: the record is left out. */
struct edit {
    bool (*edit)(const struct state_record *record, struct buffer *payload, uint16_t *version,
                 void *context);
    void *context;
    struct state_writer w;
};

static int edit_record(const struct state_record *record, void *context)
{
    struct edit *edit = context;
    _cleanup_(buffer_clear) struct buffer payload = {0};
    uint16_t version = record->version;

    assert_int_equal(buffer_append(&payload, record->payload, record->length), 0);
    if (!edit->edit(record, &payload, &version, edit->context))
        return 0;
    state_writer_begin(&edit->w, record->type, record->instance, version, record->flags);
    state_put_bytes(&edit->w, payload.data, payload.length);
    state_writer_end(&edit->w);
    return 0;
}

static struct buffer edited(const struct buffer *state,
                            bool (*how)(const struct state_record *record, struct buffer *payload,
                                        uint16_t *version, void *context),
                            void *context)
{
    struct edit edit = {.edit = how, .context = context};
    struct buffer out = {0};

    state_writer_init(&edit.w);
    assert_int_equal(state_each(state->data, state->length, edit_record, &edit), 0);
    assert_int_equal(state_writer_finish(&edit.w, &out), 0);
    state_writer_clear(&edit.w);
    return out;
}

static int try_restore(const struct buffer *state, struct error *err)
{
    struct subject s = make_vm(1);
    int64_t wall_us;

    int r = vm_state_restore(s.vm, state->data, state->length, &wall_us, err);
    free_vm(&s);
    return r;
}

/* MSRs before those of the record. */
struct more_msrs {
    uint32_t first;
    uint32_t count;
    uint64_t value;
};

static bool add_msrs(const struct state_record *record, struct buffer *payload, uint16_t *version,
                     void *context)
{
    const struct more_msrs *more = context;
    _cleanup_(buffer_clear) struct buffer rest = *payload;

    (void)version;
    if (record->type != STATE_VCPU_MSRS) {
        rest = (struct buffer){0};
        return true;
    }
    *payload = (struct buffer){0};
    buffer_append_le32(payload, load_le32(rest.data) + more->count);
    buffer_append_le32(payload, 0);
    for (uint32_t i = 0; i < more->count; i++) {
        buffer_append_le64(payload, more->first + i);
        buffer_append_le64(payload, more->value);
    }
    return buffer_append(payload, rest.data + 8, rest.length - 8) == 0;
}

/* A list of a host that knows hundreds more, longer than KVM takes at once. */
static void msrs_that_no_cpu_has_and_hold_nothing_are_passed_over(void **state)
{
    struct more_msrs more = {.first = 0x10000000, .count = 300, .value = 0};
    struct subject from = make_booted_vm(1), to = make_vm(1);

    (void)state;
    _cleanup_(buffer_clear) struct buffer saved = save(&from);
    _cleanup_(buffer_clear) struct buffer long_list = edited(&saved, add_msrs, &more);
    restore(&to, &long_list);
    assert_int_equal(read_msr(&to, MTRR_DEFAULT), 0xc06);
    free_vm(&from);
    free_vm(&to);
}

static void an_msr_that_would_be_lost_is_named(void **state)
{
    struct more_msrs more = {.first = 0x10000000, .count = 1, .value = 5};
    struct subject from = make_booted_vm(1);
    struct error err = ERROR_INIT;

    (void)state;
    _cleanup_(buffer_clear) struct buffer saved = save(&from);
    _cleanup_(buffer_clear) struct buffer other = edited(&saved, add_msrs, &more);
    assert_int_equal(try_restore(&other, &err), -ENOTSUP);
    assert_int_equal(err.status, STATUS_HOST_CANNOT);
    assert_non_null(strstr(err.message, "vCPU 0: KVM refused MSR 0x10000000 = 0x5"));
    free_vm(&from);
}

static void msrs_that_cannot_be_are_refused(void **state)
{
    struct more_msrs wrong[] = {
        {.first = VCPU_MSR_TSC, .count = 1, .value = 1}, /* twice */
        {.first = 0x10000000, .count = 2000, .value = 0},
    };
    struct subject from = make_booted_vm(1);

    (void)state;
    _cleanup_(buffer_clear) struct buffer saved = save(&from);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        _cleanup_(buffer_clear) struct buffer other = edited(&saved, add_msrs, &wrong[i]);
        assert_int_equal(try_restore(&other, NULL), -EBADMSG);
    }
    free_vm(&from);
}

enum damage { LEFT_OUT, CUT, LONGER, NEWER, DAMAGES };

struct target {
    unsigned number; /* of the record to damage */
    enum state_type type;
    unsigned seen;
    enum damage damage;
};

static bool damage(const struct state_record *record, struct buffer *payload, uint16_t *version,
                   void *context)
{
    struct target *target = context;

    if (target->seen++ != target->number)
        return true;
    target->type = record->type;
    if (target->damage == CUT)
        payload->length--;
    if (target->damage == LONGER)
        assert_int_equal(buffer_append(payload, "", 1), 0);
    if (target->damage == NEWER)
        *version = 2;
    return target->damage != LEFT_OUT;
}

static void every_record_is_needed_whole_and_known(void **state)
{
    struct subject from = make_booted_vm(1);
    struct target target = {0};

    (void)state;
    _cleanup_(buffer_clear) struct buffer saved = save(&from);
    do {
        for (target.damage = 0; target.damage < DAMAGES; target.damage++) {
            struct error err = ERROR_INIT;
            target.seen = 0;
            _cleanup_(buffer_clear) struct buffer other = edited(&saved, damage, &target);
            const int r = try_restore(&other, &err);
            if (target.type == STATE_VCPU_XSAVE && target.damage == LONGER)
                assert_int_equal(r, 0); /* of a host with more features */
            else if (r != (target.damage == NEWER ? -EPROTONOSUPPORT : -EBADMSG))
                fail_msg("record %u, damage %u: %d (%s)", target.number, target.damage, r,
                         err.message);
        }
    } while (++target.number < target.seen);
    assert_int_equal(target.number, 16);
    free_vm(&from);
}

/* ---- the golden file ---- */

/*
 * What version 1 of all these records was for ever: a CPU of 2006 or so, at work in the
 * kernel, with the MSRs only that each x86-64 CPU and each KVM has, and no XSAVE; so it restores on
 * any host. Not all comes back as the same bytes: KVM adds MSRs to the list, and to CPUID, FPU
 * state and local APIC what its host has.
 */
static struct buffer read_golden(void)
{
    _cleanup_free_ char *bytes = NULL;
    struct buffer out = {0};
    size_t length;

    assert_int_equal(
        io_read_file(AT_FDCWD, STASIS_GOLDEN "/vcpu-1.state", 1 << 20, &bytes, &length), 0);
    assert_int_equal(buffer_append(&out, bytes, length), 0);
    assert_int_equal(state_check(out.data, out.length, NULL), 0);
    return out;
}

/* What a hypervisor may not change. */
static bool must_be_the_same(enum state_type type)
{
    return type == STATE_VCPU_MP_STATE || type == STATE_VCPU_REGS || type == STATE_VCPU_DEBUGREGS ||
           type == STATE_VCPU_EVENTS || type == STATE_VM_PIC || type == STATE_VM_IOAPIC;
}

static int assert_same(const struct state_record *record, void *context)
{
    const struct buffer *again = context;
    struct state_record other;

    if (!must_be_the_same(record->type))
        return 0;
    assert_int_equal(state_find(again->data, again->length, record->type, record->instance, &other),
                     0);
    if (other.length != record->length ||
        memcmp(other.payload, record->payload, record->length) != 0)
        fail_msg("%s of instance %u comes back as another", state_type_name(record->type),
                 record->instance);
    return 0;
}

static struct state_record find(const struct buffer *state, enum state_type type)
{
    struct state_record record;

    assert_int_equal(state_find(state->data, state->length, type, 0, &record), 0);
    return record;
}

static void assert_same_msrs(struct subject *s, const struct buffer *golden)
{
    const struct state_record record = find(golden, STATE_VCPU_MSRS);

    for (size_t at = 8; at < record.length; at += 16) {
        const uint32_t index = load_le32(record.payload + at);
        if (index != VCPU_MSR_TSC)
            assert_int_equal(read_msr(s, index), load_le64(record.payload + at + 8));
    }
    assert_int_equal(s->vm->vcpus[0].frozen_tsc, 0x123456789abc);
    assert_int_equal(s->vm->frozen_clock_ns, 123456789);
}

static void assert_same_segment(const struct kvm_segment *a, const struct kvm_segment *b)
{
    assert_int_equal(a->base, b->base);
    assert_int_equal(a->selector, b->selector);
}

static void assert_same_system(const struct buffer *again, const struct buffer *golden)
{
    struct kvm_sregs a, b;

    memcpy(&a, find(again, STATE_VCPU_SREGS).payload, sizeof(a));
    memcpy(&b, find(golden, STATE_VCPU_SREGS).payload, sizeof(b));
    assert_same_segment(&a.cs, &b.cs);
    assert_same_segment(&a.fs, &b.fs);
    assert_same_segment(&a.gs, &b.gs);
    assert_same_segment(&a.tr, &b.tr);
    assert_memory_equal(&a.gdt, &b.gdt, sizeof(a.gdt));
    assert_int_equal(a.cr0, b.cr0);
    assert_int_equal(a.cr2, b.cr2);
    assert_int_equal(a.cr3, b.cr3);
    assert_int_equal(a.cr4, b.cr4);
    assert_int_equal(a.cr8, b.cr8);
    assert_int_equal(a.efer, b.efer);
    assert_int_equal(a.apic_base, b.apic_base);
}

static void assert_same_fpu_and_apic(const struct buffer *again, const struct buffer *golden)
{
    enum { XMM_0 = 160, XMM_END = 416, TPR = 0x80, LDR = 0xd0, SPURIOUS = 0xf0, LVT_TIMER = 0x320 };
    static const unsigned words[] = {TPR, LDR, SPURIOUS, LVT_TIMER};
    const uint8_t *a = find(again, STATE_VCPU_XSAVE).payload;
    const uint8_t *b = find(golden, STATE_VCPU_XSAVE).payload;

    assert_memory_equal(a + XMM_0, b + XMM_0, XMM_END - XMM_0);
    assert_int_equal(load_le16(a), load_le16(b));           /* control word */
    assert_int_equal(load_le32(a + 24), load_le32(b + 24)); /* MXCSR */
    a = find(again, STATE_VCPU_LAPIC).payload;
    b = find(golden, STATE_VCPU_LAPIC).payload;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        assert_int_equal(load_le32(a + words[i]), load_le32(b + words[i]));
}

static void the_golden_cpu_restores_to_known_registers(void **state)
{
    struct subject s = make_vm(1);

    (void)state;
    _cleanup_(buffer_clear) struct buffer golden = read_golden();
    restore(&s, &golden);
    _cleanup_(buffer_clear) struct buffer again = save(&s);
    assert_int_equal(state_each(golden.data, golden.length, assert_same, &again), 0);
    assert_same_msrs(&s, &golden);
    assert_same_system(&again, &golden);
    assert_same_fpu_and_apic(&again, &golden);
    free_vm(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_types_and_machine_checks_are_part_of_a_vcpu),
        cmocka_unit_test(what_came_after_the_checkpoint_is_gone_when_going_back),
        cmocka_unit_test(msrs_that_no_cpu_has_and_hold_nothing_are_passed_over),
        cmocka_unit_test(an_msr_that_would_be_lost_is_named),
        cmocka_unit_test(msrs_that_cannot_be_are_refused),
        cmocka_unit_test(every_record_is_needed_whole_and_known),
        cmocka_unit_test(the_golden_cpu_restores_to_known_registers),
    };

    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        puts("skipped: no /dev/kvm");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
