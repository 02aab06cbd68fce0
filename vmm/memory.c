/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/memory.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "imgfmt/page.h"
#include "vmm/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

DEFINE_CLEANUP(struct memory, memory_free)

static int memory_check_size(uint64_t size_bytes, struct error *err)
{
    if (size_bytes % STASIS_PAGE_SIZE == 0 && size_bytes >= LAYOUT_MEMORY_MIN &&
        size_bytes <= LAYOUT_MEMORY_MAX)
        return 0;
    int r = error_set(err, STATUS_USAGE, EINVAL,
                      "a machine cannot have %" PRIu64 " bytes of memory", size_bytes);
    error_hint(err, "give a multiple of 4 KiB from %llu MiB to %llu GiB", LAYOUT_MEMORY_MIN >> 20,
               LAYOUT_MEMORY_MAX >> 30);
    return r;
}

static void memory_lay_out(struct memory *mem)
{
    uint64_t low = min_u64(mem->size_bytes, LAYOUT_HOLE_START);

    mem->regions[0] = (struct memory_region){.gpa = 0, .size_bytes = low, .hva = mem->hva};
    mem->region_count = 1;
    if (low == mem->size_bytes)
        return;
    mem->regions[1] = (struct memory_region){
        .gpa = LAYOUT_HIGH_START,
        .size_bytes = mem->size_bytes - low,
        .hva = mem->hva + low,
        .first_page = low / STASIS_PAGE_SIZE,
    };
    mem->region_count = 2;
}

/* Of this process, as long as it lives. */
static int pagemap_fd = -1;

