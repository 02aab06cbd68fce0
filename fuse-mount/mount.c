/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of a mount:
 *
 *   caller ---- background: forks and waits for the word that all is ready
 *     +- keeper   mounts, starts the server, waits, unmounts when it has ended,
 *     |           for whatever reason: a crash leaves no dead mount point
 *     +--- server parses what guests wrote, locked in (sandbox.h)
 *
 * In the foreground the caller is the keeper. kill -9 of the keeper ends the
 * server too and leaves a dead mount point, which mount_end() removes.
 */
#define FUSE_USE_VERSION 312
#include "fuse-mount/mount.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "fuse-mount/mountpoint.h"
#include "fuse-mount/sandbox.h"
#include "fuse-mount/serve.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

DEFINE_CLEANUP(struct store, store_close)
DEFINE_CLEANUP(struct tree, tree_close)
DEFINE_CLEANUP(struct fuse_session, fuse_session_destroy)

/* ---- words between the processes: one struct error each ---- */

static void send_word(int fd, const struct error *err)
{
    if (fd >= 0)
        (void)io_write_full(fd, err, sizeof(*err));
}

/* 0 when all is well, else the sender's error. */
static int receive_word(int fd, struct error *err)
{
    struct error word = ERROR_INIT;

    if (io_read_full(fd, &word, sizeof(word)) < 0)
        return error_set(err, STATUS_FAILED, EIO, "the process that serves the mount ended early");
    if (word.status == STATUS_OK)
        return 0;
    if (err != NULL)
        *err = word;
    return -word.errnum;
}

/* ---- server ---- */

static void server_is_ready(void *context)
{
    int *fd = context;

    send_word(*fd, &ERROR_INIT);
    close(*fd);
    *fd = -1;
}

static int server_run(const char *store_dir, struct serve *serve, struct fuse_session *session,
                      struct error *err)
{
    _cleanup_(store_closep) struct store *store = NULL;
    _cleanup_(tree_closep) struct tree *tree = NULL;
    int r = store_open(store_dir, false, &store, err);

    if (r < 0)
        return r;
    r = tree_open(store, &tree);
    if (r < 0)
        return error_errno(err, -r, "cannot serve the mount");
    r = mount_sandbox_enter(store_dir, err);
    if (r < 0)
        return r;
    serve->tree = tree;
    return serve_loop(session, err);
}

/* Does not return. word_fd: where the keeper waits. */
static void server_main(const char *store_dir, struct serve *serve, struct fuse_session *session,
                        int word_fd, pid_t keeper)
{
    struct error err = ERROR_INIT;
    sigset_t none;
    int r;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper)
        _exit(1);
    serve->context = &word_fd;
    serve->ready = server_is_ready;
    r = server_run(store_dir, serve, session, &err);
    if (r < 0 && word_fd >= 0)
        send_word(word_fd, &err);
    else if (r < 0)
        log_event("mount: %s", err.message);
    _exit(r < 0 ? 1 : 0);
}

/* ---- keeper ---- */

struct keeper {
    const char *store_dir;
    const char *mountpoint; /* absolute */
    struct mountpoint mounted;
    sigset_t signals;
    pid_t server;
};

static char last_fuse_message[256];

/* libfuse says why only in words. */
__attribute__((format(printf, 2, 0))) static void keep_fuse_message(enum fuse_log_level level,
                                                                    const char *fmt, va_list args)
{
    (void)level;
    vsnprintf(last_fuse_message, sizeof(last_fuse_message), fmt, args);
    last_fuse_message[strcspn(last_fuse_message, "\n")] = '\0';
}

static int keeper_mount(struct keeper *k, struct fuse_session *session, struct error *err)
{
    fuse_set_log_func(keep_fuse_message);
    if (fuse_session_mount(session, k->mountpoint) != 0) {
        error_set(err, STATUS_FAILED, EIO, "cannot mount on %s: %s", k->mountpoint,
                  last_fuse_message[0] != '\0' ? last_fuse_message : "libfuse does not say why");
        if (geteuid() != 0)
            error_hint(err, "the directory must be yours, and fusermount3 (package fuse3) "
                            "installed with its setuid bit");
        return -EIO;
    }
    int r = mountpoint_query(k->mountpoint, &k->mounted, err);
    if (r < 0)
        fuse_session_unmount(session);
    return r;
}

/* Unless somebody has, and has perhaps mounted something else there. */
static void keeper_unmount(const struct keeper *k)
{
    struct mountpoint now;

    if (mountpoint_query(k->mountpoint, &now, NULL) == 0 && now.ours &&
        now.device_major == k->mounted.device_major && now.device_minor == k->mounted.device_minor)
        (void)mountpoint_detach(k->mountpoint, true, NULL);
}

/*
 * Gives up the connection to the kernel, which is the server's from now on: a
 * second holder would keep it alive when the server dies. In its place comes a
 * pipe without a reader: it polls as broken, which makes fuse_session_unmount()
 * free what it must and unmount nothing (that is keeper_unmount()'s, who looks
 * first).
 */
static void keeper_leave_connection(struct fuse_session *session)
{
    int fd = fuse_session_fd(session), ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        close(fd);
        return;
    }
    (void)dup3(ends[1], fd, O_CLOEXEC);
    close(ends[0]);
    close(ends[1]);
}

static void keeper_end_session(struct fuse_session *session)
{
    int fd = fuse_session_fd(session);

    fuse_session_unmount(session);
    close(fd);
}

