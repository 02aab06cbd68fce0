/* SPDX-License-Identifier: Apache-2.0 */
/* What the requests on the control socket do; docs/control.md lists them. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/catalogue.h"
#include "vmm/checkpoint/restore.h"
#include "vmm/process/process.h"

#include <errno.h>

static json_t *digest_json(const struct digest *digest)
{
    char hex[DIGEST_HEX_SIZE];

    return json_string(digest_hex(digest, hex));
}

static const char *state_name(const struct process *p)
{
    return p->paused ? "paused" : "running";
}

json_t *verb_status_json(struct process *p)
{
    return json_pack("{s:s, s:b, s:i, s:I, s:I, s:i, s:I, s:o, s:o, s:o, s:s?}", "state",
                     state_name(p), "saving", p->job != NULL, "pid", (int)getpid(), "uptime_us",
                     (json_int_t)((clock_monotonic_ns() - p->started_ns) / 1000), "memory_bytes",
                     (json_int_t)p->board->config.memory_bytes, "vcpus",
                     (int)p->board->config.vcpus, "exits", (json_int_t)vm_exit_count(p->board->vm),
                     "base", digest_json(&p->base.id), "net", net_settings_to_json(&p->net),
                     "balloon", process_balloon_json(p), "vsock",
                     p->board->vsock_host != NULL ? p->vsock_path : NULL);
}

static bool verb_status(struct process *p, struct client *client, json_t *args)
{
    (void)args;
    control_reply(p, client, verb_status_json(p));
    return true;
}

/* A machine that ends with its checkpoint must not run on behind it. */
static bool refuse_while_ending(struct process *p, struct client *client)
{
    struct error err;

    if (p->job == NULL || !p->job->then_quit)
        return false;
    error_set(&err, STATUS_BUSY, EBUSY, "%s is being saved and then ends", p->name);
    control_reply_error(p, client, &err);
    return true;
}

/* Guest time with it. It is paused already. */
static void stand_still(struct process *p)
{
    struct error err;

    if (board_freeze(p->board, &err) < 0)
        log_event("guest time goes on while %s is held: %s", p->name, err.message);
}

static void hold(struct process *p)
{
    board_pause(p->board);
    p->paused = true;
    stand_still(p);
}

static bool verb_pause(struct process *p, struct client *client, json_t *args)
{
    (void)args;
    if (refuse_while_ending(p, client))
        return true;
    if (!p->paused) {
        hold(p);
        event_log(p, "paused", NULL);
    }
    control_reply(p, client, json_object());
    return true;
}

static bool verb_resume(struct process *p, struct client *client, json_t *args)
{
    const char *clock = json_string_value(json_object_get(args, "clock"));

    if (refuse_while_ending(p, client))
        return true;
    if (p->paused) {
        p->paused = false;
        if (clock != NULL)
            board_set_clock(p->board, strcmp(clock, "host") == 0);
        board_resume(p->board);
        event_log(p, "resumed", NULL);
    }
    control_reply(p, client, json_object());
    return true;
}

static bool verb_kill(struct process *p, struct client *client, json_t *args)
{
    (void)args;
    p->quit = true;
    p->quit_reason = "killed";
    control_reply(p, client, json_object());
    return true;
}

static bool verb_stop(struct process *p, struct client *client, json_t *args)
{
    struct error err;

    (void)args;
    if (p->paused) {
        error_set(&err, STATUS_FAILED, EINVAL, "%s is paused, so its system cannot be asked",
                  p->name);
        error_hint(&err, "stasis resume %s first, or stasis kill %s", p->name, p->name);
        control_reply_error(p, client, &err);
    } else if (!board_ask_to_stop(p->board)) {
        error_set(&err, STATUS_FAILED, ENOTSUP, "the system in %s does not listen", p->name);
        error_hint(&err, "stasis kill %s ends it at once", p->name);
        control_reply_error(p, client, &err);
    } else {
        control_reply(p, client, json_object());
    }
    return true;
}

