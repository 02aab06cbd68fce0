/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/auth.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <strings.h>

#define AUTH_FILE_MAX (1u << 20)
#define TOKEN_MAX 65536u

void auth_clear(struct auth *auth)
{
    free(auth->authorization);
    auth->authorization = NULL;
}

/* ---- challenges ---- */

static bool is_token_char(char c)
{
    return isalnum((unsigned char)c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static const char *skip_blank(const char *p)
{
    while (*p == ' ' || *p == '\t' || *p == ',')
        p++;
    return p;
}

/* Reads a token into out, lower case; NULL if there is none or it does not fit. */
static const char *read_token(const char *p, char *out, size_t size)
{
    size_t n = 0;

    for (; is_token_char(*p); p++) {
        if (n + 1 >= size)
            return NULL;
        out[n++] = (char)tolower((unsigned char)*p);
    }
    out[n] = '\0';
    return n > 0 ? p : NULL;
}

/* Reads a token or a quoted string as a value. */
static const char *read_value(const char *p, char *out, size_t size)
{
    bool quoted = *p == '"';
    size_t n = 0;

    for (p += quoted; quoted ? *p != '"' : *p != '\0' && strchr(" \t,", *p) == NULL; p++) {
        if (quoted && *p == '\\')
            p++;
        if (*p == '\0' || n + 1 >= size)
            return NULL;
        out[n++] = *p;
    }
    out[n] = '\0';
    return p + quoted;
}

static void keep_parameter(struct auth_challenge *challenge, const char *name, const char *value)
{
    char *field = strcmp(name, "realm") == 0     ? challenge->realm
                  : strcmp(name, "service") == 0 ? challenge->service
                  : strcmp(name, "scope") == 0   ? challenge->scope
                                                 : NULL;

    if (field != NULL)
        snprintf(field, AUTH_FIELD_MAX, "%s", value);
}

/* Parameters NAME=VALUE up to the next scheme or the end. */
static const char *read_parameters(const char *p, struct auth_challenge *challenge)
{
    for (;;) {
        char name[64], value[AUTH_FIELD_MAX];
        const char *start = skip_blank(p);
        const char *after = read_token(start, name, sizeof(name));
        if (after == NULL || *after != '=')
            return start;
        p = read_value(after + 1, value, sizeof(value));
        if (p == NULL)
            return NULL;
        keep_parameter(challenge, name, value);
    }
}

int auth_challenge_parse(const char *header, struct auth_challenge *out)
{
    bool found = false;
    const char *p = skip_blank(header);

    while (p != NULL && *p != '\0') {
        struct auth_challenge challenge = {0};
        p = read_token(p, challenge.scheme, sizeof(challenge.scheme));
        if (p != NULL)
            p = read_parameters(p, &challenge);
        if (p == NULL)
            break;
        bool bearer = strcmp(challenge.scheme, "bearer") == 0;
        if (!bearer && (found || strcmp(challenge.scheme, "basic") != 0))
            continue;
        *out = challenge;
        found = true;
        if (bearer)
            break;
    }
    return found ? 0 : -ENOENT;
}

/* ---- stored credentials ---- */

/* Older tools write a URL as the key. */
static bool key_names_host(const char *key, const char *host)
{
    const char *scheme = strstr(key, "://");
    const char *name = scheme != NULL ? scheme + 3 : key;
    size_t length = strcspn(name, "/");

    return scheme != NULL && length == strlen(host) && strncmp(name, host, length) == 0;
}

static const char *entry_auth(const json_t *entry)
{
    const char *auth = json_string_value(json_object_get(entry, "auth"));

    if (auth == NULL || *auth == '\0')
        return NULL;
    for (const char *p = auth; *p != '\0'; p++) /* it goes into a header as it is */
        if (!isalnum((unsigned char)*p) && strchr("+/=", *p) == NULL)
            return NULL;
    return auth;
}

/* The most precise key wins: HOST/A/B, HOST/A, HOST. */
static const char *find_in_auths(const json_t *auths, const char *host, const char *repository)
{
    _cleanup_free_ char *key = io_format("%s/%s", host, repository);
    const char *name;
    json_t *entry;

    for (size_t floor = strlen(host); strlen(key) >= floor;) {
        const char *auth = entry_auth(json_object_get(auths, key));
        if (auth != NULL)
            return auth;
        char *slash = strrchr(key, '/');
        if (slash == NULL)
            break;
        *slash = '\0';
    }
    json_object_foreach((json_t *)auths, name, entry)
    {
        if (key_names_host(name, host) && entry_auth(entry) != NULL)
            return entry_auth(entry);
    }
    return NULL;
}

static char *find_in_file(const char *path, const char *host, const char *repository)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    if (io_read_file(AT_FDCWD, path, AUTH_FILE_MAX, &text, &length) < 0)
        return NULL;
    _cleanup_json_ json_t *root = json_loadb(text, length, 0, NULL);
    const char *auth = find_in_auths(json_object_get(root, "auths"), host, repository);
    return auth != NULL ? io_format("%s", auth) : NULL;
}

int auth_find_credentials(const char *host, const char *repository, char **basic_out)
{
    static const struct {
        const char *variable;
        const char *file;
    } places[] = {
        {"REGISTRY_AUTH_FILE", ""},
        {"XDG_RUNTIME_DIR", "/containers/auth.json"},
        {"DOCKER_CONFIG", "/config.json"},
        {"HOME", "/.docker/config.json"},
    };

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        const char *value = getenv(places[i].variable);
        if (value == NULL || *value == '\0')
            continue;
        _cleanup_free_ char *path = io_format("%s%s", value, places[i].file);
        *basic_out = find_in_file(path, host, repository);
        if (*basic_out != NULL)
            return 0;
    }
    return -ENOENT;
}

