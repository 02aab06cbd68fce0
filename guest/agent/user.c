/* SPDX-License-Identifier: Apache-2.0 */
#include "user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Digits only, and not the two numbers that mean "none". */
static bool parse_id(const char *text, uid_t *out)
{
    char *end;

    if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0' || strlen(text) > 10)
        return false;
    const unsigned long long v = strtoull(text, &end, 10);
    if (v >= UINT32_MAX)
        return false;
    *out = (uid_t)v;
    return true;
}

static void fill(struct user *out, uid_t uid, const struct passwd *entry)
{
    *out = (struct user){.uid = uid, .gid = entry != NULL ? entry->pw_gid : (gid_t)uid};
    if (entry != NULL)
        snprintf(out->name, sizeof(out->name), "%s", entry->pw_name);
    else
        snprintf(out->name, sizeof(out->name), "%u", (unsigned)uid);
    snprintf(out->home, sizeof(out->home), "%s",
             entry != NULL && entry->pw_dir[0] == '/' ? entry->pw_dir : "/");
    snprintf(out->shell, sizeof(out->shell), "%s",
             entry != NULL && entry->pw_shell[0] == '/' ? entry->pw_shell : "/bin/sh");
}

int user_find(const char *text, struct user *out)
{
    uid_t uid = getuid();

    const struct passwd *entry = text[0] != '\0' ? getpwnam(text) : getpwuid(uid);
    if (entry != NULL) {
        fill(out, entry->pw_uid, entry);
        return 0;
    }
    if (text[0] != '\0' && !parse_id(text, &uid))
        return -ENOENT;
    fill(out, uid, getpwuid(uid));
    return 0;
}

int user_become(const struct user *user)
{
    if (user->uid == getuid() && user->uid != 0)
        return 0;
    if (geteuid() == 0 && initgroups(user->name, user->gid) < 0)
        return -errno;
    if (setgid(user->gid) < 0 || setuid(user->uid) < 0)
        return -errno;
    return 0;
}
