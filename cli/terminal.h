/* SPDX-License-Identifier: Apache-2.0 */
/* Joining standard input and output with a machine's serial line. */
#ifndef STASIS_CLI_TERMINAL_H
#define STASIS_CLI_TERMINAL_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum terminal_end {
    TERMINAL_MACHINE_ENDED, /* the other side closed the line */
    TERMINAL_DETACHED,      /* the escape key, or a terminal that went away */
    TERMINAL_INPUT_ENDED,   /* end of input, and wait was false */
    TERMINAL_TIMED_OUT,
    TERMINAL_INTERRUPTED, /* a signal */
};

struct terminal_options {
    int escape;     /* control character, like 1 for Ctrl-a; -1: none */
    bool wait;      /* input that is no terminal has ended: go on with the output */
    int timeout_ms; /* for all of it; < 0: none */
};

/*
 * Copies until one of the ends above. A terminal is put into raw mode and back
 * again on every way out, signals included. Whatever happens here, the machine
 * only sees its line being closed. fd is the line (a socket; not owned).
 */
int terminal_join(int fd, const struct terminal_options *options, enum terminal_end *end_out,
                  struct error *err);

/* "a", "ctrl-a", "^a", "C-a" or "none". 0, or STATUS_USAGE. */
int terminal_parse_escape(const char *text, int *escape_out, struct error *err);

/* What was typed, with escapes taken out: escape then 'd' detaches, escape then
 * the same letter sends the control character, escape then anything else sends
 * both. For tests. */
struct terminal_filter {
    int escape;
    bool pending; /* the escape was the last byte */
};
/* Writes at most 2 * length bytes to out; *detach_out is set when it is time. */
size_t terminal_filter_input(struct terminal_filter *f, const uint8_t *in, size_t length,
                             uint8_t *out, bool *detach_out);

#endif
