/* SPDX-License-Identifier: Apache-2.0 */
/* An OCI manifest from a registry. */
#include "fuzz.h"

#include "base/cleanup.h"
#include "registry/artifact.h"

#include <errno.h>

/* Sizes are what the rest of a pull relies on. */
static void check_accepted(const struct artifact *a)
{
    _cleanup_(artifact_clear) struct artifact again = {0};
    _cleanup_free_ char *text = NULL;
    size_t length;

    MUST(a->layer_count <= ARTIFACT_LAYERS_MAX);
    for (size_t i = 0; i < a->layer_count; i++)
        MUST(a->layers[i].kind < LAYER_KINDS && a->layers[i].blob.size <= PACK_LIST_MAX_SIZE);
    if (artifact_encode(a, &text, &length, NULL) < 0)
        return;
    MUST(artifact_decode(text, length, &again, NULL) == 0);
    MUST(again.layer_count == a->layer_count);
    MUST(artifact_total_bytes(&again) == artifact_total_bytes(a));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(artifact_clear) struct artifact a = {0};
    struct error err = ERROR_INIT;

    int r = artifact_decode((const char *)data, size, &a, &err);
    MUST(r == 0 || r == -EBADMSG || r == -EINVAL);
    MUST((r == 0) == (err.message[0] == '\0'));
    if (r == 0)
        check_accepted(&a);
    return 0;
}
