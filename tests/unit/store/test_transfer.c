/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints that leave one store and enter another. */
#include "helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/transfer.h"

#include <errno.h>
#include <string.h>

/* What a checkpoint consists of, in memory, to be handed on and spoiled. */
struct parcel {
    unsigned page_count;
    struct page_ref *refs;
    uint8_t *pages;
    unsigned node_count;
    struct {
        size_t length;
        uint8_t bytes[MAP_NODE_MAX_SIZE];
    } * nodes;
    char *manifest;
    size_t manifest_length;
};

static int pack_page(struct page_ref ref, const void *bytes, void *context)
{
    struct parcel *p = context;

    p->refs = realloc(p->refs, (p->page_count + 1) * sizeof(*p->refs));
    p->pages = realloc(p->pages, (p->page_count + 1) * (size_t)STASIS_PAGE_SIZE);
    p->refs[p->page_count] = ref;
    memcpy(p->pages + (size_t)p->page_count * STASIS_PAGE_SIZE, bytes, STASIS_PAGE_SIZE);
    p->page_count++;
    return 0;
}

static int pack_node(const struct digest *digest, const void *bytes, size_t length, void *context)
{
    struct parcel *p = context;
    struct digest actual = digest_of(bytes, length);

    assert_true(digest_equal(digest, &actual));
    p->nodes = realloc(p->nodes, (p->node_count + 1) * sizeof(*p->nodes));
    p->nodes[p->node_count].length = length;
    memcpy(p->nodes[p->node_count++].bytes, bytes, length);
    return 0;
}

static struct parcel pack_up(struct store *store, const struct digest *id)
{
    struct parcel p = {0};
    struct transfer_visitor visitor = {pack_node, pack_page, NULL, &p};
    struct error err = ERROR_INIT;
    struct manifest m;

    must(transfer_export(store, id, &visitor, &err), &err);
    must(catalogue_manifest_read(store, id, &m, &err), &err);
    assert_int_equal(manifest_encode(&m, &p.manifest, &p.manifest_length), 0);
    return p;
}

static void parcel_clear(struct parcel *p)
{
    free(p->refs);
    free(p->pages);
    free(p->nodes);
    free(p->manifest);
}

/* Imports a parcel without its nth page or node (UINT32_MAX: whole), nodes last
 * to first. */
static int unpack(struct store *store, const struct parcel *p, unsigned skip_page,
                  unsigned skip_node, struct digest *id_out, struct error *err)
{
    struct transfer_import *im;
    int r;

    must(transfer_import_begin(store, &im, err), err);
    for (unsigned i = 0; i < p->page_count; i++)
        if (i != skip_page)
            must(transfer_import_page(im, p->refs[i], p->pages + (size_t)i * STASIS_PAGE_SIZE, err),
                 err);
    for (unsigned i = p->node_count; i-- > 0;)
        if (i != skip_node)
            must(transfer_import_node(im, p->nodes[i].bytes, p->nodes[i].length, err), err);
    r = transfer_import_finish(im, p->manifest, p->manifest_length, "got", "1", true, id_out, err);
    transfer_import_free(im);
    return r;
}

static struct store *open_other(const struct fixture *f)
{
    _cleanup_free_ char *dir = io_format("%s/other", f->dir);
    struct error err = ERROR_INIT;
    struct store *other;

    must(store_open(dir, true, &other, &err), &err);
    return other;
}

static void a_checkpoint_travels_to_another_store(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(5000, 1);
    struct digest id = commit_disk(f->store, data, 5000 * STASIS_PAGE_SIZE, NULL, NULL), got;
    struct store *other = open_other(f);
    struct error err = ERROR_INIT;
    struct parcel p = pack_up(f->store, &id);

    assert_int_equal(p.page_count, 5000);
    must(unpack(other, &p, UINT32_MAX, UINT32_MAX, &got, &err), &err);
    assert_memory_equal(&got, &id, sizeof(id));
    assert_disk(other, &got, data, 5000 * STASIS_PAGE_SIZE);
    must(catalogue_resolve(other, "got:1", &got, &err), &err);
    /* Once more changes nothing. */
    must(unpack(other, &p, UINT32_MAX, UINT32_MAX, &got, &err), &err);
    assert_memory_equal(&got, &id, sizeof(id));
    assert_store_is_sound(other);
    parcel_clear(&p);
    store_close(other);
}

