/* SPDX-License-Identifier: Apache-2.0 */
/* Content of files: block maps under the lock, data outside it. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "fuse-mount/ext_internal.h"

#include <errno.h>

/* Blocks mapped at a time: bounds the run list of one read. */
#define MAP_BATCH_BLOCKS 1024u

/* ---- block maps ---- */

errcode_t ext_map_open(struct ext *fs, uint32_t inode_number, const struct ext2_inode *inode,
                       struct ext_map *out)
{
    *out = (struct ext_map){.inode_number = inode_number, .inode = *inode};
    if (inode->i_flags & EXT4_EXTENTS_FL) /* the handle keeps a pointer to the inode */
        return ext2fs_extent_open2(fs->fs, inode_number, &out->inode, &out->extents);
    return ext2fs_get_mem(2ul * fs->fs->blocksize, &out->scratch);
}

void ext_map_close(struct ext_map *map)
{
    if (map->extents != NULL)
        ext2fs_extent_free(map->extents);
    if (map->scratch != NULL)
        ext2fs_free_mem(&map->scratch);
    *map = (struct ext_map){0};
}

static void runs_add(struct ext_run *runs, size_t *count, uint64_t physical, uint64_t blocks)
{
    struct ext_run *last = *count > 0 ? &runs[*count - 1] : NULL;
    bool joins = last != NULL &&
                 (physical == 0 ? last->physical == 0
                                : last->physical != 0 && last->physical + last->count == physical);

    if (joins)
        last->count += blocks;
    else
        runs[(*count)++] = (struct ext_run){.physical = physical, .count = blocks};
}

static errcode_t map_indirect(struct ext *fs, struct ext_map *map, uint64_t first, uint64_t count,
                              struct ext_run *runs, size_t *run_count)
{
    for (uint64_t i = 0; i < count; i++) {
        blk64_t physical = 0;
        errcode_t e = ext2fs_bmap2(fs->fs, map->inode_number, &map->inode, map->scratch, 0,
                                   first + i, NULL, &physical);
        if (e != 0)
            return e;
        runs_add(runs, run_count, physical, 1);
    }
    return 0;
}

/* Finds the leaf extent that holds a block, or else one near it. *found_out false:
 * the tree is empty. */
static errcode_t extent_seek(struct ext_map *map, uint64_t block, struct ext2fs_extent *out,
                             bool *found_out)
{
    errcode_t e = ext2fs_extent_goto2(map->extents, 0, block);

    *found_out = false;
    if (e != 0 && e != EXT2_ET_EXTENT_NOT_FOUND)
        return e == EXT2_ET_EXTENT_NO_NEXT ? 0 : e;
    e = ext2fs_extent_get(map->extents, EXT2_EXTENT_CURRENT, out);
    if (e == EXT2_ET_NO_CURRENT_NODE)
        return 0;
    if (e == 0 && !(out->e_flags & EXT2_EXTENT_FLAGS_LEAF))
        e = ext2fs_extent_get(map->extents, EXT2_EXTENT_NEXT_LEAF, out);
    *found_out = e == 0;
    return e == EXT2_ET_EXTENT_NO_NEXT ? 0 : e;
}

static errcode_t map_extents(struct ext_map *map, uint64_t first, uint64_t count,
                             struct ext_run *runs, size_t *run_count)
{
    uint64_t at = first, end = first + count;
    struct ext2fs_extent x;
    bool found;
    errcode_t e = extent_seek(map, first, &x, &found);

    if (e != 0)
        return e;
    while (at < end) {
        if (!found || x.e_lblk >= end) {
            runs_add(runs, run_count, 0, end - at);
            return 0;
        }
        if (x.e_lblk > at) {
            runs_add(runs, run_count, 0, x.e_lblk - at);
            at = x.e_lblk;
        }
        if (at < x.e_lblk + x.e_len) {
            uint64_t blocks = min_u64(end, x.e_lblk + x.e_len) - at;
            bool written = !(x.e_flags & EXT2_EXTENT_FLAGS_UNINIT);

            runs_add(runs, run_count, written ? x.e_pblk + (at - x.e_lblk) : 0, blocks);
            at += blocks;
            continue;
        }
        uint64_t before = x.e_lblk;

        e = ext2fs_extent_get(map->extents, EXT2_EXTENT_NEXT_LEAF, &x);
        if (e != 0 && e != EXT2_ET_EXTENT_NO_NEXT)
            return e;
        found = e == 0;
        if (found && x.e_lblk <= before) /* not ascending: would go round for ever */
            return EXT2_ET_EXTENT_HEADER_BAD;
    }
    return 0;
}

errcode_t ext_map_range(struct ext *fs, struct ext_map *map, uint64_t first, uint64_t count,
                        struct ext_run *runs, size_t *run_count_out)
{
    size_t run_count = 0;
    errcode_t e = map->extents != NULL ? map_extents(map, first, count, runs, &run_count)
                                       : map_indirect(fs, map, first, count, runs, &run_count);

    if (e == 0)
        *run_count_out = run_count;
    return e;
}

/* ---- files ---- */

struct ext_file {
    struct ext *fs;
    uint64_t size_bytes;
    struct ext_map map; /* under the lock of fs */
    uint8_t *content;   /* all of it, where it lies in the inode */
};

