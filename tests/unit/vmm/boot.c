/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "tests/unit/vmm/kernel_fixture.h"
#include "vmm/boot/boot.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"

#include <errno.h>

#define MIB (1ull << 20)
#define MEMORY (64 * MIB)

struct fixture {
    struct kernel_file kernel;
    struct memory *mem;
    struct boot_config config;
    struct boot_entry entry;
    struct error err;
};

static void give_memory(struct fixture *f, uint64_t size)
{
    memory_free(f->mem);
    f->mem = NULL;
    assert_int_equal(memory_create(size, &f->mem, NULL), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->config = (struct boot_config){
        .kernel = f->kernel.bytes,
        .cmdline = "console=ttyS0 quiet",
        .vcpus = 2,
        .virtio_slots = 0x0003,
    };
    give_memory(f, MEMORY);
    bzimage_make(&f->kernel);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memory_free(f->mem);
    free(f);
    return 0;
}

static int load(struct fixture *f)
{
    f->config.kernel_bytes = f->kernel.length;
    f->err = ERROR_INIT;
    return boot_load(f->mem, &f->config, &f->entry, &f->err);
}

static void assert_loads(struct fixture *f)
{
    int r = load(f);

    if (r < 0)
        fail_msg("%s", f->err.message);
}

static void assert_refused(struct fixture *f, int errnum)
{
    int r = load(f);

    if (r != -errnum)
        fail_msg("returned %d, not %d: %s", r, -errnum, f->err.message);
    assert_int_equal(f->err.status, STATUS_USAGE);
    assert_string_not_equal(f->err.message, "");
    assert_string_not_equal(f->err.hint, "");
}

/* Refused as not being a kernel this machine can boot. */
static void assert_bad(struct fixture *f)
{
    assert_refused(f, ENOEXEC);
}

static const struct boot_params *zero_page(struct fixture *f)
{
    return memory_at(f->mem, LAYOUT_ZERO_PAGE, sizeof(struct boot_params));
}

/* ---- bzImage ---- */

static void a_bzimage_goes_to_the_address_it_prefers(void **state)
{
    struct fixture *f = *state;

    assert_loads(f);
    assert_int_equal(f->entry.protocol, BOOT_LINUX64);
    assert_int_equal(f->entry.entry_gpa, BZIMAGE_PREFERS + 0x200);
    assert_memory_equal(memory_at(f->mem, BZIMAGE_PREFERS, BZIMAGE_CODE_SIZE),
                        f->kernel.bytes + BZIMAGE_CODE_AT, BZIMAGE_CODE_SIZE);
}

static void a_bzimage_without_preference_goes_to_1_mib(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->pref_address = 0;
    bzimage_setup(&f->kernel)->relocatable_kernel = 0;
    assert_loads(f);
    assert_int_equal(f->entry.entry_gpa, MIB + 0x200);
}

static void its_setup_header_is_passed_on_with_the_loaders_share(void **state)
{
    struct fixture *f = *state;

    assert_loads(f);
    const struct setup_header *setup = &zero_page(f)->hdr;
    assert_int_equal(setup->header, 0x53726448);
    assert_int_equal(setup->root_flags, 1);
    assert_int_equal(setup->init_size, BZIMAGE_NEEDS);
    assert_int_equal(setup->type_of_loader, 0xff);
    assert_int_equal(setup->vid_mode, 0xffff);
    assert_int_equal(setup->loadflags, LOADED_HIGH);
    assert_int_equal(setup->code32_start, BZIMAGE_PREFERS);
    assert_int_equal(setup->cmd_line_ptr, LAYOUT_CMDLINE);
    assert_int_equal(setup->setup_data, 0);
    assert_int_equal(zero_page(f)->acpi_rsdp_addr, LAYOUT_ACPI);
    assert_int_equal(zero_page(f)->sentinel, 0);
}

static void fields_behind_the_headers_end_are_not_taken(void **state)
{
    struct fixture *f = *state;

    /* The header ends before handover_offset. */
    bzimage_setup(&f->kernel)->jump = (0x264 - 0x202) << 8 | 0xeb;
    bzimage_setup(&f->kernel)->handover_offset = 0x55555555;
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.handover_offset, 0);
    assert_int_equal(zero_page(f)->hdr.init_size, BZIMAGE_NEEDS);
}

