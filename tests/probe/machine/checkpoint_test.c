/* SPDX-License-Identifier: Apache-2.0 */
/* A checkpoint is the whole machine, bit for bit, wherever it is put back. */
#include "harness.h"

enum { MEMORY_MIB = 32, FREE_PAGE = 512, FREE_PAGES = (MEMORY_MIB << 8) - FREE_PAGE };

/* A machine with full memory, two disks that were written to, and a checkpoint
 * "one" of that; what it then does goes on in every part of it. */
static struct look saved_machine(struct guest *guest, struct site *site)
{
    guest_boot(guest, site, "m", MEMORY_MIB, 2);
    guest_fill(guest, 7);
    ask_ok(guest, "blk use 0");
    ask_ok(guest, "blk write 100 1000 70");
    ask_ok(guest, "blk use 1");
    ask_ok(guest, "blk zero 8 64");
    struct look look = guest_look(guest);
    stasis_ok(site, "save m@one");
    return look;
}

static void spoil(struct guest *guest)
{
    guest_fill(guest, 8);
    ask_ok(guest, "blk use 0");
    ask_ok(guest, "blk write 0 %d 80", DISK_SECTORS);
    ask_ok(guest, "blk use 1");
    ask_ok(guest, "blk discard 0 %d", DISK_SECTORS);
}

static void sums_are_what_was_written(void **state)
{
    struct guest guest;

    guest_boot(&guest, *state, "m", MEMORY_MIB, 2);
    guest_fill(&guest, 7);
    assert_int_equal(ask_number(&guest, "sum", 16, "sum %d %d", FREE_PAGE, FREE_PAGES),
                     expected_fill_sum(MEMORY_MIB, 7));
    struct look look = guest_look(&guest);
    assert_int_equal(look.disk[0], expected_disk_sum(0, DISK_SECTORS, 11));
    assert_int_equal(look.disk[1], expected_disk_sum(0, DISK_SECTORS, 12));
    guest_detach(&guest);
}

static void goes_on_untouched_after_a_save(void **state)
{
    struct guest guest;
    struct look before = saved_machine(&guest, *state);
    struct look after = guest_look(&guest);

    assert_same_look(&before, &after);
    guest_detach(&guest);
}

static void restore_in_place_puts_every_byte_back(void **state)
{
    struct guest guest;
    struct look before = saved_machine(&guest, *state);

    spoil(&guest);
    struct look spoilt = guest_look(&guest);
    assert_int_not_equal(spoilt.memory, before.memory);
    assert_int_not_equal(spoilt.disk[0], before.disk[0]);
    stasis_ok(*state, "restore m@one --discard");
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    guest_detach(&guest);
}

static void restore_keeps_the_present_as_a_checkpoint(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct look before = saved_machine(&guest, site);
    char id[DIGEST_HEX_SIZE];

    spoil(&guest);
    struct look spoilt = guest_look(&guest);
    json_t *result = stasis_json(site, "restore m@one --json");
    snprintf(id, sizeof(id), "%s", json_string_value(json_object_get(result, "saved")));
    json_decref(result);
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    guest_detach(&guest);
    stasis_ok(site, "clone %s undo", id);
    after = look_at(site, "undo", 2);
    assert_same_look(&spoilt, &after);
}

static void restore_of_a_stopped_machine_puts_every_byte_back(void **state)
{
    struct guest guest;
    struct look before = saved_machine(&guest, *state);

    spoil(&guest);
    stasis_ok(*state, "kill m");
    guest_detach(&guest);
    stasis_ok(*state, "restore m@one --discard");
    struct look after = look_at(*state, "m", 2);
    assert_same_look(&before, &after);
}

static void save_and_stop_then_restore_goes_on(void **state)
{
    struct guest guest;
    struct look before = saved_machine(&guest, *state);

    stasis_ok(*state, "save m@end --stop");
    guest_detach(&guest);
    assert_int_equal(machine_pid(*state, "m"), 0);
    stasis_ok(*state, "restore m");
    struct look after = look_at(*state, "m", 2);
    assert_same_look(&before, &after);
}

