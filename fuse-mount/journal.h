/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replaying an ext3/ext4 journal (JBD2) without writing: a checkpoint of a
 * running machine nearly always holds a file system whose newest metadata is
 * only in its journal. Layout: Linux Documentation/filesystems/ext4/journal.rst.
 */
#ifndef STASIS_FUSE_MOUNT_JOURNAL_H
#define STASIS_FUSE_MOUNT_JOURNAL_H

#include "base/error.h"
#include "fuse-mount/overlay.h"

#include <stdbool.h>
#include <stdint.h>

#define JOURNAL_MAGIC 0xc03b3998u
#define JOURNAL_BLOCKS_MAX (4u << 20) /* 16 GiB of 4 KiB blocks; mke2fs makes at most 1 GiB */

struct journal {
    const struct source *fs; /* the file system's bytes */
    uint32_t block_size;
    uint64_t fs_blocks;     /* blocks of the file system */
    const uint64_t *blocks; /* block of the file system for each one of the journal; 0: a hole */
    uint64_t count;         /* at most JOURNAL_BLOCKS_MAX */
};

struct journal_report {
    uint32_t transactions;  /* committed, replayed */
    uint64_t blocks;        /* in them, without revoked ones */
    uint64_t revoked;       /* not replayed: the block was freed later */
    uint64_t damaged;       /* not replayed: wrong checksum or block number */
    bool stopped_by_damage; /* a later transaction may exist but its checksum is wrong */
    bool fast_commits;      /* the journal has a fast-commit area, which is not replayed */
};

/*
 * Finds what the committed transactions of the journal hold. *out is sealed and
 * empty if there is nothing to replay. -EBADMSG (the journal is damaged from its
 * superblock on), -EPROTONOSUPPORT (unknown features), -EIO, -ENOMEM.
 */
int journal_replay(const struct journal *journal, struct overlay *out,
                   struct journal_report *report, struct error *err);

#endif
