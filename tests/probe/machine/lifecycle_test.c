/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's life: pauses, ends of every kind, boots, removals. */
#include "harness.h"

#include "base/io.h"
#include "vmm/control/client.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { MEMORY_MIB = 8, LONG_REQUESTS = 400 };

static void assert_state(struct site *site, const char *name, const char *wanted)
{
    json_t *list = stasis_json(site, "ls --json");
    size_t i;
    json_t *item;

    json_array_foreach(list, i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "name")), name) != 0)
            continue;
        assert_string_equal(json_string_value(json_object_get(item, "state")), wanted);
        json_decref(list);
        return;
    }
    fail_msg("there is no machine %s", name);
}

/* Reads on until the machine closes the line; true if that was among its lines. */
static bool ends_with_line(struct guest *guest, const char *beginning)
{
    char line[512];
    bool found = false;

    while (guest_line(guest, line, sizeof(line)))
        found |= strncmp(line, beginning, strlen(beginning)) == 0;
    return found;
}

static void a_paused_machine_does_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "count start");
    stasis_ok(site, "pause m");
    assert_state(site, "m", "paused");
    stasis_ok(site, "save m@one");
    stasis_ok(site, "save m@two");
    assert_int_equal(checkpoint_counter(site, "m@one"), checkpoint_counter(site, "m@two"));
    stasis_ok(site, "pause m"); /* twice is once */
    stasis_ok(site, "resume m");
    assert_state(site, "m", "running");
    stasis_ok(site, "resume m");
    assert_true(ask_number(&guest, "count", 10, "count get") >= checkpoint_counter(site, "m@two"));
    guest_detach(&guest);
}

static void a_restore_leaves_a_paused_machine_paused(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "pause m");
    stasis_ok(site, "restore m@one --discard");
    assert_state(site, "m", "paused");
    stasis_ok(site, "resume m");
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

