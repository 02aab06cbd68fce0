/* SPDX-License-Identifier: Apache-2.0 */
/* What every fuzzer is made of. */
#ifndef STASIS_TESTS_FUZZ_H
#define STASIS_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* libFuzzer's entry point; always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold of whatever the parser accepted. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

#endif
