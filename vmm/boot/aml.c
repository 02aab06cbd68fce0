/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot/aml.h"

#include "base/bytes.h"

#include <errno.h>

enum {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_EXT = 0x5b,
    AML_EXT_DEVICE = 0x82,
    AML_NOTIFY = 0x86,
};

static void aml_bytes(struct aml *aml, const void *bytes, size_t length)
{
    int r = buffer_append(&aml->out, bytes, length);

    if (r < 0 && aml->error == 0)
        aml->error = r;
}

static void aml_byte(struct aml *aml, uint8_t byte)
{
    aml_bytes(aml, &byte, 1);
}

/* Puts bytes before what was written since mark: lengths stand in front of what
 * they measure, and their own size depends on it. */
static void aml_insert(struct aml *aml, size_t mark, const uint8_t *bytes, size_t count)
{
    size_t old = aml->out.length;

    aml_bytes(aml, bytes, count);
    if (aml->error != 0)
        return;
    memmove(aml->out.data + mark + count, aml->out.data + mark, old - mark);
    memcpy(aml->out.data + mark, bytes, count);
}

/* A name segment: padded with underscores. */
static void aml_segment(struct aml *aml, const char *name)
{
    char segment[4] = {'_', '_', '_', '_'};

    memcpy(segment, name, min_u64(strlen(name), sizeof(segment)));
    aml_bytes(aml, segment, sizeof(segment));
}

size_t aml_open_scope(struct aml *aml, const char *path)
{
    aml_byte(aml, AML_SCOPE);
    size_t mark = aml->out.length;
    if (path[0] == '\\') {
        aml_byte(aml, '\\');
        path++;
    }
    aml_segment(aml, path);
    return mark;
}

size_t aml_open_device(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_EXT);
    aml_byte(aml, AML_EXT_DEVICE);
    size_t mark = aml->out.length;
    aml_segment(aml, name);
    return mark;
}

size_t aml_open_package(struct aml *aml, uint8_t count)
{
    aml_byte(aml, AML_PACKAGE);
    size_t mark = aml->out.length;
    aml_byte(aml, count);
    return mark;
}

size_t aml_open_method(struct aml *aml, const char *name, uint8_t arguments)
{
    aml_byte(aml, AML_METHOD);
    size_t mark = aml->out.length;
    aml_segment(aml, name);
    aml_byte(aml, arguments);
    return mark;
}

/* PkgLength, 20.2.4: counts itself; 6 bits in one byte, else 4 bits in the first
 * and 8 in each that follows. */
void aml_close(struct aml *aml, size_t mark)
{
    uint8_t bytes[4];
    size_t count;

    if (aml->error != 0)
        return;
    size_t content = aml->out.length - mark;
    if (content + 1 < 64) {
        bytes[0] = (uint8_t)(content + 1);
        aml_insert(aml, mark, bytes, 1);
        return;
    }
    for (count = 2; (content + count) >> (4 + 8 * (count - 1)) != 0; count++) {
        if (count == sizeof(bytes)) {
            aml->error = -EOVERFLOW;
            return;
        }
    }
    size_t length = content + count;
    bytes[0] = (uint8_t)((count - 1) << 6 | (length & 0xf));
    for (size_t i = 1; i < count; i++)
        bytes[i] = (uint8_t)(length >> (4 + 8 * (i - 1)));
    aml_insert(aml, mark, bytes, count);
}

void aml_name(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_NAME);
    aml_segment(aml, name);
}

/* Encodes an integer in as few bytes as hold it. Returns how many. */
static size_t aml_encode_integer(uint64_t value, uint8_t out[9])
{
    uint8_t bytes[8];
    size_t width;

    if (value <= 1) {
        out[0] = value == 0 ? AML_ZERO : AML_ONE;
        return 1;
    }
    if (value <= UINT8_MAX) {
        out[0] = AML_BYTE;
        width = 1;
    } else if (value <= UINT16_MAX) {
        out[0] = AML_WORD;
        width = 2;
    } else if (value <= UINT32_MAX) {
        out[0] = AML_DWORD;
        width = 4;
    } else {
        out[0] = AML_QWORD;
        width = 8;
    }
    store_le64(bytes, value);
    memcpy(out + 1, bytes, width);
    return 1 + width;
}

void aml_integer(struct aml *aml, uint64_t value)
{
    uint8_t bytes[9];

    aml_bytes(aml, bytes, aml_encode_integer(value, bytes));
}

void aml_string(struct aml *aml, const char *text)
{
    aml_byte(aml, AML_STRING);
    aml_bytes(aml, text, strlen(text) + 1);
}

void aml_notify(struct aml *aml, const char *device, uint8_t value)
{
    aml_byte(aml, AML_NOTIFY);
    aml_segment(aml, device);
    aml_integer(aml, value);
}

static uint32_t hex_digit(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Five bits a letter, four a digit, big-endian (the EISAID macro, 19.3.4). */
void aml_eisaid(struct aml *aml, const char *id)
{
    uint32_t value = 0;
    uint8_t bytes[4];

    for (int i = 0; i < 3; i++)
        value = value << 5 | (uint32_t)(id[i] - '@');
    for (int i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    store_be32(bytes, value);
    aml_byte(aml, AML_DWORD);
    aml_bytes(aml, bytes, sizeof(bytes));
}

size_t aml_open_resources(struct aml *aml)
{
    aml_byte(aml, AML_BUFFER);
    return aml->out.length;
}

void aml_close_resources(struct aml *aml, size_t mark)
{
    static const uint8_t end_tag[] = {0x79, 0x00}; /* 0: no checksum */
    uint8_t size[9];

    aml_bytes(aml, end_tag, sizeof(end_tag));
    if (aml->error != 0)
        return;
    aml_insert(aml, mark, size, aml_encode_integer(aml->out.length - mark, size));
    aml_close(aml, mark);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t length)
{
    uint8_t bytes[8] = {0x47, 0x01 /* 16-bit decode */, 0, 0, 0, 0, 1, length};

    store_le16(bytes + 2, port);
    store_le16(bytes + 4, port);
    aml_bytes(aml, bytes, sizeof(bytes));
}

void aml_irq(struct aml *aml, uint8_t irq)
{
    uint8_t bytes[3] = {0x22};

    store_le16(bytes + 1, (uint16_t)(1u << irq));
    aml_bytes(aml, bytes, sizeof(bytes));
}

void aml_memory32(struct aml *aml, uint32_t base, uint32_t length)
{
    uint8_t bytes[12] = {0x86, 0x09, 0x00, 0x01 /* writable */};

    store_le32(bytes + 4, base);
    store_le32(bytes + 8, length);
    aml_bytes(aml, bytes, sizeof(bytes));
}

void aml_interrupt(struct aml *aml, uint32_t gsi)
{
    uint8_t bytes[9] = {0x89, 0x06, 0x00, 0x03 /* edge, consumer */, 0x01 /* one */};

    store_le32(bytes + 5, gsi);
    aml_bytes(aml, bytes, sizeof(bytes));
}
