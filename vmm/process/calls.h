/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls of a machine's threads, as filters of the kernel's (seccomp). */
#ifndef STASIS_VMM_PROCESS_CALLS_H
#define STASIS_VMM_PROCESS_CALLS_H

#include "vmm/process/sandbox.h"

#include <linux/filter.h>

/*
 * The filter for threads of that kind; with network, those that make sockets for
 * libslirp can. What is not allowed traps (SIGSYS). 0 or negative errno; the caller
 * frees program_out->filter.
 */
int calls_filter(enum sandbox_thread kind, bool network, struct sock_fprog *program_out);

/* From here on the calling thread, and those it starts, make no other calls; filters
 * add up. no_new_privs must be set. */
int calls_restrict(const struct sock_fprog *program);

#endif
