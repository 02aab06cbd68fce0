/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/checkpoint/restore.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/checkpoint/dirty.h"

#include <errno.h>
#include <stdio.h>

static int open_space(struct store *store, const struct manifest *m, const char *name,
                      struct space **out, struct error *err)
{
    const struct manifest_space *entry = manifest_space_find(m, name);

    if (entry == NULL)
        return error_corrupt(err, "the checkpoint has no space %s", name);
    return space_open(store, &entry->root, entry->size_bytes, out, err);
}

static int read_state(struct store *store, const struct manifest *m, void **state_out,
                      size_t *length_out, struct error *err)
{
    int r = store_blob_read(store, &m->state, state_out, length_out, err);
    if (r < 0)
        return r;
    if ((r = state_check(*state_out, *length_out, err)) < 0) {
        free(*state_out);
        *state_out = NULL;
    }
    return r;
}

static int put_page(uint64_t page, const void *bytes, void *context)
{
    struct memory *mem = context;

    memcpy(mem->hva + page * STASIS_PAGE_SIZE, bytes, STASIS_PAGE_SIZE);
    return 0;
}

int restore_fresh(struct board *board, struct store *store, const struct manifest *m,
                  bool clock_host, struct error *err)
{
    _cleanup_free_ void *state = NULL;
    size_t length = 0;
    struct space *memory = NULL;

    int r = board_check_cpu(board, m, err);
    if (r < 0 || (r = read_state(store, m, &state, &length, err)) < 0 ||
        (r = open_space(store, m, "memory", &memory, err)) < 0)
        return r;
    r = space_size_bytes(memory) == board->memory->size_bytes
            ? space_each_page(memory, put_page, board->memory, err)
            : error_corrupt(err, "the checkpoint's memory is not as large as its machine's");
    space_close(memory);
    if (r < 0)
        return r;
    return board_state_restore(board, state, length, clock_host, err);
}

static int pass_over(uint64_t page, const void *bytes, void *context)
{
    (void)page;
    (void)bytes;
    (void)context;
    return 0;
}

int restore_check(struct store *store, const struct manifest *m, struct error *err)
{
    static const char *const booted[] = {"kernel", "initrd"}, *const resumed[] = {"memory"};
    const bool warm = m->kind == CHECKPOINT_WARM;
    const char *const *names = warm ? resumed : booted;
    size_t count = warm ? ARRAY_LEN(resumed) : ARRAY_LEN(booted);
    _cleanup_free_ void *state = NULL;
    size_t length;

    int r = warm ? read_state(store, m, &state, &length, err) : 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct space *space = NULL;
        if (manifest_space_find(m, names[i]) == NULL)
            continue;
        if ((r = open_space(store, m, names[i], &space, err)) == 0)
            r = space_each_page(space, pass_over, NULL, err);
        space_close(space);
    }
    return r;
}

/* ---- in place ---- */

struct rollback {
    struct board *board;
    struct store *store;
    void *state;
    size_t state_bytes;
    struct space *memory;
    struct space *disks[MANIFEST_DISKS_MAX];
    uint64_t *dirty;   /* what was taken from the log, to give back */
    uint64_t *differs; /* pages to rewrite */
    uint64_t *pages;   /* the same as a list */
    uint64_t page_count;
    uint8_t *contents; /* theirs */
};

static void rollback_clear(struct rollback *rb)
{
    free(rb->state);
    space_close(rb->memory);
    for (unsigned i = 0; i < MANIFEST_DISKS_MAX; i++)
        space_close(rb->disks[i]);
    free(rb->dirty);
    free(rb->differs);
    free(rb->pages);
    free(rb->contents);
}

static int mark_difference(uint64_t page, struct page_ref in_a, struct page_ref in_b, void *context)
{
    uint64_t *bits = context;

    (void)in_a;
    (void)in_b;
    bits[page / 64] |= 1ull << (page % 64);
    return 0;
}

/* Adds the pages in which base and target differ. After a cold boot the base is
 * empty memory: then all that the target has. */
static int add_map_difference(struct rollback *rb, const struct checkpoint_base *base,
                              struct error *err)
{
    struct space *before = NULL;
    uint64_t page = 0;
    struct page_ref ref;
    int r;

    if (base->has_memory) {
        if ((r = open_space(rb->store, &base->manifest, "memory", &before, err)) < 0)
            return r;
        r = space_diff(before, rb->memory, mark_difference, rb->differs, err);
        space_close(before);
        return r;
    }
    while ((r = space_next(rb->memory, page, &page, &ref, err)) > 0) {
        mark_difference(page, ref, ref, rb->differs);
        page++;
    }
    return r;
}

