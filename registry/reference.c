/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/reference.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "registry/registry.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define LAYOUT_PREFIX "oci:"
#define DIGEST_PREFIX "sha256:"
/* Limits of the distribution specification and of DNS names. */
#define TAG_MAX 128
#define REPOSITORY_MAX 255
#define HOST_MAX 300

void reference_clear(struct reference *ref)
{
    free(ref->dir);
    free(ref->host);
    free(ref->repository);
    free(ref->tag);
    *ref = (struct reference){0};
}

static bool is_lower_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_alnum(char c)
{
    return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

/* Length of the host part of a registry reference, 0 if the text has none. A
 * name before the first '/' is a host only if it cannot be a repository. */
static size_t host_length(const char *text)
{
    const char *slash = strchr(text, '/');
    if (slash == NULL || slash == text)
        return 0;
    size_t length = (size_t)(slash - text);
    bool is_host = memchr(text, '.', length) != NULL || memchr(text, ':', length) != NULL ||
                   (length == strlen("localhost") && memcmp(text, "localhost", length) == 0);
    /* "./dir" and "../dir" are paths */
    return is_host && text[0] != '.' ? length : 0;
}

bool registry_is_reference(const char *reference)
{
    if (strncmp(reference, LAYOUT_PREFIX, strlen(LAYOUT_PREFIX)) == 0)
        return true;
    return host_length(reference) > 0;
}

bool reference_host_is_local(const char *host)
{
    char name[HOST_MAX + 1];
    struct in_addr address;
    size_t length = strcspn(host, ":");

    if (strncmp(host, "[::1]", 5) == 0)
        return host[5] == '\0' || host[5] == ':';
    if (length > HOST_MAX)
        return false;
    memcpy(name, host, length);
    name[length] = '\0';
    if (strcmp(name, "localhost") == 0)
        return true;
    return inet_pton(AF_INET, name, &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

static int bad_reference(const char *text, const char *why, struct error *err)
{
    int r = error_set(err, STATUS_USAGE, EINVAL, "\"%s\" does not name an image: %s", text, why);

    error_hint(err, "write HOST[:PORT]/REPOSITORY[:TAG] or oci:DIRECTORY[:TAG]");
    return r;
}

static bool tag_is_valid(const char *tag)
{
    size_t length = strlen(tag);

    if (length == 0 || length > TAG_MAX || tag[0] == '.' || tag[0] == '-')
        return false;
    for (const char *p = tag; *p != '\0'; p++)
        if (!is_alnum(*p) && strchr("._-", *p) == NULL)
            return false;
    return true;
}

/* Components of lower-case letters and digits, separated inside by '.', '_',
 * "__" or dashes, and from one another by '/'. */
static bool repository_is_valid(const char *name)
{
    bool after_separator = true; /* a letter or digit must come */

    if (strlen(name) > REPOSITORY_MAX)
        return false;
    for (const char *p = name; *p != '\0'; p++) {
        if (is_lower_alnum(*p)) {
            after_separator = false;
            continue;
        }
        if (strchr("./_-", *p) == NULL)
            return false;
        bool repeats =
            p > name && p[-1] == *p && (*p == '-' || (*p == '_' && p - 1 > name && p[-2] != '_'));
        if (after_separator && !repeats)
            return false;
        after_separator = true;
    }
    return !after_separator;
}

static bool port_is_valid(const char *port)
{
    size_t length = strspn(port, "0123456789");

    return length > 0 && length <= 5 && port[length] == '\0' && strtoul(port, NULL, 10) > 0 &&
           strtoul(port, NULL, 10) <= UINT16_MAX;
}

static bool host_is_valid(const char *host)
{
    const char *rest;

    if (strlen(host) > HOST_MAX)
        return false;
    if (host[0] == '[') {
        size_t length = strspn(host + 1, "0123456789abcdefABCDEF:.");
        if (length == 0 || host[1 + length] != ']')
            return false;
        rest = host + length + 2;
    } else {
        rest = host;
        while (is_alnum(*rest) || *rest == '.' || *rest == '-')
            rest++;
        if (rest == host || host[0] == '-')
            return false;
    }
    return *rest == '\0' || (*rest == ':' && port_is_valid(rest + 1));
}

/* Cuts ":TAG" off the end of text; what is before the last '/' has no tag. */
static char *cut_tag(char *text)
{
    char *colon = strrchr(text, ':');

    if (colon == NULL || strchr(colon, '/') != NULL)
        return NULL;
    *colon = '\0';
    return colon + 1;
}

static int take_tag(const char *text, const char *tag, struct reference *ref, struct error *err)
{
    ref->tag_given = tag != NULL;
    ref->tag = io_format("%s", tag != NULL ? tag : "latest");
    return tag_is_valid(ref->tag) ? 0 : bad_reference(text, "that is no tag", err);
}

static int parse_layout(const char *text, struct reference *ref, struct error *err)
{
    _cleanup_free_ char *rest = io_format("%s", text + strlen(LAYOUT_PREFIX));
    const char *tag = cut_tag(rest);

    ref->layout = true;
    if (rest[0] == '\0')
        return bad_reference(text, "the directory is missing", err);
    ref->dir = io_format("%s", rest);
    return take_tag(text, tag, ref, err);
}

static int parse_remote(const char *text, struct reference *ref, struct error *err)
{
    size_t length = host_length(text);
    if (length == 0)
        return bad_reference(text, "the registry's host is missing", err);
    ref->host = io_format("%.*s", (int)length, text);
    if (!host_is_valid(ref->host))
        return bad_reference(text, "that is no host", err);

    _cleanup_free_ char *rest = io_format("%s", text + length + 1);
    char *at = strchr(rest, '@');
    if (at != NULL) {
        *at = '\0';
        ref->has_digest = true;
        if (strncmp(at + 1, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0 ||
            digest_parse(at + 1 + strlen(DIGEST_PREFIX), &ref->digest) < 0)
            return bad_reference(text, "that is no SHA-256 digest", err);
    }
    const char *tag = cut_tag(rest);
    if (!repository_is_valid(rest))
        return bad_reference(text, "that is no repository name", err);
    ref->repository = io_format("%s", rest);
    return ref->has_digest && tag == NULL ? 0 : take_tag(text, tag, ref, err);
}

int reference_parse(const char *text, struct reference *out, struct error *err)
{
    _cleanup_(reference_clear) struct reference ref = {0};

    int r = strncmp(text, LAYOUT_PREFIX, strlen(LAYOUT_PREFIX)) == 0
                ? parse_layout(text, &ref, err)
                : parse_remote(text, &ref, err);
    if (r < 0)
        return r;
    *out = ref;
    ref = (struct reference){0};
    return 0;
}