static void each_page_and_node_leaves_once(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = calloc(300, STASIS_PAGE_SIZE);
    struct parcel p;
    struct digest id;

    /* 256 times the same page in leaves that are the same, too. */
    for (unsigned i = 0; i < 256; i++)
        fill_page(data + (size_t)i * STASIS_PAGE_SIZE, 1);
    fill_page(data + 299 * STASIS_PAGE_SIZE, 2);
    id = commit_disk(f->store, data, 300 * STASIS_PAGE_SIZE, NULL, NULL);
    p = pack_up(f->store, &id);
    assert_int_equal(p.page_count, 2);
    assert_int_equal(p.node_count, 3);
    parcel_clear(&p);
}

/* They wait in memory until the end: a sender must not choose how many. */
static void no_second_blob_is_taken(void **state)
{
    struct fixture *f = *state;
    struct transfer_import *im;
    struct error err = ERROR_INIT;

    must(transfer_import_begin(f->store, &im, &err), &err);
    must(transfer_import_blob(im, "one", 3, &err), &err);
    assert_int_equal(transfer_import_blob(im, "two", 3, &err), -EBADMSG);
    transfer_import_free(im);
}

static void what_is_missing_is_noticed_and_nothing_shows(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct digest id = commit_disk(f->store, data, 100 * STASIS_PAGE_SIZE, NULL, NULL), got;
    struct store *other = open_other(f);
    struct parcel p = pack_up(f->store, &id);
    struct error err = ERROR_INIT;

    for (unsigned i = 0; i < p.page_count; i += 33)
        assert_int_equal(unpack(other, &p, i, UINT32_MAX, &got, &err), -EBADMSG);
    for (unsigned i = 0; i < p.node_count; i++)
        assert_int_equal(unpack(other, &p, UINT32_MAX, i, &got, &err), -EBADMSG);
    assert_int_equal(catalogue_resolve(other, "got:1", &got, &err), -ENOENT);
    assert_store_is_sound(other);
    must(unpack(other, &p, UINT32_MAX, UINT32_MAX, &got, &err), &err);
    parcel_clear(&p);
    store_close(other);
}

static void what_is_here_already_need_not_come(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct digest id = commit_disk(f->store, data, 100 * STASIS_PAGE_SIZE, NULL, NULL), got;
    struct store *other = open_other(f);
    struct parcel p = pack_up(f->store, &id);
    struct error err = ERROR_INIT;

    must(unpack(other, &p, UINT32_MAX, UINT32_MAX, &got, &err), &err);
    must(unpack(other, &p, 5, 0, &got, &err), &err);
    parcel_clear(&p);
    store_close(other);
}

static void a_page_under_a_wrong_name_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t page[STASIS_PAGE_SIZE], zero[STASIS_PAGE_SIZE] = {0};
    struct error err = ERROR_INIT;
    struct transfer_import *im;
    struct page_ref ref;

    fill_page(page, 1);
    ref = page_ref_of(page);
    must(transfer_import_begin(f->store, &im, &err), &err);
    ref.lo ^= 1;
    assert_int_equal(transfer_import_page(im, ref, page, &err), -EBADMSG);
    assert_int_equal(transfer_import_page(im, (struct page_ref){0}, zero, &err), -EBADMSG);
    assert_int_equal(transfer_import_page(im, page_ref_of(zero), zero, &err), -EBADMSG);
    transfer_import_free(im);
}

static void a_node_that_is_none_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[MAP_NODE_MAX_SIZE] = {0};
    struct error err = ERROR_INIT;
    struct transfer_import *im;

    must(transfer_import_begin(f->store, &im, &err), &err);
    assert_true(transfer_import_node(im, bytes, sizeof(bytes), &err) < 0);
    assert_true(transfer_import_node(im, bytes, 0, &err) < 0);
    transfer_import_free(im);
}