static bool verb_console(struct process *p, struct client *client, json_t *args)
{
    uint64_t length = console_length(p->console);

    client->console_offset = json_is_true(json_object_get(args, "replay")) ? 0 : length;
    control_reply(p, client, json_object());
    if (client->fd >= 0) {
        client->is_console = true;
        process_wake(p); /* sends what is there, types what came with the request */
    }
    return true;
}

/* ---- save ---- */

/* p->job is the event loop's, which may be waiting for this thread by now. */
static void *save_main(void *context)
{
    struct save_job *job = context;
    struct process *p = job->process;

    job->status = save_run(job->save, p->store, p->name, job->name, &job->result, &job->error);
    job->done = true;
    process_wake(p);
    return NULL;
}

static void free_job(struct save_job *job)
{
    save_free(job->save);
    free(job->name);
    free(job);
}

/* Behind its end a guest waits for nothing but that: it could never go on from there. vCPUs
 * are parked. */
static int check_alive(struct process *p, struct error *err)
{
    if (!process_is_over(p))
        return 0;
    return error_set(err, STATUS_BUSY, ESHUTDOWN, "the guest in %s has just ended or reset itself",
                     p->name);
}

/* The part that stops the guest. */
static int begin_job(struct process *p, struct save_job *job, struct error *err)
{
    board_hold_disks(p->board); /* the guest goes on meanwhile, unless it needs one */
    uint64_t before = clock_monotonic_ns();

    if (!p->paused)
        board_pause(p->board);
    int r = check_alive(p, err);
    if (r == 0)
        r = save_begin(job->save, err);
    if (r < 0)
        save_give_back(job->save);
    if (r == 0 && job->then_quit)
        stand_still(p); /* it goes on if the save fails */
    else if (!p->paused)
        board_resume(p->board);
    job->pause_us = (clock_monotonic_ns() - before) / 1000;
    return r;
}

static int start_job(struct process *p, struct save_job *job, struct error *err)
{
    int r = save_prepare(p->board, &p->base, &job->save, err);
    if (r < 0 || (r = begin_job(p, job, err)) < 0)
        return r;
    p->job = job;
    r = pthread_create(&job->thread, NULL, save_main, job);
    if (r == 0)
        return 0;
    p->job = NULL;
    save_give_back(job->save);
    if (!p->paused && job->then_quit)
        board_resume(p->board);
    return error_errno(err, r, "cannot start saving");
}

static int check_save(struct process *p, const char *name, struct error *err)
{
    struct digest taken;
    struct error ignored;

    if (p->job != NULL) {
        error_set(err, STATUS_BUSY, EBUSY, "%s is being saved already", p->name);
        error_hint(err, "try again when that save has ended");
        return -EBUSY;
    }
    if (name == NULL)
        return 0;
    if (!home_name_is_valid(name))
        return error_set(err, STATUS_USAGE, EINVAL, "'%s' is no name for a checkpoint", name);
    if (catalogue_checkpoint_by_name(p->store, p->name, name, &taken, &ignored) == 0) {
        error_set(err, STATUS_EXISTS, EEXIST, "%s@%s exists already", p->name, name);
        error_hint(err, "choose another name, or remove it: stasis rm %s@%s", p->name, name);
        return -EEXIST;
    }
    return 0;
}

static bool verb_save(struct process *p, struct client *client, json_t *args)
{
    const char *name = json_string_value(json_object_get(args, "name"));
    struct error err;

    int r = check_save(p, name, &err);
    if (r == 0) {
        struct save_job *job = calloc(1, sizeof(*job));
        if (job == NULL)
            abort();
        job->process = p;
        job->name = name != NULL ? io_format("%s", name) : NULL;
        job->client = client;
        job->then_quit = json_is_true(json_object_get(args, "stop"));
        if ((r = start_job(p, job, &err)) < 0)
            free_job(job);
    }
    if (r < 0)
        control_reply_error(p, client, &err);
    return r < 0;
}

