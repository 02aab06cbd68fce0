/* SPDX-License-Identifier: Apache-2.0 */
/* The files by which a machine's process is told how to start, shows that it lives
 * and tells how it ended: start.json, lock and end.json in the machine's directory. */
#ifndef STASIS_VMM_MACHINE_START_H
#define STASIS_VMM_MACHINE_START_H

#include "vmm/machine.h"

int machine_start_write(const char *machine_dir, const struct machine_start *start,
                        struct error *err);
int machine_start_read(const char *machine_dir, struct machine_start *out, struct error *err);

/* Removes what machine_end_write() wrote. */
void machine_end_forget(const char *machine_dir);

/* Best effort: reason is one of "power-off", "killed", "saved", "error", ... */
void machine_end_write(const char *machine_dir, const char *reason, const char *message);

#endif
