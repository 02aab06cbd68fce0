/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files and buffers as spaces. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/ingest_private.h"

#include <errno.h>
#include <fcntl.h>

#define READ_BYTES (1u << 20)

DEFINE_CLEANUP(struct map_builder, map_builder_free)

struct file_reader {
    struct ingest *in;
    struct map_builder *builder;
    int fd;
    uint64_t size_bytes;
    uint8_t *buf;
    int (*progress)(uint64_t done_bytes, void *context);
    void *context;
    struct error *err;
};

/* buf holds whole pages, from page number `first` on. */
static int put_pages(struct ingest *in, struct map_builder *b, uint64_t first, const uint8_t *buf,
                     size_t pages, struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < pages; i++) {
        struct page_ref ref;

        r = ingest_page(in, buf + i * STASIS_PAGE_SIZE, &ref, err);
        if (r == 0 && !page_ref_is_zero(ref))
            r = map_builder_set(b, first + i, ref, err);
    }
    return r;
}

/* One chunk, which begins at a page; the last page is filled up with zeros. */
static int put_chunk(struct file_reader *f, uint64_t offset, size_t length)
{
    size_t pages = (size_t)div_round_up(length, STASIS_PAGE_SIZE);
    int r = io_pread_full(f->fd, f->buf, length, offset);

    if (r == -ENODATA)
        return error_set(f->err, STATUS_FAILED, ENODATA,
                         "the file ends before its %llu bytes: it changed while it was read",
                         (unsigned long long)f->size_bytes);
    if (r < 0)
        return error_errno(f->err, -r, "reading the file at offset %llu",
                           (unsigned long long)offset);
    memset(f->buf + length, 0, pages * STASIS_PAGE_SIZE - length);
    r = put_pages(f->in, f->builder, offset >> STASIS_PAGE_SHIFT, f->buf, pages, f->err);
    if (r == 0 && f->progress != NULL && f->progress(offset + length, f->context) != 0)
        return error_set(f->err, STATUS_INTERRUPTED, ECANCELED, "cancelled");
    return r;
}

static int put_extent(struct file_reader *f, uint64_t offset, uint64_t end)
{
    int r = 0;

    for (; r == 0 && offset < end; offset += READ_BYTES)
        r = put_chunk(f, offset, (size_t)min_u64(READ_BYTES, end - offset));
    return r;
}

/* Where data begins at or after offset; the whole rest where the file system
 * (or block device) knows no holes. */
static void next_extent(const struct file_reader *f, uint64_t offset, uint64_t *begin,
                        uint64_t *end)
{
    off_t data = lseek(f->fd, (off_t)offset, SEEK_DATA);
    off_t hole;

    *begin = offset;
    *end = f->size_bytes;
    if (data < 0) {
        /* Nothing but a hole from here on. */
        if (errno == ENXIO)
            *begin = f->size_bytes;
        return;
    }
    *begin = min_u64(align_down((uint64_t)data, STASIS_PAGE_SIZE), f->size_bytes);
    hole = lseek(f->fd, data, SEEK_HOLE);
    if (hole > data)
        *end = min_u64(align_up((uint64_t)hole, STASIS_PAGE_SIZE), f->size_bytes);
}

static int put_file(struct file_reader *f)
{
    uint64_t offset = 0;
    int r = 0;

    /* SEEK_DATA takes a truncated file's missing end for a hole. */
    off_t length = lseek(f->fd, 0, SEEK_END);
    if (length >= 0 && (uint64_t)length < f->size_bytes)
        return error_set(f->err, STATUS_FAILED, ENODATA,
                         "the file has %lld bytes where %llu are to be read", (long long)length,
                         (unsigned long long)f->size_bytes);
    posix_fadvise(f->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    while (r == 0 && offset < f->size_bytes) {
        uint64_t begin, end;

        next_extent(f, offset, &begin, &end);
        r = put_extent(f, begin, end);
        offset = end;
    }
    return r;
}

int ingest_file(struct ingest *in, int fd, uint64_t size_bytes,
                int (*progress)(uint64_t done_bytes, void *context), void *context,
                struct digest *root_out, struct error *err)
{
    _cleanup_(map_builder_freep) struct map_builder *builder = NULL;
    _cleanup_free_ uint8_t *buf = malloc(READ_BYTES);
    struct file_reader f = {in, NULL, fd, size_bytes, buf, progress, context, err};
    int r;

    if (buf == NULL)
        return error_errno(err, ENOMEM, "reading a file");
    if (size_bytes > INT64_MAX - STASIS_PAGE_SIZE)
        return error_set(err, STATUS_FAILED, EFBIG, "the file is too large");
    r = map_builder_begin(in, NULL, 0, div_round_up(size_bytes, STASIS_PAGE_SIZE), &builder, err);
    f.builder = builder;
    if (r == 0)
        r = put_file(&f);
    return r < 0 ? r : map_builder_finish(builder, root_out, err);
}

int ingest_memory(struct ingest *in, const void *data, uint64_t size_bytes, struct digest *root_out,
                  struct error *err)
{
    _cleanup_(map_builder_freep) struct map_builder *builder = NULL;
    uint64_t whole = size_bytes >> STASIS_PAGE_SHIFT;
    size_t tail = (size_t)(size_bytes % STASIS_PAGE_SIZE);
    const uint8_t *bytes = data;
    int r = map_builder_begin(in, NULL, 0, whole + (tail != 0), &builder, err);

    if (r == 0)
        r = put_pages(in, builder, 0, bytes, (size_t)whole, err);
    if (r == 0 && tail != 0) {
        uint8_t last[STASIS_PAGE_SIZE] = {0};

        memcpy(last, bytes + (whole << STASIS_PAGE_SHIFT), tail);
        r = put_pages(in, builder, whole, last, 1, err);
    }
    return r < 0 ? r : map_builder_finish(builder, root_out, err);
}
