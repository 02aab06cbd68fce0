/* SPDX-License-Identifier: Apache-2.0 */
/*
 * save -> restore -> save at 200 random points of a busy guest: once in place, as a
 * machine that goes back, and once into a board that has never run, as a clone. The
 * boards are this program's own, and so is the event loop: no process, no store in
 * between, milliseconds a point.
 */
#include "harness.h"
#include "same_state.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "vmm/board.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { POINTS = 200, RUN_US_MAX = 20000 };

struct machine {
    struct site *site;
    struct store *store;
    struct manifest manifest;
    struct board *board; /* that runs */
    struct board *other; /* that does not */
    const char *script;  /* what is still to be typed */
    _Atomic uint64_t printed;
    _Atomic bool stopped;
};

static void on_output(const uint8_t *bytes, size_t length, void *context)
{
    struct machine *m = context;

    (void)bytes;
    m->printed += length;
}

static void on_room(void *context)
{
    (void)context;
}

static void on_stopped(enum vm_stop why, const char *message, void *context)
{
    struct machine *m = context;

    print_error("the guest stopped (%d): %s\n", (int)why, message != NULL ? message : "");
    m->stopped = true;
}

/* ---- two boards of one image ---- */

static struct board *make_board(struct machine *m, const char *name)
{
    const struct board_events events = {
        .console_output = on_output, .console_room = on_room, .stopped = on_stopped, .context = m};
    const struct net_settings net = {.mode = NET_MODE_NONE};
    _cleanup_free_ char *dir = site_path(m->site, name);
    struct board *board = NULL;
    struct error err = ERROR_INIT;

    assert_int_equal(io_make_dirs(dir, 0700), 0);
    if (board_create(m->store, &m->manifest, dir, false, &net, NULL, &events, &board, &err) < 0)
        fail_msg("%s", err.message);
    return board;
}

static void open_machine(struct machine *m, struct site *site)
{
    struct error err = ERROR_INIT;
    _cleanup_free_ char *disk = site_disk(site, "disk", 11);

    stasis_ok(site,
              "import probe:1 --kernel %s --memory 16M --disk %s "
              "--cmdline virtio=0xd0000000,4096,16",
              PROBE_ELF, disk);
    struct digest id = checkpoint_id(site, "probe:1");
    m->site = site;
    assert_int_equal(store_open(site->home.store, false, &m->store, &err), 0);
    assert_int_equal(catalogue_manifest_read(m->store, &id, &m->manifest, &err), 0);
    m->board = make_board(m, "runs");
    m->other = make_board(m, "stands");
    if (board_boot(m->board, m->store, &m->manifest, &err) < 0 || board_start(m->board, &err) < 0)
        fail_msg("%s", err.message);
}

static void close_machine(struct machine *m)
{
    board_free(m->board);
    board_free(m->other);
    store_close(m->store);
}

/* ---- running it ---- */

/* Each of these keeps another device busy. */
static const char script[] = "tick on 1\nfpu 0x1234567\nrng 32\nblk write 3 3 3\nkvmclock\n"
                             "blk sum 0 64\nblk flush\ntime\nrng 8\nblk write 100 8 7\n";

static void type(struct machine *m)
{
    if (m->script == NULL || *m->script == '\0')
        m->script = script;
    m->script += board_console_input(m->board, (const uint8_t *)m->script, strlen(m->script));
}

/* The event loop of a machine's process, for so long. */
static void serve(struct machine *m, uint64_t until_ns)
{
    struct pollfd polls[LAYOUT_VIRTIO_SLOTS];
    uint64_t count;

    for (unsigned i = 0; i < m->board->virtio_count; i++)
        polls[i] = (struct pollfd){.fd = m->board->kick_fds[i], .events = POLLIN};
    for (uint64_t now; !m->stopped && (now = clock_monotonic_ns()) < until_ns;) {
        const struct timespec timeout = {.tv_nsec = (long)min_u64(until_ns - now, 1000000)};

        type(m);
        if (ppoll(polls, m->board->virtio_count, &timeout, NULL) <= 0)
            continue;
        for (unsigned i = 0; i < m->board->virtio_count; i++)
            if (polls[i].revents != 0 && read(polls[i].fd, &count, sizeof(count)) > 0)
                board_kick(m->board, i);
    }
}

static struct state save_board(struct board *board)
{
    struct buffer out = {0};
    struct error err = ERROR_INIT;

    if (board_state_save(board, &out, &err) < 0)
        fail_msg("%s", err.message);
    return (struct state){.bytes = out.data, .length = out.length};
}

static void assert_comes_back(struct board *board, const struct state *first)
{
    struct error err = ERROR_INIT;

    if (board_state_restore(board, first->bytes, first->length, false, &err) < 0)
        fail_msg("%s", err.message);
    struct state again = save_board(board);
    assert_same_records(first, &again);
    free(again.bytes);
}

static void every_point_comes_back_the_same(void **state)
{
    struct machine m = {0};
    uint64_t random = harness_random();
    bool moved = false;

    open_machine(&m, *state);
    for (unsigned point = 0; point < POINTS; point++) {
        const uint64_t before = m.printed;

        random = random * 6364136223846793005ull + 1442695040888963407ull;
        board_resume(m.board);
        serve(&m, clock_monotonic_ns() + (random >> 33) % RUN_US_MAX * 1000);
        board_pause(m.board);
        assert_false(m.stopped);
        moved |= m.printed != before;
        struct state first = save_board(m.board);
        assert_comes_back(m.board, &first);
        assert_comes_back(m.other, &first);
        free(first.bytes);
    }
    assert_true(moved);
    close_machine(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(every_point_comes_back_the_same),
    };

    return HARNESS_RUN(tests);
}
