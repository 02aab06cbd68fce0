/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU features by name, and the levels of the x86-64 psABI (System V ABI, AMD64
 * supplement, 3.1.1: x86-64-v2, x86-64-v3) as sets of them. Works on CPUID tables as
 * KVM has them; needs no KVM.
 */
#ifndef STASIS_VMM_KVM_FEATURES_H
#define STASIS_VMM_KVM_FEATURES_H

#include "base/error.h"
#include "imgfmt/manifest.h"

#include <linux/kvm.h>
#include <stddef.h>

/* Writes the names of what a guest with this CPUID finds and may use, a space between
 * two, in a fixed order. -ENOSPC. */
int features_list(const struct kvm_cpuid2 *cpuid, char *out, size_t size);

/* Has the host all of these (a list as above)? STATUS_HOST_CANNOT, ENOTSUP, and which
 * it lacks; a name that nobody has heard of is one that it lacks. */
int features_check(const struct kvm_cpuid2 *host, const char *names, struct error *err);

/* Does the host reach the baseline? As features_check(). */
int features_reach(const struct kvm_cpuid2 *host, enum cpu_baseline baseline, struct error *err);

/* Adds the features of another table for the same CPU. */
void features_merge(struct kvm_cpuid2 *cpuid, const struct kvm_cpuid2 *other);

/* Takes away what does not belong to the baseline: features beyond it, and what only
 * describes them; and from all, the host's included, what makes a host of a guest. */
void features_mask(struct kvm_cpuid2 *cpuid, enum cpu_baseline baseline);

#endif
