/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drivers for virtio-mmio version 2 (Virtio 1.1, section 4.2): block and entropy,
 * one request at a time, waiting by looking at the used ring.
 */
#ifndef PROBE_VIRTIO_H
#define PROBE_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_BLK_MAX 4
#define VIRTIO_BUFFER_SIZE 65536

struct virtio_blk_info {
    uint64_t sectors;
    bool has_flush;
    bool has_discard;
    bool read_only;
    char serial[21];
};

/* Looks for devices in the windows the command line names, in either form:
 *   virtio=BASE,STRIDE,COUNT
 *   virtio_mmio.device=SIZE@BASE:IRQ   (any number of them) */
void virtio_init(const char *cmdline);

unsigned virtio_blk_count(void);

/* These return NULL, or what went wrong. Sector ranges are checked by the device.
 * buffer is any RAM; at most VIRTIO_BUFFER_SIZE bytes at once. */
const char *virtio_blk_info(unsigned disk, struct virtio_blk_info *out);
const char *virtio_blk_read(unsigned disk, uint64_t lba, void *buffer, uint32_t bytes);
const char *virtio_blk_write(unsigned disk, uint64_t lba, const void *buffer, uint32_t bytes);
const char *virtio_blk_flush(unsigned disk);
const char *virtio_blk_discard(unsigned disk, uint64_t lba, uint32_t sectors);
const char *virtio_blk_zero(unsigned disk, uint64_t lba, uint32_t sectors);
const char *virtio_rng_read(void *buffer, uint32_t bytes);

/* A buffer of VIRTIO_BUFFER_SIZE in the guest's own memory. */
extern uint64_t virtio_buffer[VIRTIO_BUFFER_SIZE / 8];

#endif
