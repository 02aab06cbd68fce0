/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A registry, by the OCI distribution specification 1.1: HEAD, POST then one
 * monolithic PUT for blobs (every registry does that), GET with ranges to go on
 * where a connection broke, manifests by tag.
 *
 * What may pass (a broken connection, 429, 5xx) is tried again with growing
 * pauses; a 401 is answered once per request, so that a token that has expired in
 * the middle of a long transfer is only renewed.
 */
#include "registry/depot.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "registry/auth.h"
#include "registry/blob.h"
#include "registry/http.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <strings.h>

#define TRIES_MAX 6u
#define PAUSE_FIRST_MS 250u
#define PAUSE_MAX_MS 60000u
#define PAUSE_POLL_MS 100u
/* A download that got this far since the last break has earned new tries. */
#define PROGRESS_WORTH_BYTES (1u << 20)
#define OCTETS "Content-Type: application/octet-stream"

struct remote {
    struct depot depot;
    const struct reference *ref;
    struct http *http;
    char *base_url;   /* http[s]://HOST */
    char *repository; /* as the registry knows it */
    struct auth auth;
    bool reached; /* it has answered once: connecting is known to work */
};

static struct remote *remote_of(struct depot *depot)
{
    return (struct remote *)depot; /* its first member */
}

static void remote_close(struct depot *depot)
{
    struct remote *m = remote_of(depot);

    auth_clear(&m->auth);
    http_free(m->http);
    free(m->base_url);
    free(m->repository);
    free(m);
}

static void remote_freep(struct remote **m)
{
    if (*m != NULL)
        remote_close(&(*m)->depot);
}

/* ---- errors ---- */

/* The registry's own words go to a terminal: printable and short. */
static void first_error_text(const struct buffer *body, char *out, size_t size)
{
    _cleanup_json_ json_t *root =
        body->length == 0 ? NULL : json_loadb((const char *)body->data, body->length, 0, NULL);
    const json_t *first = json_array_get(json_object_get(root, "errors"), 0);
    const char *message = json_string_value(json_object_get(first, "message"));
    size_t n = 0;

    out[0] = '\0';
    if (message == NULL || size < 8)
        return;
    out[n++] = ':';
    out[n++] = ' ';
    for (; *message != '\0' && n + 1 < size; message++)
        out[n++] =
            (unsigned char)*message >= ' ' && (unsigned char)*message < 0x7f ? *message : '?';
    out[n] = '\0';
}

static int status_error(const struct remote *m, const struct http_response *response,
                        const char *what, struct error *err)
{
    char text[160];
    int r;

    first_error_text(&response->body, text, sizeof(text));
    switch (response->status) {
    case 401:
    case 403:
        r = error_set(err, STATUS_FAILED, EACCES, "%s does not allow to %s%s", m->ref->host, what,
                      text);
        error_hint(err, "log in as somebody who may, e.g.: skopeo login %s", m->ref->host);
        return r;
    case 404:
        r = error_set(err, STATUS_NOT_FOUND, ENOENT, "%s has nothing there to %s%s", m->ref->host,
                      what, text);
        error_hint(err, "check the repository and the tag");
        return r;
    case 429:
        r = error_set(err, STATUS_BUSY, EBUSY, "%s has had too many requests to %s%s", m->ref->host,
                      what, text);
        error_hint(err, "wait a while and try again: what has been sent is kept");
        return r;
    default:
        return error_set(err, STATUS_FAILED, EPROTO, "%s answers %ld when asked to %s%s",
                         m->ref->host, response->status, what, text);
    }
}

/* ---- requests ---- */

static bool status_is_transient(long status)
{
    return status == 408 || status == 429 || (status >= 500 && status != 501 && status != 505);
}

static bool is_transient(const struct remote *m, int r, const struct http_response *response)
{
    if (r == 0)
        return status_is_transient(response->status);
    /* Who never answered is down, or is not what was meant: say so at once. */
    return response->transient && m->reached;
}

