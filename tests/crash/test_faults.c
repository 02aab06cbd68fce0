/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each call on a store, with each of the system calls it makes failing in turn: see
 * README.md. Options, for whoever runs it by hand:
 *
 *   --only CALL     one call
 *   --at N          only the Nth system call or request for memory
 *   --every N       of requests for memory, let every Nth fail (29)
 */
#include "oom.h"
#include "witness.h"

#include "../unit/store/helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/gc.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum { PAGES = 24, CALLS_MAX = 2000 };

static const char *only;
static uint64_t only_at, every = 29;

/* ---- the store that all begin with ---- */

struct template
{
    char root[64];
    char *disk;
    char *dir; /* of the store, below disk */
    struct model model;
    struct image image;
};

static struct template template;
static struct digest base_id, one_id;
static uint32_t new_seeds[PAGES];
static const struct disk new_disk = {PAGES, new_seeds};

static struct digest put(struct store *store, const struct disk *disk, const struct put *how)
{
    struct error err = ERROR_INIT;
    struct digest id;

    must(put_disk(store, disk, how, &id, &err), &err);
    call_content(&id, disk);
    return id;
}

/* A checkpoint without a name, packs that it alone needs, and a sparse one. */
static void leave_garbage(struct store *store)
{
    uint32_t seeds[PAGES];
    struct disk disk = {PAGES, seeds};
    struct error err = ERROR_INIT;

    for (uint32_t i = 0; i < PAGES; i++)
        seeds[i] = 700 + i;
    put(store, &disk, &(struct put){.image = "wide"});
    memset(seeds + PAGES / 4, 0, sizeof(seeds) - sizeof(seeds) / 4);
    put(store, &disk, &(struct put){.image = "slim"});
    must(catalogue_image_remove(store, "wide", "1", &err), &err);
}

static void fill_template(const char *dir)
{
    uint32_t seeds[PAGES];
    struct disk disk = {PAGES, seeds};
    struct error err = ERROR_INIT;
    struct store *store;

    for (uint32_t i = 0; i < PAGES; i++)
        seeds[i] = i % 5 == 4 ? 0 : i + 1;
    must(store_open(dir, true, &store, &err), &err);
    base_id = put(store, &disk, &(struct put){.image = "base"});
    must(catalogue_machine_create(store, "web", &base_id, &err), &err);
    seeds[2] = 300;
    one_id = put(store, &disk, &(struct put){.machine = "web", .name = "one"});
    seeds[3] = 301;
    put(store, &disk, &(struct put){.machine = "web", .name = "two"});
    leave_garbage(store);
    store_close(store);
    for (uint32_t i = 0; i < PAGES; i++)
        new_seeds[i] = i % 3 == 0 ? i + 1 : i % 3 == 1 ? 0 : 400 + i;
}

static int make_template(void **state)
{
    size_t bytes;

    (void)state;
    snprintf(template.root, sizeof(template.root), "/dev/shm/stasis-faults-XXXXXX");
    if (mkdtemp(template.root) == NULL) {
        snprintf(template.root, sizeof(template.root), "/tmp/stasis-faults-XXXXXX");
        assert_non_null(mkdtemp(template.root));
    }
    template.disk = io_format("%s/disk", template.root);
    template.dir = io_format("%s/store", template.disk);
    assert_int_equal(mkdir(template.disk, 0700), 0);
    shim_root(template.disk);
    shim_record(true);
    fill_template(template.dir);
    shim_record(false);
    const uint8_t *log = shim_log(&bytes);
    model_init(&template.model, log, bytes);
    _cleanup_free_ uint8_t *kept = calloc(template.model.count + 1, 1);
    image_build(&template.image, &template.model, template.model.count, kept, 0);
    shim_skip_syncs(true);
    return 0;
}

static int free_template(void **state)
{
    (void)state;
    image_clear(&template.image);
    model_clear(&template.model);
    io_remove_tree(template.root);
    free(template.disk);
    free(template.dir);
    return 0;
}

/* ---- calls ---- */

struct call {
    const char *name;
    bool opens; /* is given no open store */
    bool makes; /* nor a directory of one */
    /* A pack whose footer could not be read is damaged to this process until the store
     * is opened again; then this call does nothing. */
    bool reopen;
    bool damaged;
    int again; /* what it says if it is made twice; 0: it may be */
    int (*run)(struct store *store, struct error *err);
};

static int call_open(struct store *store, struct error *err)
{
    int r = store_open(template.dir, false, &store, err);

    if (r == 0)
        store_close(store);
    return r;
}

static int call_make(struct store *store, struct error *err)
{
    int r = store_open(template.dir, true, &store, err);

    if (r == 0)
        store_close(store);
    return r;
}

static int call_import(struct store *store, struct error *err)
{
    struct digest id;

    return put_disk(store, &new_disk, &(struct put){.image = "new"}, &id, err);
}

static int call_save(struct store *store, struct error *err)
{
    struct digest id;

    return put_disk(store, &new_disk, &(struct put){.machine = "web", .name = "new"}, &id, err);
}

static int call_create(struct store *store, struct error *err)
{
    return catalogue_machine_create(store, "new", &base_id, err);
}