/* ---- answering ---- */

static int no_access(const struct auth *auth, bool has_credentials, struct error *err)
{
    int r = error_set(err, STATUS_FAILED, EACCES, "%s %s", auth->host,
                      has_credentials ? "refuses the stored credentials"
                                      : "wants credentials and there are none");

    error_hint(err, "log in first, e.g.: skopeo login %s", auth->host);
    return r;
}

static int build_token_url(const struct auth *auth, const struct auth_challenge *challenge,
                           char **out)
{
    _cleanup_free_ char *url = io_format("%s", challenge->realm);
    _cleanup_free_ char *scope =
        challenge->scope[0] != '\0'
            ? io_format("%s", challenge->scope)
            : io_format("repository:%s:%s", auth->repository, auth->actions);
    int r = 0;

    if (challenge->service[0] != '\0')
        r = http_url_add_query(&url, "service", challenge->service);
    if (r == 0)
        r = http_url_add_query(&url, "scope", scope);
    if (r == 0)
        *out = steal_pointer(url);
    return r;
}

static bool token_is_printable(const char *token)
{
    for (const char *p = token; *p != '\0'; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
            return false;
    return *token != '\0' && strlen(token) <= TOKEN_MAX;
}

static int take_token(struct auth *auth, const struct buffer *body, struct error *err)
{
    _cleanup_json_ json_t *root = json_loadb((const char *)body->data, body->length, 0, NULL);
    const char *token = json_string_value(json_object_get(root, "token"));

    if (token == NULL)
        token = json_string_value(json_object_get(root, "access_token"));
    if (token == NULL || !token_is_printable(token))
        return error_set(err, STATUS_FAILED, EPROTO, "the token server of %s gave no token",
                         auth->host);
    auth_clear(auth);
    auth->authorization = io_format("Bearer %s", token);
    return 0;
}

/* What is sent to the realm are credentials: not in clear text if the registry
 * itself is reached over TLS. */
static int check_realm(const struct auth *auth, const struct auth_challenge *challenge,
                       struct error *err)
{
    bool tls = strncasecmp(challenge->realm, "https://", 8) == 0;
    bool plain = strncasecmp(challenge->realm, "http://", 7) == 0;

    if (tls || (plain && strncasecmp(auth->base_url, "http://", 7) == 0))
        return 0;
    return error_set(err, STATUS_FAILED, EPROTO, "%s names a token server that cannot be used",
                     auth->host);
}

static int fetch_token(struct auth *auth, struct http *http, const struct auth_challenge *challenge,
                       const char *basic, struct error *err)
{
    _cleanup_free_ char *url = NULL;
    _cleanup_free_ char *authorization = basic != NULL ? io_format("Basic %s", basic) : NULL;
    _cleanup_(http_response_clear) struct http_response response = {0};

    int r = check_realm(auth, challenge, err);
    if (r < 0)
        return r;
    if (build_token_url(auth, challenge, &url) < 0)
        return error_set(err, STATUS_FAILED, EPROTO, "%s names a token server that cannot be used",
                         auth->host);
    const struct http_request request = {
        .method = "GET", .url = url, .authorization = authorization};
    r = http_perform(http, &request, &response, err);
    if (r < 0) {
        error_prefix(err, "cannot get a token for %s", auth->host);
        return r;
    }
    if (response.status == 401 || response.status == 403)
        return no_access(auth, basic != NULL, err);
    if (response.status != 200)
        return error_set(err, STATUS_FAILED, EPROTO, "the token server of %s answers %ld",
                         auth->host, response.status);
    return take_token(auth, &response.body, err);
}

int auth_answer(struct auth *auth, struct http *http, const char *www_authenticate,
                struct error *err)
{
    _cleanup_free_ struct auth_challenge *challenge = calloc(1, sizeof(*challenge));
    _cleanup_free_ char *basic = NULL;

    if (challenge == NULL)
        return error_errno(err, ENOMEM, "cannot log in to %s", auth->host);
    if (www_authenticate == NULL || auth_challenge_parse(www_authenticate, challenge) < 0)
        return error_set(err, STATUS_FAILED, EACCES,
                         "%s wants credentials in a way this program does not know", auth->host);
    bool found = auth_find_credentials(auth->host, auth->repository, &basic) == 0;
    if (strcmp(challenge->scheme, "bearer") == 0)
        return fetch_token(auth, http, challenge, basic, err);
    _cleanup_free_ char *authorization = found ? io_format("Basic %s", basic) : NULL;
    bool refused =
        found && auth->authorization != NULL && strcmp(auth->authorization, authorization) == 0;
    if (!found || refused)
        return no_access(auth, found, err);
    auth_clear(auth);
    auth->authorization = steal_pointer(authorization);
    return 0;
}
