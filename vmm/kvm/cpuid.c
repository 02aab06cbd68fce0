/* SPDX-License-Identifier: Apache-2.0 */
/* What a vCPU says it is: the host's features as KVM offers them, with the
 * topology of this machine (one socket, one thread a core), and the state a PC's
 * firmware would have left. Intel SDM vol. 2A CPUID; AMD APM vol. 3 appendix E. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/kvm/features.h"
#include "vmm/kvm/internal.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <sys/ioctl.h>

enum {
    LEAF1_ECX_TSC_DEADLINE = 1u << 24,
    LEAF1_ECX_HYPERVISOR = 1u << 31,
    LEAF1_EDX_HTT = 1u << 28,
    LEVEL_TYPE_SMT = 1,
    LEVEL_TYPE_CORE = 2,
};

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;

    while ((1u << bits) < count)
        bits++;
    return bits;
}

/* Leaves 0xb and 0x1f: level 0 is the one thread, level 1 the cores. */
static void set_topology_leaf(struct kvm_cpuid_entry2 *e, unsigned apic_id, unsigned count)
{
    e->eax = e->ebx = e->ecx = 0;
    e->edx = apic_id;
    if (e->index == 0) {
        e->ebx = 1;
        e->ecx = LEVEL_TYPE_SMT << 8;
    } else if (e->index == 1) {
        e->eax = bits_for(count);
        e->ebx = count;
        e->ecx = LEVEL_TYPE_CORE << 8;
    }
    e->ecx |= e->index & 0xff;
}

static void adjust_entry(struct kvm_cpuid_entry2 *e, unsigned apic_id, unsigned count,
                         bool tsc_deadline)
{
    switch (e->function) {
    case 1:
        e->ebx = (e->ebx & 0x0000ffff) | count << 16 | apic_id << 24;
        e->ecx |= LEAF1_ECX_HYPERVISOR;
        if (tsc_deadline)
            e->ecx |= LEAF1_ECX_TSC_DEADLINE;
        e->edx = count > 1 ? e->edx | LEAF1_EDX_HTT : e->edx & ~(unsigned)LEAF1_EDX_HTT;
        break;
    case 4: /* caches: none shared between threads; all cores in one package */
        if ((e->eax & 0x1f) != 0)
            e->eax = (e->eax & 0x00003fff) | (count - 1) << 26;
        break;
    case 0xb:
    case 0x1f:
        set_topology_leaf(e, apic_id, count);
        break;
    case 0x80000008:
        e->ecx = bits_for(count) << 12 | (count - 1);
        break;
    case 0x8000001d:
        e->eax &= 0x00003fff;
        break;
    case 0x8000001e:
        e->eax = apic_id;
        e->ebx = apic_id;
        e->ecx = 0;
        break;
    default:
        break;
    }
}

struct kvm_cpuid2 *vcpu_cpuid_alloc(void)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + VCPU_CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));

    if (cpuid != NULL)
        cpuid->nent = VCPU_CPUID_ENTRIES_MAX;
    return cpuid;
}

/* What the host's KVM can offer. The caller frees. */
static int host_cpuid(struct kvm_vm *vm, struct kvm_cpuid2 **out, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = vcpu_cpuid_alloc();

    if (cpuid == NULL)
        return error_errno(err, ENOMEM, "cannot describe the CPU");
    int r = kvm_ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid, "to tell the CPU features", err);
    if (r < 0)
        return r;
    *out = steal_pointer(cpuid);
    return 0;
}

/* CPUID for a vCPU of that baseline. The caller frees. */
static int build_cpuid(struct kvm_vm *vm, unsigned index, enum cpu_baseline cpu,
                       struct kvm_cpuid2 **out, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;

    int r = host_cpuid(vm, &cpuid, err);
    if (r < 0)
        return r;
    features_mask(cpuid, cpu);
    bool tsc_deadline = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    for (uint32_t i = 0; i < cpuid->nent; i++)
        adjust_entry(&cpuid->entries[i], index, vm->vcpu_count, tsc_deadline);
    *out = steal_pointer(cpuid);
    return 0;
}

/* What the first vCPU has, whatever KVM was told. */
static int effective_cpuid(struct kvm_vm *vm, struct kvm_cpuid2 **out, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = vcpu_cpuid_alloc();

    if (cpuid == NULL)
        return error_errno(err, ENOMEM, "cannot describe the CPU");
    int r = kvm_ioctl(vm->vcpus[0].fd, KVM_GET_CPUID2, cpuid, "CPU features", err);
    if (r < 0)
        return r;
    *out = steal_pointer(cpuid);
    return 0;
}

