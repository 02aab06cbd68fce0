/* SPDX-License-Identifier: Apache-2.0 */
/* Between the probe's guest code and what runs it; see probe.c. */
#ifndef STASIS_VMM_KVM_PROBE_GUEST_H
#define STASIS_VMM_KVM_PROBE_GUEST_H

/* The guest's memory: 64 KiB at address 0. */
#define PROBE_RAM_BYTES 0x10000
#define PROBE_CODE 0x1000  /* probe_guest_start */
#define PROBE_STAGE 0x3000 /* a byte: how far it came */
#define PROBE_OPERAND 0x3040
#define PROBE_XSAVE 0x4000
#define PROBE_USER_STACK 0x6000
#define PROBE_KERNEL_STACK 0x7000
#define PROBE_GDT 0x7000
#define PROBE_TSS 0x7100
#define PROBE_IDT 0x7200
#define PROBE_PML4 0x8000
#define PROBE_PDPT 0x9000
#define PROBE_PD 0xa000

#define PROBE_KERNEL_CS 0x08
#define PROBE_KERNEL_DS 0x10
#define PROBE_USER_DS 0x1b
#define PROBE_USER_CS 0x23
#define PROBE_TSS_SELECTOR 0x28

/* The guest ends with a byte to this port: an exception's vector or this. */
#define PROBE_PORT 0x10
#define PROBE_DONE 0xff

#define PROBE_STAGE_USER 1       /* it was at CPL 3 */
#define PROBE_STAGE_WRONG_CPL 2  /* SYSCALL's handler was not at CPL 0 */
#define PROBE_STAGE_WRONG_BACK 3 /* SYSRET came back at another level than 3 */

#ifndef __ASSEMBLER__
extern const unsigned char probe_guest_start[], probe_guest_end[], probe_guest_stubs[];
extern const unsigned char probe_guest_user[], probe_guest_syscall[], probe_guest_int3[];
extern const unsigned char probe_guest_popcnt[], probe_guest_cmpxchg16b[];
extern const unsigned char probe_guest_clac[], probe_guest_xrstor[];
#endif

#endif