static int call_tag(struct store *store, struct error *err)
{
    return catalogue_image_set(store, "base", "1", &one_id, true, err);
}

static int call_untag(struct store *store, struct error *err)
{
    return catalogue_image_remove(store, "base", "1", err);
}

static int call_remove(struct store *store, struct error *err)
{
    return catalogue_checkpoint_remove(store, &one_id, err);
}

static int call_remove_machine(struct store *store, struct error *err)
{
    return catalogue_machine_remove(store, "web", err);
}

static int call_read(struct store *store, struct error *err)
{
    static uint8_t bytes[PAGES * STASIS_PAGE_SIZE];
    static struct manifest m;
    struct space *space;
    int r = catalogue_manifest_read(store, &one_id, &m, err);

    if (r == 0)
        r = space_open(store, &m.spaces[0].root, m.spaces[0].size_bytes, &space, err);
    if (r < 0)
        return r;
    r = space_read(space, 0, bytes, sizeof(bytes), err);
    space_close(space);
    return r;
}

static int call_verify(struct store *store, struct error *err)
{
    struct verify_result result;

    return store_verify(store, NULL, &result, err);
}

static int call_gc(struct store *store, struct error *err)
{
    struct gc_result result;

    return store_gc(store, NULL, &result, err);
}

static int call_repair(struct store *store, struct error *err)
{
    struct verify_options options = {.repair = true};
    struct verify_result result;

    return store_verify(store, &options, &result, err);
}

static const struct call calls[] = {
    {"open", .opens = true, .run = call_open},
    {"make", .opens = true, .makes = true, .run = call_make},
    {"import", .run = call_import},
    {"save", .again = -EEXIST, .run = call_save},
    {"create", .again = -EEXIST, .run = call_create},
    {"tag", .run = call_tag},
    {"untag", .again = -ENOENT, .run = call_untag},
    {"remove", .again = -ENOENT, .run = call_remove},
    {"remove-machine", .again = -ENOENT, .run = call_remove_machine},
    {"read", .run = call_read},
    {"verify", .run = call_verify},
    {"gc", .reopen = true, .run = call_gc},
    {"repair", .damaged = true, .run = call_repair},
};

/* ---- faults ---- */

static char last_call[300];

static const struct kind {
    const char *name;
    struct shim_fault fault;
} kinds[] = {
    {"no space", {SHIM_SPACE, 0, 1, ENOSPC}},
    {"no space from there on", {SHIM_SPACE, 0, UINT64_MAX, ENOSPC}},
    {"no quota", {SHIM_SPACE | SHIM_FLUSH, 0, UINT64_MAX, EDQUOT}},
    {"I/O error", {SHIM_SPACE | SHIM_FLUSH | SHIM_SHRINK, 0, 1, EIO}},
    {"I/O errors from there on", {SHIM_SPACE | SHIM_FLUSH | SHIM_SHRINK, 0, UINT64_MAX, EIO}},
    {"short writes", {SHIM_SPACE, 0, UINT64_MAX, 0}},
    {"interrupted", {SHIM_SPACE, 0, 1, EINTR}},
    {"read error", {SHIM_READ, 0, 1, EIO}},
    {"read errors from there on", {SHIM_READ, 0, UINT64_MAX, EIO}},
#ifndef STASIS_NO_OOM
    {"no memory", {0, 0, 1, ENOMEM}},
#endif
};

static bool is_memory(const struct kind *kind)
{
    return kind->fault.errnum == ENOMEM;
}

struct trial {
    const struct call *call;
    const struct kind *kind;
    uint64_t at;
    int r;
    bool failed; /* there was such a system call */
    struct error err;
};

static void fail_trial(const struct trial *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));
static void fail_trial(const struct trial *t, const char *fmt, ...)
{
    va_list args;

    fprintf(stderr, "%s, %s at system call %llu (%s): it returned %d '%s'\n", t->call->name,
            t->kind->name, (unsigned long long)t->at, last_call, t->r, t->err.message);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\nthe store: %s\n", template.dir);
    fail();
    abort();
}

static size_t count_fds(void)
{
    _cleanup_closedir_ DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;

    while (readdir(dir) != NULL)
        count++;
    return count;
}

/* Where SQLite cannot make a file it does not say why; the store finds out by trying
 * again, which goes well if only one call was to fail. What was wrong with a new
 * catalogue's journal is forgotten when that is taken back. */
static bool is_errno_of(const struct trial *t, int r)
{
    /* jansson does not always tell no memory from bad text. */
    if (is_memory(t->kind) && strstr(t->err.message, "manifest") != NULL)
        return true;
    return r == -t->kind->fault.errnum ||
           (r == -EIO && t->call->opens && (t->call->makes || t->kind->fault.times == 1));
}

