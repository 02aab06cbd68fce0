/* SPDX-License-Identifier: Apache-2.0 */
/* What this host's KVM can do, found by trying. */
#ifndef STASIS_VMM_DOCTOR_H
#define STASIS_VMM_DOCTOR_H

#include "base/error.h"

#include <stdbool.h>

enum kvm_ability {
    KVM_ABSENT,    /* /dev/kvm is not there or cannot be opened */
    KVM_BROKEN,    /* it opens but a machine cannot be made or run */
    KVM_USER_ONLY, /* runs guests, but not a SYSCALL: stock Linux would fail */
    KVM_FULL,      /* a guest entered user mode, did a SYSCALL and came back */
};

struct kvm_report {
    enum kvm_ability ability;
    char reason[256]; /* one line: what the probe saw */
};

/* Runs a guest of a few instructions: long mode, to CPL 3, SYSCALL, back at
 * CPL 0 with the right CS, some instructions kernels need (popcnt, xrstor, int3).
 * Takes milliseconds. */
void kvm_probe(struct kvm_report *out);

#endif
