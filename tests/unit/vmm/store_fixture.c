/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/vmm/store_fixture.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "store/catalogue.h"

#include <string.h>

int store_fixture_setup(void **state)
{
    struct store_fixture *f = calloc(1, sizeof(*f));
    char template[] = "/tmp/stasis-test-vmm-XXXXXX";
    struct error err = ERROR_INIT;

    if (f == NULL || mkdtemp(template) == NULL)
        return -1;
    f->dir = strdup(template);
    f->machine = io_format("%s/machine", f->dir);
    _cleanup_free_ char *store_dir = io_format("%s/store", f->dir);
    *state = f;
    must(io_make_dirs(f->machine, 0700), &err);
    must(store_open(store_dir, true, &f->store, &err), &err);
    return 0;
}

int store_fixture_teardown(void **state)
{
    struct store_fixture *f = *state;

    store_close(f->store);
    io_remove_tree(f->dir);
    free(f->machine);
    free(f->dir);
    free(f);
    return 0;
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

/* As a cold checkpoint: with one disk of these bytes, and a kernel. */
static void describe(struct manifest *m, const struct digest *root, uint64_t size_bytes)
{
    *m = (struct manifest){.kind = CHECKPOINT_COLD, .created_us = clock_wall_us()};
    m->config.memory_bytes = 64 << 20;
    m->config.vcpus = 1;
    m->config.disk_count = 1;
    assert_int_equal(manifest_space_set(m, "disk0", size_bytes, root), 0);
}

struct space *store_fixture_space(struct store_fixture *f, const void *bytes, uint64_t size_bytes)
{
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct manifest m;
    struct digest root, id;
    struct space *space = NULL;

    must(ingest_begin(f->store, &in, &err), &err);
    must(ingest_memory(in, bytes, size_bytes, &root, &err), &err);
    describe(&m, &root, size_bytes);
    must(ingest_commit(in, &(struct ingest_commit){.manifest = &m}, &id, &err), &err);
    ingest_free(in);
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &manifest_space_find(&m, "disk0")->root, size_bytes, &space, &err),
         &err);
    return space;
}
