/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot/boot.h"

#include "base/bytes.h"
#include "imgfmt/page.h"
#include "vmm/boot/loader.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>

#define E820_RAM 1
#define E820_RESERVED 2
#define E820_MAX 5

/* xen/include/public/arch-x86/hvm/start_info.h */
#define PVH_MAGIC 0x336ec578u
#define PVH_MODULES_GPA (LAYOUT_PVH_START_INFO + 0x100)
#define PVH_MEMMAP_GPA (LAYOUT_PVH_START_INFO + 0x200)

struct pvh_start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t module_count;
    uint64_t modules_gpa;
    uint64_t cmdline_gpa;
    uint64_t rsdp_gpa;
    uint64_t memmap_gpa; /* from version 1 on */
    uint32_t memmap_count;
    uint32_t reserved;
};

struct pvh_module {
    uint64_t gpa;
    uint64_t size_bytes;
    uint64_t cmdline_gpa;
    uint64_t reserved;
};

struct pvh_memmap_entry {
    uint64_t gpa;
    uint64_t size_bytes;
    uint32_t type; /* as E820 */
    uint32_t reserved;
};

struct e820_map {
    uint8_t count;
    struct boot_e820_entry entries[E820_MAX];
};

struct boot_range {
    uint64_t gpa;
    uint64_t size_bytes;
};

