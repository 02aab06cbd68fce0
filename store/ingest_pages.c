/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages on their way in: is there an equal one? A batch is cut into slices, which
 * threads of the store look at independently: zero, key, candidates, bytes. Nothing
 * changes meanwhile. Then one thread goes through the batch in its order and gives
 * references to what is new, so that the outcome depends on the input alone.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "store/ingest_private.h"

#include <errno.h>

/* ---- one page ---- */

/* Keys only propose: the bytes of a candidate are read and compared. One that
 * cannot be read counts as another page, so that damage does not spread. */
static bool store_page_equals(struct ingest *in, const struct location *at,
                              struct cached_group **near, const void *page)
{
    const uint8_t *bytes;
    size_t length;

    return packs_read_near(&in->store->packs, at, near, &bytes, &length, NULL) == 0 &&
           memcmp(bytes, page, STASIS_PAGE_SIZE) == 0;
}

static bool own_page_equals(struct ingest *in, const struct index_entry *e,
                            struct cached_group **near, const void *page)
{
    const uint8_t *bytes;
    size_t length;

    return ingest_own_bytes_near(in, PACK_PAGES, e, near, &bytes, &length, NULL) == 0 &&
           memcmp(bytes, page, STASIS_PAGE_SIZE) == 0;
}

static bool variant_is_taken(struct ingest *in, struct page_ref ref, int found)
{
    for (int i = 0; i < found; i++)
        if (page_ref_equal(in->found.list[i].id, ref))
            return true;
    return index_get(&in->pages, ref) != NULL;
}

static int free_variant(struct ingest *in, struct page_ref first, int found, struct page_ref *out,
                        struct error *err)
{
    for (unsigned v = page_ref_variant(first); v <= PAGE_VARIANT_MAX; v++) {
        *out = page_ref_with_variant(first, (uint16_t)v);
        if (!variant_is_taken(in, *out, found))
            return 0;
    }
    return error_set(err, STATUS_FAILED, EOVERFLOW,
                     "the store holds %u different pages with one key", PAGE_VARIANT_MAX + 1u);
}

/* Among those found: 1 and its reference if a pack holds an equal page, 0 if none does.
 * A condemned pack's page has to be stored again, under its reference (*again). */
static int equal_in_store(struct ingest *in, const void *page, int found, struct page_ref *ref_out,
                          bool *again)
{
    *again = false;
    for (int i = 0; i < found; i++) {
        const struct location *at = &in->found.list[i];
        bool live = packs_state(&in->store->packs, at->pack) == PACK_LIVE;

        if ((!live && *again) || !store_page_equals(in, at, &in->near_store, page))
            continue;
        *ref_out = at->id;
        *again = !live;
        if (live)
            return 1;
    }
    return *again;
}

static int find_page(struct ingest *in, const void *page, struct page_ref first, uint32_t to,
                     struct page_ref skip, struct page_ref *ref_out, bool *exists_out,
                     struct error *err)
{
    struct index_cursor own = index_find(&in->pages, first);
    const struct index_entry *e;
    bool again;
    int found;

    *exists_out = true;
    while ((e = index_next(&own)) != NULL) {
        if (!page_ref_equal(e->id, skip) && own_page_equals(in, e, &in->near_own, page)) {
            *ref_out = e->id;
            return 0;
        }
    }
    found = store_find_all(in->store, first, 0, to, &in->found);
    if (found < 0)
        return error_errno(err, -found, "looking for a page");
    if (equal_in_store(in, page, found, ref_out, &again)) {
        *exists_out = !again;
        return 0;
    }
    *exists_out = false;
    return free_variant(in, first, found, ref_out, err);
}

int ingest_find_page(struct ingest *in, const void *page, uint32_t to, struct page_ref skip,
                     struct page_ref *ref_out, bool *exists_out, struct error *err)
{
    return find_page(in, page, page_ref_of(page), to, skip, ref_out, exists_out, err);
}

/* Gives a page with that key its reference and stores it if it is new. */
static int place_page(struct ingest *in, const void *page, bool lend, struct page_ref *ref_io,
                      struct error *err)
{
    bool exists;
    int r = find_page(in, page, *ref_io, in->view, (struct page_ref){0}, ref_io, &exists, err);

    if (r == 0 && !exists)
        r = ingest_add_object(in, PACK_PAGES, *ref_io, page, STASIS_PAGE_SIZE, lend, err);
    if (r == 0)
        in->stats.pages_new += !exists;
    return r;
}

int ingest_page(struct ingest *in, const void *page, struct page_ref *ref_out, struct error *err)
{
    struct page_ref ref;
    int r;

    if (page_is_zero(page)) {
        *ref_out = (struct page_ref){0};
        return 0;
    }
    ref = page_ref_of(page);
    r = place_page(in, page, false, &ref, err);
    if (r < 0)
        return r;
    in->stats.pages++;
    *ref_out = ref;
    return 0;
}

/* ---- many ---- */

/* 256 KiB: read from memory once, by the time it is compared it is in the cache. */
#define SLICE_PAGES 64u

/* As much as the queue of groups takes. Fewer than a quarter of it are not worth
 * writing at once, and so not worth lending. */
#define BATCH_PAGES INGEST_BATCH_PAGES
#define LEND_PAGES (BATCH_PAGES / 4)
_Static_assert(BATCH_PAGES == QUEUE_GROUPS * PACK_HOT_GROUP_PAGES, "a batch fills the queue");

enum page_state {
    PAGE_ZERO,
    PAGE_FOUND,    /* an equal one is there: refs[] says where */
    PAGE_UNKNOWN,  /* nobody has its key; refs[] is its first reference */
    PAGE_DISPUTED, /* candidates are there that may or may not be equal */
};

