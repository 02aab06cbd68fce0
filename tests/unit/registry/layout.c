/* SPDX-License-Identifier: Apache-2.0 */
/* OCI image layouts: the registry without a server. */
#include "registry/registry.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "tests/unit/store-stream/sample.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
    char *dir;
    char *layout; /* DIR/layout */
    struct store *from;
    struct store *to;
    struct digest id;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->dir = sample_dir_new();
    f->layout = io_format("%s/layout", f->dir);
    f->from = sample_store_open(f->dir, "from");
    f->to = sample_store_open(f->dir, "to");
    f->id = sample_checkpoint(f->from, 1);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->from);
    store_close(f->to);
    sample_dir_free(f->dir);
    free(f->layout);
    free(f);
    return 0;
}

static int try_push(const struct fixture *f, const char *tag, struct registry_result *result,
                    struct error *err)
{
    _cleanup_free_ char *ref = io_format("oci:%s:%s", f->layout, tag);

    return registry_push(f->from, &f->id, ref, NULL, result, err);
}

static int try_pull(const struct fixture *f, const char *tag, struct registry_result *result,
                    struct error *err)
{
    _cleanup_free_ char *ref =
        tag == NULL ? io_format("oci:%s", f->layout) : io_format("oci:%s:%s", f->layout, tag);

    return registry_pull(f->to, ref, NULL, NULL, NULL, result, err);
}

static struct registry_result push(const struct fixture *f, const char *tag)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    if (try_push(f, tag, &result, &err) < 0)
        fail_msg("%s", err.message);
    return result;
}

static struct registry_result pull(const struct fixture *f, const char *tag)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    if (try_pull(f, tag, &result, &err) < 0)
        fail_msg("%s", err.message);
    sample_assert_same(f->from, &f->id, f->to, &result.checkpoint);
    return result;
}

static void assert_pull_fails(const struct fixture *f, const char *tag, int expected,
                              const char *says)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    int r = try_pull(f, tag, &result, &err);
    if (r != expected || strstr(err.message, says) == NULL)
        fail_msg("%d: %s", r, err.message);
    assert_true(sample_store_is_empty(f->to));
}

static char *read_text(const struct fixture *f, const char *name)
{
    _cleanup_free_ char *path = io_format("%s/%s", f->layout, name);
    char *text;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, path, 1 << 20, &text, &length), 0);
    return text;
}

static void write_text(const struct fixture *f, const char *name, const char *text)
{
    _cleanup_free_ char *path = io_format("%s/%s", f->layout, name);

    assert_int_equal(io_write_file(AT_FDCWD, path, text, strlen(text), 0644), 0);
}

/* Calls change for every blob of the layout. */
static unsigned each_blob(const struct fixture *f, void (*change)(int dir, const char *name))
{
    _cleanup_free_ char *path = io_format("%s/blobs/sha256", f->layout);
    _cleanup_closedir_ DIR *dir = opendir(path);
    struct dirent *entry;
    unsigned count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (change != NULL)
            change(dirfd(dir), entry->d_name);
    }
    return count;
}

static void assert_name_is_digest(int dir, const char *name)
{
    char *data, hex[DIGEST_HEX_SIZE];
    size_t length;

    assert_int_equal(io_read_file(dir, name, 128 << 20, &data, &length), 0);
    struct digest digest = digest_of(data, length);
    assert_string_equal(digest_hex(&digest, hex), name);
    free(data);
}

/* ---- the good case ---- */

static void what_was_pushed_is_pulled(void **state)
{
    struct fixture *f = *state;
    struct digest id;

    struct registry_result pushed = push(f, "v1");
    struct registry_result pulled = pull(f, "v1");
    assert_true(digest_equal(&pushed.manifest, &pulled.manifest));
    assert_int_equal(pushed.total_bytes, pulled.total_bytes);
    assert_int_equal(catalogue_image_get(f->to, "layout", "v1", &id, NULL), 0);
}

static void the_layout_is_that_of_the_specification(void **state)
{
    struct fixture *f = *state;

    push(f, "v1");
    _cleanup_free_ char *mark = read_text(f, "oci-layout");
    _cleanup_free_ char *index = read_text(f, "index.json");
    assert_string_equal(mark, "{\"imageLayoutVersion\":\"1.0.0\"}");
    assert_non_null(strstr(index, "\"org.opencontainers.image.ref.name\":\"v1\""));
    /* config, nodes, list, state, one pack of pages, OCI manifest; nothing else */
    assert_int_equal(each_blob(f, assert_name_is_digest), 6);
}

