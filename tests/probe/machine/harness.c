/* SPDX-License-Identifier: Apache-2.0 */
/* Homes, commands, processes; what is left behind is cleared by a child. */
#include "harness.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "guest/probe/pattern.h"
#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { WORDS_MAX = 40, FILE_MAX = 16 << 20 };

static char *top;       /* everything of this run */
static unsigned serial; /* of homes and output files */

uint64_t now_ms(void)
{
    return clock_monotonic_ns() / 1000000;
}

/* ---- what is left behind ---- */

/* A machine of this run: its process names the home on its command line. */
static void kill_if_ours(pid_t pid)
{
    char *path = io_format("/proc/%d/cmdline", (int)pid);
    char cmdline[512] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    free(path);
    if (fd < 0)
        return;
    ssize_t n = read(fd, cmdline, sizeof(cmdline) - 1);
    close(fd);
    for (ssize_t i = 0; i < n; i++)
        if (cmdline[i] == '\0')
            cmdline[i] = ' ';
    if (strstr(cmdline, " machine-process ") != NULL && strstr(cmdline, top) != NULL)
        kill(pid, SIGKILL);
}

static void kill_machines(void)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;

    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        long pid = strtol(entry->d_name, NULL, 10);
        if (pid > 0)
            kill_if_ours((pid_t)pid);
    }
    if (proc != NULL)
        closedir(proc);
}

/* Homes may lie on mounts of their own. */
static void unmount_homes(void)
{
    DIR *sites = opendir(top);
    struct dirent *entry;

    while (sites != NULL && (entry = readdir(sites)) != NULL) {
        char *home = io_format("%s/%s/home", top, entry->d_name);
        umount2(home, MNT_DETACH);
        free(home);
    }
    if (sites != NULL)
        closedir(sites);
}

/* The child: end of file on alive_fd is the end of the test, also by a signal. */
static void clear_up(int alive_fd)
{
    char c;

    setsid();
    prctl(PR_SET_NAME, "clear-up");
    while (read(alive_fd, &c, 1) < 0 && errno == EINTR)
        continue;
    kill_machines();
    unmount_homes();
    io_remove_tree(top);
    free(top);
    _exit(0);
}

static pid_t start_clearing(int *alive_fd_out)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        abort();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        close(fds[1]);
        clear_up(fds[0]);
    }
    close(fds[0]);
    *alive_fd_out = fds[1];
    return pid;
}

/* ---- the whole run ---- */

static bool host_has_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("skip: /dev/kvm: %s\n", strerror(errno));
        return false;
    }
    close(fd);
    return true;
}

int harness_run(const char *name, const struct CMUnitTest *tests, size_t count)
{
    char template[] = "/tmp/stasis-machine-XXXXXX"; /* short: sockets lie below it */
    int alive_fd;

    (void)name;
    if (!host_has_kvm())
        return HARNESS_SKIP;
    if (mkdtemp(template) == NULL) {
        perror(template);
        return 1;
    }
    top = io_format("%s", template);
    pid_t clearing = start_clearing(&alive_fd);
    char *runtime = io_format("%s/run", top);
    if (io_make_dirs(runtime, 0700) < 0)
        abort();
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    free(runtime);
    signal(SIGPIPE, SIG_IGN);
    int failed = _cmocka_run_group_tests(name, tests, count, NULL, NULL);
    close(alive_fd);
    waitpid(clearing, NULL, 0);
    free(top);
    return failed;
}