int boot_bad_kernel(struct error *err, const char *fmt, ...)
{
    char text[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    error_set(err, STATUS_USAGE, ENOEXEC, "%s", text);
    error_hint(err, "give a 64-bit Linux bzImage (vmlinuz), an ELF vmlinux, or an ELF file with a "
                    "PVH note");
    return -ENOEXEC;
}

static void e820_add(struct e820_map *map, uint64_t start, uint64_t end, uint32_t type)
{
    map->entries[map->count++] =
        (struct boot_e820_entry){.addr = start, .size = end - start, .type = type};
}

static struct e820_map e820_build(const struct memory *mem)
{
    struct e820_map map = {0};

    e820_add(&map, 0, LAYOUT_EBDA, E820_RAM);
    e820_add(&map, LAYOUT_EBDA, LAYOUT_KERNEL, E820_RESERVED); /* the ACPI tables are here */
    e820_add(&map, LAYOUT_KERNEL, mem->regions[0].size_bytes, E820_RAM);
    /* KVM's own pages on Intel, and where firmware would be. */
    e820_add(&map, LAYOUT_IDENTITY_MAP, LAYOUT_HIGH_START, E820_RESERVED);
    if (mem->region_count > 1)
        e820_add(&map, LAYOUT_HIGH_START, LAYOUT_HIGH_START + mem->regions[1].size_bytes, E820_RAM);
    return map;
}

static int boot_write_cmdline(struct memory *mem, const char *cmdline, uint64_t max,
                              struct error *err)
{
    size_t length = strlen(cmdline);

    max = min_u64(max, LAYOUT_EBDA - LAYOUT_CMDLINE - 1);
    if (length > max) {
        error_set(err, STATUS_USAGE, E2BIG,
                  "the kernel command line has %zu bytes, this kernel takes %" PRIu64, length, max);
        error_hint(err, "shorten the command line");
        return -E2BIG;
    }
    return memory_write(mem, LAYOUT_CMDLINE, cmdline, length + 1);
}

/* At the top of low memory, out of the way of everything the kernel unpacks. */
static int boot_write_initrd(struct memory *mem, const struct boot_config *config,
                             const struct boot_image *image, struct boot_range *out,
                             struct error *err)
{
    uint64_t size = config->initrd_bytes;
    uint64_t limit = min_u64(mem->regions[0].size_bytes, image->initrd_limit_gpa);

    *out = (struct boot_range){0};
    if (config->initrd == NULL || size == 0)
        return 0;
    uint64_t gpa = size > limit ? 0 : align_down(limit - size, STASIS_PAGE_SIZE);
    if (gpa < align_up(image->end_gpa, STASIS_PAGE_SIZE)) {
        error_set(err, STATUS_USAGE, ENOMEM,
                  "the initrd of %" PRIu64 " MiB does not fit into %" PRIu64
                  " MiB of memory beside the kernel",
                  size >> 20, mem->size_bytes >> 20);
        error_hint(err, "give the machine more memory, or a smaller initrd");
        return -ENOMEM;
    }
    *out = (struct boot_range){.gpa = gpa, .size_bytes = size};
    return memory_write(mem, gpa, config->initrd, size);
}

static int boot_write_zero_page(struct memory *mem, const struct boot_image *image,
                                const struct boot_range *initrd)
{
    struct e820_map map = e820_build(mem);
    struct boot_params params = {
        .acpi_rsdp_addr = LAYOUT_ACPI,
        .hdr = image->setup,
        .e820_entries = map.count,
    };

    params.hdr.cmd_line_ptr = LAYOUT_CMDLINE;
    params.hdr.ramdisk_image = (uint32_t)initrd->gpa;
    params.hdr.ramdisk_size = (uint32_t)initrd->size_bytes;
    memcpy(params.e820_table, map.entries, map.count * sizeof(map.entries[0]));
    return memory_write(mem, LAYOUT_ZERO_PAGE, &params, sizeof(params));
}

static int boot_write_pvh_info(struct memory *mem, const struct boot_range *initrd)
{
    struct e820_map map = e820_build(mem);
    struct pvh_start_info info = {
        .magic = PVH_MAGIC,
        .version = 1,
        .module_count = initrd->size_bytes > 0,
        .modules_gpa = initrd->size_bytes > 0 ? PVH_MODULES_GPA : 0,
        .cmdline_gpa = LAYOUT_CMDLINE,
        .rsdp_gpa = LAYOUT_ACPI,
        .memmap_gpa = PVH_MEMMAP_GPA,
        .memmap_count = map.count,
    };
    struct pvh_module module = {.gpa = initrd->gpa, .size_bytes = initrd->size_bytes};

    for (unsigned i = 0; i < map.count; i++) {
        struct pvh_memmap_entry entry = {
            .gpa = map.entries[i].addr,
            .size_bytes = map.entries[i].size,
            .type = map.entries[i].type,
        };
        int r = memory_write(mem, PVH_MEMMAP_GPA + i * sizeof(entry), &entry, sizeof(entry));
        if (r < 0)
            return r;
    }
    int r = memory_write(mem, PVH_MODULES_GPA, &module, sizeof(module));
    if (r < 0)
        return r;
    return memory_write(mem, LAYOUT_PVH_START_INFO, &info, sizeof(info));
}

static int boot_write_gdt(struct memory *mem)
{
    static const uint64_t gdt[BOOT_GDT_ENTRIES] = {
        [BOOT_SELECTOR_CODE64 / 8] = 0x00af9b000000ffff,
        [BOOT_SELECTOR_DATA / 8] = 0x00cf93000000ffff,
        [BOOT_SELECTOR_TSS / 8] = 0x00008b0000000067,
        [BOOT_SELECTOR_CODE32 / 8] = 0x00cf9b000000ffff,
    };

    return memory_write(mem, LAYOUT_GDT, gdt, sizeof(gdt));
}

/* Maps the first 4 GiB to themselves by 2 MiB pages: the 64-bit entry is called
 * with paging on, and the kernel, zero page, command line and initrd mapped. */
static int boot_write_page_tables(struct memory *mem)
{
    enum { PRESENT_WRITABLE = 0x3, LARGE = 0x80, ENTRIES = 512, DIRECTORIES = 4 };
    const uint64_t pdpt_gpa = LAYOUT_PAGE_TABLES + STASIS_PAGE_SIZE;
    const uint64_t pd_gpa = pdpt_gpa + STASIS_PAGE_SIZE;
    uint64_t pml4e = pdpt_gpa | PRESENT_WRITABLE;
    uint64_t pdpt[DIRECTORIES], pd[ENTRIES];

    int r = memory_write(mem, LAYOUT_PAGE_TABLES, &pml4e, sizeof(pml4e));
    for (uint64_t i = 0; r == 0 && i < DIRECTORIES; i++) {
        pdpt[i] = (pd_gpa + i * STASIS_PAGE_SIZE) | PRESENT_WRITABLE;
        for (uint64_t k = 0; k < ENTRIES; k++)
            pd[k] = ((i * ENTRIES + k) << 21) | PRESENT_WRITABLE | LARGE;
        r = memory_write(mem, pd_gpa + i * STASIS_PAGE_SIZE, pd, sizeof(pd));
    }
    return r < 0 ? r : memory_write(mem, pdpt_gpa, pdpt, sizeof(pdpt));
}

/* What a PC has at its reset vector. Linux with hardware-reduced ACPI and no EFI
 * reboots by jumping there in real mode and tries nothing else before. */
static int boot_write_bios_reset(struct memory *mem)
{
    static const uint8_t code[] = {
        0xba,
        (LAYOUT_ACPI_PM + 2) & 0xff,
        (LAYOUT_ACPI_PM + 2) >> 8, /* mov dx, reset register */
        0xb0,
        ACPI_PM_RESET, /* mov al, its value */
        0xee,          /* out dx, al */
        0xf4,          /* hlt */
        0xeb,
        0xfd, /* jmp to the hlt */
    };

    return memory_write(mem, LAYOUT_BIOS_RESET, code, sizeof(code));
}

static int boot_load_image(struct memory *mem, const struct boot_config *config,
                           struct boot_image *out, struct error *err)
{
    if (bzimage_is(config->kernel, config->kernel_bytes))
        return bzimage_load(mem, config->kernel, config->kernel_bytes, out, err);
    if (elf_is(config->kernel, config->kernel_bytes))
        return elf_load(mem, config->kernel, config->kernel_bytes, out, err);
    return boot_bad_kernel(err, "this is not a kernel for x86-64");
}

static int boot_write_structures(struct memory *mem, const struct boot_image *image,
                                 const struct boot_range *initrd)
{
    int r = boot_write_gdt(mem);

    if (r == 0)
        r = boot_write_bios_reset(mem);
    if (r < 0)
        return r;
    if (image->entry.protocol == BOOT_PVH)
        return boot_write_pvh_info(mem, initrd);
    r = boot_write_page_tables(mem);
    return r < 0 ? r : boot_write_zero_page(mem, image, initrd);
}

int boot_load(struct memory *mem, const struct boot_config *config, struct boot_entry *out,
              struct error *err)
{
    struct boot_image image;
    struct boot_range initrd;

    int r = boot_load_image(mem, config, &image, err);
    if (r < 0)
        return r;
    r = boot_write_cmdline(mem, config->cmdline == NULL ? "" : config->cmdline, image.cmdline_max,
                           err);
    if (r < 0)
        return r;
    r = boot_write_initrd(mem, config, &image, &initrd, err);
    if (r < 0)
        return r;
    r = acpi_build(mem, config->vcpus, config->virtio_slots, err);
    if (r < 0)
        return r;
    r = boot_write_structures(mem, &image, &initrd);
    if (r < 0)
        return error_errno(err, -r, "writing the boot structures");
    *out = image.entry;
    return 0;
}
