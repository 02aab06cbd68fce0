/* SPDX-License-Identifier: Apache-2.0 */
#include "store_fuzz.h"

#include "fuzz.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "store/ingest.h"
#include "store/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

enum { PAGES = 70, CHECKPOINTS = 2, FILES_MAX = 32 };

struct file {
    char *name; /* below the store */
    char *data;
    size_t size;
};

static char root[64];
static char *store_dir;
static struct file files[FILES_MAX];
static size_t file_count;
static struct digest ids[CHECKPOINTS];

/* ---- the store as it should be ---- */

static uint8_t page_byte(unsigned checkpoint, size_t offset)
{
    size_t page = offset / STASIS_PAGE_SIZE;

    if (page % 9 == 8)
        return 0;
    return (uint8_t)((page + (page % 5 == 1 ? checkpoint * 100 : 0)) * 7 + offset % 251 + 1);
}

static uint8_t *disk_of(unsigned checkpoint)
{
    uint8_t *bytes = malloc(PAGES * STASIS_PAGE_SIZE);

    MUST(bytes != NULL);
    for (size_t i = 0; i < PAGES * STASIS_PAGE_SIZE; i++)
        bytes[i] = page_byte(checkpoint, i);
    return bytes;
}

/* A warm checkpoint would need a memory: the state's blob stands alone. */
static int commit(struct store *store, unsigned checkpoint, const char *machine, const char *image,
                  struct digest *id_out, struct error *err)
{
    _cleanup_free_ uint8_t *bytes = disk_of(checkpoint);
    _cleanup_free_ struct manifest *m = calloc(1, sizeof(*m));
    struct ingest *in = NULL;
    struct digest root_digest;
    int r = ingest_begin(store, &in, err);

    MUST(m != NULL);
    if (r == 0)
        r = ingest_memory(in, bytes, PAGES * STASIS_PAGE_SIZE, &root_digest, err);
    if (r == 0) {
        *m = (struct manifest){.kind = CHECKPOINT_COLD, .created_us = 1000 + checkpoint};
        m->config.vcpus = 1;
        m->config.memory_bytes = 64u << 20;
        m->config.disk_count = 1;
        r = manifest_space_set(m, "disk0", PAGES * STASIS_PAGE_SIZE, &root_digest);
    }
    if (r == 0) {
        struct ingest_commit how = {.manifest = m,
                                    .machine = machine,
                                    .name = machine != NULL ? "one" : NULL,
                                    .set_head = machine != NULL,
                                    .image = image,
                                    .tag = image != NULL ? "1" : NULL,
                                    .replace_tag = true};

        r = ingest_commit(in, &how, id_out, err);
    }
    ingest_free(in);
    return r;
}

static void remember_files(const char *below)
{
    _cleanup_free_ char *path = io_format("%s%s", store_dir, below);
    _cleanup_closedir_ DIR *dir = opendir(path);
    const struct dirent *entry;

    MUST(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        _cleanup_free_ char *name = io_format("%s/%s", below, entry->d_name);
        _cleanup_free_ char *whole = io_format("%s%s", store_dir, name);
        struct stat st;

        if (entry->d_name[0] == '.' || lstat(whole, &st) < 0)
            continue;
        MUST(file_count < FILES_MAX);
        if (S_ISDIR(st.st_mode)) {
            files[file_count++] = (struct file){.name = steal_pointer(name)};
            remember_files(files[file_count - 1].name);
            continue;
        }
        struct file *f = &files[file_count++];

        MUST(io_read_file(AT_FDCWD, whole, 1 << 24, &f->data, &f->size) == 0);
        f->name = steal_pointer(name);
    }
}

static void clean_up(void)
{
    io_remove_tree(root);
    for (size_t i = 0; i < file_count; i++) {
        free(files[i].name);
        free(files[i].data);
    }
    free(store_dir);
}

static void make_store(void)
{
    struct store *store;

    snprintf(root, sizeof(root), "/dev/shm/stasis-fuzz-XXXXXX");
    if (mkdtemp(root) == NULL) {
        snprintf(root, sizeof(root), "/tmp/stasis-fuzz-XXXXXX");
        MUST(mkdtemp(root) != NULL);
    }
    store_dir = io_format("%s/store", root);
    atexit(clean_up);
    MUST(store_open(store_dir, true, &store, NULL) == 0);
    MUST(commit(store, 0, NULL, "base", &ids[0], NULL) == 0);
    MUST(catalogue_machine_create(store, "web", &ids[0], NULL) == 0);
    MUST(commit(store, 1, "web", NULL, &ids[1], NULL) == 0);
    store_close(store);
    remember_files("");
}