static void zero_setup_sectors_mean_four(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->setup_sects = 0;
    bzimage_setup(&f->kernel)->syssize = 0;
    f->kernel.bytes[5 * 512] = 0x77;
    assert_loads(f);
    assert_int_equal(*(uint8_t *)memory_at(f->mem, BZIMAGE_PREFERS, 1), 0x77);
}

static void the_command_line_is_in_memory_with_its_end(void **state)
{
    struct fixture *f = *state;

    assert_loads(f);
    assert_string_equal(memory_at(f->mem, LAYOUT_CMDLINE, 64), "console=ttyS0 quiet");
}

static void a_command_line_may_be_missing(void **state)
{
    struct fixture *f = *state;

    f->config.cmdline = NULL;
    assert_loads(f);
    assert_string_equal(memory_at(f->mem, LAYOUT_CMDLINE, 64), "");
}

static void a_command_line_is_taken_up_to_the_kernels_limit(void **state)
{
    struct fixture *f = *state;
    char line[2049];

    memset(line, 'x', sizeof(line));
    line[2047] = '\0';
    f->config.cmdline = line;
    assert_loads(f);
    line[2047] = 'x';
    line[2048] = '\0';
    assert_refused(f, E2BIG);
}

static void no_kernel_is_given_a_line_that_reaches_the_ebda(void **state)
{
    struct fixture *f = *state;
    size_t length = LAYOUT_EBDA - LAYOUT_CMDLINE;
    _cleanup_free_ char *line = malloc(length + 1);

    bzimage_setup(&f->kernel)->cmdline_size = UINT32_MAX;
    memset(line, 'x', length);
    line[length] = '\0';
    f->config.cmdline = line;
    assert_refused(f, E2BIG);
    line[length - 1] = '\0';
    assert_loads(f);
}

static void an_initrd_ends_at_the_top_of_memory(void **state)
{
    struct fixture *f = *state;

    f->config.initrd = "an initrd";
    f->config.initrd_bytes = 9;
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.ramdisk_image, MEMORY - 4096);
    assert_int_equal(zero_page(f)->hdr.ramdisk_size, 9);
    assert_memory_equal(memory_at(f->mem, MEMORY - 4096, 9), "an initrd", 9);
}

static void without_an_initrd_none_is_announced(void **state)
{
    struct fixture *f = *state;

    f->config.initrd = "";
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.ramdisk_image, 0);
    assert_int_equal(zero_page(f)->hdr.ramdisk_size, 0);
}

static void an_initrd_stays_below_the_kernels_limit(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->initrd_addr_max = 40 * MIB - 1;
    f->config.initrd = "an initrd";
    f->config.initrd_bytes = 9;
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.ramdisk_image, 40 * MIB - 4096);
}

static void an_initrd_stays_below_the_hole(void **state)
{
    struct fixture *f = *state;

    give_memory(f, LAYOUT_HOLE_START + 64 * MIB);
    bzimage_setup(&f->kernel)->initrd_addr_max = UINT32_MAX;
    f->config.initrd = "an initrd";
    f->config.initrd_bytes = 9;
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.ramdisk_image, LAYOUT_HOLE_START - 4096);
}

static void an_initrd_that_touches_the_kernel_is_refused(void **state)
{
    struct fixture *f = *state;
    size_t room = MEMORY - BZIMAGE_PREFERS - BZIMAGE_NEEDS;
    _cleanup_free_ uint8_t *initrd = calloc(1, room + 1);

    f->config.initrd = initrd;
    f->config.initrd_bytes = room + 1;
    assert_refused(f, ENOMEM);
    f->config.initrd_bytes = room;
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.ramdisk_image, BZIMAGE_PREFERS + BZIMAGE_NEEDS);
}