static void other_variants_of_the_sender_are_translated(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(130, 1);
    struct digest id = commit_disk(f->store, data, 130 * STASIS_PAGE_SIZE, NULL, NULL), got;
    struct store *other = open_other(f);
    struct error err = ERROR_INIT;
    struct transfer_import *im;
    struct map_node leaf = {.level = 0}, root = {.level = 1};
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct manifest m;
    char *text;
    size_t length;

    /* A sender for whom every page is variant 7 of its key. */
    must(transfer_import_begin(other, &im, &err), &err);
    for (unsigned i = 0; i < 130; i++) {
        const uint8_t *page = data + (size_t)i * STASIS_PAGE_SIZE;
        struct page_ref ref = page_ref_with_variant(page_ref_of(page), 7);

        /* With short keys two pages may share one; give the second another. */
        for (unsigned k = 0; k < i; k++)
            if (page_ref_same_key(page_ref_of(data + (size_t)k * STASIS_PAGE_SIZE), ref))
                ref = page_ref_with_variant(ref, (uint16_t)(page_ref_variant(ref) + 1));
        must(transfer_import_page(im, ref, page, &err), &err);
        leaf.present |= UINT32_C(1) << i % MAP_LEAF_FANOUT;
        leaf.pages[i % MAP_LEAF_FANOUT] = ref;
        if ((i + 1) % MAP_LEAF_FANOUT == 0 || i == 129) {
            length = map_node_encode(&leaf, bytes);
            must(transfer_import_node(im, bytes, length, &err), &err);
            root.present |= UINT32_C(1) << i / MAP_LEAF_FANOUT;
            root.children[i / MAP_LEAF_FANOUT] = digest_of(bytes, length);
            leaf = (struct map_node){.level = 0};
        }
    }
    length = map_node_encode(&root, bytes);
    must(transfer_import_node(im, bytes, length, &err), &err);
    struct digest root_digest = digest_of(bytes, length);

    make_manifest(&m, &root_digest, 130 * STASIS_PAGE_SIZE);
    assert_int_equal(manifest_encode(&m, &text, &length), 0);
    must(transfer_import_finish(im, text, length, NULL, NULL, false, &got, &err), &err);
    transfer_import_free(im);
    free(text);
    assert_disk(other, &got, data, 130 * STASIS_PAGE_SIZE);
    assert_store_is_sound(other);
    store_close(other);
    (void)id;
}

/* Nodes that share children: 2^41 paths, ten nodes. A walk that follows every
 * path would never end. */
static void a_map_that_unfolds_endlessly_is_walked_once(void **state)
{
    struct fixture *f = *state;
    uint8_t page[STASIS_PAGE_SIZE], bytes[MAP_NODE_MAX_SIZE];
    struct map_node node = {.level = 0, .present = UINT32_MAX};
    struct error err = ERROR_INIT;
    struct transfer_import *im;
    struct store_usage usage;
    struct digest digest, id;
    struct manifest m;
    size_t length;
    char *text;

    fill_page(page, 1);
    must(transfer_import_begin(f->store, &im, &err), &err);
    must(transfer_import_page(im, page_ref_of(page), page, &err), &err);
    for (unsigned i = 0; i < MAP_LEAF_FANOUT; i++)
        node.pages[i] = page_ref_of(page);
    for (unsigned level = 0; level < 9; level++) {
        length = map_node_encode(&node, bytes);
        digest = digest_of(bytes, length);
        must(transfer_import_node(im, bytes, length, &err), &err);
        node = (struct map_node){.level = (uint8_t)(level + 1), .present = UINT16_MAX};
        for (unsigned i = 0; i < MAP_INNER_FANOUT; i++)
            node.children[i] = digest;
    }
    make_manifest(&m, &digest, (UINT64_C(1) << 37) * STASIS_PAGE_SIZE);
    assert_int_equal(manifest_encode(&m, &text, &length), 0);
    must(transfer_import_finish(im, text, length, NULL, NULL, false, &id, &err), &err);
    transfer_import_free(im);
    free(text);
    assert_store_is_sound(f->store);
    must(store_usage_get(f->store, &usage, &err), &err);
    assert_true(usage.logical_bytes == (UINT64_C(1) << 49));
    assert_int_equal(usage.unique_bytes, STASIS_PAGE_SIZE);
}

