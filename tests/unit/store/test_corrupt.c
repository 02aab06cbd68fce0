/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every byte of every file of a store, flipped: nothing crashes, hangs or gives wrong
 * bytes; what is flipped is found or makes no difference; and a pack becomes what it
 * was again. All bytes of the packs and FLIPS or less of each other file; with
 * STASIS_EVERY_BYTE set, all of them.
 */
#include "helper.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/private.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { FLIPS = 1500, FILES_MAX = 32, CHECKPOINTS = 3, PAGES = 6 };

struct file {
    char *path;
    char *bytes;
    size_t length;
};

struct corpus {
    char *dir;
    char *store_dir;
    struct file files[FILES_MAX];
    size_t count;
    uint8_t *data[CHECKPOINTS]; /* PAGES of each */
    struct digest ids[CHECKPOINTS];
    struct buffer description;
};

/* ---- the store ---- */

/* Of little entropy, so that packs are small. */
static void plain_page(uint8_t *page, unsigned seed)
{
    for (size_t i = 0; i < STASIS_PAGE_SIZE; i++)
        page[i] = (uint8_t)(seed + i / 1000);
}

static void append_text(struct buffer *out, const char *text)
{
    buffer_append(out, text != NULL ? text : "-", text != NULL ? strlen(text) + 1 : 2);
}

/* All that the catalogue says: 0, or an error if part of it cannot be read. */
static int describe(struct store *store, struct buffer *out)
{
    struct catalogue_checkpoint *checkpoints = NULL;
    struct catalogue_machine *machines = NULL;
    struct catalogue_image *images = NULL;
    size_t checkpoint_count = 0, machine_count = 0, image_count = 0;
    int r = catalogue_checkpoint_list(store, NULL, &checkpoints, &checkpoint_count, NULL);

    if (r == 0)
        r = catalogue_machine_list(store, &machines, &machine_count, NULL);
    if (r == 0)
        r = catalogue_image_list(store, &images, &image_count, NULL);
    for (size_t i = 0; r == 0 && i < checkpoint_count; i++) {
        append_text(out, checkpoints[i].machine);
        append_text(out, checkpoints[i].name);
        buffer_append(out, &checkpoints[i].id, sizeof(struct digest));
        buffer_append_le64(out, (uint64_t)checkpoints[i].created_us);
    }
    for (size_t i = 0; r == 0 && i < machine_count; i++) {
        append_text(out, machines[i].name);
        buffer_append(out, &machines[i].head, sizeof(struct digest));
        buffer_append(out, &machines[i].origin, sizeof(struct digest));
        buffer_append_le64(out, (uint64_t)machines[i].created_us);
    }
    for (size_t i = 0; r == 0 && i < image_count; i++) {
        append_text(out, images[i].name);
        append_text(out, images[i].tag);
        buffer_append(out, &images[i].id, sizeof(struct digest));
        buffer_append_le64(out, (uint64_t)images[i].created_us);
    }
    catalogue_checkpoints_free(checkpoints, checkpoint_count);
    catalogue_machines_free(machines, machine_count);
    catalogue_images_free(images, image_count);
    return r;
}

static void take_files(struct corpus *c, const char *dir);

/* crashed: its process ends, so to say, with the store open; then the catalogue's log is
 * all there is of it. */
static void fill_store(struct corpus *c, bool crashed)
{
    struct error err = ERROR_INIT;
    struct store *store;

    must(store_open(c->store_dir, true, &store, &err), &err);
    for (unsigned i = 0; i < CHECKPOINTS; i++) {
        c->data[i] = calloc(PAGES, STASIS_PAGE_SIZE);
        for (unsigned p = 0; p < PAGES; p++)
            plain_page(c->data[i] + (size_t)p * STASIS_PAGE_SIZE, p < 2 ? p : 10 * i + p);
        c->ids[i] = commit_disk(store, c->data[i], PAGES * STASIS_PAGE_SIZE, i == 0 ? NULL : "web",
                                i == 0   ? NULL
                                : i == 1 ? "a"
                                         : "b");
        if (i == 0)
            must(catalogue_machine_create(store, "web", &c->ids[0], &err), &err);
    }
    must(catalogue_image_set(store, "debian", "12", &c->ids[1], false, &err), &err);
    must(describe(store, &c->description), &err);
    must(store_index_rebuild(store, &err), &err);
    if (crashed)
        take_files(c, c->store_dir);
    store_close(store);
    if (!crashed)
        take_files(c, c->store_dir);
}

static void take_files(struct corpus *c, const char *dir)
{
    _cleanup_closedir_ DIR *d = opendir(dir);
    const struct dirent *entry;
    struct stat st;

    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        struct file *f = &c->files[c->count];
        char *path = io_format("%s/%s", dir, entry->d_name);

        if (entry->d_name[0] != '.' && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
            take_files(c, path);
        /* The reserve is room on the disk, and nobody reads it. */
        if (entry->d_name[0] == '.' || !S_ISREG(st.st_mode) ||
            strcmp(entry->d_name, "reserve") == 0 ||
            strcmp(entry->d_name, "catalogue.db-shm") == 0) {
            free(path);
            continue;
        }
        assert_true(c->count < FILES_MAX);
        f->path = path;
        assert_int_equal(io_read_file(AT_FDCWD, path, 1 << 20, &f->bytes, &f->length), 0);
        c->count++;
    }
}