static void an_initrd_larger_than_memory_is_refused(void **state)
{
    struct fixture *f = *state;

    /* Never read: it is refused by its size. */
    f->config.initrd = "";
    f->config.initrd_bytes = MEMORY + 1;
    assert_refused(f, ENOMEM);
    f->config.initrd_bytes = SIZE_MAX;
    assert_refused(f, ENOMEM);
}

static void assert_e820(struct fixture *f, unsigned n, uint64_t start, uint64_t end, uint32_t type)
{
    const struct boot_e820_entry *entry = &zero_page(f)->e820_table[n];

    assert_int_equal(entry->addr, start);
    assert_int_equal(entry->addr + entry->size, end);
    assert_int_equal(entry->type, type);
}

static void the_memory_map_covers_low_memory(void **state)
{
    struct fixture *f = *state;

    assert_loads(f);
    assert_int_equal(zero_page(f)->e820_entries, 4);
    assert_e820(f, 0, 0, LAYOUT_EBDA, 1);
    assert_e820(f, 1, LAYOUT_EBDA, MIB, 2);
    assert_e820(f, 2, MIB, MEMORY, 1);
    assert_e820(f, 3, LAYOUT_IDENTITY_MAP, LAYOUT_HIGH_START, 2);
}

static void the_memory_map_leaves_the_hole_out(void **state)
{
    struct fixture *f = *state;

    give_memory(f, LAYOUT_HOLE_START + 64 * MIB);
    assert_loads(f);
    assert_int_equal(zero_page(f)->e820_entries, 5);
    assert_e820(f, 2, MIB, LAYOUT_HOLE_START, 1);
    assert_e820(f, 4, LAYOUT_HIGH_START, LAYOUT_HIGH_START + 64 * MIB, 1);
}

static void what_is_not_a_kernel_is_refused(void **state)
{
    struct fixture *f = *state;

    memset(f->kernel.bytes, 'x', sizeof(f->kernel.bytes));
    f->kernel.length = 10000;
    assert_bad(f);
    f->kernel.length = 0;
    assert_bad(f);
}

static void a_truncated_bzimage_is_refused_wherever_it_ends(void **state)
{
    struct fixture *f = *state;
    size_t whole = f->kernel.length;

    for (f->kernel.length = 0; f->kernel.length < whole - 15; f->kernel.length++) {
        /* Exactly as long as it says, so that a checker of addresses sees reads behind. */
        _cleanup_free_ uint8_t *copy = malloc(f->kernel.length);
        memcpy(copy, f->kernel.bytes, f->kernel.length);
        f->config.kernel = copy;
        assert_bad(f);
    }
}

static void a_header_that_reaches_behind_the_file_is_refused(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->jump = 0xffeb;
    f->kernel.length = 0x300;
    assert_bad(f);
}

static void old_protocols_are_refused(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->version = 0x020b;
    assert_bad(f);
}

static void a_zimage_is_refused(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->loadflags = 0;
    assert_bad(f);
}

static void a_kernel_without_64_bit_entry_is_refused(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->xloadflags = 0;
    assert_bad(f);
}

static void a_kernel_of_less_than_its_entry_is_refused(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->syssize = 0;
    f->kernel.length = BZIMAGE_CODE_AT + 0x200;
    assert_bad(f);
}

static void a_kernel_that_cannot_unpack_in_memory_is_refused_with_what_it_needs(void **state)
{
    struct fixture *f = *state;

    give_memory(f, 16 * MIB);
    assert_refused(f, ENOMEM);
    assert_non_null(strstr(f->err.hint, "17 MiB"));
    give_memory(f, 17 * MIB);
    assert_loads(f);
}

static void a_kernel_that_would_reach_into_the_hole_is_refused(void **state)
{
    struct fixture *f = *state;

    bzimage_setup(&f->kernel)->init_size = UINT32_MAX;
    assert_bad(f);
}

