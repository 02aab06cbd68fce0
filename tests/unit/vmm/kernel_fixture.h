/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel files made to measure. */
#ifndef STASIS_TESTS_KERNEL_FIXTURE_H
#define STASIS_TESTS_KERNEL_FIXTURE_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#define KERNEL_FILE_MAX (64u << 10)

struct kernel_file {
    size_t length;
    uint8_t bytes[KERNEL_FILE_MAX];
};

/* A bzImage of protocol 2.15 with a two-sector setup part and 5000 bytes of code,
 * which prefers 16 MiB and needs 1 MiB there. */
#define BZIMAGE_CODE_AT (3 * 512)
#define BZIMAGE_CODE_SIZE 5008
#define BZIMAGE_PREFERS (16ull << 20)
#define BZIMAGE_NEEDS (1ull << 20)

void bzimage_make(struct kernel_file *file);
struct setup_header *bzimage_setup(struct kernel_file *file);

/* ELF files whose program headers are filled by ..._segment(). Segment n's bytes
 * are all 'A' + n. */
void elf64_make(struct kernel_file *file, uint64_t entry);
void elf32_make(struct kernel_file *file, uint32_t entry);
Elf64_Ehdr *elf64_header(struct kernel_file *file);
Elf64_Phdr *elf64_phdr(struct kernel_file *file, unsigned n);

/* Adds a PT_LOAD segment. */
void elf_segment(struct kernel_file *file, uint64_t paddr, uint64_t filesz, uint64_t memsz);

/* Adds a PT_NOTE segment with these bytes. */
void elf_notes(struct kernel_file *file, const void *bytes, size_t length, uint64_t align);

/* Adds one with the note that names the PVH entry. */
void elf_pvh_note(struct kernel_file *file, uint32_t entry);

#endif
