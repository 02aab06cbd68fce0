/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/machines.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "cli/names.h"
#include "cli/process.h"
#include "cli/reference.h"
#include "store/catalogue.h"
#include "vmm/control/client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

const char *const machines_clock_choices[] = {"continue", "host", NULL};

enum { KILL_ANSWER_MS = 2000, KILL_GONE_MS = 5000, NAME_ATTEMPTS = 1000 };

enum machine_clock machines_clock(const struct arguments *args)
{
    return strcmp(arguments_text(args, "clock", "continue"), "host") == 0 ? MACHINE_CLOCK_HOST
                                                                          : MACHINE_CLOCK_CONTINUE;
}

/* ---- finding ---- */

static int get_machine(struct cli *cli, const char *name, struct catalogue_machine **out,
                       struct error *err)
{
    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    r = catalogue_machine_get(cli->store, name, out, err);
    if (r != -ENOENT)
        return r;
    error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no machine '%s'", name);
    error_hint(err, "stasis ls lists the machines");
    return -ENOENT;
}

int machines_require(struct cli *cli, const char *name, struct error *err)
{
    struct catalogue_machine *machine = NULL;

    int r = get_machine(cli, name, &machine, err);
    if (r >= 0)
        catalogue_machines_free(machine, 1);
    return r;
}

static int not_running(const char *name, struct error *err)
{
    error_set(err, STATUS_FAILED, ENOTCONN, "%s is not running", name);
    error_hint(err, "stasis resume %s starts it", name);
    return -ENOTCONN;
}

/* It has its lock, but serves no requests: not yet, or no more. */
static int not_ready(const char *name, struct error *err)
{
    error_set(err, STATUS_BUSY, EBUSY, "%s is just starting or ending", name);
    error_hint(err, "try again in a moment");
    return -EBUSY;
}

int machines_require_running(struct cli *cli, const char *name, struct error *err)
{
    int r = machines_require(cli, name, err);
    if (r < 0)
        return r;
    return machine_is_running(&cli->home, name) ? 0 : not_running(name, err);
}

/* ---- asking ---- */

static int call_socket(const char *path, const char *verb, json_t *args, int timeout_ms,
                       json_t **result_out, struct error *err)
{
    _cleanup_close_ int fd = -1;

    int r = control_connect(path, timeout_ms, &fd, err);
    if (r < 0)
        return r == -ENOENT || r == -ECONNREFUSED ? -ENOTCONN : r;
    return control_call(fd, verb, args, result_out, err);
}

int machines_call(struct cli *cli, const char *name, const char *verb, json_t *args, int timeout_ms,
                  json_t **result_out, struct error *err)
{
    int r = cli_home(cli, err);
    if (r < 0)
        return r;
    _cleanup_free_ char *path = home_machine_socket(&cli->home, name);
    r = call_socket(path, verb, args, timeout_ms, result_out, err);
    if (r == -EAGAIN || r == -EWOULDBLOCK || r == -ETIMEDOUT) {
        error_set(err, STATUS_FAILED, ETIMEDOUT, "%s does not answer", name);
        error_hint(err, "stasis kill %s ends it", name);
        return -ETIMEDOUT;
    }
    if (r == -ENOTCONN)
        return machine_is_running(&cli->home, name) ? not_ready(name, err) : not_running(name, err);
    /* What comes from the machine itself mostly names it. */
    if (r < 0 && strstr(err->message, name) == NULL)
        error_prefix(err, "%s", name);
    return r;
}

json_t *machines_status(struct cli *cli, const char *name)
{
    json_t *status = NULL;
    struct error ignored;

    if (!machine_is_running(&cli->home, name))
        return NULL;
    machines_call(cli, name, "status", NULL, MACHINES_STATUS_TIMEOUT_MS, &status, &ignored);
    return status;
}

const char *machines_state(struct cli *cli, const char *name, const json_t *status)
{
    const char *state = json_string_value(json_object_get(status, "state"));

    if (state != NULL)
        return state;
    return machine_is_running(&cli->home, name) ? "running" : "stopped";
}

/* ---- making ---- */

static int create_named(struct cli *cli, const char *name, const struct digest *origin,
                        char **name_out, struct error *err)
{
    if (!home_name_is_valid(name)) {
        struct machine_reference ignored;
        int r = machine_reference_parse(name, &ignored, err);
        if (r >= 0) { /* "a@b" */
            machine_reference_clear(&ignored);
            r = error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be the name of a machine", name);
        }
        return r;
    }
    int r = catalogue_machine_create(cli->store, name, origin, err);
    if (r < 0)
        return r;
    *name_out = io_format("%s", name);
    return 0;
}

static int create_unnamed(struct cli *cli, const struct digest *origin, char **name_out,
                          struct error *err)
{
    char name[MACHINE_NAME_MAX + 1];

    for (unsigned attempt = 0; attempt < NAME_ATTEMPTS; attempt++) {
        unsigned random[2] = {0};
        getrandom(random, sizeof(random), 0);
        names_make(random[0], random[1], attempt, name);
        int r = create_named(cli, name, origin, name_out, err);
        if (r != -EEXIST)
            return r;
    }
    return -EEXIST;
}