static void addresses_no_kernel_can_want_are_refused(void **state)
{
    static const uint64_t addresses[] = {
        1,          4096,
        MIB - 4096, BZIMAGE_PREFERS + 1,
        5 * MIB,    LAYOUT_HOLE_START,
        1ull << 40, UINT64_MAX & ~0x1fffffull,
        1ull << 63, LAYOUT_HOLE_START - 2 * MIB + 4096,
        UINT64_MAX,
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        bzimage_setup(&f->kernel)->pref_address = addresses[i];
        assert_bad(f);
    }
}

static void alignments_that_are_none_are_refused(void **state)
{
    static const uint32_t alignments[] = {0, 3, 0x200001, 0x80000000};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        bzimage_setup(&f->kernel)->kernel_alignment = alignments[i];
        assert_bad(f);
    }
}

static void a_machine_without_vcpus_is_refused(void **state)
{
    struct fixture *f = *state;

    f->config.vcpus = 0;
    assert_refused(f, EINVAL);
    f->config.vcpus = 255;
    assert_refused(f, EINVAL);
}

/* ---- ELF ---- */

static void make_elf(struct fixture *f)
{
    elf64_make(&f->kernel, 2 * MIB + 16);
    elf_segment(&f->kernel, 2 * MIB, 1000, 1000);
    elf_segment(&f->kernel, 3 * MIB, 100, 5000);
}

static void an_elf_kernel_is_loaded_by_segments(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    assert_loads(f);
    assert_int_equal(f->entry.protocol, BOOT_LINUX64);
    assert_int_equal(f->entry.entry_gpa, 2 * MIB + 16);
    const char *text = memory_at(f->mem, 2 * MIB, 1001);
    const char *data = memory_at(f->mem, 3 * MIB, 101);
    assert_true(text[0] == 'A' && text[999] == 'A' && text[1000] == 0);
    assert_true(data[0] == 'B' && data[99] == 'B' && data[100] == 0);
}

static void a_vmlinux_gets_a_zero_page_of_its_own(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    f->config.initrd = "an initrd";
    f->config.initrd_bytes = 9;
    assert_loads(f);
    assert_int_equal(zero_page(f)->hdr.header, 0x53726448);
    assert_int_equal(zero_page(f)->hdr.type_of_loader, 0xff);
    assert_int_equal(zero_page(f)->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
    assert_int_equal(zero_page(f)->hdr.ramdisk_image, MEMORY - 4096);
    assert_int_equal(zero_page(f)->e820_entries, 4);
}

static void an_elf_kernels_zeroed_part_counts_against_the_initrd(void **state)
{
    struct fixture *f = *state;
    size_t room = MEMORY - 3 * MIB - 8192; /* 5000 bytes end in the second page */
    _cleanup_free_ uint8_t *initrd = calloc(1, room + 1);

    make_elf(f);
    f->config.initrd = initrd;
    f->config.initrd_bytes = room + 1;
    assert_refused(f, ENOMEM);
    f->config.initrd_bytes = room;
    assert_loads(f);
}

struct pvh_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, cmdline, rsdp, memmap;
    uint32_t memmap_count, reserved;
};

static void a_pvh_note_chooses_the_pvh_entry(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    elf_pvh_note(&f->kernel, 2 * MIB + 32);
    f->config.initrd = "an initrd";
    f->config.initrd_bytes = 9;
    assert_loads(f);
    assert_int_equal(f->entry.protocol, BOOT_PVH);
    assert_int_equal(f->entry.entry_gpa, 2 * MIB + 32);

    const struct pvh_info *info = memory_at(f->mem, LAYOUT_PVH_START_INFO, sizeof(*info));
    assert_int_equal(info->magic, 0x336ec578);
    assert_int_equal(info->version, 1);
    assert_string_equal(memory_at(f->mem, info->cmdline, 64), "console=ttyS0 quiet");
    assert_int_equal(info->rsdp, LAYOUT_ACPI);
    assert_int_equal(info->module_count, 1);
    const uint64_t *module = memory_at(f->mem, info->modules, 32);
    assert_int_equal(module[0], MEMORY - 4096);
    assert_int_equal(module[1], 9);
    assert_int_equal(info->memmap_count, 4);
    const uint64_t *ram = memory_at(f->mem, info->memmap + 2 * 24, 24);
    assert_int_equal(ram[0], MIB);
    assert_int_equal(ram[1], MEMORY - MIB);
    assert_int_equal(ram[2], 1);
}

