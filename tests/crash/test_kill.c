/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that write, read, delete and collect in one store, and are killed at any moment:
 * see README.md. Options, for whoever runs it by hand:
 *
 *   --seconds N  go on that long (3)
 *   --seed N     other random choices
 */
#include "witness.h"

#include "../unit/store/helper.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "store/gc.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { WORKERS = 4, SLOTS = 8, PAGES = 48 };

static unsigned seconds = 3;
static uint64_t seed;

/*
 * What workers have done, in memory that outlives them. A slot is an image that one
 * worker makes, makes anew and removes; a disk's pages follow from its number.
 */
enum doing { IDLE, PUTTING, REMOVING };

struct slot {
    atomic_uint disk;  /* the number of the disk that is there; 0: none */
    atomic_uint doing; /* what is under way */
    atomic_uint next;  /* PUTTING: the number of the new disk */
};

struct board {
    struct slot slots[WORKERS][SLOTS];
    atomic_ulong puts, removals, reads, collections, failures;
    char failure[1024];
};

static struct board *board;
static char *store_dir;

/* ---- disks ---- */

/* Disks share most of their pages with others, whoever makes them. */
static void disk_of(unsigned number, uint32_t seeds[PAGES], struct disk *out)
{
    uint64_t random = number | 1;

    for (unsigned i = 0; i < PAGES; i++)
        seeds[i] = i % 7 == 6   ? 0
                   : i % 4 == 0 ? number * 64 + i
                                : 1 + (uint32_t)(random_next(&random) % 400);
    *out = (struct disk){PAGES, seeds};
}

/* ---- in a worker ---- */

static void worker_fails(const char *what, const struct error *err)
{
    if (atomic_fetch_add(&board->failures, 1) == 0)
        snprintf(board->failure, sizeof(board->failure), "%s: %s", what, err->message);
    _exit(1);
}

static void put(struct store *store, struct slot *slot, const char *image, unsigned number)
{
    struct error err = ERROR_INIT;
    uint32_t seeds[PAGES];
    struct digest id;
    struct disk disk;

    disk_of(number, seeds, &disk);
    atomic_store(&slot->next, number);
    atomic_store(&slot->doing, PUTTING);
    if (put_disk(store, &disk, &(struct put){.image = image}, &id, &err) < 0)
        worker_fails("put", &err);
    atomic_store(&slot->disk, number);
    atomic_store(&slot->doing, IDLE);
    atomic_fetch_add(&board->puts, 1);
}

/* The image, then the checkpoint, as 'stasis untag' and 'stasis rm' do. */
static void remove_image(struct store *store, struct slot *slot, const char *image)
{
    struct error err = ERROR_INIT;
    struct digest id;
    int r;

    if (atomic_load(&slot->disk) == 0)
        return;
    atomic_store(&slot->doing, REMOVING);
    if (catalogue_image_get(store, image, "1", &id, &err) < 0 ||
        catalogue_image_remove(store, image, "1", &err) < 0)
        worker_fails("remove", &err);
    /* Without its name it is garbage, which somebody may just collect. */
    r = catalogue_checkpoint_remove(store, &id, &err);
    if (r < 0 && r != -ENOENT)
        worker_fails("remove", &err);
    atomic_store(&slot->disk, 0);
    atomic_store(&slot->doing, IDLE);
    atomic_fetch_add(&board->removals, 1);
}

/* What another worker has there, if it stands still while we look. */
static void read_other(struct store *store, struct slot *slot, const char *image)
{
    unsigned number = atomic_load(&slot->disk);
    _cleanup_free_ uint8_t *want = calloc(PAGES, STASIS_PAGE_SIZE), *got = NULL;
    struct error err = ERROR_INIT;
    uint32_t seeds[PAGES];
    struct digest id;
    struct disk disk;
    uint64_t size;

    if (number == 0 || atomic_load(&slot->doing) != IDLE ||
        catalogue_image_get(store, image, "1", &id, &err) < 0 ||
        read_disk(store, &id, &got, &size, &err) < 0) {
        if (number != 0 && atomic_load(&slot->doing) == IDLE && atomic_load(&slot->disk) == number)
            worker_fails("read", &err);
        return;
    }
    disk_of(number, seeds, &disk);
    for (unsigned i = 0; i < PAGES; i++)
        if (seeds[i] != 0)
            fill_page(want + (size_t)i * STASIS_PAGE_SIZE, seeds[i]);
    if (atomic_load(&slot->doing) == IDLE && atomic_load(&slot->disk) == number &&
        memcmp(want, got, size) != 0) {
        error_set(&err, STATUS_CORRUPT, EBADMSG, "image %s is not disk %u", image, number);
        worker_fails("compare", &err);
    }
    atomic_fetch_add(&board->reads, 1);
}

static void collect(struct store *store)
{
    struct error err = ERROR_INIT;
    struct gc_result result;
    int r = store_gc(store, NULL, &result, &err);

    if (r < 0 && r != -EBUSY)
        worker_fails("gc", &err);
    atomic_fetch_add(&board->collections, r == 0);
}

