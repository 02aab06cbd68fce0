/* SPDX-License-Identifier: Apache-2.0 */
/* Users of the guest, by /etc/passwd and /etc/group. */
#ifndef STASIS_GUEST_AGENT_USER_H
#define STASIS_GUEST_AGENT_USER_H

#include <stdbool.h>
#include <sys/types.h>

struct user {
    uid_t uid;
    gid_t gid;
    char name[64]; /* a number if it has no name */
    char home[256];
    char shell[256];
};

/* By name or number; "" is whoever we are. A number needs no entry. -ENOENT. */
int user_find(const char *text, struct user *out);

/* Becomes that user, with his groups. Negative errno. */
int user_become(const struct user *user);

#endif
