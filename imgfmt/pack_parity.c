/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "imgfmt/pack_layout.h"

/* Of more than the longest parity can be folded to, a half down to a 32nd is kept:
 * 3 to 6 %. Of less any share is possible. */
enum { PARITY_SHARE_LARGE = 32, PARITY_SHARE_SMALL = 16 };

uint32_t pack_parity_length(uint64_t stream_bytes)
{
    uint32_t length = PACK_PARITY_MAX;

    if (stream_bytes <= PACK_PARITY_MAX) {
        uint64_t share = align_up(stream_bytes / PARITY_SHARE_SMALL, 64);

        return (uint32_t)min_u64(max_u64(share, PACK_PARITY_MIN), stream_bytes);
    }
    while (length / 2 >= stream_bytes / PARITY_SHARE_LARGE)
        length /= 2;
    return length;
}

static void xor_bytes(uint8_t *to, const uint8_t *from, size_t length)
{
    for (size_t i = 0; i < length; i++)
        to[i] ^= from[i];
}

void pack_parity_fold(uint8_t *parity, uint32_t period, uint64_t position, const uint8_t *bytes,
                      size_t length)
{
    size_t at = (size_t)(position % period);

    while (length > 0) {
        size_t run = (size_t)min_u64(length, period - at);

        xor_bytes(parity + at, bytes, run);
        bytes += run;
        length -= run;
        at = 0;
    }
}
