/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_store DIR: a store in DIR/store for another reader to read, and in DIR/expected
 * what he should find: ID/SPACE for each space of each checkpoint, ID/state, and the
 * names of all. What is expected is written from what went in, not read back.
 *
 * The store has what the format has: both kinds of checkpoints, maps of several levels
 * with shared subtrees, spaces that are no multiple of a page, of zeros only, and of the
 * same pages, groups that compress and that do not, packs that were written again or are
 * condemned.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "imgfmt/state.h"
#include "store/catalogue.h"
#include "store/gc.h"
#include "store/ingest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define MEMORY_BYTES (UINT64_C(40) << 20)

struct made {
    const char *dir;
    struct store *store;
};

struct content {
    const char *space;
    const uint8_t *bytes;
    uint64_t size;
    const struct digest *base; /* of a map of as many pages, or NULL */
    const uint8_t *base_bytes;
};

static void need(int r, const struct error *err)
{
    if (r >= 0)
        return;
    fprintf(stderr, "make_store: %s\n", err->message);
    exit(1);
}

static void need_that(bool condition, const char *what)
{
    struct error err = ERROR_INIT;

    if (!condition)
        need(error_set(&err, STATUS_FAILED, EINVAL, "%s", what), &err);
}

/* ---- contents ---- */

static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ (z >> 27);
}

/* A third each: like nothing else, of few letters, of one. */
static void fill_page(uint8_t *page, uint64_t seed)
{
    uint64_t state = seed;

    for (size_t i = 0; i < PAGE; i++)
        page[i] = seed % 3 == 0   ? (uint8_t)random_next(&state)
                  : seed % 3 == 1 ? (uint8_t)('a' + (seed + i * i) % 7)
                                  : (uint8_t)(1 + seed % 255);
}

static uint8_t *zeros(uint64_t size)
{
    uint8_t *bytes = calloc(1, align_up(size, PAGE));

    need_that(bytes != NULL, "out of memory");
    return bytes;
}

/* `count` pages anywhere. */
static void scatter(uint8_t *bytes, uint64_t size, unsigned count, uint64_t seed)
{
    uint64_t state = seed;

    for (unsigned i = 0; i < count; i++)
        fill_page(bytes + random_next(&state) % (size / PAGE) * PAGE, seed * 1000 + i);
}

/* ---- what is expected ---- */

static void expect(const struct made *made, const char *hex, const char *name, const void *bytes,
                   uint64_t size)
{
    _cleanup_free_ char *dir = io_format("%s/expected/%s", made->dir, hex);
    _cleanup_free_ char *path = io_format("%s/%s", dir, name);

    need_that(io_make_dirs(dir, 0700) == 0, "cannot make a directory");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    need_that(fd >= 0 && io_pwrite_full(fd, bytes, size, 0) == 0, "cannot write");
    close(fd);
}

/* ---- checkpoints ---- */

/* What differs from the base. */
static struct digest make_map(struct ingest *in, const struct content *c)
{
    uint64_t pages = div_round_up(c->size, PAGE);
    struct error err = ERROR_INIT;
    struct map_builder *b;
    struct digest root;

    if (c->base == NULL) {
        need(ingest_memory(in, c->bytes, c->size, &root, &err), &err);
        return root;
    }
    need(map_builder_begin(in, c->base, pages, pages, &b, &err), &err);
    for (uint64_t i = 0; i < pages; i++)
        if (memcmp(c->bytes + i * PAGE, c->base_bytes + i * PAGE, PAGE) != 0)
            need(map_builder_put(b, i, c->bytes + i * PAGE, true, &err), &err);
    need(map_builder_finish(b, &root, &err), &err);
    map_builder_free(b);
    return root;
}

static void put_state(struct ingest *in, struct manifest *m, struct buffer *out)
{
    struct error err = ERROR_INIT;
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_VCPU_MP_STATE, 0, 1, 0);
    state_put_u32(&w, 3);
    state_writer_end(&w);
    state_writer_begin(&w, STATE_SERIAL, 0, 1, 0);
    state_put_bytes(&w, "seventeen letters", 17);
    state_writer_end(&w);
    need_that(state_writer_finish(&w, out) == 0, "cannot make a state");
    state_writer_clear(&w);
    need(ingest_blob(in, out->data, out->length, &m->state, &err), &err);
    m->kind = CHECKPOINT_WARM;
    m->has_state = true;
    m->state_bytes = out->length;
}

static void expect_all(const struct made *made, const struct digest *id, const struct content *list,
                       const struct buffer *state)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(id, hex);
    for (const struct content *c = list; c->space != NULL; c++)
        expect(made, hex, c->space, c->bytes, c->size);
    if (state->length != 0)
        expect(made, hex, "state", state->data, state->length);
}

