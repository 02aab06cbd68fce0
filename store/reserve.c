/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that holds nothing but room. To make room on a full disk one has to write to
 * the catalogue first; without a few free blocks not even that can be opened.
 */
#include "base/cleanup.h"
#include "store/private.h"

#include <errno.h>
#include <fcntl.h>

/* The catalogue's log and its shared memory, and what a collection writes there. */
#define RESERVE_BYTES (1 << 20)

void store_make_reserve(struct store *store)
{
    _cleanup_close_ int fd =
        openat(store->dirfd, "reserve", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd >= 0 && posix_fallocate(fd, 0, RESERVE_BYTES) != 0)
        unlinkat(store->dirfd, "reserve", 0);
}

bool store_release_reserve(struct store *store)
{
    return unlinkat(store->dirfd, "reserve", 0) == 0;
}
