/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store-stream/sample.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/state.h"
#include "store/catalogue.h"
#include "store/ingest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define CREATED_US 1767225600000000 /* 2026-01-01T00:00:00Z */

char *sample_dir_new(void)
{
    char *dir = io_format("/tmp/stasis-test-XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

void sample_dir_free(char *dir)
{
    assert_int_equal(io_remove_tree(dir), 0);
    free(dir);
}

struct store *sample_store_open(const char *dir, const char *name)
{
    _cleanup_free_ char *path = io_format("%s/%s", dir, name);
    struct error err = ERROR_INIT;
    struct store *store = NULL;

    if (store_open(path, true, &store, &err) < 0)
        fail_msg("%s", err.message);
    return store;
}

/* SplitMix64 (Steele, Lea, Flood 2014): any seed gives good bytes. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void fill_random(uint8_t *page, uint64_t seed)
{
    for (size_t i = 0; i < STASIS_PAGE_SIZE; i += 8) {
        uint64_t v = next_random(&seed);
        memcpy(page + i, &v, 8);
    }
}

/* One page in five is zero, two compress well, two not at all. */
static void fill_page(uint8_t *page, uint64_t seed, uint64_t number)
{
    memset(page, 0, STASIS_PAGE_SIZE);
    if (number % 5 == 0)
        return;
    if (number % 5 < 3)
        snprintf((char *)page, STASIS_PAGE_SIZE, "page %llu of %llu", (unsigned long long)number,
                 (unsigned long long)seed);
    else
        fill_random(page, seed * 1000003 + number);
}

static struct digest ingest_space(struct ingest *in, uint64_t seed, uint64_t pages,
                                  uint64_t shared_from)
{
    _cleanup_free_ uint8_t *bytes = calloc(pages, STASIS_PAGE_SIZE);
    struct error err = ERROR_INIT;
    struct digest root;

    assert_non_null(bytes);
    for (uint64_t i = 0; i < pages; i++)
        fill_page(bytes + i * STASIS_PAGE_SIZE, i < shared_from ? seed : seed + 7, i);
    if (ingest_memory(in, bytes, pages * STASIS_PAGE_SIZE, &root, &err) < 0)
        fail_msg("%s", err.message);
    return root;
}

static void ingest_state(struct ingest *in, uint32_t seed, struct manifest *m)
{
    _cleanup_(buffer_clear) struct buffer state = {0};
    struct error err = ERROR_INIT;
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_SERIAL, 0, 1, 0);
    state_put_u32(&w, seed);
    state_writer_end(&w);
    assert_int_equal(state_writer_finish(&w, &state), 0);
    state_writer_clear(&w);
    m->has_state = true;
    m->state_bytes = state.length;
    if (ingest_blob(in, state.data, state.length, &m->state, &err) < 0)
        fail_msg("%s", err.message);
}

static struct digest commit(struct ingest *in, const struct manifest *m)
{
    const struct ingest_commit commit = {
        .manifest = m, .image = "sample", .tag = "1", .replace_tag = true};
    struct error err = ERROR_INIT;
    struct digest id;

    if (ingest_commit(in, &commit, &id, &err) < 0)
        fail_msg("%s", err.message);
    ingest_free(in);
    return id;
}

static struct ingest *begin(struct store *store)
{
    struct error err = ERROR_INIT;
    struct ingest *in;

    if (ingest_begin(store, &in, &err) < 0)
        fail_msg("%s", err.message);
    return in;
}

struct digest sample_checkpoint(struct store *store, uint32_t seed)
{
    struct manifest m = {.kind = CHECKPOINT_WARM, .created_us = CREATED_US};
    struct ingest *in = begin(store);

    m.config.vcpus = 1;
    m.config.memory_bytes = SAMPLE_MEMORY_PAGES * STASIS_PAGE_SIZE;
    m.config.disk_count = 1;
    struct digest memory = ingest_space(in, seed, SAMPLE_MEMORY_PAGES, SAMPLE_MEMORY_PAGES);
    struct digest disk = ingest_space(in, seed, SAMPLE_DISK_PAGES, SAMPLE_DISK_PAGES / 2);
    manifest_space_set(&m, "memory", m.config.memory_bytes, &memory);
    manifest_space_set(&m, "disk0", SAMPLE_DISK_PAGES * STASIS_PAGE_SIZE, &disk);
    ingest_state(in, seed, &m);
    return commit(in, &m);
}

struct digest sample_big_checkpoint(struct store *store, uint32_t seed, uint64_t pages)
{
    struct manifest m = {.kind = CHECKPOINT_COLD, .created_us = CREATED_US};
    struct error err = ERROR_INIT;
    struct map_builder *b;
    struct digest root;
    uint8_t page[STASIS_PAGE_SIZE];

    struct ingest *in = begin(store);
    assert_int_equal(map_builder_begin(in, NULL, 0, pages, &b, &err), 0);
    for (uint64_t i = 0; i < pages; i++) {
        struct page_ref ref;
        fill_random(page, (uint64_t)seed * 1000003 + i);
        assert_int_equal(ingest_page(in, page, &ref, &err), 0);
        assert_int_equal(map_builder_set(b, i, ref, &err), 0);
    }
    assert_int_equal(map_builder_finish(b, &root, &err), 0);
    map_builder_free(b);
    m.config.vcpus = 1;
    m.config.memory_bytes = 64u << 20;
    m.config.disk_count = 1;
    manifest_space_set(&m, "disk0", pages * STASIS_PAGE_SIZE, &root);
    manifest_space_set(&m, "kernel", pages * STASIS_PAGE_SIZE, &root);
    return commit(in, &m);
}

static void assert_same_space(struct store *a, const struct manifest_space *in_a, struct store *b,
                              const struct manifest_space *in_b)
{
    enum { STEP = 1 << 20 };
    _cleanup_free_ uint8_t *bytes_a = malloc(STEP);
    _cleanup_free_ uint8_t *bytes_b = malloc(STEP);
    struct space *space_a, *space_b;

    assert_non_null(in_b);
    assert_int_equal(in_a->size_bytes, in_b->size_bytes);
    assert_int_equal(space_open(a, &in_a->root, in_a->size_bytes, &space_a, NULL), 0);
    assert_int_equal(space_open(b, &in_b->root, in_b->size_bytes, &space_b, NULL), 0);
    for (uint64_t at = 0; at < in_a->size_bytes; at += STEP) {
        size_t step = in_a->size_bytes - at < STEP ? (size_t)(in_a->size_bytes - at) : STEP;
        assert_int_equal(space_read(space_a, at, bytes_a, step, NULL), 0);
        assert_int_equal(space_read(space_b, at, bytes_b, step, NULL), 0);
        assert_memory_equal(bytes_a, bytes_b, step);
    }
    space_close(space_a);
    space_close(space_b);
}

static void assert_same_state(struct store *a, struct store *b, const struct manifest *m)
{
    _cleanup_free_ void *data_a = NULL;
    _cleanup_free_ void *data_b = NULL;
    size_t length_a, length_b;

    assert_int_equal(store_blob_read(a, &m->state, &data_a, &length_a, NULL), 0);
    assert_int_equal(store_blob_read(b, &m->state, &data_b, &length_b, NULL), 0);
    assert_int_equal(length_a, length_b);
    assert_memory_equal(data_a, data_b, length_a);
}

void sample_assert_same(struct store *a, const struct digest *id_a, struct store *b,
                        const struct digest *id_b)
{
    struct error err = ERROR_INIT;
    struct manifest in_a, in_b;

    if (catalogue_manifest_read(a, id_a, &in_a, &err) < 0 ||
        catalogue_manifest_read(b, id_b, &in_b, &err) < 0)
        fail_msg("%s", err.message);
#ifndef STASIS_KEY_BITS /* with many collisions maps are rewritten on arrival */
    assert_true(digest_equal(id_a, id_b));
#endif
    assert_int_equal(in_a.space_count, in_b.space_count);
    for (uint32_t i = 0; i < in_a.space_count; i++)
        assert_same_space(a, &in_a.spaces[i], b, manifest_space_find(&in_b, in_a.spaces[i].name));
    assert_int_equal(in_a.has_state, in_b.has_state);
    if (in_a.has_state)
        assert_same_state(a, b, &in_a);
}

bool sample_store_is_empty(struct store *store)
{
    struct catalogue_checkpoint *list;
    size_t count;

    assert_int_equal(catalogue_checkpoint_list(store, NULL, &list, &count, NULL), 0);
    catalogue_checkpoints_free(list, count);
    return count == 0;
}
