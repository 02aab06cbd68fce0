/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/http.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "registry/reference.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>

#define CONNECT_TIMEOUT_S 20L
/* A transfer that moves less than this for so long is dead; registries may think
 * for a while after an upload. */
#define STALL_BYTES_PER_S 16L
#define STALL_TIMEOUT_S 120L
#define REDIRECTS_MAX 5L
#define HEADER_VALUE_MAX 8192u
#define USER_AGENT "stasis/" STASIS_VERSION

struct http {
    CURL *curl;
    char reason[CURL_ERROR_SIZE];
};

/* What the callbacks of one exchange share. */
struct exchange {
    struct http *http;
    const struct http_request *request;
    struct http_response *response;
    uint64_t sent;
    int failure; /* of a callback: negative errno */
    struct error *err;
};

static void global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

void http_free(struct http *http)
{
    if (http == NULL)
        return;
    curl_easy_cleanup(http->curl);
    free(http);
}

DEFINE_CLEANUP(struct http, http_free)

int http_new(struct http **out, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    _cleanup_(http_freep) struct http *http = calloc(1, sizeof(*http));

    pthread_once(&once, global_init);
    if (http != NULL)
        http->curl = curl_easy_init();
    if (http == NULL || http->curl == NULL)
        return error_errno(err, ENOMEM, "cannot start an HTTP client");
    *out = steal_pointer(http);
    return 0;
}

void http_response_clear(struct http_response *response)
{
    buffer_clear(&response->body);
    free(response->location);
    free(response->www_authenticate);
    free(response->content_digest);
    free(response->content_type);
    *response = (struct http_response){.content_length = -1, .range_start = -1};
}

/* ---- callbacks ---- */

static size_t give_body(char *to, size_t size, size_t count, void *context)
{
    struct exchange *x = context;
    const struct http_request *q = x->request;
    size_t length = (size_t)min_u64(size * count, q->body_bytes - x->sent);

    if (q->body != NULL) {
        memcpy(to, (const uint8_t *)q->body + x->sent, length);
    } else {
        int r = io_pread_full(q->body_fd, to, length, x->sent);
        if (r < 0) {
            x->failure = error_errno(x->err, -r, "cannot read what is to be sent");
            return CURL_READFUNC_ABORT;
        }
    }
    x->sent += length;
    return length;
}

static int seek_body(void *context, curl_off_t offset, int origin)
{
    struct exchange *x = context;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > x->request->body_bytes)
        return CURL_SEEKFUNC_FAIL;
    x->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static int keep_body(struct exchange *x, const void *data, size_t length)
{
    struct buffer *body = &x->response->body;

    if (body->length + length > HTTP_BODY_MAX)
        return error_set(x->err, STATUS_FAILED, EFBIG, "the answer is longer than %u bytes",
                         HTTP_BODY_MAX);
    if (buffer_reserve(body, length + 1) < 0 || buffer_append(body, data, length) < 0)
        return error_errno(x->err, ENOMEM, "cannot read the answer");
    body->data[body->length] = '\0';
    return 0;
}

static size_t take_body(char *data, size_t size, size_t count, void *context)
{
    struct exchange *x = context;
    const struct http_request *q = x->request;
    size_t length = size * count;

    curl_easy_getinfo(x->http->curl, CURLINFO_RESPONSE_CODE, &x->response->status);
    bool wanted = x->response->status == 200 || x->response->status == 206;
    int r = wanted && q->sink != NULL ? q->sink(x->response, data, length, q->context, x->err)
                                      : keep_body(x, data, length);
    if (r == 0)
        return length;
    x->failure = r;
    return 0;
}

static int tell_progress(void *context, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                         curl_off_t up)
{
    struct exchange *x = context;
    const struct http_request *q = x->request;

    (void)down_total;
    (void)down;
    (void)up_total;
    (void)up;
    if (q->progress == NULL)
        return 0;
    int r = q->progress(x->sent, q->context, x->err);
    if (r != 0)
        x->failure = r;
    return r != 0;
}

/* ---- headers ---- */

