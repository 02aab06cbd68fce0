/* SPDX-License-Identifier: Apache-2.0 */
/* The machine process: set-up, event loop, end. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/catalogue.h"
#include "vmm/checkpoint/restore.h"
#include "vmm/devices/disk_layer.h"
#include "vmm/machine_start.h"
#include "vmm/process/process.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

enum { EVENTS_MAX = 32, TIDY_MS = 30000 };

/* Of decoded pages: a host runs many machines, and the kernel keeps the files themselves
 * once for all of them. */
#define CACHE_BYTES (32u << 20)

/* ---- the event loop's sources ---- */

int process_watch(struct process *p, int fd, struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    return epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void process_wake(void *context)
{
    struct process *p = context;
    uint64_t one = 1;

    (void)!write(p->wake_fd, &one, sizeof(one));
}

static void drain_event(int fd)
{
    uint64_t count;

    (void)!read(fd, &count, sizeof(count));
}

/* ---- the board's events; from vCPU threads ---- */

static void on_console_output(const uint8_t *bytes, size_t length, void *context)
{
    struct process *p = context;

    console_output(p->console, bytes, length);
}

static void on_console_room(void *context)
{
    struct process *p = context;

    if (atomic_exchange(&p->input_waits, false))
        process_wake(p);
}

static void on_stopped(enum vm_stop why, const char *message, void *context)
{
    struct process *p = context;

    pthread_mutex_lock(&p->stop_lock);
    if (p->stop == VM_STOP_NONE || why == VM_STOP_ERROR) {
        p->stop = why;
        snprintf(p->stop_message, sizeof(p->stop_message), "%s", message != NULL ? message : "");
    }
    pthread_mutex_unlock(&p->stop_lock);
    process_wake(p);
}

bool process_is_over(struct process *p)
{
    pthread_mutex_lock(&p->stop_lock);
    const bool over = p->stop != VM_STOP_NONE;
    pthread_mutex_unlock(&p->stop_lock);
    return over;
}

void process_forget_stop(struct process *p)
{
    pthread_mutex_lock(&p->stop_lock);
    p->stop = VM_STOP_NONE;
    p->stop_message[0] = '\0';
    pthread_mutex_unlock(&p->stop_lock);
}

/* ---- the board ---- */

void process_free_board(struct process *p)
{
    board_free(p->board); /* closes the kick fds, which leave epoll by that */
    p->board = NULL;
}

static int watch_kicks(struct process *p, struct error *err)
{
    for (unsigned i = 0; i < p->board->virtio_count; i++) {
        if (!board_is_kicked(p->board, i))
            continue;
        p->kick_watches[i] = (struct watch){.kind = WATCH_KICK, .index = i};
        int r = process_watch(p, p->board->kick_fds[i], &p->kick_watches[i], EPOLLIN);
        if (r < 0)
            return error_errno(err, -r, "cannot watch a device");
    }
    return 0;
}

int process_build_board(struct process *p, bool keep_overlays, bool boot, bool clock_host,
                        struct error *err)
{
    const struct manifest *m = &p->base.manifest;
    struct board_events events = {
        .console_output = on_console_output,
        .console_room = on_console_room,
        .stopped = on_stopped,
        .context = p,
    };

    process_forget_stop(p);
    int r =
        board_create(p->store, m, p->dir, keep_overlays, &p->net, p->tap, &events, &p->board, err);
    if (r < 0)
        return r;
    boot = boot || m->kind == CHECKPOINT_COLD;
    p->base.has_memory = !boot;
    r = board_open_vsock(p->board, p->vsock_path, err);
    if (r == 0)
        r = boot ? board_boot(p->board, p->store, m, err)
                 : restore_fresh(p->board, p->store, m, clock_host, err);
    if (r == 0)
        r = board_start(p->board, err);
    if (r == 0)
        r = watch_kicks(p, err);
    if (r < 0)
        process_free_board(p);
    return r;
}

void process_run_board(struct process *p)
{
    if (!p->paused)
        board_resume(p->board);
}

/* ---- what the loop does ---- */

static void end_loop(struct process *p, const char *reason)
{
    p->quit = true;
    p->quit_reason = reason;
}

/* A guest that resets itself boots again from its disks as they are. */
static void reboot(struct process *p)
{
    struct error err;

    event_log(p, "reset", NULL); /* and not into the process's log, which a guest could fill */
    process_free_board(p);
    if (process_build_board(p, true, true, false, &err) < 0) {
        log_event("cannot boot again: %s", err.message);
        end_loop(p, "error");
        return;
    }
    process_run_board(p);
}

static void finish_save(struct process *p)
{
    if (p->job != NULL)
        verb_save_finished(p); /* joins the thread */
}

static void handle_stop(struct process *p)
{
    char message[sizeof(p->stop_message)];

    pthread_mutex_lock(&p->stop_lock);
    enum vm_stop why = p->stop;
    p->stop = VM_STOP_NONE;
    memcpy(message, p->stop_message, sizeof(message));
    pthread_mutex_unlock(&p->stop_lock);
    if (why == VM_STOP_NONE || p->quit)
        return;
    finish_save(p); /* it reads the board's disks */
    console_flush(p->console);
    if (why == VM_STOP_RESET) {
        reboot(p);
    } else if (why == VM_STOP_POWER_OFF) {
        log_event("the guest switched itself off");
        end_loop(p, "power-off");
    } else {
        log_event("the guest cannot go on: %s", message);
        end_loop(p, "error");
    }
}

static void handle_wake(struct process *p)
{
    drain_event(p->wake_fd);
    console_flush(p->console);
    if (p->job != NULL && p->job->done)
        verb_save_finished(p);
    if (p->board != NULL)
        handle_stop(p);
    control_console_ready(p);
}

static void handle_kick(struct process *p, unsigned index)
{
    /* It may be of a board that was there when the loop woke up. */
    if (p->board == NULL || index >= p->board->virtio_count || !board_is_kicked(p->board, index))
        return;
    drain_event(p->board->kick_fds[index]);
    board_kick(p->board, index);
}

static void handle_event(struct process *p, const struct epoll_event *event)
{
    struct watch *watch = event->data.ptr;

    switch (watch->kind) {
    case WATCH_LISTEN:
        control_accept(p);
        break;
    case WATCH_CLIENT:
        control_client_event(p, watch->client, event->events);
        break;
    case WATCH_KICK:
        handle_kick(p, watch->index);
        break;
    case WATCH_WAKE:
        handle_wake(p);
        break;
    case WATCH_SIGNAL:
        end_loop(p, "killed");
        break;
    }
}

/* Files of collected packs that this process has open take up space. A save would
 * see to that anyway, and is not to be waited for. And kernel or memory, with which a
 * machine begins, are read once. */
static void tidy(struct process *p, uint64_t *next_ns)
{
    if (p->job != NULL || clock_monotonic_ns() < *next_ns)
        return;
    store_tidy(p->store);
    store_forget_pages(p->store);
    *next_ns = clock_monotonic_ns() + TIDY_MS * UINT64_C(1000000);
}

static void run_loop(struct process *p)
{
    struct epoll_event events[EVENTS_MAX];
    uint64_t next_ns = 0;

    while (!p->quit) {
        int n = epoll_wait(p->epoll_fd, events, EVENTS_MAX, TIDY_MS);

        tidy(p, &next_ns);
        for (int i = 0; i < n && !p->quit; i++)
            handle_event(p, &events[i]);
    }
}

/* ---- beginning and end ---- */

/* The lock is the sign of life: held until the process is gone. */
static int take_lock(struct process *p, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/lock", p->dir);
    char pid[16];

    p->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (p->lock_fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    if (machine_lock_take(p->lock_fd) < 0) {
        error_set(err, STATUS_BUSY, EBUSY, "%s is running already", p->name);
        return -EBUSY;
    }
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(p->lock_fd, 0) < 0 || pwrite(p->lock_fd, pid, (size_t)n, 0) != n)
        return error_errno(err, errno, "cannot write %s", path);
    return 0;
}

static int open_sources(struct process *p, struct error *err)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    p->wake_watch = (struct watch){.kind = WATCH_WAKE};
    p->signal_watch = (struct watch){.kind = WATCH_SIGNAL};
    if (p->epoll_fd < 0 || p->wake_fd < 0 || p->signal_fd < 0 ||
        process_watch(p, p->wake_fd, &p->wake_watch, EPOLLIN) < 0 ||
        process_watch(p, p->signal_fd, &p->signal_watch, EPOLLIN) < 0)
        return error_errno(err, errno, "cannot set up the event loop");
    return 0;
}

