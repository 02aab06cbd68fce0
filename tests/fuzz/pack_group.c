/* SPDX-License-Identifier: Apache-2.0 */
/* The stored bytes of a group, behind its codec (1 byte) and the number of 4 KiB
 * pages it claims to hold (1 byte). */
#include "fuzz.h"

#include "base/cleanup.h"
#include "imgfmt/pack.h"

#include <errno.h>
#include <xxhash.h>

enum { CLAIMS = 2 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = ERROR_INIT;

    if (size <= CLAIMS)
        return 0;
    struct pack_group g = {
        .offset = PACK_HEADER_SIZE,
        .codec = data[0] % 2 == 0 ? PACK_RAW : PACK_ZSTD,
        .object_count = (uint16_t)(data[1] + 1),
        .stored_bytes = (uint32_t)(size - CLAIMS),
    };
    g.raw_bytes = g.codec == PACK_RAW ? g.stored_bytes : g.object_count * STASIS_PAGE_SIZE;
    g.checksum = XXH3_64bits(data + CLAIMS, g.stored_bytes);
    /* Exactly as large as claimed: a sanitizer sees a write past its end. */
    _cleanup_free_ uint8_t *raw = malloc(g.raw_bytes);
    MUST(raw != NULL);
    int r = pack_group_decode("f", &g, data + CLAIMS, raw, &err);
    MUST(r == 0 || r == -EBADMSG);
    if (r == 0) {
        g.digest = digest_of(raw, g.raw_bytes);
        MUST(pack_group_check_digest("f", &g, raw, &err) == 0);
    }
    return 0;
}
