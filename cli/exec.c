/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/exec.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "cli/terminal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

enum {
    READ_SIZE = 16 << 10,
    QUEUE_HIGH = 64 << 10,
    SIGNAL_BASE = 128, /* of exit codes, as shells have it */
};

/* ---- signals and the terminal's mode ---- */

static volatile sig_atomic_t asked_to_end; /* the signal's number */
static volatile sig_atomic_t times_asked;
static volatile sig_atomic_t size_changed;

static void note(int number)
{
    if (number == SIGWINCH) {
        size_changed = 1;
        return;
    }
    asked_to_end = number;
    times_asked++;
}

static const int caught[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGWINCH};

struct saved {
    bool raw;
    struct termios modes;
    struct sigaction actions[ARRAY_LEN(caught)];
    sigset_t mask;
};

/* Signals are blocked but while we wait, so that none is missed. */
static void prepare(struct saved *saved, bool tty, int in)
{
    const struct sigaction action = {.sa_handler = note};
    sigset_t block;

    asked_to_end = times_asked = size_changed = 0;
    sigemptyset(&block);
    for (size_t i = 0; i < ARRAY_LEN(caught); i++) {
        sigaddset(&block, caught[i]);
        sigaction(caught[i], &action, &saved->actions[i]);
    }
    sigprocmask(SIG_BLOCK, &block, &saved->mask);
    saved->raw = tty && isatty(in) == 1 && tcgetattr(in, &saved->modes) == 0;
    if (!saved->raw)
        return;
    struct termios raw = saved->modes;
    cfmakeraw(&raw);
    tcsetattr(in, TCSADRAIN, &raw);
}

static void restore(const struct saved *saved, int in)
{
    if (saved->raw)
        tcsetattr(in, TCSADRAIN, &saved->modes);
    sigprocmask(SIG_SETMASK, &saved->mask, NULL);
    for (size_t i = 0; i < ARRAY_LEN(caught); i++)
        sigaction(caught[i], &saved->actions[i], NULL);
}

/* ---- the state ---- */

struct session {
    struct channel *ch;
    const struct exec_streams *streams;
    struct error *err;
    bool tty;
    bool raw;
    bool input_ended;
    size_t window; /* bytes of input the agent takes now */
    struct terminal_filter filter;
    bool detach;
    int writing_to; /* -1: nothing to write */
    const uint8_t *writing;
    size_t writing_length;
    bool finished;
    int code;
};

static int lost(struct session *s)
{
    error_set(s->err, STATUS_EXEC_FAILED, ECONNRESET, "the connection to the guest was lost");
    error_hint(s->err, "it was put back to a checkpoint, or it ended; the command has ended too");
    return -ECONNRESET;
}

static int nonsense(struct session *s)
{
    return error_set(s->err, STATUS_EXEC_FAILED, EBADMSG,
                     "what the guest says is no answer of an agent");
}

static int channel_error(struct session *s, int r)
{
    if (r == -EPIPE || r == -ECONNRESET)
        return lost(s);
    return r == -EBADMSG ? nonsense(s)
                         : error_set(s->err, STATUS_EXEC_FAILED, -r,
                                     "the connection to the guest failed: %s", strerror(-r));
}

/* ---- from the guest ---- */

static int take_failure(struct session *s, const struct frame *frame)
{
    struct agent_failure failure;

    if (agent_failure_decode(frame, &failure) < 0)
        return nonsense(s);
    const enum error_status status = failure.code == AGENT_EXIT_CANNOT_RUN  ? STATUS_EXEC_CANNOT_RUN
                                     : failure.code == AGENT_EXIT_NOT_FOUND ? STATUS_EXEC_NOT_FOUND
                                                                            : STATUS_EXEC_FAILED;
    return error_set(s->err, status, EIO, "%s", failure.message);
}

static int take_end(struct session *s, const struct frame *frame)
{
    struct agent_end end;

    if (agent_end_decode(frame, &end) < 0)
        return nonsense(s);
    s->code = (int)end.value + (end.by_signal ? SIGNAL_BASE : 0);
    s->finished = true;
    return 0;
}

static int take_frame(struct session *s, const struct frame *frame)
{
    uint32_t taken;

    switch (frame->type) {
    case AGENT_OUTPUT:
    case AGENT_ERROR_OUTPUT:
        s->writing_to = frame->type == AGENT_OUTPUT ? s->streams->out : s->streams->err;
        s->writing = frame->payload;
        s->writing_length = frame->length;
        return 0;
    case AGENT_INPUT_TAKEN:
        if (agent_u32_decode(frame, &taken) < 0 || taken > AGENT_INPUT_WINDOW - s->window)
            return nonsense(s);
        s->window += taken;
        return 0;
    case AGENT_EXIT:
        return take_end(s, frame);
    case AGENT_ERROR:
        return take_failure(s, frame);
    default:
        return nonsense(s);
    }
}

/* Frames that are here, as long as what they hold can be written. */
static int take_frames(struct session *s)
{
    struct frame frame;

    while (!s->finished && s->writing_length == 0) {
        int r = channel_next(s->ch, &frame);
        if (r == 0)
            return 0;
        if (r < 0 || (r = take_frame(s, &frame)) < 0)
            return r == -EBADMSG ? nonsense(s) : r;
    }
    return 0;
}

static int fill(struct session *s)
{
    int r = channel_fill(s->ch);
    if (r > 0 || r == -EAGAIN)
        return 0;
    return channel_error(s, r == 0 ? -ECONNRESET : r);
}

/* What a pipe takes without waiting, once it takes something. */
static size_t write_limit(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? SIZE_MAX : PIPE_BUF;
}