/* Waits before try number `tries`, longer each time or as long as the registry
 * asks, and gives the user the chance to stop. */
static int pause_before(struct remote *m, unsigned tries, unsigned retry_after, struct error *err)
{
    uint64_t pause_ms = max_u64((uint64_t)PAUSE_FIRST_MS << tries, (uint64_t)retry_after * 1000);
    uint64_t end_ns = clock_monotonic_ns() + min_u64(pause_ms, PAUSE_MAX_MS) * 1000000;

    do {
        const struct timespec poll = {.tv_nsec = PAUSE_POLL_MS * 1000000L};
        int r = meter_report(&m->depot.meter, 0, err);
        if (r < 0)
            return r;
        nanosleep(&poll, NULL);
    } while (clock_monotonic_ns() < end_ns);
    return 0;
}

/* One exchange, logging in if that is asked for. */
static int exchange(struct remote *m, struct http_request *request, struct http_response *response,
                    struct error *err)
{
    /* An upload may go to another host: our credentials do not. */
    bool ours = http_url_same_origin(request->url, m->base_url);

    for (bool answered = false;; answered = true) {
        request->authorization = ours ? m->auth.authorization : NULL;
        int r = http_perform(m->http, request, response, err);
        if (r < 0)
            return r;
        m->reached = true;
        if (response->status != 401 || !ours || answered)
            return 0;
        r = auth_answer(&m->auth, m->http, response->www_authenticate, err);
        if (r < 0)
            return r;
    }
}

/* The same with patience. */
static int request_patiently(struct remote *m, struct http_request *request,
                             struct http_response *response, struct error *err)
{
    for (unsigned tries = 0;; tries++) {
        int r = exchange(m, request, response, err);
        if (!is_transient(m, r, response) || tries + 1 >= TRIES_MAX)
            return r;
        r = pause_before(m, tries, response->retry_after, err);
        if (r < 0)
            return r;
    }
}

static char *blob_url(const struct remote *m, const struct digest *digest)
{
    char text[ARTIFACT_DIGEST_SIZE];

    return io_format("%s/v2/%s/blobs/%s", m->base_url, m->repository,
                     artifact_digest_text(digest, text));
}

static int watch_transfer(uint64_t sent, void *context, struct error *err)
{
    struct remote *m = context;

    return meter_report(&m->depot.meter, sent, err);
}

/* ---- uploads ---- */

static int remote_temp_file(struct depot *depot, int *fd_out, struct error *err)
{
    (void)depot;
    return blob_temp_file(blob_temp_dir(), fd_out, err);
}

static int remote_blob_has(struct depot *depot, const struct descriptor *blob, bool *out,
                           struct error *err)
{
    struct remote *m = remote_of(depot);
    _cleanup_free_ char *url = blob_url(m, &blob->digest);
    _cleanup_(http_response_clear) struct http_response response = {0};
    struct http_request request = {
        .method = "HEAD", .url = url, .progress = watch_transfer, .context = m};

    int r = request_patiently(m, &request, &response, err);
    if (r < 0)
        return r;
    if (response.status != 200 && response.status != 404)
        return status_error(m, &response, "look for a blob", err);
    *out = response.status == 200 &&
           (response.content_length < 0 || (uint64_t)response.content_length == blob->size);
    return 0;
}

