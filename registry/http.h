/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP exchange at a time over libcurl, with connections kept open between
 * them. Knows nothing of registries. One thread at a time. */
#ifndef STASIS_REGISTRY_HTTP_H
#define STASIS_REGISTRY_HTTP_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct http;
struct http_response;

#define HTTP_BODY_MAX (4u << 20) /* of a response kept in memory */
#define HTTP_HEADERS_MAX 6

struct http_request {
    const char *method; /* "GET", "HEAD", "POST", "PUT" */
    const char *url;
    const char *headers[HTTP_HEADERS_MAX]; /* "Name: value"; up to the first NULL */
    const char *authorization;             /* value of the header; NULL: none. Never sent
                                            * to another host, port or scheme on a redirect */
    /* What is sent: bytes in memory, or a whole file (body_fd > 0). */
    const void *body;
    int body_fd;
    uint64_t body_bytes;
    /* Where the body of a 200 or 206 goes; NULL: into response->body. Negative
     * errno (with *err set) stops the exchange and is returned. */
    int (*sink)(const struct http_response *response, const void *data, size_t length,
                void *context, struct error *err);
    /* Bytes sent so far; non-zero stops the exchange. May be NULL. Called at least
     * once a second while nothing moves, so that one can give up. */
    int (*progress)(uint64_t sent, void *context, struct error *err);
    void *context;
    uint64_t range_from; /* ask for the bytes from there on; 0: all */
};

struct http_response {
    long status;
    struct buffer body;     /* with a NUL behind it */
    char *location;         /* header values; NULL where there was none */
    char *www_authenticate; /* all of them, joined by ", " */
    char *content_digest;   /* Docker-Content-Digest */
    char *content_type;
    int64_t content_length; /* -1 unknown */
    int64_t range_start;    /* of Content-Range; -1 without */
    unsigned retry_after;   /* seconds, 0 without */
    bool transient;         /* the transport failed in a way that may pass */
};

int http_new(struct http **out, struct error *err);
void http_free(struct http *http);

/* Does the exchange; TLS certificates are checked against the system's authorities,
 * or those in $SSL_CERT_FILE; a GET or HEAD follows up to 5 redirects, never from https to
 * http. 0 with any HTTP status; negative errno when no whole answer came
 * (response->transient says whether trying again makes sense). */
int http_perform(struct http *http, const struct http_request *request,
                 struct http_response *response, struct error *err);
void http_response_clear(struct http_response *response);

/* An absolute URL from base and a reference that may be relative to it. 0 or
 * -EINVAL. The caller frees. */
int http_url_resolve(const char *base, const char *reference, char **out);
/* Appends NAME=VALUE to the query, escaped. The same. */
int http_url_add_query(char **url, const char *name, const char *value);
/* Same scheme, host and port? */
bool http_url_same_origin(const char *a, const char *b);

#endif
