/* SPDX-License-Identifier: Apache-2.0 */
/* The files of packs: locked from before their first byte until they are listed. */
#include "base/cleanup.h"
#include "base/digest.h"
#include "store/private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Every pack stays open, for its lock, until the commit. Where there may be more
 * open files than there are, there shall be. */
static int open_tmp(struct store *store, const char *name)
{
    int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, fd;
    struct rlimit limit;

    do
        fd = openat(store->packs_dirfd, name, flags, 0600);
    while (fd < 0 && errno == EINTR);
    if (fd >= 0 || errno != EMFILE || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return fd;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        fd = openat(store->packs_dirfd, name, flags, 0600);
    else
        errno = EMFILE;
    return fd;
}

/*
 * Makes and locks a file for a new pack. Between making and locking, a process
 * that opens the store may take it for a leftover and remove it: then another is
 * made.
 */
int store_create_pack(struct store *store, char name[PACK_NAME_SIZE], struct error *err)
{
    for (;;) {
        _cleanup_close_ int fd = -1;
        uint8_t id[PACK_ID_SIZE];
        char hex[2 * PACK_ID_SIZE + 1];
        struct stat st;

        if (getrandom(id, sizeof(id), 0) != sizeof(id))
            return error_errno(err, EIO, "naming a pack");
        snprintf(name, PACK_NAME_SIZE, "%s.tmp", hex_encode(id, sizeof(id), hex));
        fd = open_tmp(store, name);
        if (fd < 0)
            return error_errno(err, errno, "making a pack in the store %s", store->dir);
        if (flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0)
            return error_errno(err, errno, "locking a pack in the store %s", store->dir);
        if (st.st_nlink != 0)
            return steal_fd(&fd);
    }
}

int store_seal_pack(struct store *store, int fd, const uint8_t id[PACK_ID_SIZE],
                    char name_io[PACK_NAME_SIZE], struct error *err)
{
    char name[PACK_NAME_SIZE];

    packs_name(id, name);
    if (fdatasync(fd) < 0)
        return error_errno(err, errno, "writing %s", name);
    if (renameat(store->packs_dirfd, name_io, store->dirfd, name) < 0)
        return error_errno(err, errno, "renaming %s", name);
    snprintf(name_io, PACK_NAME_SIZE, "%s", name + strlen("packs/"));
    return 0;
}
