/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/disk.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/stat.h>

/* A machine whose saves fail one after the other keeps its frozen overlays; past
 * this many the save is refused instead. */
#define LAYERS_MAX 64

struct layer {
    unsigned number;
    int data_fd;
    int map_fd;
    uint64_t *bits;
    bool dirty; /* written since the last flush */
};

struct disk {
    char *dir;
    unsigned index;
    struct space *base;
    uint64_t size_bytes;
    uint64_t pages;
    bool read_only;
    unsigned layer_count; /* oldest first; the last one takes writes */
    struct layer layers[LAYERS_MAX];
};

static uint64_t map_words(const struct disk *disk)
{
    return div_round_up(disk->pages, 64);
}

static bool layer_has(const struct layer *layer, uint64_t page)
{
    return (layer->bits[page / 64] >> (page % 64) & 1) != 0;
}

static char *layer_path(const char *dir, unsigned index, unsigned number, const char *suffix)
{
    return io_format("%s/disk%u.%u%s", dir, index, number, suffix);
}

static void layer_close(struct layer *layer)
{
    if (layer->data_fd >= 0)
        close(layer->data_fd);
    if (layer->map_fd >= 0)
        close(layer->map_fd);
    free(layer->bits);
}

static void layer_unlink(const struct disk *disk, const struct layer *layer)
{
    _cleanup_free_ char *data = layer_path(disk->dir, disk->index, layer->number, "");
    _cleanup_free_ char *map = layer_path(disk->dir, disk->index, layer->number, ".map");

    unlink(map); /* without its map a data file is nothing */
    unlink(data);
}

/* Reads the map of an overlay that was there; a map cut short ends in zeros:
 * what it does not list was never flushed. */
static int layer_load_map(const struct disk *disk, struct layer *layer)
{
    size_t bytes = map_words(disk) * sizeof(uint64_t);
    size_t done = 0;

    while (done < bytes) {
        ssize_t n = pread(layer->map_fd, (uint8_t *)layer->bits + done, bytes - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        done += (size_t)n;
    }
    return 0;
}

static int layer_open_files(const struct disk *disk, struct layer *layer, int flags)
{
    _cleanup_free_ char *data = layer_path(disk->dir, disk->index, layer->number, "");
    _cleanup_free_ char *map = layer_path(disk->dir, disk->index, layer->number, ".map");

    layer->data_fd = open(data, O_RDWR | O_CLOEXEC | flags, 0600);
    if (layer->data_fd < 0)
        return -errno;
    layer->map_fd = open(map, O_RDWR | O_CLOEXEC | flags, 0600);
    if (layer->map_fd < 0)
        return -errno;
    layer->bits = calloc(map_words(disk) + 1, sizeof(uint64_t));
    if (layer->bits == NULL)
        return -ENOMEM;
    if (ftruncate(layer->data_fd, (off_t)(disk->pages * STASIS_PAGE_SIZE)) < 0)
        return -errno;
    return layer_load_map(disk, layer);
}

/* Opens (flags 0) or makes (O_CREAT | O_TRUNC) an overlay on top. */
static int push_layer(struct disk *disk, unsigned number, int flags, struct error *err)
{
    if (disk->layer_count == LAYERS_MAX)
        return error_set(err, STATUS_FAILED, ENOSPC, "disk %u has %d overlays that no save took",
                         disk->index, LAYERS_MAX);
    struct layer *layer = &disk->layers[disk->layer_count];
    *layer = (struct layer){.number = number, .data_fd = -1, .map_fd = -1};

    int r = layer_open_files(disk, layer, flags);
    if (r < 0) {
        layer_close(layer);
        return error_errno(err, -r, "cannot open an overlay of disk %u in %s", disk->index,
                           disk->dir);
    }
    disk->layer_count++;
    return 0;
}

static int push_new_layer(struct disk *disk, struct error *err)
{
    unsigned number = disk->layer_count == 0 ? 1 : disk->layers[disk->layer_count - 1].number + 1;

    return push_layer(disk, number, O_CREAT | O_TRUNC, err);
}

static int compare_numbers(const void *a, const void *b)
{
    unsigned left = *(const unsigned *)a;
    unsigned right = *(const unsigned *)b;

    return left < right ? -1 : left > right;
}

/* Is this the map of an overlay ("diskN.K.map")? Then N and K. */
static bool parse_map_name(const char *name, unsigned *index, unsigned *number)
{
    int end = 0;

    return sscanf(name, "disk%u.%u.map%n", index, number, &end) == 2 && end > 0 &&
           name[end] == '\0';
}

static int find_layers(const struct disk *disk, unsigned numbers[LAYERS_MAX], size_t *count_out)
{
    _cleanup_closedir_ DIR *dir = opendir(disk->dir);
    size_t count = 0;

    if (dir == NULL)
        return -errno;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        unsigned index, number;
        if (!parse_map_name(entry->d_name, &index, &number) || index != disk->index)
            continue;
        if (count == LAYERS_MAX)
            return -E2BIG;
        numbers[count++] = number;
    }
    qsort(numbers, count, sizeof(numbers[0]), compare_numbers);
    *count_out = count;
    return 0;
}

