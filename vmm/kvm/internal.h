/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of vmm/kvm/ only. */
#ifndef STASIS_VMM_KVM_INTERNAL_H
#define STASIS_VMM_KVM_INTERNAL_H

#include "vmm/kvm/kvm.h"

#include <pthread.h>
#include <stdatomic.h>

/* Exits to user space. Halts and interrupt windows are served within KVM. */
enum vm_exit_kind {
    VM_EXIT_IO,
    VM_EXIT_MMIO,
    VM_EXIT_INTERRUPTED, /* by a signal */
    VM_EXIT_OTHER,
    VM_EXIT_KINDS,
};

#define VM_KVM_STATS 10 /* of KVM's own that are told; stats.c */

struct vcpu {
    struct kvm_vm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool has_thread;
    bool parked;                   /* under vm->lock */
    bool dead;                     /* reported `stopped`: never runs again; under vm->lock */
    uint64_t exits[VM_EXIT_KINDS]; /* counted by its thread alone */
    int stats_fd;                  /* KVM's statistics of it, or -1 */
    uint64_t frozen_tsc;           /* while vm->frozen */
};

struct kvm_vm {
    struct memory *mem;
    struct vm_exits exits;
    int kvm_fd;
    int fd;
    size_t run_bytes;
    size_t xsave_bytes;
    unsigned vcpu_count;
    struct vcpu *vcpus;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    _Atomic bool pause_wanted;
    bool frozen;                          /* time stands still; see clock.c */
    uint64_t frozen_clock_ns;             /* kvmclock then */
    bool quit;                            /* under lock */
    uint64_t stats_offsets[VM_KVM_STATS]; /* in a vCPU's statistics; 0: not there */
};

#define VCPU_MSR_TSC 0x10
#define VCPU_MSR_TSC_DEADLINE 0x6e0

/* struct kvm_msrs with two entries: clang takes none with room behind it. */
struct vcpu_msr_pair {
    uint32_t count;
    uint32_t pad;
    struct kvm_msr_entry entries[2];
};
_Static_assert(offsetof(struct vcpu_msr_pair, entries) == offsetof(struct kvm_msrs, entries),
               "the kernel's layout");

/* ioctl() that retries nothing and reports what failed. */
int kvm_ioctl(int fd, unsigned long request, void *arg, const char *what, struct error *err);

/* Room for a vCPU's CPUID, empty; NULL if out of memory. The caller frees. */
struct kvm_cpuid2 *vcpu_cpuid_alloc(void);
enum { VCPU_CPUID_ENTRIES_MAX = 256 };

/* Thread body and control; vcpu.c */
int vcpu_open(struct kvm_vm *vm, struct vcpu *vcpu, unsigned index, struct error *err);
void vcpu_close(struct vcpu *vcpu);
int vcpu_thread_start(struct vcpu *vcpu, struct error *err);
void vcpu_kick(struct vcpu *vcpu);

/* msrs.c: the record of a vCPU that is parked. Restoring one that has run takes back what
 * the record does not have; it notes the time-stamp counter (frozen_tsc). */
int vcpu_msrs_save(struct vcpu *vcpu, struct state_writer *w, struct error *err);
int vcpu_msrs_restore(struct vcpu *vcpu, const void *bytes, size_t length, struct error *err);

/* stats.c. Opens KVM's statistics where it has any; vcpu->fd is open. */
void vcpu_stats_open(struct vcpu *vcpu);
enum vm_exit_kind vm_exit_kind_of(uint32_t reason);

#endif
