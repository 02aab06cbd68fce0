/* SPDX-License-Identifier: Apache-2.0 */
/* File systems and disks made by the real tools, in a folder of their own. */
#ifndef STASIS_TESTS_FUSE_MOUNT_FIXTURE_H
#define STASIS_TESTS_FUSE_MOUNT_FIXTURE_H

#include "fuse-mount/ext.h"
#include "fuse-mount/source.h"

#include <stdbool.h>

struct fixture {
    char dir[64];
    int fd; /* of the image that is open, or -1 */
};

/* cmocka set-up and tear-down: *state is a struct fixture. */
int fixture_setup(void **state);
int fixture_teardown(void **state);

/* Runs a shell command in the fixture's folder and fails the test if it fails. */
void fixture_run(struct fixture *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same, but returns whether it succeeded. */
bool fixture_try(struct fixture *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Opens a file of the folder as a source; the one before is closed. */
struct source fixture_source(struct fixture *f, const char *name);

/* Makes the folder "tree": files small, empty, large and sparse, links, nested
 * folders, one of so many files, odd names. */
void fixture_make_tree(struct fixture *f, unsigned files);

/* Compares a directory of the file system with a folder of the host, deeply:
 * names, modes, owners, sizes, times, link targets, content. */
void fixture_compare(struct ext *fs, uint32_t inode, const char *path);

#endif
