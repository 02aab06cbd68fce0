/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/terminal.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum {
    CHUNK_SIZE = 4096,
    CONTROL_MASK = 0x1f,
    NS_PER_MS = 1000000,
};

/* ---- the escape key ---- */

int terminal_parse_escape(const char *text, int *escape_out, struct error *err)
{
    static const char *const prefixes[] = {"ctrl-", "c-", "^", ""};

    if (strcasecmp(text, "none") == 0) {
        *escape_out = -1;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
        const size_t length = strlen(prefixes[i]);
        if (strncasecmp(text, prefixes[i], length) != 0 || strlen(text) != length + 1)
            continue;
        const int c = toupper((unsigned char)text[length]);
        if (!isupper(c) && strchr("[\\]^_", c) == NULL)
            break;
        *escape_out = c & CONTROL_MASK;
        return 0;
    }
    error_set(err, STATUS_USAGE, EINVAL, "'%s' is no key for --escape", text);
    error_hint(err, "use ctrl-a to ctrl-z, ctrl-], or none");
    return -EINVAL;
}

size_t terminal_filter_input(struct terminal_filter *f, const uint8_t *in, size_t length,
                             uint8_t *out, bool *detach_out)
{
    size_t used = 0;

    for (size_t i = 0; i < length; i++) {
        const uint8_t c = in[i];
        if (!f->pending) {
            f->pending = f->escape >= 0 && c == f->escape;
            if (!f->pending)
                out[used++] = c;
            continue;
        }
        f->pending = false;
        if (c == 'd') {
            *detach_out = true;
            return used;
        }
        out[used++] = (uint8_t)f->escape;
        /* The letter alone, or the control character again, sends it once. */
        if (c != f->escape && tolower(c) != tolower(f->escape | 0x40))
            out[used++] = c;
    }
    return used;
}

/* ---- raw mode ---- */

static volatile sig_atomic_t caught_signal;

static void note_signal(int signum)
{
    caught_signal = signum;
}

static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

struct saved {
    bool terminal;
    struct termios modes;
    struct sigaction actions[ARRAY_LEN(caught)];
    sigset_t mask;
};

/* Signals are blocked but while waiting, so that none is lost between a look at
 * the flag and the wait. */
static void save_and_prepare(struct saved *saved)
{
    const struct sigaction action = {.sa_handler = note_signal};
    sigset_t block;

    caught_signal = 0;
    sigemptyset(&block);
    for (size_t i = 0; i < ARRAY_LEN(caught); i++) {
        sigaddset(&block, caught[i]);
        sigaction(caught[i], &action, &saved->actions[i]);
    }
    sigprocmask(SIG_BLOCK, &block, &saved->mask);
    saved->terminal = isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &saved->modes) == 0;
    if (!saved->terminal)
        return;
    struct termios raw = saved->modes;
    cfmakeraw(&raw);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static void restore(struct saved *saved)
{
    if (saved->terminal)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &saved->modes);
    sigprocmask(SIG_SETMASK, &saved->mask, NULL);
    for (size_t i = 0; i < ARRAY_LEN(caught); i++)
        sigaction(caught[i], &saved->actions[i], NULL);
}

/* ---- copying ---- */

struct join {
    int fd;
    const struct terminal_options *options;
    struct terminal_filter filter;
    bool terminal;
    bool input_ended;
    bool detach;
    uint8_t pending[2 * CHUNK_SIZE]; /* typed, not yet sent */
    size_t pending_length;
    size_t pending_sent;
    uint8_t output[CHUNK_SIZE]; /* from the machine, not yet printed */
    size_t output_length;
    size_t output_printed;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    sigset_t wait_mask;
};

/* 1 to go on, 0 when *end is set, or a negative errno. */
static int read_input(struct join *j, enum terminal_end *end)
{
    uint8_t chunk[CHUNK_SIZE];

    ssize_t n = read(STDIN_FILENO, chunk, sizeof(chunk));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    if (n > 0) {
        j->pending_length =
            terminal_filter_input(&j->filter, chunk, (size_t)n, j->pending, &j->detach);
        j->pending_sent = 0;
        return 1;
    }
    j->input_ended = true;
    /* A terminal that hangs up reads as an end or as EIO. */
    if (j->terminal) {
        *end = TERMINAL_DETACHED;
        return 0;
    }
    return 1;
}