uint64_t harness_random(void)
{
    const char *given = getenv("STASIS_TEST_SEED");
    uint64_t seed = 0;

    if (given != NULL)
        seed = strtoull(given, NULL, 0);
    else if (getrandom(&seed, sizeof(seed), 0) < 0)
        abort();
    print_message("STASIS_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

/* ---- a home ---- */

char *site_path(const struct site *site, const char *name)
{
    return io_format("%s/%s", site->dir, name);
}

struct site *site_open(const char *label)
{
    struct site *site = calloc(1, sizeof(*site));
    struct error err;

    if (site == NULL)
        abort();
    site->dir = io_format("%s/%s", top, label);
    site->root = io_format("%s/home", site->dir);
    if (io_make_dirs(site->root, 0700) < 0 || home_open(site->root, &site->home, &err) < 0)
        abort();
    return site;
}

/* What a machine's process has to say beyond its own log: a sanitizer's report. */
static bool has_report(const char *machine_dir)
{
    static const char *const signs[] = {"ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
                                        "WARNING: ThreadSanitizer", "runtime error:"};
    char *path = io_format("%s/machine.log", machine_dir);
    char *text = NULL;
    size_t length;
    bool found = false;

    if (io_read_file(AT_FDCWD, path, FILE_MAX, &text, &length) == 0)
        for (size_t i = 0; i < ARRAY_LEN(signs); i++)
            if (strstr(text, signs[i]) != NULL)
                found = true;
    if (found)
        print_error("%s:\n%s\n", path, text);
    free(text);
    free(path);
    return found;
}

static bool any_report(const struct site *site)
{
    DIR *machines = opendir(site->home.machines);
    struct dirent *entry;
    bool found = false;

    while (machines != NULL && (entry = readdir(machines)) != NULL) {
        char *dir = io_format("%s/%s", site->home.machines, entry->d_name);
        found |= has_report(dir);
        free(dir);
    }
    if (machines != NULL)
        closedir(machines);
    return found;
}

static void kill_all(struct site *site)
{
    DIR *machines = opendir(site->home.machines);
    struct dirent *entry;

    while (machines != NULL && (entry = readdir(machines)) != NULL)
        if (home_name_is_valid(entry->d_name) && machine_pid(site, entry->d_name) != 0)
            stasis(site, "kill %s", entry->d_name);
    if (machines != NULL)
        closedir(machines);
}

void site_close(struct site *site)
{
    kill_all(site);
    bool reported = any_report(site);
    umount2(site->root, MNT_DETACH); /* if a test mounted something there */
    io_remove_tree(site->dir);
    home_clear(&site->home);
    free(site->dir);
    free(site->root);
    free(site->out);
    free(site->err);
    free(site);
    assert_false(reported);
}

int site_setup(void **state)
{
    char label[16];

    snprintf(label, sizeof(label), "%u", ++serial);
    *state = site_open(label);
    return 0;
}

int site_teardown(void **state)
{
    site_close(*state);
    return 0;
}

char *site_disk(struct site *site, const char *name, uint64_t seed)
{
    char *path = site_path(site, name);
    uint64_t *words = calloc(1, DISK_BYTES);

    if (words == NULL)
        abort();
    for (uint64_t i = 0; seed != 0 && i < DISK_BYTES / sizeof(*words); i++)
        words[i] = probe_word(seed, i);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(io_write_full(fd, words, DISK_BYTES), 0);
    close(fd);
    free(words);
    return path;
}

/* ---- commands ---- */

struct words {
    char *text;
    char *list[WORDS_MAX];
};

/* STASIS VERB... --home ROOT */
__attribute__((format(printf, 3, 0))) static void
split(struct words *words, const struct site *site, const char *fmt, va_list args)
{
    size_t n = 0;
    char *word;

    if (vasprintf(&words->text, fmt, args) < 0)
        abort();
    char *rest = words->text;
    words->list[n++] = (char *)STASIS_BINARY;
    while ((word = strsep(&rest, " ")) != NULL) {
        if (n == WORDS_MAX - 3)
            abort();
        words->list[n++] = word;
    }
    words->list[n++] = (char *)"--home";
    words->list[n++] = site->root;
    words->list[n] = NULL;
}

static char *output_path(const struct site *site, pid_t pid, const char *what)
{
    return io_format("%s/%s.%d", site->dir, what, (int)pid);
}

static void open_as(const char *path, int flags, int target)
{
    int fd = open(path, flags, 0600);

    if (fd < 0 || dup2(fd, target) < 0)
        _exit(99);
    close(fd);
}

static void become(const struct site *site, const struct words *words)
{
    open_as(site->input != NULL ? site->input : "/dev/null", O_RDONLY, STDIN_FILENO);
    open_as(site->output != NULL ? site->output : output_path(site, getpid(), "out"),
            O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    open_as(output_path(site, getpid(), "err"), O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    execv(words->list[0], words->list);
    _exit(99);
}

__attribute__((format(printf, 2, 0))) static pid_t begin(struct site *site, const char *fmt,
                                                         va_list args)
{
    struct words words;

    split(&words, site, fmt, args);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        become(site, &words);
    free(words.text);
    site->input = site->output = NULL;
    return pid;
}

pid_t stasis_begin(struct site *site, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    pid_t pid = begin(site, fmt, args);
    va_end(args);
    return pid;
}

static char *take_output(const struct site *site, pid_t pid, const char *what)
{
    char *path = output_path(site, pid, what);
    char *text = NULL;
    size_t length;

    int r = io_read_file(AT_FDCWD, path, FILE_MAX, &text, &length);
    unlink(path);
    free(path);
    return r == 0 ? text : io_format("(its output cannot be read: %s)", strerror(-r));
}

int stasis_end(struct site *site, pid_t pid)
{
    struct pollfd wait_for = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    int status;

    assert_true(wait_for.fd >= 0);
    bool ended = poll(&wait_for, 1, DEADLINE_MS) == 1;
    close(wait_for.fd);
    if (!ended)
        kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    free(site->out);
    free(site->err);
    site->out = take_output(site, pid, "out");
    site->err = take_output(site, pid, "err");
    if (!ended)
        fail_msg("a command did not end; it said: %s%s", site->out, site->err);
    site->code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return site->code;
}

__attribute__((format(printf, 2, 0))) static int run(struct site *site, const char *fmt,
                                                     va_list args)
{
    return stasis_end(site, begin(site, fmt, args));
}

int stasis(struct site *site, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    int code = run(site, fmt, args);
    va_end(args);
    return code;
}

__attribute__((format(printf, 2, 0))) static void must(struct site *site, const char *fmt,
                                                       va_list args)
{
    char *text = NULL;
    va_list copy;

    va_copy(copy, args);
    if (vasprintf(&text, fmt, copy) < 0)
        abort();
    va_end(copy);
    if (run(site, fmt, args) != 0)
        print_error("stasis %s: exit code %d\n%s%s", text, site->code, site->out, site->err);
    free(text);
    assert_int_equal(site->code, 0);
}

void stasis_ok(struct site *site, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    must(site, fmt, args);
    va_end(args);
}

void stasis_fails(struct site *site, int code, const char *says, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    run(site, fmt, args);
    va_end(args);
    if (site->code != code || strstr(site->err, says) == NULL)
        fail_msg("exit code %d, not %d; or this does not say '%s': %s", site->code, code, says,
                 site->err);
}

json_t *stasis_json(struct site *site, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    must(site, fmt, args);
    va_end(args);
    json_t *json = json_loads(site->out, 0, NULL);
    assert_non_null(json);
    return json;
}

/* ---- machines' processes ---- */

pid_t machine_pid(struct site *site, const char *name)
{
    char *dir = home_machine_dir(&site->home, name);
    char *path = io_format("%s/lock", dir);
    char *text = NULL;
    size_t length;
    pid_t pid = 0;

    if (machine_is_running(&site->home, name) &&
        io_read_file(AT_FDCWD, path, 64, &text, &length) == 0)
        pid = (pid_t)strtol(text, NULL, 10);
    free(text);
    free(path);
    free(dir);
    return pid;
}

void machine_gone(struct site *site, const char *name)
{
    assert_int_equal(machine_wait(&site->home, name, DEADLINE_MS), 0);
}

void machine_kill9(struct site *site, const char *name)
{
    pid_t pid = machine_pid(site, name);

    if (pid > 0)
        kill(pid, SIGKILL);
    machine_gone(site, name);
}

int second_process(struct site *site, const char *name)
{
    int status;

    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        open_as("/dev/null", O_WRONLY, STDERR_FILENO);
        open_as("/dev/null", O_WRONLY, 3);
        execl(STASIS_BINARY, "stasis", "machine-process", site->root, name, "3", NULL);
        _exit(99);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