static void a_32_bit_elf_boots_by_pvh(void **state)
{
    struct fixture *f = *state;

    elf32_make(&f->kernel, 0);
    elf_segment(&f->kernel, 1 * MIB, 100, 200);
    elf_pvh_note(&f->kernel, 1 * MIB + 4);
    assert_loads(f);
    assert_int_equal(f->entry.protocol, BOOT_PVH);
    assert_int_equal(f->entry.entry_gpa, 1 * MIB + 4);
    const struct pvh_info *info = memory_at(f->mem, LAYOUT_PVH_START_INFO, sizeof(*info));
    assert_int_equal(info->module_count, 0);
}

static void a_32_bit_elf_without_note_is_refused(void **state)
{
    struct fixture *f = *state;

    elf32_make(&f->kernel, 1 * MIB);
    elf_segment(&f->kernel, 1 * MIB, 100, 200);
    assert_bad(f);
}

static void the_pvh_note_is_found_behind_others(void **state)
{
    static const uint8_t notes[] = {
        /* another name's type 18 */
        4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'G', 'N', 'U', 0, 1, 2, 3, 4,
        /* another type, 3 bytes padded */
        4, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 'X', 'e', 'n', 0, 'a', 'b', 0, 0,
        /* 8 bytes wide: 2 MiB + 0x10 */
        4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0, 0x10, 0, 0x20, 0, 0, 0, 0, 0};
    struct fixture *f = *state;

    make_elf(f);
    elf_notes(&f->kernel, notes, sizeof(notes), 4);
    assert_loads(f);
    assert_int_equal(f->entry.protocol, BOOT_PVH);
    assert_int_equal(f->entry.entry_gpa, 2 * MIB + 0x10);
}

static void notes_that_lie_about_their_sizes_are_passed_over(void **state)
{
    static const uint8_t sizes[][8] = {
        {0xff, 0xff, 0xff, 0xff, 4, 0, 0, 0},
        {4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
        {4, 0, 0, 0, 5, 0, 0, 0},
        {4, 0, 0, 0, 0, 0, 0, 0},
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t note[20] = {[8] = 18, [12] = 'X', 'e', 'n', 0, 0, 0, 0x20, 0};

        memcpy(note, sizes[i], 8);
        make_elf(f);
        elf_notes(&f->kernel, note, sizeof(note), 4);
        assert_loads(f);
        assert_int_equal(f->entry.protocol, BOOT_LINUX64);
    }
}

static void notes_outside_the_file_are_passed_over(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    elf_pvh_note(&f->kernel, 2 * MIB);
    elf64_phdr(&f->kernel, 2)->p_offset = UINT64_MAX - 4;
    assert_loads(f);
    assert_int_equal(f->entry.protocol, BOOT_LINUX64);
}

static void an_entry_outside_of_the_loaded_bytes_is_refused(void **state)
{
    static const uint64_t entries[] = {0,          2 * MIB - 1,       2 * MIB + 1000, 3 * MIB + 100,
                                       UINT64_MAX, 0xffffffff81000000};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        make_elf(f);
        elf64_header(&f->kernel)->e_entry = entries[i];
        assert_bad(f);
    }
}

static void segments_that_overlap_are_refused(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    elf_segment(&f->kernel, 3 * MIB + 4999, 1, 1);
    assert_bad(f);
    make_elf(f);
    elf_segment(&f->kernel, 3 * MIB + 5000, 1, 1);
    assert_loads(f);
}