static int list_difference(struct rollback *rb)
{
    uint64_t words = rb->board->memory->dirty_words;
    uint64_t count = 0;

    for (uint64_t i = 0; i < words; i++)
        count += (uint64_t)__builtin_popcountll(rb->differs[i] |= rb->dirty[i]);
    rb->pages = malloc((count + 1) * sizeof(*rb->pages));
    rb->contents = malloc(count * STASIS_PAGE_SIZE + 1);
    if (rb->pages == NULL || rb->contents == NULL)
        return -ENOMEM;
    for (uint64_t i = 0; i < words; i++)
        for (uint64_t word = rb->differs[i]; word != 0; word &= word - 1)
            rb->pages[rb->page_count++] = i * 64 + (uint64_t)__builtin_ctzll(word);
    return 0;
}

static int read_contents(struct rollback *rb, struct error *err)
{
    for (uint64_t i = 0; i < rb->page_count; i++) {
        int r = space_read(rb->memory, rb->pages[i] * STASIS_PAGE_SIZE,
                           rb->contents + i * STASIS_PAGE_SIZE, STASIS_PAGE_SIZE, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int open_disks(struct rollback *rb, const struct manifest *m, struct error *err)
{
    char name[MANIFEST_SPACE_NAME_MAX + 1];

    for (unsigned i = 0; i < m->config.disk_count; i++) {
        snprintf(name, sizeof(name), "disk%u", i);
        int r = open_space(rb->store, m, name, &rb->disks[i], err);
        if (r < 0)
            return r;
        if (space_size_bytes(rb->disks[i]) != disk_size_bytes(rb->board->disks[i])) {
            error_set(err, STATUS_FAILED, EINVAL, "disk %u has another size in the checkpoint", i);
            error_hint(err, "stop the machine, then restore it");
            return -EINVAL;
        }
    }
    return 0;
}

/* Everything that can fail without harm. */
static int prepare(struct rollback *rb, const struct checkpoint_base *base,
                   const struct checkpoint_base *target, struct error *err)
{
    uint64_t words = rb->board->memory->dirty_words;
    int r;

    rb->dirty = calloc(words, sizeof(*rb->dirty));
    rb->differs = calloc(words, sizeof(*rb->differs));
    if (rb->dirty == NULL || rb->differs == NULL)
        return error_errno(err, ENOMEM, "cannot restore the machine");
    if ((r = board_check_cpu(rb->board, &target->manifest, err)) < 0 ||
        (r = read_state(rb->store, &target->manifest, &rb->state, &rb->state_bytes, err)) < 0 ||
        (r = open_space(rb->store, &target->manifest, "memory", &rb->memory, err)) < 0)
        return r;
    if (space_size_bytes(rb->memory) != rb->board->memory->size_bytes)
        return error_corrupt(err, "the checkpoint's memory is not as large as its machine's");
    if ((r = open_disks(rb, &target->manifest, err)) < 0 ||
        (r = add_map_difference(rb, base, err)) < 0 ||
        (r = dirty_take(rb->board, rb->dirty, err)) < 0)
        return r;
    if ((r = list_difference(rb)) < 0)
        return error_errno(err, -r, "cannot restore the machine");
    return read_contents(rb, err);
}

static int apply(struct rollback *rb, bool clock_host, struct error *err)
{
    uint8_t *ram = rb->board->memory->hva;

    for (uint64_t i = 0; i < rb->page_count; i++)
        memcpy(ram + rb->pages[i] * STASIS_PAGE_SIZE, rb->contents + i * STASIS_PAGE_SIZE,
               STASIS_PAGE_SIZE);
    for (unsigned i = 0; i < rb->board->config.disk_count; i++) {
        int r = disk_reset(rb->board->disks[i], steal_pointer(rb->disks[i]), err);
        if (r < 0)
            return r;
    }
    return board_state_restore(rb->board, rb->state, rb->state_bytes, clock_host, err);
}

int restore_in_place(struct board *board, struct store *store, const struct checkpoint_base *base,
                     const struct checkpoint_base *target, bool clock_host, bool *changed_out,
                     struct error *err)
{
    struct rollback rb = {.board = board, .store = store};

    *changed_out = false;
    int r = prepare(&rb, base, target, err);
    if (r == 0) {
        *changed_out = true;
        r = apply(&rb, clock_host, err);
    } else if (rb.dirty != NULL) {
        dirty_give_back(board, rb.dirty);
    }
    rollback_clear(&rb);
    return r;
}
