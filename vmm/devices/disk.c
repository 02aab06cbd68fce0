/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/disk.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk_layer.h"

#include <errno.h>
#include <fcntl.h>

struct disk {
    char *dir;
    int dir_fd;
    unsigned index;
    struct space *base;
    uint64_t size_bytes;
    uint64_t pages;
    bool read_only;
    bool names_changed;   /* files were made or removed since the directory was synced */
    int lost;             /* the flush that failed: negative errno */
    unsigned next_number; /* never one that a file of this machine had */
    unsigned layer_count; /* oldest first; the last one takes writes */
    struct disk_layer layers[DISK_OVERLAYS_MAX];
    bool has_spare;
    struct disk_layer spare; /* the next one, made before it is needed */
};

static struct disk_layer *top(struct disk *disk)
{
    return &disk->layers[disk->layer_count - 1];
}

/* ---- opening and closing ---- */

static int make_spare(struct disk *disk, struct error *err)
{
    if (disk->has_spare)
        return 0;
    int r =
        disk_layer_open(disk->dir, disk->index, disk->next_number, disk->pages, true, &disk->spare);
    disk->names_changed = true; /* also when half of it was made */
    if (r < 0)
        return error_errno(err, -r, "cannot make an overlay of disk %u in %s", disk->index,
                           disk->dir);
    disk->next_number++;
    disk->has_spare = true;
    return 0;
}

static int push_spare(struct disk *disk, struct error *err)
{
    int r = make_spare(disk, err);
    if (r < 0)
        return r;
    disk->layers[disk->layer_count++] = disk->spare;
    disk->has_spare = false;
    return 0;
}

static void forget_layer(struct disk *disk, struct disk_layer *overlay)
{
    /* What cannot be unlinked now would hide what the base holds after a restart. */
    int r = disk_layer_unlink(disk->dir, disk->index, overlay->number);
    if (r < 0)
        disk->lost = r;
    disk->names_changed = true;
    disk_layer_close(overlay);
}

/* Room for one more, when no save has taken the frozen ones for long. */
static int merge_top(struct disk *disk, struct error *err)
{
    struct disk_layer *below = &disk->layers[disk->layer_count - 2];

    int r = disk_layer_merge(top(disk), below);
    if (r < 0)
        return error_errno(err, -r, "cannot join overlays of disk %u", disk->index);
    forget_layer(disk, top(disk));
    disk->layer_count--;
    return 0;
}

static int keep_layer(struct disk *disk, unsigned number, struct error *err)
{
    /* A machine that was killed may have left all and a spare one. */
    int r = disk->layer_count == DISK_OVERLAYS_MAX ? merge_top(disk, err) : 0;
    if (r < 0)
        return r;
    r = disk_layer_open(disk->dir, disk->index, number, disk->pages, false,
                        &disk->layers[disk->layer_count]);
    if (r < 0)
        return error_errno(err, -r, "cannot open overlay %u of disk %u in %s", number, disk->index,
                           disk->dir);
    disk->layer_count++;
    return 0;
}

static int open_layers(struct disk *disk, bool keep, struct error *err)
{
    _cleanup_free_ struct disk_layer_name *names = NULL;
    size_t count = 0;

    int r = disk_layer_list(disk->dir, &names, &count);
    if (r < 0)
        return error_errno(err, -r, "cannot look for overlays in %s", disk->dir);
    for (size_t i = 0; i < count; i++) {
        if (names[i].disk != disk->index)
            continue;
        disk->next_number = names[i].number + 1;
        if (keep)
            r = keep_layer(disk, names[i].number, err);
        else if ((r = disk_layer_unlink(disk->dir, disk->index, names[i].number)) < 0)
            error_errno(err, -r, "cannot remove an overlay in %s", disk->dir);
        if (r < 0)
            return r;
        disk->names_changed = true;
    }
    return disk->layer_count > 0 ? 0 : push_spare(disk, err);
}

