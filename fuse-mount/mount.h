/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The time-travel file system: every checkpoint of a store as files, read-only.
 *
 *   MNT/images/NAME/TAG -> ../../by-id/ID       MNT/machines/M/{latest, checkpoints/NAME}
 *   MNT/by-id/ID/{manifest.json, parent, memory.raw, diskN.raw, diskN/pP.raw, diskN/pP/...}
 */
#ifndef STASIS_FUSE_MOUNT_MOUNT_H
#define STASIS_FUSE_MOUNT_MOUNT_H

#include "base/error.h"
#include "store/store.h"

#include <stdbool.h>

struct mount_options {
    bool foreground; /* serve in this process until unmounted; else a child does */
};

/* Mounts the store at the directory. In the background case it returns when the
 * mount is ready. Errors: the directory is missing, not empty or busy, no
 * /dev/fuse (STATUS_HOST_CANNOT). */
int mount_serve(const char *store_dir, const char *mountpoint, const struct mount_options *options,
                struct error *err);

/* Unmounts. -EBUSY with a hint while files in it are open; -EINVAL if it is not
 * one of ours. */
int mount_end(const char *mountpoint, struct error *err);

#endif