static int write_some(struct session *s)
{
    const size_t length = min_u64(s->writing_length, write_limit(s->writing_to));
    ssize_t n = write(s->writing_to, s->writing, length);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n < 0 && errno == EPIPE) { /* nobody reads it: the end, as by SIGPIPE */
        s->code = SIGNAL_BASE + SIGPIPE;
        s->finished = true;
        return 0;
    }
    if (n < 0)
        return error_set(s->err, STATUS_EXEC_FAILED, errno, "cannot write what it prints: %s",
                         strerror(errno));
    s->writing += n;
    s->writing_length -= (size_t)n;
    return 0;
}

/* ---- to the guest ---- */

static int queue(struct session *s, enum agent_frame type, const void *payload, size_t length)
{
    int r = channel_queue(s->ch, type, NULL, 0, payload, length);
    return r < 0 ? channel_error(s, r) : 0;
}

static int read_input(struct session *s)
{
    uint8_t in[READ_SIZE / 2], out[READ_SIZE];
    const uint8_t *bytes = in;

    ssize_t n = read(s->streams->in, in, min_u64(sizeof(in), s->window / 2));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0) {
        s->input_ended = true;
        return queue(s, AGENT_INPUT_END, NULL, 0);
    }
    size_t length = (size_t)n;
    if (s->raw) {
        length = terminal_filter_input(&s->filter, in, length, out, &s->detach);
        bytes = out;
    }
    s->window -= length;
    return length == 0 ? 0 : queue(s, AGENT_INPUT, bytes, length);
}

static int tell_size(struct session *s)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct winsize w;

    size_changed = 0;
    if (!s->raw || ioctl(s->streams->in, TIOCGWINSZ, &w) < 0)
        return 0;
    const struct agent_size size = {.rows = w.ws_row, .columns = w.ws_col};
    int r = agent_size_encode(&size, &payload);
    return r < 0 ? channel_error(s, r) : queue(s, AGENT_RESIZE, payload.data, payload.length);
}

static int interrupted(struct session *s)
{
    return error_set(s->err, STATUS_INTERRUPTED, EINTR, "interrupted; the command was ended");
}

/* A terminal that has gone ends us at once, and with us the command. */
static int pass_signal(struct session *s)
{
    uint8_t payload[4];

    const int number = asked_to_end;
    asked_to_end = 0;
    if (number == SIGHUP || times_asked > 1)
        return interrupted(s);
    store_le32(payload, (uint32_t)number);
    return queue(s, AGENT_SIGNAL, payload, sizeof(payload));
}

/* ---- the loop ---- */

static int step(struct session *s, const sigset_t *mask)
{
    const bool writing = s->writing_length > 0;
    const bool reading =
        !s->input_ended && s->window >= READ_SIZE && channel_queued(s->ch) < QUEUE_HIGH;
    const int events = (writing ? 0 : POLLIN) | (channel_queued(s->ch) > 0 ? POLLOUT : 0);
    struct pollfd fds[] = {
        /* Left out when there is nothing to do: it could not be kept from telling a
         * hang-up, and what is here has to be written first. */
        {.fd = events != 0 ? s->ch->fd : -1, .events = (short)events},
        {.fd = reading ? s->streams->in : -1, .events = POLLIN},
        {.fd = writing ? s->writing_to : -1, .events = POLLOUT},
    };
    int r = 0;

    if (ppoll(fds, ARRAY_LEN(fds), NULL, mask) < 0 && errno != EINTR)
        return channel_error(s, -errno);
    if (asked_to_end != 0)
        r = pass_signal(s);
    if (r == 0 && size_changed != 0)
        r = tell_size(s);
    if (r == 0 && fds[2].revents != 0)
        r = write_some(s);
    if (r == 0 && !writing && fds[0].revents != 0)
        r = fill(s);
    if (r == 0 && fds[1].revents != 0)
        r = read_input(s);
    /* That it cannot be sent shows when reading, with the reason if there is one. */
    if (r == 0)
        channel_flush(s->ch);
    return r < 0 ? r : take_frames(s);
}

static int loop(struct session *s, const sigset_t *mask)
{
    int r = take_frames(s);

    while (r == 0 && !s->finished && !s->detach)
        r = step(s, mask);
    if (r == 0 && s->detach)
        r = interrupted(s);
    return r;
}

static int send_request(struct session *s, const struct agent_exec *request)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};

    int r = agent_exec_encode(request, &payload);
    if (r == 0)
        r = channel_send(s->ch, AGENT_EXEC, payload.data, payload.length);
    if (r == -EMSGSIZE)
        return error_set(s->err, STATUS_EXEC_FAILED, E2BIG,
                         "the command and its environment are too long: %u KiB at most",
                         AGENT_FRAME_MAX >> 10);
    return r < 0 ? channel_error(s, r) : 0;
}

int exec_run(struct channel *ch, const struct agent_exec *request,
             const struct exec_streams *streams, int *code_out, struct error *err)
{
    struct error local = ERROR_INIT;
    struct saved saved = {0};
    struct session s = {
        .ch = ch,
        .streams = streams,
        .err = &local,
        .tty = (request->flags & AGENT_EXEC_TTY) != 0,
        .input_ended = (request->flags & AGENT_EXEC_INPUT) == 0,
        .window = AGENT_INPUT_WINDOW,
        .filter = {.escape = streams->escape},
        .writing_to = -1,
    };

    int r = send_request(&s, request);
    if (r == 0) {
        prepare(&saved, s.tty, streams->in);
        s.raw = saved.raw;
        r = loop(&s, &saved.mask);
        restore(&saved, streams->in);
    }
    if (r == 0)
        *code_out = s.code;
    else if (err != NULL)
        *err = local;
    return r;
}
