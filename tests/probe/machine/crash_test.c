/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes die at any moment: the store verifies, and every checkpoint that was
 * there, or says it is, restores bit for bit.
 */
#include "harness.h"

#include "guest/probe/pattern.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

enum { MEMORY_MIB = 24, ROUNDS_MAX = 15, ROUNDS_MIN = 3, BUDGET_MS = 60000 };

struct chronicle {
    struct site *site;
    struct guest guest;
    uint64_t random;
    uint64_t save_us; /* what a save takes that nobody disturbs */
    unsigned rounds;
    uint64_t until_ms;
    struct look looks[ROUNDS_MAX + 1];
    bool there[ROUNDS_MAX + 1]; /* checkpoint rN exists */
};

static uint64_t next_random(struct chronicle *c, uint64_t below)
{
    c->random = probe_mix(c->random + 1);
    return c->random % below;
}

/* The moment of the accident; not a wait for something. */
static void pass_time(uint64_t us)
{
    struct timespec left = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000) * 1000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        continue;
}

static void kill_hard(pid_t pid)
{
    assert_true(pid > 1);
    kill(pid, SIGKILL);
}

/* New content everywhere, as a save of it would have to keep. */
static void change(struct chronicle *c, unsigned round)
{
    ask_ok(&c->guest, "idle on");
    guest_fill(&c->guest, 100 + round);
    ask_ok(&c->guest, "blk use 0");
    ask_ok(&c->guest, "blk write %u 2000 %u", round, 1000 + round);
    c->looks[round] = guest_look(&c->guest);
}