static int make_corpus(void **state, bool crashed)
{
    /* Thousands of stores are opened and mended: in memory where there is one. */
    char in_memory[] = "/dev/shm/stasis-test-corrupt-XXXXXX", in_tmp[] = "/tmp/stasis-test-XXXXXX";
    struct corpus *c = calloc(1, sizeof(*c));

    c->dir = strdup(mkdtemp(in_memory) != NULL ? in_memory : mkdtemp(in_tmp));
    c->store_dir = io_format("%s/store", c->dir);
    fill_store(c, crashed);
    *state = c;
    return 0;
}

static int corpus_setup(void **state)
{
    return make_corpus(state, false);
}

static int crashed_setup(void **state)
{
    return make_corpus(state, true);
}

static int corpus_teardown(void **state)
{
    struct corpus *c = *state;

    io_remove_tree(c->dir);
    for (size_t i = 0; i < c->count; i++) {
        free(c->files[i].path);
        free(c->files[i].bytes);
    }
    for (size_t i = 0; i < CHECKPOINTS; i++)
        free(c->data[i]);
    buffer_clear(&c->description);
    free(c->store_dir);
    free(c->dir);
    free(c);
    return 0;
}

/* ---- one flip ---- */

static void put(const char *path, const void *bytes, size_t length)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(io_pwrite_full(fd, bytes, length, 0), 0);
}

/* As it was, but for one byte of one file. */
static void put_store(const struct corpus *c, size_t flipped, size_t offset)
{
    for (const char *const *s = (const char *const[]){"wal", "shm", NULL}; *s != NULL; s++) {
        _cleanup_free_ char *path = io_format("%s/catalogue.db-%s", c->store_dir, *s);

        unlink(path);
    }
    for (size_t i = 0; i < c->count; i++) {
        struct file f = c->files[i];

        if (i == flipped)
            f.bytes[offset] ^= (char)(1u << offset % 8);
        put(f.path, f.bytes, f.length);
        if (i == flipped)
            f.bytes[offset] ^= (char)(1u << offset % 8);
    }
}

struct found {
    const struct corpus *corpus;
    const char *file;
    uint64_t offset; /* what is to be named */
    unsigned hits;   /* a bit for each checkpoint */
    unsigned named;
    unsigned others;
};

static void take_finding(const struct verify_finding *finding, void *context)
{
    struct found *found = context;
    unsigned hits = 0;

    for (size_t i = 0; i < finding->checkpoint_count; i++)
        for (unsigned c = 0; c < CHECKPOINTS; c++)
            if (digest_equal(&finding->checkpoints[i], &found->corpus->ids[c]))
                hits |= 1u << c;
    if (strstr(found->file, finding->file) != NULL && finding->offset == found->offset &&
        hits == found->hits && strstr(finding->what, finding->file) == NULL)
        found->named++;
    else
        found->others++;
}

/* Where the part of a pack begins in which that byte is (stasis-format(5)). */
static uint64_t part_of(const struct file *f, uint64_t offset)
{
    const uint8_t *bytes = (const uint8_t *)f->bytes, *trailer = bytes + f->length - 56;
    uint64_t footer = load_le64(trailer), parity = load_le32(trailer + 24);
    uint64_t groups_end = footer - parity - 56;

    if (offset >= f->length - 56)
        return f->length - 56;
    if (offset >= footer)
        return footer;
    if (offset >= footer - parity)
        return footer - parity;
    if (offset >= groups_end)
        return groups_end;
    for (uint32_t g = load_le32(trailer + 16); g-- > 0;)
        if (offset >= load_le64(bytes + footer + 60u * g))
            return load_le64(bytes + footer + 60u * g);
    return 0;
}

/* Which checkpoints need something of a pack: the maps of each are its own, and so are
 * its pages, but for two of the first that all have. */
static unsigned users_of(struct store *store, const struct file *f)
{
    uint32_t number = 0;

    while (strstr(f->path, packs_get(&store->packs, number)->name) == NULL)
        number++;
    return number == 0 ? (1u << CHECKPOINTS) - 1 : 1u << number / 2;
}

/* How many checkpoints cannot be read; none may read as something else. */
static unsigned read_all(const struct corpus *c, struct store *store)
{
    unsigned failed = 0;

    for (unsigned i = 0; i < CHECKPOINTS; i++) {
        _cleanup_free_ uint8_t *buf = NULL;
        uint64_t size;

        if (read_disk(store, &c->ids[i], &buf, &size, NULL) < 0) {
            failed++;
            continue;
        }
        assert_int_equal(size, PAGES * STASIS_PAGE_SIZE);
        assert_memory_equal(buf, c->data[i], size);
    }
    return failed;
}

