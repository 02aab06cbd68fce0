/* SPDX-License-Identifier: Apache-2.0 */
/* What the processes of real machines can still do, as the kernel tells it. What the
 * sandbox refuses is tested by itself, in tests/unit/vmm/sandbox.c. */
#include "harness.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/process/sandbox.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { MEMORY_MIB = 8, STATUS_MAX = 8192, THREADS_MAX = 64 };

/* NAME:\tVALUE of /proc/PID/task/TID/status. */
static uint64_t status_of(pid_t pid, const char *tid, const char *name, int base)
{
    _cleanup_free_ char *path = io_format("/proc/%d/task/%s/status", (int)pid, tid);
    _cleanup_free_ char *wanted = io_format("\n%s:", name);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[STATUS_MAX] = {0};

    assert_true(read(fd, text, sizeof(text) - 1) > 0);
    const char *line = strstr(text, wanted);
    if (line == NULL)
        fail_msg("%s says nothing of %s", path, name);
    return strtoull(line + strlen(wanted), NULL, base);
}

struct threads {
    unsigned count;
    unsigned by_filters[4]; /* so many have so many filters */
};

static void look_at_thread(pid_t pid, const char *tid, struct threads *io)
{
    assert_int_equal(status_of(pid, tid, "NoNewPrivs", 10), 1);
    assert_int_equal(status_of(pid, tid, "CapEff", 16), 0);
    assert_int_equal(status_of(pid, tid, "CapPrm", 16), 0);
    assert_int_equal(status_of(pid, tid, "CapInh", 16), 0);
    assert_int_equal(status_of(pid, tid, "Seccomp", 10), 2); /* filtered */
    uint64_t filters = status_of(pid, tid, "Seccomp_filters", 10);
    assert_in_range(filters, 1, 3);
    io->by_filters[filters]++;
    io->count++;
}

static struct threads look_at_threads(pid_t pid)
{
    _cleanup_free_ char *path = io_format("/proc/%d/task", (int)pid);
    _cleanup_closedir_ DIR *tasks = opendir(path);
    struct threads threads = {0};
    struct dirent *entry;

    assert_non_null(tasks);
    while ((entry = readdir(tasks)) != NULL)
        if (entry->d_name[0] != '.')
            look_at_thread(pid, entry->d_name, &threads);
    return threads;
}

/* vCPUs and cards have a filter of their own on top. */
static void every_thread_is_filtered_and_has_no_capabilities(void **state)
{
    struct site *site = *state;
    struct guest guest;

    if (!sandbox_is_whole())
        skip();
    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    ask_ok(&guest, "blk write 0 8 5");
    struct threads threads = look_at_threads(machine_pid(site, "m"));
    assert_in_range(threads.count, 2, THREADS_MAX);
    assert_in_range(threads.by_filters[1], 1, threads.count);
    assert_in_range(threads.by_filters[2], 1, threads.count);
    guest_detach(&guest);
}

/* Restoring makes the same threads; so does a guest's reset, of its own accord. */
static void what_starts_later_is_no_freer(void **state)
{
    struct site *site = *state;
    struct guest guest;

    if (!sandbox_is_whole())
        skip();
    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c");
    look_at_threads(machine_pid(site, "c"));
    ask_ok(&guest, "reset");
    guest_wait_banner(&guest);
    look_at_threads(machine_pid(site, "m"));
    stasis_ok(site, "restore m@one --discard");
    look_at_threads(machine_pid(site, "m"));
    guest_detach(&guest);
}

static uint64_t namespace_of(const char *process, const char *name)
{
    _cleanup_free_ char *path = io_format("/proc/%s/ns/%s", process, name);
    char target[64] = {0};

    assert_true(readlink(path, target, sizeof(target) - 1) > 0);
    return strtoull(strchr(target, '[') + 1, NULL, 10);
}

static void a_machine_sees_its_own_files_only(void **state)
{
    struct sandbox_report report;
    struct site *site = *state;
    struct guest guest;
    char pid[16];

    sandbox_probe(&report);
    if (!sandbox_is_whole() || !report.namespaces)
        skip();
    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    snprintf(pid, sizeof(pid), "%d", (int)machine_pid(site, "m"));
    assert_int_not_equal(namespace_of(pid, "mnt"), namespace_of("self", "mnt"));
    _cleanup_free_ char *passwords = io_format("/proc/%s/root/etc/passwd", pid);
    _cleanup_free_ char *log = io_format("/proc/%s/root%s/m/machine.log", pid, site->home.machines);
    assert_int_equal(access(log, F_OK), 0);
    assert_int_equal(access("/etc/passwd", F_OK), 0);
    assert_int_not_equal(access(passwords, F_OK), 0);
    guest_detach(&guest);
}

static void a_machine_without_a_network_has_one_without_a_link(void **state)
{
    struct sandbox_report report;
    struct site *site = *state;
    char pid[16];

    sandbox_probe(&report);
    if (!sandbox_is_whole() || !report.namespaces)
        skip();
    stasis_ok(site, "run --kernel %s --name m -d --memory 8M --net none", PROBE_ELF);
    snprintf(pid, sizeof(pid), "%d", (int)machine_pid(site, "m"));
    assert_int_not_equal(namespace_of(pid, "net"), namespace_of("self", "net"));
    stasis_ok(site, "run --kernel %s --name n -d --memory 8M", PROBE_ELF);
    snprintf(pid, sizeof(pid), "%d", (int)machine_pid(site, "n"));
    assert_int_equal(namespace_of(pid, "net"), namespace_of("self", "net"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(every_thread_is_filtered_and_has_no_capabilities),
        MACHINE_TEST(what_starts_later_is_no_freer),
        MACHINE_TEST(a_machine_sees_its_own_files_only),
        MACHINE_TEST(a_machine_without_a_network_has_one_without_a_link),
    };

    return HARNESS_RUN(tests);
}
