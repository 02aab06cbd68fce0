/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes, durable files, directories. All return 0 or a
 * negative errno and retry EINTR; all are thread-safe. */
#ifndef STASIS_BASE_IO_H
#define STASIS_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads exactly length bytes; -ENODATA if the stream or file ends before. */
int io_read_full(int fd, void *buf, size_t length);
int io_pread_full(int fd, void *buf, size_t length, uint64_t offset);
int io_write_full(int fd, const void *buf, size_t length);
int io_pwrite_full(int fd, const void *buf, size_t length, uint64_t offset);

/* Reads a whole file of at most max bytes into a fresh buffer with a NUL byte
 * behind it (not counted in *length_out). The caller frees *buf_out.
 * -EFBIG if it is larger than max. dirfd as in openat(2). */
int io_read_file(int dirfd, const char *path, size_t max, char **buf_out, size_t *length_out);

/* Replaces path by a file with this content, atomically and durably: temporary
 * file, write, fsync, rename, fsync of the directory. */
int io_write_file(int dirfd, const char *path, const void *buf, size_t length, mode_t mode);

/* fsync of a directory, so that renames and unlinks in it are durable. */
int io_sync_dir(int dirfd);

/* mkdir -p; directories that exist are fine. Those it makes are durable. */
int io_make_dirs(const char *path, mode_t mode);

/* rm -rf of path itself and all below it; a missing path is fine. Does not
 * follow symlinks. */
int io_remove_tree(const char *path);

/* asprintf() that aborts when memory is out: for paths and short texts. The
 * caller frees the result. */
char *io_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
