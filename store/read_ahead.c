/* SPDX-License-Identifier: Apache-2.0 */
#include "store/read_ahead.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>

/* 8 MiB: five milliseconds of work for two threads. To wake one takes as long as reading
 * some pages, so a window is not small. */
#define WINDOW_PAGES 2048u

/* What a thread takes at once: groups that are looked up together. Not few, for two
 * threads that come to the group on the border of their slices together both decode it. */
#define SLICE_PAGES 256u

struct read_ahead {
    struct store *store;
    int (*visit)(uint64_t page, const void *bytes, void *context);
    void *context;
    unsigned count;
    uint64_t pages[WINDOW_PAGES];
    struct page_ref refs[WINDOW_PAGES];
    const uint8_t *bytes[WINDOW_PAGES];        /* NULL: not found at once */
    struct cached_group *groups[WINDOW_PAGES]; /* keeps its bytes and those of the next */
    struct cached_group *near;                 /* of the last page that was read singly */
};

int read_ahead_new(struct store *store,
                   int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                   struct read_ahead **out, struct error *err)
{
    struct read_ahead *ra = calloc(1, sizeof(*ra));

    if (ra == NULL)
        return error_errno(err, ENOMEM, "reading pages");
    ra->store = store;
    ra->visit = visit;
    ra->context = context;
    *out = ra;
    return 0;
}

static void release_window(struct read_ahead *ra)
{
    for (unsigned i = 0; i < ra->count; i++)
        cached_group_release(steal_pointer(ra->groups[i]));
    ra->count = 0;
}

void read_ahead_free(struct read_ahead *ra)
{
    if (ra == NULL)
        return;
    release_window(ra);
    cached_group_release(ra->near);
    free(ra);
}

/* Exactly this page, or not at once: who reads it singly knows all its copies. */
static const uint8_t *try_page(struct read_ahead *ra, struct page_ref ref,
                               const struct location *at, struct cached_group **near)
{
    const uint8_t *bytes;
    size_t length;

    if (at->pack == PACK_NONE || !page_ref_equal(at->id, ref) ||
        packs_pass_near(&ra->store->packs, at, near, &bytes, &length, NULL) < 0 ||
        !page_ref_same_key(page_ref_of(bytes), ref))
        return NULL;
    return bytes;
}

static int read_slice(unsigned index, unsigned slot, void *context, struct error *err)
{
    _cleanup_(cached_group_releasep) struct cached_group *near = NULL;
    struct read_ahead *ra = context;
    const struct cached_group *held = NULL;
    struct location at[SLICE_PAGES];
    unsigned from = index * SLICE_PAGES;
    unsigned n = (unsigned)min_u64(SLICE_PAGES, ra->count - from);

    (void)slot;
    (void)err;
    packs_find_batch(&ra->store->packs, PACK_PAGES, ra->refs + from, n, PACK_NONE, at);
    for (unsigned i = 0; i < n; i++) {
        ra->bytes[from + i] = try_page(ra, ra->refs[from + i], &at[i], &near);
        if (ra->bytes[from + i] != NULL && near != held)
            held = ra->groups[from + i] = cached_group_hold(near);
    }
    return 0;
}

static int visit_window(struct read_ahead *ra, struct error *err)
{
    unsigned slices = (ra->count + SLICE_PAGES - 1) / SLICE_PAGES;
    int r = workers_run(ra->store->workers, slices, read_slice, ra, err);

    for (unsigned i = 0; r == 0 && i < ra->count; i++) {
        const uint8_t *bytes = ra->bytes[i];

        if (bytes == NULL)
            r = store_page_near(ra->store, ra->refs[i], &ra->near, &bytes, err);
        if (r == 0)
            r = ra->visit(ra->pages[i], bytes, ra->context);
    }
    release_window(ra);
    return r;
}

int read_ahead_add(struct read_ahead *ra, uint64_t page, struct page_ref ref, struct error *err)
{
    ra->pages[ra->count] = page;
    ra->refs[ra->count++] = ref;
    return ra->count < WINDOW_PAGES ? 0 : visit_window(ra, err);
}

int read_ahead_finish(struct read_ahead *ra, struct error *err)
{
    return ra->count == 0 ? 0 : visit_window(ra, err);
}
