/* SPDX-License-Identifier: Apache-2.0 */
/* A vCPU's records against KVM itself, with no guest in it: what is written to a vCPU is
 * in another one that is made of its state, and what is not in the state is gone from one
 * that goes back to it. */
#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/kvm/internal.h"
#include "vmm/layout.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_types_and_machine_checks_are_part_of_a_vcpu),
        cmocka_unit_test(what_came_after_the_checkpoint_is_gone_when_going_back),
    };

    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        puts("skipped: no /dev/kvm");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
