/* SPDX-License-Identifier: Apache-2.0 */
/* bzImage: The Linux/x86 Boot Protocol (Documentation/arch/x86/boot.rst). */
#include "base/bytes.h"
#include "vmm/boot/loader.h"
#include "vmm/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

#define BZIMAGE_SETUP_AT offsetof(struct boot_params, hdr)
#define BZIMAGE_MAGIC_AT 0x202    /* the header's length is counted from here */
#define BZIMAGE_MAGIC 0x53726448u /* "HdrS" */
#define BZIMAGE_BOOT_FLAG 0xaa55u
#define BZIMAGE_VERSION_MIN 0x020c /* the first with xloadflags: a 64-bit entry */
#define BZIMAGE_SECTOR 512u
#define BZIMAGE_ENTRY64 0x200u

bool bzimage_is(const void *kernel, size_t kernel_bytes)
{
    const uint8_t *bytes = kernel;

    return kernel_bytes >= BZIMAGE_MAGIC_AT + 6 &&
           load_le16(bytes + BZIMAGE_SETUP_AT + offsetof(struct setup_header, boot_flag)) ==
               BZIMAGE_BOOT_FLAG &&
           load_le32(bytes + BZIMAGE_MAGIC_AT) == BZIMAGE_MAGIC;
}

/* Copies the header out. Its end is given by the byte behind the jump's opcode;
 * fields an older kernel does not have read as zero. */
static int bzimage_read_setup(const uint8_t *bytes, size_t length, struct setup_header *out,
                              struct error *err)
{
    uint64_t end = BZIMAGE_MAGIC_AT + (uint64_t)bytes[BZIMAGE_MAGIC_AT - 1];

    if (end > length)
        return boot_bad_kernel(
            err, "the kernel is truncated: its header ends at byte %" PRIu64 " of %zu", end,
            length);
    *out = (struct setup_header){0};
    memcpy(out, bytes + BZIMAGE_SETUP_AT, min_u64(end - BZIMAGE_SETUP_AT, sizeof(*out)));
    return 0;
}

static int bzimage_check_setup(const struct setup_header *setup, struct error *err)
{
    if (setup->version < BZIMAGE_VERSION_MIN)
        return boot_bad_kernel(err, "the kernel speaks boot protocol %u.%02u, 2.12 is needed",
                               setup->version >> 8, setup->version & 0xffu);
    if (!(setup->loadflags & LOADED_HIGH))
        return boot_bad_kernel(err, "the kernel is a zImage, which loads below 1 MiB");
    if (!(setup->xloadflags & XLF_KERNEL_64))
        return boot_bad_kernel(err, "the kernel has no 64-bit entry point");
    return 0;
}

/* Where the protected-mode part lies in the file. */
static int bzimage_find_payload(const struct setup_header *setup, size_t length,
                                uint64_t *offset_out, uint64_t *size_out, struct error *err)
{
    /* 0 means 4, says the protocol, for the sake of very old kernels. */
    uint64_t sectors = setup->setup_sects == 0 ? 4 : setup->setup_sects;
    uint64_t offset = (sectors + 1) * BZIMAGE_SECTOR;
    uint64_t said = (uint64_t)setup->syssize * 16;

    if (offset >= length)
        return boot_bad_kernel(
            err, "the kernel is truncated: its code begins at byte %" PRIu64 " of %zu", offset,
            length);
    uint64_t size = length - offset;
    /* syssize is rounded up to 16 bytes. */
    if (size + 15 < said)
        return boot_bad_kernel(err,
                               "the kernel is truncated: it has %" PRIu64
                               " bytes of code, its header says %" PRIu64,
                               size, said);
    if (size <= BZIMAGE_ENTRY64)
        return boot_bad_kernel(err, "the kernel has only %" PRIu64 " bytes of code", size);
    *offset_out = offset;
    *size_out = size;
    return 0;
}

/* A relocatable kernel moves itself to its preferred address at the earliest, so
 * that is where it is put; others say no more than that they go to 1 MiB. */
static int bzimage_place(const struct setup_header *setup, uint64_t payload_bytes,
                         const struct memory *mem, uint64_t *gpa_out, uint64_t *end_out,
                         struct error *err)
{
    uint64_t gpa = setup->pref_address == 0 ? LAYOUT_KERNEL : setup->pref_address;
    uint64_t align = setup->kernel_alignment;
    uint64_t need = max_u64(setup->init_size, payload_bytes);
    uint64_t low_bytes = mem->regions[0].size_bytes;

    if (gpa < LAYOUT_KERNEL || gpa % 4096 != 0)
        return boot_bad_kernel(err, "the kernel wants to be at address %#" PRIx64, gpa);
    if (setup->relocatable_kernel && (align == 0 || (align & (align - 1)) != 0 || gpa % align != 0))
        return boot_bad_kernel(
            err, "the kernel wants to be at address %#" PRIx64 ", aligned to %#" PRIx64, gpa,
            align);
    if (gpa >= LAYOUT_HOLE_START || need > LAYOUT_HOLE_START - gpa)
        return boot_bad_kernel(err, "the kernel needs %" PRIu64 " MiB at address %#" PRIx64,
                               need >> 20, gpa);
    if (!range_fits(gpa, need, low_bytes)) {
        int r = error_set(err, STATUS_USAGE, ENOMEM,
                          "the kernel does not fit into %" PRIu64 " MiB of memory",
                          mem->size_bytes >> 20);
        error_hint(err, "this kernel needs at least %" PRIu64 " MiB to unpack itself",
                   div_round_up(gpa + need, 1 << 20));
        return r;
    }
    *gpa_out = gpa;
    *end_out = gpa + need;
    return 0;
}

/* The loader's share of the header. */
static void bzimage_fill_setup(struct setup_header *setup, uint64_t gpa)
{
    setup->type_of_loader = 0xff;
    setup->ext_loader_type = 0;
    setup->ext_loader_ver = 0;
    setup->vid_mode = 0xffff; /* normal */
    setup->loadflags &= (__u8) ~(CAN_USE_HEAP | QUIET_FLAG);
    setup->heap_end_ptr = 0;
    setup->code32_start = (uint32_t)gpa;
    setup->setup_data = 0;
}

int bzimage_load(struct memory *mem, const void *kernel, size_t kernel_bytes,
                 struct boot_image *out, struct error *err)
{
    const uint8_t *bytes = kernel;
    struct boot_image image = {.entry.protocol = BOOT_LINUX64};
    uint64_t offset = 0, size = 0, gpa = 0;

    int r = bzimage_read_setup(bytes, kernel_bytes, &image.setup, err);
    if (r < 0)
        return r;
    r = bzimage_check_setup(&image.setup, err);
    if (r < 0)
        return r;
    r = bzimage_find_payload(&image.setup, kernel_bytes, &offset, &size, err);
    if (r < 0)
        return r;
    r = bzimage_place(&image.setup, size, mem, &gpa, &image.end_gpa, err);
    if (r < 0)
        return r;
    r = memory_write(mem, gpa, bytes + offset, size);
    if (r < 0)
        return error_errno(err, -r, "loading the kernel");
    bzimage_fill_setup(&image.setup, gpa);
    image.entry.entry_gpa = gpa + BZIMAGE_ENTRY64;
    image.initrd_limit_gpa = (uint64_t)image.setup.initrd_addr_max + 1;
    image.cmdline_max = image.setup.cmdline_size == 0 ? 255 : image.setup.cmdline_size;
    *out = image;
    return 0;
}
