/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU and VM state as records. Payloads are KVM's own structures (api.rst),
 * whose layout is ABI; lists (CPUID, MSRs) are a count and entries.
 *
 * Order matters, see the tables below. Saving: MP_STATE first, because reading
 * it makes the kernel settle pending INIT/SIPI events; VCPU_EVENTS last, because
 * the others may still move an event. Restoring: CPUID before what depends on
 * it, SREGS before the LAPIC (the APIC base lives there), MSRs after the LAPIC
 * (TSC_DEADLINE needs its timer mode), TSC before TSC_DEADLINE.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/kvm/internal.h"

#include <errno.h>
#include <sys/ioctl.h>

enum {
    RECORD_V1 = 1,
    TSC_TOLERANCE_PPM = 250, /* what guests' clock code copes with */
};

/* 36,000 years to either side of 1970: sums of such times cannot overflow. */
#define WALL_US_MAX (1ll << 60)

/* ---- fixed-size records ---- */

struct fixed {
    enum state_type type;
    unsigned long get;
    unsigned long set;
    size_t size;
    const char *what;
};

static const struct fixed fixed_mp_state = {STATE_VCPU_MP_STATE, KVM_GET_MP_STATE, KVM_SET_MP_STATE,
                                            sizeof(struct kvm_mp_state), "run state"};
static const struct fixed fixed_regs = {STATE_VCPU_REGS, KVM_GET_REGS, KVM_SET_REGS,
                                        sizeof(struct kvm_regs), "registers"};
static const struct fixed fixed_sregs = {STATE_VCPU_SREGS, KVM_GET_SREGS, KVM_SET_SREGS,
                                         sizeof(struct kvm_sregs), "system registers"};
static const struct fixed fixed_xcrs = {STATE_VCPU_XCRS, KVM_GET_XCRS, KVM_SET_XCRS,
                                        sizeof(struct kvm_xcrs), "extended control registers"};
static const struct fixed fixed_debugregs = {STATE_VCPU_DEBUGREGS, KVM_GET_DEBUGREGS,
                                             KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs),
                                             "debug registers"};
static const struct fixed fixed_lapic = {STATE_VCPU_LAPIC, KVM_GET_LAPIC, KVM_SET_LAPIC,
                                         sizeof(struct kvm_lapic_state), "local APIC"};
static const struct fixed fixed_events = {STATE_VCPU_EVENTS, KVM_GET_VCPU_EVENTS,
                                          KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events),
                                          "pending events"};
static const struct fixed fixed_pit = {STATE_VM_PIT, KVM_GET_PIT2, KVM_SET_PIT2,
                                       sizeof(struct kvm_pit_state2), "timer"};

/* The largest of the above. */
union fixed_payload {
    uint64_t align;
    struct kvm_sregs sregs;
    struct kvm_lapic_state lapic;
    struct kvm_xcrs xcrs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debugregs;
    struct kvm_pit_state2 pit;
    struct kvm_regs regs;
};

static int save_fixed(int fd, const struct fixed *f, uint16_t instance, struct state_writer *w,
                      struct error *err)
{
    union fixed_payload payload = {0};

    int r = kvm_ioctl(fd, f->get, &payload, f->what, err);
    if (r < 0)
        return r;
    state_writer_begin(w, f->type, instance, RECORD_V1, 0);
    state_put_bytes(w, &payload, f->size);
    state_writer_end(w);
    return 0;
}

/* A CPU without XSAVE has none of these, and KVM then refuses to set them. */
static bool has_nothing(const struct fixed *f, const union fixed_payload *payload)
{
    return f->type == STATE_VCPU_XCRS && payload->xcrs.nr_xcrs == 0;
}