void verb_client_gone(struct process *p, const struct client *client)
{
    if (p->job != NULL && p->job->client == client)
        p->job->client = NULL;
}

/* The disks' frozen overlays are in the new checkpoint: build on it. */
static int rebase_disks(struct process *p, const struct manifest *m, struct error *err)
{
    char name[MANIFEST_SPACE_NAME_MAX + 1];

    for (unsigned i = 0; i < m->config.disk_count; i++) {
        struct space *space = NULL;
        snprintf(name, sizeof(name), "disk%u", i);
        const struct manifest_space *entry = manifest_space_find(m, name);
        int r = entry == NULL ? error_corrupt(err, "the checkpoint has no space %s", name)
                              : space_open(p->store, &entry->root, entry->size_bytes, &space, err);
        if (r < 0)
            return r;
        disk_rebase(p->board->disks[i], space);
    }
    return 0;
}

static json_t *save_result_json(const struct process *p, const struct save_job *job)
{
    return json_pack("{s:o, s:s, s:s?, s:I, s:I, s:I, s:I}", "id", digest_json(&job->result.id),
                     "machine", p->name, "name", job->name, "pause_us", (json_int_t)job->pause_us,
                     "pages", (json_int_t)job->result.pages, "pages_new",
                     (json_int_t)job->result.pages_new, "stored_bytes",
                     (json_int_t)job->result.stored_bytes);
}

static void take_over(struct process *p, struct save_job *job)
{
    struct error err;

    p->base.id = job->result.id;
    p->base.manifest = job->result.manifest;
    p->base.has_memory = true;
    stats_saved(p, job);
    event_log(p, "saved", save_result_json(p, job));
    /* Failing here is no harm: the overlays stay, with the same content. */
    if (rebase_disks(p, &p->base.manifest, &err) < 0)
        log_event("the overlays stay: %s", err.message);
    if (job->client != NULL)
        control_reply(p, job->client, save_result_json(p, job));
    if (job->then_quit) {
        p->quit = true;
        p->quit_reason = "saved";
    }
}

/* What went wrong, for an event; a new reference. */
static json_t *failure_json(const struct error *err)
{
    json_t *json = control_error_json(err);

    json_object_del(json, "ok");
    return json;
}

void verb_save_finished(struct process *p)
{
    struct save_job *job = steal_pointer(p->job);

    pthread_join(job->thread, NULL);
    if (job->status == 0) {
        take_over(p, job);
    } else {
        log_event("a save failed: %s", job->error.message);
        event_log(p, "save-failed", failure_json(&job->error));
        save_give_back(job->save);
        if (job->then_quit && !p->paused)
            board_resume(p->board);
        if (job->client != NULL)
            control_reply_error(p, job->client, &job->error);
    }
    free_job(job);
}

/* ---- restore in place ---- */

/* Pinned until it is the machine's head. */
static int read_target(struct process *p, json_t *args, struct checkpoint_base *target,
                       struct store_pin **pin_out, struct error *err)
{
    const char *hex = json_string_value(json_object_get(args, "checkpoint"));

    if (hex == NULL || digest_parse(hex, &target->id) < 0)
        return error_set(err, STATUS_USAGE, EINVAL, "restore needs a checkpoint's id");
    if (p->job != NULL)
        return error_set(err, STATUS_BUSY, EBUSY, "%s is being saved", p->name);
    int r = store_pin(p->store, &target->id, pin_out, err);
    if (r == 0)
        r = catalogue_manifest_read(p->store, &target->id, &target->manifest, err);
    if (r == 0)
        net_settings_apply(&p->net, &target->manifest.config);
    target->has_memory = r == 0 && target->manifest.kind == CHECKPOINT_WARM;
    return r;
}

