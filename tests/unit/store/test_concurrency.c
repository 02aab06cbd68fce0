/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several at once: ingests in one process and in many, readers beside writers,
 * processes that are killed, and a file system that is full. Whatever happens,
 * what was committed restores bit for bit.
 */
#include "helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- what is written ---- */

/* The pages of a checkpoint made from that seed: some its own, some that others
 * have too, some zero. */
static void seeded_pages(uint8_t *data, size_t pages, uint64_t seed)
{
    uint64_t state = seed * 977 + 3;

    for (size_t i = 0; i < pages; i++) {
        uint64_t pick = random_next(&state);
        uint8_t *page = data + i * STASIS_PAGE_SIZE;

        if (pick % 8 == 0)
            memset(page, 0, STASIS_PAGE_SIZE);
        else
            fill_page(page, pick % 8 < 5 ? seed * 100000 + i : pick / 8 % 1000);
    }
}

struct writer {
    struct ingest *in;
    struct digest root;
    size_t pages;
    uint64_t seed;
};

static struct writer write_seeded(struct store *store, uint64_t seed, size_t pages)
{
    _cleanup_free_ uint8_t *data = malloc(pages * STASIS_PAGE_SIZE);
    struct writer w = {.pages = pages, .seed = seed};
    struct error err = ERROR_INIT;

    seeded_pages(data, pages, seed);
    must(ingest_begin(store, &w.in, &err), &err);
    must(ingest_memory(w.in, data, pages * STASIS_PAGE_SIZE, &w.root, &err), &err);
    return w;
}

/* Commits as image "s:SEED". */
static int commit_seeded(struct writer *w, struct error *err)
{
    _cleanup_free_ char *tag = io_format("%llu", (unsigned long long)w->seed);
    struct manifest m;
    struct digest id;

    make_manifest(&m, &w->root, w->pages * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m, .image = "s", .tag = tag, .replace_tag = true};
    int r = ingest_commit(w->in, &commit, &id, err);

    ingest_free(w->in);
    w->in = NULL;
    return r;
}

/* Image "s:SEED" has the pages of its seed. */
static void assert_seeded(struct store *store, uint64_t seed)
{
    _cleanup_free_ char *reference = io_format("s:%llu", (unsigned long long)seed);
    _cleanup_free_ uint8_t *buf = NULL, *data = NULL;
    struct error err = ERROR_INIT;
    struct digest id;
    uint64_t size;

    must(catalogue_resolve(store, reference, &id, &err), &err);
    must(read_disk(store, &id, &buf, &size, &err), &err);
    data = malloc(size);
    seeded_pages(data, size / STASIS_PAGE_SIZE, seed);
    assert_memory_equal(buf, data, size);
}

/* All images are what their seeds say; returns how many there are. */
static size_t assert_all_seeded(struct store *store)
{
    struct error err = ERROR_INIT;
    struct catalogue_image *list;
    size_t count;

    must(catalogue_image_list(store, &list, &count, &err), &err);
    for (size_t i = 0; i < count; i++)
        assert_seeded(store, strtoull(list[i].tag, NULL, 10));
    catalogue_images_free(list, count);
    return count;
}

/* ---- in one process ---- */

static void ingests_that_overlap_do_not_mix(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 4, PAGES = 600 };
    struct writer writers[WRITERS];
    struct error err = ERROR_INIT;

    /* None sees the others' pages, so with short keys they choose the same
     * references for different ones. */
    for (uint64_t i = 0; i < WRITERS; i++)
        writers[i] = write_seeded(f->store, i + 1, PAGES);
    for (unsigned i = 0; i < WRITERS; i++)
        must(commit_seeded(&writers[i], &err), &err);
    assert_int_equal(assert_all_seeded(f->store), WRITERS);
    fixture_reopen(f);
    assert_int_equal(assert_all_seeded(f->store), WRITERS);
    assert_store_is_sound(f->store);
    assert_int_equal(count_files(f, ".tmp"), 0);
}

static void a_younger_base_is_refused_once_pages_were_written(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(3, 900);
    struct writer early = write_seeded(f->store, 1, 50);
    struct error err = ERROR_INIT;
    struct digest id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    struct map_builder *b;
    struct manifest m;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    assert_int_equal(map_builder_begin(early.in, &m.spaces[0].root, 3, 3, &b, &err), -ESTALE);
    ingest_free(early.in);
}

