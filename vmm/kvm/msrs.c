/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers of a vCPU, as a record: a count, and an index and a value each
 * (64 bits). They are those that KVM lists for its host and the vCPU has, and some that
 * it does not list.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/kvm/internal.h"

#include <errno.h>
#include <sys/ioctl.h>

enum {
    RECORD_V1 = 1,
    LISTED_MAX = 512, /* by KVM; there are some 150 */
    MSRS_MAX = 1024,
    CALL_MAX = 255, /* KVM takes fewer than 256 at a time */
    MSR_KVM_ASYNC_PF_EN = 0x4b564d02,
    MSR_KVM_ASYNC_PF_ACK = 0x4b564d07,
};

struct msrs {
    uint32_t count;
    struct kvm_msr_entry entries[MSRS_MAX];
};

/* struct kvm_msrs with room */
struct msr_call {
    uint32_t count;
    uint32_t pad;
    struct kvm_msr_entry entries[CALL_MAX];
};
_Static_assert(offsetof(struct msr_call, entries) == offsetof(struct kvm_msrs, entries),
               "the kernel's layout");

/*
 * Not in every host's list, and refused where the vCPU does not have them. Those that are
 * zero, as in a fresh vCPU, are in no record.
 */
static const struct {
    uint32_t first;
    uint32_t count;
} unlisted[] = {
    {0xda0, 1},      /* XSS */
    {0x48, 1},       /* SPEC_CTRL */
    {0x200, 16},     /* MTRRs: variable ranges, */
    {0x250, 1},      /* fixed ones of 64, */
    {0x258, 2},      /* of 16, */
    {0x268, 8},      /* and of 4 KiB, */
    {0x2ff, 1},      /* and the type of the rest */
    {0x400, 4 * 32}, /* machine checks: control, status, address and more of 32 banks */
};

static bool is_unlisted(uint32_t index)
{
    for (size_t i = 0; i < ARRAY_LEN(unlisted); i++)
        if (index - unlisted[i].first < unlisted[i].count)
            return true;
    return false;
}

static const struct kvm_msr_entry *find(const struct msrs *msrs, uint32_t index)
{
    for (uint32_t i = 0; i < msrs->count; i++)
        if (msrs->entries[i].index == index)
            return &msrs->entries[i];
    return NULL;
}

/* The next of a list, as many as KVM takes at once. */
static struct msr_call next_call(const struct msrs *msrs, uint32_t next)
{
    struct msr_call call = {.count = (uint32_t)min_u64(msrs->count - next, CALL_MAX)};

    memcpy(call.entries, msrs->entries + next, call.count * sizeof(call.entries[0]));
    return call;
}

/* ---- reading ---- */

/* The host's list, which has the KVM paravirtual ones (0x4b564d00-ff) in it, and
 * the unlisted ones behind it. */
static int list_msrs(struct kvm_vm *vm, struct msrs *out, struct error *err)
{
    struct { /* struct kvm_msr_list with room */
        uint32_t count;
        uint32_t indices[LISTED_MAX];
    } list = {.count = LISTED_MAX};

    int r = kvm_ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &list, "to list MSRs", err);
    if (r < 0)
        return r;
    out->count = 0;
    for (uint32_t i = 0; i < list.count; i++)
        if (!is_unlisted(list.indices[i]))
            out->entries[out->count++] = (struct kvm_msr_entry){.index = list.indices[i]};
    for (size_t i = 0; i < ARRAY_LEN(unlisted); i++)
        for (uint32_t k = 0; k < unlisted[i].count; k++)
            out->entries[out->count++] = (struct kvm_msr_entry){.index = unlisted[i].first + k};
    return 0;
}

/* Reads those of the list that this vCPU has: KVM_GET_MSRS stops at the first it
 * refuses (the list is of the host, not of the vCPU's features), so skip it. */
static int read_listed(struct vcpu *vcpu, struct msrs *msrs, struct error *err)
{
    uint32_t kept = 0;

    for (uint32_t next = 0; next < msrs->count;) {
        struct msr_call call = next_call(msrs, next);
        int r = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &call, "to read MSRs", err);
        if (r < 0)
            return r;
        const uint32_t got = (uint32_t)r;
        next += got + (got < call.count);
        for (uint32_t i = 0; i < got; i++)
            if (call.entries[i].data != 0 || !is_unlisted(call.entries[i].index))
                msrs->entries[kept++] = call.entries[i];
    }
    msrs->count = kept;
    return 0;
}

static int read_msrs(struct vcpu *vcpu, struct msrs *out, struct error *err)
{
    int r = list_msrs(vcpu->vm, out, err);
    if (r == 0)
        r = read_listed(vcpu, out, err);
    for (uint32_t i = 0; r == 0 && vcpu->vm->frozen && i < out->count; i++)
        if (out->entries[i].index == VCPU_MSR_TSC)
            out->entries[i].data = vcpu->frozen_tsc;
    return r;
}