static int restore_fixed(int fd, const struct fixed *f, uint16_t instance, const void *bytes,
                         size_t length, struct error *err)
{
    union fixed_payload payload = {0};
    struct state_record record;

    int r = state_find_known(bytes, length, f->type, instance, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    state_get_bytes(&record, &payload, f->size);
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    return has_nothing(f, &payload) ? 0 : kvm_ioctl(fd, f->set, &payload, f->what, err);
}

/* ---- XSAVE: sized by the host ---- */

static int save_xsave(struct vcpu *vcpu, struct state_writer *w, struct error *err)
{
    size_t size = vcpu->vm->xsave_bytes;
    _cleanup_free_ void *area = calloc(1, size);
    if (area == NULL)
        return error_errno(err, ENOMEM, "cannot save the FPU state");
    bool large = size > sizeof(struct kvm_xsave);

    int r = kvm_ioctl(vcpu->fd, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area, "FPU state", err);
    if (r < 0)
        return r;
    state_writer_begin(w, STATE_VCPU_XSAVE, (uint16_t)vcpu->index, RECORD_V1, 0);
    state_put_bytes(w, area, size);
    state_writer_end(w);
    return 0;
}

static int restore_xsave(struct vcpu *vcpu, const void *bytes, size_t length, struct error *err)
{
    struct state_record record;
    size_t size = vcpu->vm->xsave_bytes;

    int r = state_find_known(bytes, length, STATE_VCPU_XSAVE, (uint16_t)vcpu->index, RECORD_V1,
                             &record, err);
    if (r < 0)
        return r;
    size_t stored = record.length;
    if (stored < sizeof(struct kvm_xsave))
        return error_corrupt(err, "the device state has %zu bytes of FPU state, %zu are the least",
                             stored, sizeof(struct kvm_xsave));
    /* A host with fewer features takes a larger image if the rest is zero. */
    _cleanup_free_ uint8_t *area = calloc(1, stored > size ? stored : size);
    if (area == NULL)
        return error_errno(err, ENOMEM, "cannot restore the FPU state");
    state_get_bytes(&record, area, stored);
    for (size_t i = size; i < stored; i++)
        if (area[i] != 0) {
            error_set(err, STATUS_HOST_CANNOT, ENOTSUP,
                      "the checkpoint uses FPU state that this host's CPU does not have");
            error_hint(err, "restore it on a host with the same CPU features");
            return -ENOTSUP;
        }
    return kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, area, "FPU state", err);
}

/* ---- TSC frequency ---- */

static int save_tsc_khz(struct vcpu *vcpu, struct state_writer *w)
{
    int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

    state_writer_begin(w, STATE_VCPU_TSC_KHZ, (uint16_t)vcpu->index, RECORD_V1, 0);
    state_put_u32(w, khz > 0 ? (uint32_t)khz : 0);
    state_writer_end(w);
    return 0;
}

static int restore_tsc_khz(struct vcpu *vcpu, const void *bytes, size_t length, struct error *err)
{
    struct state_record record;

    int r = state_find_known(bytes, length, STATE_VCPU_TSC_KHZ, (uint16_t)vcpu->index, RECORD_V1,
                             &record, err);
    if (r < 0)
        return r;
    uint64_t saved = state_get_u32(&record);
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    int now = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    if (saved == 0 || now <= 0)
        return 0;
    uint64_t apart = saved > (uint64_t)now ? saved - (uint64_t)now : (uint64_t)now - saved;
    if (apart * 1000000 <= saved * TSC_TOLERANCE_PPM)
        return 0;
    if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)saved) < 0) {
        error_set(err, STATUS_HOST_CANNOT, ENOTSUP,
                  "the checkpoint's time-stamp counter runs at %llu kHz, this host's at %d kHz, "
                  "and its CPU cannot scale",
                  (unsigned long long)saved, now);
        error_hint(err, "restore it on a host with TSC scaling or the same frequency");
        return -ENOTSUP;
    }
    return 0;
}

/* ---- CPUID ---- */

static int save_cpuid(struct vcpu *vcpu, struct state_writer *w, struct error *err)
{
    _cleanup_free_ struct kvm_cpuid2 *cpuid = vcpu_cpuid_alloc();
    if (cpuid == NULL)
        return error_errno(err, ENOMEM, "cannot save the CPU features");
    int r = kvm_ioctl(vcpu->fd, KVM_GET_CPUID2, cpuid, "CPU features", err);
    if (r < 0)
        return r;
    state_writer_begin(w, STATE_VCPU_CPUID, (uint16_t)vcpu->index, RECORD_V1, 0);
    state_put_u32(w, cpuid->nent);
    state_put_u32(w, 0);
    state_put_bytes(w, cpuid->entries, cpuid->nent * sizeof(cpuid->entries[0]));
    state_writer_end(w);
    return 0;
}

/* What KVM itself changes in an entry while the guest runs, as CR4, XCR0 and the
 * APIC base change: not part of what the vCPU is. */
static void forget_runtime_bits(struct kvm_cpuid_entry2 *e)
{
    if (e->function == 1) {
        e->ecx &= ~(1u << 27 | 1u << 3); /* OSXSAVE, MONITOR */
        e->edx &= ~(1u << 9);            /* APIC */
    } else if (e->function == 7) {
        e->ecx &= ~(1u << 4); /* OSPKE */
    } else if (e->function == 0xd) {
        e->ebx = 0; /* size of what is enabled */
    }
}

