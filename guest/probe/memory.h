/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM as the commands number it: page n is the n-th page of the memory below
 * 4 GiB, counted from address 0, holes and all; the memory above 4 GiB follows
 * without a gap. What a hypervisor with one low and one high region calls RAM
 * page n.
 */
#ifndef PROBE_MEMORY_H
#define PROBE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* Reads the PVH start info and maps what lies above 4 GiB. False if it makes no
 * sense. */
bool memory_init(const void *start_info);

/* One more than the highest page number. */
uint64_t memory_pages(void);

/* Guest physical address (and pointer) of a page. */
uint64_t memory_address(uint64_t page);

/* Are all these pages RAM? */
bool memory_is_ram(uint64_t page, uint64_t count);

/* Are they RAM and at the commands' disposal? */
bool memory_is_free(uint64_t page, uint64_t count);

/* How many of count pages from page on are contiguous in address. */
uint64_t memory_contiguous(uint64_t page, uint64_t count);

void memory_fill(uint64_t page, uint64_t count, uint64_t seed);

/* pattern.h; the range is RAM. */
uint64_t memory_sum(uint64_t page, uint64_t count);

/* All RAM but the guest's own varying part. Returns the sum. */
uint64_t memory_sum_all(uint64_t *pages_out);

/* Where the ACPI tables begin (RSDP), 0 if the start info does not say. */
uint64_t memory_rsdp(void);

/* The command line; never NULL. */
const char *memory_cmdline(void);

#endif
