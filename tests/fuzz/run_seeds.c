/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for libFuzzer: runs a fuzzer once over each file it is given. */
#include "fuzz.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <fcntl.h>

enum { SEED_MAX = 1 << 24 };

static int run(const char *path)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = io_read_file(AT_FDCWD, path, SEED_MAX, &text, &length);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return 1;
    }
    /* A copy of exactly its length: a sanitizer sees a read past its end. */
    _cleanup_free_ uint8_t *copy = malloc(length > 0 ? length : 1);
    MUST(copy != NULL);
    memcpy(copy, text, length);
    printf("%s: %zu bytes\n", path, length);
    fflush(stdout);
    return LLVMFuzzerTestOneInput(copy, length);
}

int main(int argc, char **argv)
{
    int failed = argc < 2;

    for (int i = 1; i < argc; i++)
        failed |= run(argv[i]);
    return failed;
}
