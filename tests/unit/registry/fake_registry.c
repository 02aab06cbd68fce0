/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/registry/fake_registry.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define ITEMS_MAX 256
#define HEAD_MAX 32768

struct item {
    char *name; /* "sha256:..." or a tag */
    uint8_t *data;
    size_t length;
};

struct fake {
    int listener;
    int stop;
    uint16_t port;
    char host[32];
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    struct fake_faults faults;
    struct fake_counts counts;
    struct item blobs[ITEMS_MAX];
    struct item manifests[ITEMS_MAX];
};

struct call {
    struct fake *fake;
    int fd;
    char head[HEAD_MAX]; /* request line and headers */
    char method[8];
    char path[2048];
    uint8_t *body;
    size_t body_bytes;
};

static struct item *find_item(struct item *items, const char *name)
{
    for (size_t i = 0; i < ITEMS_MAX; i++)
        if (items[i].name != NULL && strcmp(items[i].name, name) == 0)
            return &items[i];
    return NULL;
}

static void set_item(struct item *items, const char *name, const void *data, size_t length)
{
    struct item *item = find_item(items, name);

    for (size_t i = 0; item == NULL && i < ITEMS_MAX; i++)
        if (items[i].name == NULL)
            item = &items[i];
    if (item == NULL)
        abort();
    free(item->name);
    free(item->data);
    item->name = io_format("%s", name);
    item->data = malloc(length + 1);
    if (item->data == NULL)
        abort();
    if (length > 0)
        memcpy(item->data, data, length);
    item->data[length] = 0;
    item->length = length;
}

/* ---- HTTP ---- */

/* The value of a header, up to the end of its line, in out; false if missing. */
static bool header(const struct call *c, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);

    for (const char *p = strstr(c->head, "\r\n"); p != NULL; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 1 + strspn(p + n + 1, " ");
            snprintf(out, size, "%.*s", (int)strcspn(p, "\r"), p);
            return true;
        }
    }
    return false;
}

