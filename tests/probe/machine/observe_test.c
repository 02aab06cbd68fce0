/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine tells about itself while it runs. */
#include "harness.h"

#include "base/cleanup.h"
#include "vmm/control/client.h"

#include <pty.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEMORY_MIB = 16, PAGE = 4096, FREE_PAGES = (MEMORY_MIB << 8) - 512 };

/* A new reference. */
static json_t *stats_of(struct site *site, const char *name, bool written)
{
    _cleanup_free_ char *path = home_machine_socket(&site->home, name);
    _cleanup_json_ json_t *args = json_pack("{s:b}", "written", written);
    json_t *result = NULL;
    struct error err;

    if (control_request(path, "stats", args, &result, &err) < 0)
        fail_msg("stats: %s", err.message);
    return result;
}

static uint64_t number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    if (!json_is_integer(value))
        fail_msg("%s is not a number", name);
    return (uint64_t)json_integer_value(value);
}

/* Borrows. */
static const json_t *counters_of(const json_t *stats, const char *device)
{
    size_t i;
    json_t *item;

    json_array_foreach(json_object_get(stats, "devices"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "name")), device) == 0)
            return json_object_get(item, "counters");
    }
    fail_msg("there is no device %s", device);
    return NULL;
}

static void requests_of_a_disk_are_counted(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 2);
    _cleanup_json_ json_t *before = stats_of(site, "m", false);
    ask_ok(&guest, "blk use 1");
    ask_ok(&guest, "blk read 0 8 600");
    ask_ok(&guest, "blk write 8 24 5");
    ask_ok(&guest, "blk flush");
    ask_ok(&guest, "blk discard 16 8");
    ask_ok(&guest, "blk zero 32 8");
    _cleanup_json_ json_t *after = stats_of(site, "m", false);
    const json_t *was = counters_of(before, "disk1");
    const json_t *is = counters_of(after, "disk1");
    assert_int_equal(number(is, "read_bytes") - number(was, "read_bytes"), 8 * SECTOR_SIZE);
    assert_true(number(is, "reads") > number(was, "reads"));
    assert_int_equal(number(is, "written_bytes") - number(was, "written_bytes"), 24 * SECTOR_SIZE);
    assert_true(number(is, "writes") > number(was, "writes"));
    assert_int_equal(number(is, "flushes") - number(was, "flushes"), 1);
    assert_int_equal(number(is, "discards") - number(was, "discards"), 2);
    assert_int_equal(number(is, "errors"), 0);
    assert_true(json_equal(counters_of(before, "disk0"), counters_of(after, "disk0")));
    guest_detach(&guest);
}

static void entropy_is_counted(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "rng 32");
    _cleanup_json_ json_t *stats = stats_of(site, "m", false);
    assert_int_equal(number(counters_of(stats, "rng0"), "read_bytes"), 32);
    guest_detach(&guest);
}

static void exits_are_counted_by_kind(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    _cleanup_json_ json_t *before = stats_of(site, "m", false);
    for (unsigned i = 0; i < 10; i++)
        ask_ok(&guest, "blk flush"); /* looks at the device's interrupt status: MMIO */
    _cleanup_json_ json_t *after = stats_of(site, "m", false);
    const json_t *was = json_object_get(before, "exits_by_kind");
    const json_t *is = json_object_get(after, "exits_by_kind");
    assert_true(number(is, "io") >= number(was, "io") + 100); /* a byte of the line is an exit */
    assert_true(number(after, "exits") > number(before, "exits"));
    assert_true(number(after, "cpu_us") > number(before, "cpu_us"));
    assert_true(number(after, "console_bytes") >= number(before, "console_bytes") + 30);
    const json_t *kvm = json_object_get(after, "kvm");
    if (json_object_get(kvm, "exits") != NULL) /* since Linux 5.14 */
        assert_true(number(kvm, "exits") > number(json_object_get(before, "kvm"), "exits"));
    guest_detach(&guest);
}

