/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine by bare KVM calls: just enough to run the probe guest. It shares no
 * code with the machine manager, so that a test of the guest tests the guest, and
 * a benchmark has something to be measured against. One vCPU, in-kernel irqchip,
 * COM1, CMOS clock, power-off; no disks. Not thread-safe but for bare_kick().
 */
#ifndef TESTS_PROBE_BARE_H
#define TESTS_PROBE_BARE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bare {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_bytes;
    uint8_t *low; /* RAM, both regions end to end */
    uint64_t memory_bytes;
    uint64_t low_bytes; /* below 3 GiB */
    uint8_t input[4096];
    unsigned input_used, input_taken;
    uint8_t uart[8];
    uint8_t cmos_index;
    /* Where the guest's output goes; NULL: kept in output. */
    void (*on_output)(uint8_t byte, void *context);
    void *context;
    char output[16384];
    unsigned output_used;
    char why[160]; /* of the last failure */
};

enum bare_stop {
    BARE_OFF,    /* the guest powered off */
    BARE_RESET,  /* or asked for a reset */
    BARE_KICKED, /* a signal or bare_kick() */
    BARE_LINE,   /* a whole line of output is there (bare_run_to_line()) */
    BARE_FAILED, /* bare.why */
};

/* Makes the machine without a kernel. 0 or a negative errno, with why set; the
 * struct must be closed in either case. */
int bare_open(struct bare *bare, uint64_t memory_bytes);
void bare_close(struct bare *bare);

/* Loads an ELF with a PVH note and sets the vCPU to its entry. */
int bare_load(struct bare *bare, const char *path, const char *cmdline);

/* Runs until something stops it. */
enum bare_stop bare_run(struct bare *bare);

/* Runs until the guest has sent a line, without its newline, in line. Needs
 * on_output == NULL. seconds bounds it: BARE_KICKED. */
enum bare_stop bare_run_to_line(struct bare *bare, char *line, size_t size, unsigned seconds);

/* Queues bytes for the guest's serial port. False if they do not fit. */
bool bare_type(struct bare *bare, const void *bytes, size_t length);

/* Ends bare_run() soon. From any thread or a signal handler. */
void bare_kick(struct bare *bare);

#endif