int machines_launch(struct cli *cli, const char *name, const struct machine_start *start,
                    char **name_out, struct error *err)
{
    _cleanup_free_ char *made = NULL;

    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    r = name != NULL ? create_named(cli, name, &start->checkpoint, &made, err)
                     : create_unnamed(cli, &start->checkpoint, &made, err);
    if (r < 0)
        return r;
    r = machine_spawn(&cli->home, made, start, err);
    if (r < 0) {
        /* Its process has told why it cannot start, but may still hold the lock. */
        machine_wait(&cli->home, made, KILL_GONE_MS);
        machines_forget(cli, made, NULL);
        return r;
    }
    *name_out = steal_pointer(made);
    return 0;
}

/* ---- ending ---- */

int machines_kill(struct cli *cli, const char *name, struct error *err)
{
    struct error ignored;

    if (!machine_is_running(&cli->home, name))
        return 0;
    int r = machines_call(cli, name, "kill", NULL, KILL_ANSWER_MS, NULL, &ignored);
    if (r >= 0 && machine_wait(&cli->home, name, KILL_GONE_MS) >= 0)
        return 0;
    _cleanup_free_ char *dir = home_machine_dir(&cli->home, name);
    r = process_kill_machine(dir, err);
    if (r < 0)
        return r;
    if (machine_wait(&cli->home, name, KILL_GONE_MS) < 0)
        return error_set(err, STATUS_BUSY, EBUSY, "%s does not end, not even by SIGKILL", name);
    return 0;
}

/* Takes the machine's lock, so that nobody starts it while it is removed; *fd_out
 * stays -1 if it has no directory. */
static int take_lock(const char *dir, const char *name, int *fd_out, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/lock", dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    if (machine_lock_take(fd) < 0) {
        error_set(err, STATUS_BUSY, EBUSY, "%s is running", name);
        error_hint(err, "stop it first, or remove it with rm -f");
        return -EBUSY;
    }
    *fd_out = steal_fd(&fd);
    return 0;
}

int machines_forget(struct cli *cli, const char *name, struct error *err)
{
    _cleanup_free_ char *dir = home_machine_dir(&cli->home, name);
    _cleanup_free_ char *path = home_machine_socket(&cli->home, name);
    _cleanup_close_ int lock = -1;

    int r = take_lock(dir, name, &lock, err);
    if (r < 0 || (r = catalogue_machine_remove(cli->store, name, err)) < 0)
        return r;
    unlink(path);
    r = io_remove_tree(dir);
    return r < 0 ? error_errno(err, -r, "%s is removed, but not its directory %s", name, dir) : 0;
}

/* ---- checkpoints of the present ---- */

int machines_saved_id(const json_t *result, struct digest *out, struct error *err)
{
    const char *hex = json_string_value(json_object_get(result, "id"));

    if (hex == NULL || digest_parse(hex, out) < 0)
        return error_set(err, STATUS_FAILED, EPROTO, "the machine's answer has no checkpoint id");
    return 0;
}

/* Did it end with its head, by save --stop? (vmm/machine_start.h: end.json) */
static bool ended_saved(const char *dir)
{
    _cleanup_free_ char *path = io_format("%s/end.json", dir);
    _cleanup_json_ json_t *end = json_load_file(path, 0, NULL);
    const char *reason = json_string_value(json_object_get(end, "reason"));

    return reason != NULL && strcmp(reason, "saved") == 0;
}

/* Has it disks that have gone on since its head? (vmm/machine.h: diskN.K) */
static bool has_overlays(const char *dir)
{
    _cleanup_closedir_ DIR *entries = opendir(dir);
    struct dirent *entry;

    while (entries != NULL && (entry = readdir(entries)) != NULL)
        if (strncmp(entry->d_name, "disk", 4) == 0)
            return true;
    return false;
}

static int save_running(struct cli *cli, const char *name, bool stop, struct digest *id_out,
                        struct error *err)
{
    _cleanup_json_ json_t *args = json_pack("{s:n, s:b}", "name", "stop", stop);
    _cleanup_json_ json_t *result = NULL;

    int r = machines_call(cli, name, "save", args, -1, &result, err);
    return r < 0 ? r : machines_saved_id(result, id_out, err);
}

/* A stopped machine has no process to ask: one that starts paused at the kernel's
 * first instruction, is saved and ends. Its memory was gone anyway. */
static int save_stopped(struct cli *cli, const char *name, const struct digest *head,
                        struct digest *id_out, struct error *err)
{
    const struct machine_start start = {
        .checkpoint = *head,
        .keep_overlays = true,
        .boot = true,
        .paused = true,
        .offline = true, /* its ports may be taken */
    };

    int r = machine_spawn(&cli->home, name, &start, err);
    if (r < 0)
        return r;
    r = save_running(cli, name, true, id_out, err);
    if (r < 0) {
        machines_kill(cli, name, NULL);
        return r;
    }
    machine_wait(&cli->home, name, -1);
    return 0;
}

int machines_checkpoint(struct cli *cli, const char *name, struct digest *id_out, struct error *err)
{
    struct catalogue_machine *machine = NULL;

    int r = get_machine(cli, name, &machine, err);
    if (r < 0)
        return r;
    const struct digest head = machine->has_head ? machine->head : machine->origin;
    catalogue_machines_free(machine, 1);
    _cleanup_free_ char *dir = home_machine_dir(&cli->home, name);
    if (machine_is_running(&cli->home, name))
        return save_running(cli, name, false, id_out, err);
    if (has_overlays(dir) && !ended_saved(dir))
        return save_stopped(cli, name, &head, id_out, err);
    *id_out = head;
    return 0;
}
