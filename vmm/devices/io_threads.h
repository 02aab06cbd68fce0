/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few threads that serve the kicks of devices whose requests may wait for a disk, so
 * that neither vCPUs nor the event loop do.
 */
#ifndef STASIS_VMM_DEVICES_IO_THREADS_H
#define STASIS_VMM_DEVICES_IO_THREADS_H

#include "base/error.h"

#define IO_THREADS_MAX 4u
#define IO_THREADS_SOURCES_MAX 16u

struct io_threads;

/* Makes the pool without threads yet. */
int io_threads_create(struct io_threads **out, struct error *err);

/* From then on each write to the eventfd (borrowed, never read) has one thread call
 * serve(context), soon after; several may do so at once, and writes that come before
 * may share a call. Before io_threads_start(), not thread-safe. */
int io_threads_add(struct io_threads *t, int eventfd, void (*serve)(void *context), void *context,
                   struct error *err);

/* Starts so many threads, IO_THREADS_MAX at most; one at least, or it fails. */
int io_threads_start(struct io_threads *t, unsigned count, struct error *err);

/* Waits until no thread is left. What has been kicked and was not begun is not served
 * any more. NULL is fine, as for the next. */
void io_threads_stop(struct io_threads *t);
void io_threads_free(struct io_threads *t); /* stops them first */

#endif
