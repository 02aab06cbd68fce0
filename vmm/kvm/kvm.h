/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtual machine as KVM sees it: RAM slots, the in-kernel interrupt
 * controllers, vCPUs each in a thread of its own. Follows the kernel's
 * Documentation/virt/kvm/api.rst; knows nothing of devices or checkpoints
 * beyond handing over exits and state records.
 */
#ifndef STASIS_VMM_KVM_KVM_H
#define STASIS_VMM_KVM_KVM_H

#include "base/error.h"
#include "imgfmt/manifest.h"
#include "imgfmt/state.h"
#include "vmm/counters.h"
#include "vmm/memory.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm_vm;

enum vm_stop {
    VM_STOP_NONE,
    VM_STOP_POWER_OFF, /* the guest switched itself off */
    VM_STOP_RESET,     /* the guest asked for a reset */
    VM_STOP_ERROR,     /* it cannot go on: a triple fault, or KVM gave up; see the message */
};

/* How the rest of the machine serves the guest. Called from vCPU threads. */
struct vm_exits {
    void (*io)(bool is_write, uint16_t port, unsigned size, uint8_t *data, void *context);
    void (*mmio)(bool is_write, uint64_t gpa, unsigned size, uint8_t *data, void *context);
    /* A vCPU cannot go on. It stays parked; called at most once a vCPU. */
    void (*stopped)(enum vm_stop why, const char *message, void *context);
    void *context;
};

/*
 * Makes a VM over mem (borrowed, must outlive the VM) with `vcpus` vCPUs, dirty
 * logging on, irqchip and PIT in the kernel. No vCPU runs yet.
 * STATUS_HOST_CANNOT with a hint where /dev/kvm is missing or lacks something.
 */
int vm_create(struct memory *mem, unsigned vcpus, const struct vm_exits *exits, struct kvm_vm **out,
              struct error *err);
void vm_free(struct kvm_vm *vm); /* stops and joins the vCPU threads */

/* For a fresh boot: CPUID of that baseline, boot MSRs, local APIC lines, and the
 * registers of vCPU 0. Either this or vm_state_restore() comes before vm_start(). */
int vm_prepare_boot(struct kvm_vm *vm, enum cpu_baseline cpu, const struct kvm_regs *regs,
                    const struct kvm_sregs *sregs, struct error *err);

/* The CPU features that the guest has been told of (vmm/kvm/features.h), once the
 * vCPUs are made for a boot or restored. Waits for vCPU 0 to be parked. */
int vm_cpu_features(struct kvm_vm *vm, char *out, size_t size, struct error *err);

/* Can this host go on with what a checkpoint needs: a baseline, and a list of features
 * that may be empty? STATUS_HOST_CANNOT with their names. Before vm_prepare_boot() or
 * vm_state_restore(), or of a VM that is parked. */
int vm_cpu_check(struct kvm_vm *vm, enum cpu_baseline cpu, const char *features, struct error *err);

int vm_get_sregs(struct kvm_vm *vm, struct kvm_sregs *out, struct error *err);

/* Starts the vCPU threads, parked. */
int vm_start(struct kvm_vm *vm, struct error *err);

/*
 * Stops all vCPUs at an instruction boundary with no I/O pending and waits until
 * they are parked; vm_resume() lets them go on. Not nested. The caller must not
 * hold a lock that the exit callbacks take.
 */
void vm_pause(struct kvm_vm *vm);
void vm_resume(struct kvm_vm *vm);

/* Injects one edge of an interrupt line; synchronous. Any thread. */
void vm_irq_raise(void *vm, uint32_t gsi);

/* Lets writes of 4 bytes to gpa signal fd instead of exiting. */
int vm_ioeventfd(struct kvm_vm *vm, uint64_t gpa, int fd, struct error *err);

/*
 * Reads and clears KVM's dirty log into bits (one a RAM page, mem->dirty_words
 * words, OR-ed in). vCPUs are paused, or pages may be missed.
 */
int vm_dirty_log(struct kvm_vm *vm, uint64_t *bits, struct error *err);

/* ---- state: vmm/kvm/state.c; vCPUs are parked or not yet started ---- */

int vm_state_save(struct kvm_vm *vm, int64_t guest_wall_us, struct state_writer *w,
                  struct error *err);
/* bytes passed state_check(). Works on a fresh VM and on one that has run. Time stands
 * still then, as by vm_clock_freeze(); *guest_wall_us_out: the guest's wall clock. */
int vm_state_restore(struct kvm_vm *vm, const void *bytes, size_t length,
                     int64_t *guest_wall_us_out, struct error *err);

/* ---- time: vmm/kvm/clock.c; vCPUs are parked ---- */

/* What the guest's clocks say now is what they will say when it goes on, and what is
 * saved until then. Does nothing if time stands still already. */
int vm_clock_freeze(struct kvm_vm *vm, struct error *err);

/* Lets time go on from there, or from so much later. Right before vm_resume(). */
int vm_clock_thaw(struct kvm_vm *vm, uint64_t advance_ns, struct error *err);

/* ---- counters: vmm/kvm/stats.c; since the VM was made, all vCPUs; any thread ---- */

/* Exits to user space. */
uint64_t vm_exit_count(struct kvm_vm *vm);
/* The same by kind: io, mmio, interrupted, other. */
void vm_exit_counters(struct kvm_vm *vm, const struct counter_visitor *visitor);
/* What KVM counts itself, by its names: exits, io_exits, halt_exits, ... Not all, or none,
 * on old kernels. */
void vm_kvm_counters(struct kvm_vm *vm, const struct counter_visitor *visitor);

#endif
