/* SPDX-License-Identifier: Apache-2.0 */
/* The WWW-Authenticate header of a registry, and a reference somebody typed. */
#include "fuzz.h"

#include "base/cleanup.h"
#include "registry/auth.h"
#include "registry/reference.h"
#include "registry/registry.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(reference_clear) struct reference ref = {0};
    _cleanup_free_ char *text = malloc(size + 1);
    struct auth_challenge challenge;

    MUST(text != NULL);
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    int r = auth_challenge_parse(text, &challenge);
    MUST(r == 0 || r == -ENOENT);
    MUST(r < 0 || strlen(challenge.realm) < AUTH_FIELD_MAX);
    registry_is_reference(text);
    r = reference_parse(text, &ref, NULL);
    MUST(r == 0 || r == -EINVAL);
    MUST(r < 0 || ref.layout == (ref.dir != NULL));
    MUST(r < 0 || strpbrk(ref.layout ? "" : ref.repository, "?#%@ \n") == NULL);
    return 0;
}
