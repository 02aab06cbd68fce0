/* SPDX-License-Identifier: Apache-2.0 */
/* Symbolic links of a guest, made safe to follow on the host. */
#ifndef STASIS_FUSE_MOUNT_LINKTARGET_H
#define STASIS_FUSE_MOUNT_LINKTARGET_H

#include <stddef.h>

/*
 * Rewrites a link's target so that following it cannot leave the guest's file
 * system: absolute targets become relative to its root, ".." past the root stays
 * at the root, as in the guest. depth is how many directories lie between the
 * root and the link (0: the link is in the root). A target that needs no change
 * is copied as it is.
 *
 * ".." behind a name ("a/../b") is resolved in the text, because "a" may be a link
 * to elsewhere and what is safe is only known for ".." at the front. Where "a" is
 * such a link, the result differs from the guest's.
 *
 * The caller frees *out. -ENOMEM; -ENAMETOOLONG past PATH_MAX. Thread-safe.
 */
int linktarget_confine(const char *target, unsigned depth, char **out);

#endif