static bool same_hardware(const struct machine_config *a, const struct machine_config *b)
{
    _cleanup_json_ json_t *left = machine_config_to_json(a);
    _cleanup_json_ json_t *right = machine_config_to_json(b);

    return json_equal(left, right);
}

/* Another machine's hardware, or a cold checkpoint: start afresh from it. The
 * overlays go before the head moves, as in move_head(). */
static int rebuild(struct process *p, const struct checkpoint_base *target, bool clock_host,
                   bool *changed_out, struct error *err)
{
    int r = board_check_cpu(p->board, &target->manifest, err);
    if (r < 0 || (r = restore_check(p->store, &target->manifest, err)) < 0)
        return r;
    *changed_out = true;
    process_free_board(p);
    p->base = *target;
    r = disk_remove_overlays(p->dir, err);
    if (r == 0)
        r = catalogue_machine_set_head(p->store, p->name, &target->id, err);
    if (r == 0)
        r = process_build_board(p, false, target->manifest.kind == CHECKPOINT_COLD, clock_host,
                                err);
    return r;
}

static int restore(struct process *p, const struct checkpoint_base *target, bool clock_host,
                   bool pause, struct error *err)
{
    bool changed = false;

    if (!p->paused)
        board_pause(p->board);
    int r;
    if (target->has_memory && same_hardware(&target->manifest.config, &p->base.manifest.config)) {
        r = restore_in_place(p->board, p->store, &p->base, target, clock_host, &changed, err);
        if (r == 0) {
            process_forget_stop(p);
            p->base = *target;
            r = catalogue_machine_set_head(p->store, p->name, &target->id, err);
        }
    } else {
        r = rebuild(p, target, clock_host, &changed, err);
    }
    if (r < 0 && changed) {
        log_event("cannot go on after a failed restore: %s", err->message);
        p->quit = true;
        p->quit_reason = "failed restore";
    } else {
        if (r == 0 && pause)
            p->paused = true;
        process_run_board(p);
    }
    return r;
}

static bool verb_restore(struct process *p, struct client *client, json_t *args)
{
    _cleanup_(store_unpinp) struct store_pin *pin = NULL;
    struct checkpoint_base target;
    struct error err;
    const char *clock = json_string_value(json_object_get(args, "clock"));
    bool pause = json_is_true(json_object_get(args, "paused"));
    uint64_t before = clock_monotonic_ns();

    int r = read_target(p, args, &target, &pin, &err);
    if (r == 0)
        r = restore(p, &target, clock != NULL && strcmp(clock, "host") == 0, pause, &err);
    if (r < 0) {
        control_reply_error(p, client, &err);
        return true;
    }
    json_t *result = json_pack("{s:o, s:I}", "id", digest_json(&target.id), "restore_us",
                               (json_int_t)((clock_monotonic_ns() - before) / 1000));
    event_log(p, "restored", json_incref(result));
    control_reply(p, client, result);
    return true;
}

bool verb_run(struct process *p, struct client *client, const char *verb, json_t *args)
{
    static const struct {
        const char *name;
        bool (*run)(struct process *p, struct client *client, json_t *args);
    } verbs[] = {
        {"status", verb_status},   {"pause", verb_pause},     {"resume", verb_resume},
        {"save", verb_save},       {"stop", verb_stop},       {"kill", verb_kill},
        {"console", verb_console}, {"restore", verb_restore}, {"pages", verb_pages},
        {"stats", verb_stats},     {"balloon", verb_balloon},
    };
    struct error err;

    if (p->quit || p->board == NULL) {
        error_set(&err, STATUS_BUSY, ESHUTDOWN, "%s is ending", p->name);
        control_reply_error(p, client, &err);
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (strcmp(verb, verbs[i].name) == 0)
            return verbs[i].run(p, client, args);
    error_set(&err, STATUS_USAGE, EINVAL, "a machine knows no verb '%.40s'", verb);
    control_reply_error(p, client, &err);
    return true;
}