static void segments_that_wrap_or_leave_memory_are_refused(void **state)
{
    static const struct {
        uint64_t paddr, memsz;
        int errnum;
    } bad[] = {
        {UINT64_MAX - 99, 200, ENOEXEC},
        {4 * MIB, UINT64_MAX, ENOEXEC},
        {4 * MIB, UINT64_MAX - 4 * MIB + 1, ENOEXEC},
        {LAYOUT_HIGH_START, 200, ENOEXEC},
        {0, 200, ENOEXEC},
        {MIB - 1, 200, ENOEXEC},
        {MEMORY - 100, 200, ENOMEM},
        {MEMORY, 200, ENOMEM},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        make_elf(f);
        elf_segment(&f->kernel, bad[i].paddr, 100, bad[i].memsz);
        assert_refused(f, bad[i].errnum);
    }
}

static void segments_whose_bytes_are_not_in_the_file_are_refused(void **state)
{
    static const struct {
        uint64_t offset, filesz;
    } bad[] = {
        {0, KERNEL_FILE_MAX}, {KERNEL_FILE_MAX, 1},  {UINT64_MAX, 1},
        {1, UINT64_MAX},      {UINT64_MAX - 10, 20},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        make_elf(f);
        elf64_phdr(&f->kernel, 1)->p_offset = bad[i].offset;
        elf64_phdr(&f->kernel, 1)->p_filesz = bad[i].filesz;
        assert_bad(f);
    }
}

static void a_segment_with_more_bytes_than_memory_is_refused(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    elf64_phdr(&f->kernel, 1)->p_memsz = 99;
    assert_bad(f);
}

static void program_headers_must_be_what_and_where_they_say(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    elf64_header(&f->kernel)->e_phnum = 0;
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_phnum = 0xffff;
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_phentsize = sizeof(Elf32_Phdr);
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_phoff = UINT64_MAX - 8;
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_phoff = f->kernel.length - 1;
    assert_bad(f);
}

static void elf_files_for_other_machines_are_refused(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    elf64_header(&f->kernel)->e_machine = EM_AARCH64;
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_type = ET_DYN;
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_ident[EI_DATA] = ELFDATA2MSB;
    assert_bad(f);
    make_elf(f);
    elf64_header(&f->kernel)->e_ident[EI_CLASS] = 3;
    assert_bad(f);
}

static void a_truncated_elf_is_refused_wherever_it_ends(void **state)
{
    struct fixture *f = *state;

    make_elf(f);
    size_t whole = f->kernel.length;
    for (f->kernel.length = 0; f->kernel.length < whole; f->kernel.length++) {
        _cleanup_free_ uint8_t *copy = malloc(f->kernel.length);
        memcpy(copy, f->kernel.bytes, f->kernel.length);
        f->config.kernel = copy;
        assert_bad(f);
    }
}

/* ---- entering ---- */

static void long_mode_is_entered_as_linux_wants_it(void **state)
{
    const struct boot_entry entry = {BOOT_LINUX64, 0x1000200};
    struct kvm_regs regs;
    struct kvm_sregs sregs = {.apic_base = 0xfee00900};

    (void)state;
    memset(&regs, 0xff, sizeof(regs));
    boot_set_registers(&entry, &regs, &sregs);
    assert_int_equal(regs.rip, 0x1000200);
    assert_int_equal(regs.rsi, LAYOUT_ZERO_PAGE);
    assert_int_equal(regs.rsp, LAYOUT_BOOT_STACK);
    assert_int_equal(regs.rflags, 2);
    assert_int_equal(regs.rax | regs.rbx | regs.rdi | regs.r15, 0);
    assert_int_equal(sregs.cs.selector, 0x10);
    assert_true(sregs.cs.l == 1 && sregs.cs.db == 0);
    assert_int_equal(sregs.ds.selector, 0x18);
    assert_int_equal(sregs.cr0, 0x80000011);
    assert_int_equal(sregs.cr3, LAYOUT_PAGE_TABLES);
    assert_int_equal(sregs.cr4, 0x20);
    assert_int_equal(sregs.efer, 0x500);
    assert_int_equal(sregs.apic_base, 0xfee00900);
}