static bool same_cpuid(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
    if (a->nent != b->nent)
        return false;
    for (uint32_t i = 0; i < a->nent; i++) {
        struct kvm_cpuid_entry2 left = a->entries[i];
        struct kvm_cpuid_entry2 right = b->entries[i];
        forget_runtime_bits(&left);
        forget_runtime_bits(&right);
        if (memcmp(&left, &right, sizeof(left)) != 0)
            return false;
    }
    return true;
}

/* A vCPU that has run does not take other features (api.rst, KVM_SET_CPUID2):
 * rolling it back works if they are the same. */
static int set_cpuid(struct vcpu *vcpu, struct kvm_cpuid2 *cpuid, struct error *err)
{
    if (!vcpu->has_thread)
        return kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid, "the checkpoint's CPU features", err);
    _cleanup_free_ struct kvm_cpuid2 *now = vcpu_cpuid_alloc();
    if (now == NULL)
        return error_errno(err, ENOMEM, "cannot restore the CPU features");
    int r = kvm_ioctl(vcpu->fd, KVM_GET_CPUID2, now, "CPU features", err);
    if (r < 0 || same_cpuid(now, cpuid))
        return r;
    error_set(err, STATUS_FAILED, EINVAL, "the checkpoint has other CPU features");
    error_hint(err, "stop the machine, then restore it");
    return -EINVAL;
}

static int restore_cpuid(struct vcpu *vcpu, const void *bytes, size_t length, struct error *err)
{
    struct state_record record;
    _cleanup_free_ struct kvm_cpuid2 *cpuid = vcpu_cpuid_alloc();
    if (cpuid == NULL)
        return error_errno(err, ENOMEM, "cannot restore the CPU features");

    int r = state_find_known(bytes, length, STATE_VCPU_CPUID, (uint16_t)vcpu->index, RECORD_V1,
                             &record, err);
    if (r < 0)
        return r;
    uint32_t count = state_get_u32(&record);
    state_get_u32(&record);
    if (count > VCPU_CPUID_ENTRIES_MAX)
        return error_corrupt(err, "the device state lists %u CPU features", count);
    state_get_bytes(&record, cpuid->entries, count * sizeof(cpuid->entries[0]));
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    cpuid->nent = count;
    return set_cpuid(vcpu, cpuid, err);
}

/* ---- one vCPU ---- */

static int save_vcpu(struct vcpu *vcpu, struct state_writer *w, struct error *err)
{
    uint16_t n = (uint16_t)vcpu->index;
    int r;

    if ((r = save_fixed(vcpu->fd, &fixed_mp_state, n, w, err)) < 0 ||
        (r = save_fixed(vcpu->fd, &fixed_regs, n, w, err)) < 0 ||
        (r = save_fixed(vcpu->fd, &fixed_sregs, n, w, err)) < 0 ||
        (r = save_xsave(vcpu, w, err)) < 0 ||
        (r = save_fixed(vcpu->fd, &fixed_xcrs, n, w, err)) < 0 ||
        (r = save_fixed(vcpu->fd, &fixed_debugregs, n, w, err)) < 0 ||
        (r = save_fixed(vcpu->fd, &fixed_lapic, n, w, err)) < 0 ||
        (r = save_tsc_khz(vcpu, w)) < 0 || (r = save_cpuid(vcpu, w, err)) < 0 ||
        (r = vcpu_msrs_save(vcpu, w, err)) < 0)
        return r;
    return save_fixed(vcpu->fd, &fixed_events, n, w, err);
}

static int restore_vcpu(struct vcpu *vcpu, const void *bytes, size_t length, struct error *err)
{
    uint16_t n = (uint16_t)vcpu->index;
    int r;

    if ((r = restore_tsc_khz(vcpu, bytes, length, err)) < 0 ||
        (r = restore_cpuid(vcpu, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_mp_state, n, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_regs, n, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_sregs, n, bytes, length, err)) < 0 ||
        (r = restore_xsave(vcpu, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_xcrs, n, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_debugregs, n, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_lapic, n, bytes, length, err)) < 0 ||
        (r = vcpu_msrs_restore(vcpu, bytes, length, err)) < 0 ||
        (r = restore_fixed(vcpu->fd, &fixed_events, n, bytes, length, err)) < 0)
        error_prefix(err, "vCPU %u", vcpu->index);
    return r;
}

/* ---- the VM ---- */

static int save_irqchip(struct kvm_vm *vm, uint32_t chip, enum state_type type, uint16_t instance,
                        struct state_writer *w, struct error *err)
{
    struct kvm_irqchip state = {.chip_id = chip};

