/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buffer.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

void buffer_clear(struct buffer *buf)
{
    free(buf->data);
    *buf = (struct buffer){0};
}

int buffer_reserve(struct buffer *buf, size_t more)
{
    size_t want;

    if (add_overflows(buf->length, more, &want))
        return -ENOMEM;
    if (want <= buf->capacity)
        return 0;
    size_t capacity = buf->capacity < 256 ? 256 : buf->capacity;
    while (capacity < want) {
        if (mul_overflows(capacity, (size_t)2, &capacity))
            return -ENOMEM;
    }
    uint8_t *data = realloc(buf->data, capacity);
    if (data == NULL)
        return -ENOMEM;
    buf->data = data;
    buf->capacity = capacity;
    return 0;
}

int buffer_append(struct buffer *buf, const void *data, size_t length)
{
    int r = buffer_reserve(buf, length);
    if (r < 0)
        return r;
    if (length > 0)
        memcpy(buf->data + buf->length, data, length);
    buf->length += length;
    return 0;
}

int buffer_append_u8(struct buffer *buf, uint8_t v)
{
    return buffer_append(buf, &v, sizeof(v));
}

int buffer_append_le16(struct buffer *buf, uint16_t v)
{
    uint8_t bytes[sizeof(v)];

    store_le16(bytes, v);
    return buffer_append(buf, bytes, sizeof(bytes));
}

int buffer_append_le32(struct buffer *buf, uint32_t v)
{
    uint8_t bytes[sizeof(v)];

    store_le32(bytes, v);
    return buffer_append(buf, bytes, sizeof(bytes));
}

int buffer_append_le64(struct buffer *buf, uint64_t v)
{
    uint8_t bytes[sizeof(v)];

    store_le64(bytes, v);
    return buffer_append(buf, bytes, sizeof(bytes));
}