static int open_layers(struct disk *disk, bool keep, struct error *err)
{
    unsigned numbers[LAYERS_MAX];
    size_t count = 0;

    int r = find_layers(disk, numbers, &count);
    if (r < 0)
        return error_errno(err, -r, "cannot look for overlays in %s", disk->dir);
    for (size_t i = 0; i < count; i++) {
        if (!keep) {
            layer_unlink(disk, &(struct layer){.number = numbers[i]});
            continue;
        }
        if ((r = push_layer(disk, numbers[i], 0, err)) < 0)
            return r;
    }
    return disk->layer_count > 0 ? 0 : push_new_layer(disk, err);
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
    disk->index = index;
    disk->base = base;
    disk->size_bytes = space_size_bytes(base);
    disk->pages = space_page_count(base);
    disk->read_only = read_only;
    int r = read_only ? 0 : open_layers(disk, keep, err);
    if (r < 0) {
        disk_close(disk);
        return r;
    }
    *out = disk;
    return 0;
}

/* Writes the maps out without waiting: an orderly end loses nothing that the
 * guest wrote, even what it did not flush. */
static void write_maps(struct disk *disk)
{
    for (unsigned i = 0; i < disk->layer_count; i++)
        if (disk->layers[i].dirty)
            (void)io_pwrite_full(disk->layers[i].map_fd, disk->layers[i].bits,
                                 map_words(disk) * sizeof(uint64_t), 0);
}

void disk_close(struct disk *disk)
{
    if (disk == NULL)
        return;
    write_maps(disk);
    for (unsigned i = 0; i < disk->layer_count; i++)
        layer_close(&disk->layers[i]);
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

/* The newest overlay that has the page, or NULL. */
static struct layer *find_layer(struct disk *disk, uint64_t page)
{
    for (unsigned i = disk->layer_count; i > 0; i--)
        if (layer_has(&disk->layers[i - 1], page))
            return &disk->layers[i - 1];
    return NULL;
}

/* Pages from `page` on that come from the same place, at most `limit`. */
static uint64_t run_length(struct disk *disk, uint64_t page, uint64_t limit,
                           const struct layer *from)
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
        struct layer *from = find_layer(disk, page);
        uint64_t run = run_length(disk, page, last - page + 1, from);
        size_t n = (size_t)min_u64(length, (page + run) * STASIS_PAGE_SIZE - offset);
        int r = from != NULL ? io_pread_full(from->data_fd, p, n, offset)
                             : space_read(disk->base, offset, p, n, NULL);
        if (r < 0)
            return r;
        p += n;
        offset += n;
        length -= n;
    }
    return 0;
}

static struct layer *top(struct disk *disk)
{
    return &disk->layers[disk->layer_count - 1];
}

static void mark_present(struct layer *layer, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; page < first + count; page++)
        layer->bits[page / 64] |= 1ull << (page % 64);
    layer->dirty = true;
}

/* A page that is written in part is completed in the overlay first. */
static int write_part(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    uint64_t page = offset / STASIS_PAGE_SIZE;
    uint64_t start = page * STASIS_PAGE_SIZE;
    uint8_t bytes[STASIS_PAGE_SIZE] = {0};
    struct layer *layer = top(disk);

    if (layer_has(layer, page)) {
        layer->dirty = true;
        return io_pwrite_full(layer->data_fd, buf, length, offset);
    }
    int r = disk_read(disk, start, bytes, min_u64(sizeof(bytes), disk->size_bytes - start));
    if (r < 0)
        return r;
    memcpy(bytes + (offset - start), buf, length);
    r = io_pwrite_full(layer->data_fd, bytes, sizeof(bytes), start);
    if (r == 0)
        mark_present(layer, page, 1);
    return r;
}

