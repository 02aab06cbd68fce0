/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens to the machines of a home, as it happens. A machine's process writes what
 * it does into events.log of its directory; this follows those files by inotify, notices
 * machines that come and go, and processes that end without having said so.
 *
 * An event is {"time", "machine", "event"} and more by kind: docs/control.md, "Events".
 * Not thread-safe.
 */
#ifndef STASIS_VMM_EVENT_STREAM_H
#define STASIS_VMM_EVENT_STREAM_H

#include "base/error.h"
#include "base/home.h"

#include <jansson.h>
#include <stdbool.h>

struct event_stream;

/* Of one machine, or (NULL) of all there are and will be. past: begins with what is
 * still known of before. home must outlive the stream. */
int event_stream_open(const struct home *home, const char *machine, bool past,
                      struct event_stream **out, struct error *err);
void event_stream_close(struct event_stream *stream);

/* The next event, a new reference. NULL when none comes for half a second or a signal
 * does, so that the caller can look around. */
int event_stream_next(struct event_stream *stream, json_t **out, struct error *err);

#endif