static struct digest make_checkpoint(const struct made *made, const struct content *list,
                                     struct ingest_commit commit, bool warm,
                                     struct digest *root_out)
{
    _cleanup_(buffer_clear) struct buffer state = {0};
    struct error err = ERROR_INIT;
    struct manifest *m = calloc(1, sizeof(*m));
    struct ingest *in;
    struct digest id;

    need_that(m != NULL, "out of memory");
    need(ingest_begin(made->store, &in, &err), &err);
    m->created_us = clock_wall_us();
    m->config.vcpus = 2;
    m->config.memory_bytes = MEMORY_BYTES;
    snprintf(m->config.cmdline, sizeof(m->config.cmdline),
             "a \"quoted\" \\ word, gr\xc3\xbc\xc3\x9f");
    for (const struct content *c = list; c->space != NULL; c++) {
        struct digest root = make_map(in, c);

        m->config.disk_count += strncmp(c->space, "disk", 4) == 0;
        need_that(manifest_space_set(m, c->space, c->size, &root) == 0, "too many spaces");
        if (root_out != NULL && c == list)
            *root_out = root;
    }
    if (warm)
        put_state(in, m, &state);
    commit.manifest = m;
    need(ingest_commit(in, &commit, &id, &err), &err);
    ingest_free(in);
    free(m);
    expect_all(made, &id, list, &state);
    return id;
}

static struct digest make_cold(const struct made *made, const char *tag, unsigned seed)
{
    enum { DISK_PAGES = 3000, KERNEL_BYTES = 123457, SMALL_BYTES = 13 * 512 };
    uint8_t *disk = zeros(DISK_PAGES * PAGE), *kernel = zeros(KERNEL_BYTES),
            *small = zeros(SMALL_BYTES), *empty = zeros(MEMORY_BYTES);
    const struct content list[] = {
        {.space = "disk0", .bytes = disk, .size = DISK_PAGES * PAGE},
        {.space = "disk1", .bytes = small, .size = SMALL_BYTES},
        {.space = "disk2", .bytes = empty, .size = MEMORY_BYTES},
        {.space = "kernel", .bytes = kernel, .size = KERNEL_BYTES},
        {0},
    };
    struct digest id;

    scatter(disk, DISK_PAGES * PAGE, 900, seed);
    memset(small + 100, 'x', SMALL_BYTES - 100);
    memset(kernel, 'k', KERNEL_BYTES);
    id = make_checkpoint(made, list, (struct ingest_commit){.image = "demo", .tag = tag}, false,
                         NULL);
    free(disk);
    free(kernel);
    free(small);
    free(empty);
    return id;
}

/* Two checkpoints of a machine, the second built on the first. */
static void make_warm(const struct made *made, const struct digest *origin)
{
    uint8_t *memory = zeros(MEMORY_BYTES), *later = zeros(MEMORY_BYTES);
    struct content list[] = {{.space = "memory", .bytes = memory, .size = MEMORY_BYTES}, {0}};
    struct ingest_commit commit = {.machine = "web", .name = "first", .set_head = true};
    struct error err = ERROR_INIT;
    struct digest root;

    need(catalogue_machine_create(made->store, "web", origin, &err), &err);
    scatter(memory, MEMORY_BYTES, 700, 77);
    fill_page(memory + MEMORY_BYTES - PAGE, 5);
    make_checkpoint(made, list, commit, true, &root);
    memcpy(later, memory, MEMORY_BYTES);
    scatter(later, MEMORY_BYTES, 30, 78);
    memset(later, 0, 500 * PAGE);
    list[0] = (struct content){"memory", later, MEMORY_BYTES, &root, memory};
    commit.name = "second";
    make_checkpoint(made, list, commit, true, NULL);
    free(memory);
    free(later);
}

/* Some packs are written again, and as somebody is at work, the old ones stay. */
static void collect(const struct made *made, const struct digest *gone)
{
    struct error err = ERROR_INIT;
    struct gc_result result;
    struct ingest *in;
    char hex[DIGEST_HEX_SIZE];
    _cleanup_free_ char *dir = io_format("%s/expected/%s", made->dir, digest_hex(gone, hex));

    need(ingest_begin(made->store, &in, &err), &err);
    need(catalogue_image_remove(made->store, "demo", "gone", &err), &err);
    need(store_gc(made->store, NULL, &result, &err), &err);
    need_that(result.packs_waiting > 0, "no pack was condemned");
    ingest_free(in);
    need_that(io_remove_tree(dir) == 0, "cannot remove a directory");
}

int main(int argc, char **argv)
{
    _cleanup_free_ char *path = NULL;
    struct made made = {0};
    struct error err = ERROR_INIT;
    struct digest cold, gone;

    need_that(argc == 2, "usage: make_store DIR");
    made.dir = argv[1];
    path = io_format("%s/store", made.dir);
    need(store_open(path, true, &made.store, &err), &err);
    cold = make_cold(&made, "1", 1);
    gone = make_cold(&made, "gone", 2);
    make_warm(&made, &cold);
    collect(&made, &gone);
    store_close(made.store);
    return 0;
}
