/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/process/sandbox.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "base/io.h"
#include "base/log.h"
#include "vmm/process/calls.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WHOLE false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define WHOLE false
#endif
#endif
#ifndef WHOLE
#define WHOLE true
#endif

enum {
    PATHS_MAX = 6,
    FILES_MAX = 1 << 16,    /* open at a time: what a large store may take */
    EXIT_REFUSED = 128 + 31 /* as a shell shows the end by SIGSYS */
};

static const char *const thread_names[] = {
    [SANDBOX_PROCESS] = "process", [SANDBOX_VCPU] = "vCPU",  [SANDBOX_NETWORK] = "network",
    [SANDBOX_STREAMS] = "streams", [SANDBOX_DISKS] = "disk",
};

/* Made by sandbox_enter(), for threads to come; empty before. */
static struct sock_fprog programs[SANDBOX_THREADS];

static _Thread_local enum sandbox_thread own_kind;

bool sandbox_is_whole(void)
{
    return WHOLE;
}

/* ---- a call that is not on the list ---- */

struct line {
    char text[160];
    size_t used;
};

static void put_text(struct line *line, const char *text)
{
    while (*text != '\0' && line->used < sizeof(line->text))
        line->text[line->used++] = *text++;
}

static void put_number(struct line *line, unsigned number)
{
    char digits[12];
    size_t at = sizeof(digits);

    digits[--at] = '\0';
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    put_text(line, digits + at);
}

/* In a signal handler, at any moment: nothing but write() and exit_group(). */
static void on_refused(int signal_number, siginfo_t *info, void *context)
{
    struct line line = {.used = 0};

    (void)signal_number;
    (void)context;
    put_text(&line, "sandbox: ended, because a ");
    put_text(&line, thread_names[own_kind]);
    put_text(&line, " thread made system call ");
    put_number(&line, (unsigned)info->si_syscall);
    put_text(&line, ", which is not on its list; please report this line\n");
    (void)io_write_full(STDERR_FILENO, line.text, line.used);
    syscall(SYS_exit_group, EXIT_REFUSED);
}

static int report_refused(void)
{
    struct sigaction action = {.sa_sigaction = on_refused, .sa_flags = SA_SIGINFO};
    sigset_t refused;

    sigemptyset(&refused);
    sigaddset(&refused, SIGSYS);
    /* Blocked, it would kill without a word. */
    if (sigprocmask(SIG_UNBLOCK, &refused, NULL) < 0 || sigaction(SIGSYS, &action, NULL) < 0)
        return -errno;
    return 0;
}

/* ---- entering ---- */

/*
 * The name server's address is read again when this file changes, which mostly means
 * that there is another file of that name: so its directory, but to root, who could
 * read secrets in /etc.
 */
static char *name_server_path(void)
{
    char *path = realpath("/etc/resolv.conf", NULL);

    if (path != NULL && (geteuid() != 0 || strncmp(path, "/etc/", 5) != 0))
        *strrchr(path, '/') = '\0';
    return path;
}

static struct confine_files files_of(const struct sandbox_settings *s, const char *name_server,
                                     struct confine_path paths[PATHS_MAX])
{
    size_t n = 0;

    paths[n++] = (struct confine_path){s->store_dir, CONFINE_WRITE};
    paths[n++] = (struct confine_path){s->machine_dir, CONFINE_WRITE};
    paths[n++] = (struct confine_path){s->runtime_dir, CONFINE_WRITE};
    paths[n++] = (struct confine_path){"/dev/kvm", CONFINE_DEVICE};
    paths[n++] = (struct confine_path){"/dev/urandom", CONFINE_READ}; /* SQLite, glib */
    if (s->network && name_server != NULL)
        paths[n++] = (struct confine_path){name_server, CONFINE_READ};
    return (struct confine_files){.paths = paths, .count = n, .no_network = !s->network};
}

/* Without one of the two there is the other, and always the list of calls. */
static int restrict_files(const struct sandbox_settings *s, struct error *err)
{
    struct confine_path paths[PATHS_MAX];
    _cleanup_free_ char *name_server = name_server_path();
    const struct confine_files files = files_of(s, name_server, paths);

    int r = confine_view(&files);
    if (r < 0)
        log_event("sandbox: no namespaces of its own (%s)", strerror(-r));
    if (confine_landlock_version() == 0) {
        log_event("sandbox: no Landlock");
        return 0;
    }
    r = confine_files(&files);
    return r < 0 ? error_errno(err, -r, "cannot restrict the machine's files") : 0;
}

/* A dump would hold the guest's memory. */
static int restrict_resources(void)
{
    const struct rlimit none = {0};
    struct rlimit files;

    if (setrlimit(RLIMIT_CORE, &none) < 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
        return -errno;
    files.rlim_max = min_u64(files.rlim_max, FILES_MAX);
    files.rlim_cur = files.rlim_max; /* poll() and epoll are all there is: no select() */
    return setrlimit(RLIMIT_NOFILE, &files) < 0 ? -errno : 0;
}

static int restrict_calls(bool network)
{
    int r = report_refused();

    for (unsigned kind = 0; kind < SANDBOX_THREADS && r == 0; kind++)
        r = calls_filter((enum sandbox_thread)kind, network, &programs[kind]);
    return r < 0 ? r : calls_restrict(&programs[SANDBOX_PROCESS]);
}

/* All but a number that the store will ask for. */
static void clear_environment(void)
{
    static const char kept[] = "STASIS_INDEX_MEMORY";
    const char *value = getenv(kept);
    _cleanup_free_ char *copy = value != NULL ? strdup(value) : NULL;

    clearenv();
    if (copy != NULL)
        setenv(kept, copy, 1);
}

int sandbox_enter(const struct sandbox_settings *settings, struct error *err)
{
    int r;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "cannot give up privileges");
    if (WHOLE && (r = restrict_files(settings, err)) < 0)
        return r;
    if ((r = restrict_resources()) < 0 ||
        (r = confine_capabilities(settings->low_ports ? 1u << CAP_NET_BIND_SERVICE : 0)) < 0)
        return error_errno(err, -r, "cannot give up privileges");
    if (WHOLE && (r = restrict_calls(settings->network)) < 0)
        return error_errno(err, -r, "cannot restrict the machine's system calls");
    clear_environment();
    return 0;
}

void sandbox_thread(enum sandbox_thread kind)
{
    own_kind = kind;
    if (programs[kind].len > 0 && calls_restrict(&programs[kind]) < 0)
        abort();
}

/* ---- what the host has for it ---- */

static bool has_seccomp(void)
{
    const uint32_t action = SECCOMP_RET_TRAP;

    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

void sandbox_probe(struct sandbox_report *out)
{
    const struct confine_path path = {"/dev/urandom", CONFINE_READ};
    const struct confine_files files = {.paths = &path, .count = 1, .no_network = true};

    int r = confine_view_try(&files);
    *out = (struct sandbox_report){
        .system_calls = has_seccomp(),
        .landlock = confine_landlock_version(),
        .namespaces = r == 0,
    };
    if (r < 0)
        snprintf(out->reason, sizeof(out->reason), "%s", strerror(-r));
}