struct page_batch {
    struct ingest *in;
    const void *const *pages;
    unsigned count;
    struct page_ref refs[BATCH_PAGES];
    uint8_t states[BATCH_PAGES];
};

/* A page of a slice and where it may be stored already. */
struct candidate {
    unsigned page;
    struct location at;
};

/* Pages whose key is not among our own: *count_out of them. */
static void slice_keys(struct page_batch *b, unsigned from, unsigned to, struct cached_group **near,
                       unsigned pages[], struct page_ref keys[], unsigned *count_out)
{
    unsigned count = 0;

    for (unsigned i = from; i < to; i++) {
        const struct index_entry *own;
        struct index_cursor cursor;

        b->states[i] = PAGE_ZERO;
        b->refs[i] = (struct page_ref){0};
        if (page_is_zero(b->pages[i]))
            continue;
        b->refs[i] = page_ref_of(b->pages[i]);
        cursor = index_find(&b->in->pages, b->refs[i]);
        own = index_next(&cursor);
        if (own == NULL) {
            b->states[i] = PAGE_UNKNOWN;
            pages[count] = i;
            keys[count++] = b->refs[i];
        } else if (own_page_equals(b->in, own, near, b->pages[i])) {
            b->states[i] = PAGE_FOUND;
            b->refs[i] = own->id;
        } else {
            b->states[i] = PAGE_DISPUTED;
        }
    }
    *count_out = count;
}

static bool lies_before(const struct location *a, const struct location *b)
{
    return a->pack != b->pack ? a->pack < b->pack : a->object < b->object;
}

/* By where they lie, so that a group is decoded once for all its pages. They mostly
 * come in that order. */
static void sort_candidates(struct candidate *list, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        struct candidate c = list[i];
        unsigned k = i;

        for (; k > 0 && lies_before(&c.at, &list[k - 1].at); k--)
            list[k] = list[k - 1];
        list[k] = c;
    }
}

/* Compares pages with what the store proposes for their keys. */
static void compare_with_store(struct page_batch *b, const unsigned pages[],
                               const struct page_ref keys[], unsigned count,
                               struct cached_group **near)
{
    struct location at[SLICE_PAGES];
    struct candidate list[SLICE_PAGES];
    unsigned candidates = 0;

    packs_find_batch(&b->in->store->packs, PACK_PAGES, keys, count, b->in->view, at);
    for (unsigned i = 0; i < count; i++)
        if (at[i].pack != PACK_NONE)
            list[candidates++] = (struct candidate){pages[i], at[i]};
    sort_candidates(list, candidates);
    for (unsigned i = 0; i < candidates; i++) {
        const struct candidate *c = &list[i];
        bool found = packs_state(&b->in->store->packs, c->at.pack) == PACK_LIVE &&
                     store_page_equals(b->in, &c->at, near, b->pages[c->page]);

        b->states[c->page] = found ? PAGE_FOUND : PAGE_DISPUTED;
        if (found)
            b->refs[c->page] = c->at.id;
    }
}

static int look_at_slice(unsigned index, unsigned slot, void *context, struct error *err)
{
    _cleanup_(cached_group_releasep) struct cached_group *own = NULL;
    _cleanup_(cached_group_releasep) struct cached_group *stored = NULL;
    struct page_batch *b = context;
    struct page_ref keys[SLICE_PAGES];
    unsigned pages[SLICE_PAGES];
    unsigned from = index * SLICE_PAGES, count;

    (void)slot;
    (void)err;
    slice_keys(b, from, (unsigned)min_u64(from + SLICE_PAGES, b->count), &own, pages, keys, &count);
    if (count != 0)
        compare_with_store(b, pages, keys, count, &stored);
    return 0;
}

/* Did an earlier page of this batch bring the key? */
static bool key_is_new(const struct ingest *in, struct page_ref key)
{
    struct index_cursor cursor = index_find(&in->pages, key);

    return index_next(&cursor) == NULL;
}

static int place_batch(struct page_batch *b, struct error *err)
{
    struct ingest *in = b->in;
    bool lend = b->count >= LEND_PAGES;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < b->count; i++) {
        if (b->states[i] == PAGE_UNKNOWN && key_is_new(in, b->refs[i])) {
            r = ingest_add_object(in, PACK_PAGES, b->refs[i], b->pages[i], STASIS_PAGE_SIZE, lend,
                                  err);
            in->stats.pages_new++;
        } else if (b->states[i] == PAGE_UNKNOWN || b->states[i] == PAGE_DISPUTED) {
            r = place_page(in, b->pages[i], lend, &b->refs[i], err);
        }
        in->stats.pages += b->states[i] != PAGE_ZERO;
    }
    if (r == 0 && lend)
        r = ingest_settle_pages(in, err);
    return r;
}

static int ingest_batch(struct page_batch *b, struct error *err)
{
    unsigned slices = (b->count + SLICE_PAGES - 1) / SLICE_PAGES;
    int r = workers_run(b->in->store->workers, slices, look_at_slice, b, err);

    return r < 0 ? r : place_batch(b, err);
}

int ingest_pages(struct ingest *in, const void *const *pages, size_t count,
                 struct page_ref *refs_out, struct error *err)
{
    struct page_batch *b = in->batch;
    int r = 0;

    if (b == NULL)
        b = in->batch = malloc(sizeof(*b));
    if (b == NULL)
        return error_errno(err, ENOMEM, "writing to the store");
    b->in = in;
    for (size_t done = 0; r == 0 && done < count; done += b->count) {
        b->pages = pages + done;
        b->count = (unsigned)min_u64(count - done, BATCH_PAGES);
        r = ingest_batch(b, err);
        if (r == 0)
            memcpy(refs_out + done, b->refs, b->count * sizeof(*refs_out));
    }
    if (r < 0)
        in->failed = true;
    return r;
}
