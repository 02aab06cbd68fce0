/* SPDX-License-Identifier: Apache-2.0 */
/* The probe of the host's KVM: says something true about a KVM that is there, and
 * something helpful about one that is not; leaves nothing behind. */
#include "base/clock.h"
#include "base/io.h"
#include "vmm/doctor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static bool have_kvm(void)
{
    return access("/dev/kvm", R_OK | W_OK) == 0;
}

static unsigned open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static void runs_user_mode_at_least(void **state)
{
    struct kvm_report report = {0};

    (void)state;
    if (!have_kvm())
        skip();
    kvm_probe(&report);
    print_message("ability %d: %s\n", (int)report.ability, report.reason);
    assert_true(report.ability == KVM_FULL || report.ability == KVM_USER_ONLY);
    assert_true(report.reason[0] != '\0');
}

static void says_the_same_every_time_and_soon(void **state)
{
    struct kvm_report first = {0}, again = {0};
    uint64_t start;

    (void)state;
    kvm_probe(&first);
    start = clock_monotonic_ns();
    kvm_probe(&again);
    assert_true(clock_monotonic_ns() - start < 5000000000ull);
    assert_int_equal(first.ability, again.ability);
    assert_string_equal(first.reason, again.reason);
}

static void leaves_neither_children_nor_files_open(void **state)
{
    struct kvm_report report;
    unsigned before = open_files();

    (void)state;
    kvm_probe(&report);
    assert_int_equal(open_files(), before);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

/* Runs the probe in a child that has changed its surroundings, and brings back
 * what it found; ability -1: the surroundings could not be changed. */
static struct kvm_report probe_after(bool (*change)(const char *root), const char *root)
{
    struct kvm_report report;
    int fds[2], status;
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        memset(&report, 0xff, sizeof(report));
        if (change(root))
            kvm_probe(&report);
        _exit(io_write_full(fds[1], &report, sizeof(report)) == 0 ? 0 : 1);
    }
    close(fds[1]);
    assert_int_equal(io_read_full(fds[0], &report, sizeof(report)), 0);
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return report;
}

static bool enter_root(const char *root)
{
    if (geteuid() != 0 && unshare(CLONE_NEWUSER) != 0)
        return false;
    return chroot(root) == 0 && chdir("/") == 0;
}

static bool become_nobody(const char *root)
{
    (void)root;
    return setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0 && !have_kvm();
}

static struct kvm_report probe_in_root(const char *file)
{
    char root[] = "/tmp/kvm-test-XXXXXX";
    struct kvm_report report;
    char *dev;

    assert_non_null(mkdtemp(root));
    dev = io_format("%s/dev", root);
    assert_int_equal(mkdir(dev, 0755), 0);
    if (file != NULL) {
        char *path = io_format("%s/kvm", dev);

        assert_int_equal(io_write_file(AT_FDCWD, path, file, strlen(file), 0644), 0);
        free(path);
    }
    report = probe_after(enter_root, root);
    free(dev);
    io_remove_tree(root);
    return report;
}

static void a_missing_device_is_absent_and_says_what_to_do(void **state)
{
    struct kvm_report report = probe_in_root(NULL);

    (void)state;
    if ((int)report.ability == -1)
        skip();
    assert_int_equal(report.ability, KVM_ABSENT);
    assert_non_null(strstr(report.reason, "/dev/kvm: No such file or directory; "));
    assert_non_null(strstr(report.reason, "kvm_amd or kvm_intel"));
}

static void a_forbidden_device_is_absent_and_says_what_to_do(void **state)
{
    struct kvm_report report;

    (void)state;
    if (!have_kvm())
        skip();
    report = probe_after(become_nobody, NULL);
    if ((int)report.ability == -1)
        skip();
    assert_int_equal(report.ability, KVM_ABSENT);
    assert_non_null(strstr(report.reason, "Permission denied"));
    assert_non_null(strstr(report.reason, "group kvm"));
}

static void a_device_that_is_not_kvm_is_broken(void **state)
{
    struct kvm_report report = probe_in_root("nothing");

    (void)state;
    if ((int)report.ability == -1)
        skip();
    assert_int_equal(report.ability, KVM_BROKEN);
    assert_non_null(strstr(report.reason, "KVM_GET_API_VERSION"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_user_mode_at_least),
        cmocka_unit_test(says_the_same_every_time_and_soon),
        cmocka_unit_test(leaves_neither_children_nor_files_open),
        cmocka_unit_test(a_missing_device_is_absent_and_says_what_to_do),
        cmocka_unit_test(a_forbidden_device_is_absent_and_says_what_to_do),
        cmocka_unit_test(a_device_that_is_not_kvm_is_broken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
