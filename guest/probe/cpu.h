/* SPDX-License-Identifier: Apache-2.0 */
/* Does the processor's state survive? Written in assembly (cpu.S): the compiler
 * must not have an opinion about these registers. */
#ifndef PROBE_CPU_H
#define PROBE_CPU_H

#include <stdint.h>

/* Loads a pattern into every general register but RSP, counts turns down, and
 * looks at them again. 0, or the number (1..) of the first that changed in the
 * order rax rbx rdx rsi rdi rbp r8..r15, or 99 for the direction flag. */
uint64_t cpu_check_registers(uint64_t turns);

/* Loads xmm0-15 (ymm0-15 where there is AVX), MXCSR, the x87 control word and a value on the x87
 * stack from seed. Nothing else in this guest uses them: they stay. */
void cpu_fpu_set(uint64_t seed);

/* Bit n: xmm n is not what seed says; bit 16: MXCSR; bit 17: x87; bit 32 + n: the
 * upper half of ymm n. */
uint64_t cpu_fpu_check(uint64_t seed);

#endif
