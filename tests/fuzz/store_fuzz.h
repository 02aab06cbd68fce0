/* SPDX-License-Identifier: Apache-2.0 */
/* A small store that is spoiled and then used: by the fuzzers of the catalogue and of
 * the store's files. */
#ifndef STASIS_TESTS_FUZZ_STORE_H
#define STASIS_TESTS_FUZZ_STORE_H

/* Makes a fresh copy of the store, which holds two checkpoints, a machine and an
 * image; returns its directory. */
const char *fuzz_store_copy(void);

/* Opens the store and makes every call on it. Each may fail, with a message; none may
 * crash, hang, or hand out other bytes than were stored. */
void fuzz_store_use(void);

#endif
