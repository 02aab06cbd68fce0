/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/fstype.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <sys/mman.h>

#define HEAD_BYTES (2u << 20)
#define TAIL_BYTES (1u << 20)

DEFINE_CLEANUP(struct blkid_struct_probe, blkid_free_probe)

static int copy_range(const struct source *src, int fd, uint64_t offset, size_t length)
{
    _cleanup_free_ uint8_t *buf = malloc(length);
    int r;

    if (buf == NULL)
        return -ENOMEM;
    r = source_read(src, offset, buf, length);
    return r < 0 ? r : io_pwrite_full(fd, buf, length, offset);
}

static int copy_ends(const struct source *src, int fd)
{
    uint64_t head = min_u64(src->size_bytes, HEAD_BYTES);
    uint64_t tail = min_u64(src->size_bytes - head, TAIL_BYTES);
    int r = 0;

    if (src->size_bytes > INT64_MAX || ftruncate(fd, (off_t)src->size_bytes) < 0)
        return -EFBIG;
    if (head > 0)
        r = copy_range(src, fd, 0, head);
    if (r == 0 && tail > 0)
        r = copy_range(src, fd, src->size_bytes - tail, tail);
    return r;
}

static void copy_text(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
    for (; *out != '\0'; out++)
        if ((unsigned char)*out < 0x20 || *out == 0x7f)
            *out = '?';
}

int fstype_probe(const struct source *src, struct fstype *out)
{
    _cleanup_close_ int fd = memfd_create("stasis-probe", MFD_CLOEXEC);
    _cleanup_(blkid_free_probep) blkid_probe probe = blkid_new_probe();
    const char *text = NULL;
    int r;

    if (fd < 0 || probe == NULL)
        return fd < 0 ? -errno : -ENOMEM;
    r = copy_ends(src, fd);
    if (r < 0)
        return r;
    if (blkid_probe_set_device(probe, fd, 0, (blkid_loff_t)src->size_bytes) != 0)
        return -EIO;
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL);
    if (blkid_do_safeprobe(probe) != 0 || blkid_probe_lookup_value(probe, "TYPE", &text, NULL) != 0)
        return 0;
    *out = (struct fstype){0};
    copy_text(out->name, sizeof(out->name), text);
    if (blkid_probe_lookup_value(probe, "LABEL", &text, NULL) == 0)
        copy_text(out->label, sizeof(out->label), text);
    return 1;
}
