/* SPDX-License-Identifier: Apache-2.0 */
#include "session.h"

#include "agent/messages.h"
#include "agent/tree.h"
#include "user.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whoever connects has to ask something; a copy has to go on. */
enum { REQUEST_MS = 60000, STALL_MS = 600000, LINGER_MS = 10000 };

/* ---- answers ---- */

static void vfail(struct channel *ch, unsigned code, int errnum, const char *fmt, va_list args)
{
    char text[512];
    struct buffer payload = {0};
    const struct agent_failure failure = {
        .code = code,
        .errnum = (uint32_t)errnum,
        .message = text,
    };

    vsnprintf(text, sizeof(text), fmt, args);
    if (agent_failure_encode(&failure, &payload) == 0)
        channel_send(ch, AGENT_ERROR, payload.data, payload.length);
    buffer_clear(&payload);
}

void session_linger(struct channel *ch)
{
    int r;

    shutdown(ch->fd, SHUT_WR);
    do {
        ch->in.length = ch->in_taken = 0;
        r = channel_fill(ch);
        if (r == -EAGAIN)
            r = channel_wait(ch, POLLIN, LINGER_MS) == 0;
    } while (r > 0);
}

void session_fail(struct channel *ch, unsigned code, int errnum, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vfail(ch, code, errnum, fmt, args);
    va_end(args);
    session_linger(ch);
}

static void send_warning(const char *text, void *context)
{
    struct channel *ch = context;
    struct buffer payload = {0};

    if (agent_text_encode(text, &payload) == 0)
        channel_send(ch, AGENT_WARNING, payload.data, payload.length);
    buffer_clear(&payload);
}

void session_warn(struct channel *ch, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    send_warning(text, ch);
}

void session_done(struct channel *ch)
{
    if (channel_send(ch, AGENT_DONE, NULL, 0) == 0)
        session_linger(ch);
}

/* ---- copies ---- */

/* Paths are relative to the home of whoever the agent is, as with scp. */
static int go_home(void)
{
    struct user user;

    int r = user_find("", &user);
    if (r < 0 || chdir(user.home) < 0)
        return chdir("/");
    return 0;
}

static void serve_copy(struct channel *ch, const struct frame *request)
{
    const struct tree_options options = {.mode_mask = 07777, .warn = send_warning, .context = ch};
    struct error err = ERROR_INIT;
    struct agent_copy copy;
    const bool in = request->type == AGENT_COPY_IN;

    if (agent_copy_decode(request, &copy) < 0 || copy.path[0] == '\0') {
        session_fail(ch, 0, EINVAL, "the request cannot be read");
        return;
    }
    /* The request's text goes when the next frame comes. */
    char *path = strdup(copy.path);
    go_home();
    umask(0);
    ch->patience_ms = STALL_MS;
    int r = path == NULL ? error_errno(&err, ENOMEM, "cannot copy")
            : in         ? tree_receive(ch, path, &options, &err)
                         : tree_send(ch, path, &options, &err);
    if (r < 0)
        session_fail(ch, 0, err.errnum, "%s", err.message);
    else if (in)
        session_done(ch);
    else
        session_linger(ch);
    free(path);
}

/* ---- the connection ---- */

static int say_hello(struct channel *ch)
{
    const struct agent_hello hello = {.protocol = AGENT_PROTOCOL, .version = STASIS_VERSION};
    struct buffer payload = {0};

    int r = agent_hello_encode(&hello, &payload);
    if (r == 0)
        r = channel_send(ch, AGENT_HELLO, payload.data, payload.length);
    buffer_clear(&payload);
    return r;
}

static void dispatch(struct channel *ch, const struct frame *request)
{
    switch (request->type) {
    case AGENT_EXEC:
        exec_serve(ch, request);
        break;
    case AGENT_COPY_IN:
    case AGENT_COPY_OUT:
        serve_copy(ch, request);
        break;
    case AGENT_SHUTDOWN:
        shutdown_serve(ch, request);
        break;
    case AGENT_IDENTITY:
        identity_serve(ch, request);
        break;
    default:
        session_fail(ch, AGENT_EXIT_FAILED, ENOSYS,
                     "the agent in the guest (" STASIS_VERSION ") does not know how to do this");
    }
}

void session_serve(int fd)
{
    struct channel ch;
    struct frame request;

    channel_init(&ch, fd, REQUEST_MS);
    int r = say_hello(&ch);
    if (r == 0)
        r = channel_receive(&ch, &request);
    if (r == 0)
        dispatch(&ch, &request);
    else if (r == -EBADMSG)
        session_fail(&ch, AGENT_EXIT_FAILED, EBADMSG, "the request cannot be read");
    channel_clear(&ch);
}
