/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files, directories and symbolic links over a channel, for `cp` in both
 * directions: whichever end sends, the other one receives with the same code.
 *
 * Whoever receives trusts nothing: entries come as single names below a
 * directory that is open, no link is followed, and a directory is entered only if
 * it is one. So nothing is written outside the destination.
 */
#ifndef STASIS_AGENT_TREE_H
#define STASIS_AGENT_TREE_H

#include "agent/channel.h"

#include <sys/types.h>

#define TREE_DEPTH_MAX 256u /* directories below one another: each is a descriptor */

struct tree_options {
    mode_t mode_mask; /* what of a file's mode is taken over: 07777, or 0777 */
    /* May be NULL. Non-zero: stop. total_bytes is 0 where it is not known. */
    int (*progress)(uint64_t done_bytes, uint64_t total_bytes, void *context);
    /* May be NULL. One line about something that was left out. */
    void (*warn)(const char *text, void *context);
    void *context;
    /* For whoever receives: the path that the other end was asked for. What comes must have
     * its name, because a hostile end could choose one: ".ssh", where the destination is a
     * home. NULL: any. */
    const char *asked;
};

/* The name that goes with what is at path: its last component, or "." if that has none of
 * its own, and it is the content that is sent. The caller frees; NULL: out of memory. */
char *tree_name(const char *path);

/*
 * Sends the file or directory at path; a symbolic link at path itself is followed,
 * those below are sent as links. Of a path that ends in "/." the content is sent
 * and no name. What cannot be read, and what is neither file, directory nor link, is
 * left out with a warning. Errors of the other end arrive in err.
 */
int tree_send(struct channel *ch, const char *path, const struct tree_options *options,
              struct error *err);

/*
 * Receives what tree_send() sends, to path: into it under the name that was sent if
 * it is a directory, else it is the new name. A file appears when it is whole, in
 * place of what was there, whose owner it keeps. Directories that are there are kept
 * and filled.
 */
int tree_receive(struct channel *ch, const char *path, const struct tree_options *options,
                 struct error *err);

/* What a failed channel means for whoever reads it: the other end has gone, does
 * not answer, or talks nonsense. Returns r. */
int tree_channel_error(int r, struct error *err);

/* The error that an AGENT_ERROR frame tells. Negative. */
int tree_peer_error(const struct frame *frame, struct error *err);

#endif