static int open_disk(struct disk *disk, bool keep, struct error *err)
{
    if (disk->read_only)
        return 0;
    disk->dir_fd = open(disk->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (disk->dir_fd < 0)
        return error_errno(err, errno, "cannot open %s", disk->dir);
    return open_layers(disk, keep, err);
}

int disk_open(const char *dir, unsigned index, struct space *base, bool read_only, bool keep,
              struct disk **out, struct error *err)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    if (disk == NULL) {
        space_close(base);
        return error_errno(err, ENOMEM, "cannot open disk %u", index);
    }
    disk->dir = io_format("%s", dir);
    disk->dir_fd = -1;
    disk->index = index;
    disk->base = base;
    disk->size_bytes = space_size_bytes(base);
    disk->pages = space_page_count(base);
    disk->read_only = read_only;
    disk->next_number = 1;
    int r = open_disk(disk, keep, err);
    if (r < 0) {
        disk_close(disk);
        return r;
    }
    *out = disk;
    return 0;
}

void disk_close(struct disk *disk)
{
    if (disk == NULL)
        return;
    if (disk->has_spare)
        forget_layer(disk, &disk->spare);
    /* An orderly end loses nothing that the guest wrote, even what it did not flush.
     * Data before map, here too: a page that is listed and not there would be one
     * that the guest never wrote. */
    if (disk->layer_count > 0)
        (void)disk_flush(disk);
    for (unsigned i = 0; i < disk->layer_count; i++)
        disk_layer_close(&disk->layers[i]);
    if (disk->dir_fd >= 0)
        close(disk->dir_fd);
    space_close(disk->base);
    free(disk->dir);
    free(disk);
}

uint64_t disk_size_bytes(const struct disk *disk)
{
    return disk->size_bytes;
}

bool disk_is_read_only(const struct disk *disk)
{
    return disk->read_only;
}

/* ---- reading ---- */

/* The newest overlay that has the page, or NULL. */
static struct disk_layer *find_layer(struct disk *disk, uint64_t page)
{
    for (unsigned i = disk->layer_count; i > 0; i--)
        if (disk_layer_has(&disk->layers[i - 1], page))
            return &disk->layers[i - 1];
    return NULL;
}

/* Pages from `page` on that come from the same place, at most `limit`. */
static uint64_t run_length(struct disk *disk, uint64_t page, uint64_t limit,
                           const struct disk_layer *from)
{
    uint64_t n = 1;

    while (n < limit && find_layer(disk, page + n) == from)
        n++;
    return n;
}

int disk_read(struct disk *disk, uint64_t offset, void *buf, size_t length)
{
    uint8_t *p = buf;

    if (!range_fits(offset, length, disk->size_bytes))
        return -EINVAL;
    while (length > 0) {
        uint64_t page = offset / STASIS_PAGE_SIZE;
        uint64_t last = (offset + length - 1) / STASIS_PAGE_SIZE;
        struct disk_layer *from = find_layer(disk, page);
        uint64_t run = run_length(disk, page, last - page + 1, from);
        size_t n = (size_t)min_u64(length, (page + run) * STASIS_PAGE_SIZE - offset);
        int r = from != NULL ? disk_layer_read(from, offset, p, n)
                             : space_read(disk->base, offset, p, n, NULL);
        if (r < 0)
            return r;
        p += n;
        offset += n;
        length -= n;
    }
    return 0;
}

/* ---- writing ---- */

/* A page that is written in part is completed in the overlay first. */
static int write_part(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    uint64_t page = offset / STASIS_PAGE_SIZE;
    uint64_t start = page * STASIS_PAGE_SIZE;
    uint8_t bytes[STASIS_PAGE_SIZE] = {0};

    if (disk_layer_has(top(disk), page))
        return disk_layer_write(top(disk), offset, buf, length);
    int r = disk_read(disk, start, bytes, min_u64(sizeof(bytes), disk->size_bytes - start));
    if (r < 0)
        return r;
    memcpy(bytes + (offset - start), buf, length);
    r = disk_layer_write(top(disk), start, bytes, sizeof(bytes));
    if (r == 0)
        disk_layer_mark_pages(top(disk), page, 1);
    return r;
}

static int write_whole(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    int r = disk_layer_write(top(disk), offset, buf, length);
    if (r == 0)
        disk_layer_mark_pages(top(disk), offset / STASIS_PAGE_SIZE, length / STASIS_PAGE_SIZE);
    return r;
}