static void every_way_to_start_can_be_held(void **state)
{
    struct site *site = *state;
    struct guest guest;

    stasis_ok(site, "run --kernel %s --memory 8M --name m -d --paused", PROBE_ELF);
    assert_state(site, "m", "paused");
    guest_attach(&guest, site, "m", 0);
    stasis_ok(site, "resume m");
    guest_wait_banner(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c -n 2 --paused");
    assert_state(site, "c-1", "paused");
    assert_state(site, "c-2", "paused");
    stasis_ok(site, "restore m@one --discard --paused");
    assert_state(site, "m", "paused");
    stasis_ok(site, "resume m c-1 c-2");
    assert_state(site, "c-2", "running");
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

/* The probe has no keyboard driver to be asked by. */
static void stop_of_a_guest_that_does_not_listen_says_so(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_fails(site, STATUS_FAILED, "does not listen", "stop m");
    assert_non_null(strstr(site->err, "stasis kill m"));
    ask_ok(&guest, "ping");
    stasis_ok(site, "pause m");
    stasis_fails(site, STATUS_FAILED, "paused", "stop m");
    stasis_ok(site, "resume m");
    ask_ok(&guest, "ping");
    stasis_ok(site, "kill m");
    assert_state(site, "m", "stopped");
    stasis_ok(site, "stop m"); /* it is */
    stasis_ok(site, "kill m");
    guest_detach(&guest);
}

static void what_needs_a_running_machine_says_so(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_detach(&guest);
    stasis_ok(site, "kill m");
    stasis_fails(site, STATUS_FAILED, "not running", "save m@one");
    stasis_fails(site, STATUS_FAILED, "not running", "pause m");
    stasis_fails(site, STATUS_FAILED, "not running", "console m");
    assert_non_null(strstr(site->err, "stasis resume m"));
}

static void off_ends_the_machine(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    pid_t waiting = stasis_begin(site, "wait m");
    guest_type(&guest, "off\n");
    assert_true(ends_with_line(&guest, "ok"));
    assert_int_equal(stasis_end(site, waiting), 0);
    machine_gone(site, "m");
    assert_state(site, "m", "stopped");
    stasis_ok(site, "wait m");
    guest_detach(&guest);
    guest_boot_again(&guest, site, "m", 0);
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

/* Requests that are read at once and answered before anything else is looked at, and then
 * a save. */
static char *long_requests(void)
{
    static const char pages[] = "{\"verb\":\"pages\",\"args\":{\"keys\":[]}}\n";
    static const char save[] = "{\"verb\":\"save\",\"args\":{\"name\":\"late\"}}\n";
    char *text = malloc(LONG_REQUESTS * strlen(pages) + sizeof(save));

    text[0] = '\0';
    for (unsigned i = 0; i < LONG_REQUESTS; i++)
        memcpy(text + i * strlen(pages), pages, sizeof(pages));
    memcpy(text + LONG_REQUESTS * strlen(pages), save, sizeof(save));
    return text;
}

/* A checkpoint of one that is off could never go on. */
static void a_guest_that_switches_itself_off_is_not_saved_any_more(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct error err = ERROR_INIT;
    char *text = long_requests(), reply[512];
    char *path = home_machine_socket(&site->home, "m");
    int fd;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    assert_int_equal(control_connect(path, -1, &fd, &err), 0);
    guest_type(&guest, "sumall\noff\n");
    assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
    while (read(fd, reply, sizeof(reply)) > 0)
        continue;
    assert_true(ends_with_line(&guest, "ok"));
    guest_detach(&guest);
    machine_gone(site, "m");
    assert_state(site, "m", "stopped"); /* not crashed */
    stasis_fails(site, 10, "no checkpoint 'late'", "inspect m@late");
    close(fd);
    free(path);
    free(text);
}

static void wait_gives_up_in_time(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_fails(site, STATUS_FAILED, "still running", "wait m --timeout 50ms");
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

static void a_crash_of_the_guest_ends_the_machine(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    ask_ok(&guest, "blk write 0 8 5");
    guest_type(&guest, "crash\n");
    assert_true(ends_with_line(&guest, "error exception vector=6"));
    machine_gone(site, "m");
    guest_detach(&guest);
    guest_boot_again(&guest, site, "m", 1);
    assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 0 8"), expected_disk_sum(0, 8, 5));
    guest_detach(&guest);
}

/* Memory begins anew, disks do not, and the console stays attached. */
static void reset_boots_again_in_the_same_process(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    pid_t pid = machine_pid(site, "m");
    for (unsigned i = 0; i < 3; i++) {
        uint64_t empty = guest_look(&guest).memory;
        guest_fill(&guest, 5);
        ask_ok(&guest, "blk write %u 8 %u", i * 8, 50 + i);
        stasis_ok(site, "save m@s%u", i);
        ask_ok(&guest, "blk write %u 3 %u", 1000 + i * 3, 60 + i); /* in no checkpoint */
        ask_ok(&guest, "reset");
        guest_wait_banner(&guest);
        ask_ok(&guest, "idle on");
        assert_int_equal(machine_pid(site, "m"), pid);
        assert_int_equal(guest_look(&guest).memory, empty);
        for (unsigned k = 0; k <= i; k++) {
            assert_int_equal(ask_number(&guest, "sum", 16, "blk sum %u 8", k * 8),
                             expected_disk_sum(k * 8, 8, 50 + k));
            assert_int_equal(ask_number(&guest, "sum", 16, "blk sum %u 3", 1000 + k * 3),
                             expected_disk_sum(1000 + k * 3, 3, 60 + k));
        }
    }
    /* A save after a boot holds no memory of the time before. */
    guest_fill(&guest, 6);
    struct look before = guest_look(&guest);
    stasis_ok(site, "save m@last");
    stasis_ok(site, "restore m@s0 --discard");
    stasis_ok(site, "restore m@last --discard");
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    stasis_ok(site, "clone m@last c");
    after = look_at(site, "c", 1);
    assert_same_look(&before, &after);
    guest_detach(&guest);
}

static void kill_ends_it_and_disks_stay(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    ask_ok(&guest, "blk write 0 8 5");
    ask_ok(&guest, "blk flush");
    stasis_ok(site, "kill m");
    assert_int_equal(machine_pid(site, "m"), 0);
    guest_detach(&guest);
    guest_boot_again(&guest, site, "m", 1);
    assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 0 8"), expected_disk_sum(0, 8, 5));
    guest_detach(&guest);
}

static void a_process_that_hangs_is_killed(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    assert_int_equal(kill(machine_pid(site, "m"), SIGSTOP), 0);
    stasis_ok(site, "ls"); /* says what it can, and does not hang with it */
    stasis_ok(site, "kill m");
    assert_int_equal(machine_pid(site, "m"), 0);
    guest_detach(&guest);
}

static void a_cold_checkpoint_boots_its_first_disks(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    ask_ok(&guest, "blk write 0 8 5");
    stasis_ok(site, "restore m --discard"); /* its head still is what it booted from */
    guest_wait_banner(&guest);
    ask_ok(&guest, "idle on");
    assert_int_equal(guest_look(&guest).disk[0], expected_disk_sum(0, DISK_SECTORS, 11));
    ask_ok(&guest, "blk write 8 8 6");
    stasis_ok(site, "kill m");
    guest_detach(&guest);
    stasis_ok(site, "restore m --discard");
    guest_wait_boot(&guest, site, "m", 1, 3);
    assert_int_equal(guest_look(&guest).disk[0], expected_disk_sum(0, DISK_SECTORS, 11));
    guest_detach(&guest);
}

static void an_image_runs_warm_and_cold(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *disk = site_disk(site, "d.raw", 31);

    stasis_ok(site,
              "import probe:cold --kernel %s --memory 8M --disk %s "
              "--cmdline virtio=0xd0000000,4096,16",
              PROBE_ELF, disk);
    stasis_ok(site, "run probe:cold --name a -d --paused");
    guest_attach(&guest, site, "a", 1);
    stasis_ok(site, "resume a");
    guest_wait_banner(&guest);
    ask_ok(&guest, "idle on");
    guest_fill(&guest, 9);
    struct look look = guest_look(&guest);
    assert_int_equal(look.disk[0], expected_disk_sum(0, DISK_SECTORS, 31));
    stasis_ok(site, "save a@ready");
    stasis_ok(site, "tag a@ready probe:warm");
    guest_detach(&guest);
    stasis_ok(site, "rm -f a");
    stasis_ok(site, "run probe:warm --name b -d");
    struct look warm = look_at(site, "b", 1);
    assert_same_look(&look, &warm);
    free(disk);
}

static void rm_leaves_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c");
    guest_detach(&guest);
    char *dir = home_machine_dir(&site->home, "m");
    char *socket = home_machine_socket(&site->home, "m");
    stasis_fails(site, STATUS_BUSY, "running", "rm m");
    assert_int_equal(access(dir, F_OK), 0);
    stasis_ok(site, "rm -f m");
    assert_int_not_equal(access(dir, F_OK), 0);
    assert_int_not_equal(access(socket, F_OK), 0);
    stasis_fails(site, STATUS_NOT_FOUND, "m", "resume m");
    struct look look = look_at(site, "c", 1); /* which came from it */
    assert_int_equal(look.disk[0], expected_disk_sum(0, DISK_SECTORS, 11));
    stasis_ok(site, "verify");
    free(dir);
    free(socket);
}

static void a_removed_checkpoint_takes_nothing_along(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_fill(&guest, 1);
    stasis_ok(site, "save m@one");
    ask_ok(&guest, "dirty 100 3 5");
    struct look two = guest_look(&guest);
    stasis_ok(site, "save m@two");
    guest_fill(&guest, 3);
    stasis_ok(site, "save m@three");
    stasis_ok(site, "rm -f m@one");
    stasis_fails(site, STATUS_NOT_FOUND, "one", "restore m@one");
    stasis_ok(site, "restore m@two --discard");
    struct look now = guest_look(&guest);
    assert_same_look(&two, &now);
    stasis_fails(site, STATUS_BUSY, "", "rm -f m@two"); /* the machine builds on it */
    stasis_ok(site, "verify");
    guest_detach(&guest);
}

/* As a script would: its input first, and until the machine ends. */
static void run_attached_prints_and_ends_with_the_machine(void **state)
{
    struct site *site = *state;
    char *script = site_path(site, "script");
    FILE *file = fopen(script, "w");

    assert_non_null(file);
    fputs("off\n", file);
    fclose(file);
    stasis_ok(site, "import probe:1 --kernel %s --memory 8M", PROBE_ELF);
    stasis_ok(site, "run probe:1 --name first -d --paused");
    struct guest guest;
    guest_attach(&guest, site, "first", 0);
    stasis_ok(site, "resume first");
    guest_wait_banner(&guest);
    stasis_ok(site, "save first@up");
    guest_detach(&guest);
    site->input = script;
    stasis_ok(site, "run first@up --name m --rm");
    assert_string_equal(site->out, "ok\n");
    stasis_fails(site, STATUS_NOT_FOUND, "m", "resume m");
    free(script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_paused_machine_does_nothing),
        MACHINE_TEST(a_restore_leaves_a_paused_machine_paused),
        MACHINE_TEST(every_way_to_start_can_be_held),
        MACHINE_TEST(stop_of_a_guest_that_does_not_listen_says_so),
        MACHINE_TEST(what_needs_a_running_machine_says_so),
        MACHINE_TEST(off_ends_the_machine),
        MACHINE_TEST(a_guest_that_switches_itself_off_is_not_saved_any_more),
        MACHINE_TEST(wait_gives_up_in_time),
        MACHINE_TEST(a_crash_of_the_guest_ends_the_machine),
        MACHINE_TEST(reset_boots_again_in_the_same_process),
        MACHINE_TEST(kill_ends_it_and_disks_stay),
        MACHINE_TEST(a_process_that_hangs_is_killed),
        MACHINE_TEST(a_cold_checkpoint_boots_its_first_disks),
        MACHINE_TEST(an_image_runs_warm_and_cold),
        MACHINE_TEST(rm_leaves_nothing),
        MACHINE_TEST(a_removed_checkpoint_takes_nothing_along),
        MACHINE_TEST(run_attached_prints_and_ends_with_the_machine),
    };

    return HARNESS_RUN(tests);
}