static bool is_pack(const struct file *f)
{
    size_t n = strlen(f->path);

    return n > 5 && strcmp(f->path + n - 5, ".pack") == 0;
}

/* Whether it makes a difference or not. */
static bool is_always_found(const struct file *f)
{
    return strstr(f->path, "/index/") != NULL || strstr(f->path, "/commits") != NULL;
}

static bool is_log(const struct file *f)
{
    return strstr(f->path, "-wal") != NULL;
}

/* Where the frame begins that a byte of SQLite's log is in; of its header, 0. */
static uint64_t frame_of(size_t offset)
{
    return offset < 32 ? 0 : 32 + (offset - 32) / 4120 * 4120;
}

static void assert_file(const struct file *f)
{
    _cleanup_free_ char *bytes = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, f->path, 1 << 20, &bytes, &length), 0);
    assert_int_equal(length, f->length);
    assert_memory_equal(bytes, f->bytes, length);
}

static void flip_in_pack(const struct corpus *c, size_t file, size_t offset)
{
    struct found found = {
        .corpus = c, .file = c->files[file].path, .offset = part_of(&c->files[file], offset)};
    struct verify_options options = {.finding = take_finding, .context = &found, .repair = true};
    struct error err = ERROR_INIT;
    struct verify_result result;
    struct store *store;

    put_store(c, file, offset);
    must(store_open(c->store_dir, false, &store, &err), &err);
    found.hits = users_of(store, &c->files[file]);
    /* Parity serves them right although nothing has been mended. */
    assert_int_equal(read_all(c, store), 0);
    must(store_verify(store, &options, &result, &err), &err);
    if (found.named == 0 || found.others != 0 || result.mended != result.findings)
        fail_msg("byte %zu of %s: %u findings, %u right, %u mended", offset, c->files[file].path,
                 (unsigned)result.findings, found.named, (unsigned)result.mended);
    store_close(store);
    assert_file(&c->files[file]);
}

static void every_byte_of_every_pack(void **state)
{
    const struct corpus *c = *state;
    unsigned packs = 0;

    for (size_t i = 0; i < c->count; i++) {
        packs += is_pack(&c->files[i]);
        for (size_t offset = 0; is_pack(&c->files[i]) && offset < c->files[i].length; offset++)
            flip_in_pack(c, i, offset);
    }
    assert_int_equal(packs, 2 * CHECKPOINTS);
    put_store(c, c->count, 0);
    assert_dir_is_sound(c->store_dir);
}

/* What verify says nothing about must read as it was. */
static void flip_elsewhere(const struct corpus *c, size_t file, size_t offset)
{
    _cleanup_(buffer_clear) struct buffer now = {0};
    struct found found = {.corpus = c, .file = c->files[file].path, .offset = frame_of(offset)};
    struct verify_options options = {.finding = take_finding, .context = &found};
    struct verify_result result = {0};
    struct error err = ERROR_INIT;
    struct store *store;

    put_store(c, file, offset);
    if (store_open(c->store_dir, false, &store, &err) < 0) {
        assert_true(err.message[0] != '\0');
        return;
    }
    unsigned failed = read_all(c, store);
    int described = describe(store, &now);
    int r = store_verify(store, &options, &result, &err);
    bool same = failed == 0 && described == 0 && now.length == c->description.length &&
                memcmp(now.data, c->description.data, now.length) == 0;

    if (is_always_found(&c->files[file]) && (r < 0 || result.findings == 0 || !same))
        fail_msg("byte %zu of %s is not found", offset, c->files[file].path);
    if (r == 0 && result.findings == 0 && !same)
        fail_msg("byte %zu of %s makes a difference that is not found (%u, %d)", offset,
                 c->files[file].path, failed, described);
    if (is_log(&c->files[file]) && !same && r == 0 && found.named == 0)
        fail_msg("byte %zu of %s is not named", offset, c->files[file].path);
    store_close(store);
}

static void bytes_of_every_other_file(void **state)
{
    const struct corpus *c = *state;
    bool every = getenv("STASIS_EVERY_BYTE") != NULL;

    for (size_t i = 0; i < c->count; i++) {
        size_t length = c->files[i].length;
        size_t step = every ? 1 : length / FLIPS + 1;

        for (size_t offset = 0; !is_pack(&c->files[i]) && offset < length; offset += step)
            flip_elsewhere(c, i, offset);
    }
    put_store(c, c->count, 0);
    assert_dir_is_sound(c->store_dir);
}

static void bytes_of_every_other_file_after_a_crash(void **state)
{
    bytes_of_every_other_file(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_every_pack),
        cmocka_unit_test(bytes_of_every_other_file),
    };
    const struct CMUnitTest after_a_crash[] = {
        cmocka_unit_test(bytes_of_every_other_file_after_a_crash),
    };

    return cmocka_run_group_tests(tests, corpus_setup, corpus_teardown) +
           cmocka_run_group_tests(after_a_crash, crashed_setup, corpus_teardown);
}