static void pages_beyond_the_end_of_a_map_are_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t page[STASIS_PAGE_SIZE], bytes[MAP_NODE_MAX_SIZE];
    struct map_node leaf = {.level = 0};
    struct error err = ERROR_INIT;
    struct transfer_import *im;
    struct digest digest, id;
    struct manifest m;
    size_t length;
    char *text;

    fill_page(page, 1);
    leaf.present = 3;
    leaf.pages[0] = leaf.pages[1] = page_ref_of(page);
    length = map_node_encode(&leaf, bytes);
    digest = digest_of(bytes, length);
    must(transfer_import_begin(f->store, &im, &err), &err);
    must(transfer_import_page(im, page_ref_of(page), page, &err), &err);
    must(transfer_import_node(im, bytes, length, &err), &err);
    make_manifest(&m, &digest, STASIS_PAGE_SIZE);
    assert_int_equal(manifest_encode(&m, &text, &length), 0);
    assert_int_equal(transfer_import_finish(im, text, length, NULL, NULL, false, &id, &err),
                     -EBADMSG);
    transfer_import_free(im);
    free(text);
}

/* ---- usage ---- */

static void usage_counts_logical_unique_and_garbage(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(100, 1);
    struct digest first = commit_disk(f->store, data, 100 * STASIS_PAGE_SIZE, NULL, NULL);
    struct error err = ERROR_INIT;
    struct store_usage u;
    uint64_t unique;

    must(catalogue_machine_create(f->store, "web", &first, &err), &err);
    fill_page(data + 50 * STASIS_PAGE_SIZE, 1000);
    commit_disk(f->store, data, 100 * STASIS_PAGE_SIZE, "web", "a");
    must(store_usage_get(f->store, &u, &err), &err);
    assert_int_equal(u.checkpoints, 2);
    assert_int_equal(u.machines, 1);
    assert_int_equal(u.images, 0);
    assert_int_equal(u.logical_bytes, 200 * STASIS_PAGE_SIZE);
    assert_int_equal(u.unique_bytes, 101 * STASIS_PAGE_SIZE);
    assert_int_equal(u.garbage_bytes, 0);
    assert_int_equal(u.packs, 4);
    assert_true(u.stored_bytes > 100 * 2048 && u.stored_bytes < 101 * STASIS_PAGE_SIZE);
    assert_true(u.metadata_bytes > 0 && u.free_bytes > 0);
    must(store_usage_machine(f->store, "web", &unique, &err), &err);
    assert_int_equal(unique, STASIS_PAGE_SIZE);
    must(catalogue_machine_remove(f->store, "web", &err), &err);
    must(store_usage_get(f->store, &u, &err), &err);
    assert_int_equal(u.unique_bytes, 100 * STASIS_PAGE_SIZE);
    assert_int_equal(u.garbage_bytes, STASIS_PAGE_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_checkpoint_travels_to_another_store),
        TEST(each_page_and_node_leaves_once),
        TEST(no_second_blob_is_taken),
        TEST(what_is_missing_is_noticed_and_nothing_shows),
        TEST(what_is_here_already_need_not_come),
        TEST(a_page_under_a_wrong_name_is_refused),
        TEST(a_node_that_is_none_is_refused),
        TEST(other_variants_of_the_sender_are_translated),
        TEST(a_map_that_unfolds_endlessly_is_walked_once),
        TEST(pages_beyond_the_end_of_a_map_are_refused),
        TEST(usage_counts_logical_unique_and_garbage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
