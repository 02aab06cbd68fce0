/* SPDX-License-Identifier: Apache-2.0 */
#include "helper.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"

#include <string.h>

int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char template[] = "/tmp/stasis-test-store-XXXXXX";
    struct error err = ERROR_INIT;

    if (f == NULL || mkdtemp(template) == NULL)
        return -1;
    f->dir = strdup(template);
    f->store_dir = io_format("%s/store", f->dir);
    *state = f;
    must(store_open(f->store_dir, true, &f->store, &err), &err);
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->store);
    io_remove_tree(f->dir);
    free(f->store_dir);
    free(f->dir);
    free(f);
    return 0;
}

void fixture_reopen(struct fixture *f)
{
    struct error err = ERROR_INIT;

    store_close(steal_pointer(f->store));
    must(store_open(f->store_dir, false, &f->store, &err), &err);
}

void must(int r, const struct error *err)
{
    if (r != 0)
        fail_msg("%d: %s (%s)", r, err->message, err->hint);
}

uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * UINT64_C(0x2545f4914f6cdd1d);
}

void fill_page(void *page, uint64_t seed)
{
    uint64_t *words = page;
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    words[0] = seed + 1;
    for (size_t i = 1; i < STASIS_PAGE_SIZE / 16; i++)
        words[i] = random_next(&state);
    for (size_t i = STASIS_PAGE_SIZE / 16; i < STASIS_PAGE_SIZE / 8; i++)
        words[i] = seed + i % 7;
}

uint8_t *make_pages(size_t pages, uint64_t first_seed)
{
    uint8_t *buf = malloc(pages * STASIS_PAGE_SIZE + 1);

    assert_non_null(buf);
    for (size_t i = 0; i < pages; i++)
        fill_page(buf + i * STASIS_PAGE_SIZE, first_seed + i);
    return buf;
}

void make_manifest(struct manifest *m, const struct digest *root, uint64_t size_bytes)
{
    *m = (struct manifest){.kind = CHECKPOINT_COLD, .created_us = clock_wall_us()};
    m->config.vcpus = 1;
    m->config.memory_bytes = UINT64_C(64) << 20;
    /* A disk has whole sectors; a kernel may have any size. */
    m->config.disk_count = size_bytes != 0 && size_bytes % 512 == 0;
    assert_int_equal(
        manifest_space_set(m, m->config.disk_count ? "disk0" : "kernel", size_bytes, root), 0);
}

struct digest commit_disk(struct store *store, const void *data, uint64_t size_bytes,
                          const char *machine, const char *name)
{
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct digest root, id;
    struct manifest m;

    must(ingest_begin(store, &in, &err), &err);
    must(ingest_memory(in, data, size_bytes, &root, &err), &err);
    make_manifest(&m, &root, size_bytes);
    struct ingest_commit commit = {
        .manifest = &m, .machine = machine, .name = name, .set_head = machine != NULL};

    must(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(in);
    return id;
}

struct digest commit_warm(struct store *store, struct digest *state_out)
{
    struct error err = ERROR_INIT;
    struct map_builder *b;
    struct ingest *in = NULL;
    struct digest root, id;
    struct manifest m;

    must(ingest_begin(store, &in, &err), &err);
    must(ingest_memory(in, "abc", 3, &root, &err), &err);
    make_manifest(&m, &root, 3);
    must(map_builder_begin(in, NULL, 0, m.config.memory_bytes / STASIS_PAGE_SIZE, &b, &err), &err);
    must(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    must(manifest_space_set(&m, "memory", m.config.memory_bytes, &root), &err);
    must(ingest_blob(in, "state", 5, &m.state, &err), &err);
    m.kind = CHECKPOINT_WARM;
    m.has_state = true;
    m.state_bytes = 5;
    struct ingest_commit commit = {.manifest = &m};

    must(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(in);
    if (state_out != NULL)
        *state_out = m.state;
    return id;
}

int read_disk(struct store *store, const struct digest *checkpoint, uint8_t **out,
              uint64_t *size_out, struct error *err)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    _cleanup_free_ uint8_t *buf = NULL;
    const struct manifest_space *disk;
    struct space *space;
    int r = catalogue_manifest_read(store, checkpoint, m, err);

    *out = NULL;
    if (r < 0)
        return r;
    disk = &m->spaces[0];
    assert_int_equal(m->space_count, 1);
    r = space_open(store, &disk->root, disk->size_bytes, &space, err);
    if (r < 0)
        return r;
    buf = malloc(disk->size_bytes + 1);
    r = space_read(space, 0, buf, disk->size_bytes, err);
    space_close(space);
    if (r < 0)
        return r;
    *size_out = disk->size_bytes;
    *out = steal_pointer(buf);
    return 0;
}

void assert_disk(struct store *store, const struct digest *checkpoint, const void *data,
                 uint64_t size_bytes)
{
    struct error err = ERROR_INIT;
    _cleanup_free_ uint8_t *buf = NULL;
    uint64_t size;

    must(read_disk(store, checkpoint, &buf, &size, &err), &err);
    assert_int_equal(size, size_bytes);
    assert_memory_equal(buf, data, size);
}

static void print_finding(const struct verify_finding *finding, void *context)
{
    (void)context;
    print_error("%s @%llu: %s (%zu checkpoints)\n", finding->file,
                (unsigned long long)finding->offset, finding->what, finding->checkpoint_count);
}

void assert_store_is_sound(struct store *store)
{
    struct verify_options options = {.finding = print_finding};
    struct error err = ERROR_INIT;
    struct verify_result result;

    must(store_verify(store, &options, &result, &err), &err);
    assert_int_equal(result.findings, 0);
}

void assert_dir_is_sound(const char *store_dir)
{
    struct error err = ERROR_INIT;
    struct store *store;

    must(store_open(store_dir, false, &store, &err), &err);
    assert_store_is_sound(store);
    store_close(store);
}

size_t count_files(const struct fixture *f, const char *suffix)
{
    _cleanup_free_ char *path = io_format("%s/packs", f->store_dir);
    _cleanup_closedir_ DIR *dir = opendir(path);
    const struct dirent *entry;
    size_t count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        size_t n = strlen(entry->d_name), m = strlen(suffix);

        count += n > m && strcmp(entry->d_name + n - m, suffix) == 0;
    }
    return count;
}
