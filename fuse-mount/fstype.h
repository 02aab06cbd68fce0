/* SPDX-License-Identifier: Apache-2.0 */
/* What is on a partition, by libblkid's knowledge of some sixty formats. */
#ifndef STASIS_FUSE_MOUNT_FSTYPE_H
#define STASIS_FUSE_MOUNT_FSTYPE_H

#include "fuse-mount/source.h"

struct fstype {
    char name[32]; /* "vfat", "xfs", "LVM2_member", ... */
    char label[64];
};

/*
 * 1 and *out if libblkid knows it, 0 if not, negative errno. libblkid reads from
 * a file descriptor: it gets a memory file of the partition's size that holds its
 * first 2 MiB and last 1 MiB, which is where formats keep what tells them apart.
 * Texts in *out are printable. Thread-safe.
 */
int fstype_probe(const struct source *src, struct fstype *out);

#endif
