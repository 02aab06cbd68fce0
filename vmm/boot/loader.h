/* SPDX-License-Identifier: Apache-2.0 */
/* Between the parts of boot/: what a kernel file asks for once its image is in
 * guest RAM. */
#ifndef STASIS_VMM_BOOT_LOADER_H
#define STASIS_VMM_BOOT_LOADER_H

#include "vmm/boot/boot.h"

#include <asm/bootparam.h>
#include <stdbool.h>

/* GDT selectors, in RAM at LAYOUT_GDT. The first two are the Linux boot
 * protocol's __BOOT_CS and __BOOT_DS. */
#define BOOT_SELECTOR_CODE64 0x10
#define BOOT_SELECTOR_DATA 0x18
#define BOOT_SELECTOR_TSS 0x20 /* two entries: a long mode TSS descriptor has 16 bytes */
#define BOOT_SELECTOR_CODE32 0x30
#define BOOT_GDT_ENTRIES 7

/* What Linux takes on x86 (COMMAND_LINE_SIZE without the NUL). */
#define BOOT_CMDLINE_MAX 2047

struct boot_image {
    struct boot_entry entry;
    uint64_t end_gpa;          /* behind the kernel and the memory it unpacks into */
    uint64_t initrd_limit_gpa; /* the initrd must end at or below */
    uint64_t cmdline_max;      /* bytes, without the NUL */
    struct setup_header setup; /* what goes into the zero page; BOOT_LINUX64 only */
};

/* Do these bytes begin as such a file does? */
bool bzimage_is(const void *kernel, size_t kernel_bytes);
bool elf_is(const void *kernel, size_t kernel_bytes);

/* Check a kernel and put it into RAM. On failure RAM may be partly written. */
int bzimage_load(struct memory *mem, const void *kernel, size_t kernel_bytes,
                 struct boot_image *out, struct error *err);
int elf_load(struct memory *mem, const void *kernel, size_t kernel_bytes, struct boot_image *out,
             struct error *err);

/* A kernel file that contradicts itself: STATUS_USAGE, ENOEXEC, with a hint. */
int boot_bad_kernel(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