static void every_clone_has_every_byte(void **state)
{
    struct guest guest;
    struct look before = saved_machine(&guest, *state);

    spoil(&guest);
    guest_detach(&guest);
    stasis_ok(*state, "clone m@one c -n 3");
    for (unsigned i = 1; i <= 3; i++) {
        char name[16];
        snprintf(name, sizeof(name), "c-%u", i);
        struct look after = look_at(*state, name, 2);
        assert_same_look(&before, &after);
    }
}

static void a_clone_of_a_running_machine_is_as_it_is_now(void **state)
{
    struct guest guest;

    saved_machine(&guest, *state);
    spoil(&guest);
    struct look before = guest_look(&guest);
    stasis_ok(*state, "clone m c");
    struct look after = look_at(*state, "c", 2);
    assert_same_look(&before, &after);
    after = guest_look(&guest);
    assert_same_look(&before, &after);
    guest_detach(&guest);
}

static void clones_change_only_themselves(void **state)
{
    struct guest guest, clone;
    struct look before = saved_machine(&guest, *state);

    stasis_ok(*state, "clone m@one c -n 2");
    guest_attach(&clone, *state, "c-1", 2);
    spoil(&clone);
    struct look spoilt = guest_look(&clone);
    assert_int_not_equal(spoilt.memory, before.memory);
    guest_detach(&clone);
    struct look sibling = look_at(*state, "c-2", 2);
    assert_same_look(&before, &sibling);
    struct look parent = guest_look(&guest);
    assert_same_look(&before, &parent);
    guest_detach(&guest);
}

/* By a stream and by an OCI layout, into homes that know nothing of the first. */
static void a_clone_elsewhere_has_every_byte(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct look before = saved_machine(&guest, site);
    struct site *other = site_open("other");
    char *stream = site_path(other, "stream");
    char *layout = site_path(other, "layout");

    guest_detach(&guest);
    site->output = stream;
    stasis_ok(site, "send m@one");
    other->input = stream;
    stasis_ok(other, "receive sent:1");
    stasis_ok(other, "run sent:1 --name s -d");
    struct look after = look_at(other, "s", 2);
    assert_same_look(&before, &after);

    stasis_ok(site, "push m@one oci:%s:one", layout);
    stasis_ok(other, "pull oci:%s:one pulled:1", layout);
    stasis_ok(other, "clone pulled:1 p");
    after = look_at(other, "p", 2);
    assert_same_look(&before, &after);
    stasis_ok(other, "verify");
    site_close(other);
    free(layout);
    free(stream);
}

static void pulled_into_an_empty_home_it_goes_on(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct look before = saved_machine(&guest, site);
    struct site *other = site_open("empty");
    char *layout = site_path(other, "layout");

    guest_detach(&guest);
    stasis_ok(site, "push m@one oci:%s:one", layout);
    stasis_ok(other, "pull oci:%s:one pulled:1", layout);
    stasis_ok(other, "run pulled:1 --name p -d");
    guest_attach(&guest, other, "p", 2);
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    ask_ok(&guest, "blk write 5 5 5");
    guest_detach(&guest);
    stasis_ok(other, "save p@two");
    site_close(other);
    free(layout);
}

/* The instant of a save lies between what the counter showed before and after. */
static void the_counter_goes_on_from_the_saved_value(void **state)
{
    struct site *site = *state;
    struct guest guest, clone;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "count start");
    uint64_t before = ask_number(&guest, "count", 10, "count get");
    stasis_ok(site, "save m@one");
    uint64_t after = ask_number(&guest, "count", 10, "count stop");
    uint64_t saved = checkpoint_counter(site, "m@one");
    assert_in_range(saved, before, after);

    stasis_ok(site, "clone m@one c --paused");
    stasis_ok(site, "save c@same");
    assert_int_equal(checkpoint_counter(site, "c@same"), saved);
    stasis_ok(site, "resume c");
    guest_attach(&clone, site, "c", 0);
    assert_true(ask_number(&clone, "count", 10, "count get") >= saved);
    assert_int_equal(field(&clone, "running", 10), 1);
    while (ask_number(&clone, "count", 10, "count get") <= after)
        continue;
    guest_detach(&clone);

    stasis_ok(site, "restore m@one --discard --paused");
    stasis_ok(site, "save m@again");
    assert_int_equal(checkpoint_counter(site, "m@again"), saved);
    stasis_ok(site, "resume m");
    assert_true(ask_number(&guest, "count", 10, "count stop") >= saved);
    guest_detach(&guest);
}

