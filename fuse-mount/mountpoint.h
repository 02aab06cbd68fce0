/* SPDX-License-Identifier: Apache-2.0 */
/* Mount points: what is mounted where, by /proc/self/mountinfo. */
#ifndef STASIS_FUSE_MOUNT_MOUNTPOINT_H
#define STASIS_FUSE_MOUNT_MOUNTPOINT_H

#include "base/error.h"

#include <stdbool.h>

struct mountpoint {
    bool mounted; /* something is mounted exactly there */
    bool ours;    /* by this room */
    unsigned device_major, device_minor;
};

/* The absolute path of a mount point that may be dead: its parent is resolved,
 * itself not touched. The caller frees *out. */
int mountpoint_resolve(const char *path, char **out, struct error *err);

/* What is at an absolute path; the topmost mount counts. Does not touch what is
 * mounted there, so that who serves it may ask. */
int mountpoint_query(const char *path, struct mountpoint *out, struct error *err);

/* Is the process that served it gone? Asks the process if it is not. */
bool mountpoint_is_dead(const char *path);

/* Is it a directory one may mount on: there, empty, nothing of ours on it? */
int mountpoint_check_free(const char *path, struct error *err);

/* Unmounts; lazily: files that are open stay open until closed. Starts
 * fusermount3 where the caller is not root. -EBUSY if busy and not lazy. */
int mountpoint_detach(const char *path, bool lazy, struct error *err);

#endif