static void a_younger_base_is_fine_before(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(3, 900);
    struct error err = ERROR_INIT;
    struct ingest *in = NULL;
    struct map_builder *b;
    struct manifest m;
    struct digest id;

    must(ingest_begin(f->store, &in, &err), &err);
    id = commit_disk(f->store, data, 3 * STASIS_PAGE_SIZE, NULL, NULL);
    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(map_builder_begin(in, &m.spaces[0].root, 3, 3, &b, &err), &err);
    map_builder_free(b);
    ingest_free(in);
}

static void a_taken_tag_after_renaming_can_be_tried_again(void **state)
{
    struct fixture *f = *state;
    struct writer first = write_seeded(f->store, 1, 500), second = write_seeded(f->store, 2, 500);
    struct error err = ERROR_INIT;
    struct manifest m;
    struct digest id;

    must(commit_seeded(&first, &err), &err);
    make_manifest(&m, &second.root, second.pages * STASIS_PAGE_SIZE);
    struct ingest_commit commit = {.manifest = &m, .image = "s", .tag = "1"};

    assert_int_equal(ingest_commit(second.in, &commit, &id, &err), -EEXIST);
    commit.tag = "2";
    must(ingest_commit(second.in, &commit, &id, &err), &err);
    ingest_free(second.in);
    assert_int_equal(assert_all_seeded(f->store), 2);
}

struct reader {
    struct space *space;
    const uint8_t *data;
    size_t pages;
    uint64_t seed;
    int failures;
};

static void *read_at_random(void *context)
{
    struct reader *reader = context;
    struct error err = ERROR_INIT;
    uint8_t page[STASIS_PAGE_SIZE];

    for (unsigned i = 0; i < 4000; i++) {
        uint64_t n = random_next(&reader->seed) % reader->pages;

        if (space_read(reader->space, n * STASIS_PAGE_SIZE, page, sizeof(page), &err) != 0 ||
            memcmp(page, reader->data + n * STASIS_PAGE_SIZE, sizeof(page)) != 0)
            reader->failures++;
    }
    return NULL;
}

static void threads_share_a_space(void **state)
{
    struct fixture *f = *state;
    enum { THREADS = 4, PAGES = 3000 };
    _cleanup_free_ uint8_t *data = make_pages(PAGES, 1);
    struct digest id = commit_disk(f->store, data, PAGES * STASIS_PAGE_SIZE, NULL, NULL);
    struct reader readers[THREADS];
    struct error err = ERROR_INIT;
    pthread_t threads[THREADS];
    struct space *space;
    struct manifest m;

    must(catalogue_manifest_read(f->store, &id, &m, &err), &err);
    must(space_open(f->store, &m.spaces[0].root, m.spaces[0].size_bytes, &space, &err), &err);
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){space, data, PAGES, i + 1, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_at_random, &readers[i]), 0);
    }
    /* Meanwhile packs come. */
    for (uint64_t i = 0; i < 5; i++) {
        struct writer w = write_seeded(f->store, i + 1, 100);

        must(commit_seeded(&w, &err), &err);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].failures, 0);
    }
    space_close(space);
}

/* ---- in several processes ---- */

/* Runs body in a child, which ends with 0 unless it failed. */
static pid_t spawn(void (*body)(const char *dir, uint64_t number, int fd), const char *dir,
                   uint64_t number, int fd)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        body(dir, number, fd);
        _exit(0);
    }
    return pid;
}

