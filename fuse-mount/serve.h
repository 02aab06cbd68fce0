/* SPDX-License-Identifier: Apache-2.0 */
/* The tree as FUSE operations (libfuse 3, low-level, several threads). */
#ifndef STASIS_FUSE_MOUNT_SERVE_H
#define STASIS_FUSE_MOUNT_SERVE_H

#include "base/error.h"
#include "fuse-mount/tree.h"

struct fuse_session;

struct serve {
    struct tree *tree;            /* set before serve_loop() */
    void (*ready)(void *context); /* called once, when the kernel talks to us */
    void *context;
};

/* Makes a session that is not mounted yet. serve must outlive it. NULL: failed,
 * err says why. */
struct fuse_session *serve_session_new(struct serve *serve, struct error *err);

/* Answers requests until unmounted, or until SIGINT, SIGTERM or SIGHUP. */
int serve_loop(struct fuse_session *session, struct error *err);

#endif
