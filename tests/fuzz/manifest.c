/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "base/cleanup.h"
#include "imgfmt/manifest.h"

#include <errno.h>

/* What was read must pass the check, and write and read as itself again. */
static void check_accepted(const struct manifest *m)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_free_ char *again = NULL;
    struct manifest read;
    size_t length;
    size_t again_length;

    MUST(manifest_check(m, NULL) == 0);
    MUST(manifest_encode(m, &text, &length) == 0);
    MUST(manifest_decode(text, length, &read, NULL) == 0);
    MUST(manifest_encode(&read, &again, &again_length) == 0);
    MUST(again_length == length && memcmp(again, text, length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = ERROR_INIT;
    struct manifest m;

    int r = manifest_decode((const char *)data, size, &m, &err);
    MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
    MUST((r == 0) == (err.message[0] == '\0'));
    if (r == 0)
        check_accepted(&m);
    return 0;
}