/* The value if the line is that header, trimmed; NULL otherwise. Caller frees. */
static char *header_value(const char *line, size_t length, const char *name)
{
    size_t n = strlen(name);

    if (length <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
        return NULL;
    line += n + 1;
    length -= n + 1;
    while (length > 0 && strchr(" \t", *line) != NULL) {
        line++;
        length--;
    }
    while (length > 0 && strchr(" \t\r\n", line[length - 1]) != NULL)
        length--;
    if (length > HEADER_VALUE_MAX || memchr(line, '\0', length) != NULL)
        return NULL;
    return io_format("%.*s", (int)length, line);
}

static void replace_text(char **to, char *value)
{
    free(*to);
    *to = value;
}

static int64_t parse_number(const char *text)
{
    char *end;

    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return errno == 0 ? value : -1;
}

static void join_challenge(struct http_response *response, const char *value)
{
    if (response->www_authenticate == NULL)
        response->www_authenticate = io_format("%s", value);
    else if (strlen(response->www_authenticate) < HEADER_VALUE_MAX)
        replace_text(&response->www_authenticate,
                     io_format("%s, %s", response->www_authenticate, value));
}

static void note_header(struct http_response *response, const char *line, size_t length)
{
    char *value;

    if ((value = header_value(line, length, "Location")) != NULL)
        replace_text(&response->location, value);
    else if ((value = header_value(line, length, "Docker-Content-Digest")) != NULL)
        replace_text(&response->content_digest, value);
    else if ((value = header_value(line, length, "Content-Type")) != NULL)
        replace_text(&response->content_type, value);
    else if ((value = header_value(line, length, "WWW-Authenticate")) != NULL) {
        join_challenge(response, value);
        free(value);
    } else if ((value = header_value(line, length, "Content-Length")) != NULL) {
        response->content_length = parse_number(value);
        free(value);
    } else if ((value = header_value(line, length, "Retry-After")) != NULL) {
        int64_t seconds = parse_number(value); /* dates are not worth reading */
        response->retry_after = seconds > 0 ? (unsigned)min_u64((uint64_t)seconds, 3600) : 0;
        free(value);
    } else if ((value = header_value(line, length, "Content-Range")) != NULL) {
        if (strncasecmp(value, "bytes ", 6) == 0)
            response->range_start = parse_number(value + 6);
        free(value);
    }
}

static size_t take_header(char *line, size_t size, size_t count, void *context)
{
    struct exchange *x = context;
    size_t length = size * count;

    /* A new answer (after a redirect, or "100 Continue"): forget the last one's. */
    if (length >= 5 && memcmp(line, "HTTP/", 5) == 0)
        http_response_clear(x->response);
    else
        note_header(x->response, line, length);
    return length;
}

/* ---- the exchange ---- */

static bool host_is_local(const char *url)
{
    const char *host = strstr(url, "://");

    if (host == NULL)
        return false;
    _cleanup_free_ char *copy = io_format("%s", host + 3);
    copy[strcspn(copy, "/?#")] = '\0';
    return reference_host_is_local(copy);
}

/* Appends; false when memory is out. */
static bool add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *grown = curl_slist_append(*list, line);

    if (grown == NULL)
        return false;
    *list = grown;
    return true;
}

static void slist_freep(struct curl_slist **list)
{
    curl_slist_free_all(*list);
}

static bool build_headers(const struct http_request *q, struct curl_slist **list)
{
    for (unsigned i = 0; i < HTTP_HEADERS_MAX && q->headers[i] != NULL; i++)
        if (!add_header(list, q->headers[i]))
            return false;
    if (q->authorization == NULL)
        return true;
    /* As a custom header libcurl drops it when a redirect leaves the origin. */
    _cleanup_free_ char *line = io_format("Authorization: %s", q->authorization);
    return add_header(list, line);
}

static void set_policy(CURL *curl, const struct http_request *q)
{
    bool tls = strncasecmp(q->url, "https:", 6) == 0;

    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, USER_AGENT);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, tls ? "https" : "http,https");
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
    curl_easy_setopt(curl, CURLOPT_UNRESTRICTED_AUTH, 0L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, STALL_BYTES_PER_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, STALL_TIMEOUT_S);
    if (host_is_local(q->url)) /* a proxy's localhost is another one */
        curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    const char *authorities = getenv("SSL_CERT_FILE"); /* as OpenSSL and Go read it */
    if (authorities != NULL && *authorities != '\0')
        curl_easy_setopt(curl, CURLOPT_CAINFO, authorities);
}

static void set_callbacks(CURL *curl, struct exchange *x)
{
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, x->http->reason);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, give_body);
    curl_easy_setopt(curl, CURLOPT_READDATA, x);
    curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, seek_body);
    curl_easy_setopt(curl, CURLOPT_SEEKDATA, x);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, tell_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, x);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
}

static void set_method(CURL *curl, const struct http_request *q)
{
    curl_easy_setopt(curl, CURLOPT_URL, q->url);
    if (strcmp(q->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else if (strcmp(q->method, "PUT") == 0) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)q->body_bytes);
    } else if (strcmp(q->method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_bytes);
    }
    if (strcmp(q->method, "GET") == 0 || strcmp(q->method, "HEAD") == 0)
        curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    /* Not RESUME_FROM, which takes a whole answer for an error. */
    if (q->range_from > 0) {
        _cleanup_free_ char *range = io_format("%llu-", (unsigned long long)q->range_from);
        curl_easy_setopt(curl, CURLOPT_RANGE, range); /* libcurl copies it */
    }
}