/* Asks for a place to upload to: *url_out, absolute. */
static int begin_upload(struct remote *m, char **url_out, struct error *err)
{
    _cleanup_free_ char *url = io_format("%s/v2/%s/blobs/uploads/", m->base_url, m->repository);
    _cleanup_(http_response_clear) struct http_response response = {0};
    struct http_request request = {
        .method = "POST", .url = url, .progress = watch_transfer, .context = m};

    int r = request_patiently(m, &request, &response, err);
    if (r < 0)
        return r;
    if (response.status != 202)
        return status_error(m, &response, "take a blob", err);
    _cleanup_free_ char *target = NULL;
    if (response.location == NULL || http_url_resolve(url, response.location, &target) < 0)
        return error_set(err, STATUS_FAILED, EPROTO, "%s does not say where to upload to",
                         m->ref->host);
    bool safe =
        strncasecmp(target, "https://", 8) == 0 ||
        (strncasecmp(m->base_url, "http://", 7) == 0 && strncasecmp(target, "http://", 7) == 0);
    if (!safe)
        return error_set(err, STATUS_FAILED, EPROTO, "%s wants the upload without TLS",
                         m->ref->host);
    *url_out = steal_pointer(target);
    return 0;
}

/* One try; *transient_out: it may work the next time. */
static int try_upload(struct remote *m, const struct descriptor *blob, int fd,
                      struct http_response *response, bool *transient_out, struct error *err)
{
    _cleanup_free_ char *url = NULL;
    char digest[ARTIFACT_DIGEST_SIZE];

    *transient_out = false;
    int r = begin_upload(m, &url, err);
    if (r < 0)
        return r;
    if (http_url_add_query(&url, "digest", artifact_digest_text(&blob->digest, digest)) < 0)
        return error_set(err, STATUS_FAILED, EPROTO, "%s gives an upload address that is none",
                         m->ref->host);
    struct http_request request = {.method = "PUT",
                                   .url = url,
                                   .headers = {OCTETS},
                                   .body_fd = fd,
                                   .body_bytes = blob->size,
                                   .progress = watch_transfer,
                                   .context = m};
    r = exchange(m, &request, response, err);
    *transient_out = is_transient(m, r, response) || (r == 0 && response->status == 404);
    if (r < 0)
        return r;
    return response->status == 201 ? 0 : status_error(m, response, "take a blob", err);
}

/* An upload that broke off begins anew: monolithic uploads cannot go on, and the
 * address of the broken one may be gone. */
static int remote_blob_put(struct depot *depot, const struct descriptor *blob, int fd,
                           struct error *err)
{
    struct remote *m = remote_of(depot);
    _cleanup_(http_response_clear) struct http_response response = {0};

    for (unsigned tries = 0;; tries++) {
        bool transient;
        int r = try_upload(m, blob, fd, &response, &transient, err);
        if (r == 0 || !transient || tries + 1 >= TRIES_MAX)
            return r;
        r = pause_before(m, tries, response.retry_after, err);
        if (r < 0)
            return r;
    }
}

/* ---- downloads ---- */

struct download {
    struct remote *m;
    const struct descriptor *blob;
    int fd;
    struct digest_stream *sum; /* of the bytes received */
    uint64_t received;
    uint64_t requested_from; /* where the running exchange began */
    bool begun;              /* it has delivered something */
};

/* The first bytes of an answer: does it begin where we asked, and will it end
 * where the blob does? */
static int begin_answer(struct download *d, const struct http_response *response, struct error *err)
{
    d->begun = true;
    if (response->status == 206 && response->range_start != (int64_t)d->requested_from)
        return error_set(err, STATUS_FAILED, EPROTO, "%s sends another range than asked for",
                         d->m->ref->host);
    if (response->status == 200) { /* ranges are not for every registry: all of it again */
        digest_stream_free(d->sum);
        d->sum = digest_stream_new();
        d->received = 0;
    }
    if (response->content_length >= 0 &&
        (uint64_t)response->content_length != d->blob->size - d->received)
        return error_corrupt(err, "%s has %llu bytes for a blob of %llu", d->m->ref->host,
                             (unsigned long long)d->received +
                                 (unsigned long long)response->content_length,
                             (unsigned long long)d->blob->size);
    return 0;
}