static int send_pending(struct join *j, enum terminal_end *end)
{
    ssize_t n = send(j->fd, j->pending + j->pending_sent, j->pending_length - j->pending_sent,
                     MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    if (n < 0) {
        *end = TERMINAL_MACHINE_ENDED;
        return 0;
    }
    j->pending_sent += (size_t)n;
    return 1;
}

static int read_line(struct join *j, enum terminal_end *end)
{
    ssize_t n = recv(j->fd, j->output, sizeof(j->output), MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    if (n <= 0) {
        *end = TERMINAL_MACHINE_ENDED;
        return 0;
    }
    j->output_length = (size_t)n;
    j->output_printed = 0;
    return 1;
}

static int print_output(struct join *j, enum terminal_end *end)
{
    ssize_t n =
        write(STDOUT_FILENO, j->output + j->output_printed, j->output_length - j->output_printed);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    if (n < 0 && j->terminal) {
        *end = TERMINAL_DETACHED;
        return 0;
    }
    if (n < 0)
        return -errno;
    j->output_printed += (size_t)n;
    return 1;
}

static int timeout_until(uint64_t deadline_ns, struct timespec *out)
{
    const uint64_t now = clock_monotonic_ns();
    const uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

    out->tv_sec = (time_t)(left / 1000000000u);
    out->tv_nsec = (long)(left % 1000000000u);
    return left > 0;
}

/* Waits for something to do and does it. */
static int step(struct join *j, enum terminal_end *end)
{
    const bool sending = j->pending_sent < j->pending_length;
    const bool printing = j->output_printed < j->output_length;
    const int line_events = (printing ? 0 : POLLIN) | (sending ? POLLOUT : 0);
    struct pollfd fds[3] = {
        /* A negative one is passed over: it could not be kept from telling a hang-up. */
        {.fd = line_events != 0 ? j->fd : -1, .events = (short)line_events},
        /* No more is read than the machine takes: typing must not pile up. */
        {.fd = sending || j->input_ended ? -1 : STDIN_FILENO, .events = POLLIN},
        /* Waited for here and not in write(), where signals are blocked: a pipe that
         * nobody reads must not make a process that cannot be ended. */
        {.fd = printing ? STDOUT_FILENO : -1, .events = POLLOUT},
    };
    struct timespec left;
    const bool limited = j->deadline_ns != UINT64_MAX;

    if (limited && !timeout_until(j->deadline_ns, &left)) {
        *end = TERMINAL_TIMED_OUT;
        return 0;
    }
    int n = ppoll(fds, ARRAY_LEN(fds), limited ? &left : NULL, &j->wait_mask);
    if (n < 0)
        return errno == EINTR ? 1 : -errno;
    int r = 1;
    if (fds[2].revents != 0)
        r = print_output(j, end);
    if (r > 0 && !printing && (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
        r = read_line(j, end);
    if (r > 0 && (fds[0].revents & POLLOUT) != 0)
        r = send_pending(j, end);
    if (r > 0 && fds[1].revents != 0)
        r = read_input(j, end);
    return r;
}

/* What ends it that is not an event of its own. */
static bool is_over(const struct join *j, enum terminal_end *end)
{
    const bool sent = j->pending_sent == j->pending_length;
    const bool printed = j->output_printed == j->output_length;

    if (caught_signal != 0) {
        *end = caught_signal == SIGHUP ? TERMINAL_DETACHED : TERMINAL_INTERRUPTED;
        return true;
    }
    if (j->detach && sent) {
        *end = TERMINAL_DETACHED;
        return true;
    }
    if (j->input_ended && sent && printed && !j->options->wait) {
        *end = TERMINAL_INPUT_ENDED;
        return true;
    }
    return false;
}

static int copy(struct join *j, enum terminal_end *end)
{
    int r = 1;

    while (r > 0 && !is_over(j, end))
        r = step(j, end);
    return r < 0 ? r : 0;
}

int terminal_join(int fd, const struct terminal_options *options, enum terminal_end *end_out,
                  struct error *err)
{
    struct saved saved = {0};
    struct join join = {.fd = fd, .options = options, .deadline_ns = UINT64_MAX};

    save_and_prepare(&saved);
    join.terminal = saved.terminal;
    join.wait_mask = saved.mask;
    /* Only a keyboard has an escape key; a file is sent as it is. */
    join.filter.escape = saved.terminal ? options->escape : -1;
    if (options->timeout_ms >= 0)
        join.deadline_ns = clock_monotonic_ns() + (uint64_t)options->timeout_ms * NS_PER_MS;
    int r = copy(&join, end_out);
    restore(&saved);
    return r < 0 ? error_errno(err, -r, "cannot write what the machine prints") : 0;
}