const char *fuzz_store_copy(void)
{
    if (store_dir == NULL)
        make_store();
    io_remove_tree(store_dir);
    MUST(mkdir(store_dir, 0700) == 0);
    for (size_t i = 0; i < file_count; i++) {
        _cleanup_free_ char *path = io_format("%s%s", store_dir, files[i].name);

        if (files[i].data == NULL) {
            MUST(mkdir(path, 0700) == 0);
            continue;
        }
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        MUST(fd >= 0 && io_write_full(fd, files[i].data, files[i].size) == 0);
    }
    return store_dir;
}

/* ---- using it ---- */

static struct error last;

/* Whatever fails says so. */
static bool good(int r)
{
    MUST(r >= 0 || (last.message[0] != '\0' && last.status != STATUS_OK));
    last = ERROR_INIT;
    return r >= 0;
}

static void check_bytes(const struct digest *id, size_t offset, const uint8_t *bytes, size_t length)
{
    for (unsigned c = 0; c < CHECKPOINTS; c++)
        for (size_t i = 0; digest_equal(id, &ids[c]) && i < length; i++)
            MUST(bytes[i] == page_byte(c, offset + i));
}

static void read_space(struct store *store, const struct digest *id,
                       const struct manifest_space *what)
{
    uint8_t bytes[STASIS_PAGE_SIZE];
    struct space *space;

    if (!good(space_open(store, &what->root, what->size_bytes, &space, &last)))
        return;
    for (uint64_t at = 0; at < what->size_bytes && at < 2 * PAGES * STASIS_PAGE_SIZE;
         at += STASIS_PAGE_SIZE) {
        size_t length =
            what->size_bytes - at < sizeof(bytes) ? what->size_bytes - at : sizeof(bytes);

        if (good(space_read(space, at, bytes, length, &last)))
            check_bytes(id, at, bytes, length);
    }
    space_close(space);
}

static void use_checkpoint(struct store *store, const struct digest *id)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));

    MUST(m != NULL);
    if (!good(catalogue_manifest_read(store, id, m, &last)))
        return;
    for (uint32_t i = 0; i < m->space_count; i++)
        read_space(store, id, &m->spaces[i]);
}

static void use_lists(struct store *store)
{
    struct catalogue_checkpoint *checkpoints;
    struct catalogue_machine *machines;
    struct catalogue_image *images;
    size_t count;
    struct digest id;

    if (good(catalogue_checkpoint_list(store, NULL, &checkpoints, &count, &last))) {
        for (size_t i = 0; i < count; i++)
            use_checkpoint(store, &checkpoints[i].id);
        catalogue_checkpoints_free(checkpoints, count);
    }
    if (good(catalogue_machine_list(store, &machines, &count, &last))) {
        for (size_t i = 0; i < count; i++)
            good(catalogue_resolve(store, machines[i].name, &id, &last));
        catalogue_machines_free(machines, count);
    }
    if (good(catalogue_image_list(store, &images, &count, &last))) {
        for (size_t i = 0; i < count; i++)
            good(catalogue_resolve(store, images[i].name, &id, &last));
        catalogue_images_free(images, count);
    }
}

static void find(const struct verify_finding *finding, void *context)
{
    (void)context;
    MUST(finding->file != NULL && finding->what != NULL);
}

static void check_whole(struct store *store)
{
    struct verify_options options = {.finding = find};
    struct verify_result result;
    struct store_usage usage;
    uint64_t unique;

    good(store_verify(store, &options, &result, &last));
    good(store_usage_get(store, &usage, &last));
    good(store_usage_machine(store, "web", &unique, &last));
}

static void change_it(struct store *store)
{
    struct digest id;

    /* What is written now must be good, whatever was there before. */
    if (good(commit(store, 1, NULL, "again", &id, &last)))
        use_checkpoint(store, &id);
    if (good(catalogue_image_remove(store, "base", "1", &last)))
        good(catalogue_checkpoint_remove(store, &ids[0], &last));
    good(catalogue_machine_remove(store, "web", &last));
}

void fuzz_store_use(void)
{
    struct store *store;

    last = ERROR_INIT;
    if (!good(store_open(store_dir, false, &store, &last)))
        return;
    for (unsigned c = 0; c < CHECKPOINTS; c++)
        use_checkpoint(store, &ids[c]);
    use_lists(store);
    check_whole(store);
    change_it(store);
    check_whole(store);
    store_close(store);
}