int vcpu_msrs_save(struct vcpu *vcpu, struct state_writer *w, struct error *err)
{
    _cleanup_free_ struct msrs *msrs = calloc(1, sizeof(*msrs));
    if (msrs == NULL)
        return error_errno(err, ENOMEM, "cannot save MSRs");
    int r = read_msrs(vcpu, msrs, err);
    if (r < 0)
        return r;
    state_writer_begin(w, STATE_VCPU_MSRS, (uint16_t)vcpu->index, RECORD_V1, 0);
    state_put_u32(w, msrs->count);
    state_put_u32(w, 0);
    for (uint32_t i = 0; i < msrs->count; i++) {
        state_put_u64(w, msrs->entries[i].index);
        state_put_u64(w, msrs->entries[i].data);
    }
    state_writer_end(w);
    return 0;
}

/* ---- writing ---- */

static int refused(const struct kvm_msr_entry *entry, struct error *err)
{
    error_set(err, STATUS_HOST_CANNOT, ENOTSUP, "KVM refused MSR 0x%x = 0x%llx", entry->index,
              entry->data);
    error_hint(err, "restore the checkpoint on a host with the same CPU features");
    return -ENOTSUP;
}

/* KVM stops at one that it refuses. If that is zero there is nothing to lose: this host
 * does not know it, or the vCPU does not have what it controls. */
static int write_msrs(struct vcpu *vcpu, const struct msrs *msrs, struct error *err)
{
    for (uint32_t next = 0; next < msrs->count;) {
        struct msr_call call = next_call(msrs, next);
        int r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &call, "MSRs", err);
        if (r < 0)
            return r;
        next += (uint32_t)r;
        if ((uint32_t)r == call.count)
            continue;
        if (msrs->entries[next].data != 0)
            return refused(&msrs->entries[next], err);
        next++;
    }
    return 0;
}

/*
 * A vCPU that has run may have page faults under way that the guest was told of,
 * and a "page ready" that it has not acknowledged: KVM would wait for that for
 * ever and the tasks of the restored guest would never wake. Neither belongs to
 * the restored time. Hosts without the feature refuse: nothing to forget there.
 */
static void forget_async_page_faults(struct vcpu *vcpu)
{
    struct vcpu_msr_pair msrs = {
        .count = 2,
        .entries = {{.index = MSR_KVM_ASYNC_PF_EN, .data = 0},
                    {.index = MSR_KVM_ASYNC_PF_ACK, .data = 1}},
    };

    ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);
}

/* What the vCPU has now and the record does not have was zero. */
static int zero_others(struct vcpu *vcpu, const struct msrs *recorded, struct error *err)
{
    _cleanup_free_ struct msrs *now = calloc(1, sizeof(*now));
    uint32_t count = 0;

    if (now == NULL)
        return error_errno(err, ENOMEM, "cannot restore MSRs");
    int r = read_msrs(vcpu, now, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < now->count; i++)
        if (is_unlisted(now->entries[i].index) && find(recorded, now->entries[i].index) == NULL)
            now->entries[count++] = (struct kvm_msr_entry){.index = now->entries[i].index};
    now->count = count;
    return write_msrs(vcpu, now, err);
}

/* In the order in which they are to be written. */
static int decode(struct state_record *record, struct msrs *out, struct error *err)
{
    struct kvm_msr_entry deadline = {0};
    uint32_t count = state_get_u32(record);

    state_get_u32(record);
    if (count > MSRS_MAX)
        return error_corrupt(err, "the device state lists %u MSRs", count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t index = state_get_u64(record);
        const struct kvm_msr_entry entry = {.index = (uint32_t)index,
                                            .data = state_get_u64(record)};
        if (index > UINT32_MAX || find(out, entry.index) != NULL ||
            (deadline.index != 0 && entry.index == deadline.index))
            return error_corrupt(err, "the device state lists MSR %#llx twice, or it is none",
                                 (unsigned long long)index);
        if (entry.index == VCPU_MSR_TSC_DEADLINE)
            deadline = entry;
        else
            out->entries[out->count++] = entry;
    }
    if (deadline.index != 0)
        out->entries[out->count++] = deadline; /* after TSC, which it is relative to */
    return state_record_done(record, err);
}

int vcpu_msrs_restore(struct vcpu *vcpu, const void *bytes, size_t length, struct error *err)
{
    struct state_record record;
    _cleanup_free_ struct msrs *msrs = calloc(1, sizeof(*msrs));
    if (msrs == NULL)
        return error_errno(err, ENOMEM, "cannot restore MSRs");

    int r = state_find_known(bytes, length, STATE_VCPU_MSRS, (uint16_t)vcpu->index, RECORD_V1,
                             &record, err);
    if (r < 0 || (r = decode(&record, msrs, err)) < 0)
        return r;
    const struct kvm_msr_entry *tsc = find(msrs, VCPU_MSR_TSC);
    if (tsc == NULL)
        return error_corrupt(err, "the device state has no time-stamp counter");
    vcpu->frozen_tsc = tsc->data;
    if (vcpu->has_thread) {
        forget_async_page_faults(vcpu);
        if ((r = zero_others(vcpu, msrs, err)) < 0)
            return r;
    }
    return write_msrs(vcpu, msrs, err);
}
