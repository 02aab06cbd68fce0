/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/checkpoint/save.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "store/catalogue.h"
#include "store/ingest.h"
#include "vmm/checkpoint/dirty.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

/* Pages of RAM and what they held when they were copied. */
struct page_set {
    uint64_t *bits;   /* one a RAM page */
    uint64_t *pages;  /* the same as a list, ascending */
    uint64_t count;   /* of them */
    uint8_t *copies;  /* their content, in that order */
    size_t map_bytes; /* of the mapping behind copies */
};

/*
 * Most of what was written since the last checkpoint is copied while the guest still
 * runs (early). What it writes meanwhile, and so may be torn there, is in the dirty
 * log again when the guest stands still: copied once more (late), and that one counts.
 */
struct save {
    struct board *board;
    struct checkpoint_base base;
    struct buffer state;
    struct page_set early;
    struct page_set late;
};

/* ---- pages ---- */

/* Room for late pages that is there, without page faults, when the guest has been
 * stopped: as much as a busy guest writes during the early copy of a little. */
enum { LATE_BYTES = 2 << 20 };

static int page_set_init(struct page_set *set, const struct memory *mem)
{
    set->bits = calloc(mem->dirty_words, sizeof(*set->bits));
    return set->bits == NULL ? -ENOMEM : 0;
}

static void page_set_clear(struct page_set *set)
{
    if (set->copies != NULL)
        munmap(set->copies, set->map_bytes);
    free(set->bits);
    free(set->pages);
}

/* Makes room for the content of pages; populate: at once. */
static int page_set_reserve(struct page_set *set, size_t bytes, bool populate)
{
    if (bytes <= set->map_bytes)
        return 0;
    if (set->copies != NULL)
        munmap(set->copies, set->map_bytes);
    set->copies = NULL;
    set->map_bytes = 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (populate ? MAP_POPULATE : 0);
    uint8_t *copies = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (copies == MAP_FAILED)
        return -errno;
    set->copies = copies;
    set->map_bytes = bytes;
    madvise(copies, bytes, MADV_HUGEPAGE);
    return 0;
}

static int list_pages(struct page_set *set, uint64_t words)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < words; i++)
        count += (uint64_t)__builtin_popcountll(set->bits[i]);
    set->pages = malloc((count + 1) * sizeof(*set->pages));
    if (set->pages == NULL)
        return -ENOMEM;
    for (uint64_t i = 0; i < words; i++)
        for (uint64_t word = set->bits[i]; word != 0; word &= word - 1)
            set->pages[set->count++] = i * 64 + (uint64_t)__builtin_ctzll(word);
    return 0;
}

static int copy_pages(struct page_set *set, const uint8_t *ram)
{
    int r = page_set_reserve(set, set->count * STASIS_PAGE_SIZE, false);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < set->count;) {
        uint64_t run = 1;
        while (i + run < set->count && set->pages[i + run] == set->pages[i] + run)
            run++;
        memcpy(set->copies + i * STASIS_PAGE_SIZE, ram + set->pages[i] * STASIS_PAGE_SIZE,
               run * STASIS_PAGE_SIZE);
        i += run;
    }
    return 0;
}

/* TSan is not to mind that pages are written while they are read: by the guest, which it
 * does not see, and by threads of devices for the guest. */
#if defined(__SANITIZE_THREAD__)
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#else
#define AnnotateIgnoreReadsBegin(file, line) ((void)0)
#define AnnotateIgnoreReadsEnd(file, line) ((void)0)
#endif

/* While they are written: what tears is in the log once more. */
static int copy_early(struct page_set *set, const uint8_t *ram)
{
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    int r = copy_pages(set, ram);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    return r;
}

/* Takes what was written until now out of the log, and copies it. */
static int take_pages(struct save *save, struct page_set *set,
                      int (*copy)(struct page_set *set, const uint8_t *ram), struct error *err)
{
    const struct memory *mem = save->board->memory;

    int r = dirty_take(save->board, set->bits, err);
    if (r < 0)
        return r;
    if ((r = list_pages(set, mem->dirty_words)) < 0 || (r = copy(set, mem->hva)) < 0)
        return error_errno(err, -r, "cannot copy the %llu MiB written since the last checkpoint",
                           (unsigned long long)(set->count * STASIS_PAGE_SIZE >> 20));
    return 0;
}

/* Calls visit for each page of either set, ascending, with its last content. */
static int each_page(const struct save *save,
                     int (*visit)(uint64_t page, const void *bytes, void *context), void *context)
{
    const struct page_set *early = &save->early;
    const struct page_set *late = &save->late;
    int r = 0;

    for (uint64_t i = 0, k = 0; r == 0 && (i < early->count || k < late->count);) {
        uint64_t a = i < early->count ? early->pages[i] : UINT64_MAX;
        uint64_t b = k < late->count ? late->pages[k] : UINT64_MAX;
        r = b <= a ? visit(b, late->copies + k * STASIS_PAGE_SIZE, context)
                   : visit(a, early->copies + i * STASIS_PAGE_SIZE, context);
        i += a <= b;
        k += b <= a;
    }
    return r;
}

static uint64_t count_pages(const struct save *save)
{
    uint64_t count = save->early.count;

    for (uint64_t k = 0; k < save->late.count; k++) {
        uint64_t page = save->late.pages[k];
        count += (save->early.bits[page / 64] >> (page % 64) & 1) == 0;
    }
    return count;
}

/* ---- the instant ---- */

static int freeze_disks(struct board *board, int (*freeze)(struct disk *disk, struct error *err),
                        struct error *err)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < board->config.disk_count; i++)
        r = freeze(board->disks[i], err);
    return r;
}

