/* SPDX-License-Identifier: Apache-2.0 */
/* What the process that parses guests' disks gives up before it begins. */
#ifndef STASIS_FUSE_MOUNT_SANDBOX_H
#define STASIS_FUSE_MOUNT_SANDBOX_H

#include "base/error.h"

/*
 * From here on the process and its threads gain no privileges (no_new_privs),
 * hold no capabilities but those to read the store's files, start no programs,
 * open no sockets, trace nobody and mount nothing (seccomp), and, where the
 * kernel has Landlock, open no files outside the store's directory. Cannot be
 * undone. Call before threads exist. An error only if no_new_privs or seccomp
 * fail; a kernel without Landlock does with less.
 */
int mount_sandbox_enter(const char *store_dir, struct error *err);

#endif
