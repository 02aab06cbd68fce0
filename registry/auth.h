/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who we are, as a registry asks it: HTTP Basic (RFC 7617) or a bearer token from
 * the server a challenge names (distribution specification, "token
 * authentication"). Credentials are those other tools have stored.
 */
#ifndef STASIS_REGISTRY_AUTH_H
#define STASIS_REGISTRY_AUTH_H

#include "registry/http.h"

#include <stdbool.h>

#define AUTH_FIELD_MAX 1024

/* One challenge of a WWW-Authenticate header. Empty where not given. */
struct auth_challenge {
    char scheme[16]; /* lower case */
    char realm[AUTH_FIELD_MAX];
    char service[AUTH_FIELD_MAX];
    char scope[AUTH_FIELD_MAX];
};

/* Reads the header's challenges (RFC 9110, 11.6.1) and picks the one we can answer
 * best: bearer before basic. -ENOENT if there is none of these. */
int auth_challenge_parse(const char *header, struct auth_challenge *out);

/*
 * The stored "user:password" in base64 for a host, or for HOST/REPOSITORY and the
 * paths above it, in $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json,
 * $DOCKER_CONFIG/config.json, ~/.docker/config.json; the first that knows it.
 * The caller frees. -ENOENT if there is none.
 */
int auth_find_credentials(const char *host, const char *repository, char **basic_out);

struct auth {
    const char *host;       /* with port; not owned */
    const char *repository; /* not owned */
    const char *actions;    /* "pull" or "pull,push" */
    const char *base_url;   /* of the registry: its scheme bounds the token server's */
    char *authorization;    /* value of the header to send; NULL: none yet */
};

void auth_clear(struct auth *auth);

/* Answers a 401 by its WWW-Authenticate: afterwards auth->authorization is worth a
 * try. -EACCES with a hint where there are no credentials or they are refused. */
int auth_answer(struct auth *auth, struct http *http, const char *www_authenticate,
                struct error *err);

#endif
