/* SPDX-License-Identifier: Apache-2.0 */
/* How the first vCPU starts: 64-bit as the Linux boot protocol says, or 32-bit
 * as PVH does (xen/docs/misc/pvh.pandoc). */
#include "vmm/boot/loader.h"
#include "vmm/layout.h"

#define CR0_PE (1ull << 0)
#define CR0_ET (1ull << 4)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_ALWAYS_1 0x2

enum {
    SEGMENT_CODE = 0xb, /* execute, read, accessed */
    SEGMENT_DATA = 0x3, /* read, write, accessed */
    SEGMENT_TSS = 0xb,  /* busy */
};

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .base = 0,
        .limit = 0xffffffff,
        .selector = selector,
        .type = type,
        .present = 1,
        .s = 1,
        .db = 1,
        .g = 1,
    };
}

static void set_common_segments(struct kvm_sregs *sregs)
{
    struct kvm_segment data = flat_segment(BOOT_SELECTOR_DATA, SEGMENT_DATA);

    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = (struct kvm_segment){
        .limit = 0x67,
        .selector = BOOT_SELECTOR_TSS,
        .type = SEGMENT_TSS,
        .present = 1,
    };
    sregs->ldt = (struct kvm_segment){.unusable = 1};
    sregs->gdt = (struct kvm_dtable){.base = LAYOUT_GDT, .limit = BOOT_GDT_ENTRIES * 8 - 1};
    sregs->idt = (struct kvm_dtable){0};
}

static void set_long_mode(struct kvm_sregs *sregs)
{
    sregs->cs = flat_segment(BOOT_SELECTOR_CODE64, SEGMENT_CODE);
    sregs->cs.db = 0;
    sregs->cs.l = 1;
    sregs->cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs->cr3 = LAYOUT_PAGE_TABLES;
    sregs->cr4 = CR4_PAE;
    sregs->efer = EFER_LME | EFER_LMA;
}

static void set_protected_mode(struct kvm_sregs *sregs)
{
    sregs->cs = flat_segment(BOOT_SELECTOR_CODE32, SEGMENT_CODE);
    sregs->cr0 = CR0_PE | CR0_ET;
    sregs->cr3 = 0;
    sregs->cr4 = 0;
    sregs->efer = 0;
}

void boot_set_registers(const struct boot_entry *entry, struct kvm_regs *regs,
                        struct kvm_sregs *sregs)
{
    *regs = (struct kvm_regs){
        .rip = entry->entry_gpa,
        .rsp = LAYOUT_BOOT_STACK,
        .rflags = RFLAGS_ALWAYS_1,
    };
    set_common_segments(sregs);
    if (entry->protocol == BOOT_PVH) {
        regs->rbx = LAYOUT_PVH_START_INFO;
        set_protected_mode(sregs);
    } else {
        regs->rsi = LAYOUT_ZERO_PAGE;
        set_long_mode(sregs);
    }
}
