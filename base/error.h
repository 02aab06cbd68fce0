/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a user reads when something fails: what failed, why, what to do next.
 *
 * Every function of the project that can fail returns 0 or a negative errno.
 * Where the cause is known, it also fills the caller's `struct error`; callers
 * on the way up may put context in front of it and nothing else.
 */
#ifndef STASIS_BASE_ERROR_H
#define STASIS_BASE_ERROR_H

/* Exit codes of the command line; part of its contract. */
enum error_status {
    STATUS_OK = 0,
    STATUS_FAILED = 1,
    STATUS_USAGE = 2,
    STATUS_PARTLY = 3,
    STATUS_NOT_FOUND = 10,
    STATUS_BUSY = 11,
    STATUS_EXISTS = 12,
    STATUS_CORRUPT = 13,
    STATUS_HOST_CANNOT = 14,
    /* Of exec, whose other codes are the command's. */
    STATUS_EXEC_FAILED = 125,
    STATUS_EXEC_CANNOT_RUN = 126,
    STATUS_EXEC_NOT_FOUND = 127,
    STATUS_INTERRUPTED = 130,
};

struct error {
    enum error_status status;
    int errnum;        /* positive errno, 0 if there was no error */
    char message[768]; /* one line: what failed and why; no newline at the end */
    char hint[320];    /* one line: what to do next; may be empty */
};

#define ERROR_INIT ((struct error){.status = STATUS_OK})

/*
 * Records an error and returns -errnum, so that `return error_set(...)` reads
 * well. err may be NULL (nothing is recorded). errnum is a positive errno.
 * An older content of err is replaced, its hint included. Thread-safe for
 * distinct err.
 */
int error_set(struct error *err, enum error_status status, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* As error_set() with the status that errnum maps to (ENOENT: NOT_FOUND, ...)
 * and ": strerror(errnum)" behind the message. For failed system calls. */
int error_errno(struct error *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As error_set() with STATUS_CORRUPT and EBADMSG: stored or received bytes are
 * not what they must be. */
int error_corrupt(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Says what the user can do about it. Keeps message and status. */
void error_hint(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "CONTEXT: " in front of the message. Keeps status, errnum and hint. */
void error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The status an errno stands for when nothing more is known. */
enum error_status error_status_of_errno(int errnum);

#endif
