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

struct save {
    struct board *board;
    struct checkpoint_base base;
    struct buffer state;
    uint64_t *dirty;     /* one bit a RAM page */
    uint64_t *pages;     /* the dirty ones, ascending */
    uint64_t page_count; /* of them */
    uint8_t *copies;     /* their content at the instant of the save, in that order */
};

/* ---- the instant ---- */

static int list_pages(struct save *save)
{
    const struct memory *mem = save->board->memory;
    uint64_t count = 0;

    for (uint64_t i = 0; i < mem->dirty_words; i++)
        count += (uint64_t)__builtin_popcountll(save->dirty[i]);
    save->pages = malloc((count + 1) * sizeof(*save->pages));
    if (save->pages == NULL)
        return -ENOMEM;
    for (uint64_t i = 0; i < mem->dirty_words; i++)
        for (uint64_t word = save->dirty[i]; word != 0; word &= word - 1)
            save->pages[save->page_count++] = i * 64 + (uint64_t)__builtin_ctzll(word);
    return 0;
}

static int copy_pages(struct save *save)
{
    size_t bytes = save->page_count * STASIS_PAGE_SIZE;

    if (bytes == 0)
        return 0;
    uint8_t *copies = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (copies == MAP_FAILED)
        return -errno;
    save->copies = copies;
    madvise(copies, bytes, MADV_HUGEPAGE);
    const uint8_t *ram = save->board->memory->hva;
    for (uint64_t i = 0; i < save->page_count;) {
        uint64_t run = 1;
        while (i + run < save->page_count && save->pages[i + run] == save->pages[i] + run)
            run++;
        memcpy(copies + i * STASIS_PAGE_SIZE, ram + save->pages[i] * STASIS_PAGE_SIZE,
               run * STASIS_PAGE_SIZE);
        i += run;
    }
    return 0;
}

static int freeze_disks(struct board *board, struct error *err)
{
    for (unsigned i = 0; i < board->config.disk_count; i++) {
        int r = disk_freeze(board->disks[i], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int take_instant(struct save *save, struct error *err)
{
    int r = board_state_save(save->board, &save->state, err);
    if (r < 0)
        return r;
    save->dirty = calloc(save->board->memory->dirty_words, sizeof(*save->dirty));
    if (save->dirty == NULL)
        return error_errno(err, ENOMEM, "cannot save the machine");
    if ((r = dirty_take(save->board, save->dirty, err)) < 0)
        return r;
    if ((r = list_pages(save)) < 0 || (r = copy_pages(save)) < 0)
        return error_errno(err, -r, "cannot copy the %llu MiB written since the last checkpoint",
                           (unsigned long long)(save->page_count * STASIS_PAGE_SIZE >> 20));
    return freeze_disks(save->board, err);
}

int save_begin(struct board *board, const struct checkpoint_base *base, struct save **out,
               struct error *err)
{
    struct save *save = calloc(1, sizeof(*save));
    if (save == NULL)
        return error_errno(err, ENOMEM, "cannot save the machine");
    save->board = board;
    save->base = *base;
    int r = take_instant(save, err);
    if (r < 0) {
        save_give_back(save);
        save_free(save);
        return r;
    }
    *out = save;
    return 0;
}

void save_give_back(struct save *save)
{
    if (save->dirty != NULL)
        dirty_give_back(save->board, save->dirty);
}

void save_free(struct save *save)
{
    if (save == NULL)
        return;
    if (save->copies != NULL)
        munmap(save->copies, save->page_count * STASIS_PAGE_SIZE);
    buffer_clear(&save->state);
    free(save->dirty);
    free(save->pages);
    free(save);
}

/* ---- in the background ---- */

struct map_target {
    struct ingest *ingest;
    struct map_builder *builder;
    struct error *err;
};

static int put_page(uint64_t page, const void *bytes, void *context)
{
    const struct map_target *target = context;
    struct page_ref ref = {0};

    int r = bytes == NULL ? 0 : ingest_page(target->ingest, bytes, &ref, target->err);
    return r < 0 ? r : map_builder_set(target->builder, page, ref, target->err);
}

static int put_memory(struct save *save, struct ingest *ingest, struct manifest *m,
                      struct error *err)
{
    const struct manifest_space *before =
        save->base.has_memory ? manifest_space_find(&save->base.manifest, "memory") : NULL;
    uint64_t total = m->config.memory_bytes / STASIS_PAGE_SIZE;
    struct map_target target = {.ingest = ingest, .err = err};
    struct digest root;

    int r = map_builder_begin(ingest, before != NULL ? &before->root : NULL, total, total,
                              &target.builder, err);
    for (uint64_t i = 0; r == 0 && i < save->page_count; i++)
        r = put_page(save->pages[i], save->copies + i * STASIS_PAGE_SIZE, &target);
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
    struct map_target target = {.ingest = ingest, .err = err};
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
    out->pages = save->page_count;
    out->pages_new = stats.pages_new;
    out->stored_bytes = stats.stored_bytes;
    return 0;
}
