/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files and buffers as spaces, a batch of pages at a time. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/huge.h"
#include "base/io.h"
#include "store/ingest_private.h"

#include <errno.h>
#include <fcntl.h>

DEFINE_CLEANUP(struct map_builder, map_builder_free)

/* ---- files ---- */

#define READ_BYTES ((size_t)INGEST_BATCH_PAGES * STASIS_PAGE_SIZE)

/* What a thread reads at once. Copying from the page cache is work too. */
#define PIECE_BYTES (256u << 10)

struct file_reader {
    struct ingest *in;
    struct map_builder *builder;
    int fd;
    uint64_t size_bytes;
    uint8_t *buf;     /* READ_BYTES */
    size_t used;      /* of it, by pages that the builder has not stored yet */
    uint64_t advised; /* the kernel was asked to read up to here */
    int (*progress)(uint64_t done_bytes, void *context);
    void *context;
    struct error *err;
};

struct chunk {
    const struct file_reader *f;
    uint8_t *to;
    uint64_t offset;
    size_t length;
};

static int read_piece(unsigned index, unsigned slot, void *context, struct error *err)
{
    const struct chunk *c = context;
    size_t from = (size_t)index * PIECE_BYTES;
    int r = io_pread_full(c->f->fd, c->to + from, min_u64(PIECE_BYTES, c->length - from),
                          c->offset + from);

    (void)slot;
    if (r == -ENODATA)
        return error_set(err, STATUS_FAILED, ENODATA,
                         "the file ends before its %llu bytes: it changed while it was read",
                         (unsigned long long)c->f->size_bytes);
    if (r < 0)
        return error_errno(err, -r, "reading the file at offset %llu",
                           (unsigned long long)(c->offset + from));
    return 0;
}

/* The disk reads on from there while we work. Each range is asked for once: a file with
 * holes is read in many small chunks. */
static void advise(struct file_reader *f, uint64_t offset)
{
    uint64_t from = max_u64(f->advised, offset);

    if (from >= offset + READ_BYTES / 2)
        return;
    f->advised = offset + READ_BYTES;
    posix_fadvise(f->fd, (off_t)from, (off_t)(f->advised - from), POSIX_FADV_WILLNEED);
}

/* One chunk, which begins at a page; the last page is filled up with zeros. */
static int read_chunk(struct file_reader *f, uint64_t offset, size_t length)
{
    struct chunk c = {f, f->buf + f->used, offset, length};
    size_t whole = (size_t)align_up(length, STASIS_PAGE_SIZE);
    int r;

    advise(f, offset + length);
    r = workers_run(f->in->store->workers, (unsigned)div_round_up(length, PIECE_BYTES), read_piece,
                    &c, f->err);
    if (r < 0)
        return r;
    memset(c.to + length, 0, whole - length);
    for (size_t i = 0; r == 0 && i < whole; i += STASIS_PAGE_SIZE)
        r = map_builder_put(f->builder, (offset + i) >> STASIS_PAGE_SHIFT, c.to + i, true, f->err);
    f->used += whole;
    return r;
}

/* What was read goes into the store; done_bytes: how far that is. */
static int put_chunks(struct file_reader *f, uint64_t done_bytes)
{
    int r = map_builder_flush(f->builder, f->err);

    f->used = 0;
    if (r == 0 && f->progress != NULL && f->progress(done_bytes, f->context) != 0)
        return error_set(f->err, STATUS_INTERRUPTED, ECANCELED, "cancelled");
    return r;
}

static int put_extent(struct file_reader *f, uint64_t offset, uint64_t end)
{
    int r = 0;

    while (r == 0 && offset < end) {
        size_t length = (size_t)min_u64(READ_BYTES - f->used, end - offset);

        r = read_chunk(f, offset, length);
        offset += length;
        if (r == 0 && f->used == READ_BYTES)
            r = put_chunks(f, offset);
    }
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
    return r < 0 || f->used == 0 ? r : put_chunks(f, f->size_bytes);
}

int ingest_file(struct ingest *in, int fd, uint64_t size_bytes,
                int (*progress)(uint64_t done_bytes, void *context), void *context,
                struct digest *root_out, struct error *err)
{
    _cleanup_(map_builder_freep) struct map_builder *builder = NULL;
    _cleanup_free_ uint8_t *buf = huge_alloc(READ_BYTES);
    struct file_reader f = {.in = in,
                            .fd = fd,
                            .size_bytes = size_bytes,
                            .buf = buf,
                            .progress = progress,
                            .context = context,
                            .err = err};
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
    uint8_t last[STASIS_PAGE_SIZE] = {0};
    const uint8_t *bytes = data;
    int r = map_builder_begin(in, NULL, 0, whole + (tail != 0), &builder, err);

    for (uint64_t i = 0; r == 0 && i < whole; i++)
        r = map_builder_put(builder, i, bytes + (i << STASIS_PAGE_SHIFT), true, err);
    if (r == 0 && tail != 0) {
        memcpy(last, bytes + (whole << STASIS_PAGE_SHIFT), tail);
        r = map_builder_put(builder, whole, last, true, err);
    }
    return r < 0 ? r : map_builder_finish(builder, root_out, err);
}
