/* SPDX-License-Identifier: Apache-2.0 */
/* The process that is a machine; shared by the files of vmm/process/ only.
 * Everything here belongs to the event loop's thread unless said otherwise. */
#ifndef STASIS_VMM_PROCESS_PROCESS_H
#define STASIS_VMM_PROCESS_PROCESS_H

#include "base/buffer.h"
#include "base/home.h"
#include "vmm/board.h"
#include "vmm/checkpoint/save.h"
#include "vmm/machine.h"
#include "vmm/process/console.h"

#include <jansson.h>
#include <stdatomic.h>

#define CLIENTS_MAX 64

/* What an epoll event is about. */
enum watch_kind {
    WATCH_LISTEN,
    WATCH_CLIENT,
    WATCH_KICK,
    WATCH_WAKE,
    WATCH_SIGNAL,
};

struct watch {
    enum watch_kind kind;
    unsigned index; /* virtio device */
    struct client *client;
};

struct client {
    struct watch watch;
    int fd; /* -1: this place is free */
    bool is_console;
    bool closing;            /* ends when its output is sent */
    bool deaf;               /* its peer takes no more output; it may have typed */
    struct buffer input;     /* an unfinished request, or bytes to type */
    struct buffer output;    /* replies not sent yet */
    uint64_t console_offset; /* next byte of the log to send */
    uint32_t watched;        /* as told to epoll */
};

/* A save under way: from the "save" request to its reply. */
struct save_job {
    struct process *process;
    struct save *save;
    pthread_t thread;
    char *name;            /* of the checkpoint, or NULL */
    struct client *client; /* who waits for the reply; NULL if it went away */
    bool then_quit;
    uint64_t pause_us;
    /* written by the thread, read after `done` */
    int status;
    struct error error;
    struct save_result result;
    _Atomic bool done;
};

/* Of the last save that went well, for `stats`. */
struct last_save {
    struct digest id;
    int64_t wall_us;
    uint64_t at_ns;
    uint64_t interval_us; /* since the one before, or the start */
    uint64_t pause_us;
    uint64_t pages;
    uint64_t pages_new;
    uint64_t stored_bytes;
};

struct process {
    struct home home;
    char *name;
    char *dir;
    char *socket_path;
    char *vsock_path;
    int lock_fd;
    struct machine_start start;
    struct net_settings net;
    struct net_tap *tap; /* NET_MODE_TAP: opened before the sandbox, kept for all boards */
    struct store *store;
    struct board *board;
    struct checkpoint_base base;
    struct console *console;
    bool paused; /* by a user */
    uint64_t started_ns;

    int epoll_fd;
    int listen_fd;
    int wake_fd; /* eventfd: console output, guest stopped, save done */
    int signal_fd;
    struct watch listen_watch;
    struct watch wake_watch;
    struct watch signal_watch;
    struct watch kick_watches[LAYOUT_VIRTIO_SLOTS];
    struct client clients[CLIENTS_MAX];
    struct save_job *job; /* or NULL */

    int statm_fd;  /* /proc/self/statm */
    int events_fd; /* events.log */
    uint64_t saves;
    struct last_save last_save;
    uint64_t seen_written_pages; /* by looks at the dirty log */

    bool quit;
    const char *quit_reason;
    /* A console client may have bytes the guest had no room for. Set by the event
     * loop, taken by the vCPU thread that makes room. */
    _Atomic bool input_waits;
    struct buffer left_input; /* typed by clients that went away, not yet taken */

    /* set by vCPU threads */
    pthread_mutex_t stop_lock;
    enum vm_stop stop;
    char stop_message[256];
};

/* control.c: the socket and its clients */
int control_bind(struct process *p, struct error *err); /* before the sandbox */
int control_listen(struct process *p, struct error *err);
void control_accept(struct process *p);
void control_client_event(struct process *p, struct client *client, uint32_t events);
void control_console_ready(struct process *p); /* there is new output, or room for input */
void control_close(struct process *p);
/* result is stolen; error replies take err. */
void control_reply(struct process *p, struct client *client, json_t *result);
void control_reply_error(struct process *p, struct client *client, const struct error *err);
/* What a failure looks like on a wire. */
json_t *control_error_json(const struct error *err);

/* verbs.c: what requests do. Returns false if the reply comes later. */
bool verb_run(struct process *p, struct client *client, const char *verb, json_t *args);
void verb_save_finished(struct process *p); /* p->job is done */
void verb_client_gone(struct process *p, const struct client *client);

/* What `status` tells; a new reference. */
json_t *verb_status_json(struct process *p);

/* events.c. details is stolen and may be NULL; after event_log_open(). */
int event_log_open(struct process *p, struct error *err);
void event_log(struct process *p, const char *event, json_t *details);

/* stats.c */
void stats_open(struct process *p);
void stats_saved(struct process *p, const struct save_job *job);
bool verb_stats(struct process *p, struct client *client, json_t *args);

/* balloon.c */
bool verb_balloon(struct process *p, struct client *client, json_t *args);
json_t *process_balloon_json(struct process *p); /* of `status`; a new reference */

/* pages.c */
bool verb_pages(struct process *p, struct client *client, json_t *args);

/* main.c */
int process_watch(struct process *p, int fd, struct watch *watch, uint32_t events);
void process_wake(void *p); /* any thread */
/* Replaces the board by one made for manifest m (NULL: for p->base) and boots or
 * restores it; leaves it parked. On failure there is no board. */
int process_build_board(struct process *p, bool keep_overlays, bool boot, bool clock_host,
                        struct error *err);
void process_free_board(struct process *p);
void process_run_board(struct process *p); /* unless a user paused it */
/* Has the machine ended, or asked for a reset, and the event loop has not come to it? */
bool process_is_over(struct process *p);
/* What the guest asked for before now is of a time that a restore undid. */
void process_forget_stop(struct process *p);

#endif
