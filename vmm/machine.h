/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines from the outside: starting a machine's process, and whether it runs.
 * A machine's directory holds
 *
 *   lock          locked by the machine's process as long as it lives; holds its pid
 *   starting      locked by whoever is starting it just now
 *   start.json    what to start from (struct machine_start)
 *   net.json      how its network cards are connected (vmm/net/settings.h)
 *   events.log    what happened to it (vmm/event_stream.h)
 *   console.log   what the serial port printed
 *   machine.log   what the process has to say
 *   diskN.K       overlays: what disk N holds beyond its map (see vmm/devices/disk.h)
 */
#ifndef STASIS_VMM_MACHINE_H
#define STASIS_VMM_MACHINE_H

#include "base/digest.h"
#include "base/error.h"
#include "base/home.h"
#include "vmm/net/settings.h"

#include <stdbool.h>

enum machine_clock {
    MACHINE_CLOCK_CONTINUE, /* guest time goes on from where it stopped */
    MACHINE_CLOCK_HOST,     /* the wall clock steps to now */
};

struct machine_start {
    struct digest checkpoint; /* a warm one resumes, a cold one boots */
    bool keep_overlays;       /* go on with the disks' overlays (after a stop or crash) */
    bool boot;                /* boot although the checkpoint is warm: its disks only */
    bool paused;              /* do not run yet */
    bool offline;             /* this time its network cards have no link */
    enum machine_clock clock;
    /* How the cards are connected from now on; NULL: as before. Not in start.json. */
    const struct net_settings *net;
};

/*
 * Starts the machine's process (this executable again, with the hidden verb
 * "machine-process") and waits until it runs or has said why it cannot. The
 * machine is in the catalogue. -EBUSY if it runs already.
 */
int machine_spawn(const struct home *home, const char *name, const struct machine_start *start,
                  struct error *err);

/* Takes the machine's lock, which lasts until fd and its copies are closed. fd is
 * the lock file, open for writing. -EAGAIN if a machine process has it. */
int machine_lock_take(int fd);

/* Is there a living process? Looks at the lock without taking it. */
bool machine_is_running(const struct home *home, const char *name);

/* Waits until the machine's process has ended; -ETIMEDOUT. timeout_ms < 0: for
 * ever. */
int machine_wait(const struct home *home, const char *name, int timeout_ms);

/* The body of the hidden verb: becomes the machine. ready_fd: where to report.
 * Returns the process's exit code. */
int machine_process_main(const char *home_root, const char *name, int ready_fd);

#endif
