/* SPDX-License-Identifier: Apache-2.0 */
/* A small registry in a thread of the test, which misbehaves on request: what a
 * real one cannot be made to do. Speaks HTTP/1.1 on a loopback port, one request
 * a connection. */
#ifndef STASIS_TESTS_FAKE_REGISTRY_H
#define STASIS_TESTS_FAKE_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

struct fake;

/* Set before the requests they are for; read by the thread. */
struct fake_faults {
    unsigned unavailable;       /* so many requests get 503 first */
    unsigned drop_downloads;    /* so many blob downloads break off in the middle */
    bool no_ranges;             /* Range is ignored */
    bool wrong_range;           /* a 206 begins one byte too late */
    bool wrong_bytes;           /* blobs come with a flipped bit */
    bool short_blobs;           /* blobs come cut, with a fitting Content-Length */
    bool long_blobs;            /* blobs come with bytes behind them */
    bool no_upload_location;    /* 202 without Location */
    unsigned drop_uploads;      /* so many PUTs of blobs break off */
    unsigned full_after;        /* after so many PUTs of blobs every one gets 507; 0: never */
    const char *content_digest; /* Docker-Content-Digest of manifests, whatever they are */
    const char *basic;          /* base64 of user:password that is wanted */
    const char *token;          /* bearer token that is wanted; realm is /token of this server */
    const char *token_basic;    /* what /token wants, or NULL */
    unsigned expire_after;      /* the token is refused after so many requests, once; 0: never */
    const char *redirect_blobs; /* "http://HOST:PORT": GET of blobs is redirected there */
    const char *status_only;    /* whole status line for everything, e.g. "418 Teapot" */
};

struct fake_counts {
    unsigned requests;
    unsigned blob_puts; /* that were kept */
    unsigned blob_gets; /* that were answered */
    unsigned ranges;    /* of these, with Range */
    unsigned manifest_puts;
    unsigned tokens;         /* given out */
    unsigned authorizations; /* requests with an Authorization header */
};

struct fake *fake_start(void);
void fake_stop(struct fake *fake);
uint16_t fake_port(const struct fake *fake);
/* "127.0.0.1:PORT" */
const char *fake_host(const struct fake *fake);

void fake_set_faults(struct fake *fake, const struct fake_faults *faults);
struct fake_counts fake_get_counts(struct fake *fake);

/* Content, from the test's side. NULL if it has none of that name. */
char *fake_manifest(struct fake *fake, const char *tag);
void fake_set_manifest(struct fake *fake, const char *tag, const char *text);
/* Both registries hold the same blobs afterwards. */
void fake_copy_blobs(struct fake *from, struct fake *to);

#endif