static void memory_in_use_is_what_the_guest_touched(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    _cleanup_json_ json_t *before = stats_of(site, "m", false);
    guest_fill(&guest, 7);
    _cleanup_json_ json_t *after = stats_of(site, "m", false);
    const json_t *was = json_object_get(before, "memory");
    const json_t *is = json_object_get(after, "memory");
    /* The kernel's sums lag behind by some pages a CPU. */
    assert_true(number(is, "unique_bytes") - number(was, "unique_bytes") >=
                FREE_PAGES * UINT64_C(4096) * 9 / 10);
    assert_int_equal(number(is, "resident_bytes"),
                     number(is, "shared_bytes") + number(is, "unique_bytes"));
    guest_detach(&guest);
}

static void pages_written_since_the_checkpoint_are_told_on_request(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_fill(&guest, 7);
    stasis_ok(site, "save m@one");
    _cleanup_json_ json_t *unasked = stats_of(site, "m", false);
    assert_true(json_is_null(json_object_get(unasked, "written")));
    _cleanup_json_ json_t *saved = stats_of(site, "m", true);
    const json_t *few = json_object_get(saved, "written");
    assert_true(number(few, "since_checkpoint_bytes") < FREE_PAGES * UINT64_C(4096) / 2);
    ask_ok(&guest, "dirty 1000 2 9 512");
    _cleanup_json_ json_t *dirtied = stats_of(site, "m", true);
    const json_t *more = json_object_get(dirtied, "written");
    assert_true(number(more, "since_checkpoint_bytes") >=
                number(few, "since_checkpoint_bytes") + 1000 * UINT64_C(4096));
    assert_true(number(more, "total_bytes") >= number(few, "total_bytes") + 1000 * UINT64_C(4096));
    /* Whoever looks takes nothing away from the next save. */
    const struct look look = guest_look(&guest);
    stasis_ok(site, "save m@two");
    guest_detach(&guest);
    stasis_ok(site, "clone m@two c");
    const struct look other = look_at(site, "c", 0);
    assert_same_look(&look, &other);
}

static void saves_are_counted_and_the_last_one_is_told(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    _cleanup_json_ json_t *before = stats_of(site, "m", false);
    assert_int_equal(number(before, "saves"), 0);
    assert_true(json_is_null(json_object_get(before, "last_save")));
    stasis_ok(site, "save m@one");
    _cleanup_json_ json_t *result = stasis_json(site, "save m@two --json");
    _cleanup_json_ json_t *after = stats_of(site, "m", false);
    const json_t *last = json_object_get(after, "last_save");
    assert_int_equal(number(after, "saves"), 2);
    assert_true(json_equal(json_object_get(last, "id"), json_object_get(result, "id")));
    assert_true(json_equal(json_object_get(last, "pages"), json_object_get(result, "pages")));
    assert_true(number(last, "interval_us") < number(after, "uptime_us"));
    guest_detach(&guest);
}

static void run_tells_what_it_started_in_json(void **state)
{
    struct site *site = *state;
    char *input = site_path(site, "input");
    FILE *file = fopen(input, "we");

    fputs("ping\noff\n", file);
    fclose(file);
    site->input = input;
    stasis_ok(site, "run --kernel %s --memory 8M --name m --json", PROBE_ELF);
    site->input = NULL;
    _cleanup_json_ json_t *object = json_loads(site->out, JSON_DISABLE_EOF_CHECK, NULL);
    assert_string_equal(json_string_value(json_object_get(object, "name")), "m");
    const char *banner = strstr(site->out, "stasis-probe");
    assert_non_null(banner);
    assert_true(strchr(site->out, '}') < banner);
    free(input);
}

static void inspect_tells_all_of_a_machine(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 2);
    stasis_ok(site, "save m@one");
    ask_ok(&guest, "blk write 0 800 5");
    ask_ok(&guest, "blk flush");
    _cleanup_json_ json_t *running = stasis_json(site, "inspect m");
    assert_int_equal(number(running, "memory_bytes"), MEMORY_MIB << 20);
    assert_int_equal(json_array_size(json_object_get(running, "disks")), 2);
    assert_int_equal(json_array_size(json_object_get(running, "nets")), 1);
    assert_int_equal(json_array_size(json_object_get(running, "parents")), 1);
    assert_int_equal(json_array_size(json_object_get(running, "checkpoints")), 1);
    assert_true(number(running, "overlay_bytes") >= 800 * SECTOR_SIZE);
    const json_t *process = json_object_get(running, "process");
    assert_true(json_is_array(json_object_get(process, "devices")));
    const json_t *net = json_object_get(running, "net");
    assert_string_equal(json_string_value(json_object_get(net, "mode")), "user");
    guest_detach(&guest);
    stasis_ok(site, "kill m");
    _cleanup_json_ json_t *stopped = stasis_json(site, "inspect m --json");
    assert_true(json_is_null(json_object_get(stopped, "process")));
    assert_true(json_equal(json_object_get(stopped, "net"), net));
    assert_true(json_equal(json_object_get(stopped, "disks"), json_object_get(running, "disks")));
}