static int wait_for(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* In a child a failed assertion must not run cmocka's machinery. */
static void check(bool good, const char *what, const struct error *err)
{
    if (good)
        return;
    print_error("child: %s: %s\n", what, err->message);
    _exit(1);
}

static void write_several(const char *dir, uint64_t number, int fd)
{
    struct error err = ERROR_INIT;
    struct store *store = NULL;

    (void)fd;
    check(store_open(dir, false, &store, &err) == 0, "open", &err);
    for (uint64_t i = 0; i < 8; i++) {
        struct writer w = write_seeded(store, number * 100 + i, 300);

        check(commit_seeded(&w, &err) == 0, "commit", &err);
    }
    store_close(store);
}

static void processes_write_at_once(void **state)
{
    struct fixture *f = *state;
    enum { PROCESSES = 4 };
    pid_t pids[PROCESSES];

    for (unsigned i = 0; i < PROCESSES; i++)
        pids[i] = spawn(write_several, f->store_dir, i + 1, -1);
    for (unsigned i = 0; i < PROCESSES; i++)
        assert_int_equal(wait_for(pids[i]), 0);
    /* The store that was open all the time sees it all. */
    assert_int_equal(assert_all_seeded(f->store), PROCESSES * 8);
    assert_store_is_sound(f->store);
    assert_dir_is_sound(f->store_dir);
    assert_int_equal(count_files(f, ".tmp"), 0);
}

/* Commits "t:now" again and again, each time with other pages. */
static void write_always(const char *dir, uint64_t number, int fd)
{
    struct error err = ERROR_INIT;
    struct store *store = NULL;

    check(store_open(dir, false, &store, &err) == 0, "open", &err);
    for (uint64_t n = number;; n++) {
        _cleanup_free_ uint8_t *data = make_pages(100, n * 1000);
        struct ingest *in = NULL;
        struct digest root, id;
        struct manifest m;

        check(ingest_begin(store, &in, &err) == 0, "begin", &err);
        check(ingest_memory(in, data, 100 * STASIS_PAGE_SIZE, &root, &err) == 0, "write", &err);
        make_manifest(&m, &root, 100 * STASIS_PAGE_SIZE);
        struct ingest_commit commit = {
            .manifest = &m, .image = "t", .tag = "now", .replace_tag = true};

        check(ingest_commit(in, &commit, &id, &err) == 0, "commit", &err);
        ingest_free(in);
        check(write(fd, &id, sizeof(id)) == sizeof(id), "tell", &err);
    }
}

static void read_now(const char *dir, uint64_t number, int fd)
{
    struct error err = ERROR_INIT;
    struct store *store = NULL;
    uint64_t last = 0, changes = 0;

    (void)number;
    (void)fd;
    check(store_open(dir, false, &store, &err) == 0, "open", &err);
    while (changes < 20) {
        _cleanup_free_ uint8_t *buf = NULL, *data = NULL;
        struct digest id;
        uint64_t size = 0, first;

        check(catalogue_resolve(store, "t:now", &id, &err) == 0, "resolve", &err);
        check(read_disk(store, &id, &buf, &size, &err) == 0, "read", &err);
        memcpy(&first, buf, sizeof(first));
        data = make_pages(100, first - 1);
        check(memcmp(buf, data, size) == 0, "compare", &err);
        check(first >= last, "order", &err);
        changes += first != last;
        last = first;
    }
    store_close(store);
}

static void readers_follow_a_writer(void **state)
{
    struct fixture *f = *state;
    pid_t writer, readers[2];
    struct digest id;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    /* The readers need as many commits as they count changes, and the writer must
     * not block on the pipe before: both fit. */
    writer = spawn(write_always, f->store_dir, 1, fds[1]);
    assert_int_equal(io_read_full(fds[0], &id, sizeof(id)), 0);
    for (unsigned i = 0; i < 2; i++)
        readers[i] = spawn(read_now, f->store_dir, i, -1);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(wait_for(readers[i]), 0);
    kill(writer, SIGKILL);
    assert_true(WIFSIGNALED(wait_for(writer)));
    close(fds[0]);
    close(fds[1]);
}

static void a_killed_writer_leaves_what_it_committed_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = (uint64_t)clock_wall_us();
    size_t sealed = 0;

    print_message("seed %llu\n", (unsigned long long)seed);
    store_close(f->store);
    f->store = NULL;
    for (unsigned round = 0; round < 25; round++) {
        _cleanup_free_ struct digest *ids = calloc(64, sizeof(*ids));
        unsigned wanted = (unsigned)(random_next(&seed) % 3), count = 0;
        struct error err = ERROR_INIT;
        int fds[2];
        pid_t pid;

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        pid = spawn(write_always, f->store_dir, 1000 * (round + 1), fds[1]);
        close(fds[1]);
        while (count < wanted) {
            assert_int_equal(io_read_full(fds[0], &ids[count], sizeof(*ids)), 0);
            count++;
        }
        /* Somewhere in the next ingest or its commit. */
        usleep((useconds_t)(random_next(&seed) % 30000));
        kill(pid, SIGKILL);
        assert_true(WIFSIGNALED(wait_for(pid)));
        while (count < 64 && io_read_full(fds[0], &ids[count], sizeof(*ids)) == 0)
            count++;
        close(fds[0]);
        must(store_open(f->store_dir, false, &f->store, &err), &err);
        assert_store_is_sound(f->store);
        for (unsigned i = 0; i < count; i++) {
            _cleanup_free_ uint8_t *buf = NULL, *data = NULL;
            uint64_t size, first;

            must(read_disk(f->store, &ids[i], &buf, &size, &err), &err);
            memcpy(&first, buf, sizeof(first));
            assert_int_equal(first - 1, (1000 * (round + 1) + i) * 1000);
            data = make_pages(100, first - 1);
            assert_memory_equal(buf, data, size);
        }
        struct store_usage usage;

        must(store_usage_get(f->store, &usage, &err), &err);
        assert_int_equal(count_files(f, ".tmp"), 0);
        assert_int_equal(count_files(f, ".pack"), usage.packs);
        assert_true(usage.packs >= sealed + 2 * count);
        sealed = usage.packs;
        store_close(f->store);
        f->store = NULL;
    }
}

