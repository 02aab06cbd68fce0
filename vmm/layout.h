/* SPDX-License-Identifier: Apache-2.0 */
/* Where things are in the guest's physical address space and on its I/O bus.
 * Part of a machine's identity: a checkpoint restores only to the same layout. */
#ifndef STASIS_VMM_LAYOUT_H
#define STASIS_VMM_LAYOUT_H

#include <stdint.h>

/* RAM: [0, LAYOUT_HOLE_START), the rest from 4 GiB on. */
#define LAYOUT_HOLE_START 0xc0000000ull
#define LAYOUT_HIGH_START 0x100000000ull
#define LAYOUT_MEMORY_MIN (4ull << 20)
#define LAYOUT_MEMORY_MAX (1ull << 40)

/* Boot structures below 1 MiB. */
#define LAYOUT_GDT 0x500ull
#define LAYOUT_PVH_START_INFO 0x6000ull
#define LAYOUT_ZERO_PAGE 0x7000ull
#define LAYOUT_BOOT_STACK 0x8ff0ull
#define LAYOUT_PAGE_TABLES 0x9000ull /* PML4, PDPT, then PDs for 4 GiB: 6 pages */
#define LAYOUT_CMDLINE 0x20000ull
#define LAYOUT_EBDA 0x9fc00ull /* end of conventional memory */
#define LAYOUT_ACPI 0xe0000ull /* RSDP first, tables behind it */
#define LAYOUT_ACPI_END 0xef000ull
#define LAYOUT_VMGENID 0xef000ull    /* a page to itself */
#define LAYOUT_BIOS_RESET 0xffff0ull /* where FFFF:0000 jumps to */
#define LAYOUT_KERNEL 0x100000ull

/* In the hole. */
#define LAYOUT_VIRTIO_BASE 0xd0000000ull
#define LAYOUT_VIRTIO_STRIDE 0x1000ull
#define LAYOUT_VIRTIO_SLOTS 16
#define LAYOUT_IOAPIC 0xfec00000ull
#define LAYOUT_LAPIC 0xfee00000ull
#define LAYOUT_IDENTITY_MAP 0xfffbc000ull /* KVM_SET_IDENTITY_MAP_ADDR */
#define LAYOUT_TSS 0xfffbd000ull          /* KVM_SET_TSS_ADDR: three pages */

/* I/O ports and ISA interrupts. */
#define LAYOUT_COM1 0x3f8
#define LAYOUT_COM1_IRQ 4
#define LAYOUT_RTC 0x70
#define LAYOUT_RTC_IRQ 8
#define LAYOUT_I8042_DATA 0x60
#define LAYOUT_I8042_STATUS 0x64
#define LAYOUT_I8042_IRQ 1
#define LAYOUT_ACPI_PM 0x600 /* sleep control, sleep status, reset: one byte each */
#define LAYOUT_EVENT_IRQ 9   /* of the ACPI generic event device */

/* Slots 0..7 have IOAPIC pins to themselves; the rest take free ISA lines. */
static inline uint32_t layout_virtio_gsi(unsigned slot)
{
    static const uint8_t isa[] = {5, 6, 7, 10, 11, 12, 14, 15};

    return slot < 8 ? 16 + slot : isa[(slot - 8) % 8];
}

static inline uint64_t layout_virtio_gpa(unsigned slot)
{
    return LAYOUT_VIRTIO_BASE + slot * LAYOUT_VIRTIO_STRIDE;
}

#endif
