/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of vmm/kvm/ only. */
#ifndef STASIS_VMM_KVM_INTERNAL_H
#define STASIS_VMM_KVM_INTERNAL_H

#include "vmm/kvm/kvm.h"

#include <pthread.h>
#include <stdatomic.h>

struct vcpu {
    struct kvm_vm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool has_thread;
    bool parked; /* under vm->lock */
    bool dead;   /* reported `stopped`: never runs again; under vm->lock */
    _Atomic uint64_t exits;
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
    bool quit; /* under lock */
};

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

/* CPUID for vCPU `index` of `count` from what the host supports. The caller frees. */
int vcpu_cpuid_build(struct kvm_vm *vm, unsigned index, struct kvm_cpuid2 **out, struct error *err);
enum { VCPU_CPUID_ENTRIES_MAX = 256 };

/* Thread body and control; vcpu.c */
int vcpu_open(struct kvm_vm *vm, struct vcpu *vcpu, unsigned index, struct error *err);
void vcpu_close(struct vcpu *vcpu);
int vcpu_thread_start(struct vcpu *vcpu, struct error *err);
void vcpu_kick(struct vcpu *vcpu);

#endif
