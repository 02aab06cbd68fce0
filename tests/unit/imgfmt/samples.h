/* SPDX-License-Identifier: Apache-2.0 */
/* One example of everything the format has, the same in unit tests, golden files
 * and the seeds of the fuzzers. */
#ifndef STASIS_TESTS_IMGFMT_SAMPLES_H
#define STASIS_TESTS_IMGFMT_SAMPLES_H

#include "base/buffer.h"
#include "imgfmt/manifest.h"
#include "imgfmt/map.h"
#include "imgfmt/pack.h"

#define SAMPLE_PACK_PAGES 5u
#define SAMPLE_PACK_GROUPS 2u

/* A page that no other seed gives; odd seeds do not compress. */
void sample_page(uint32_t seed, uint8_t page[STASIS_PAGE_SIZE]);

/* Reference number n: no two the same, none zero. */
struct page_ref sample_ref(uint32_t n);

void sample_leaf(struct map_node *out);
void sample_inner(struct map_node *out);

void sample_cold(struct manifest *out);
void sample_warm(struct manifest *out);
void sample_net(struct manifest *out);   /* sample_cold() with network cards */
void sample_vsock(struct manifest *out); /* sample_cold() with sockets */
void sample_net(struct manifest *out);   /* sample_cold() with network cards */
void sample_cpu(struct manifest *out);   /* sample_warm() with a CPU baseline and a balloon */

/* Three records: vCPU registers, a serial port, and one that may be skipped. */
int sample_state(struct buffer *out);

/* A pack in a new anonymous file: pages 0-3 (compressed) and page 1 (raw); or a
 * group with sample_leaf() and sample_inner(). Aborts on failure. */
int sample_pages_pack(void);
int sample_nodes_pack(void);

/* A pack with parity: groups of one page each, sample_page(0) and on, of which
 * every other is compressed. */
#define SAMPLE_PROTECTED_GROUPS 12u
int sample_protected_pack(void);

/* An anonymous file of these bytes, and the bytes of a file. Abort on failure. */
int sample_file(const void *data, size_t length);
void sample_contents(int fd, struct buffer *out);

/* Makes the checksum of a pack in memory right again. */
void sample_pack_reseal(struct buffer *pack);

#endif
