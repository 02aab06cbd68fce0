/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STASIS_VMM_NET_CHECKSUM_H
#define STASIS_VMM_NET_CHECKSUM_H

#include "base/bytes.h"

/* RFC 1071, as a number: what goes into the header in network byte order. */
static inline uint16_t internet_checksum(const uint8_t *bytes, size_t length)
{
    uint64_t sum = 0;

    for (size_t i = 0; i + 1 < length; i += 2)
        sum += load_be16(bytes + i);
    if (length % 2 != 0)
        sum += (uint64_t)bytes[length - 1] << 8;
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

#endif
