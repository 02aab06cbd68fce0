/* SPDX-License-Identifier: Apache-2.0 */
/* Files that hold one blob. */
#ifndef STASIS_REGISTRY_BLOB_H
#define STASIS_REGISTRY_BLOB_H

#include "registry/artifact.h"

/* An empty file without a name in dir: it ends with its last descriptor. dir is
 * for messages as well. */
int blob_temp_file(const char *dir, int *fd_out, struct error *err);

/* Where large temporary files go: $TMPDIR, else /var/tmp (/tmp is often memory). */
const char *blob_temp_dir(void);

/* SHA-256 and size of the whole file. */
int blob_describe(int fd, struct descriptor *out, struct error *err);

/* The file is exactly this blob? -EBADMSG; name is for messages. */
int blob_check(int fd, const struct descriptor *blob, const char *name, struct error *err);

#endif
