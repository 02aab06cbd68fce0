/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in the payload of a frame. All numbers are little-endian; a text is
 * le32 length, that many bytes of which none is NUL, and a NUL byte.
 *
 * Decoders check everything: -EBADMSG for a payload that is too short, too long or
 * cannot be. Texts point into the payload and are valid as long as it is. Encoders
 * append to a buffer: -ENOMEM.
 */
#ifndef STASIS_AGENT_MESSAGES_H
#define STASIS_AGENT_MESSAGES_H

#include "agent/channel.h"

#include <sys/stat.h>

#define AGENT_PROTOCOL 1u   /* of this file; another one is not understood */
#define AGENT_NAME_MAX 255u /* bytes of a file's name */
#define AGENT_ENTROPY_MAX 512u

/* Exit codes of `exec` that are not the command's. */
enum { AGENT_EXIT_FAILED = 125, AGENT_EXIT_CANNOT_RUN = 126, AGENT_EXIT_NOT_FOUND = 127 };

struct agent_hello {
    uint16_t protocol;
    const char *version; /* of the agent, for messages */
};

enum { AGENT_EXEC_TTY = 1, AGENT_EXEC_INPUT = 2, AGENT_EXEC_FLAGS = 3 };

struct agent_exec {
    uint32_t flags;
    uint16_t rows, columns;   /* of the terminal, 0: not known */
    const char **argv;        /* NULL-terminated; none: the user's shell, as at a login */
    const char **environment; /* NULL-terminated "K=V" */
    const char *directory;    /* "": the user's home */
    const char *user;         /* name or number; "": whoever the agent runs as */
};

struct agent_copy {
    const char *path; /* in the guest; relative to the home of whoever the agent is */
};

enum { AGENT_SHUTDOWN_POWER_OFF = 0, AGENT_SHUTDOWN_REBOOT = 1 };

enum { AGENT_IDENTITY_CLOCK = 1, AGENT_IDENTITY_DHCP = 2, AGENT_IDENTITY_FLAGS = 3 };

struct agent_identity {
    uint32_t flags;
    int64_t clock_s; /* with AGENT_IDENTITY_CLOCK: the wall clock's time, since 1970 */
    uint32_t clock_ns;
    const uint8_t *entropy; /* for the kernel's random numbers; may be none */
    uint32_t entropy_length;
    const char *host_name;  /* "": as it is */
    const char *machine_id; /* 32 hex digits; "": as it is */
};

struct agent_failure {
    uint32_t code;   /* of exec: AGENT_EXIT_*; else 0 */
    uint32_t errnum; /* a positive errno, or 0 */
    const char *message;
};

struct agent_end { /* of a command */
    bool by_signal;
    uint32_t value; /* exit code, or number of the signal */
};

struct agent_size {
    uint16_t rows, columns;
};

struct agent_entry {
    uint32_t mode; /* permissions: 07777 */
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint64_t size_bytes; /* of a file when it was looked at; it may change meanwhile */
    const char *name;    /* one component; of the first: what it was called, or "." */
    const char *target;  /* of a link */
};

struct agent_data {
    uint64_t offset;
    const uint8_t *bytes;
    size_t length;
};

int agent_hello_encode(const struct agent_hello *m, struct buffer *out);
int agent_hello_decode(const struct frame *frame, struct agent_hello *out);

int agent_exec_encode(const struct agent_exec *m, struct buffer *out);
/* Pair with agent_exec_clear(). -ENOMEM. */
int agent_exec_decode(const struct frame *frame, struct agent_exec *out);
void agent_exec_clear(struct agent_exec *m);

int agent_copy_encode(const struct agent_copy *m, struct buffer *out);
int agent_copy_decode(const struct frame *frame, struct agent_copy *out);

int agent_identity_encode(const struct agent_identity *m, struct buffer *out);
int agent_identity_decode(const struct frame *frame, struct agent_identity *out);

int agent_failure_encode(const struct agent_failure *m, struct buffer *out);
int agent_failure_decode(const struct frame *frame, struct agent_failure *out);

int agent_end_encode(const struct agent_end *m, struct buffer *out);
int agent_end_decode(const struct frame *frame, struct agent_end *out);

int agent_size_encode(const struct agent_size *m, struct buffer *out);
int agent_size_decode(const struct frame *frame, struct agent_size *out);

int agent_entry_encode(const struct agent_entry *m, struct buffer *out);
/* The same of what lies there: its mode, time and, of a file (AGENT_FILE), size. */
int agent_entry_encode_stat(enum agent_frame type, const struct stat *st, const char *name,
                            const char *target, struct buffer *out);
/* The name is checked: one component, not "..", "." only where first is true. */
int agent_entry_decode(const struct frame *frame, bool first, struct agent_entry *out);

int agent_data_decode(const struct frame *frame, struct agent_data *out);

/* Payloads of one number, or one text. */
int agent_u32_decode(const struct frame *frame, uint32_t *out);
int agent_u64_decode(const struct frame *frame, uint64_t *out);
int agent_text_encode(const char *text, struct buffer *out);
int agent_text_decode(const struct frame *frame, const char **out);

#endif
