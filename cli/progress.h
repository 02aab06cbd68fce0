/* SPDX-License-Identifier: Apache-2.0 */
/* How far long work has come: one line on standard error that rewrites itself,
 * on a terminal only and only for work of more than a second. */
#ifndef STASIS_CLI_PROGRESS_H
#define STASIS_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what; /* "importing disk0"; borrowed */
    uint64_t total;   /* bytes; 0 if not known */
    uint64_t started_ns;
    uint64_t shown_ns; /* 0 before the first line */
    bool terminal;
};

/* Also makes Ctrl-C a request to cancel (interrupt.h). */
void progress_begin(struct progress *p, const char *what, uint64_t total);
/* Removes the line. */
void progress_end(struct progress *p);

/* Says that done bytes are done. Non-zero when the work shall stop. */
int progress_step(struct progress *p, uint64_t done);

/* For use as callbacks of the rooms below; context is a struct progress. */
int progress_bytes(uint64_t done_bytes, void *context);
int progress_pages(uint64_t done_pages, void *context);
int progress_bytes_of(uint64_t done_bytes, uint64_t total_bytes, void *context);
int progress_what(const char *what, uint64_t done_bytes, uint64_t total_bytes, void *context);

/* The line itself, without control characters, for tests: "importing disk0
 * 1.0 GiB of 4.0 GiB, 25%, 512 MiB/s, 6s left". Returns out. */
char *progress_format(const char *what, uint64_t done, uint64_t total, uint64_t elapsed_ns,
                      char out[160]);

#endif