/* Bytes from offset on that can be done in one step: whole pages, or the rest of
 * one page. */
static uint64_t step_length(uint64_t offset, uint64_t length)
{
    uint64_t in_page = offset % STASIS_PAGE_SIZE;

    if (in_page == 0 && length >= STASIS_PAGE_SIZE)
        return align_down(length, STASIS_PAGE_SIZE);
    return min_u64(length, STASIS_PAGE_SIZE - in_page);
}

int disk_write(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    const uint8_t *p = buf;

    if (disk->read_only)
        return -EROFS;
    if (!range_fits(offset, length, disk->size_bytes))
        return -EINVAL;
    while (length > 0) {
        size_t n = (size_t)step_length(offset, length);
        int r = n % STASIS_PAGE_SIZE == 0 ? write_whole(disk, offset, p, n)
                                          : write_part(disk, offset, p, n);
        if (r < 0)
            return r;
        p += n;
        offset += n;
        length -= n;
    }
    return 0;
}

/* Where the base has its next page that is not zero; asked for in order. */
struct base_cursor {
    uint64_t next;
    bool valid;
};

static int base_has_page(struct disk *disk, struct base_cursor *cursor, uint64_t first,
                         uint64_t end, bool *has_out)
{
    struct page_ref ref;

    if (!cursor->valid || cursor->next < first) {
        int r = space_next(disk->base, first, &cursor->next, &ref, NULL);
        if (r < 0)
            return r;
        if (r == 0)
            cursor->next = UINT64_MAX;
        cursor->valid = true;
    }
    *has_out = cursor->next < end;
    return 0;
}

/* Of the pages of one word of the map that mask names, notes those that something
 * below would show. Deciding for the word as a whole is enough: a few zero pages too
 * many do no harm, a whole disk of them (mkfs discards it all) would. */
static int mark_zeros(struct disk *disk, struct base_cursor *cursor, uint64_t word, uint64_t mask)
{
    bool below = false;

    for (unsigned i = 0; i + 1 < disk->layer_count && !below; i++)
        below = (disk->layers[i].bits[word] & mask) != 0;
    int r = below ? 0
                  : base_has_page(disk, cursor, word * 64, min_u64((word + 1) * 64, disk->pages),
                                  &below);
    if (r == 0 && below)
        disk_layer_mark(top(disk), word, mask);
    return r;
}

static int zero_whole(struct disk *disk, uint64_t offset, uint64_t length)
{
    uint64_t page = offset / STASIS_PAGE_SIZE;
    uint64_t end = page + length / STASIS_PAGE_SIZE;
    struct base_cursor cursor = {0};

    int r = top(disk)->used ? disk_layer_punch(top(disk), offset, length) : 0;
    while (r == 0 && page < end) {
        uint64_t shift = page % 64;
        uint64_t n = min_u64(64 - shift, end - page);
        r = mark_zeros(disk, &cursor, page / 64, (n == 64 ? ~0ull : (1ull << n) - 1) << shift);
        page += n;
    }
    return r;
}

int disk_zero(struct disk *disk, uint64_t offset, uint64_t length)
{
    static const uint8_t zeros[STASIS_PAGE_SIZE];

    if (disk->read_only)
        return -EROFS;
    if (!range_fits(offset, length, disk->size_bytes))
        return -EINVAL;
    while (length > 0) {
        uint64_t n = step_length(offset, length);
        int r = n % STASIS_PAGE_SIZE == 0 ? zero_whole(disk, offset, n)
                                          : write_part(disk, offset, zeros, (size_t)n);
        if (r < 0)
            return r;
        offset += n;
        length -= n;
    }
    return 0;
}

/* ---- flushing ---- */

/* An overlay whose files a power cut could still bring back, or take away, is as bad
 * as data that is not written. */
static int sync_names(struct disk *disk)
{
    int r = disk->names_changed ? io_sync_dir(disk->dir_fd) : 0;
    if (r == 0)
        disk->names_changed = false;
    return r;
}

