/* SPDX-License-Identifier: Apache-2.0 */
/* Copying files out of checkpoints, for `cp`. */
#ifndef STASIS_CLI_UNPACK_H
#define STASIS_CLI_UNPACK_H

#include "agent/tree.h"
#include "cli/app.h"

/*
 * Copies REF:PATH (cli/inside.h) to a place here, as tree_receive() does. Another process
 * reads what the guest has written, and locks itself up before; this one believes it no
 * more than an agent. Call before the store is open, and while there is one thread.
 */
int unpack_checkpoint(struct cli *cli, const char *reference, const char *to,
                      const struct tree_options *options, struct error *err);

#endif
