/* SPDX-License-Identifier: Apache-2.0 */
/* What is refused is refused with its own exit code, and harms nothing. */
#include "harness.h"

#include <stdlib.h>

enum { MEMORY_MIB = 8 };

static void a_running_machine_is_not_started_again(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_fill(&guest, 3);
    struct look before = guest_look(&guest);
    stasis_ok(site, "save m@one");
    pid_t pid = machine_pid(site, "m");

    /* resume and restore of a running machine are no second start ... */
    stasis_ok(site, "resume m");
    stasis_ok(site, "restore m@one --discard");
    assert_int_equal(machine_pid(site, "m"), pid);
    /* ... and a process that would be one is refused. */
    assert_int_equal(second_process(site, "m"), STATUS_BUSY);
    assert_int_equal(machine_pid(site, "m"), pid);
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    stasis_fails(site, STATUS_BUSY, "running", "rm m");
    guest_detach(&guest);
}

/* Several at once: one process, and nobody is told anything else than "busy". */
static void of_many_starts_at_once_one_wins(void **state)
{
    struct site *site = *state;
    struct guest guest;
    enum { TRIES = 6 };
    pid_t pids[TRIES];
    unsigned started = 0;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_fill(&guest, 3);
    struct look before = guest_look(&guest);
    stasis_ok(site, "save m@one");
    guest_detach(&guest);
    for (unsigned round = 0; round < 3; round++) {
        machine_kill9(site, "m");
        for (unsigned i = 0; i < TRIES; i++)
            pids[i] = stasis_begin(site, "restore m@one --discard");
        started = 0;
        for (unsigned i = 0; i < TRIES; i++) {
            int code = stasis_end(site, pids[i]);
            if (code != 0 && code != STATUS_BUSY)
                print_error("exit code %d: %s", code, site->err);
            assert_true(code == 0 || code == STATUS_BUSY);
            started += code == 0;
        }
        assert_true(started >= 1);
        struct look after = look_at(site, "m", 1);
        assert_same_look(&before, &after);
    }
    stasis_ok(site, "verify");
}

static void two_saves_at_once_are_two_or_busy(void **state)
{
    struct site *site = *state;
    struct guest guest;
    pid_t pids[4];
    unsigned saved = 0;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_fill(&guest, 4);
    struct look before = guest_look(&guest);
    for (unsigned i = 0; i < 4; i++)
        pids[i] = stasis_begin(site, "save m@s%u", i);
    for (unsigned i = 0; i < 4; i++) {
        int code = stasis_end(site, pids[i]);
        assert_true(code == 0 || code == STATUS_BUSY);
        char name[16];
        snprintf(name, sizeof(name), "m@s%u", i);
        if (code == 0)
            stasis_ok(site, "inspect %s", name);
        else
            stasis_fails(site, STATUS_NOT_FOUND, "s", "inspect %s", name);
        saved += code == 0;
    }
    assert_true(saved >= 1);
    /* The same name by two at once: one has it. */
    pids[0] = stasis_begin(site, "save m@same");
    pids[1] = stasis_begin(site, "save m@same");
    int one = stasis_end(site, pids[0]);
    int two = stasis_end(site, pids[1]);
    assert_true((one == 0) != (two == 0));
    assert_true(one + two == STATUS_BUSY || one + two == STATUS_EXISTS);
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    guest_detach(&guest);
}

static void a_name_taken_is_told(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_fails(site, STATUS_EXISTS, "m", "run --kernel %s --name m -d", PROBE_ELF);
    stasis_ok(site, "save m@one");
    stasis_fails(site, STATUS_EXISTS, "one", "save m@one");
    stasis_ok(site, "clone m@one c");
    stasis_fails(site, STATUS_EXISTS, "c", "clone m@one c");
    stasis_fails(site, STATUS_EXISTS, "m", "clone m@one m");
    ask_ok(&guest, "ping");
    json_t *list = stasis_json(site, "ls --json");
    assert_int_equal(json_array_size(list), 2);
    json_decref(list);
    guest_detach(&guest);
}

static void what_is_not_there_is_told(void **state)
{
    static const char *const commands[] = {
        "save nobody",    "pause nobody",    "resume nobody",  "restore nobody@x", "kill nobody",
        "stop nobody",    "wait nobody",     "rm -f nobody",   "clone nobody@x",   "clone nobody c",
        "history nobody", "run nobody:1 -d", "console nobody", "logs nobody",      "inspect nobody",
        "restore nobody", "send nobody@x",
    };
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        stasis_fails(site, STATUS_NOT_FOUND, "nobody", "%s", commands[i]);
    stasis_fails(site, STATUS_NOT_FOUND, "never", "restore m@never");
    stasis_fails(site, STATUS_NOT_FOUND, "never", "clone m@never");
    stasis_fails(site, STATUS_NOT_FOUND, "never", "rm -f m@never");
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

static void a_bad_name_leaves_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    stasis_fails(site, STATUS_USAGE, "../x", "clone m@one ../x");
    stasis_fails(site, STATUS_USAGE, "a/b", "run --kernel %s --name a/b -d", PROBE_ELF);
    stasis_fails(site, STATUS_USAGE, "..", "save m@..");
    json_t *list = stasis_json(site, "ls --json");
    assert_int_equal(json_array_size(list), 1);
    json_decref(list);
    guest_detach(&guest);
}

/* Memory the machine never had, a kernel for another processor ... */
static void a_start_that_fails_leaves_nothing(void **state)
{
    struct site *site = *state;

    stasis_fails(site, STATUS_USAGE, "/dev/null", "run --kernel /dev/null --name m -d");
    assert_int_not_equal(stasis(site, "run --kernel %s --name m -d --memory 4096", PROBE_ELF), 0);
    assert_true(site->err[0] != '\0');
    json_t *list = stasis_json(site, "ls --json");
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    stasis_ok(site, "run --kernel %s --name m -d --memory 8M", PROBE_ELF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_running_machine_is_not_started_again),
        MACHINE_TEST(of_many_starts_at_once_one_wins),
        MACHINE_TEST(two_saves_at_once_are_two_or_busy),
        MACHINE_TEST(a_name_taken_is_told),
        MACHINE_TEST(what_is_not_there_is_told),
        MACHINE_TEST(a_bad_name_leaves_nothing),
        MACHINE_TEST(a_start_that_fails_leaves_nothing),
    };

    return HARNESS_RUN(tests);
}
