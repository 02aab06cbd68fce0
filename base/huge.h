/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory in huge pages. The first touch of a page is a fault; in a virtual machine,
 * where two levels of tables are to be filled, one costs several times as much as
 * decoding the 4 KiB that go into it. A huge page has one fault for 512 of them.
 */
#ifndef STASIS_BASE_HUGE_H
#define STASIS_BASE_HUGE_H

#include <stddef.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* At least so many bytes, for what is soon written from end to end; to be freed with
 * free(). Without huge pages it is memory like any other. NULL: there is none. */
void *huge_alloc(size_t bytes);

#endif