static uint64_t micros(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void begin_chronicle(struct chronicle *c, struct site *site)
{
    *c = (struct chronicle){.site = site, .random = harness_random()};
    guest_boot(&c->guest, site, "m", MEMORY_MIB, 1);
    change(c, 0);
    uint64_t before = micros();
    stasis_ok(site, "save m@r0");
    c->save_us = micros() - before;
    c->there[0] = true;
    c->rounds = 1;
    c->until_ms = now_ms() + BUDGET_MS / 3;
}

static bool goes_on(const struct chronicle *c)
{
    return c->rounds <= ROUNDS_MIN || (c->rounds <= ROUNDS_MAX && now_ms() < c->until_ms);
}

static bool exists(struct site *site, unsigned round)
{
    int code = stasis(site, "inspect m@r%u", round);

    if (code != 0 && code != STATUS_NOT_FOUND)
        fail_msg("checkpoint r%u: %s", round, site->err);
    return code == 0;
}

/* Brings the machine back to some checkpoint that is there. */
static void bring_back(struct chronicle *c)
{
    unsigned to = (unsigned)next_random(c, c->rounds);

    while (!c->there[to])
        to = to == 0 ? c->rounds : to - 1;
    guest_detach(&c->guest);
    stasis_ok(c->site, "restore m@r%u --discard", to);
    guest_attach(&c->guest, c->site, "m", 1);
    struct look look = guest_look(&c->guest);
    assert_same_look(&c->looks[to], &look);
}

static void check_every_checkpoint(struct chronicle *c)
{
    unsigned there = 0;

    stasis_ok(c->site, "verify");
    for (unsigned i = 0; i < c->rounds; i++) {
        assert_int_equal(exists(c->site, i), c->there[i]);
        if (!c->there[i])
            continue;
        there++;
        stasis_ok(c->site, "clone m@r%u c%u", i, i);
        char name[16];
        snprintf(name, sizeof(name), "c%u", i);
        struct look look = look_at(c->site, name, 1);
        assert_same_look(&c->looks[i], &look);
        stasis_ok(c->site, "rm -f %s", name);
    }
    print_message("%u rounds, %u of the saves were whole\n", c->rounds, there);
    guest_detach(&c->guest);
}

/* The machine's process is the one that stores: it dies within the save. */
static void killed_while_it_saves(void **state)
{
    struct chronicle *c = calloc(1, sizeof(*c));

    assert_non_null(c);
    begin_chronicle(c, *state);
    for (; goes_on(c); c->rounds++) {
        unsigned round = c->rounds;
        change(c, round);
        pid_t pid = machine_pid(c->site, "m");
        pid_t saving = stasis_begin(c->site, "save m@r%u", round);
        pass_time(next_random(c, c->save_us * 5 / 4 + 1));
        kill_hard(pid);
        int code = stasis_end(c->site, saving);
        machine_gone(c->site, "m");
        stasis_ok(c->site, "verify");
        c->there[round] = exists(c->site, round);
        if (code == 0)
            assert_true(c->there[round]);
        bring_back(c);
    }
    check_every_checkpoint(c);
    free(c);
}

/* The command that asked dies: the machine does not mind. */
static void the_save_command_is_killed(void **state)
{
    struct chronicle *c = calloc(1, sizeof(*c));

    assert_non_null(c);
    begin_chronicle(c, *state);
    for (; goes_on(c); c->rounds++) {
        unsigned round = c->rounds;
        change(c, round);
        pid_t saving = stasis_begin(c->site, "save m@r%u", round);
        pass_time(next_random(c, c->save_us * 5 / 4 + 1));
        kill(saving, SIGKILL);
        stasis_end(c->site, saving);
        struct look look = guest_look(&c->guest);
        assert_same_look(&c->looks[round], &look);
        /* What was asked for may still be under way; the next save waits for it. */
        while (stasis(c->site, "save m@after%u", round) == STATUS_BUSY)
            continue;
        assert_int_equal(c->site->code, 0);
        c->there[round] = exists(c->site, round);
        stasis_ok(c->site, "clone m@after%u a", round);
        look = look_at(c->site, "a", 1);
        assert_same_look(&c->looks[round], &look);
        stasis_ok(c->site, "rm -f a");
    }
    check_every_checkpoint(c);
    free(c);
}

/* Within starts and restores in place: the machine is what it was, or what it was
 * to become; never a mixture. */
static void killed_while_it_is_restored(void **state)
{
    struct chronicle *c = calloc(1, sizeof(*c));

    assert_non_null(c);
    begin_chronicle(c, *state);
    change(c, 1);
    stasis_ok(c->site, "save m@r1");
    c->there[1] = true;
    c->rounds = 2;
    for (unsigned i = 0; i < ROUNDS_MAX && (i < ROUNDS_MIN || now_ms() < c->until_ms); i++) {
        unsigned to = i % 2;
        pid_t pid = machine_pid(c->site, "m");
        pid_t restoring = stasis_begin(c->site, "restore m@r%u --discard", to);
        pass_time(next_random(c, c->save_us));
        kill_hard(pid);
        stasis_end(c->site, restoring);
        stasis_ok(c->site, "kill m");
        guest_detach(&c->guest);
        guest_boot_again(&c->guest, c->site, "m", 1);
        uint64_t disk = guest_look(&c->guest).disk[0];
        assert_true(disk == c->looks[0].disk[0] || disk == c->looks[1].disk[0]);
        stasis_ok(c->site, "restore m@r%u --discard", 1 - to);
        struct look look = guest_look(&c->guest);
        assert_same_look(&c->looks[1 - to], &look);
    }
    check_every_checkpoint(c);
    free(c);
}

/* Two writers of one store, one of which dies: the other's pages are all there. */
static void another_machine_saves_meanwhile(void **state)
{
    struct site *site = *state;
    struct chronicle *c = calloc(1, sizeof(*c));
    struct guest other;

    assert_non_null(c);
    begin_chronicle(c, site);
    stasis_ok(site, "clone m@r0 other");
    guest_attach(&other, site, "other", 1);
    for (unsigned i = 0; i < ROUNDS_MIN; i++) {
        change(c, c->rounds);
        guest_fill(&other, 100 + c->rounds); /* the same pages, at the same time */
        struct look before = guest_look(&other);
        pid_t victim = stasis_begin(site, "save m@r%u", c->rounds);
        pid_t bystander = stasis_begin(site, "save other@s%u", i);
        pass_time(next_random(c, c->save_us));
        kill_hard(machine_pid(site, "m"));
        stasis_end(site, victim);
        assert_int_equal(stasis_end(site, bystander), 0);
        machine_gone(site, "m");
        stasis_ok(site, "verify");
        c->there[c->rounds] = exists(site, c->rounds);
        stasis_ok(site, "clone other@s%u o", i);
        struct look after = look_at(site, "o", 1);
        assert_same_look(&before, &after);
        stasis_ok(site, "rm -f o");
        c->rounds++;
        bring_back(c);
    }
    guest_detach(&other);
    check_every_checkpoint(c);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(killed_while_it_saves),
        MACHINE_TEST(the_save_command_is_killed),
        MACHINE_TEST(killed_while_it_is_restored),
        MACHINE_TEST(another_machine_saves_meanwhile),
    };

    return HARNESS_RUN(tests);
}