static int take_download(const struct http_response *response, const void *data, size_t length,
                         void *context, struct error *err)
{
    struct download *d = context;

    int r = d->begun ? 0 : begin_answer(d, response, err);
    if (r < 0)
        return r;
    if (length > d->blob->size - d->received)
        return error_corrupt(err, "%s sends more than the %llu bytes of a blob", d->m->ref->host,
                             (unsigned long long)d->blob->size);
    r = io_pwrite_full(d->fd, data, length, d->received);
    if (r < 0)
        return error_errno(err, -r, "cannot write to %s", blob_temp_dir());
    digest_stream_update(d->sum, data, length);
    d->received += length;
    return 0;
}

static int watch_download(uint64_t sent, void *context, struct error *err)
{
    struct download *d = context;

    (void)sent;
    return meter_report(&d->m->depot.meter, d->received, err);
}

static int try_download(struct download *d, const char *url, struct http_response *response,
                        bool *transient_out, struct error *err)
{
    struct http_request request = {.method = "GET",
                                   .url = url,
                                   .sink = take_download,
                                   .progress = watch_download,
                                   .context = d,
                                   .range_from = d->received};

    d->requested_from = d->received;
    d->begun = false;
    int r = exchange(d->m, &request, response, err);
    *transient_out = is_transient(d->m, r, response);
    if (r < 0)
        return r;
    if (response->status != 200 && response->status != 206)
        return status_error(d->m, response, "give a blob", err);
    if (d->received == d->blob->size)
        return 0;
    *transient_out = true; /* it ended early and cleanly: ask for the rest */
    return error_corrupt(err, "%s sends only %llu of the %llu bytes of a blob", d->m->ref->host,
                         (unsigned long long)d->received, (unsigned long long)d->blob->size);
}

static int download(struct download *d, const char *url, struct error *err)
{
    _cleanup_(http_response_clear) struct http_response response = {0};
    unsigned tries = 0;

    for (;;) {
        uint64_t before = d->received;
        bool transient;
        int r = try_download(d, url, &response, &transient, err);
        if (r == 0 || !transient)
            return r;
        if (d->received >= before + PROGRESS_WORTH_BYTES)
            tries = 0;
        if (tries + 1 >= TRIES_MAX)
            return r;
        r = pause_before(d->m, tries++, response.retry_after, err);
        if (r < 0)
            return r;
    }
}

static int remote_blob_open(struct depot *depot, const struct descriptor *blob, int *fd_out,
                            struct error *err)
{
    struct remote *m = remote_of(depot);
    _cleanup_free_ char *url = blob_url(m, &blob->digest);
    _cleanup_close_ int fd = -1;

    int r = remote_temp_file(depot, &fd, err);
    if (r < 0)
        return r;
    struct download d = {.m = m, .blob = blob, .fd = fd, .sum = digest_stream_new()};
    r = download(&d, url, err);
    struct digest found = digest_stream_peek(d.sum);
    digest_stream_free(d.sum);
    if (r < 0)
        return r;
    if (!digest_equal(&found, &blob->digest)) {
        char hex[DIGEST_HEX_SIZE];
        return error_corrupt(err, "what %s sends as blob %s does not match that SHA-256",
                             m->ref->host, digest_hex(&blob->digest, hex));
    }
    depot->meter.done += blob->size;
    *fd_out = steal_fd(&fd);
    return meter_report(&depot->meter, 0, err);
}

/* ---- manifests ---- */

static char *manifest_url(const struct remote *m)
{
    char digest[ARTIFACT_DIGEST_SIZE];

    return io_format("%s/v2/%s/manifests/%s", m->base_url, m->repository,
                     m->ref->has_digest ? artifact_digest_text(&m->ref->digest, digest)
                                        : m->ref->tag);
}

/* What the registry says the digest is must be what it is. */
static int check_content_digest(const struct remote *m, const struct http_response *response,
                                const struct digest *digest, struct error *err)
{
    char text[ARTIFACT_DIGEST_SIZE];

    artifact_digest_text(digest, text);
    if (response->content_digest == NULL || strncmp(response->content_digest, "sha256:", 7) != 0 ||
        strcmp(response->content_digest, text) == 0)
        return 0;
    return error_corrupt(err, "%s has an OCI manifest with another SHA-256 than it says",
                         m->ref->host);
}

