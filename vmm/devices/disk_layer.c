/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/disk_layer.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/page.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/uio.h>

/* Words of the map in one page of its file: the unit in which it is written. */
enum { WORDS_PER_BLOCK = STASIS_PAGE_SIZE / sizeof(uint64_t) };

static char *disk_layer_path(const char *dir, unsigned disk, unsigned number, const char *suffix)
{
    return io_format("%s/disk%u.%u%s", dir, disk, number, suffix);
}

static uint64_t map_blocks(const struct disk_layer *overlay)
{
    return div_round_up(disk_layer_words(overlay), WORDS_PER_BLOCK);
}

/* Bits behind the last page mean nothing: whoever goes through the map need not
 * look for them. */
static void clear_tail(struct disk_layer *overlay)
{
    if (overlay->pages % 64 != 0)
        overlay->bits[overlay->pages / 64] &= (1ull << (overlay->pages % 64)) - 1;
}

/* A map cut short ends in zeros: what it does not list was never flushed. */
static int load_map(struct disk_layer *overlay)
{
    size_t bytes = disk_layer_words(overlay) * sizeof(uint64_t);

    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            pread(overlay->map_fd, (uint8_t *)overlay->bits + done, bytes - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    clear_tail(overlay);
    for (uint64_t i = 0; i < disk_layer_words(overlay) && !overlay->used; i++)
        overlay->used = overlay->bits[i] != 0;
    return 0;
}

static int open_files(struct disk_layer *overlay, const char *dir, unsigned disk, bool create)
{
    _cleanup_free_ char *data = disk_layer_path(dir, disk, overlay->number, "");
    _cleanup_free_ char *map = disk_layer_path(dir, disk, overlay->number, ".map");
    int flags = O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0);

    overlay->data_fd = open(data, flags, 0600);
    if (overlay->data_fd < 0)
        return -errno;
    overlay->map_fd = open(map, flags, 0600);
    if (overlay->map_fd < 0)
        return -errno;
    overlay->bits = calloc(disk_layer_words(overlay) + 1, sizeof(uint64_t));
    overlay->changed = calloc(map_blocks(overlay) / 64 + 1, sizeof(uint64_t));
    overlay->flush_bits = calloc(disk_layer_words(overlay) + 1, sizeof(uint64_t));
    overlay->flush_changed = calloc(map_blocks(overlay) / 64 + 1, sizeof(uint64_t));
    if (overlay->bits == NULL || overlay->changed == NULL || overlay->flush_bits == NULL ||
        overlay->flush_changed == NULL)
        return -ENOMEM;
    if (ftruncate(overlay->data_fd, (off_t)(overlay->pages * STASIS_PAGE_SIZE)) < 0)
        return -errno;
    return create ? 0 : load_map(overlay);
}

int disk_layer_open(const char *dir, unsigned disk, unsigned number, uint64_t pages, bool create,
                    struct disk_layer *out)
{
    struct disk_layer overlay = {
        .number = number, .pages = pages, .data_fd = -1, .map_fd = -1, .written = !create};

    int r = open_files(&overlay, dir, disk, create);
    if (r < 0)
        disk_layer_close(&overlay);
    else
        *out = overlay;
    return r;
}

void disk_layer_close(struct disk_layer *overlay)
{
    if (overlay->data_fd >= 0)
        close(overlay->data_fd);
    if (overlay->map_fd >= 0)
        close(overlay->map_fd);
    free(overlay->bits);
    free(overlay->changed);
    free(overlay->flush_bits);
    free(overlay->flush_changed);
}

int disk_layer_unlink(const char *dir, unsigned disk, unsigned number)
{
    _cleanup_free_ char *data = disk_layer_path(dir, disk, number, "");
    _cleanup_free_ char *map = disk_layer_path(dir, disk, number, ".map");

    if (unlink(map) < 0 && errno != ENOENT)
        return -errno;
    return unlink(data) < 0 && errno != ENOENT ? -errno : 0;
}

/* ---- finding them ---- */

static int compare_names(const void *a, const void *b)
{
    const struct disk_layer_name *left = a;
    const struct disk_layer_name *right = b;

    if (left->disk != right->disk)
        return left->disk < right->disk ? -1 : 1;
    return left->number < right->number ? -1 : left->number > right->number;
}

/* Is this the map of an overlay ("diskN.K.map")? */
static bool parse_map_name(const char *text, struct disk_layer_name *out)
{
    int end = 0;

    return sscanf(text, "disk%u.%u.map%n", &out->disk, &out->number, &end) == 2 && end > 0 &&
           text[end] == '\0';
}

int disk_layer_list(const char *dir_path, struct disk_layer_name **out, size_t *count_out)
{
    _cleanup_closedir_ DIR *dir = opendir(dir_path);
    _cleanup_free_ struct disk_layer_name *names = NULL;
    size_t count = 0;

    if (dir == NULL)
        return -errno;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct disk_layer_name name;
        if (!parse_map_name(entry->d_name, &name))
            continue;
        struct disk_layer_name *more = reallocarray(names, count + 1, sizeof(*names));
        if (more == NULL)
            return -ENOMEM;
        names = more;
        names[count++] = name;
    }
    if (count > 0)
        qsort(names, count, sizeof(*names), compare_names);
    *out = steal_pointer(names);
    *count_out = count;
    return 0;
}

/* ---- what it holds ---- */

