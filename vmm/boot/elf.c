/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels: vmlinux by the Linux 64-bit entry, and anything that has a PVH
 * note (xen/include/public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY). 32-bit files are
 * widened to the 64-bit structures first, so that all checks exist once. */
#include "base/bytes.h"
#include "vmm/boot/loader.h"
#include "vmm/layout.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>

#define ELF_SEGMENTS_MAX 64 /* kernels have five or so */
#define ELF_NOTE_PHYS32_ENTRY 18

struct elf_file {
    const uint8_t *bytes;
    size_t length;
    bool is_64;
    uint64_t entry;
    unsigned count;
    Elf64_Phdr segments[ELF_SEGMENTS_MAX];
};

bool elf_is(const void *kernel, size_t kernel_bytes)
{
    return kernel_bytes >= SELFMAG && memcmp(kernel, ELFMAG, SELFMAG) == 0;
}

static Elf64_Phdr elf_widen(const Elf32_Phdr *p)
{
    return (Elf64_Phdr){
        .p_type = p->p_type,
        .p_flags = p->p_flags,
        .p_offset = p->p_offset,
        .p_vaddr = p->p_vaddr,
        .p_paddr = p->p_paddr,
        .p_filesz = p->p_filesz,
        .p_memsz = p->p_memsz,
        .p_align = p->p_align,
    };
}

static int elf_read_segments(struct elf_file *elf, uint64_t offset, unsigned count,
                             size_t entry_bytes, struct error *err)
{
    size_t want = elf->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

    if (entry_bytes != want || count == 0 || count > ELF_SEGMENTS_MAX)
        return boot_bad_kernel(err, "the ELF kernel has %u program headers of %zu bytes", count,
                               entry_bytes);
    if (!range_fits(offset, (uint64_t)count * want, elf->length))
        return boot_bad_kernel(
            err, "the ELF kernel is truncated: program headers at byte %" PRIu64 " of %zu", offset,
            elf->length);
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *from = elf->bytes + offset + i * want;
        Elf32_Phdr narrow;

        if (elf->is_64) {
            memcpy(&elf->segments[i], from, sizeof(Elf64_Phdr));
            continue;
        }
        memcpy(&narrow, from, sizeof(narrow));
        elf->segments[i] = elf_widen(&narrow);
    }
    elf->count = count;
    return 0;
}

static int elf_read_header64(struct elf_file *elf, struct error *err)
{
    Elf64_Ehdr header;

    if (elf->length < sizeof(header))
        return boot_bad_kernel(err, "the ELF kernel is truncated: %zu bytes", elf->length);
    memcpy(&header, elf->bytes, sizeof(header));
    if (header.e_machine != EM_X86_64 || header.e_type != ET_EXEC)
        return boot_bad_kernel(err, "the ELF file is not an x86-64 executable");
    elf->entry = header.e_entry;
    return elf_read_segments(elf, header.e_phoff, header.e_phnum, header.e_phentsize, err);
}

static int elf_read_header32(struct elf_file *elf, struct error *err)
{
    Elf32_Ehdr header;

    if (elf->length < sizeof(header))
        return boot_bad_kernel(err, "the ELF kernel is truncated: %zu bytes", elf->length);
    memcpy(&header, elf->bytes, sizeof(header));
    if (header.e_machine != EM_386 || header.e_type != ET_EXEC)
        return boot_bad_kernel(err, "the ELF file is not an x86 executable");
    elf->entry = header.e_entry;
    return elf_read_segments(elf, header.e_phoff, header.e_phnum, header.e_phentsize, err);
}

static int elf_parse(struct elf_file *elf, struct error *err)
{
    if (elf->length < EI_NIDENT || elf->bytes[EI_DATA] != ELFDATA2LSB)
        return boot_bad_kernel(err, "the ELF kernel is not little-endian");
    elf->is_64 = elf->bytes[EI_CLASS] == ELFCLASS64;
    if (elf->is_64)
        return elf_read_header64(elf, err);
    if (elf->bytes[EI_CLASS] == ELFCLASS32)
        return elf_read_header32(elf, err);
    return boot_bad_kernel(err, "the ELF kernel is neither 32-bit nor 64-bit");
}

static bool elf_is_loaded(const Elf64_Phdr *p)
{
    return p->p_type == PT_LOAD && p->p_memsz > 0;
}

/* A segment's bytes are in the file, and its place is RAM above 1 MiB (below are
 * the boot structures). */
static int elf_check_segment(const struct elf_file *elf, const Elf64_Phdr *p,
                             const struct memory *mem, struct error *err)
{
    if (p->p_filesz > p->p_memsz || !range_fits(p->p_offset, p->p_filesz, elf->length))
        return boot_bad_kernel(err,
                               "the ELF kernel is truncated: a segment has %" PRIu64
                               " bytes at byte %" PRIu64 " of %zu",
                               (uint64_t)p->p_filesz, (uint64_t)p->p_offset, elf->length);
    if (p->p_paddr < LAYOUT_KERNEL || !range_fits(p->p_paddr, p->p_memsz, LAYOUT_HOLE_START))
        return boot_bad_kernel(err, "the ELF kernel wants %" PRIu64 " bytes at address %#" PRIx64,
                               (uint64_t)p->p_memsz, (uint64_t)p->p_paddr);
    if (range_fits(p->p_paddr, p->p_memsz, mem->regions[0].size_bytes))
        return 0;
    int r =
        error_set(err, STATUS_USAGE, ENOMEM,
                  "the kernel does not fit into %" PRIu64 " MiB of memory", mem->size_bytes >> 20);
    error_hint(err, "this kernel needs at least %" PRIu64 " MiB",
               div_round_up(p->p_paddr + p->p_memsz, 1 << 20));
    return r;
}

