/* SPDX-License-Identifier: Apache-2.0 */
/* A growable array of bytes. Zero-initialised is empty and valid. Not
 * thread-safe. */
#ifndef STASIS_BASE_BUFFER_H
#define STASIS_BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *data;
    size_t length;
    size_t capacity;
};

/* Frees the bytes and leaves an empty buffer. For use with _cleanup_(). */
void buffer_clear(struct buffer *buf);

/* Makes room for `more` further bytes. 0 or -ENOMEM. */
int buffer_reserve(struct buffer *buf, size_t more);

int buffer_append(struct buffer *buf, const void *data, size_t length);
int buffer_append_u8(struct buffer *buf, uint8_t v);
int buffer_append_le16(struct buffer *buf, uint16_t v);
int buffer_append_le32(struct buffer *buf, uint32_t v);
int buffer_append_le64(struct buffer *buf, uint64_t v);

#endif
