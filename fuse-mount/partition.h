/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Partition tables: GPT (UEFI specification 2.10, section 5.3) and MBR with
 * extended partitions. Read by our own few lines, not by libblkid: that wants a
 * file descriptor of the whole disk, and logical partitions lie anywhere on it.
 */
#ifndef STASIS_FUSE_MOUNT_PARTITION_H
#define STASIS_FUSE_MOUNT_PARTITION_H

#include "fuse-mount/source.h"

#include <stdbool.h>
#include <stdint.h>

#define PARTITIONS_MAX 128u /* what sgdisk, sfdisk and parted make of a GPT */

enum partition_scheme {
    PARTITION_NONE, /* no table: what the disk holds starts at its first byte */
    PARTITION_MBR,
    PARTITION_GPT,
};

struct partition {
    uint32_t number; /* as Linux counts: sdaN; 0 is a whole disk without a table */
    uint64_t start;  /* bytes */
    uint64_t size_bytes;
};

struct partition_table {
    enum partition_scheme scheme;
    bool from_backup; /* the GPT at the disk's start is damaged, its copy at the end is not */
    uint32_t count;
    struct partition parts[PARTITIONS_MAX];
};

/*
 * Reads the table. Entries that do not lie inside the disk are left out. A disk
 * without a table gives one entry, number 0. Sectors are 512 bytes; a GPT is also
 * looked for with sectors of 4096. An error only if reading fails.
 */
int partition_table_read(const struct source *disk, struct partition_table *out);

/* "GPT", "MBR" or "none". */
const char *partition_scheme_name(enum partition_scheme scheme);

#endif
