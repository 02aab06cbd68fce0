/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/probe/memory.h"
#include "guest/probe/layout.h"
#include "guest/probe/pattern.h"
#include "guest/probe/text.h"

#define START_MAGIC 0x336ec578u
#define MEMMAP_RAM 1u
#define FOUR_GIB (4ull << 30)
#define GIB (1ull << 30)
#define HIGH_GIBS 60 /* of page directories set aside: guests up to 64 GiB */
#define RUNS_MAX 16

/* Xen's hvm_start_info version 1 and its memory map. */
struct start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t module_count;
    uint64_t modules;
    uint64_t cmdline;
    uint64_t rsdp;
    uint64_t memmap;
    uint32_t memmap_entries;
    uint32_t reserved;
};

struct memmap_entry {
    uint64_t address;
    uint64_t size;
    uint32_t type;
    uint32_t reserved;
};

/* A stretch of RAM in page numbers. */
struct run {
    uint64_t first;
    uint64_t count;
};

extern uint64_t pdpt[512];

static uint64_t high_tables[HIGH_GIBS][512] __attribute__((aligned(4096)));
static struct run runs[RUNS_MAX];
static unsigned run_count;
static uint64_t low_pages;
static uint64_t pages;
static char cmdline[1024];
static uint64_t rsdp;

static uint64_t entry_end(const struct memmap_entry *entry)
{
    uint64_t end;

    if (__builtin_add_overflow(entry->address, entry->size, &end))
        return 0;
    if (end > FOUR_GIB + HIGH_GIBS * GIB)
        end = FOUR_GIB + HIGH_GIBS * GIB;
    return end & ~(uint64_t)(PROBE_PAGE_SIZE - 1);
}

static uint64_t entry_start(const struct memmap_entry *entry)
{
    return (entry->address + PROBE_PAGE_SIZE - 1) & ~(uint64_t)(PROBE_PAGE_SIZE - 1);
}

static bool entry_is_ram(const struct memmap_entry *entry)
{
    return entry->type == MEMMAP_RAM && entry_start(entry) < entry_end(entry);
}

static void find_low_end(const struct memmap_entry *map, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t end = entry_end(&map[i]);

        if (entry_is_ram(&map[i]) && end <= FOUR_GIB && end / PROBE_PAGE_SIZE > low_pages)
            low_pages = end / PROBE_PAGE_SIZE;
    }
    pages = low_pages;
}

static void add_run(uint64_t start, uint64_t end)
{
    uint64_t first = start / PROBE_PAGE_SIZE;

    if (run_count == RUNS_MAX)
        return;
    if (start >= FOUR_GIB)
        first = low_pages + (start - FOUR_GIB) / PROBE_PAGE_SIZE;
    runs[run_count].first = first;
    runs[run_count].count = (end - start) / PROBE_PAGE_SIZE;
    if (first + runs[run_count].count > pages)
        pages = first + runs[run_count].count;
    run_count++;
}

/* Done at CPL 3, where it is fast; entries that were absent need no flush. */
static void map_gib(uint64_t gib)
{
    uint64_t *table = high_tables[gib - 4];

    if (pdpt[gib] != 0)
        return;
    for (unsigned i = 0; i < 512; i++)
        table[i] = (gib * GIB + i * (2ull << 20)) | 0xe7; /* as in entry.S */
    __asm__ volatile("" ::: "memory");
    pdpt[gib] = (uint64_t)table | 0x27;
}

static void add_entry(const struct memmap_entry *entry)
{
    uint64_t start = entry_start(entry), end = entry_end(entry);

    if (!entry_is_ram(entry) || (start < FOUR_GIB && end > FOUR_GIB))
        return;
    add_run(start, end);
    for (uint64_t gib = start / GIB; start >= FOUR_GIB && gib * GIB < end; gib++)
        map_gib(gib);
}

static void copy_cmdline(const char *text)
{
    for (unsigned i = 0; i < sizeof(cmdline) - 1 && text[i] != '\0'; i++)
        cmdline[i] = text[i];
}

bool memory_init(const void *start)
{
    const struct start_info *info = start;
    const struct memmap_entry *map;

    if (info->magic != START_MAGIC)
        return false;
    if (info->cmdline != 0 && info->cmdline < FOUR_GIB)
        copy_cmdline((const char *)info->cmdline);
    rsdp = info->rsdp < FOUR_GIB ? info->rsdp : 0;
    if (info->version < 1 || info->memmap == 0 || info->memmap >= FOUR_GIB)
        return false;
    map = (const struct memmap_entry *)info->memmap;
    find_low_end(map, info->memmap_entries);
    for (unsigned i = 0; i < info->memmap_entries; i++)
        add_entry(&map[i]);
    return run_count > 0;
}

uint64_t memory_pages(void)
{
    return pages;
}

uint64_t memory_rsdp(void)
{
    return rsdp;
}

const char *memory_cmdline(void)
{
    return cmdline;
}

uint64_t memory_address(uint64_t page)
{
    if (page < low_pages)
        return page * PROBE_PAGE_SIZE;
    return FOUR_GIB + (page - low_pages) * PROBE_PAGE_SIZE;
}

static bool run_holds(const struct run *run, uint64_t page)
{
    return page >= run->first && page - run->first < run->count;
}

bool memory_is_ram(uint64_t page, uint64_t count)
{
    while (count > 0) {
        unsigned i = 0;
        uint64_t here;

        while (i < run_count && !run_holds(&runs[i], page))
            i++;
        if (i == run_count)
            return false;
        here = runs[i].first + runs[i].count - page;
        if (here >= count)
            return true;
        page += here;
        count -= here;
    }
    return true;
}

bool memory_is_free(uint64_t page, uint64_t count)
{
    return page >= PROBE_FREE / PROBE_PAGE_SIZE && memory_is_ram(page, count);
}

uint64_t memory_contiguous(uint64_t page, uint64_t count)
{
    if (page < low_pages && count > low_pages - page)
        return low_pages - page;
    return count;
}

void memory_fill(uint64_t page, uint64_t count, uint64_t seed)
{
    for (; count > 0; page++, count--) {
        uint64_t *words = (uint64_t *)memory_address(page);
        uint64_t position = page * PROBE_WORDS_PER_PAGE;

        for (unsigned i = 0; i < PROBE_WORDS_PER_PAGE; i++)
            words[i] = probe_word(seed, position + i);
    }
}

uint64_t memory_sum(uint64_t page, uint64_t count)
{
    uint64_t sum = 0;

    for (; count > 0; page++, count--)
        sum += probe_sum_words(page * PROBE_WORDS_PER_PAGE, (const uint64_t *)memory_address(page),
                               PROBE_WORDS_PER_PAGE);
    return sum;
}

static bool page_varies(uint64_t page)
{
    return page >= PROBE_VARYING / PROBE_PAGE_SIZE && page < PROBE_FREE / PROBE_PAGE_SIZE;
}

uint64_t memory_sum_all(uint64_t *pages_out)
{
    uint64_t sum = 0;

    *pages_out = 0;
    for (unsigned i = 0; i < run_count; i++) {
        for (uint64_t n = 0; n < runs[i].count; n++) {
            if (page_varies(runs[i].first + n))
                continue;
            sum += memory_sum(runs[i].first + n, 1);
            ++*pages_out;
        }
    }
    return sum;
}