static void pvh_is_entered_in_flat_32_bit_mode(void **state)
{
    const struct boot_entry entry = {BOOT_PVH, 0x100000};
    struct kvm_regs regs;
    struct kvm_sregs sregs = {.cr4 = 0x20, .efer = 0x500};

    (void)state;
    boot_set_registers(&entry, &regs, &sregs);
    assert_int_equal(regs.rip, 0x100000);
    assert_int_equal(regs.rbx, LAYOUT_PVH_START_INFO);
    assert_int_equal(regs.rflags, 2);
    assert_true(sregs.cs.l == 0 && sregs.cs.db == 1 && sregs.cs.limit == 0xffffffff);
    assert_int_equal(sregs.cr0, 0x11);
    assert_int_equal(sregs.cr4, 0);
    assert_int_equal(sregs.efer, 0);
}

/* Reloading a segment register must give what it holds already. */
static void assert_descriptor(struct fixture *f, const struct kvm_segment *segment)
{
    uint64_t d;

    assert_int_equal(memory_read(f->mem, LAYOUT_GDT + segment->selector, &d, sizeof(d)), 0);
    assert_int_equal(d >> 40 & 0xf, segment->type);
    assert_int_equal(d >> 44 & 1, segment->s);
    assert_int_equal(d >> 47 & 1, segment->present);
    assert_int_equal(d >> 53 & 1, segment->l);
    assert_int_equal(d >> 54 & 1, segment->db);
    assert_int_equal(d >> 55 & 1, segment->g);
    uint64_t limit = (d & 0xffff) | (d >> 32 & 0xf0000);
    assert_int_equal(segment->g ? limit << 12 | 0xfff : limit, segment->limit);
}

static void segment_registers_agree_with_the_gdt(void **state)
{
    struct fixture *f = *state;

    assert_loads(f);
    for (unsigned protocol = BOOT_LINUX64; protocol <= BOOT_PVH; protocol++) {
        const struct boot_entry entry = {protocol, 0};
        struct kvm_regs regs;
        struct kvm_sregs sregs = {0};

        boot_set_registers(&entry, &regs, &sregs);
        assert_int_equal(sregs.gdt.base, LAYOUT_GDT);
        assert_in_range(sregs.tr.selector + 15, 0, sregs.gdt.limit);
        assert_descriptor(f, &sregs.cs);
        assert_descriptor(f, &sregs.ds);
        assert_descriptor(f, &sregs.tr);
    }
}

/* Walks the page tables as the processor would. */
static uint64_t translate(struct fixture *f, uint64_t address)
{
    uint64_t entry = LAYOUT_PAGE_TABLES;

    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        assert_int_equal(memory_read(f->mem, (entry & ~0xfffull) + (address >> shift & 0x1ff) * 8,
                                     &entry, sizeof(entry)),
                         0);
        assert_int_equal(entry & 3, 3);
    }
    assert_true(entry & 0x80);
    return (entry & ~0x1fffffull) + (address & 0x1fffff);
}

static void the_first_4_gib_are_mapped_to_themselves(void **state)
{
    struct fixture *f = *state;

    assert_loads(f);
    for (uint64_t address = 0; address < LAYOUT_HIGH_START; address += 2 * MIB)
        assert_int_equal(translate(f, address + 0x1234), address + 0x1234);
}

static void jumping_to_the_bios_resets(void **state)
{
    /* mov dx, reset register; mov al, its value; out dx, al */
    const uint8_t code[] = {
        0xba, (LAYOUT_ACPI_PM + 2) & 0xff, (LAYOUT_ACPI_PM + 2) >> 8, 0xb0, ACPI_PM_RESET, 0xee};
    struct fixture *f = *state;

    assert_loads(f);
    assert_memory_equal(memory_at(f->mem, LAYOUT_BIOS_RESET, sizeof(code)), code, sizeof(code));
    assert_in_range(LAYOUT_BIOS_RESET, LAYOUT_ACPI_END, LAYOUT_KERNEL - 16);
}