static int remote_manifest_put(struct depot *depot, const char *text, size_t length,
                               const struct digest *digest, struct error *err)
{
    struct remote *m = remote_of(depot);
    _cleanup_free_ char *url = manifest_url(m);
    _cleanup_(http_response_clear) struct http_response response = {0};
    struct http_request request = {.method = "PUT",
                                   .url = url,
                                   .headers = {"Content-Type: " OCI_MEDIA_TYPE_MANIFEST},
                                   .body = text,
                                   .body_bytes = length,
                                   .progress = watch_transfer,
                                   .context = m};

    int r = request_patiently(m, &request, &response, err);
    if (r < 0)
        return r;
    if (response.status != 201)
        return status_error(m, &response, "take the OCI manifest", err);
    return check_content_digest(m, &response, digest, err);
}

static int remote_manifest_get(struct depot *depot, char **text_out, size_t *length_out,
                               struct digest *digest_out, struct error *err)
{
    struct remote *m = remote_of(depot);
    _cleanup_free_ char *url = manifest_url(m);
    _cleanup_(http_response_clear) struct http_response response = {0};
    struct http_request request = {
        .method = "GET",
        .url = url,
        .headers = {"Accept: " OCI_MEDIA_TYPE_MANIFEST ", " OCI_MEDIA_TYPE_INDEX},
        .progress = watch_transfer,
        .context = m};

    int r = request_patiently(m, &request, &response, err);
    if (r < 0)
        return r;
    if (response.status != 200)
        return status_error(m, &response, "give the OCI manifest", err);
    struct digest digest = digest_of(response.body.data, response.body.length);
    r = check_content_digest(m, &response, &digest, err);
    if (r < 0)
        return r;
    if (m->ref->has_digest && !digest_equal(&digest, &m->ref->digest))
        return error_corrupt(err, "%s sends another OCI manifest than the one asked for",
                             m->ref->host);
    *digest_out = digest;
    *length_out = response.body.length;
    *text_out = (char *)steal_pointer(response.body.data);
    response.body = (struct buffer){0};
    return 0;
}

static const struct depot_ops remote_ops = {
    .temp_file = remote_temp_file,
    .blob_has = remote_blob_has,
    .blob_put = remote_blob_put,
    .blob_open = remote_blob_open,
    .manifest_put = remote_manifest_put,
    .manifest_get = remote_manifest_get,
    .close = remote_close,
};

/* ---- opening ---- */

/* Docker's own registry is at another host than its name, and its official images
 * are below library/. */
static void choose_address(struct remote *m, bool plain_http)
{
    const char *host = m->ref->host;
    bool hub = strcmp(host, "docker.io") == 0;
    bool plain = plain_http || reference_host_is_local(host);

    m->base_url =
        io_format("%s://%s", plain ? "http" : "https", hub ? "registry-1.docker.io" : host);
    m->repository =
        io_format("%s%s", hub && strchr(m->ref->repository, '/') == NULL ? "library/" : "",
                  m->ref->repository);
}

int remote_open(const struct reference *ref, bool plain_http, bool may_push, struct depot **out,
                struct error *err)
{
    _cleanup_(remote_freep) struct remote *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return error_errno(err, ENOMEM, "cannot talk to %s", ref->host);
    m->depot.ops = &remote_ops;
    m->ref = ref;
    choose_address(m, plain_http);
    m->auth = (struct auth){.host = ref->host,
                            .repository = m->repository,
                            .actions = may_push ? "pull,push" : "pull",
                            .base_url = m->base_url};
    int r = http_new(&m->http, err);
    if (r < 0)
        return r;
    *out = &steal_pointer(m)->depot;
    return 0;
}
