/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/blob.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

DEFINE_CLEANUP(struct digest_stream, digest_stream_free)

const char *blob_temp_dir(void)
{
    const char *dir = getenv("TMPDIR");

    return dir != NULL && dir[0] == '/' ? dir : "/var/tmp";
}

int blob_temp_file(const char *dir, int *fd_out, struct error *err)
{
    int fd = open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0644);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        /* a file system without unnamed files */
        _cleanup_free_ char *path = io_format("%s/.stasis-XXXXXX", dir);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            unlink(path);
    }
    if (fd < 0)
        return error_errno(err, errno, "cannot make a temporary file in %s", dir);
    *fd_out = fd;
    return 0;
}

int blob_describe(int fd, struct descriptor *out, struct error *err)
{
    enum { STEP = 256 << 10 };
    _cleanup_(digest_stream_freep) struct digest_stream *sum = digest_stream_new();
    _cleanup_free_ uint8_t *buf = malloc(STEP);
    struct stat st;

    if (buf == NULL)
        return error_errno(err, ENOMEM, "cannot read a blob");
    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot read a blob");
    uint64_t size = (uint64_t)st.st_size;
    for (uint64_t at = 0; at < size;) {
        size_t step = (size_t)min_u64(STEP, size - at);
        int r = io_pread_full(fd, buf, step, at);
        if (r < 0)
            return error_errno(err, -r, "cannot read a blob");
        digest_stream_update(sum, buf, step);
        at += step;
    }
    *out = (struct descriptor){digest_stream_peek(sum), size};
    return 0;
}

int blob_check(int fd, const struct descriptor *blob, const char *name, struct error *err)
{
    struct descriptor found;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot read %s", name);
    if ((uint64_t)st.st_size != blob->size)
        return error_corrupt(err, "%s has %llu bytes, not %llu", name,
                             (unsigned long long)st.st_size, (unsigned long long)blob->size);
    int r = blob_describe(fd, &found, err);
    if (r < 0)
        return r;
    if (!digest_equal(&found.digest, &blob->digest))
        return error_corrupt(err, "%s does not match its SHA-256", name);
    return 0;
}