static void all_that_was_written_is_noted_as_dirty(void **state)
{
    struct fixture *f = *state;
    static const uint64_t gpas[] = {LAYOUT_GDT,     LAYOUT_ZERO_PAGE, LAYOUT_PAGE_TABLES + 0x5000,
                                    LAYOUT_CMDLINE, LAYOUT_ACPI,      BZIMAGE_PREFERS + 4096};

    assert_loads(f);
    for (size_t i = 0; i < ARRAY_LEN(gpas); i++) {
        uint64_t page = memory_page_of(f->mem, gpas[i]);

        assert_true(f->mem->device_dirty[page / 64] >> (page % 64) & 1);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_bzimage_goes_to_the_address_it_prefers),
        TEST(a_bzimage_without_preference_goes_to_1_mib),
        TEST(its_setup_header_is_passed_on_with_the_loaders_share),
        TEST(fields_behind_the_headers_end_are_not_taken),
        TEST(zero_setup_sectors_mean_four),
        TEST(the_command_line_is_in_memory_with_its_end),
        TEST(a_command_line_may_be_missing),
        TEST(a_command_line_is_taken_up_to_the_kernels_limit),
        TEST(no_kernel_is_given_a_line_that_reaches_the_ebda),
        TEST(an_initrd_ends_at_the_top_of_memory),
        TEST(without_an_initrd_none_is_announced),
        TEST(an_initrd_stays_below_the_kernels_limit),
        TEST(an_initrd_stays_below_the_hole),
        TEST(an_initrd_that_touches_the_kernel_is_refused),
        TEST(an_initrd_larger_than_memory_is_refused),
        TEST(the_memory_map_covers_low_memory),
        TEST(the_memory_map_leaves_the_hole_out),
        TEST(what_is_not_a_kernel_is_refused),
        TEST(a_truncated_bzimage_is_refused_wherever_it_ends),
        TEST(a_header_that_reaches_behind_the_file_is_refused),
        TEST(old_protocols_are_refused),
        TEST(a_zimage_is_refused),
        TEST(a_kernel_without_64_bit_entry_is_refused),
        TEST(a_kernel_of_less_than_its_entry_is_refused),
        TEST(a_kernel_that_cannot_unpack_in_memory_is_refused_with_what_it_needs),
        TEST(a_kernel_that_would_reach_into_the_hole_is_refused),
        TEST(addresses_no_kernel_can_want_are_refused),
        TEST(alignments_that_are_none_are_refused),
        TEST(a_machine_without_vcpus_is_refused),
        TEST(an_elf_kernel_is_loaded_by_segments),
        TEST(a_vmlinux_gets_a_zero_page_of_its_own),
        TEST(an_elf_kernels_zeroed_part_counts_against_the_initrd),
        TEST(a_pvh_note_chooses_the_pvh_entry),
        TEST(a_32_bit_elf_boots_by_pvh),
        TEST(a_32_bit_elf_without_note_is_refused),
        TEST(the_pvh_note_is_found_behind_others),
        TEST(notes_that_lie_about_their_sizes_are_passed_over),
        TEST(notes_outside_the_file_are_passed_over),
        TEST(an_entry_outside_of_the_loaded_bytes_is_refused),
        TEST(segments_that_overlap_are_refused),
        TEST(segments_that_wrap_or_leave_memory_are_refused),
        TEST(segments_whose_bytes_are_not_in_the_file_are_refused),
        TEST(a_segment_with_more_bytes_than_memory_is_refused),
        TEST(program_headers_must_be_what_and_where_they_say),
        TEST(elf_files_for_other_machines_are_refused),
        TEST(a_truncated_elf_is_refused_wherever_it_ends),
        cmocka_unit_test(long_mode_is_entered_as_linux_wants_it),
        cmocka_unit_test(pvh_is_entered_in_flat_32_bit_mode),
        TEST(segment_registers_agree_with_the_gdt),
        TEST(the_first_4_gib_are_mapped_to_themselves),
        TEST(jumping_to_the_bios_resets),
        TEST(all_that_was_written_is_noted_as_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