static int read_head(struct process *p, struct digest *out, struct error *err)
{
    struct catalogue_machine *machine = NULL;

    int r = catalogue_machine_get(p->store, p->name, &machine, err);
    if (r < 0)
        return r;
    *out = machine->has_head ? machine->head : machine->origin;
    catalogue_machines_free(machine, 1);
    return 0;
}

/* Overlays go with the head, which may have moved since the start was asked for. */
static int check_head(struct process *p, const struct digest *head, struct error *err)
{
    if (digest_equal(head, &p->base.id))
        return 0;
    error_set(err, STATUS_BUSY, EBUSY, "%s has just been put to another checkpoint", p->name);
    error_hint(err, "look where it is now: stasis history %s", p->name);
    return -EBUSY;
}

/* What is on the disks beyond the head will be lost: only for a checkpoint that can
 * be read. */
static int check_loss(struct process *p, struct error *err)
{
    _cleanup_free_ struct disk_layer_name *names = NULL;
    size_t count = 0;

    int r = disk_layer_list(p->dir, &names, &count);
    if (r < 0)
        return error_errno(err, -r, "cannot look for overlays in %s", p->dir);
    return count > 0 ? restore_check(p->store, &p->base.manifest, err) : 0;
}

/* A restore to a checkpoint that is not the head forgets the disks' overlays
 * before the head moves: at no time does an overlay lie on a map it is not of. */
