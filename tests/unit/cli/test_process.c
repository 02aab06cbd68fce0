/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/process.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

static void a_machine_is_known_by_its_second_argument(void **state)
{
    static const char machine[] = "stasis\0machine-process\0/home\0web\0"
                                  "3";
    static const char longer[] = "stasis\0machine-processes\0/home";
    static const char other[] = "vi\0notes\0machine-process";

    (void)state;
    assert_true(process_is_machine(machine, sizeof(machine)));
    assert_false(process_is_machine(longer, sizeof(longer)));
    assert_false(process_is_machine(other, sizeof(other)));
    assert_false(process_is_machine("stasis", 6));
    assert_false(process_is_machine("", 0));
    /* cut off in the middle of the word */
    assert_false(process_is_machine(machine, 15));
}

/* A process that is no machine must live on, whatever a lock says. */
static void other_processes_are_not_killed(void **state)
{
    char dir[] = "/tmp/cli-process.XXXXXX";
    struct error err = ERROR_INIT;
    int status;

    (void)state;
    assert_non_null(mkdtemp(dir));
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pause();
        _exit(0);
    }
    _cleanup_free_ char *text = io_format("%d\n", (int)pid);
    _cleanup_free_ char *path = io_format("%s/lock", dir);
    assert_int_equal(io_write_file(AT_FDCWD, path, text, strlen(text), 0600), 0);
    assert_true(process_kill_machine(dir, &err) < 0);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    /* Now the number is nobody's: there is nothing to kill, and that is fine. */
    assert_int_equal(process_kill_machine(dir, &err), 0);
    io_remove_tree(dir);
}

static void a_lock_without_a_number_is_an_error(void **state)
{
    char dir[] = "/tmp/cli-process.XXXXXX";
    struct error err = ERROR_INIT;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_true(process_kill_machine(dir, &err) < 0);
    io_remove_tree(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_machine_is_known_by_its_second_argument),
        cmocka_unit_test(other_processes_are_not_killed),
        cmocka_unit_test(a_lock_without_a_number_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
