/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: anonymous memory in one or two regions (below the hole, above
 * 4 GiB). RAM page n, as in the "memory" space of a checkpoint, is the n-th page
 * of the low region, then of the high one. Everything a device does to RAM goes
 * through here: bounds are checked, and writes are noted beside KVM's dirty log.
 */
#ifndef STASIS_VMM_MEMORY_H
#define STASIS_VMM_MEMORY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memory_region {
    uint64_t gpa;
    uint64_t size_bytes;
    uint8_t *hva;
    uint64_t first_page; /* RAM page number of its first page */
};

struct memory {
    uint64_t size_bytes;
    unsigned region_count; /* 1 or 2 */
    struct memory_region regions[2];
    uint8_t *hva;           /* both regions, end to end */
    uint64_t *device_dirty; /* one bit a RAM page: written by the VMM itself */
    uint64_t dirty_words;
    int pagemap_fd; /* the process's: which pages are there, or -1 */
};

/* For a process that cannot open files later: what memory_discard() looks at. Before it
 * has threads. */
void memory_open_pagemap(void);

/* size_bytes: a multiple of the page size within LAYOUT_MEMORY_MIN.._MAX. */
int memory_create(uint64_t size_bytes, struct memory **out, struct error *err);
void memory_free(struct memory *mem);

/* The bytes [gpa, gpa + length) if they lie inside one region, else NULL. For
 * reading; whoever writes through it calls memory_mark_dirty(). */
void *memory_at(struct memory *mem, uint64_t gpa, uint64_t length);

/* Copies with bounds check; -EFAULT outside of RAM. Writes are noted as dirty. */
int memory_read(struct memory *mem, uint64_t gpa, void *buf, size_t length);
int memory_write(struct memory *mem, uint64_t gpa, const void *buf, size_t length);
int memory_zero(struct memory *mem, uint64_t gpa, size_t length);

/* Gives whole pages back to the host: they read as zeros from then on. Those that held
 * something are noted as dirty and counted, in bytes, in *dropped; the others are zero
 * already, here and in the checkpoint that memory builds on. -EFAULT outside of RAM or
 * between pages. Thread-safe. */
int memory_discard(struct memory *mem, uint64_t gpa, uint64_t length, uint64_t *dropped);

/* Notes a write by the VMM; the range was checked before. Thread-safe. */
void memory_mark_dirty(struct memory *mem, uint64_t gpa, uint64_t length);

/* RAM page number of a gpa inside RAM; UINT64_MAX outside. */
uint64_t memory_page_of(const struct memory *mem, uint64_t gpa);

#endif
