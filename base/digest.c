/* SPDX-License-Identifier: Apache-2.0 */
#include "base/digest.h"

/* SHA256() looks its implementation up each time, which costs half as much again as
 * summing up a map node. */
#define OPENSSL_SUPPRESS_DEPRECATED

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

struct digest digest_of(const void *data, size_t length)
{
    struct digest d;
    SHA256_CTX ctx;

    SHA256_Init(&ctx);
    SHA256_Update(&ctx, data, length);
    SHA256_Final(d.bytes, &ctx);
    return d;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return memcmp(a->bytes, b->bytes, DIGEST_SIZE) == 0;
}

char *hex_encode(const void *data, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = data;

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
    return out;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hex_decode(const char *hex, void *out, size_t n)
{
    uint8_t *bytes = out;

    if (strnlen(hex, 2 * n + 1) != 2 * n)
        return -EINVAL;
    for (size_t i = 0; i < 2 * n; i++)
        if (hex_value(hex[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(hex_value(hex[2 * i]) << 4 | hex_value(hex[2 * i + 1]));
    return 0;
}

char *digest_hex(const struct digest *d, char out[DIGEST_HEX_SIZE])
{
    return hex_encode(d->bytes, DIGEST_SIZE, out);
}

int digest_parse(const char *hex, struct digest *out)
{
    return hex_decode(hex, out->bytes, DIGEST_SIZE);
}

struct digest_stream {
    EVP_MD_CTX *ctx;
};

struct digest_stream *digest_stream_new(void)
{
    struct digest_stream *s = malloc(sizeof(*s));

    if (s == NULL)
        abort();
    s->ctx = EVP_MD_CTX_new();
    if (s->ctx == NULL || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1)
        abort();
    return s;
}

void digest_stream_update(struct digest_stream *s, const void *data, size_t length)
{
    if (EVP_DigestUpdate(s->ctx, data, length) != 1)
        abort();
}

struct digest digest_stream_peek(const struct digest_stream *s)
{
    EVP_MD_CTX *copy = EVP_MD_CTX_new();
    struct digest d;

    if (copy == NULL || EVP_MD_CTX_copy_ex(copy, s->ctx) != 1 ||
        EVP_DigestFinal_ex(copy, d.bytes, NULL) != 1)
        abort();
    EVP_MD_CTX_free(copy);
    return d;
}

void digest_stream_free(struct digest_stream *s)
{
    if (s == NULL)
        return;
    EVP_MD_CTX_free(s->ctx);
    free(s);
}