static void send_all(int fd, const void *data, size_t length)
{
    const uint8_t *p = data;

    while (length > 0) {
        ssize_t n = send(fd, p, length, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        p += n;
        length -= (size_t)n;
    }
}

/* claimed: the Content-Length, of which `length` bytes are sent. */
static void reply_part(struct call *c, const char *status, const char *headers, const void *body,
                       size_t length, size_t claimed)
{
    _cleanup_free_ char *head =
        io_format("HTTP/1.1 %s\r\n%sContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
                  headers, claimed);

    send_all(c->fd, head, strlen(head));
    if (strcmp(c->method, "HEAD") != 0)
        send_all(c->fd, body, length);
}

static void reply(struct call *c, const char *status, const char *headers, const void *body,
                  size_t length)
{
    reply_part(c, status, headers, body, length, length);
}

static bool read_head(struct call *c)
{
    size_t n = 0;

    while (n + 1 < sizeof(c->head)) {
        if (recv(c->fd, c->head + n, 1, 0) != 1)
            return false;
        c->head[++n] = '\0';
        if (n >= 4 && memcmp(c->head + n - 4, "\r\n\r\n", 4) == 0)
            return sscanf(c->head, "%7s %2047s", c->method, c->path) == 2;
    }
    return false;
}

static bool read_body(struct call *c)
{
    char value[64];

    if (header(c, "Expect", value, sizeof(value)))
        send_all(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    c->body_bytes =
        header(c, "Content-Length", value, sizeof(value)) ? strtoul(value, NULL, 10) : 0;
    c->body = malloc(c->body_bytes + 1);
    return c->body != NULL && io_read_full(c->fd, c->body, c->body_bytes) == 0;
}

/* ---- what a registry does ---- */

static void get_blob(struct call *c, const struct item *blob)
{
    struct fake_faults *faults = &c->fake->faults;
    _cleanup_free_ uint8_t *data = malloc(blob->length + 1);
    size_t length = blob->length, from = 0;
    char value[64], headers[128] = "";

    memcpy(data, blob->data, length);
    data[length] = '+';
    if (faults->wrong_bytes)
        data[length / 2] ^= 1;
    if (faults->short_blobs)
        length = length / 2;
    if (faults->long_blobs)
        length++;
    c->fake->counts.blob_gets++;
    if (!faults->no_ranges && header(c, "Range", value, sizeof(value)) &&
        strncmp(value, "bytes=", 6) == 0) {
        c->fake->counts.ranges++;
        from = min_u64(strtoul(value + 6, NULL, 10), length);
        snprintf(headers, sizeof(headers), "Content-Range: bytes %zu-%zu/%zu\r\n",
                 from + faults->wrong_range, length - 1, length);
    }
    bool drop = faults->drop_downloads > 0;
    faults->drop_downloads -= drop;
    reply_part(c, headers[0] != '\0' ? "206 Partial Content" : "200 OK", headers, data + from,
               drop ? (length - from) / 2 : length - from, length - from);
}

static void on_blob(struct call *c, const char *digest)
{
    const struct item *blob = find_item(c->fake->blobs, digest);

    if (c->fake->faults.redirect_blobs != NULL && strcmp(c->method, "GET") == 0) {
        _cleanup_free_ char *headers =
            io_format("Location: %s%s\r\n", c->fake->faults.redirect_blobs, c->path);
        reply(c, "307 Temporary Redirect", headers, "moved", 5);
    } else if (blob == NULL) {
        reply(c, "404 Not Found", "", "", 0);
    } else if (strcmp(c->method, "HEAD") == 0) {
        reply(c, "200 OK", "", "", blob->length);
    } else {
        get_blob(c, blob);
    }
}

static void on_upload(struct call *c)
{
    struct fake_faults *faults = &c->fake->faults;
    const char *digest = strcasestr(c->path, "digest=sha256%3A");
    char name[8 + DIGEST_HEX_SIZE], hex[DIGEST_HEX_SIZE];

    if (strcmp(c->method, "POST") == 0) {
        _cleanup_free_ char *location = io_format("Location: %ssession?state=1\r\n", c->path);
        reply(c, "202 Accepted", faults->no_upload_location ? "" : location, "", 0);
        return;
    }
    if (digest == NULL)
        digest = strstr(c->path, "digest=sha256:");
    struct digest found = digest_of(c->body, c->body_bytes);
    digest_hex(&found, hex);
    if (digest == NULL || strstr(digest, hex) == NULL) {
        reply(c, "400 Bad Request", "", "", 0);
        return;
    }
    if (faults->drop_uploads > 0) {
        faults->drop_uploads--;
        return; /* the connection closes without an answer */
    }
    if (faults->full_after > 0 && c->fake->counts.blob_puts >= faults->full_after) {
        static const char text[] = "{\"errors\":[{\"message\":\"disk\\u001b[31m full\"}]}";
        reply(c, "413 Payload Too Large", "", text, sizeof(text) - 1);
        return;
    }
    snprintf(name, sizeof(name), "sha256:%s", hex);
    set_item(c->fake->blobs, name, c->body, c->body_bytes);
    c->fake->counts.blob_puts++;
    reply(c, "201 Created", "", "", 0);
}

static void on_manifest(struct call *c, const char *tag)
{
    char hex[DIGEST_HEX_SIZE], headers[256];

    if (strcmp(c->method, "PUT") == 0) {
        set_item(c->fake->manifests, tag, c->body, c->body_bytes);
        c->fake->counts.manifest_puts++;
        reply(c, "201 Created", "", "", 0);
        return;
    }
    const struct item *manifest = find_item(c->fake->manifests, tag);
    if (manifest == NULL) {
        static const char text[] = "{\"errors\":[{\"message\":\"manifest unknown\"}]}";
        reply(c, "404 Not Found", "", text, sizeof(text) - 1);
        return;
    }
    struct digest digest = digest_of(manifest->data, manifest->length);
    digest_hex(&digest, hex);
    const char *claimed = c->fake->faults.content_digest;
    snprintf(headers, sizeof(headers), "Docker-Content-Digest: %s%s\r\n",
             claimed == NULL ? "sha256:" : claimed, claimed == NULL ? hex : "");
    reply(c, "200 OK", headers, manifest->data, manifest->length);
}

static void on_token(struct call *c)
{
    const struct fake_faults *faults = &c->fake->faults;
    char value[256] = "", body[256];

    header(c, "Authorization", value, sizeof(value));
    if (faults->token_basic != NULL &&
        (strncmp(value, "Basic ", 6) != 0 || strcmp(value + 6, faults->token_basic) != 0)) {
        reply(c, "401 Unauthorized", "", "", 0);
        return;
    }
    c->fake->counts.tokens++;
    snprintf(body, sizeof(body), "{\"token\":\"%s\",\"expires_in\":60}", faults->token);
    reply(c, "200 OK", "", body, strlen(body));
}

/* Sends the 401 and returns false if the caller may not go on. */
static bool check_authorization(struct call *c)
{
    struct fake_faults *faults = &c->fake->faults;
    char value[256] = "", headers[256] = "";

    if (header(c, "Authorization", value, sizeof(value)))
        c->fake->counts.authorizations++;
    if (strncmp(c->path, "/token", 6) == 0)
        return true;
    if (faults->basic != NULL &&
        (strncmp(value, "Basic ", 6) != 0 || strcmp(value + 6, faults->basic) != 0))
        snprintf(headers, sizeof(headers), "WWW-Authenticate: Basic realm=\"fake\"\r\n");
    bool expired = faults->expire_after > 0 && --faults->expire_after == 0;
    if (faults->token != NULL &&
        (expired || strncmp(value, "Bearer ", 7) != 0 || strcmp(value + 7, faults->token) != 0))
        snprintf(headers, sizeof(headers),
                 "WWW-Authenticate: Bearer realm=\"http://%s/token\",service=\"fake, Inc.\","
                 "scope=\"repository:a/b:pull,push\"\r\n",
                 c->fake->host);
    if (headers[0] == '\0')
        return true;
    reply(c, "401 Unauthorized", headers, "", 0);
    return false;
}

static void answer(struct call *c)
{
    struct fake *fake = c->fake;
    char *p;

    fake->counts.requests++;
    if (fake->faults.status_only != NULL) {
        reply(c, fake->faults.status_only, "", "no", 2);
    } else if (fake->faults.unavailable > 0) {
        fake->faults.unavailable--;
        reply(c, "503 Service Unavailable", "", "", 0);
    } else if (!check_authorization(c)) {
        return;
    } else if (strncmp(c->path, "/token", 6) == 0) {
        on_token(c);
    } else if (strstr(c->path, "/blobs/uploads/") != NULL) {
        on_upload(c);
    } else if ((p = strstr(c->path, "/blobs/")) != NULL) {
        on_blob(c, p + strlen("/blobs/"));
    } else if ((p = strstr(c->path, "/manifests/")) != NULL) {
        on_manifest(c, p + strlen("/manifests/"));
    } else {
        reply(c, "404 Not Found", "", "", 0);
    }
}

static void serve(struct fake *fake, int fd)
{
    struct call *c = calloc(1, sizeof(*c));

    c->fake = fake;
    c->fd = fd;
    if (read_head(c) && read_body(c)) {
        pthread_mutex_lock(&fake->lock);
        answer(c);
        pthread_mutex_unlock(&fake->lock);
    }
    free(c->body);
    free(c);
    close(fd);
}

static void *run(void *context)
{
    struct fake *fake = context;

    for (;;) {
        struct pollfd fds[] = {{fake->listener, POLLIN, 0}, {fake->stop, POLLIN, 0}};
        poll(fds, ARRAY_LEN(fds), -1);
        if (fds[1].revents != 0)
            return NULL;
        int fd = accept(fake->listener, NULL, NULL);
        if (fd >= 0)
            serve(fake, fd);
    }
}

/* ---- for the test ---- */

struct fake *fake_start(void)
{
    struct fake *fake = calloc(1, sizeof(*fake));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);

    pthread_mutex_init(&fake->lock, NULL);
    fake->stop = eventfd(0, EFD_CLOEXEC);
    fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fake->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fake->listener, 16) < 0 ||
        getsockname(fake->listener, (struct sockaddr *)&address, &length) < 0)
        abort();
    fake->port = ntohs(address.sin_port);
    snprintf(fake->host, sizeof(fake->host), "127.0.0.1:%u", fake->port);
    if (pthread_create(&fake->thread, NULL, run, fake) != 0)
        abort();
    return fake;
}

