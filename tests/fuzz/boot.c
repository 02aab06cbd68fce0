/* SPDX-License-Identifier: Apache-2.0 */
/* The input is a kernel; every third byte of its length decides how much initrd
 * comes with it. */
#include "fuzz.h"

#include "vmm/boot/boot.h"
#include "vmm/layout.h"

#include <asm/bootparam.h>
#include <errno.h>

#define MEMORY (32ull << 20)
#define INITRD_SIZE (8u << 20)

static uint8_t initrd[INITRD_SIZE];

static void check_zero_page(struct memory *mem, size_t initrd_bytes)
{
    const struct boot_params *params = memory_at(mem, LAYOUT_ZERO_PAGE, sizeof(*params));

    MUST(params->hdr.ramdisk_size == initrd_bytes);
    MUST(memory_at(mem, params->hdr.ramdisk_image, initrd_bytes) != NULL);
    MUST(initrd_bytes == 0 || params->hdr.ramdisk_image >= LAYOUT_KERNEL);
    MUST(params->hdr.setup_data == 0);
    MUST(params->e820_entries == 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct boot_config config = {
        .kernel = data,
        .kernel_bytes = size,
        .initrd = initrd,
        .initrd_bytes = size % 3 == 0 ? 0 : INITRD_SIZE >> (size % 3),
        .cmdline = "console=ttyS0",
        .vcpus = 1,
        .virtio_slots = 1,
    };
    struct memory *mem = NULL;
    struct error err = ERROR_INIT;
    struct boot_entry entry;

    MUST(memory_create(MEMORY, &mem, NULL) == 0);
    int r = boot_load(mem, &config, &entry, &err);
    MUST(r == 0 || r == -ENOEXEC || r == -ENOMEM || r == -E2BIG);
    if (r < 0) {
        MUST(err.status == STATUS_USAGE && err.message[0] != '\0' && err.hint[0] != '\0');
    } else {
        MUST(entry.entry_gpa >= LAYOUT_KERNEL && entry.entry_gpa < MEMORY);
        if (entry.protocol == BOOT_LINUX64)
            check_zero_page(mem, config.initrd_bytes);
    }
    memory_free(mem);
    return 0;
}