/*
 * Not every KVM can hide the CPU's features: then a vCPU has more than KVM says it
 * supports. So a vCPU that has not run yet is given all there is, and asked.
 */
int vm_cpu_check(struct kvm_vm *vm, enum cpu_baseline cpu, const char *features, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;
    _cleanup_free_ struct kvm_cpuid2 *effective = NULL;
    const struct vcpu *vcpu = &vm->vcpus[0];

    if (cpu == CPU_BASELINE_HOST && features[0] == '\0')
        return 0;
    int r = host_cpuid(vm, &cpuid, err);
    if (r == 0 && !vcpu->has_thread)
        r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid, "the CPU features", err);
    if (r < 0 || (r = effective_cpuid(vm, &effective, err)) < 0)
        return r;
    features_merge(cpuid, effective);
    r = features_check(cpuid, features, err);
    return r < 0 ? r : features_reach(cpuid, cpu, err);
}

int vm_cpu_features(struct kvm_vm *vm, char *out, size_t size, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;

    int r = effective_cpuid(vm, &cpuid, err);
    if (r == 0 && (r = features_list(cpuid, out, size)) < 0)
        return error_errno(err, -r, "cannot list the CPU features");
    return r;
}

int vm_get_sregs(struct kvm_vm *vm, struct kvm_sregs *out, struct error *err)
{
    return kvm_ioctl(vm->vcpus[0].fd, KVM_GET_SREGS, out, "to tell system registers", err);
}

/* Memory is write-back by default and fast strings are on, as firmware sets it. */
static int set_boot_msrs(struct vcpu *vcpu, struct error *err)
{
    enum { MSR_MISC_ENABLE = 0x1a0, MSR_MTRR_DEF_TYPE = 0x2ff };
    struct vcpu_msr_pair msrs = {
        .count = 2,
        .entries = {{.index = MSR_MISC_ENABLE, .data = 1},
                    {.index = MSR_MTRR_DEF_TYPE, .data = 0xc06}}, /* enabled, WB */
    };

    int r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msrs, "boot MSRs", err);
    if (r < 0)
        return r;
    if (r != 2)
        return error_set(err, STATUS_HOST_CANNOT, EIO, "KVM took %d of 2 boot MSRs", r);
    return 0;
}

/* LINT0 takes the 8259's interrupts and LINT1 is the NMI, as on any PC (Intel
 * MultiProcessor Specification 1.4, 4.3.4). */
static int set_boot_lapic(struct vcpu *vcpu, struct error *err)
{
    enum { LVT0 = 0x350, LVT1 = 0x360, MODE_MASK = 0x700, MODE_NMI = 0x400, MODE_EXTINT = 0x700 };
    struct kvm_lapic_state lapic;

    int r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic, "to tell the local APIC", err);
    if (r < 0)
        return r;
    uint32_t lint0 = load_le32(lapic.regs + LVT0);
    uint32_t lint1 = load_le32(lapic.regs + LVT1);
    store_le32(lapic.regs + LVT0, (lint0 & ~(uint32_t)MODE_MASK) | MODE_EXTINT);
    store_le32(lapic.regs + LVT1, (lint1 & ~(uint32_t)MODE_MASK) | MODE_NMI);
    return kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic, "the local APIC", err);
}

static int prepare_vcpu(struct vcpu *vcpu, enum cpu_baseline cpu, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;

    int r = build_cpuid(vcpu->vm, vcpu->index, cpu, &cpuid, err);
    if (r < 0)
        return r;
    r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid, "the CPU features", err);
    if (r < 0)
        return r;
    if ((r = set_boot_msrs(vcpu, err)) < 0)
        return r;
    return set_boot_lapic(vcpu, err);
}

int vm_prepare_boot(struct kvm_vm *vm, enum cpu_baseline cpu, const struct kvm_regs *regs,
                    const struct kvm_sregs *sregs, struct error *err)
{
    struct kvm_regs boot_regs = *regs;
    struct kvm_sregs boot_sregs = *sregs;

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        int r = prepare_vcpu(&vm->vcpus[i], cpu, err);
        if (r < 0)
            return r;
    }
    int fd = vm->vcpus[0].fd;
    int r = kvm_ioctl(fd, KVM_SET_SREGS, &boot_sregs, "the boot system registers", err);
    if (r < 0)
        return r;
    return kvm_ioctl(fd, KVM_SET_REGS, &boot_regs, "the boot registers", err);
}