static bool elf_segments_overlap(const Elf64_Phdr *a, const Elf64_Phdr *b)
{
    return a->p_paddr < b->p_paddr + b->p_memsz && b->p_paddr < a->p_paddr + a->p_memsz;
}

static int elf_check_segments(const struct elf_file *elf, const struct memory *mem,
                              struct error *err)
{
    for (unsigned i = 0; i < elf->count; i++) {
        if (!elf_is_loaded(&elf->segments[i]))
            continue;
        int r = elf_check_segment(elf, &elf->segments[i], mem, err);
        if (r < 0)
            return r;
        for (unsigned k = 0; k < i; k++) {
            if (elf_is_loaded(&elf->segments[k]) &&
                elf_segments_overlap(&elf->segments[i], &elf->segments[k]))
                return boot_bad_kernel(err, "segments %u and %u of the ELF kernel overlap", k, i);
        }
    }
    return 0;
}

/* Looks through the notes in [at, at + size) for the PVH entry. A note is name
 * size, descriptor size, type (4 bytes each), name, descriptor, each padded. */
static bool elf_find_pvh_note(const uint8_t *at, uint64_t size, uint64_t align, uint64_t *entry_out)
{
    while (size >= 12) {
        uint64_t name_bytes = load_le32(at), desc_bytes = load_le32(at + 4);
        uint32_t type = load_le32(at + 8);
        uint64_t desc_at = align_up(12 + name_bytes, align);
        uint64_t next = align_up(desc_at + desc_bytes, align);

        if (!range_fits(desc_at, desc_bytes, size))
            return false;
        if (type == ELF_NOTE_PHYS32_ENTRY && name_bytes == 4 && memcmp(at + 12, "Xen", 4) == 0 &&
            (desc_bytes == 4 || desc_bytes == 8)) {
            *entry_out = desc_bytes == 4 ? load_le32(at + desc_at) : load_le64(at + desc_at);
            return true;
        }
        if (next >= size)
            return false;
        at += next;
        size -= next;
    }
    return false;
}

static bool elf_find_pvh_entry(const struct elf_file *elf, uint64_t *entry_out)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const Elf64_Phdr *p = &elf->segments[i];

        if (p->p_type == PT_NOTE && range_fits(p->p_offset, p->p_filesz, elf->length) &&
            elf_find_pvh_note(elf->bytes + p->p_offset, p->p_filesz, p->p_align == 8 ? 8 : 4,
                              entry_out))
            return true;
    }
    return false;
}

static int elf_choose_entry(const struct elf_file *elf, struct boot_entry *out, struct error *err)
{
    struct boot_entry entry = {.protocol = BOOT_PVH};

    if (!elf_find_pvh_entry(elf, &entry.entry_gpa)) {
        if (!elf->is_64)
            return boot_bad_kernel(err, "the 32-bit ELF kernel has no PVH entry point");
        entry = (struct boot_entry){.protocol = BOOT_LINUX64, .entry_gpa = elf->entry};
    }
    for (unsigned i = 0; i < elf->count; i++) {
        const Elf64_Phdr *p = &elf->segments[i];

        if (elf_is_loaded(p) && entry.entry_gpa >= p->p_paddr &&
            entry.entry_gpa - p->p_paddr < p->p_filesz) {
            *out = entry;
            return 0;
        }
    }
    return boot_bad_kernel(
        err, "the ELF kernel's entry point %#" PRIx64 " is not at a physical address inside it",
        entry.entry_gpa);
}

/* vmlinux has no setup header of its own: this is the least a kernel entered at
 * its 64-bit entry point looks at. */
static struct setup_header elf_setup_header(void)
{
    return (struct setup_header){
        .boot_flag = 0xaa55,
        .header = 0x53726448, /* "HdrS" */
        .version = 0x020f,
        .type_of_loader = 0xff,
        .loadflags = LOADED_HIGH,
        .vid_mode = 0xffff,
        .kernel_alignment = 0x1000000,
        .cmdline_size = BOOT_CMDLINE_MAX,
        .xloadflags = XLF_KERNEL_64,
    };
}

int elf_load(struct memory *mem, const void *kernel, size_t kernel_bytes, struct boot_image *out,
             struct error *err)
{
    struct elf_file elf = {.bytes = kernel, .length = kernel_bytes};
    struct boot_image image = {
        .end_gpa = LAYOUT_KERNEL,
        .initrd_limit_gpa = mem->regions[0].size_bytes,
        .cmdline_max = BOOT_CMDLINE_MAX,
        .setup = elf_setup_header(),
    };

    int r = elf_parse(&elf, err);
    if (r < 0)
        return r;
    r = elf_check_segments(&elf, mem, err);
    if (r < 0)
        return r;
    r = elf_choose_entry(&elf, &image.entry, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < elf.count; i++) {
        const Elf64_Phdr *p = &elf.segments[i];

        if (!elf_is_loaded(p))
            continue;
        /* RAM is fresh: what lies behind p_filesz is zero already. */
        r = memory_write(mem, p->p_paddr, elf.bytes + p->p_offset, p->p_filesz);
        if (r < 0)
            return error_errno(err, -r, "loading the kernel");
        image.end_gpa = max_u64(image.end_gpa, p->p_paddr + p->p_memsz);
    }
    *out = image;
    return 0;
}