static int move_head(struct process *p, const struct digest *to, struct error *err)
{
    int r = disk_remove_overlays(p->dir, err);

    return r < 0 ? r : catalogue_machine_set_head(p->store, p->name, to, err);
}

static int start_board(struct process *p, struct error *err)
{
    return process_build_board(p, p->start.keep_overlays, p->start.boot,
                               p->start.clock == MACHINE_CLOCK_HOST, err);
}

/* Disks, memory and devices; a start that fails leaves the head where it was. */
static int set_up_board(struct process *p, struct error *err)
{
    struct digest head;

    int r = read_head(p, &head, err);
    if (r < 0)
        return r;
    if (p->start.keep_overlays)
        return (r = check_head(p, &head, err)) < 0 ? r : start_board(p, err);
    if ((r = check_loss(p, err)) < 0 || (r = move_head(p, &p->base.id, err)) < 0)
        return r;
    r = start_board(p, err);
    if (r < 0)
        (void)move_head(p, &head, NULL);
    return r;
}

/* Ports below 1024 are for root, who has given up what he is, but for this. */
static bool wants_low_ports(const struct net_settings *net)
{
    for (size_t i = 0; i < net->forward_count; i++)
        if (net->forwards[i].host_port < 1024)
            return true;
    return false;
}

static int enter_sandbox(const struct process *p, struct error *err)
{
    const struct sandbox_settings settings = {
        .store_dir = p->home.store,
        .machine_dir = p->dir,
        .runtime_dir = p->home.runtime,
        .network = p->net.mode == NET_MODE_USER,
        .low_ports = p->net.mode == NET_MODE_USER && wants_low_ports(&p->net),
    };

    return sandbox_enter(&settings, err);
}

/* What says how to start, and what cannot be done any more in the sandbox. */
static int prepare(struct process *p, struct error *err)
{
    int r;

    if ((r = take_lock(p, err)) < 0 || (r = machine_start_read(p->dir, &p->start, err)) < 0 ||
        (r = net_settings_read(p->dir, &p->net, err)) < 0)
        return r;
    if (p->start.offline) {
        p->net.mode = NET_MODE_NONE;
        p->net.forward_count = 0;
    }
    if (p->net.mode == NET_MODE_TAP && (r = net_tap_open(p->net.tap, &p->tap, err)) < 0)
        return r;
    memory_open_pagemap();
    stats_open(p);
    return control_bind(p, err);
}

static int set_up(struct process *p, struct error *err)
{
    /* Until it is the machine's head. */
    _cleanup_(store_unpinp) struct store_pin *pin = NULL;
    int r;

    if ((r = store_open(p->home.store, false, &p->store, err)) < 0)
        return r;
    /* A save must leave the guest its share. */
    store_limit_threads(p->store, (store_threads(p->store) + 1) / 2);
    store_limit_cache(p->store, CACHE_BYTES);
    p->base.id = p->start.checkpoint;
    machine_end_forget(p->dir); /* of the last time */
    if ((r = store_pin(p->store, &p->base.id, &pin, err)) < 0 ||
        (r = catalogue_manifest_read(p->store, &p->base.id, &p->base.manifest, err)) < 0)
        return r;
    net_settings_apply(&p->net, &p->base.manifest.config);
    if ((r = open_sources(p, err)) < 0 ||
        (r = console_open(p->dir, process_wake, p, &p->console, err)) < 0 ||
        (r = set_up_board(p, err)) < 0)
        return r;
    p->paused = p->start.paused;
    p->started_ns = clock_monotonic_ns();
    if ((r = event_log_open(p, err)) < 0)
        return r;
    return control_listen(p, err);
}

