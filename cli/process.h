/* SPDX-License-Identifier: Apache-2.0 */
/* Machine processes that do not answer. */
#ifndef STASIS_CLI_PROCESS_H
#define STASIS_CLI_PROCESS_H

#include "base/error.h"

#include <sys/types.h>

/* The process that holds DIR/lock, as /proc/locks tells, or 0. */
pid_t process_lock_owner(const char *machine_dir);

/* Sends SIGKILL to it, after making sure that it is a machine's process. 0 also
 * when there is none any more. */
int process_kill_lock_owner(const char *machine_dir, struct error *err);

/* The pid of the FLOCK on that inode in the text of /proc/locks, or 0. For tests. */
pid_t process_find_lock(const char *locks, unsigned major, unsigned minor,
                        unsigned long long inode);

#endif
