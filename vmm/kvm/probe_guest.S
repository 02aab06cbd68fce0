/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the probe runs in its guest, copied to PROBE_CODE. Each probe_guest_NAME
 * is entered at CPL 0 in long mode and ends by a byte to PROBE_PORT. Everything
 * is mapped for user mode, so that a handler at the wrong level can say so.
 */
#include "vmm/kvm/probe_guest.h"

#define AT(label) (PROBE_CODE + (label - probe_guest_start))

    .section .rodata
    .balign 16
    .globl probe_guest_start, probe_guest_end, probe_guest_stubs
    .globl probe_guest_user, probe_guest_syscall, probe_guest_int3
    .globl probe_guest_popcnt, probe_guest_cmpxchg16b
    .globl probe_guest_clac, probe_guest_xrstor

    .macro to_user target
    pushq $PROBE_USER_DS
    pushq $PROBE_USER_STACK
    pushq $2
    pushq $PROBE_USER_CS
    pushq $AT(\target)
    iretq
    .endm

    .macro done
    movb $PROBE_DONE, %al
    outb %al, $PROBE_PORT
    hlt
    .endm

probe_guest_start:

/* One stub of 16 bytes a vector. Breakpoints return; all others are the end. */
probe_guest_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if vector == 3
    movl $0x33, %ebx
    iretq
    .else
    movb $vector, %al
    outb %al, $PROBE_PORT
    hlt
    .endif
    .set vector, vector + 1
    .endr
    .balign 16

/* To CPL 3, and back by an exception: ends with vector 6. */
probe_guest_user:
    to_user in_user
in_user:
    movl $100000, %ecx
1:  decl %ecx
    jnz 1b
    movl %cs, %eax
    andl $3, %eax
    cmpl $3, %eax
    jne 2f
    movb $PROBE_STAGE_USER, PROBE_STAGE
2:  ud2

/* As kernels do it: EFER.SCE is on, STAR and LSTAR are set here. */
probe_guest_syscall:
    movl $0xc0000081, %ecx /* STAR */
    xorl %eax, %eax
    movl $(((PROBE_KERNEL_DS | 3) << 16) | PROBE_KERNEL_CS), %edx
    wrmsr
    movl $0xc0000082, %ecx /* LSTAR */
    movl $AT(syscall_entry), %eax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx /* SFMASK */
    movl $0x200, %eax
    wrmsr
    xorl %edi, %edi
    to_user user_calls
user_calls:
    movb $PROBE_STAGE_USER, PROBE_STAGE
    syscall
    movl %cs, %eax
    andl $3, %eax
    cmpl $3, %eax
    jne 1f
    movl $1, %edi
    syscall
1:  movb $PROBE_STAGE_WRONG_BACK, PROBE_STAGE
    ud2
syscall_entry:
    movl %cs, %eax
    testl $3, %eax
    jnz 1f
    testl %edi, %edi
    jnz 2f
    sysretq
1:  movb $PROBE_STAGE_WRONG_CPL, PROBE_STAGE
    ud2
2:  done

probe_guest_int3:
    xorl %ebx, %ebx
    int3
    cmpl $0x33, %ebx
    jne 1f
    done
1:  ud2

probe_guest_popcnt:
    movl $0xf0f0, %ecx
    popcntq %rcx, %rax
    cmpq $8, %rax
    jne 1f
    done
1:  ud2

probe_guest_cmpxchg16b:
    movl $1, %eax
    movl $2, %edx
    movl $3, %ebx
    movl $4, %ecx
    movq %rax, PROBE_OPERAND
    movq %rdx, PROBE_OPERAND + 8
    lock cmpxchg16b PROBE_OPERAND
    jne 1f
    cmpq $4, PROBE_OPERAND + 8
    jne 1f
    done
1:  ud2

probe_guest_clac:
    stac
    clac
    done

probe_guest_xrstor:
    movl $1, %eax
    xorl %edx, %edx
    xsave PROBE_XSAVE
    xrstor PROBE_XSAVE
    done

probe_guest_end:
    .section .note.GNU-stack, "", @progbits
