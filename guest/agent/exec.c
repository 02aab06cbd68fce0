/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command and its streams. Output is read only as fast as the host takes it, and
 * the host sends no more input than AGENT_INPUT_WINDOW beyond what the command has
 * taken; so this process holds little, and it always hears what the host says, were
 * the command never to read.
 */
#include "command.h"
#include "session.h"

#include "base/bytes.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum {
    QUEUE_HIGH = 64 << 10,   /* bytes for the host before output waits */
    TERMINAL_DRAIN_MS = 250, /* what a terminal still holds comes with a delay */
    HANG_UP_MS = 2000,       /* from SIGHUP to SIGKILL */
};

struct run {
    struct channel *ch;
    struct command command;
    bool tty;
    int signals; /* signalfd: SIGCHLD */
    struct buffer input;
    size_t input_given;
    uint32_t untold; /* input given or dropped that the host has not been told of */
    bool input_ends;
    bool end_typed; /* the last byte of input is the key for it, not the host's */
    bool exited;
    int status; /* of waitpid() */
};

/* ---- from the host ---- */

static void close_input(struct run *run)
{
    if (run->tty || run->command.in < 0)
        return;
    close(run->command.in);
    run->command.in = -1;
}

static int take_input(struct run *run, const struct frame *frame)
{
    if (run->input.length - run->input_given + frame->length > AGENT_INPUT_WINDOW)
        return -EBADMSG;
    if (run->command.in < 0) { /* nobody reads it any more */
        run->untold += (uint32_t)frame->length;
        return 0;
    }
    memmove(run->input.data, run->input.data + run->input_given,
            run->input.length - run->input_given);
    run->input.length -= run->input_given;
    run->input_given = 0;
    return buffer_append(&run->input, frame->payload, frame->length);
}

static int end_input(struct run *run)
{
    struct termios modes;

    if (run->input_ends)
        return 0;
    run->input_ends = true;
    /* A terminal has no end; a key says so. */
    run->end_typed = run->tty && run->command.in >= 0 && tcgetattr(run->command.in, &modes) == 0;
    return run->end_typed ? buffer_append_u8(&run->input, modes.c_cc[VEOF]) : 0;
}

static int resize(struct run *run, const struct frame *frame)
{
    struct agent_size size;

    if (agent_size_decode(frame, &size) < 0)
        return -EBADMSG;
    const struct winsize w = {.ws_row = size.rows, .ws_col = size.columns};
    if (run->tty && run->command.in >= 0)
        ioctl(run->command.in, TIOCSWINSZ, &w);
    return 0;
}

static int send_signal(struct run *run, const struct frame *frame)
{
    uint32_t number;
    pid_t group = run->command.pid;

    if (agent_u32_decode(frame, &number) < 0 || number == 0 || number > 64)
        return -EBADMSG;
    if (run->tty && run->command.in >= 0)
        ioctl(run->command.in, TIOCGPGRP, &group);
    if (!run->exited && group > 1)
        kill(-group, (int)number);
    return 0;
}

static int take_frame(struct run *run, const struct frame *frame)
{
    switch (frame->type) {
    case AGENT_INPUT:
        return take_input(run, frame);
    case AGENT_INPUT_END:
        return end_input(run);
    case AGENT_RESIZE:
        return resize(run, frame);
    case AGENT_SIGNAL:
        return send_signal(run, frame);
    default:
        return -EBADMSG;
    }
}

static int take_frames(struct run *run)
{
    struct frame frame;
    int r;

    while ((r = channel_next(run->ch, &frame)) > 0)
        if ((r = take_frame(run, &frame)) < 0)
            return r;
    return r;
}

/* Negative: the host has gone, or talks nonsense. */
static int hear(struct run *run)
{
    int r = channel_fill(run->ch);
    if (r == -EAGAIN)
        return 0;
    if (r <= 0)
        return r < 0 ? r : -ECONNRESET;
    return take_frames(run);
}

/* ---- to and from the command ---- */

static void give_input(struct run *run)
{
    const size_t left = run->input.length - run->input_given;

    if (left > 0) {
        ssize_t n = write(run->command.in, run->input.data + run->input_given, left);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) { /* it does not read any more: the rest is dropped */
            n = (ssize_t)left;
            if (!run->tty)
                close_input(run);
        }
        run->input_given += (size_t)n;
        run->untold += (uint32_t)n;
    }
    if (!run->input_ends || run->input_given < run->input.length)
        return;
    if (run->end_typed)
        run->untold--;
    run->end_typed = false;
    close_input(run);
}

static int tell_taken(struct run *run)
{
    uint8_t payload[4];

    if (run->untold == 0)
        return 0;
    store_le32(payload, run->untold);
    run->untold = 0;
    return channel_queue(run->ch, AGENT_INPUT_TAKEN, NULL, 0, payload, sizeof(payload));
}

/* 1: there was something; 0: nothing now; negative: of the channel. A stream that has
 * ended is closed. */
static int take_output(struct run *run, int *fd, enum agent_frame type)
{
    uint8_t chunk[AGENT_CHUNK_SIZE];

    if (*fd < 0)
        return 0;
    ssize_t n = read(*fd, chunk, sizeof(chunk));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n > 0) {
        int r = channel_queue(run->ch, type, NULL, 0, chunk, (size_t)n);
        return r < 0 ? r : 1;
    }
    /* EIO: nobody has the terminal open any more. */
    if (run->tty)
        run->command.in = -1;
    close(*fd);
    *fd = -1;
    return 0;
}

