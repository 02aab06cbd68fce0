/* SPDX-License-Identifier: Apache-2.0 */
/* How often vCPUs left the guest: to us, by kind, and to KVM, by its binary statistics
 * (api.rst, KVM_GET_STATS_FD: Linux 5.14; without, there is nothing to tell). */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/kvm/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 256, DESCRIPTORS_MAX = 1024 };

/* Of KVM's statistics, those that say why and how often the guest was left. */
static const char *const kvm_names[VM_KVM_STATS] = {
    "exits",          "io_exits",         "mmio_exits",   "halt_exits",
    "irq_exits",      "irq_window_exits", "signal_exits", "hypercalls",
    "irq_injections", "insn_emulation",
};

static const char *const kind_names[VM_EXIT_KINDS] = {
    [VM_EXIT_IO] = "io",
    [VM_EXIT_MMIO] = "mmio",
    [VM_EXIT_INTERRUPTED] = "interrupted",
    [VM_EXIT_OTHER] = "other",
};

enum vm_exit_kind vm_exit_kind_of(uint32_t reason)
{
    switch (reason) {
    case KVM_EXIT_IO:
        return VM_EXIT_IO;
    case KVM_EXIT_MMIO:
        return VM_EXIT_MMIO;
    case KVM_EXIT_INTR:
        return VM_EXIT_INTERRUPTED;
    default:
        return VM_EXIT_OTHER;
    }
}

/* ---- KVM's own ---- */

/* As the kernel writes it: what struct kvm_stats_desc has, and the name behind it. */
struct descriptor {
    uint32_t flags;
    int16_t exponent;
    uint16_t size;
    uint32_t offset;
    uint32_t bucket_size;
    char name[NAME_MAX_BYTES];
};
_Static_assert(offsetof(struct descriptor, name) == sizeof(struct kvm_stats_desc) &&
                   offsetof(struct descriptor, offset) == offsetof(struct kvm_stats_desc, offset),
               "the kernel's layout");

static bool read_descriptor(int fd, const struct kvm_stats_header *header, uint32_t index,
                            struct descriptor *out)
{
    const size_t bytes = offsetof(struct descriptor, name) + header->name_size;

    memset(out, 0, sizeof(*out));
    return pread(fd, out, bytes, (off_t)(header->desc_offset + index * bytes)) == (ssize_t)bytes;
}

static void find_offset(struct kvm_vm *vm, const struct kvm_stats_header *header,
                        const struct descriptor *d)
{
    for (size_t i = 0; i < ARRAY_LEN(kvm_names); i++)
        if (strncmp(d->name, kvm_names[i], NAME_MAX_BYTES) == 0)
            vm->stats_offsets[i] = header->data_offset + d->offset;
}

/* Where they are is the same for all vCPUs. */
static void find_offsets(struct kvm_vm *vm, int fd)
{
    struct kvm_stats_header header;
    struct descriptor descriptor;

    if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) || header.name_size == 0 ||
        header.name_size > NAME_MAX_BYTES)
        return;
    const uint32_t count = header.num_desc < DESCRIPTORS_MAX ? header.num_desc : DESCRIPTORS_MAX;
    for (uint32_t i = 0; i < count && read_descriptor(fd, &header, i, &descriptor); i++)
        find_offset(vm, &header, &descriptor);
}

void vcpu_stats_open(struct vcpu *vcpu)
{
    vcpu->stats_fd = ioctl(vcpu->fd, KVM_GET_STATS_FD, NULL);
    if (vcpu->stats_fd >= 0 && vcpu->index == 0)
        find_offsets(vcpu->vm, vcpu->stats_fd);
}

void vm_kvm_counters(struct kvm_vm *vm, const struct counter_visitor *visitor)
{
    for (size_t i = 0; i < ARRAY_LEN(kvm_names); i++) {
        uint64_t sum = 0;
        for (unsigned v = 0; vm->stats_offsets[i] != 0 && v < vm->vcpu_count; v++) {
            uint64_t value = 0;
            if (pread(vm->vcpus[v].stats_fd, &value, sizeof(value), (off_t)vm->stats_offsets[i]) ==
                (ssize_t)sizeof(value))
                sum += value;
        }
        if (vm->stats_offsets[i] != 0)
            visitor->visit(kvm_names[i], sum, visitor->context);
    }
}

/* ---- ours ---- */

void vm_exit_counters(struct kvm_vm *vm, const struct counter_visitor *visitor)
{
    for (size_t kind = 0; kind < VM_EXIT_KINDS; kind++) {
        uint64_t sum = 0;
        for (unsigned v = 0; v < vm->vcpu_count; v++)
            sum += counter_read(&vm->vcpus[v].exits[kind]);
        visitor->visit(kind_names[kind], sum, visitor->context);
    }
}

uint64_t vm_exit_count(struct kvm_vm *vm)
{
    uint64_t sum = 0;

    for (unsigned v = 0; v < vm->vcpu_count; v++)
        for (size_t kind = 0; kind < VM_EXIT_KINDS; kind++)
            sum += counter_read(&vm->vcpus[v].exits[kind]);
    return sum;
}