void fake_stop(struct fake *fake)
{
    const uint64_t one = 1;

    if (write(fake->stop, &one, sizeof(one)) != (ssize_t)sizeof(one))
        abort();
    pthread_join(fake->thread, NULL);
    for (size_t i = 0; i < ITEMS_MAX; i++) {
        free(fake->blobs[i].name);
        free(fake->blobs[i].data);
        free(fake->manifests[i].name);
        free(fake->manifests[i].data);
    }
    close(fake->listener);
    close(fake->stop);
    pthread_mutex_destroy(&fake->lock);
    free(fake);
}

uint16_t fake_port(const struct fake *fake)
{
    return fake->port;
}

const char *fake_host(const struct fake *fake)
{
    return fake->host;
}

void fake_set_faults(struct fake *fake, const struct fake_faults *faults)
{
    pthread_mutex_lock(&fake->lock);
    fake->faults = *faults;
    pthread_mutex_unlock(&fake->lock);
}

struct fake_counts fake_get_counts(struct fake *fake)
{
    pthread_mutex_lock(&fake->lock);
    struct fake_counts counts = fake->counts;
    pthread_mutex_unlock(&fake->lock);
    return counts;
}

char *fake_manifest(struct fake *fake, const char *tag)
{
    pthread_mutex_lock(&fake->lock);
    const struct item *item = find_item(fake->manifests, tag);
    char *text = item == NULL ? NULL : io_format("%s", (const char *)item->data);
    pthread_mutex_unlock(&fake->lock);
    return text;
}

void fake_set_manifest(struct fake *fake, const char *tag, const char *text)
{
    pthread_mutex_lock(&fake->lock);
    set_item(fake->manifests, tag, text, strlen(text));
    pthread_mutex_unlock(&fake->lock);
}

void fake_copy_blobs(struct fake *from, struct fake *to)
{
    pthread_mutex_lock(&from->lock);
    pthread_mutex_lock(&to->lock);
    for (size_t i = 0; i < ITEMS_MAX; i++)
        if (from->blobs[i].name != NULL)
            set_item(to->blobs, from->blobs[i].name, from->blobs[i].data, from->blobs[i].length);
    pthread_mutex_unlock(&to->lock);
    pthread_mutex_unlock(&from->lock);
}
