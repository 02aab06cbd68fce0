/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The time-travel file system: every checkpoint of a store as files, read-only.
 *
 *   MNT/images/NAME/TAG -> ../../by-id/ID       (NAME may have folders of its own)
 *   MNT/machines/M/latest -> ../../by-id/ID     (the newest)
 *   MNT/machines/M/checkpoints/NAME -> ../../../by-id/ID   (those without a name: 12 digits)
 *   MNT/by-id/ID/manifest.json, parent, memory.raw, kernel, initrd, diskN.raw
 *   MNT/by-id/ID/diskN/pP.raw    a partition; P as Linux counts, 0 for a disk without a table
 *   MNT/by-id/ID/diskN/pP.note   what is on it, whether its journal was replayed
 *   MNT/by-id/ID/diskN/pP/       its files, where it holds ext2, ext3 or ext4
 *   MNT/by-id/PREFIX -> ID       looked up from 8 digits on, never listed
 *
 * Links of guests are confined to their partition (linktarget.h). What is below
 * by-id/ID is cached by the kernel for a day, since it cannot change.
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
