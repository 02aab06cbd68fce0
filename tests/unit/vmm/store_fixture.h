/* SPDX-License-Identifier: Apache-2.0 */
/* A store and a machine's directory of their own, for tests of what lies over them. */
#ifndef STASIS_TESTS_VMM_STORE_FIXTURE_H
#define STASIS_TESTS_VMM_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/ingest.h"
#include "store/store.h"

struct store_fixture {
    char *dir;     /* removed at the end */
    char *machine; /* DIR/machine */
    struct store *store;
};

/* cmocka set-up and tear-down: *state is a struct store_fixture. */
int store_fixture_setup(void **state);
int store_fixture_teardown(void **state);

/* A committed space that holds these bytes. */
struct space *store_fixture_space(struct store_fixture *f, const void *bytes, uint64_t size_bytes);

/* Fails the test with the error's message unless r is 0. */
void must(int r, const struct error *err);

/* xorshift64*: the same numbers from the same seed. */
uint64_t random_next(uint64_t *seed);

#define STORE_TEST(name)                                                                           \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

#endif
