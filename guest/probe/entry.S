/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the PVH entry (32-bit protected mode, no paging, EBX = start info) to
 * probe_main() at CPL 3 with IOPL 3, in as few instructions as can be: some hosts
 * emulate every one of them. Tables that can be laid out by the assembler are.
 */
#include "guest/probe/layout.h"

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_DS 0x1b
#define USER_CS 0x23
#define TSS_SELECTOR 0x28
#define VECTORS 48 /* exceptions, then the two interrupt controllers */

/* Accessed and dirty are set beforehand: the processor then never writes the
 * tables, and they are the same in every run. */
#define TABLE_FLAGS 0x27  /* present, writable, user, accessed */
#define PAGE_FLAGS 0xe7   /* the same, dirty, 2 MiB */
#define DEVICE_FLAGS 0xff /* the same, uncached */

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad probe_entry

    .section .text.entry, "ax"
text_base:
    .code32
    .globl probe_entry
probe_entry:
    cli
    cld
    movl %ebx, start_info
    lgdt gdt_pointer
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $0xc0000080, %ecx /* EFER */
    rdmsr
    orl $0x100, %eax /* LME */
    wrmsr
    movl $0x80000033, %eax /* PG, NE, ET, MP, PE */
    movl %eax, %cr0
    ljmp $KERNEL_CS, $long_mode

    .code64
long_mode:
    movl $KERNEL_DS, %eax
    movl %eax, %ss
    movl $kernel_stack_top, %esp
    movl $USER_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    lidt idt_pointer
    movl $TSS_SELECTOR, %eax
    ltr %ax

    /* kvmclock, if the hypervisor is KVM and offers it. */
    movl $0x40000000, %eax
    cpuid
    cmpl $0x4b4d564b, %ebx /* "KVMK" */
    jne no_kvmclock
    movl $0x40000001, %eax
    cpuid
    testl $8, %eax /* KVM_FEATURE_CLOCKSOURCE2 */
    jz no_kvmclock
    xorl %edx, %edx
    movl $kvm_wall_clock, %eax
    movl $0x4b564d00, %ecx
    wrmsr
    movl $kvm_system_time + 1, %eax
    movl $0x4b564d01, %ecx
    wrmsr
    movl $1, kvmclock_enabled
no_kvmclock:

    /* AVX, so that there is state only XSAVE knows. */
    movl $1, %eax
    cpuid
    andl $0x14000000, %ecx /* XSAVE and AVX */
    cmpl $0x14000000, %ecx
    jne no_avx
    movq %cr4, %rax
    orl $0x40000, %eax /* OSXSAVE */
    movq %rax, %cr4
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $7, %eax /* x87, SSE, AVX */
    xsetbv
    movl $1, avx_enabled
no_avx:

    pushq $USER_DS
    pushq $user_stack_top
    pushq $0x3002 /* IOPL 3, interrupts off */
    pushq $USER_CS
    pushq $probe_main
    iretq

/*
 * Exceptions: note what happened, then go on at CPL 3 in probe_exception(), on
 * the user stack from its top, where reporting runs at full speed.
 */
    .balign 16
stubs:
    .set vector, 0
    .rept VECTORS
    .balign 16
    .if vector >= 32
    jmp interrupt
    .else
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .endif
    .set vector, vector + 1
    .endr

/* The serial port's, while halted: all it has to do is to end the halt. */
interrupt:
    pushq %rax
    movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq

/* HLT at CPL 3 is how the main loop asks to sleep: done here, and skipped there.
 * Interrupts are on for this one instruction only, so one that comes just before
 * it is not lost. */
halt:
    addq $16, %rsp
    incq (%rsp)
    sti
    hlt
    cli
    iretq

exception:
    cmpq $13, (%rsp)
    jne unexpected
    cmpq $probe_halt, 16(%rsp)
    je halt
unexpected:
    popq exception_vector
    popq exception_error
    popq exception_rip
    movq %cr2, %rax
    movq %rax, exception_cr2
    popq exception_cs
    popq exception_flags
    movl $kernel_stack_top, %esp
    pushq $USER_DS
    pushq $user_stack_top
    pushq $0x3002
    pushq $USER_CS
    pushq $probe_exception
    iretq

    .globl probe_sleep
probe_sleep:
probe_halt:
    hlt
    ret

/* First in the varying part, at PROBE_VARYING: layout.h tells the host about it. */
    .section .fixed, "aw"
fixed_base:
    .globl probe_shared
probe_shared:
    .quad 0, 0, 0, 0
    .balign 64
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* kernel code, 64-bit */
    .quad 0x00cf93000000ffff /* kernel data */
    .quad 0x00cff3000000ffff /* user data */
    .quad 0x00affb000000ffff /* user code, 64-bit */
    .word 104 + 8192, tss - fixed_base
    .byte PROBE_VARYING >> 16, 0x89, 0, 0
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .balign 8
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
    .balign 16
tss:
    .long 0
    .quad kernel_stack_top
    .fill 90, 1, 0
    .word 104
    .fill 8192, 1, 0 /* all ports allowed: kvm_pvm loses IRETQ's IOPL */
    .byte 0xff
    .balign 16
idt:
    .set vector, 0
    .rept VECTORS
    .word stubs - text_base + vector * 16
    .word KERNEL_CS
    .word 0x8e00
    .word PROBE_IMAGE >> 16
    .quad 0
    .set vector, vector + 1
    .endr
idt_end:

    .globl start_info, kvmclock_enabled, avx_enabled
    .globl exception_vector, exception_error, exception_rip, exception_cr2, exception_cs
start_info:
    .quad 0
kvmclock_enabled:
    .quad 0
avx_enabled:
    .quad 0
exception_vector:
    .quad 0
exception_error:
    .quad 0
exception_rip:
    .quad 0
exception_cr2:
    .quad 0
exception_cs:
    .quad 0
exception_flags:
    .quad 0

    .balign 4096
    .globl pdpt
pml4:
    .quad pdpt + TABLE_FLAGS
    .fill 511, 8, 0
pdpt:
    .quad pd + TABLE_FLAGS, pd + 0x1000 + TABLE_FLAGS
    .quad pd + 0x2000 + TABLE_FLAGS, pd + 0x3000 + TABLE_FLAGS
    .fill 508, 8, 0
pd: /* 4 GiB; what lies above is mapped by memory.c once it is known */
    .set address, 0
    .rept 3 * 512
    .quad address + PAGE_FLAGS
    .set address, address + 0x200000
    .endr
    .rept 512
    .quad address + DEVICE_FLAGS
    .set address, address + 0x200000
    .endr

    .bss
    .balign 4096
    .globl kvm_system_time, kvm_wall_clock
kvm_system_time:
    .skip 64
kvm_wall_clock:
    .skip 64
    .balign 4096
    .skip 4096
kernel_stack_top:
    .skip 16384
user_stack_top:

    .section .note.GNU-stack, "", @progbits
