/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STASIS_VMM_NET_PLAIN_H
#define STASIS_VMM_NET_PLAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Is this a frame that libslirp is to see: ARP, or a whole IPv4 packet without options
 * whose lengths fit into each other? A hostile guest sends others, too, and of some of
 * them libslirp 4.7 makes reads past their end, of fragments wild pointers.
 */
bool frame_is_plain(const uint8_t *frame, size_t length);

/* May libslirp open a socket of the host for this plain frame? For all but ARP and TCP
 * that goes on. */
bool frame_may_open(const uint8_t *frame, size_t length);

#endif
