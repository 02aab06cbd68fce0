/* SPDX-License-Identifier: Apache-2.0 */
/* Machine processes that do not answer. */
#ifndef STASIS_CLI_PROCESS_H
#define STASIS_CLI_PROCESS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Sends SIGKILL to the process that wrote its number into DIR/lock, after making
 * sure that it is a machine's process. 0 also when there is none any more. */
int process_kill_machine(const char *machine_dir, struct error *err);

/* Are these the arguments of a machine's process, as /proc/PID/cmdline has them
 * (NUL-terminated, end to end)? For tests. */
bool process_is_machine(const char *cmdline, size_t length);

#endif
