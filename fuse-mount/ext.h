/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ext2, ext3 or ext4 file system of a guest, read-only, by libext2fs over our
 * own io_manager. A journal that needs recovery is replayed into an overlay
 * (journal.h).
 *
 * The guest is hostile. libext2fs checks what it reads; on top of it: each call
 * may read a bounded number of blocks (a tree that leads round in a circle ends
 * as -EUCLEAN), a directory is only entered from the parent its ".." names (so
 * directories form a tree), names with '/' are left out.
 *
 * All functions are thread-safe; metadata is read under one lock for each file
 * system, file data outside it. Errors: -EIO the store cannot give the bytes,
 * -EUCLEAN the guest's structures are damaged, -ENOMEM.
 */
#ifndef STASIS_FUSE_MOUNT_EXT_H
#define STASIS_FUSE_MOUNT_EXT_H

#include "base/error.h"
#include "fuse-mount/journal.h"
#include "fuse-mount/listing.h"
#include "fuse-mount/source.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define EXT_ROOT_INODE 2u

struct ext;

/* Is there an ext superblock? Reads 2 KiB. */
bool ext_is_present(const struct source *src);

/* Opens the file system; the source's context must outlive it. */
int ext_open(const struct source *src, struct ext **out, struct error *err);
void ext_close(struct ext *fs);

/* "ext2", "ext3" or "ext4", by its features, as mount(8) would take it. */
const char *ext_type(const struct ext *fs);
/* Its label; empty if it has none. At most 16 bytes. */
const char *ext_label(const struct ext *fs);
/* What was done about its journal; NULL if nothing needed doing. */
const struct journal_report *ext_journal_report(const struct ext *fs);

/* As stat(2) in the guest; st_ino is the guest's, st_dev 0. -ENOENT for an inode
 * that is not in use. */
int ext_stat(struct ext *fs, uint32_t inode, struct stat *out);

/* Finds a name. -ENOENT, -ENOTDIR. "." and ".." are not found. */
int ext_lookup(struct ext *fs, uint32_t directory, const char *name, uint32_t *inode_out);

/* Is this directory's ".." that parent, and it not the root? 0 or -EUCLEAN. */
int ext_check_parent(struct ext *fs, uint32_t directory, uint32_t parent);

/* Lists a directory without "." and "..". Modes are 0 where the directory does
 * not tell types. -ENOTDIR. */
int ext_list(struct ext *fs, uint32_t directory, struct listing *out);

/* A symlink's target as in the guest; the caller frees *out. -EINVAL if it is none. */
int ext_readlink(struct ext *fs, uint32_t inode, char **out);

/* ---- file content ---- */

struct ext_file;

/* Opens a regular file. -EISDIR, -EINVAL for others; -ENOKEY if it is encrypted.
 * fs must outlive it. */
int ext_file_open(struct ext *fs, uint32_t inode, struct ext_file **out);
void ext_file_close(struct ext_file *file);
uint64_t ext_file_size(const struct ext_file *file);
/* Reads at most length bytes; *done_out is less only at the end of the file. */
int ext_file_read(struct ext_file *file, uint64_t offset, void *buf, size_t length,
                  size_t *done_out);

#endif