/* Each look is a line of JSON, and two looks apart in time make rates. */
static void top_tells_rates_of_all_that_run(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_detach(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c --paused");
    guest_boot(&guest, site, "off", MEMORY_MIB, 0);
    guest_detach(&guest);
    stasis_ok(site, "kill off");
    stasis_ok(site, "top --json -n 2 --interval 100ms --sort name --dirty");
    char *second = strchr(site->out, '\n');
    assert_non_null(second);
    assert_ptr_equal(strchr(second + 1, '\n'), site->out + strlen(site->out) - 1);
    _cleanup_json_ json_t *look = json_loads(second + 1, 0, NULL);
    const json_t *rows = json_object_get(look, "machines");
    assert_true(json_is_string(json_object_get(look, "time")));
    assert_int_equal(json_array_size(rows), 2);
    const json_t *clone = json_array_get(rows, 0), *machine = json_array_get(rows, 1);
    assert_string_equal(json_string_value(json_object_get(clone, "name")), "c");
    assert_string_equal(json_string_value(json_object_get(clone, "state")), "paused");
    assert_string_equal(json_string_value(json_object_get(machine, "state")), "running");
    assert_true(number(machine, "unique_bytes") > 0);
    assert_int_equal(number(clone, "dirty_bytes_per_s"), 0);
    number(machine, "exits_per_s");
    stasis_ok(site, "top c --json -n 1 --interval 100ms");
    assert_null(strstr(site->out, "\"m\""));
    stasis_ok(site, "top -n 1 --interval 100ms");
    assert_non_null(strstr(site->out, "NAME"));
}

/* Reads until all of that has come. */
static void await_text(int fd, const char *wanted)
{
    char text[65536];
    size_t used = 0;
    const uint64_t deadline = now_ms() + DEADLINE_MS;

    while (used < sizeof(text) - 1 && now_ms() < deadline) {
        ssize_t n = read(fd, text + used, sizeof(text) - 1 - used);
        if (n <= 0)
            break;
        used += (size_t)n;
        text[used] = '\0';
        if (strstr(text, wanted) != NULL)
            return;
    }
    fail_msg("%s has not come", wanted);
}

static void top_on_a_terminal_ends_with_q(void **state)
{
    struct site *site = *state;
    struct guest guest;
    int terminal, status;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_detach(&guest);
    const struct winsize size = {.ws_row = 10, .ws_col = 60};
    pid_t pid = forkpty(&terminal, NULL, NULL, &size);
    assert_true(pid >= 0);
    if (pid == 0) {
        execl(STASIS_BINARY, "stasis", "top", "--home", site->root, NULL);
        _exit(99);
    }
    await_text(terminal, "1 running, by cpu");
    await_text(terminal, "m ");
    assert_int_equal(write(terminal, "n", 1), 1);
    await_text(terminal, "by net");
    assert_int_equal(write(terminal, "q", 1), 1);
    await_text(terminal, "\033[?1049l"); /* as it was before */
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(terminal);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(requests_of_a_disk_are_counted),
        MACHINE_TEST(entropy_is_counted),
        MACHINE_TEST(exits_are_counted_by_kind),
        MACHINE_TEST(memory_in_use_is_what_the_guest_touched),
        MACHINE_TEST(pages_written_since_the_checkpoint_are_told_on_request),
        MACHINE_TEST(saves_are_counted_and_the_last_one_is_told),
        MACHINE_TEST(inspect_tells_all_of_a_machine),
        MACHINE_TEST(top_tells_rates_of_all_that_run),
        MACHINE_TEST(top_on_a_terminal_ends_with_q),
        MACHINE_TEST(run_tells_what_it_started_in_json),
    };

    return HARNESS_RUN(tests);
}