static void reap(struct run *run)
{
    struct signalfd_siginfo info;
    int status;
    pid_t pid;

    (void)!read(run->signals, &info, sizeof(info));
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == run->command.pid) {
            run->exited = true;
            run->status = status;
        }
}

/* ---- the loop ---- */

static int step(struct run *run)
{
    struct command *c = &run->command;
    const bool room = channel_queued(run->ch) < QUEUE_HIGH;
    const bool giving =
        c->in >= 0 && (run->input_given < run->input.length || (run->input_ends && !run->tty));
    struct pollfd fds[] = {
        {.fd = run->ch->fd,
         .events = (short)(POLLIN | POLLRDHUP | (channel_queued(run->ch) > 0 ? POLLOUT : 0))},
        {.fd = run->signals, .events = POLLIN},
        {.fd = giving ? c->in : -1, .events = POLLOUT},
        {.fd = room ? c->out : -1, .events = POLLIN},
        {.fd = room ? c->err : -1, .events = POLLIN},
    };
    int r = 0;

    if (poll(fds, ARRAY_LEN(fds), -1) < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR))
        return -ECONNRESET;
    if (fds[0].revents & POLLIN)
        r = hear(run);
    if (r == 0 && fds[2].revents != 0 && c->in >= 0)
        give_input(run);
    if (r == 0 && fds[3].revents != 0)
        r = take_output(run, &c->out, AGENT_OUTPUT);
    if (r >= 0 && fds[4].revents != 0)
        r = take_output(run, &c->err, AGENT_ERROR_OUTPUT);
    if (fds[1].revents != 0)
        reap(run);
    if (r >= 0)
        r = tell_taken(run);
    return r < 0 ? r : channel_flush(run->ch);
}

/* What it has written is there, whoever else may still hold the other end: a daemon
 * that it left behind is not waited for. */
static int drain(struct run *run, int *fd, enum agent_frame type)
{
    int r = 1;

    while (*fd >= 0 && r > 0) {
        r = channel_send_all(run->ch);
        if (r >= 0)
            r = take_output(run, fd, type);
        struct pollfd pfd = {.fd = *fd, .events = POLLIN};
        if (r == 0 && run->tty && *fd >= 0 && poll(&pfd, 1, TERMINAL_DRAIN_MS) > 0)
            r = 1;
    }
    return r;
}

static int tell_end(struct run *run)
{
    const bool by_signal = WIFSIGNALED(run->status);
    const struct agent_end end = {
        .by_signal = by_signal,
        .value = (uint32_t)(by_signal ? WTERMSIG(run->status) : WEXITSTATUS(run->status)),
    };
    struct buffer payload = {0};

    int r = agent_end_encode(&end, &payload);
    if (r == 0)
        r = channel_queue(run->ch, AGENT_EXIT, NULL, 0, payload.data, payload.length);
    buffer_clear(&payload);
    return r < 0 ? r : channel_send_all(run->ch);
}

/* Nobody is there any more for whom the command works. */
static void hang_up(struct run *run)
{
    struct pollfd pfd = {.fd = run->signals, .events = POLLIN};

    command_close(&run->command);
    if (run->exited)
        return;
    kill(-run->command.pid, SIGHUP);
    kill(-run->command.pid, SIGCONT);
    if (poll(&pfd, 1, HANG_UP_MS) > 0)
        reap(run);
    kill(-run->command.pid, SIGKILL);
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_SETMASK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void serve_command(struct run *run)
{
    /* How long the command takes, and how long nobody reads, is the user's business. */
    run->ch->patience_ms = -1;
    int r = take_frames(run); /* what came with the request */
    while (r >= 0 && !run->exited)
        r = step(run);
    if (r >= 0)
        r = drain(run, &run->command.out, AGENT_OUTPUT);
    if (r >= 0)
        r = drain(run, &run->command.err, AGENT_ERROR_OUTPUT);
    if (r >= 0 && (r = tell_end(run)) >= 0)
        session_linger(run->ch);
    if (r == -EBADMSG)
        session_fail(run->ch, AGENT_EXIT_FAILED, EBADMSG, "what the host says cannot be read");
    if (r < 0)
        hang_up(run);
    command_close(&run->command);
    buffer_clear(&run->input);
}

void exec_serve(struct channel *ch, const struct frame *frame)
{
    struct run run = {.ch = ch};
    struct agent_exec request;
    struct command_failure why;
    uint8_t *copy = malloc(frame->length + 1); /* the next frame takes its place */
    struct frame kept = *frame;

    if (copy == NULL) {
        session_fail(ch, AGENT_EXIT_FAILED, ENOMEM, "out of memory in the guest");
        return;
    }
    memcpy(copy, frame->payload, frame->length);
    kept.payload = copy;
    run.signals = open_signals();
    if (agent_exec_decode(&kept, &request) < 0 || run.signals < 0) {
        session_fail(ch, AGENT_EXIT_FAILED, EINVAL, "the request cannot be read");
        free(copy);
        return;
    }
    run.tty = (request.flags & AGENT_EXEC_TTY) != 0;
    if (command_start(&request, &run.command, &why) < 0)
        session_fail(ch, why.code, why.errnum, "%s%s%s: %s", why.what,
                     request.argv[0] != NULL ? " for " : "",
                     request.argv[0] != NULL ? request.argv[0] : "", strerror(why.errnum));
    else
        serve_command(&run);
    agent_exec_clear(&request);
    free(copy);
}
