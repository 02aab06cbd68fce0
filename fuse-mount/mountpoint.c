/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/mountpoint.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define FILE_SYSTEM_TYPE "fuse.stasis"

extern char **environ;

int mountpoint_resolve(const char *path, char **out, struct error *err)
{
    _cleanup_free_ char *copy = strdup(path);
    _cleanup_free_ char *parent = NULL;
    size_t length = strlen(path);
    char *slash;

    if (copy == NULL || length == 0)
        return error_errno(err, copy == NULL ? ENOMEM : ENOENT, "cannot find \"%s\"", path);
    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    slash = strrchr(copy, '/');
    const char *name = slash != NULL ? slash + 1 : copy;
    if (strcmp(name, "") == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        *out = realpath(copy, NULL);
        return *out != NULL ? 0 : error_errno(err, errno, "cannot find %s", path);
    }
    if (slash == NULL)
        parent = realpath(".", NULL);
    else if (slash == copy)
        parent = strdup("");
    else {
        *slash = '\0';
        parent = realpath(copy, NULL);
    }
    if (parent == NULL)
        return error_errno(err, errno, "cannot find %s", path);
    *out = io_format("%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name);
    return 0;
}

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from != '\0'; from++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
            from[2] <= '7' && from[3] >= '0' && from[3] <= '7') {
            *to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 3;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
}

/* ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER */
static void parse_line(char *line, const char *path, struct mountpoint *out)
{
    _cleanup_free_ char *point = NULL;
    unsigned major_number, minor_number;
    const char *type = strstr(line, " - ");

    if (type == NULL ||
        sscanf(line, "%*d %*d %u:%u %*s %ms", &major_number, &minor_number, &point) != 3)
        return;
    unescape(point);
    if (strcmp(point, path) != 0)
        return;
    type += strlen(" - ");
    *out = (struct mountpoint){
        .mounted = true,
        .ours = strncmp(type, FILE_SYSTEM_TYPE " ", strlen(FILE_SYSTEM_TYPE " ")) == 0,
        .device_major = major_number,
        .device_minor = minor_number,
    };
}

int mountpoint_query(const char *path, struct mountpoint *out, struct error *err)
{
    _cleanup_fclose_ FILE *file = fopen("/proc/self/mountinfo", "re");
    _cleanup_free_ char *line = NULL;
    struct mountpoint found = {0};
    size_t capacity = 0;

    if (file == NULL)
        return error_errno(err, errno, "cannot read /proc/self/mountinfo");
    while (getline(&line, &capacity, file) > 0)
        parse_line(line, path, &found);
    *out = found;
    return 0;
}

bool mountpoint_is_dead(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 && errno == ENOTCONN;
}

static int check_empty(const char *path, struct error *err)
{
    _cleanup_closedir_ DIR *dir = opendir(path);

    if (dir == NULL) {
        int r = error_errno(err, errno, "cannot mount on %s", path);

        if (r == -ENOENT)
            error_hint(err, "make the directory first: mkdir %s", path);
        else if (r == -ENOTDIR)
            error_hint(err, "it is a file; give an empty directory: mkdir past");
        else if (r == -EACCES)
            error_hint(err, "give an empty directory of your own");
        return r;
    }
    for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        error_set(err, STATUS_FAILED, ENOTEMPTY, "cannot mount on %s: it is not empty", path);
        error_hint(err, "choose an empty directory, so that nothing is hidden by the mount");
        return -ENOTEMPTY;
    }
    return 0;
}

int mountpoint_check_free(const char *path, struct error *err)
{
    struct mountpoint at;
    int r = mountpoint_query(path, &at, err);

    if (r < 0)
        return r;
    if (at.ours && mountpoint_is_dead(path)) {
        error_set(err, STATUS_BUSY, EBUSY,
                  "cannot mount on %s: a mount whose process has ended is still there", path);
        error_hint(err, "remove it: stasis umount %s", path);
        return -EBUSY;
    }
    if (at.ours) {
        error_set(err, STATUS_BUSY, EBUSY, "cannot mount on %s: a store is mounted there", path);
        error_hint(err, "use it, or end it: stasis umount %s", path);
        return -EBUSY;
    }
    return check_empty(path, err);
}

static int run_fusermount(const char *path, bool lazy, struct error *err)
{
    char *const argv[] = {"fusermount3", "-u", lazy ? "-qz" : "-q", "--", (char *)path, NULL};
    int status = 0;
    pid_t pid;
    int r = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);

    if (r != 0) {
        error_errno(err, r, "cannot start fusermount3");
        error_hint(err, "install the package fuse3");
        return -r;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int mountpoint_detach(const char *path, bool lazy, struct error *err)
{
    int r;

    if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
        return 0;
    r = errno == EPERM ? run_fusermount(path, lazy, err) : -errno;
    if (r == -EBUSY) {
        error_set(err, STATUS_BUSY, EBUSY, "cannot unmount %s: files in it are in use", path);
        error_hint(err, "close them first; \"fuser -vm %s\" lists who has them open", path);
    } else if (r < 0 && r != -ENOENT) {
        error_errno(err, -r, "cannot unmount %s", path);
    }
    return r;
}
