/* SPDX-License-Identifier: Apache-2.0 */
/* Diagnostics of a machine process: one line each on standard error, which is
 * the machine's log file. Library rooms report failures by return values and
 * `struct error`; this is for events nobody is waiting for. */
#ifndef STASIS_BASE_LOG_H
#define STASIS_BASE_LOG_H

/* "2026-01-31T12:34:56.123456Z TEXT\n" in one write(2). Thread-safe. */
void log_event(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