static void a_second_push_writes_nothing(void **state)
{
    struct fixture *f = *state;

    push(f, "v1");
    _cleanup_free_ char *before = read_text(f, "index.json");
    assert_int_equal(push(f, "v1").transferred_bytes, 0);
    _cleanup_free_ char *after = read_text(f, "index.json");
    assert_string_equal(before, after);
    assert_int_equal(push(f, "v2").transferred_bytes, 0);
    assert_int_equal(each_blob(f, NULL), 6);
}

static void a_tag_moves_and_others_stay(void **state)
{
    struct fixture *f = *state;
    struct fixture first = *f;

    push(f, "old");
    push(f, "latest");
    f->id = sample_checkpoint(f->from, 2);
    push(f, "latest");
    pull(f, "latest");
    pull(&first, "old");
}

static void entries_of_others_are_kept(void **state)
{
    struct fixture *f = *state;

    push(f, "v1");
    write_text(f, "index.json",
               "{\"schemaVersion\":2,\"x\":1,\"manifests\":[{\"mediaType\":\"other\",\"digest\":"
               "\"sha256:00\",\"size\":1,\"annotations\":{\"a\":\"b\"}},{},7]}");
    push(f, "v2");
    _cleanup_free_ char *index = read_text(f, "index.json");
    assert_non_null(strstr(index, "\"mediaType\":\"other\""));
    assert_non_null(strstr(index, "\"x\":1"));
    pull(f, "v2");
}

static void the_only_image_needs_no_tag(void **state)
{
    struct fixture *f = *state;

    push(f, "v1");
    pull(f, NULL);
}

static void a_missing_tag_is_not_found(void **state)
{
    struct fixture *f = *state;

    push(f, "v1");
    push(f, "v2");
    assert_pull_fails(f, "v3", -ENOENT, "v3");
    assert_pull_fails(f, NULL, -ENOENT, "latest");
}

enum { WRITERS = 4 };

struct writer {
    const struct fixture *f;
    struct digest id;
    unsigned number;
    int r;
    struct error err;
};

static void *push_tag(void *context)
{
    struct writer *w = context;
    struct registry_result result;

    _cleanup_free_ char *ref = io_format("oci:%s:t%u", w->f->layout, w->number);
    w->r = registry_push(w->f->from, &w->id, ref, NULL, &result, &w->err);
    return NULL;
}

static void writers_keep_one_anothers_tags(void **state)
{
    struct fixture *f = *state;
    struct writer writers[WRITERS] = {0};
    pthread_t threads[WRITERS];

    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.f = f, .number = i};
        writers[i].id = sample_checkpoint(f->from, i / 2); /* pairs write the same blobs */
    }
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, push_tag, &writers[i]), 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        if (writers[i].r < 0)
            fail_msg("%s", writers[i].err.message);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        char tag[8];
        snprintf(tag, sizeof(tag), "t%u", i);
        f->id = writers[i].id;
        pull(f, tag);
    }
}

/* ---- damage ---- */

static void flip_last_bit(int dir, const char *name)
{
    _cleanup_close_ int fd = openat(dir, name, O_RDWR);
    struct stat st;
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(io_pread_full(fd, &byte, 1, (uint64_t)st.st_size - 1), 0);
    byte ^= 1;
    assert_int_equal(io_pwrite_full(fd, &byte, 1, (uint64_t)st.st_size - 1), 0);
}

static void cut_last_byte(int dir, const char *name)
{
    _cleanup_close_ int fd = openat(dir, name, O_RDWR);
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(ftruncate(fd, st.st_size - 1), 0);
}