static int write_whole(struct disk *disk, uint64_t offset, const void *buf, size_t length)
{
    int r = io_pwrite_full(top(disk)->data_fd, buf, length, offset);
    if (r == 0)
        mark_present(top(disk), offset / STASIS_PAGE_SIZE, length / STASIS_PAGE_SIZE);
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

static int zero_whole(struct disk *disk, uint64_t offset, uint64_t length)
{
    if (fallocate(top(disk)->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)length) < 0)
        return -errno;
    mark_present(top(disk), offset / STASIS_PAGE_SIZE, length / STASIS_PAGE_SIZE);
    return 0;
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

static int layer_flush(const struct disk *disk, struct layer *layer)
{
    if (!layer->dirty)
        return 0;
    if (fdatasync(layer->data_fd) < 0)
        return -errno;
    int r = io_pwrite_full(layer->map_fd, layer->bits, map_words(disk) * sizeof(uint64_t), 0);
    if (r < 0)
        return r;
    if (fdatasync(layer->map_fd) < 0)
        return -errno;
    layer->dirty = false;
    return 0;
}

int disk_flush(struct disk *disk)
{
    for (unsigned i = 0; i < disk->layer_count; i++) {
        int r = layer_flush(disk, &disk->layers[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

int disk_freeze(struct disk *disk, struct error *err)
{
    if (disk->read_only)
        return 0;
    return push_new_layer(disk, err);
}

bool disk_has_frozen(const struct disk *disk)
{
    return disk->layer_count > 1;
}

int disk_frozen_each(struct disk *disk,
                     int (*visit)(uint64_t page, const void *bytes, void *context), void *context,
                     struct error *err)
{
    unsigned frozen = disk->layer_count > 0 ? disk->layer_count - 1 : 0;
    uint8_t bytes[STASIS_PAGE_SIZE];

    for (uint64_t word = 0; word < map_words(disk); word++) {
        uint64_t any = 0;
        for (unsigned i = 0; i < frozen; i++)
            any |= disk->layers[i].bits[word];
        for (; any != 0; any &= any - 1) {
            uint64_t page = word * 64 + (uint64_t)__builtin_ctzll(any);
            unsigned i = frozen;
            while (!layer_has(&disk->layers[i - 1], page))
                i--;
            int r = io_pread_full(disk->layers[i - 1].data_fd, bytes, sizeof(bytes),
                                  page * STASIS_PAGE_SIZE);
            if (r < 0)
                return error_errno(err, -r, "cannot read the overlay of disk %u", disk->index);
            r = visit(page, page_is_zero(bytes) ? NULL : bytes, context);
            if (r != 0)
                return r;
        }
    }
    return 0;
}

static void drop_layers(struct disk *disk, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        layer_unlink(disk, &disk->layers[i]);
        layer_close(&disk->layers[i]);
    }
    disk->layer_count -= count;
    memmove(disk->layers, disk->layers + count, disk->layer_count * sizeof(disk->layers[0]));
}

void disk_rebase(struct disk *disk, struct space *base)
{
    if (disk->layer_count > 1)
        drop_layers(disk, disk->layer_count - 1);
    space_close(disk->base);
    disk->base = base;
}

int disk_reset(struct disk *disk, struct space *base, struct error *err)
{
    space_close(disk->base);
    disk->base = base;
    if (disk->read_only)
        return 0;
    drop_layers(disk, disk->layer_count);
    return push_new_layer(disk, err);
}

int disk_remove_overlays(const char *dir_path, struct error *err)
{
    _cleanup_closedir_ DIR *dir = opendir(dir_path);

    if (dir == NULL)
        return error_errno(err, errno, "cannot look for overlays in %s", dir_path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        unsigned index, number;
        if (!parse_map_name(entry->d_name, &index, &number))
            continue;
        _cleanup_free_ char *data = layer_path(dir_path, index, number, "");
        _cleanup_free_ char *map = layer_path(dir_path, index, number, ".map");
        if (unlink(map) < 0 || (unlink(data) < 0 && errno != ENOENT))
            return error_errno(err, errno, "cannot remove %s", data);
    }
    int r = io_sync_dir(dirfd(dir));
    return r < 0 ? error_errno(err, -r, "cannot sync %s", dir_path) : 0;
}
