/* SPDX-License-Identifier: Apache-2.0 */
/* Stores in temporary directories and checkpoints to put into them. */
#ifndef STASIS_TESTS_SAMPLE_H
#define STASIS_TESTS_SAMPLE_H

#include "store/store.h"

#include <stdbool.h>

#define SAMPLE_MEMORY_PAGES 1200u
#define SAMPLE_DISK_PAGES 300u

/* A fresh directory; removed with all it holds by sample_dir_free(). */
char *sample_dir_new(void);
void sample_dir_free(char *dir);

/* Opens or makes a store in DIR/NAME; fails the test if it cannot. */
struct store *sample_store_open(const char *dir, const char *name);

/* A warm checkpoint: memory with zero, regular and random pages, a disk that
 * shares pages with it, a state blob; all of it follows from seed. */
struct digest sample_checkpoint(struct store *store, uint32_t seed);

/* As many distinct random pages as asked for, cold, with one disk. */
struct digest sample_big_checkpoint(struct store *store, uint32_t seed, uint64_t pages);

/* Every byte of every space and of the state the same? Fails the test if not. */
void sample_assert_same(struct store *a, const struct digest *id_a, struct store *b,
                        const struct digest *id_b);

/* No checkpoint is visible in the store? */
bool sample_store_is_empty(struct store *store);

#endif
