/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of the guest that the agent uses itself. */
#ifndef STASIS_GUEST_AGENT_PROGRAM_H
#define STASIS_GUEST_AGENT_PROGRAM_H

/* Runs argv[0], found in the usual directories, without input and output, and waits
 * for it. Its exit code; -ENOENT if there is none, -ETIMEDOUT if it was killed after
 * timeout_ms, or another negative errno. */
int program_run(const char *const *argv, int timeout_ms);

#endif