/* One JSON line: how the start went. */
static void report(int ready_fd, int r, const struct error *err)
{
    _cleanup_json_ json_t *reply = r == 0 ? json_pack("{s:b}", "ok", 1) : control_error_json(err);
    _cleanup_free_ char *text = json_dumps(reply, JSON_COMPACT);

    if (text != NULL && ready_fd >= 0) {
        (void)io_write_full(ready_fd, text, strlen(text));
        (void)io_write_full(ready_fd, "\n", 1);
    }
    if (ready_fd >= 0)
        close(ready_fd);
}

static void copy_stop_message(struct process *p, char out[sizeof(p->stop_message)])
{
    pthread_mutex_lock(&p->stop_lock); /* vCPUs may still run */
    memcpy(out, p->stop_message, sizeof(p->stop_message));
    pthread_mutex_unlock(&p->stop_lock);
}

static void log_start(struct process *p)
{
    char hex[DIGEST_HEX_SIZE];
    const bool warm = p->base.manifest.kind == CHECKPOINT_WARM && !p->start.boot;

    log_event("started from %s", warm ? "a warm checkpoint" : "a cold boot");
    event_log(p, "started",
              json_pack("{s:s, s:s, s:b, s:i}", "id", digest_hex(&p->base.id, hex), "kind",
                        warm ? "warm" : "cold", "paused", p->paused, "pid", (int)getpid()));
}

static void log_end(struct process *p)
{
    const bool crashed =
        strcmp(p->quit_reason, "error") == 0 || strcmp(p->quit_reason, "failed restore") == 0;
    char message[sizeof(p->stop_message)];

    copy_stop_message(p, message);
    event_log(p, crashed ? "crashed" : "stopped",
              json_pack("{s:s, s:s}", "reason", p->quit_reason, "message", message));
}

static void tear_down(struct process *p)
{
    /* A kill does not wait for a save: nothing of it is committed, and the store
     * drops what it had written. Its thread still uses the rest, so leave that. */
    bool saving = p->job != NULL && !p->job->done;

    control_close(p);
    if (saving) {
        log_end(p);
        _exit(0);
    }
    finish_save(p);
    process_free_board(p);
    net_tap_close(p->tap);
    console_close(p->console);
    store_close(p->store);
    log_end(p); /* the last thing: whoever reads that may start it again */
}

/* After a start that failed: whoever reads the report may try again at once. */
static void give_back(struct process *p)
{
    control_close(p);
    net_tap_close(p->tap);
    if (p->lock_fd >= 0)
        close(p->lock_fd);
}

static void write_end(struct process *p)
{
    char message[sizeof(p->stop_message)];

    copy_stop_message(p, message);
    machine_end_write(p->dir, p->quit_reason, message);
}

int machine_process_main(const char *home_root, const char *name, int ready_fd)
{
    static struct process process; /* large, and reachable for the threads */
    struct process *p = &process;
    struct error err = ERROR_INIT;

    p->epoll_fd = p->listen_fd = p->wake_fd = p->signal_fd = p->lock_fd = p->statm_fd =
        p->events_fd = -1;
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        p->clients[i].fd = -1;
    pthread_mutex_init(&p->stop_lock, NULL);
    int r = home_open(home_root, &p->home, &err);
    if (r == 0) {
        p->name = io_format("%s", name);
        p->dir = home_machine_dir(&p->home, name);
        p->socket_path = home_machine_socket(&p->home, name);
        p->vsock_path = home_machine_vsock(&p->home, name);
        if ((r = prepare(p, &err)) == 0 && (r = enter_sandbox(p, &err)) == 0)
            r = set_up(p, &err);
    }
    if (r < 0)
        give_back(p);
    if (r == 0)
        log_start(p);
    report(ready_fd, r, &err);
    if (r < 0) {
        log_event("cannot start: %s", err.message);
        return (int)err.status;
    }
    process_run_board(p);
    run_loop(p);
    bool failed = strcmp(p->quit_reason, "error") == 0;
    log_event("ended: %s", p->quit_reason);
    write_end(p);
    tear_down(p);
    return failed ? 1 : 0;
}