static void work(unsigned me, unsigned life, uint64_t random)
{
    struct error err = ERROR_INIT;
    struct store *store;

    /* Its number is in the numbers of its disks: no two are the same. */
    if (store_open(store_dir, false, &store, &err) < 0)
        worker_fails("open", &err);
    for (unsigned n = 1;; n++) {
        unsigned i = (unsigned)(random_next(&random) % SLOTS);
        unsigned other = (unsigned)(random_next(&random) % WORKERS);
        _cleanup_free_ char *image = io_format("w%u-%u", me, i);
        _cleanup_free_ char *read = io_format("w%u-%u", other, i);

        switch (random_next(&random) % 7) {
        case 0:
        case 1:
        case 2:
            put(store, &board->slots[me][i], image, (life * WORKERS + me) * 1000 + n % 1000 + 1);
            break;
        case 3:
            remove_image(store, &board->slots[me][i], image);
            break;
        case 4:
            collect(store);
            break;
        default:
            read_other(store, &board->slots[other][i], read);
        }
    }
}

/* ---- outside ---- */

static pid_t start_worker(unsigned me, unsigned life)
{
    uint64_t random = seed + life * 100 + me + 1;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        work(me, life, random_next(&random) | 1);
        _exit(0);
    }
    return pid;
}

static void kill_worker(pid_t pid)
{
    int status;

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (atomic_load(&board->failures) != 0)
        fail_msg("%s", board->failure);
    assert_true(WIFSIGNALED(status));
}

/* Does the image hold that disk? */
static bool image_is(struct store *store, const char *image, unsigned number)
{
    _cleanup_free_ uint8_t *want = calloc(PAGES, STASIS_PAGE_SIZE), *got = NULL;
    struct error err = ERROR_INIT;
    uint32_t seeds[PAGES];
    struct digest id;
    struct disk disk;
    uint64_t size;
    int r = catalogue_image_get(store, image, "1", &id, &err);

    if (r == -ENOENT || number == 0)
        return number == 0 && r == -ENOENT;
    must(r, &err);
    must(read_disk(store, &id, &got, &size, &err), &err);
    disk_of(number, seeds, &disk);
    for (unsigned i = 0; i < PAGES; i++)
        if (seeds[i] != 0)
            fill_page(want + (size_t)i * STASIS_PAGE_SIZE, seeds[i]);
    return memcmp(want, got, size) == 0;
}

/* All its slots are what it had said, or what it was about to make of them. */
static void settle_worker(struct store *store, unsigned me)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *slot = &board->slots[me][i];
        _cleanup_free_ char *image = io_format("w%u-%u", me, i);
        unsigned doing = atomic_load(&slot->doing);

        if (doing == PUTTING && image_is(store, image, atomic_load(&slot->next)))
            atomic_store(&slot->disk, atomic_load(&slot->next));
        else if (doing == REMOVING && image_is(store, image, 0))
            atomic_store(&slot->disk, 0);
        else if (!image_is(store, image, atomic_load(&slot->disk)))
            fail_msg("image %s is not disk %u (doing %u)", image, atomic_load(&slot->disk), doing);
        atomic_store(&slot->doing, IDLE);
    }
}

static void check_all(unsigned workers)
{
    struct error err = ERROR_INIT;
    struct store *store;

    must(store_open(store_dir, false, &store, &err), &err);
    for (unsigned i = 0; i < workers; i++)
        settle_worker(store, i);
    assert_store_is_sound(store);
    store_close(store);
}

static void killed_processes_leave_what_was_committed(void **state)
{
    struct fixture *f = *state;
    uint64_t end = clock_monotonic_ns() + seconds * UINT64_C(1000000000), random = seed | 1;
    unsigned life = 0, kills = 0;
    pid_t pids[WORKERS];

    print_message("seed %llu\n", (unsigned long long)seed);
    store_dir = f->store_dir;
    store_close(f->store);
    f->store = NULL;
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(board != MAP_FAILED);
    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = start_worker(i, life);
    for (life = 1; clock_monotonic_ns() < end; life++) {
        struct error err = ERROR_INIT;
        unsigned victim = (unsigned)(random_next(&random) % WORKERS);

        usleep((useconds_t)(random_next(&random) % 20000));
        if (life % 8 == 0) {
            /* All at once; then there is time to look at everything. */
            for (unsigned i = 0; i < WORKERS; i++)
                kill_worker(pids[i]);
            check_all(WORKERS);
            for (unsigned i = 0; i < WORKERS; i++)
                pids[i] = start_worker(i, life);
            kills += WORKERS;
            continue;
        }
        kill_worker(pids[victim]);
        must(store_open(store_dir, false, &f->store, &err), &err);
        settle_worker(f->store, victim);
        store_close(f->store);
        f->store = NULL;
        pids[victim] = start_worker(victim, life);
        kills++;
    }
    for (unsigned i = 0; i < WORKERS; i++)
        kill_worker(pids[i]);
    check_all(WORKERS);
    assert_int_equal(count_files(f, ".tmp"), 0);
    print_message("%u kills, %lu checkpoints made, %lu removed, %lu read, %lu collections\n", kills,
                  atomic_load(&board->puts), atomic_load(&board->removals),
                  atomic_load(&board->reads), atomic_load(&board->collections));
    assert_true(kills > 0);
    munmap(board, sizeof(*board));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {TEST(killed_processes_leave_what_was_committed)};

    seed = (uint64_t)clock_wall_us();
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seconds") == 0)
            seconds = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
