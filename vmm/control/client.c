/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/control/client.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { REPLY_MAX = 1 << 20 };

static void limit_wait(int fd, int timeout_ms)
{
    const struct timeval limit = {
        .tv_sec = timeout_ms / 1000,
        .tv_usec = timeout_ms % 1000 * 1000,
    };

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

int control_connect(const char *socket_path, int timeout_ms, int *fd_out, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(socket_path);

    if (length >= sizeof(address.sun_path))
        return error_set(err, STATUS_FAILED, ENAMETOOLONG, "the socket's path is too long: %s",
                         socket_path);
    memcpy(address.sun_path, socket_path, length + 1);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot make a socket");
    if (timeout_ms >= 0)
        limit_wait(fd, timeout_ms);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int errnum = errno;
        return error_set(err, STATUS_FAILED, errnum, "the machine does not answer: %s",
                         strerror(errnum));
    }
    *fd_out = steal_fd(&fd);
    return 0;
}

static int send_request(int fd, const char *verb, json_t *args)
{
    _cleanup_json_ json_t *request = json_pack("{s:s}", "verb", verb);

    if (request == NULL || (args != NULL && json_object_set(request, "args", args) < 0))
        return -ENOMEM;
    _cleanup_free_ char *text = json_dumps(request, JSON_COMPACT);
    if (text == NULL)
        return -ENOMEM;
    size_t length = strlen(text);
    text[length] = '\n'; /* in the place of the NUL */
    for (size_t sent = 0; sent < length + 1;) {
        ssize_t n = send(fd, text + sent, length + 1 - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        sent += (size_t)n;
    }
    return 0;
}

/* A byte at a time: what follows the line may be the console's. */
static int read_line(int fd, struct buffer *line)
{
    for (;;) {
        char c;
        int r = io_read_full(fd, &c, 1);
        if (r < 0)
            return r;
        if (c == '\n')
            return 0;
        if (line->length >= REPLY_MAX)
            return -EMSGSIZE;
        if ((r = buffer_append(line, &c, 1)) < 0)
            return r;
    }
}

static int take_error(json_t *reply, struct error *err)
{
    const char *message = json_string_value(json_object_get(reply, "message"));
    const char *hint = json_string_value(json_object_get(reply, "hint"));
    int errnum = (int)json_integer_value(json_object_get(reply, "errno"));

    if (errnum <= 0)
        errnum = EIO;
    error_set(err, (enum error_status)json_integer_value(json_object_get(reply, "status")), errnum,
              "%s", message != NULL ? message : "the machine refused without a reason");
    if (hint != NULL && hint[0] != '\0')
        error_hint(err, "%s", hint);
    return -errnum;
}

int control_call(int fd, const char *verb, json_t *args, json_t **result_out, struct error *err)
{
    _cleanup_(buffer_clear) struct buffer line = {0};

    int r = send_request(fd, verb, args);
    if (r == 0)
        r = read_line(fd, &line);
    if (r < 0) {
        error_set(err, STATUS_FAILED, -r, "the machine ended before it answered '%s'", verb);
        error_hint(err, "its machine.log may say why");
        return r;
    }
    _cleanup_json_ json_t *reply = json_loadb((const char *)line.data, line.length, 0, NULL);
    if (!json_is_object(reply))
        return error_set(err, STATUS_FAILED, EPROTO, "the machine answered what is not JSON");
    if (!json_is_true(json_object_get(reply, "ok")))
        return take_error(reply, err);
    if (result_out != NULL) {
        json_t *result = json_object_get(reply, "result");
        *result_out = result != NULL ? json_incref(result) : json_object();
    }
    return 0;
}

int control_request(const char *socket_path, const char *verb, json_t *args, json_t **result_out,
                    struct error *err)
{
    _cleanup_close_ int fd = -1;

    int r = control_connect(socket_path, -1, &fd, err);
    if (r < 0)
        return r;
    return control_call(fd, verb, args, result_out, err);
}