/* A page that were copied while the guest wrote would be newer than the rest. */
static void a_save_under_load_is_of_one_instant(void **state)
{
    struct site *site = *state;
    struct guest guest, clone;
    uint64_t last = 0;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "churn start %d 2000 997", FREE_PAGE);
    for (unsigned i = 0; i < 5; i++) {
        while (ask_number(&guest, "written", 10, "churn check") < last + 10000)
            continue;
        last = field(&guest, "written", 10);
        stasis_ok(site, "save m@s%u", i);
        ask_ok(&guest, "churn check");
    }
    for (unsigned i = 0; i < 5; i++) {
        stasis_ok(site, "clone m@s%u c%u", i, i);
        char name[16];
        snprintf(name, sizeof(name), "c%u", i);
        guest_attach(&clone, site, name, 0);
        ask_ok(&clone, "churn check");
        assert_int_equal(field(&clone, "running", 10), 1);
        ask_ok(&clone, "churn stop");
        guest_detach(&clone);
        stasis_ok(site, "kill %s", name);
        stasis_ok(site, "restore m@s%u --discard", 4 - i);
        ask_ok(&guest, "churn check");
    }
    guest_detach(&guest);
}

/* The saves must come while the loop runs: how long they take is not ours. */
static unsigned save_while_registers_loop(struct site *site, struct guest *guest)
{
    uint64_t turns = 300 * 1000 * 1000;
    char line[512];

    for (unsigned attempt = 0; attempt < 5; attempt++, turns *= 4) {
        char command[64];

        snprintf(command, sizeof(command), "regs %llu\n", (unsigned long long)turns);
        guest_type(guest, command);
        for (unsigned i = 0; i < 5; i++)
            stasis_ok(site, "save m@r%u.%u", attempt, i);
        if (!guest_has_said(guest))
            return attempt;
        assert_true(guest_line(guest, line, sizeof(line)));
        assert_string_equal(line, "ok");
    }
    fail_msg("five saves take longer than %llu turns", (unsigned long long)turns / 4);
    return 0;
}

/* Registers and FPU state have no other copy. */
static void registers_hold_over_save_and_restore(void **state)
{
    struct site *site = *state;
    struct guest guest, clone;
    char line[512];

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "fpu 0x123456789ab");
    unsigned attempt = save_while_registers_loop(site, &guest);
    stasis_ok(site, "restore m@r%u.3 --discard", attempt);
    stasis_ok(site, "clone m@r%u.1 c", attempt);
    guest_attach(&clone, site, "c", 0);
    assert_true(guest_line(&clone, line, sizeof(line)));
    assert_string_equal(line, "ok");
    ask_ok(&clone, "fpucheck");
    assert_true(guest_line(&guest, line, sizeof(line)));
    assert_string_equal(line, "ok");
    ask_ok(&guest, "fpucheck");
    guest_detach(&clone);
    guest_detach(&guest);
}

static void check_restored(struct guest *guest, unsigned number)
{
    stasis_ok(guest->site, "restore m@n%u --discard", number);
    assert_int_equal(ask_number(guest, "value", 16, "read %u", FREE_PAGE + number), number + 1);
    assert_int_equal(ask_number(guest, "value", 16, "read %u", FREE_PAGE + number + 1), 0);
    assert_int_equal(ask_number(guest, "sum", 16, "blk sum %u 1", number),
                     expected_disk_sum(number, 1, 1000 + number));
    assert_int_equal(ask_number(guest, "sum", 16, "blk sum %u 1", number + 1),
                     expected_disk_sum(number + 1, 1, 11));
}

static void a_long_history_restores_at_any_point(void **state)
{
    struct site *site = *state;
    struct guest guest;
    enum { DEPTH = 30 };

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    for (unsigned i = 0; i < DEPTH; i++) {
        ask_ok(&guest, "write %u %u", FREE_PAGE + i, i + 1);
        ask_ok(&guest, "blk write %u 1 %u", i, 1000 + i);
        stasis_ok(site, "save m@n%u", i);
    }
    check_restored(&guest, 0);
    check_restored(&guest, DEPTH / 2);
    check_restored(&guest, DEPTH - 1);
    check_restored(&guest, 1);
    guest_detach(&guest);
    stasis_ok(site, "kill m");
    stasis_ok(site, "restore m@n0 --discard");
    guest_attach(&guest, site, "m", 1);
    check_restored(&guest, DEPTH - 1);
    guest_detach(&guest);
    stasis_ok(site, "verify");
}

