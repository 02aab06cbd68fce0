/* SPDX-License-Identifier: Apache-2.0 */
/* Where everything of one Stasis home lives. */
#ifndef STASIS_BASE_HOME_H
#define STASIS_BASE_HOME_H

#include "base/error.h"

#include <stdbool.h>

#define MACHINE_NAME_MAX 63 /* bytes, without the NUL: a host name label */

struct home {
    char *root;     /* absolute */
    char *store;    /* ROOT/store */
    char *machines; /* ROOT/machines */
    char *runtime;  /* sockets: $XDG_RUNTIME_DIR/stasis/HASH-OF-ROOT */
};

/*
 * Finds the home: override if not NULL, else $STASIS_HOME, else
 * $XDG_DATA_HOME/stasis, else $HOME/.local/share/stasis; makes its directories
 * (mode 0700) if they are missing. Sockets go to $XDG_RUNTIME_DIR, else
 * /run/user/UID if that exists, else a private directory below /tmp, each home
 * in a folder of its own, so that socket paths stay short and never collide.
 * The caller frees with home_clear().
 */
int home_open(const char *override, struct home *out, struct error *err);
void home_clear(struct home *home);

/* ROOT/machines/NAME; the caller frees. */
char *home_machine_dir(const struct home *home, const char *name);
/* RUNTIME/NAME.sock; the caller frees. */
char *home_machine_socket(const struct home *home, const char *name);
/* RUNTIME/NAME.vsock, which leads to ports of the guest; the caller frees. */
char *home_machine_vsock(const struct home *home, const char *name);

/* Letters, digits, '-', '_' and '.', beginning with a letter or digit, at most
 * MACHINE_NAME_MAX bytes. Names of machines and checkpoints. */
bool home_name_is_valid(const char *name);

#endif
