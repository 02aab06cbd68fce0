/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vmm/kernel_fixture.h"

#include "base/bytes.h"

#include <assert.h>

#define SETUP_AT 0x1f1
#define PHDRS_AT 64
#define ELF_DATA_AT 0x1000

void bzimage_make(struct kernel_file *file)
{
    struct setup_header setup = {
        .setup_sects = BZIMAGE_CODE_AT / 512 - 1,
        .root_flags = 1,
        .syssize = BZIMAGE_CODE_SIZE / 16,
        .boot_flag = 0xaa55,
        .jump = (SETUP_AT + sizeof(setup) - 0x202) << 8 | 0xeb,
        .header = 0x53726448,
        .version = 0x020f,
        .loadflags = LOADED_HIGH | CAN_USE_HEAP,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = 0x200000,
        .relocatable_kernel = 1,
        .min_alignment = 21,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = 2047,
        .setup_data = 0x1234,
        .pref_address = BZIMAGE_PREFERS,
        .init_size = BZIMAGE_NEEDS,
    };

    *file = (struct kernel_file){.length = BZIMAGE_CODE_AT + BZIMAGE_CODE_SIZE};
    memcpy(file->bytes + SETUP_AT, &setup, sizeof(setup));
    for (size_t i = 0; i < BZIMAGE_CODE_SIZE; i++)
        file->bytes[BZIMAGE_CODE_AT + i] = (uint8_t)(i % 251);
}

struct setup_header *bzimage_setup(struct kernel_file *file)
{
    return (struct setup_header *)(file->bytes + SETUP_AT);
}

static void elf_make(struct kernel_file *file, uint8_t class)
{
    const uint8_t ident[] = {0x7f, 'E', 'L', 'F', class, ELFDATA2LSB, EV_CURRENT};

    *file = (struct kernel_file){.length = ELF_DATA_AT};
    memcpy(file->bytes, ident, sizeof(ident));
}

void elf64_make(struct kernel_file *file, uint64_t entry)
{
    elf_make(file, ELFCLASS64);
    Elf64_Ehdr *header = elf64_header(file);
    header->e_type = ET_EXEC;
    header->e_machine = EM_X86_64;
    header->e_entry = entry;
    header->e_phoff = PHDRS_AT;
    header->e_phentsize = sizeof(Elf64_Phdr);
}

static Elf32_Ehdr *elf32_header(struct kernel_file *file)
{
    return (Elf32_Ehdr *)file->bytes;
}

void elf32_make(struct kernel_file *file, uint32_t entry)
{
    elf_make(file, ELFCLASS32);
    Elf32_Ehdr *header = elf32_header(file);
    header->e_type = ET_EXEC;
    header->e_machine = EM_386;
    header->e_entry = entry;
    header->e_phoff = PHDRS_AT;
    header->e_phentsize = sizeof(Elf32_Phdr);
}

Elf64_Ehdr *elf64_header(struct kernel_file *file)
{
    return (Elf64_Ehdr *)file->bytes;
}

Elf64_Phdr *elf64_phdr(struct kernel_file *file, unsigned n)
{
    return (Elf64_Phdr *)(file->bytes + PHDRS_AT) + n;
}

static void elf_add(struct kernel_file *file, const Elf64_Phdr *p)
{
    if (file->bytes[EI_CLASS] == ELFCLASS64) {
        *elf64_phdr(file, elf64_header(file)->e_phnum++) = *p;
        return;
    }
    Elf32_Phdr *narrow = (Elf32_Phdr *)(file->bytes + PHDRS_AT) + elf32_header(file)->e_phnum++;
    *narrow = (Elf32_Phdr){
        .p_type = p->p_type,
        .p_offset = (uint32_t)p->p_offset,
        .p_paddr = (uint32_t)p->p_paddr,
        .p_filesz = (uint32_t)p->p_filesz,
        .p_memsz = (uint32_t)p->p_memsz,
        .p_align = (uint32_t)p->p_align,
    };
}

void elf_segment(struct kernel_file *file, uint64_t paddr, uint64_t filesz, uint64_t memsz)
{
    unsigned n = file->bytes[EI_CLASS] == ELFCLASS64 ? elf64_header(file)->e_phnum
                                                     : elf32_header(file)->e_phnum;
    const Elf64_Phdr p = {
        .p_type = PT_LOAD,
        .p_offset = file->length,
        .p_paddr = paddr,
        .p_filesz = filesz,
        .p_memsz = memsz,
    };

    assert(filesz <= KERNEL_FILE_MAX - file->length);
    memset(file->bytes + file->length, (int)('A' + n), filesz);
    file->length += filesz;
    elf_add(file, &p);
}

void elf_notes(struct kernel_file *file, const void *bytes, size_t length, uint64_t align)
{
    const Elf64_Phdr p = {
        .p_type = PT_NOTE,
        .p_offset = file->length,
        .p_filesz = length,
        .p_memsz = length,
        .p_align = align,
    };

    assert(length <= KERNEL_FILE_MAX - file->length);
    memcpy(file->bytes + file->length, bytes, length);
    file->length += length;
    elf_add(file, &p);
}

void elf_pvh_note(struct kernel_file *file, uint32_t entry)
{
    struct {
        uint32_t name_bytes, desc_bytes, type;
        char name[4];
        uint32_t entry;
    } note = {4, 4, 18, "Xen", entry};

    elf_notes(file, &note, sizeof(note), 4);
}