/* What changed and changed back between two checkpoints, by ways that miss the
 * dirty log if it is read or kept wrongly. */
static void restore_to_another_branch_puts_every_byte_back(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_fill(&guest, 1);
    struct look one = guest_look(&guest);
    stasis_ok(site, "save m@one");
    ask_ok(&guest, "dirty 100 3 99");
    ask_ok(&guest, "blk write 0 9 9");
    struct look two = guest_look(&guest);
    stasis_ok(site, "save m@two");
    stasis_ok(site, "restore m@one --discard");
    ask_ok(&guest, "dirty 50 5 98");
    ask_ok(&guest, "blk read 16 800 1000"); /* the device writes these pages */
    struct look three = guest_look(&guest);
    stasis_ok(site, "save m@three");
    stasis_ok(site, "restore m@two --discard");
    struct look after = guest_look(&guest);
    assert_same_look(&two, &after);
    stasis_ok(site, "restore m@three --discard");
    after = guest_look(&guest);
    assert_same_look(&three, &after);
    stasis_ok(site, "save m@three2");
    stasis_ok(site, "restore m@one --discard");
    after = guest_look(&guest);
    assert_same_look(&one, &after);
    guest_detach(&guest);
    stasis_ok(site, "clone m@three2 c");
    after = look_at(site, "c", 1);
    assert_same_look(&three, &after);
}

/* Old checkpoints go and their space with them, while new ones come. */
static void machines_are_saved_while_garbage_is_collected(void **state)
{
    enum { ROUNDS = 10 };
    struct site *site = *state;
    struct guest guest;
    struct look looks[ROUNDS];

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        guest_fill(&guest, i % 3 + 1); /* what was collected comes again */
        ask_ok(&guest, "blk write %u 64 %u", i * 16, i + 1);
        looks[i] = guest_look(&guest);
        pid_t collector = stasis_begin(site, "gc --yes");
        stasis_ok(site, "save m@n%u", i);
        if (i >= 2)
            stasis_ok(site, "rm -f m@n%u", i - 2);
        assert_int_equal(stasis_end(site, collector), 0);
    }
    stasis_ok(site, "gc --yes");
    for (unsigned i = ROUNDS - 2; i < ROUNDS; i++) {
        stasis_ok(site, "restore m@n%u --discard", i);
        struct look after = guest_look(&guest);
        assert_same_look(&looks[i], &after);
    }
    guest_detach(&guest);
    stasis_ok(site, "clone m@n%u c", ROUNDS - 2);
    struct look clone = look_at(site, "c", 1);
    assert_same_look(&looks[ROUNDS - 2], &clone);
    stasis_ok(site, "verify");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(sums_are_what_was_written),
        MACHINE_TEST(goes_on_untouched_after_a_save),
        MACHINE_TEST(restore_in_place_puts_every_byte_back),
        MACHINE_TEST(restore_keeps_the_present_as_a_checkpoint),
        MACHINE_TEST(restore_of_a_stopped_machine_puts_every_byte_back),
        MACHINE_TEST(save_and_stop_then_restore_goes_on),
        MACHINE_TEST(every_clone_has_every_byte),
        MACHINE_TEST(a_clone_of_a_running_machine_is_as_it_is_now),
        MACHINE_TEST(clones_change_only_themselves),
        MACHINE_TEST(a_clone_elsewhere_has_every_byte),
        MACHINE_TEST(pulled_into_an_empty_home_it_goes_on),
        MACHINE_TEST(the_counter_goes_on_from_the_saved_value),
        MACHINE_TEST(a_save_under_load_is_of_one_instant),
        MACHINE_TEST(registers_hold_over_save_and_restore),
        MACHINE_TEST(a_long_history_restores_at_any_point),
        MACHINE_TEST(restore_to_another_branch_puts_every_byte_back),
        MACHINE_TEST(machines_are_saved_while_garbage_is_collected),
    };

    return HARNESS_RUN(tests);
}