static int prepare(struct save *save, struct error *err)
{
    const struct memory *mem = save->board->memory;
    int r;

    if ((r = page_set_init(&save->early, mem)) < 0 || (r = page_set_init(&save->late, mem)) < 0 ||
        (r = page_set_reserve(&save->late, LATE_BYTES, true)) < 0)
        return error_errno(err, -r, "cannot save the machine");
    if ((r = take_pages(save, &save->early, copy_early, err)) < 0)
        return r;
    return freeze_disks(save->board, disk_prepare_freeze, err);
}

int save_prepare(struct board *board, const struct checkpoint_base *base, struct save **out,
                 struct error *err)
{
    struct save *save = calloc(1, sizeof(*save));
    if (save == NULL)
        return error_errno(err, ENOMEM, "cannot save the machine");
    save->board = board;
    save->base = *base;
    int r = prepare(save, err);
    if (r < 0) {
        save_give_back(save);
        save_free(save);
        return r;
    }
    *out = save;
    return 0;
}

int save_begin(struct save *save, struct error *err)
{
    int r = board_state_save(save->board, &save->state, err);
    if (r == 0)
        r = take_pages(save, &save->late, copy_pages, err);
    return r < 0 ? r : freeze_disks(save->board, disk_freeze, err);
}

void save_give_back(struct save *save)
{
    if (save->early.bits != NULL)
        dirty_give_back(save->board, save->early.bits);
    if (save->late.bits != NULL)
        dirty_give_back(save->board, save->late.bits);
}

void save_free(struct save *save)
{
    if (save == NULL)
        return;
    page_set_clear(&save->early);
    page_set_clear(&save->late);
    buffer_clear(&save->state);
    free(save);
}

/* ---- in the background ---- */

struct map_target {
    bool stays; /* the pages are copies that last as long as the save */
    struct map_builder *builder;
    struct error *err;
};

static int put_page(uint64_t page, const void *bytes, void *context)
{
    const struct map_target *target = context;

    return map_builder_put(target->builder, page, bytes, target->stays, target->err);
}

static int put_memory(struct save *save, struct ingest *ingest, struct manifest *m,
                      struct error *err)
{
    const struct manifest_space *before =
        save->base.has_memory ? manifest_space_find(&save->base.manifest, "memory") : NULL;
    uint64_t total = m->config.memory_bytes / STASIS_PAGE_SIZE;
    struct map_target target = {.stays = true, .err = err};
    struct digest root;

    int r = map_builder_begin(ingest, before != NULL ? &before->root : NULL, total, total,
                              &target.builder, err);
    if (r == 0)
        r = each_page(save, put_page, &target);
    if (r == 0)
        r = map_builder_finish(target.builder, &root, err);
    map_builder_free(target.builder);
    if (r < 0)
        return r;
    return manifest_space_set(m, "memory", m->config.memory_bytes, &root);
}

static int put_disk(struct save *save, struct ingest *ingest, unsigned index, struct manifest *m,
                    struct error *err)
{
    char name[MANIFEST_SPACE_NAME_MAX + 1];
    struct disk *disk = save->board->disks[index];
    struct map_target target = {.stays = false, .err = err};
    struct digest root;

    snprintf(name, sizeof(name), "disk%u", index);
    const struct manifest_space *before = manifest_space_find(&save->base.manifest, name);
    if (before == NULL)
        return error_corrupt(err, "the checkpoint has no space %s", name);
    uint64_t pages = div_round_up(before->size_bytes, STASIS_PAGE_SIZE);
    int r = map_builder_begin(ingest, &before->root, pages, pages, &target.builder, err);
    if (r == 0)
        r = disk_frozen_each(disk, put_page, &target, err);
    if (r == 0)
        r = map_builder_finish(target.builder, &root, err);
    map_builder_free(target.builder);
    if (r < 0)
        return r;
    return manifest_space_set(m, name, before->size_bytes, &root);
}

static void describe(const struct save *save, struct manifest *m)
{
    *m = save->base.manifest; /* config, kernel, initrd, disks' sizes stay */
    m->kind = CHECKPOINT_WARM;
    m->created_us = clock_wall_us();
    m->has_parent = true;
    m->parent = save->base.id;
    m->has_state = true;
    m->state_bytes = save->state.length;
    memcpy(m->cpu_features, save->board->cpu_features, sizeof(m->cpu_features));
}

static int put_all(struct save *save, struct ingest *ingest, struct manifest *m, struct error *err)
{
    describe(save, m);
    int r = ingest_blob(ingest, save->state.data, save->state.length, &m->state, err);
    if (r == 0)
        r = put_memory(save, ingest, m, err);
    for (unsigned i = 0; r == 0 && i < m->config.disk_count; i++)
        if (!m->config.disks[i].read_only)
            r = put_disk(save, ingest, i, m, err);
    return r;
}

int save_run(struct save *save, struct store *store, const char *machine, const char *name,
             struct save_result *out, struct error *err)
{
    struct ingest *ingest = NULL;
    struct ingest_stats stats;
    struct manifest manifest;
    struct digest id;

    int r = ingest_begin(store, &ingest, err);
    if (r < 0)
        return r;
    if ((r = put_all(save, ingest, &manifest, err)) == 0) {
        struct ingest_commit commit = {
            .manifest = &manifest, .machine = machine, .name = name, .set_head = true};
        r = ingest_commit(ingest, &commit, &id, err);
    }
    ingest_get_stats(ingest, &stats);
    ingest_free(ingest);
    if (r < 0)
        return r;
    /* Read back: the commit may have had to rewrite maps. */
    if ((r = catalogue_manifest_read(store, &id, &out->manifest, err)) < 0)
        return r;
    out->id = id;
    out->pages = count_pages(save);
    out->pages_new = stats.pages_new;
    out->stored_bytes = stats.stored_bytes;
    return 0;
}
