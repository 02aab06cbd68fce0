/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting a kernel to its first instruction: loads a bzImage (Linux x86 boot
 * protocol, 64-bit entry), an ELF vmlinux or any ELF with a PVH note
 * (XEN_ELFNOTE_PHYS32_ENTRY), an initrd, the command line and the ACPI tables
 * into guest RAM, and says how the first vCPU must start. Kernel and initrd are
 * input like any other: every number in them is checked.
 */
#ifndef STASIS_VMM_BOOT_BOOT_H
#define STASIS_VMM_BOOT_BOOT_H

#include "base/error.h"
#include "vmm/memory.h"

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

struct boot_config {
    const void *kernel;
    size_t kernel_bytes;
    const void *initrd; /* NULL if there is none */
    size_t initrd_bytes;
    const char *cmdline;
    unsigned vcpus;
    uint16_t virtio_slots; /* bit n: there is a device in slot n (vmm/layout.h) */
};

enum boot_protocol {
    BOOT_LINUX64, /* long mode, RSI = zero page */
    BOOT_PVH,     /* 32-bit protected mode, EBX = start info */
};

struct boot_entry {
    enum boot_protocol protocol;
    uint64_t entry_gpa;
};

/* Fills guest RAM (fresh, all zero). STATUS_USAGE errors with a hint for what is
 * not a kernel, does not fit, or has no entry this host can use. A bzImage is
 * entered by BOOT_LINUX64; an ELF by PVH if it has the note, else by
 * BOOT_LINUX64 at its entry point. */
int boot_load(struct memory *mem, const struct boot_config *config, struct boot_entry *out,
              struct error *err);

/* Sets regs and sregs of vCPU 0 for that entry, starting from what KVM_GET_SREGS
 * gave (GDT and page tables are in RAM at vmm/layout.h's places by boot_load()). */
void boot_set_registers(const struct boot_entry *entry, struct kvm_regs *regs,
                        struct kvm_sregs *sregs);

/* Builds RSDP, XSDT, FADT (hardware reduced), MADT and DSDT (COM1, RTC, i8042,
 * virtio-mmio devices LNRO0005, VM generation id, event device, _S5) at LAYOUT_ACPI. ACPI 6.4 chapter 5. Called by
 * boot_load(); declared for tests. */
int acpi_build(struct memory *mem, unsigned vcpus, uint16_t virtio_slots, struct error *err);

#endif