/* Damages one blob after the other; each must be noticed. */
static void assert_damage_is_noticed(struct fixture *f, void (*damage)(int dir, const char *name))
{
    _cleanup_free_ char *path = io_format("%s/blobs/sha256", f->layout);
    _cleanup_close_ int dir = -1;
    char names[8][DIGEST_HEX_SIZE];
    unsigned count = 0;

    push(f, "v1");
    dir = open(path, O_RDONLY | O_DIRECTORY);
    DIR *list = opendir(path);
    for (struct dirent *e; (e = readdir(list)) != NULL && count < ARRAY_LEN(names);)
        if (e->d_name[0] != '.')
            snprintf(names[count++], DIGEST_HEX_SIZE, "%.64s", e->d_name);
    closedir(list);
    assert_int_equal(count, 6);
    for (unsigned i = 0; i < count; i++) {
        char *data;
        size_t length;
        assert_int_equal(io_read_file(dir, names[i], 128 << 20, &data, &length), 0);
        damage(dir, names[i]);
        assert_pull_fails(f, "v1", -EBADMSG, names[i]);
        assert_int_equal(io_write_file(dir, names[i], data, length, 0644), 0);
        free(data);
    }
    pull(f, "v1");
}

static void a_flipped_bit_in_any_blob_is_noticed(void **state)
{
    assert_damage_is_noticed(*state, flip_last_bit);
}

static void a_blob_that_was_cut_is_noticed(void **state)
{
    assert_damage_is_noticed(*state, cut_last_byte);
}

static void remove_blob(int dir, const char *name)
{
    assert_int_equal(unlinkat(dir, name, 0), 0);
}

static void a_missing_blob_is_noticed(void **state)
{
    assert_damage_is_noticed(*state, remove_blob);
}

static void replace_by_fifo(int dir, const char *name)
{
    assert_int_equal(unlinkat(dir, name, 0), 0);
    assert_int_equal(mkfifoat(dir, name, 0600), 0);
}

static void a_fifo_for_a_blob_does_not_hang_us(void **state)
{
    assert_damage_is_noticed(*state, replace_by_fifo);
}

static void a_push_mends_a_blob_that_was_cut(void **state)
{
    struct fixture *f = *state;

    push(f, "v1");
    each_blob(f, cut_last_byte);
    assert_true(push(f, "v1").transferred_bytes > 0);
    pull(f, "v1");
}

static void a_hostile_index_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{\"manifests\":{}}",
        "{\"manifests\":7}",
        "not json",
        "{\"manifests\":[{\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}}]}",
        "{\"manifests\":[{\"digest\":\"sha256:../../../etc/passwd\",\"size\":10,"
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}}]}",
        "{\"manifests\":[{\"digest\":\"sha256:"
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"size\":1e18,"
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}}]}",
        "{\"manifests\":[{\"digest\":\"sha256:"
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"size\":999999999,"
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}}]}",
    };
    struct fixture *f = *state;

    push(f, "v1");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        write_text(f, "index.json", bad[i]);
        assert_pull_fails(f, "v1", -EBADMSG, "index.json");
    }
}

static void a_directory_that_is_no_layout_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_pull_fails(f, "v1", -ENOENT, "cannot open");
    assert_int_equal(mkdir(f->layout, 0755), 0);
    assert_pull_fails(f, "v1", -ENOENT, "not an OCI image layout");
    write_text(f, "oci-layout", "{\"imageLayoutVersion\":\"9.0.0\"}");
    assert_pull_fails(f, "v1", -EBADMSG, "oci-layout");
}

/* ---- a full disk ---- */

static void a_push_to_a_full_disk_leaves_the_old_tag(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, small = {.rlim_cur = 100000};
    struct registry_result result;
    struct error err = ERROR_INIT;
    struct fixture old = *f;

    push(f, "v1");
    f->id = sample_checkpoint(f->from, 2);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    int r = try_push(f, "v1", &result, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    if (r != -EFBIG)
        fail_msg("%d: %s", r, err.message);
    each_blob(f, assert_name_is_digest); /* no half blob, no temporary file */
    pull(&old, "v1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(what_was_pushed_is_pulled),
        T(the_layout_is_that_of_the_specification),
        T(a_second_push_writes_nothing),
        T(a_tag_moves_and_others_stay),
        T(entries_of_others_are_kept),
        T(the_only_image_needs_no_tag),
        T(a_missing_tag_is_not_found),
        T(writers_keep_one_anothers_tags),
        T(a_flipped_bit_in_any_blob_is_noticed),
        T(a_blob_that_was_cut_is_noticed),
        T(a_missing_blob_is_noticed),
        T(a_fifo_for_a_blob_does_not_hang_us),
        T(a_push_mends_a_blob_that_was_cut),
        T(a_hostile_index_is_refused),
        T(a_directory_that_is_no_layout_is_refused),
        T(a_push_to_a_full_disk_leaves_the_old_tag),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