static int keeper_start_server(struct keeper *k, struct serve *serve, struct fuse_session *session,
                               int caller_fd, struct error *err)
{
    _cleanup_close_ int read_end = -1;
    pid_t self = getpid();
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    read_end = ends[0];
    k->server = fork();
    if (k->server < 0) {
        close(ends[1]);
        return error_errno(err, errno, "cannot start the process that serves the mount");
    }
    if (k->server == 0) {
        close(read_end);
        if (caller_fd >= 0)
            close(caller_fd);
        server_main(k->store_dir, serve, session, ends[1], self);
    }
    close(ends[1]);
    keeper_leave_connection(session);
    return receive_word(read_end, err);
}

/* Hands signals on and waits for the server's end. */
static void keeper_wait(const struct keeper *k)
{
    int status = 0;

    for (;;) {
        siginfo_t info;
        int signal_number = sigwaitinfo(&k->signals, &info);

        if (signal_number == SIGCHLD) {
            if (waitpid(k->server, &status, WNOHANG) == k->server)
                break;
        } else if (signal_number > 0) {
            kill(k->server, SIGTERM);
        }
    }
    if (WIFSIGNALED(status))
        log_event("mount: the process that served %s was ended by signal %d", k->mountpoint,
                  WTERMSIG(status));
}

static void block_signals(sigset_t *set, sigset_t *before)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGCHLD);
    sigprocmask(SIG_BLOCK, set, before);
}

/* Mounts, serves until the end, unmounts. caller_fd: who wants to know when it
 * is ready; -1: nobody. */
static int keeper_run(const char *store_dir, const char *mountpoint, int caller_fd,
                      struct error *err)
{
    _cleanup_(fuse_session_destroyp) struct fuse_session *session = NULL;
    struct keeper k = {.store_dir = store_dir, .mountpoint = mountpoint};
    struct serve serve = {0};
    sigset_t before;
    int r;

    session = serve_session_new(&serve, err);
    if (session == NULL)
        return -EIO;
    block_signals(&k.signals, &before);
    r = keeper_mount(&k, session, err);
    if (r == 0) {
        r = keeper_start_server(&k, &serve, session, caller_fd, err);
        if (r == 0) {
            send_word(caller_fd, &ERROR_INIT);
            keeper_wait(&k);
        } else if (k.server > 0) {
            kill(k.server, SIGKILL);
            waitpid(k.server, NULL, 0);
        }
        keeper_unmount(&k);
        keeper_end_session(session);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

/* ---- caller ---- */

/* A daemon: no terminal, no open files but the pipe to the caller. */
static void become_daemon(int *caller_fd)
{
    int null = open("/dev/null", O_RDWR);

    setsid();
    (void)chdir("/");
    if (*caller_fd != 3 && dup2(*caller_fd, 3) == 3)
        *caller_fd = 3;
    for (int fd = 0; fd < 3; fd++)
        (void)dup2(null, fd);
    close_range(4, UINT32_MAX, 0);
    fcntl(*caller_fd, F_SETFD, FD_CLOEXEC);
}

static int start_daemon(const char *store_dir, const char *mountpoint, struct error *err)
{
    _cleanup_close_ int read_end = -1;
    int ends[2], r;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    read_end = ends[0];
    pid = fork();
    if (pid < 0) {
        close(ends[1]);
        return error_errno(err, errno, "cannot start the process that serves the mount");
    }
    if (pid == 0) {
        struct error failure = ERROR_INIT;
        int fd = ends[1];

        become_daemon(&fd);
        if (keeper_run(store_dir, mountpoint, fd, &failure) < 0) {
            send_word(fd, &failure);
            _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    r = receive_word(read_end, err);
    if (r < 0)
        waitpid(pid, NULL, 0);
    return r;
}

/* A store that cannot be opened shall be said before anything is mounted. */
static int check_store(const char *store_dir, struct error *err)
{
    _cleanup_(store_closep) struct store *store = NULL;

    return store_open(store_dir, false, &store, err);
}

static int check_fuse(struct error *err)
{
    if (access("/dev/fuse", F_OK) == 0)
        return 0;
    error_set(err, STATUS_HOST_CANNOT, ENODEV, "cannot mount: this host has no /dev/fuse");
    error_hint(err, "load the module: modprobe fuse (in a container: pass --device /dev/fuse)");
    return -ENODEV;
}

int mount_serve(const char *store_dir, const char *mountpoint, const struct mount_options *options,
                struct error *err)
{
    _cleanup_free_ char *store = realpath(store_dir, NULL);
    _cleanup_free_ char *point = NULL;
    int r;

    if (store == NULL)
        return error_errno(err, errno, "cannot open the store in %s", store_dir);
    r = mountpoint_resolve(mountpoint, &point, err);
    if (r == 0)
        r = mountpoint_check_free(point, err);
    if (r == 0)
        r = check_fuse(err);
    if (r == 0)
        r = check_store(store, err);
    if (r < 0)
        return r;
    return options->foreground ? keeper_run(store, point, -1, err)
                               : start_daemon(store, point, err);
}

int mount_end(const char *mountpoint, struct error *err)
{
    _cleanup_free_ char *point = NULL;
    struct mountpoint at;
    int r = mountpoint_resolve(mountpoint, &point, err);

    if (r == 0)
        r = mountpoint_query(point, &at, err);
    if (r < 0)
        return r;
    if (!at.ours) {
        error_set(err, STATUS_FAILED, EINVAL, "cannot unmount %s: no store is mounted there",
                  point);
        error_hint(err, "\"findmnt -t fuse.stasis\" lists those that are");
        return -EINVAL;
    }
    return mountpoint_detach(point, mountpoint_is_dead(point), err);
}