static errcode_t file_load_inline(struct ext_file *file, struct ext2_inode *inode,
                                  uint32_t inode_number)
{
    ext2_filsys fs = file->fs->fs;
    size_t length = 0;
    errcode_t e = ext2fs_inline_data_size(fs, inode_number, &length);

    if (e != 0)
        return e;
    if (length > fs->blocksize || file->size_bytes > length) /* it fits an inode and a block */
        return EXT2_ET_FILE_TOO_BIG;
    file->content = calloc(1, length + 1);
    if (file->content == NULL)
        return EXT2_ET_NO_MEMORY;
    return ext2fs_inline_data_get(fs, inode_number, inode, file->content, &length);
}

static errcode_t file_load(struct ext_file *file, uint32_t inode_number, int *refused)
{
    struct ext2_inode inode;
    errcode_t e = ext2fs_read_inode(file->fs->fs, inode_number, &inode);

    if (e != 0)
        return e;
    if (!LINUX_S_ISREG(inode.i_mode))
        *refused = LINUX_S_ISDIR(inode.i_mode) ? -EISDIR : -EINVAL;
    else if (inode.i_flags & EXT4_ENCRYPT_FL)
        *refused = -ENOKEY;
    if (*refused != 0)
        return 0;
    file->size_bytes = EXT2_I_SIZE(&inode);
    if (file->size_bytes > INT64_MAX)
        return EXT2_ET_FILE_TOO_BIG;
    if (inode.i_flags & EXT4_INLINE_DATA_FL)
        return file_load_inline(file, &inode, inode_number);
    return ext_map_open(file->fs, inode_number, &inode, &file->map);
}

int ext_file_open(struct ext *fs, uint32_t inode, struct ext_file **out)
{
    struct ext_file *file = calloc(1, sizeof(*file));
    int refused = 0, r;

    if (file == NULL)
        return -ENOMEM;
    file->fs = fs;
    ext_begin(fs);
    r = ext_end(fs, file_load(file, inode, &refused));
    if (r == 0)
        r = refused;
    if (r < 0) {
        ext_file_close(file);
        return r;
    }
    *out = file;
    return 0;
}

void ext_file_close(struct ext_file *file)
{
    if (file == NULL)
        return;
    ext_begin(file->fs);
    ext_map_close(&file->map);
    (void)ext_end(file->fs, 0);
    free(file->content);
    free(file);
}

uint64_t ext_file_size(const struct ext_file *file)
{
    return file->size_bytes;
}

/* Reads [offset, offset + length) inside the blocks that begin at base_bytes. */
static int read_runs(const struct ext *fs, const struct ext_run *runs, size_t run_count,
                     uint64_t skip_bytes, uint8_t *buf, size_t length)
{
    uint32_t block_size = fs->fs->blocksize;

    for (size_t i = 0; i < run_count && length > 0; i++) {
        uint64_t run_bytes = runs[i].count * block_size, at;
        size_t piece;
        int r = 0;

        if (skip_bytes >= run_bytes) {
            skip_bytes -= run_bytes;
            continue;
        }
        piece = min_u64(length, run_bytes - skip_bytes);
        if (runs[i].physical == 0)
            memset(buf, 0, piece);
        else if (mul_overflows(runs[i].physical, block_size, &at) ||
                 add_overflows(at, skip_bytes, &at))
            r = -EUCLEAN;
        else
            r = overlay_read(&fs->device.src, &fs->overlay, at, buf, piece);
        if (r < 0)
            return r == -ERANGE ? -EUCLEAN : r; /* a block past the end of the disk */
        buf += piece;
        length -= piece;
        skip_bytes = 0;
    }
    return 0;
}

static int read_batch(struct ext_file *file, uint64_t offset, uint8_t *buf, size_t length)
{
    uint32_t block_size = file->fs->fs->blocksize;
    uint64_t first = offset / block_size;
    uint64_t blocks = div_round_up(offset % block_size + length, block_size);
    _cleanup_free_ struct ext_run *runs = calloc(blocks, sizeof(*runs));
    size_t run_count = 0;
    int r;

    if (runs == NULL)
        return -ENOMEM;
    ext_begin(file->fs);
    r = ext_end(file->fs, ext_map_range(file->fs, &file->map, first, blocks, runs, &run_count));
    if (r < 0)
        return r;
    return read_runs(file->fs, runs, run_count, offset % block_size, buf, length);
}

int ext_file_read(struct ext_file *file, uint64_t offset, void *buf, size_t length,
                  size_t *done_out)
{
    size_t batch_max = (size_t)(MAP_BATCH_BLOCKS - 1) * file->fs->fs->blocksize;
    size_t done = 0;

    length = offset >= file->size_bytes ? 0 : min_u64(length, file->size_bytes - offset);
    while (done < length) {
        size_t piece = min_u64(length - done, batch_max);
        int r = 0;

        if (file->content != NULL)
            memcpy((uint8_t *)buf + done, file->content + offset + done, piece);
        else
            r = read_batch(file, offset + done, (uint8_t *)buf + done, piece);
        if (r < 0)
            return r;
        done += piece;
    }
    *done_out = done;
    return 0;
}
