/* SPDX-License-Identifier: Apache-2.0 */
/* The io_manager through which libext2fs reads a checkpoint's disk. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "fuse-mount/ext_internal.h"

#include <errno.h>

/* libext2fs opens by name only; what it shall open is handed over here. */
static _Thread_local struct ext_device *device_to_open;

static errcode_t io_close(io_channel channel)
{
    free(channel->name);
    free(channel);
    return 0;
}

static errcode_t io_set_blksize(io_channel channel, int block_size)
{
    struct ext_device *dev = channel->private_data;
    uint8_t *cache;

    if (block_size <= 0 || block_size > 65536)
        return EXT2_ET_CORRUPT_SUPERBLOCK;
    channel->block_size = block_size;
    if (dev->cache != NULL && dev->block_size == (uint32_t)block_size)
        return 0;
    cache = calloc(EXT_CACHE_SLOTS, (size_t)block_size);
    if (cache == NULL)
        return EXT2_ET_NO_MEMORY;
    free(dev->cache);
    dev->cache = cache;
    memset(dev->cached, 0, sizeof(dev->cached));
    dev->block_size = (uint32_t)block_size;
    return 0;
}

static int device_read_bytes(struct ext_device *dev, uint64_t offset, void *buf, size_t length)
{
    int r = overlay_read(&dev->src, dev->overlay, offset, buf, length);

    if (r < 0)
        dev->error = r;
    return r;
}

static errcode_t device_read_cached(struct ext_device *dev, uint64_t block, void *buf)
{
    size_t slot = block % EXT_CACHE_SLOTS;
    uint8_t *cached = dev->cache + slot * dev->block_size;
    uint64_t offset;

    if (mul_overflows(block, dev->block_size, &offset))
        return EXT2_ET_SHORT_READ;
    if (dev->cached[slot] != block + 1) {
        dev->cached[slot] = 0;
        if (device_read_bytes(dev, offset, cached, dev->block_size) < 0)
            return EXT2_ET_SHORT_READ;
        dev->cached[slot] = block + 1;
    }
    memcpy(buf, cached, dev->block_size);
    return 0;
}

static errcode_t io_read_blk64(io_channel channel, unsigned long long block, int count, void *buf)
{
    struct ext_device *dev = channel->private_data;
    uint64_t length = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * dev->block_size;
    uint64_t offset;

    dev->budget -= count < 0 ? 1 : count;
    if (dev->budget < 0) {
        dev->error = -EUCLEAN;
        return EXT2_ET_SHORT_READ;
    }
    if (count == 1)
        return device_read_cached(dev, block, buf);
    if (mul_overflows(block, dev->block_size, &offset) ||
        device_read_bytes(dev, offset, buf, length) < 0)
        return EXT2_ET_SHORT_READ;
    return 0;
}

static errcode_t io_read_blk(io_channel channel, unsigned long block, int count, void *buf)
{
    return io_read_blk64(channel, block, count, buf);
}

static errcode_t io_write_blk64(io_channel channel, unsigned long long block, int count,
                                const void *buf)
{
    (void)channel, (void)block, (void)count, (void)buf;
    return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write_blk(io_channel channel, unsigned long block, int count, const void *buf)
{
    return io_write_blk64(channel, block, count, buf);
}

static errcode_t io_flush(io_channel channel)
{
    (void)channel;
    return 0;
}

static errcode_t io_open(const char *name, int flags, io_channel *out);

static struct struct_io_manager io_of_source = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "Stasis checkpoint",
    .open = io_open,
    .close = io_close,
    .set_blksize = io_set_blksize,
    .read_blk = io_read_blk,
    .write_blk = io_write_blk,
    .flush = io_flush,
    .read_blk64 = io_read_blk64,
    .write_blk64 = io_write_blk64,
};

static errcode_t io_open(const char *name, int flags, io_channel *out)
{
    _cleanup_free_ struct struct_io_channel *channel = calloc(1, sizeof(*channel));
    errcode_t e;

    (void)flags;
    if (channel == NULL)
        return EXT2_ET_NO_MEMORY;
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = &io_of_source;
    channel->refcount = 1;
    channel->private_data = device_to_open;
    e = io_set_blksize(channel, 1024);
    if (e != 0)
        return e;
    channel->name = strdup(name);
    if (channel->name == NULL)
        return EXT2_ET_NO_MEMORY;
    *out = steal_pointer(channel);
    return 0;
}

errcode_t ext_device_open(struct ext_device *dev, int flags, ext2_filsys *out)
{
    errcode_t e;

    dev->budget = EXT_OPEN_BLOCKS_MAX;
    dev->error = 0;
    device_to_open = dev;
    e = ext2fs_open2("checkpoint", NULL, flags | EXT2_FLAG_64BITS, 0, 0, &io_of_source, out);
    device_to_open = NULL;
    return e;
}

void ext_device_clear(struct ext_device *dev)
{
    free(dev->cache);
    dev->cache = NULL;
    dev->block_size = 0;
}
