/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 digests and their text forms. The cryptographic identity of map
 * nodes, blobs, groups and manifests (FIPS 180-4, by OpenSSL libcrypto). */
#ifndef STASIS_BASE_DIGEST_H
#define STASIS_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_SIZE 32
#define DIGEST_HEX_SIZE 65 /* 64 digits and a NUL */

struct digest {
    uint8_t bytes[DIGEST_SIZE];
};

/* SHA-256 of a buffer. Thread-safe. */
struct digest digest_of(const void *data, size_t length);

bool digest_equal(const struct digest *a, const struct digest *b);

/* Lower-case hex; out has DIGEST_HEX_SIZE bytes. Returns out. */
char *digest_hex(const struct digest *d, char out[DIGEST_HEX_SIZE]);

/* Exactly 64 hex digits of either case, as the whole string. 0 or -EINVAL. */
int digest_parse(const char *hex, struct digest *out);

/* Incremental SHA-256. digest_stream_new() aborts when memory is out. */
struct digest_stream;
struct digest_stream *digest_stream_new(void);
void digest_stream_update(struct digest_stream *s, const void *data, size_t length);
/* Digest of all bytes so far; the stream goes on. */
struct digest digest_stream_peek(const struct digest_stream *s);
void digest_stream_free(struct digest_stream *s);

/* n bytes as 2n lower-case digits and a NUL. Returns out. */
char *hex_encode(const void *data, size_t n, char *out);
/* Exactly 2n digits. 0 or -EINVAL. */
int hex_decode(const char *hex, void *out, size_t n);

#endif