/* After what it is about: a flush that begins before is free to miss it. */
static void set_unsynced(struct disk_layer *overlay)
{
    __atomic_store_n(&overlay->unsynced, true, __ATOMIC_RELEASE);
}

void disk_layer_mark(struct disk_layer *overlay, uint64_t word, uint64_t mask)
{
    if ((mask & ~overlay->bits[word]) == 0)
        return;
    __atomic_fetch_or(&overlay->bits[word], mask, __ATOMIC_RELEASE);
    overlay->changed[word / WORDS_PER_BLOCK / 64] |= 1ull << (word / WORDS_PER_BLOCK % 64);
    __atomic_store_n(&overlay->used, true, __ATOMIC_RELEASE);
    set_unsynced(overlay);
}

void disk_layer_mark_pages(struct disk_layer *overlay, uint64_t first, uint64_t count)
{
    while (count > 0) {
        uint64_t shift = first % 64;
        uint64_t n = min_u64(64 - shift, count);
        disk_layer_mark(overlay, first / 64, (n == 64 ? ~0ull : (1ull << n) - 1) << shift);
        first += n;
        count -= n;
    }
}

int disk_layer_write(struct disk_layer *overlay, uint64_t offset, const void *buf, size_t length)
{
    __atomic_store_n(&overlay->written, true, __ATOMIC_RELEASE);
    int r = io_pwrite_full(overlay->data_fd, buf, length, offset);

    set_unsynced(overlay); /* also when only a part was written */
    return r;
}

int disk_layer_punch(struct disk_layer *overlay, uint64_t offset, uint64_t length)
{
    int r = fallocate(overlay->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)length) < 0
                ? -errno
                : 0;

    set_unsynced(overlay);
    return r;
}

int disk_layer_read(const struct disk_layer *overlay, uint64_t offset, void *buf, size_t length)
{
    return io_pread_full(overlay->data_fd, buf, length, offset);
}

int disk_layer_read_cached(const struct disk_layer *overlay, uint64_t offset, void *buf,
                           size_t length)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};

    /* Any failure, too: whoever reads again without the flag finds out. */
    return preadv2(overlay->data_fd, &iov, 1, (off_t)offset, RWF_NOWAIT) == (ssize_t)length
               ? 0
               : -EAGAIN;
}

/* ---- durability ---- */

static int write_block(struct disk_layer *overlay, uint64_t block)
{
    uint64_t first = block * WORDS_PER_BLOCK;
    uint64_t words = min_u64(WORDS_PER_BLOCK, disk_layer_words(overlay) - first);

    return io_pwrite_full(overlay->map_fd, overlay->flush_bits + first, words * sizeof(uint64_t),
                          first * sizeof(uint64_t));
}

/* Notes what the map says now. */
static void take_changed(struct disk_layer *overlay)
{
    uint64_t words = map_blocks(overlay) / 64 + 1;

    for (uint64_t i = 0; i < words; i++) {
        overlay->flush_changed[i] = overlay->changed[i];
        overlay->changed[i] = 0;
        for (uint64_t word = overlay->flush_changed[i]; word != 0; word &= word - 1) {
            uint64_t first = (i * 64 + (uint64_t)__builtin_ctzll(word)) * WORDS_PER_BLOCK;
            memcpy(overlay->flush_bits + first, overlay->bits + first,
                   min_u64(WORDS_PER_BLOCK, disk_layer_words(overlay) - first) * sizeof(uint64_t));
        }
    }
}

static int write_changed(struct disk_layer *overlay, bool *any_out)
{
    uint64_t words = map_blocks(overlay) / 64 + 1;

    for (uint64_t i = 0; i < words; i++)
        for (uint64_t word = overlay->flush_changed[i]; word != 0; word &= word - 1) {
            int r = write_block(overlay, i * 64 + (uint64_t)__builtin_ctzll(word));
            if (r < 0)
                return r;
            *any_out = true;
        }
    return 0;
}

int disk_layer_flush(struct disk_layer *overlay, pthread_mutex_t *marks)
{
    bool any = false;

    if (!__atomic_exchange_n(&overlay->unsynced, false, __ATOMIC_ACQ_REL))
        return 0;
    pthread_mutex_lock(marks);
    take_changed(overlay);
    pthread_mutex_unlock(marks);
    if (fdatasync(overlay->data_fd) < 0)
        return -errno;
    int r = write_changed(overlay, &any);
    if (r < 0)
        return r;
    return any && fdatasync(overlay->map_fd) < 0 ? -errno : 0;
}

static int copy_page(const struct disk_layer *from, struct disk_layer *into, uint64_t page)
{
    uint8_t bytes[STASIS_PAGE_SIZE];
    uint64_t offset = page * STASIS_PAGE_SIZE;

    int r = disk_layer_read(from, offset, bytes, sizeof(bytes));
    if (r < 0)
        return r;
    return page_is_zero(bytes) ? disk_layer_punch(into, offset, sizeof(bytes))
                               : disk_layer_write(into, offset, bytes, sizeof(bytes));
}

int disk_layer_merge(const struct disk_layer *from, struct disk_layer *into, pthread_mutex_t *marks)
{
    for (uint64_t i = 0; i < disk_layer_words(from); i++) {
        for (uint64_t word = from->bits[i]; word != 0; word &= word - 1) {
            int r = copy_page(from, into, i * 64 + (uint64_t)__builtin_ctzll(word));
            if (r < 0)
                return r;
        }
        disk_layer_mark(into, i, from->bits[i]);
    }
    return disk_layer_flush(into, marks);
}
