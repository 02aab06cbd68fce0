/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole machines under test: the real `stasis` in a home of its own, the probe
 * guest in its machines, and their consoles over the control socket.
 *
 * All of it lies below one temporary directory. A child process waits for the
 * end of the test, whatever that is, ends the machines that are left and removes
 * the directory. Functions fail the running test themselves; they wait for
 * conditions, with deadlines that a loaded host meets.
 */
#ifndef STASIS_TESTS_PROBE_MACHINE_HARNESS_H
#define STASIS_TESTS_PROBE_MACHINE_HARNESS_H

#include "base/digest.h"
#include "base/home.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#define HARNESS_SKIP 77
#define DEADLINE_MS 120000

#define MACHINE_DISKS_MAX 2
#define SECTOR_SIZE 512
#define DISK_BYTES (4u << 20)
#define DISK_SECTORS (DISK_BYTES / SECTOR_SIZE)

/* ---- the whole run ---- */

/* Runs the group, each test in a fresh home that *state points to (struct site).
 * Returns what main() shall: 77, with the reason printed, without /dev/kvm. */
int harness_run(const char *name, const struct CMUnitTest *tests, size_t count);
#define HARNESS_RUN(tests) harness_run(#tests, tests, sizeof(tests) / sizeof((tests)[0]))
#define MACHINE_TEST(test) cmocka_unit_test_setup_teardown(test, site_setup, site_teardown)
int site_setup(void **state);
int site_teardown(void **state);

/* A number that tests which strike at random begin with; printed, and taken from
 * STASIS_TEST_SEED if that is set. */
uint64_t harness_random(void);

uint64_t now_ms(void);

/* ---- a home ---- */

struct site {
    char *dir;  /* for the test's own files */
    char *root; /* --home */
    struct home home;
    int code;          /* of the last command */
    char *out, *err;   /* what it printed */
    const char *input; /* files for the next command, or NULL */
    const char *output;
};

/* Another home beside that of the test. The caller closes it. */
struct site *site_open(const char *label);
void site_close(struct site *site);

/* Runs stasis with these words (split at spaces) and --home; returns its exit
 * code. Output is in site->out and site->err. */
int stasis(struct site *site, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same, must succeed. */
void stasis_ok(struct site *site, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Must fail with that code, and say all of that on its error output. */
void stasis_fails(struct site *site, int code, const char *says, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Must succeed and print JSON: a new reference. */
json_t *stasis_json(struct site *site, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Starts it and does not wait. */
pid_t stasis_begin(struct site *site, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Waits for it; its exit code, or -signal. */
int stasis_end(struct site *site, pid_t pid);

/* DIR/NAME; the caller frees. */
char *site_path(const struct site *site, const char *name);

/* A raw disk whose sectors hold the words of seed; 0: all zero. The caller frees
 * its path. */
char *site_disk(struct site *site, const char *name, uint64_t seed);

/* Of the machine's process; 0 if it does not run. */
pid_t machine_pid(struct site *site, const char *name);
/* Waits until no process of the machine is left. */
void machine_gone(struct site *site, const char *name);
/* SIGKILL, and until it is gone. */
void machine_kill9(struct site *site, const char *name);

/* Starts the machine's process once more, as `resume` would if it did not look
 * first; its exit code. */
int second_process(struct site *site, const char *name);

/* ---- a machine with the probe guest in it ---- */

struct guest {
    struct site *site;
    char name[MACHINE_NAME_MAX + 1];
    int fd; /* console; -1: not open */
    char *buf;
    size_t used, capacity;
    char reply[512];
    unsigned disks;
};

/* `run`: boots the probe with so many disks (seeds 11, 12) and waits for its
 * banner; then tells it to sleep between commands. */
void guest_boot(struct guest *guest, struct site *site, const char *name, unsigned memory_mib,
                unsigned disks);
/* A machine that runs already: opens its console at its present end. */
void guest_attach(struct guest *guest, struct site *site, const char *name, unsigned disks);
void guest_detach(struct guest *guest);

/* Waits for the guest's banner after a boot of its own. */
void guest_wait_banner(struct guest *guest);
/* Attaches to a machine and waits for banner number `boots` of its log. */
void guest_wait_boot(struct guest *guest, struct site *site, const char *name, unsigned disks,
                     unsigned boots);
/* `resume` of a stopped machine: boots it again from its disks. */
void guest_boot_again(struct guest *guest, struct site *site, const char *name, unsigned disks);

/* Sends a command and returns its reply, valid until the next; lines that begin
 * with "tick" or the banner are passed over. */
const char *ask(struct guest *guest, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same; must be "ok" or begin with "ok ". */
const char *ask_ok(struct guest *guest, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Of the last reply: NAME=VALUE. */
uint64_t field(const struct guest *guest, const char *name, int base);
/* ask_ok() and field(). */
uint64_t ask_number(struct guest *guest, const char *name, int base, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Types bytes; reads the next line, whatever it is (false at the end, with 0 or
 * a deadline missed: the test fails). */
void guest_type(struct guest *guest, const char *bytes);
bool guest_line(struct guest *guest, char *line, size_t size);
/* Is there anything that guest_line() has not given yet? Does not wait. */
bool guest_has_said(const struct guest *guest);

/* All that a checkpoint must hold: sums of memory and disks by the guest. */
struct look {
    uint64_t memory;
    uint64_t disk[MACHINE_DISKS_MAX];
};
struct look guest_look(struct guest *guest);
void assert_same_look(const struct look *a, const struct look *b);

/* Fills all free memory; the sum of it is then known beforehand. */
void guest_fill(struct guest *guest, uint64_t seed);
/* What `sum 512 COUNT` and `blk sum 0 COUNT` answer after a fill. */
uint64_t expected_fill_sum(unsigned memory_mib, uint64_t seed);
uint64_t expected_disk_sum(uint64_t lba, uint64_t count, uint64_t seed);
/* The same of sectors of zeros. */
uint64_t expected_zero_sum(uint64_t lba, uint64_t count);

/* Looks at machine `name` through a console of its own. */
struct look look_at(struct site *site, const char *name, unsigned disks);

/* ---- checkpoints, from outside ---- */

/* The id a reference stands for. */
struct digest checkpoint_id(struct site *site, const char *reference);
/* Reads from its memory; addresses below 3 GiB. */
void checkpoint_memory(struct site *site, const char *reference, uint64_t gpa, void *buf,
                       size_t length);
/* The guest's counter in it. */
uint64_t checkpoint_counter(struct site *site, const char *reference);
/* Makes another checkpoint of the machine, with a manifest that was changed. */
struct manifest;
void checkpoint_change(struct site *site, const char *reference, const char *machine,
                       const char *name, void (*change)(struct manifest *m));
/* Its device state; the caller frees. */
void *checkpoint_state(struct site *site, const char *reference, size_t *length_out);

#endif
