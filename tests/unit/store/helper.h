/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the store share: a store in a fresh directory, pages with
 * known content, checkpoints of them. Everything here fails the test itself. */
#ifndef STASIS_TESTS_STORE_HELPER_H
#define STASIS_TESTS_STORE_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/catalogue.h"
#include "store/ingest.h"
#include "store/store.h"
#include "store/usage.h"

struct fixture {
    char *dir; /* of the test; removed afterwards */
    char *store_dir;
    struct store *store;
};

/* cmocka set-up and tear-down: *state is a struct fixture with an open store. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* Closes the store and opens it again. */
void fixture_reopen(struct fixture *f);

/* Fails the test with the error's message unless r is 0. */
void must(int r, const struct error *err);

/* xorshift64*: the same numbers from the same seed. */
uint64_t random_next(uint64_t *seed);

/* A page that no other seed yields; half of it compresses. */
void fill_page(void *page, uint64_t seed);

/* A fresh buffer of `pages` pages: fill_page(first_seed + i). */
uint8_t *make_pages(size_t pages, uint64_t first_seed);

/* A cold manifest with one disk of that many bytes; where that cannot be a disk's
 * size, with a kernel instead. */
void make_manifest(struct manifest *m, const struct digest *root, uint64_t size_bytes);

/* Commits a checkpoint with one disk that holds data. machine may be NULL. */
struct digest commit_disk(struct store *store, const void *data, uint64_t size_bytes,
                          const char *machine, const char *name);

/* Commits a warm checkpoint with an empty memory and the device state "state", whose
 * digest may be asked for. */
struct digest commit_warm(struct store *store, struct digest *state_out);

/* Reads the one space of a checkpoint whole; the caller frees. 0 or the error of the
 * read, with *out NULL. */
int read_disk(struct store *store, const struct digest *checkpoint, uint8_t **out,
              uint64_t *size_out, struct error *err);

/* Fails the test unless the one space of the checkpoint is these bytes. */
void assert_disk(struct store *store, const struct digest *checkpoint, const void *data,
                 uint64_t size_bytes);

/* Verifies the store and fails the test if anything is found. */
void assert_store_is_sound(struct store *store);

/* Opens the store for one look, as another process would, and verifies it. */
void assert_dir_is_sound(const char *store_dir);

/* Files of packs/ whose name ends so. */
size_t count_files(const struct fixture *f, const char *suffix);

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
