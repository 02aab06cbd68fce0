/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/disk.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"
#include "vmm/devices/disk_layer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

/*
 * Three locks, taken in this order. `flushing` is held through a flush, and by whoever
 * makes or drops overlays: so a flush, which may take long, looks at them without
 * holding up reads and writes. `layout` is held (shared) by those, and exclusively by
 * who changes the list of overlays or completes a page. `marks` is for what overlays list.
 */
struct disk {
    pthread_mutex_t flushing;
    pthread_rwlock_t layout;
    pthread_mutex_t marks;
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

    int r = disk_layer_merge(top(disk), below, &disk->marks);
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

/* Who drops overlays comes before those who read: there is always one more of these. */
static void init_locks(struct disk *disk)
{
    pthread_rwlockattr_t attributes;

    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&disk->layout, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    pthread_mutex_init(&disk->flushing, NULL);
    pthread_mutex_init(&disk->marks, NULL);
}

int disk_open(const char *dir, unsigned index, struct space *base, bool read_only, bool keep,
              struct disk **out, struct error *err)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    if (disk == NULL) {
        space_close(base);
        return error_errno(err, ENOMEM, "cannot open disk %u", index);
    }
    init_locks(disk);
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
    pthread_mutex_destroy(&disk->marks);
    pthread_rwlock_destroy(&disk->layout);
    pthread_mutex_destroy(&disk->flushing);
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

static int read_base(struct disk *disk, uint64_t offset, void *buf, size_t length)
{
    return space_read(disk->base, offset, buf, length, NULL);
}

static int read_base_cached(struct disk *disk, uint64_t offset, void *buf, size_t length)
{
    return space_read_cached(disk->base, offset, buf, length);
}

struct reader {
    int (*layer)(const struct disk_layer *overlay, uint64_t offset, void *buf, size_t length);
    int (*base)(struct disk *disk, uint64_t offset, void *buf, size_t length);
};

static const struct reader waits = {disk_layer_read, read_base};
static const struct reader does_not_wait = {disk_layer_read_cached, read_base_cached};

/* layout is held. */
static int read_with(struct disk *disk, const struct reader *reader, uint64_t offset, void *buf,
                     size_t length)
{
    uint8_t *p = buf;

    while (length > 0) {
        uint64_t page = offset / STASIS_PAGE_SIZE;
        uint64_t last = (offset + length - 1) / STASIS_PAGE_SIZE;
        struct disk_layer *from = find_layer(disk, page);
        uint64_t run = run_length(disk, page, last - page + 1, from);
        size_t n = (size_t)min_u64(length, (page + run) * STASIS_PAGE_SIZE - offset);
        int r = from != NULL ? reader->layer(from, offset, p, n) : reader->base(disk, offset, p, n);
        if (r < 0)
            return r;
        p += n;
        offset += n;
        length -= n;
    }
    return 0;
}

static int read_range(struct disk *disk, const struct reader *reader, uint64_t offset, void *buf,
                      size_t length)
{
    if (!range_fits(offset, length, disk->size_bytes))
        return -EINVAL;
    pthread_rwlock_rdlock(&disk->layout);
    int r = read_with(disk, reader, offset, buf, length);
    pthread_rwlock_unlock(&disk->layout);
    return r;
}

int disk_read(struct disk *disk, uint64_t offset, void *buf, size_t length)
{
    return read_range(disk, &waits, offset, buf, length);
}

int disk_read_cached(struct disk *disk, uint64_t offset, void *buf, size_t length)
{
    return read_range(disk, &does_not_wait, offset, buf, length);
}

/* ---- writing ---- */

static void mark_pages(struct disk *disk, uint64_t first, uint64_t count)
{
    pthread_mutex_lock(&disk->marks);
    disk_layer_mark_pages(top(disk), first, count);
    pthread_mutex_unlock(&disk->marks);
}

/* A page that is written in part is completed in the overlay first. */
static int complete_page(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    uint64_t page = offset / STASIS_PAGE_SIZE;
    uint64_t start = page * STASIS_PAGE_SIZE;
    uint8_t bytes[STASIS_PAGE_SIZE] = {0};

    if (disk_layer_has(top(disk), page))
        return disk_layer_write(top(disk), offset, buf, length);
    int r = read_with(disk, &waits, start, bytes, min_u64(sizeof(bytes), disk->size_bytes - start));
    if (r < 0)
        return r;
    memcpy(bytes + (offset - start), buf, length);
    r = disk_layer_write(top(disk), start, bytes, sizeof(bytes));
    if (r == 0)
        mark_pages(disk, page, 1);
    return r;
}

/* Completing one is for one thread alone: what others write into that page meanwhile
 * would be lost. */
static int write_part(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    int r = 0;

    pthread_rwlock_rdlock(&disk->layout);
    bool is_complete = disk_layer_has(top(disk), offset / STASIS_PAGE_SIZE);
    if (is_complete)
        r = disk_layer_write(top(disk), offset, buf, length);
    pthread_rwlock_unlock(&disk->layout);
    if (is_complete)
        return r;
    pthread_rwlock_wrlock(&disk->layout);
    r = complete_page(disk, offset, buf, length);
    pthread_rwlock_unlock(&disk->layout);
    return r;
}

static int write_whole(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    pthread_rwlock_rdlock(&disk->layout);
    int r = disk_layer_write(top(disk), offset, buf, length);
    if (r == 0)
        mark_pages(disk, offset / STASIS_PAGE_SIZE, length / STASIS_PAGE_SIZE);
    pthread_rwlock_unlock(&disk->layout);
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
    if (r < 0 || !below)
        return r;
    pthread_mutex_lock(&disk->marks);
    disk_layer_mark(top(disk), word, mask);
    pthread_mutex_unlock(&disk->marks);
    return 0;
}

/* layout is held. */
static int zero_pages(struct disk *disk, uint64_t offset, uint64_t length)
{
    uint64_t page = offset / STASIS_PAGE_SIZE;
    uint64_t end = page + length / STASIS_PAGE_SIZE;
    struct base_cursor cursor = {0};

    int r = disk_layer_is_written(top(disk)) ? disk_layer_punch(top(disk), offset, length) : 0;
    while (r == 0 && page < end) {
        uint64_t shift = page % 64;
        uint64_t n = min_u64(64 - shift, end - page);
        r = mark_zeros(disk, &cursor, page / 64, (n == 64 ? ~0ull : (1ull << n) - 1) << shift);
        page += n;
    }
    return r;
}

static int zero_whole(struct disk *disk, uint64_t offset, uint64_t length)
{
    pthread_rwlock_rdlock(&disk->layout);
    int r = zero_pages(disk, offset, length);
    pthread_rwlock_unlock(&disk->layout);
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

/* flushing is held, as by all of what follows. */
static int flush_layers(struct disk *disk)
{
    int r = disk->lost;

    for (unsigned i = 0; r == 0 && i < disk->layer_count; i++)
        r = disk_layer_flush(&disk->layers[i], &disk->marks);
    if (r == 0)
        r = sync_names(disk);
    disk->lost = r;
    return r;
}

int disk_flush(struct disk *disk)
{
    pthread_mutex_lock(&disk->flushing);
    int r = flush_layers(disk);
    pthread_mutex_unlock(&disk->flushing);
    return r;
}

/* ---- checkpoints ---- */

static int prepare_freeze(struct disk *disk, struct error *err)
{
    int r = 0;

    if (disk->layer_count == DISK_OVERLAYS_MAX) {
        pthread_rwlock_wrlock(&disk->layout);
        r = merge_top(disk, err);
        pthread_rwlock_unlock(&disk->layout);
    }
    return r < 0 ? r : make_spare(disk, err);
}

static int freeze(struct disk *disk, struct error *err)
{
    int r = prepare_freeze(disk, err);
    if (r < 0)
        return r;
    pthread_rwlock_wrlock(&disk->layout);
    r = push_spare(disk, err);
    pthread_rwlock_unlock(&disk->layout);
    return r;
}

static int with_flushing(struct disk *disk, int (*step)(struct disk *disk, struct error *err),
                         struct error *err)
{
    /* An empty one on top can take the writes to come. */
    if (disk->read_only || !disk_layer_is_used(top(disk)))
        return 0;
    pthread_mutex_lock(&disk->flushing);
    int r = step(disk, err);
    pthread_mutex_unlock(&disk->flushing);
    return r;
}

int disk_prepare_freeze(struct disk *disk, struct error *err)
{
    return with_flushing(disk, prepare_freeze, err);
}

int disk_freeze(struct disk *disk, struct error *err)
{
    return with_flushing(disk, freeze, err);
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

/* Takes all overlays but the newest out of the list; returns how many. */
static unsigned take_frozen(struct disk *disk, struct space **base, struct disk_layer *out)
{
    struct space *before = disk->base;

    pthread_rwlock_wrlock(&disk->layout);
    unsigned frozen = disk->layer_count > 0 ? disk->layer_count - 1 : 0;
    memcpy(out, disk->layers, frozen * sizeof(*out));
    disk->layer_count -= frozen;
    memmove(disk->layers, disk->layers + frozen, disk->layer_count * sizeof(*out));
    disk->base = *base;
    pthread_rwlock_unlock(&disk->layout);
    *base = before;
    return frozen;
}

void disk_rebase(struct disk *disk, struct space *base)
{
    struct disk_layer gone[DISK_OVERLAYS_MAX];

    pthread_mutex_lock(&disk->flushing);
    unsigned frozen = take_frozen(disk, &base, gone);
    /* Oldest first, one after the other: an older one alone would bring back what a
     * newer one replaced. */
    for (unsigned i = 0; i < frozen; i++) {
        forget_layer(disk, &gone[i]);
        if (i + 1 < frozen)
            (void)sync_names(disk);
    }
    pthread_mutex_unlock(&disk->flushing);
    space_close(base);
}

static int forget_all(struct disk *disk, struct error *err)
{
    disk->lost = 0;
    /* Newest first: what is left at any moment is a state that the disk once had. */
    for (; disk->layer_count > 0; disk->layer_count--)
        forget_layer(disk, top(disk));
    int r = push_spare(disk, err);
    if (r < 0)
        return r;
    r = flush_layers(disk);
    return r < 0 ? error_errno(err, -r, "cannot forget what disk %u held", disk->index) : 0;
}

int disk_reset(struct disk *disk, struct space *base, struct error *err)
{
    pthread_mutex_lock(&disk->flushing);
    pthread_rwlock_wrlock(&disk->layout);
    space_close(disk->base);
    disk->base = base;
    int r = disk->read_only ? 0 : forget_all(disk, err);
    pthread_rwlock_unlock(&disk->layout);
    pthread_mutex_unlock(&disk->flushing);
    return r;
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
