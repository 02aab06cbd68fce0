/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time that stands still. KVM's clocks go on while no vCPU runs; a machine that is
 * held, or was just restored, goes on later than that. So what its clocks said is
 * remembered, and put back when it runs: kvmclock by KVM_SET_CLOCK, the time-stamp
 * counters by their offsets, all by the same, so that they stay as they were to each
 * other. (A write to the counter itself KVM takes for an attempt to synchronize vCPUs
 * when it is off by less than a second, and ignores.)
 */
#include "vmm/kvm/internal.h"

#include <errno.h>
#include <sys/ioctl.h>

#define NS_PER_MS 1000000

static int read_tsc(struct vcpu *vcpu, uint64_t *out, struct error *err)
{
    struct vcpu_msr_pair msrs = {.count = 1, .entries = {{.index = VCPU_MSR_TSC}}};

    int r = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &msrs, "to tell a time-stamp counter", err);
    if (r < 0)
        return r;
    *out = r == 1 ? msrs.entries[0].data : 0;
    return 0;
}

int vm_clock_freeze(struct kvm_vm *vm, struct error *err)
{
    struct kvm_clock_data clock = {0};

    if (vm->frozen)
        return 0;
    int r = kvm_ioctl(vm->fd, KVM_GET_CLOCK, &clock, "to tell the clock", err);
    for (unsigned i = 0; r == 0 && i < vm->vcpu_count; i++)
        r = read_tsc(&vm->vcpus[i], &vm->vcpus[i].frozen_tsc, err);
    if (r < 0)
        return r;
    vm->frozen_clock_ns = clock.clock;
    vm->frozen = true;
    return 0;
}

/* Kernels before 5.16 have no such attribute; then the counter is written. */
static int shift_tsc(struct vcpu *vcpu, uint64_t shift, struct error *err)
{
    uint64_t offset = 0;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};

    if (ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr) == 0) {
        offset += shift;
        return kvm_ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr, "a time-stamp counter's offset",
                         err);
    }
    uint64_t now = 0;
    int r = read_tsc(vcpu, &now, err);
    if (r < 0)
        return r;
    struct vcpu_msr_pair msrs = {.count = 1,
                                 .entries = {{.index = VCPU_MSR_TSC, .data = now + shift}}};
    r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msrs, "a time-stamp counter", err);
    return r < 0 ? r : 0;
}

/* KVM has armed the timer for a time of the host: by now another one for that deadline.
 * One that is over, or never was, reads as 0. */
static int arm_deadline(struct vcpu *vcpu, struct error *err)
{
    struct vcpu_msr_pair msrs = {.count = 1, .entries = {{.index = VCPU_MSR_TSC_DEADLINE}}};

    if (ioctl(vcpu->fd, KVM_GET_MSRS, &msrs) != 1 || msrs.entries[0].data == 0)
        return 0;
    int r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msrs, "a timer's deadline", err);
    return r < 0 ? r : 0;
}

static uint64_t ticks_of(struct kvm_vm *vm, uint64_t ns)
{
    int khz = ioctl(vm->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);

    return khz <= 0 ? 0 : (uint64_t)((unsigned __int128)ns * (unsigned)khz / NS_PER_MS);
}

static int set_tscs(struct kvm_vm *vm, uint64_t advance_ns, struct error *err)
{
    uint64_t now = 0;

    int r = read_tsc(&vm->vcpus[0], &now, err);
    uint64_t shift = vm->vcpus[0].frozen_tsc + ticks_of(vm, advance_ns) - now;
    for (unsigned i = 0; r == 0 && i < vm->vcpu_count; i++)
        r = shift_tsc(&vm->vcpus[i], shift, err);
    for (unsigned i = 0; r == 0 && i < vm->vcpu_count; i++)
        r = arm_deadline(&vm->vcpus[i], err);
    return r;
}

/* Tells guests with kvmclock that they were stopped, so that their watchdogs do
 * not fire; a guest without kvmclock gives EINVAL. */
static void announce_pause(struct kvm_vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        ioctl(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
}

int vm_clock_thaw(struct kvm_vm *vm, uint64_t advance_ns, struct error *err)
{
    struct kvm_clock_data clock = {.clock = vm->frozen_clock_ns + advance_ns};

    if (!vm->frozen)
        return 0;
    vm->frozen = false;
    int r = set_tscs(vm, advance_ns, err);
    if (r == 0)
        r = kvm_ioctl(vm->fd, KVM_SET_CLOCK, &clock, "the clock", err);
    announce_pause(vm);
    return r;
}
