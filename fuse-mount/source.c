/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/source.h"

#include "base/bytes.h"
#include "base/io.h"

#include <errno.h>

int source_read(const struct source *src, uint64_t offset, void *buf, size_t length)
{
    uint64_t at;

    if (!range_fits(offset, length, src->size_bytes) || add_overflows(src->start, offset, &at))
        return -ERANGE;
    return length == 0 ? 0 : src->read(src->context, at, buf, length);
}

int source_part(const struct source *whole, uint64_t start, uint64_t size_bytes, struct source *out)
{
    struct source part = *whole;

    if (!range_fits(start, size_bytes, whole->size_bytes) ||
        add_overflows(whole->start, start, &part.start))
        return -ERANGE;
    part.size_bytes = size_bytes;
    *out = part;
    return 0;
}

static int file_read(void *context, uint64_t offset, void *buf, size_t length)
{
    return io_pread_full(*(const int *)context, buf, length, offset);
}

struct source source_of_file(const int *fd, uint64_t size_bytes)
{
    return (struct source){.read = file_read, .context = (void *)fd, .size_bytes = size_bytes};
}
