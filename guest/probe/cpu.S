/* SPDX-License-Identifier: Apache-2.0 */
    .text
    .globl cpu_check_registers, cpu_fpu_set, cpu_fpu_check

    .macro load reg, n
    movabsq $0xa5c3000000000000 + 0x0123456789ab * \n, \reg
    .endm

    .macro check reg, n
    movabsq $0xa5c3000000000000 + 0x0123456789ab * \n, %rcx
    cmpq %rcx, \reg
    movl $\n, %ecx
    jne 2f
    .endm

    .macro all op
    \op %rax, 1
    \op %rbx, 2
    \op %rdx, 3
    \op %rsi, 4
    \op %rdi, 5
    \op %rbp, 6
    \op %r8, 7
    \op %r9, 8
    \op %r10, 9
    \op %r11, 10
    \op %r12, 11
    \op %r13, 12
    \op %r14, 13
    \op %r15, 14
    .endm

cpu_check_registers:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rdi, %rcx
    incq %rcx
    all load
    std
1:  decq %rcx
    jnz 1b
    all check
    pushfq
    popq %rax
    cld
    xorl %ecx, %ecx
    testl $0x400, %eax
    jnz 2f
    movl $99, %ecx
2:  cld
    movl %ecx, %eax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

#define MXCSR 0x7f80 /* all masked, round towards zero */
#define X87_CONTROL 0x0e7f /* all masked, 53 bits, round towards zero */

    .macro each_register op
    \op 0
    \op 1
    \op 2
    \op 3
    \op 4
    \op 5
    \op 6
    \op 7
    \op 8
    \op 9
    \op 10
    \op 11
    \op 12
    \op 13
    \op 14
    \op 15
    .endm

    /* seed + n * constant in both halves, the upper one inverted */
    .macro set_xmm n
    movq %rdi, -16(%rsp)
    movq %rdi, -8(%rsp)
    notq -8(%rsp)
    movdqu -16(%rsp), %xmm\n
    addq %rsi, %rdi
    .endm

    .macro check_xmm n
    movdqu %xmm\n, -16(%rsp)
    movq -8(%rsp), %rdx
    notq %rdx
    cmpq %rdi, %rdx
    jne 1f
    cmpq %rdi, -16(%rsp)
    je 2f
1:  orl $1 << \n, %eax
2:  addq %rsi, %rdi
    .endm

    /* Upper half of a ymm: the same twice, rotated */
    .macro set_ymm n
    movq %rdi, %rdx
    rolq $17, %rdx
    movq %rdx, -16(%rsp)
    movq %rdx, -8(%rsp)
    vinsertf128 $1, -16(%rsp), %ymm\n, %ymm\n
    addq %rsi, %rdi
    .endm

    .macro check_ymm n
    movq %rdi, %rdx
    rolq $17, %rdx
    vextractf128 $1, %ymm\n, -16(%rsp)
    cmpq %rdx, -16(%rsp)
    jne 1f
    cmpq %rdx, -8(%rsp)
    je 2f
1:  btsq $32 + \n, %rax
2:  addq %rsi, %rdi
    .endm

cpu_fpu_set:
    movabsq $0x9e3779b97f4a7c15, %rsi
    movq %rdi, %r8
    fninit
    pushq %rdi
    movl $X87_CONTROL, -8(%rsp)
    fldcw -8(%rsp)
    fildq (%rsp)
    popq %rdi
    movl $MXCSR, -8(%rsp)
    ldmxcsr -8(%rsp)
    each_register set_xmm
    movl $0, avx_used
    cmpl $0, avx_enabled
    je 1f
    /* An emulated hypervisor may have lost what XSETBV set: ask. */
    xorl %ecx, %ecx
    xgetbv
    andl $6, %eax
    cmpl $6, %eax
    jne 1f
    movl $1, avx_used
    movq %r8, %rdi
    each_register set_ymm
1:  ret

cpu_fpu_check:
    movabsq $0x9e3779b97f4a7c15, %rsi
    movq %rdi, %r8
    xorl %eax, %eax
    each_register check_xmm
    stmxcsr -8(%rsp)
    cmpl $MXCSR, -8(%rsp)
    je 1f
    orl $1 << 16, %eax
1:  movl $0, -8(%rsp)
    fnstcw -8(%rsp)
    cmpl $X87_CONTROL, -8(%rsp)
    jne 2f
    fld %st(0)
    fistpq -8(%rsp)
    cmpq %r8, -8(%rsp)
    je 3f
2:  orl $1 << 17, %eax
3:  cmpl $0, avx_used
    je 4f
    movq %r8, %rdi
    each_register check_ymm
4:  ret

    .bss
avx_used:
    .long 0

    .section .note.GNU-stack, "", @progbits