    int r = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &state, "interrupt controller state", err);
    if (r < 0)
        return r;
    state_writer_begin(w, type, instance, RECORD_V1, 0);
    state_put_bytes(w, &state.chip, sizeof(state.chip));
    state_writer_end(w);
    return 0;
}

static int restore_irqchip(struct kvm_vm *vm, uint32_t chip, enum state_type type,
                           uint16_t instance, const void *bytes, size_t length, struct error *err)
{
    struct kvm_irqchip state = {.chip_id = chip};
    struct state_record record;

    int r = state_find_known(bytes, length, type, instance, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    state_get_bytes(&record, &state.chip, sizeof(state.chip));
    if ((r = state_record_done(&record, err)) < 0)
        return r;
    return kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &state, "interrupt controller state", err);
}

static int save_clock(struct kvm_vm *vm, int64_t guest_wall_us, struct state_writer *w,
                      struct error *err)
{
    struct kvm_clock_data clock = {0};

    int r = kvm_ioctl(vm->fd, KVM_GET_CLOCK, &clock, "the clock", err);
    if (r < 0)
        return r;
    state_writer_begin(w, STATE_VM_CLOCK, 0, RECORD_V1, 0);
    state_put_u64(w, vm->frozen ? vm->frozen_clock_ns : clock.clock);
    state_put_u64(w, (uint64_t)clock_wall_us());
    state_put_u64(w, (uint64_t)guest_wall_us);
    state_writer_end(w);
    return 0;
}

struct saved_clock {
    uint64_t kvmclock_ns;
    int64_t host_wall_us;
    int64_t guest_wall_us;
};

static int read_clock(const void *bytes, size_t length, struct saved_clock *out, struct error *err)
{
    struct state_record record;

    int r = state_find_known(bytes, length, STATE_VM_CLOCK, 0, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    out->kvmclock_ns = state_get_u64(&record);
    out->host_wall_us = (int64_t)state_get_u64(&record);
    out->guest_wall_us = (int64_t)state_get_u64(&record);
    if (out->guest_wall_us < -WALL_US_MAX || out->guest_wall_us > WALL_US_MAX)
        return error_corrupt(err, "the device state's clock is out of range");
    return state_record_done(&record, err);
}

int vm_state_save(struct kvm_vm *vm, int64_t guest_wall_us, struct state_writer *w,
                  struct error *err)
{
    int r;

    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if ((r = save_vcpu(&vm->vcpus[i], w, err)) < 0)
            return r;
    if ((r = save_fixed(vm->fd, &fixed_pit, 0, w, err)) < 0 ||
        (r = save_clock(vm, guest_wall_us, w, err)) < 0 ||
        (r = save_irqchip(vm, KVM_IRQCHIP_PIC_MASTER, STATE_VM_PIC, 0, w, err)) < 0 ||
        (r = save_irqchip(vm, KVM_IRQCHIP_PIC_SLAVE, STATE_VM_PIC, 1, w, err)) < 0)
        return r;
    return save_irqchip(vm, KVM_IRQCHIP_IOAPIC, STATE_VM_IOAPIC, 0, w, err);
}

/* What stopped a vCPU for good has not happened in the restored time. */
static void revive(struct kvm_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vm->vcpus[i].dead = false;
    pthread_mutex_unlock(&vm->lock);
}

int vm_state_restore(struct kvm_vm *vm, const void *bytes, size_t length,
                     int64_t *guest_wall_us_out, struct error *err)
{
    struct saved_clock saved;
    struct kvm_clock_data clock = {0};

    int r = read_clock(bytes, length, &saved, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if ((r = restore_vcpu(&vm->vcpus[i], bytes, length, err)) < 0)
            return r;
    clock.clock = saved.kvmclock_ns;
    if ((r = restore_fixed(vm->fd, &fixed_pit, 0, bytes, length, err)) < 0 ||
        (r = kvm_ioctl(vm->fd, KVM_SET_CLOCK, &clock, "the clock", err)) < 0 ||
        (r = restore_irqchip(vm, KVM_IRQCHIP_PIC_MASTER, STATE_VM_PIC, 0, bytes, length, err)) <
            0 ||
        (r = restore_irqchip(vm, KVM_IRQCHIP_PIC_SLAVE, STATE_VM_PIC, 1, bytes, length, err)) < 0 ||
        (r = restore_irqchip(vm, KVM_IRQCHIP_IOAPIC, STATE_VM_IOAPIC, 0, bytes, length, err)) < 0)
        return r;
    vm->frozen_clock_ns = saved.kvmclock_ns;
    vm->frozen = true;
    revive(vm);
    *guest_wall_us_out = saved.guest_wall_us;
    return 0;
}