/* The message is there, and says what happened. */
static void check_error(const struct trial *t)
{
    if (t->kind->fault.errnum == 0)
        fail_trial(t, "short writes must be gone on with");
    if (t->kind->fault.errnum == EINTR && !t->call->opens)
        fail_trial(t, "what was interrupted must be tried again");
    if (t->err.message[0] == '\0' || t->err.status == STATUS_OK || t->err.errnum != -t->r)
        fail_trial(t, "no error is set, or another (%d)", t->err.errnum);
    if (!is_errno_of(t, t->r))
        fail_trial(t, "it is another error");
    if (t->r == -ENOSPC && t->err.hint[0] == '\0')
        fail_trial(t, "it does not say what to do");
}

/* With the store still open: what it lists is what it did, or what it will. */
static void check_again(struct trial *t, struct store *store, const char *before)
{
    _cleanup_free_ char *after = list_store(store);
    struct error err = ERROR_INIT;
    bool changed = strcmp(before, after) != 0;
    int r;

    /* A commit that failed in its last step may be there all the same. */
    r = t->call->run(store, &err);
    if (r < 0 && !((changed || t->r == 0) && r == t->call->again))
        fail_trial(t, "tried again: %d %s", r, err.message);
}

static void start(const struct trial *t)
{
    io_remove_tree(template.disk);
    if (mkdir(template.disk, 0700) < 0)
        fail_trial(t, "%s", strerror(errno));
    if (!t->call->makes)
        image_write(&template.image, template.disk);
    if (t->call->damaged)
        damage_packs(template.dir);
}

#ifndef STASIS_NO_OOM
static void fail_memory(uint64_t at)
{
    oom_fail(at);
}

static bool memory_failed(void)
{
    return oom_failed();
}
#else
static void fail_memory(uint64_t at)
{
    (void)at;
}

static bool memory_failed(void)
{
    return false;
}
#endif

static void run_with_fault(struct trial *t, struct store *store)
{
    static const struct shim_fault none;
    struct shim_fault fault = t->kind->fault;

    fault.at = t->at;
    shim_fail(&fault);
    t->err = ERROR_INIT;
    fail_memory(is_memory(t->kind) ? t->at : 0);
    t->r = t->call->run(store, &t->err);
    t->failed = shim_failed() != 0 || memory_failed();
    fail_memory(0);
    shim_fail(&none);
    snprintf(last_call, sizeof(last_call), "%s", shim_failed_call());
}

static void check_files(const struct trial *t, size_t fds)
{
    struct fixture f = {.store_dir = template.dir};

    if (count_fds() != fds)
        fail_trial(t, "open files: %zu before, %zu now", fds, count_fds());
    if (!t->call->makes && (t->kind->fault.classes & SHIM_SHRINK) == 0 &&
        count_files(&f, ".tmp") != 0)
        fail_trial(t, "an unfinished pack is left");
}

static void check_reopened(const struct trial *t, const char *lines)
{
    const char *wrong = witness_check_listed(&template.model, template.dir, lines, &new_disk);

    if (wrong != NULL)
        fail_trial(t, "%s", wrong);
}

static bool try_opening(struct trial *t)
{
    struct error err = ERROR_INIT;
    _cleanup_free_ char *lines = NULL;
    size_t fds = count_fds();
    struct store *store;

    run_with_fault(t, NULL);
    if (t->r < 0)
        check_error(t);
    check_files(t, fds);
    if (store_open(template.dir, t->call->makes, &store, &err) < 0)
        fail_trial(t, "opened again: %s", err.message);
    lines = list_store(store);
    store_close(store);
    check_reopened(t, lines);
    return t->failed;
}

/* False if there are fewer system calls than that. */
static bool try_at(struct trial *t)
{
    struct error err = ERROR_INIT;
    _cleanup_free_ char *before = NULL, *after = NULL;
    size_t fds = count_fds();
    struct store *store;

    start(t);
    if (t->call->opens)
        return try_opening(t);
    must(store_open(template.dir, false, &store, &err), &err);
    before = list_store(store);
    run_with_fault(t, store);
    if (t->r < 0)
        check_error(t);
    if (t->call->reopen) {
        store_close(store);
        must(store_open(template.dir, false, &store, &err), &err);
    }
    check_again(t, store, before);
    after = list_store(store);
    store_close(store);
    check_files(t, fds);
    check_reopened(t, after);
    return t->failed;
}

static void fails_cleanly_wherever_it_fails(void **state)
{
    const struct call *call = *state;
    unsigned trials = 0;

    if (only != NULL && strcmp(only, call->name) != 0)
        skip();
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct trial t = {.call = call, .kind = &kinds[k]};

        if (only_at != 0) {
            t.at = only_at;
            try_at(&t);
            continue;
        }
        /* Requests for memory are many. */
        for (t.at = 1; t.at < CALLS_MAX && try_at(&t); t.at += is_memory(t.kind) ? every : 1)
            trials++;
    }
    print_message("%s: %u faults\n", call->name, trials);
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
        else if (strcmp(argv[i], "--at") == 0)
            only_at = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--every") == 0)
            every = strtoull(argv[i + 1], NULL, 10);
    }
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[ARRAY_LEN(calls)];

    read_options(argc, argv);
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        tests[i] = (struct CMUnitTest){calls[i].name, fails_cleanly_wherever_it_fails, NULL, NULL,
                                       (void *)&calls[i]};
    return cmocka_run_group_tests(tests, make_template, free_template);
}
