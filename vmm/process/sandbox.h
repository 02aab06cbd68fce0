/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine's process gives up before it looks at anything that a guest, a
 * checkpoint or a network wrote: privileges, environment, the files that are not its
 * own, and all system calls but those its threads make.
 */
#ifndef STASIS_VMM_PROCESS_SANDBOX_H
#define STASIS_VMM_PROCESS_SANDBOX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Whose system calls. Each but the first may make fewer than the process. */
enum sandbox_thread {
    SANDBOX_PROCESS, /* the event loop, saves, the store's helpers */
    SANDBOX_VCPU,
    SANDBOX_NETWORK, /* a card's, with libslirp in it */
    SANDBOX_STREAMS, /* between host and guest, over UNIX sockets */
    SANDBOX_DISKS,
    SANDBOX_THREADS,
};

struct sandbox_settings {
    const char *store_dir; /* absolute, as the others; to be written to */
    const char *machine_dir;
    const char *runtime_dir;
    bool network;   /* libslirp will want sockets of the host */
    bool low_ports; /* some of them below 1024 */
};

/*
 * Irrevocable, and for every thread that is started from here on: call while there is
 * one. Where the host has no Landlock or no namespaces, the log says so and the process
 * does without. A system call that is not on the list ends the process, with a line in
 * its log that says which. In builds with sanitizers, which look at /proc, trace
 * themselves and write reports where they like, only privileges are dropped.
 */
int sandbox_enter(const struct sandbox_settings *settings, struct error *err);

/* To be called by a thread of that kind, first thing. Nothing happens in a process
 * that has not entered the sandbox. */
void sandbox_thread(enum sandbox_thread kind);

/* False in builds with sanitizers. */
bool sandbox_is_whole(void);

/* What this host has for it. Tries, in a child; any thread. */
struct sandbox_report {
    bool system_calls; /* seccomp */
    int landlock;      /* version; 0: none */
    bool namespaces;   /* of the machine's own */
    char reason[64];   /* why there are no namespaces */
};
void sandbox_probe(struct sandbox_report *out);

#endif