/* May it work a little later? */
static bool code_is_transient(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

static int errno_of_code(CURLcode code)
{
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
        return ENOMEM;
    case CURLE_COULDNT_CONNECT:
        return ECONNREFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return EHOSTUNREACH;
    case CURLE_OPERATION_TIMEDOUT:
        return ETIMEDOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
        return EPROTO;
    default:
        return EIO;
    }
}

/* A redirect body or error text of another's may come back through reason: it
 * reaches a terminal, so nothing but printable characters stays. */
static void make_printable(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
            *text = '?';
}

static int transport_error(struct exchange *x, CURLcode code)
{
    if (x->failure != 0)
        return x->failure;
    make_printable(x->http->reason);
    x->response->transient = code_is_transient(code);
    int r = error_set(x->err, STATUS_FAILED, errno_of_code(code), "%s",
                      x->http->reason[0] != '\0' ? x->http->reason : curl_easy_strerror(code));
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        error_hint(x->err, "is the host right, and is the registry running?");
    else if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CONNECT_ERROR)
        error_hint(x->err, "the registry must speak TLS with a certificate this host trusts");
    return r;
}

int http_perform(struct http *http, const struct http_request *request,
                 struct http_response *response, struct error *err)
{
    struct exchange x = {.http = http, .request = request, .response = response, .err = err};
    _cleanup_(slist_freep) struct curl_slist *headers = NULL;
    CURL *curl = http->curl;

    http_response_clear(response);
    curl_easy_reset(curl); /* options only: connections stay */
    http->reason[0] = '\0';
    if (!build_headers(request, &headers))
        return error_errno(err, ENOMEM, "cannot make an HTTP request");
    set_policy(curl, request);
    set_callbacks(curl, &x);
    set_method(curl, request);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(curl);
    if (code != CURLE_OK)
        return transport_error(&x, code);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &response->status);
    return 0;
}

/* ---- URLs ---- */

static void url_freep(CURLU **url)
{
    curl_url_cleanup(*url);
}

/* Takes a text that libcurl owns over into one that free() may have. */
static int take_curl_text(char *text, char **out)
{
    *out = io_format("%s", text);
    curl_free(text);
    return 0;
}

int http_url_resolve(const char *base, const char *reference, char **out)
{
    _cleanup_(url_freep) CURLU *url = curl_url();
    char *text;

    if (url == NULL || curl_url_set(url, CURLUPART_URL, base, 0) != CURLUE_OK ||
        curl_url_set(url, CURLUPART_URL, reference, 0) != CURLUE_OK ||
        curl_url_get(url, CURLUPART_URL, &text, 0) != CURLUE_OK)
        return -EINVAL;
    return take_curl_text(text, out);
}

int http_url_add_query(char **url_text, const char *name, const char *value)
{
    _cleanup_(url_freep) CURLU *url = curl_url();
    _cleanup_free_ char *pair = io_format("%s=%s", name, value);
    char *text, *result;

    if (url == NULL || curl_url_set(url, CURLUPART_URL, *url_text, 0) != CURLUE_OK ||
        curl_url_set(url, CURLUPART_QUERY, pair, CURLU_APPENDQUERY | CURLU_URLENCODE) !=
            CURLUE_OK ||
        curl_url_get(url, CURLUPART_URL, &text, 0) != CURLUE_OK)
        return -EINVAL;
    int r = take_curl_text(text, &result);
    if (r < 0)
        return r;
    replace_text(url_text, result);
    return 0;
}

static bool same_part(CURLU *a, CURLU *b, CURLUPart part)
{
    char *in_a = NULL, *in_b = NULL;
    bool same = curl_url_get(a, part, &in_a, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                curl_url_get(b, part, &in_b, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                strcasecmp(in_a, in_b) == 0;

    curl_free(in_a);
    curl_free(in_b);
    return same;
}

bool http_url_same_origin(const char *a, const char *b)
{
    _cleanup_(url_freep) CURLU *url_a = curl_url();
    _cleanup_(url_freep) CURLU *url_b = curl_url();

    return url_a != NULL && url_b != NULL &&
           curl_url_set(url_a, CURLUPART_URL, a, 0) == CURLUE_OK &&
           curl_url_set(url_b, CURLUPART_URL, b, 0) == CURLUE_OK &&
           same_part(url_a, url_b, CURLUPART_SCHEME) && same_part(url_a, url_b, CURLUPART_HOST) &&
           same_part(url_a, url_b, CURLUPART_PORT);
}