int disk_flush(struct disk *disk)
{
    int r = disk->lost;

    for (unsigned i = 0; r == 0 && i < disk->layer_count; i++)
        r = disk_layer_flush(&disk->layers[i]);
    if (r == 0)
        r = sync_names(disk);
    disk->lost = r;
    return r;
}

/* ---- checkpoints ---- */

int disk_prepare_freeze(struct disk *disk, struct error *err)
{
    if (disk->read_only || !top(disk)->used)
        return 0;
    int r = disk->layer_count == DISK_OVERLAYS_MAX ? merge_top(disk, err) : 0;
    return r < 0 ? r : make_spare(disk, err);
}

int disk_freeze(struct disk *disk, struct error *err)
{
    if (disk->read_only || !top(disk)->used)
        return 0; /* the empty one on top can take the writes to come */
    int r = disk_prepare_freeze(disk, err);
    return r < 0 ? r : push_spare(disk, err);
}

bool disk_has_frozen(const struct disk *disk)
{
    return disk->layer_count > 1;
}

static int visit_frozen(struct disk *disk, unsigned frozen, uint64_t page,
                        int (*visit)(uint64_t page, const void *bytes, void *context),
                        void *context, struct error *err)
{
    uint8_t bytes[STASIS_PAGE_SIZE];
    unsigned i = frozen;

    while (!disk_layer_has(&disk->layers[i - 1], page))
        i--;
    int r = disk_layer_read(&disk->layers[i - 1], page * STASIS_PAGE_SIZE, bytes, sizeof(bytes));
    if (r < 0)
        return error_errno(err, -r, "cannot read the overlay of disk %u", disk->index);
    return visit(page, page_is_zero(bytes) ? NULL : bytes, context);
}

int disk_frozen_each(struct disk *disk,
                     int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                     struct error *err)
{
    unsigned frozen = disk->layer_count > 0 ? disk->layer_count - 1 : 0;
    uint64_t words = frozen > 0 ? disk_layer_words(&disk->layers[0]) : 0;

    for (uint64_t word = 0; word < words; word++) {
        uint64_t any = 0;
        for (unsigned i = 0; i < frozen; i++)
            any |= disk->layers[i].bits[word];
        for (; any != 0; any &= any - 1) {
            int r = visit_frozen(disk, frozen, word * 64 + (uint64_t)__builtin_ctzll(any), visit,
                                 context, err);
            if (r != 0)
                return r;
        }
    }
    return 0;
}

void disk_rebase(struct disk *disk, struct space *base)
{
    unsigned frozen = disk->layer_count > 0 ? disk->layer_count - 1 : 0;

    /* Oldest first, one after the other: an older one alone would bring back what a
     * newer one replaced. */
    for (unsigned i = 0; i < frozen; i++) {
        forget_layer(disk, &disk->layers[i]);
        if (i + 1 < frozen)
            (void)sync_names(disk);
    }
    disk->layer_count -= frozen;
    memmove(disk->layers, disk->layers + frozen, disk->layer_count * sizeof(disk->layers[0]));
    space_close(disk->base);
    disk->base = base;
}

int disk_reset(struct disk *disk, struct space *base, struct error *err)
{
    space_close(disk->base);
    disk->base = base;
    if (disk->read_only)
        return 0;
    disk->lost = 0;
    /* Newest first: what is left at any moment is a state that the disk once had. */
    for (; disk->layer_count > 0; disk->layer_count--)
        forget_layer(disk, top(disk));
    int r = push_spare(disk, err);
    if (r < 0)
        return r;
    r = disk_flush(disk);
    return r < 0 ? error_errno(err, -r, "cannot forget what disk %u held", disk->index) : 0;
}

int disk_remove_overlays(const char *dir, struct error *err)
{
    _cleanup_free_ struct disk_layer_name *names = NULL;
    _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    size_t count = 0;

    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", dir);
    int r = disk_layer_list(dir, &names, &count);
    for (size_t i = count; r == 0 && i > 0; i--) /* newest first, as in disk_reset() */
        r = disk_layer_unlink(dir, names[i - 1].disk, names[i - 1].number);
    if (r == 0)
        r = io_sync_dir(fd);
    return r < 0 ? error_errno(err, -r, "cannot remove the overlays in %s", dir) : 0;
}