static void opening_leaves_the_packs_of_living_writers_alone(void **state)
{
    struct fixture *f = *state;
    struct writer w = write_seeded(f->store, 1, 200);
    struct error err = ERROR_INIT;

    assert_true(count_files(f, ".tmp") > 0);
    assert_dir_is_sound(f->store_dir);
    assert_true(count_files(f, ".tmp") > 0);
    must(commit_seeded(&w, &err), &err);
    assert_int_equal(assert_all_seeded(f->store), 1);
}

/* ---- no space ---- */

static void fill_up(const char *dir, uint64_t leave)
{
    _cleanup_free_ char *path = io_format("%s/filler", dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    char block[4096] = {1};

    while (write(fd, block, sizeof(block)) == sizeof(block))
        ;
    assert_int_equal(errno, ENOSPC);
    off_t end = lseek(fd, 0, SEEK_END);

    assert_int_equal(ftruncate(fd, end > (off_t)leave ? end - (off_t)leave : 0), 0);
}

static void empty_again(const char *dir)
{
    _cleanup_free_ char *path = io_format("%s/filler", dir);

    unlink(path);
}

static void no_space_loses_nothing(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *dir = io_format("%s/small", f->dir);
    _cleanup_free_ char *store_dir = io_format("%s/store", dir);
    struct error err = ERROR_INIT;
    unsigned failed = 0, done = 0;
    struct store *store;

    assert_int_equal(mkdir(dir, 0700), 0);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", dir, "tmpfs", 0, "size=16m") < 0) {
        print_message("skipped: mounting a tmpfs is not permitted: %s\n", strerror(errno));
        skip();
    }
    must(store_open(store_dir, true, &store, &err), &err);
    for (uint64_t i = 0; i < 60; i++) {
        struct writer w = {.pages = 40, .seed = i + 1};
        _cleanup_free_ uint8_t *data = malloc(w.pages * STASIS_PAGE_SIZE);
        struct error why = ERROR_INIT;
        int r;

        seeded_pages(data, w.pages, w.seed);
        fill_up(dir, i * 4096);
        r = ingest_begin(store, &w.in, &why);
        if (r == 0)
            r = ingest_memory(w.in, data, w.pages * STASIS_PAGE_SIZE, &w.root, &why);
        if (r == 0) {
            r = commit_seeded(&w, &why);
        } else {
            ingest_free(w.in);
        }
        if (r < 0 && r != -ENOSPC)
            fail_msg("with %llu blocks free: %d %s", (unsigned long long)i, r, why.message);
        failed += r < 0;
        done += r == 0;
        empty_again(dir);
        assert_int_equal(assert_all_seeded(store), done);
    }
    /* The first had no room, the last had: every step in between has failed once. */
    assert_true(failed > 10 && done > 5);
    assert_store_is_sound(store);
    store_close(store);
    must(store_open(store_dir, false, &store, &err), &err);
    assert_int_equal(assert_all_seeded(store), done);
    assert_store_is_sound(store);
    store_close(store);
    umount2(dir, MNT_DETACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ingests_that_overlap_do_not_mix),
        TEST(a_younger_base_is_refused_once_pages_were_written),
        TEST(a_younger_base_is_fine_before),
        TEST(a_taken_tag_after_renaming_can_be_tried_again),
        TEST(threads_share_a_space),
        TEST(processes_write_at_once),
        TEST(readers_follow_a_writer),
        TEST(a_killed_writer_leaves_what_it_committed_and_nothing_else),
        TEST(opening_leaves_the_packs_of_living_writers_alone),
        TEST(no_space_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