void memory_open_pagemap(void)
{
    if (pagemap_fd < 0)
        pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

int memory_create(uint64_t size_bytes, struct memory **out, struct error *err)
{
    int r = memory_check_size(size_bytes, err);
    if (r < 0)
        return r;
    _cleanup_(memory_freep) struct memory *mem = calloc(1, sizeof(*mem));
    if (mem == NULL)
        return error_errno(err, ENOMEM, "making guest memory");
    memory_open_pagemap();
    mem->pagemap_fd = pagemap_fd;
    mem->dirty_words = div_round_up(size_bytes / STASIS_PAGE_SIZE, 64);
    mem->device_dirty = calloc(mem->dirty_words, sizeof(uint64_t));
    if (mem->device_dirty == NULL)
        return error_errno(err, ENOMEM, "making guest memory");
    /* NORESERVE: guests rarely use all they are given, and clones share it. */
    void *hva = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (hva == MAP_FAILED)
        return error_errno(err, errno, "mapping %" PRIu64 " MiB of guest memory", size_bytes >> 20);
    mem->hva = hva;
    mem->size_bytes = size_bytes;
    memory_lay_out(mem);
    *out = steal_pointer(mem);
    return 0;
}

void memory_free(struct memory *mem)
{
    if (mem == NULL)
        return;
    if (mem->hva != NULL)
        munmap(mem->hva, mem->size_bytes);
    free(mem->device_dirty);
    free(mem);
}

static const struct memory_region *memory_region_of(const struct memory *mem, uint64_t gpa,
                                                    uint64_t length)
{
    for (unsigned i = 0; i < mem->region_count; i++) {
        const struct memory_region *region = &mem->regions[i];

        if (gpa >= region->gpa && range_fits(gpa - region->gpa, length, region->size_bytes))
            return region;
    }
    return NULL;
}

void *memory_at(struct memory *mem, uint64_t gpa, uint64_t length)
{
    const struct memory_region *region = memory_region_of(mem, gpa, length);

    return region == NULL ? NULL : region->hva + (gpa - region->gpa);
}

int memory_read(struct memory *mem, uint64_t gpa, void *buf, size_t length)
{
    const void *from = memory_at(mem, gpa, length);

    if (from == NULL)
        return -EFAULT;
    if (length > 0)
        memcpy(buf, from, length);
    return 0;
}

int memory_write(struct memory *mem, uint64_t gpa, const void *buf, size_t length)
{
    void *to = memory_at(mem, gpa, length);

    if (to == NULL)
        return -EFAULT;
    if (length == 0)
        return 0;
    memcpy(to, buf, length);
    memory_mark_dirty(mem, gpa, length);
    return 0;
}

int memory_zero(struct memory *mem, uint64_t gpa, size_t length)
{
    void *to = memory_at(mem, gpa, length);

    if (to == NULL)
        return -EFAULT;
    if (length == 0)
        return 0;
    memset(to, 0, length);
    memory_mark_dirty(mem, gpa, length);
    return 0;
}

/* Pages of one memory_discard() that are looked at together: 2 MiB. */
enum { DISCARD_PAGES = 512 };

/* Which of these pages are in memory or in swap? All of them if that cannot be known.
 * Linux, Documentation/admin-guide/mm/pagemap.rst. */
static void pages_there(const struct memory *mem, const uint8_t *hva, uint64_t count,
                        uint64_t entries[DISCARD_PAGES])
{
    uint64_t first = (uintptr_t)hva / STASIS_PAGE_SIZE;
    size_t bytes = count * sizeof(*entries);

    if (pread(mem->pagemap_fd, entries, bytes, (off_t)(first * sizeof(*entries))) != (ssize_t)bytes)
        memset(entries, 0xff, bytes);
    for (uint64_t i = 0; i < count; i++)
        entries[i] >>= 62; /* bit 63: present, 62: swapped */
}

/* Not before the pages are gone: a save may take the bits at any time, and must then
 * find zeros. */
static int discard_some(struct memory *mem, uint64_t gpa, uint8_t *hva, uint64_t count,
                        uint64_t *dropped)
{
    uint64_t entries[DISCARD_PAGES];

    pages_there(mem, hva, count, entries);
    /* Private anonymous memory is zero when it is touched again. */
    if (madvise(hva, count * STASIS_PAGE_SIZE, MADV_DONTNEED) < 0)
        return -errno;
    for (uint64_t i = 0; i < count; i++) {
        if (entries[i] == 0)
            continue;
        memory_mark_dirty(mem, gpa + i * STASIS_PAGE_SIZE, STASIS_PAGE_SIZE);
        *dropped += STASIS_PAGE_SIZE;
    }
    return 0;
}

int memory_discard(struct memory *mem, uint64_t gpa, uint64_t length, uint64_t *dropped)
{
    uint8_t *hva = memory_at(mem, gpa, length);

    if (hva == NULL || gpa % STASIS_PAGE_SIZE != 0 || length % STASIS_PAGE_SIZE != 0)
        return -EFAULT;
    for (uint64_t at = 0; at < length; at += DISCARD_PAGES * STASIS_PAGE_SIZE) {
        uint64_t count = min_u64((length - at) / STASIS_PAGE_SIZE, DISCARD_PAGES);
        int r = discard_some(mem, gpa + at, hva + at, count, dropped);
        if (r < 0)
            return r;
    }
    return 0;
}

void memory_mark_dirty(struct memory *mem, uint64_t gpa, uint64_t length)
{
    if (length == 0)
        return;
    uint64_t first = memory_page_of(mem, gpa);
    uint64_t last = memory_page_of(mem, gpa + (length - 1));

    if (first == UINT64_MAX || last == UINT64_MAX)
        return;
    /* Release: whoever takes the bit also sees the bytes written before it. */
    for (uint64_t page = first; page <= last; page++)
        __atomic_fetch_or(&mem->device_dirty[page / 64], 1ull << (page % 64), __ATOMIC_RELEASE);
}

uint64_t memory_page_of(const struct memory *mem, uint64_t gpa)
{
    const struct memory_region *region = memory_region_of(mem, gpa, 1);

    if (region == NULL)
        return UINT64_MAX;
    return region->first_page + (gpa - region->gpa) / STASIS_PAGE_SIZE;
}
