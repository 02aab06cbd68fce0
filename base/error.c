/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum error_status error_status_of_errno(int errnum)
{
    switch (errnum) {
    case ENOENT:
        return STATUS_NOT_FOUND;
    case EEXIST:
        return STATUS_EXISTS;
    case EBUSY:
        return STATUS_BUSY;
    case EBADMSG:
        return STATUS_CORRUPT;
    case EINTR:
    case ECANCELED:
        return STATUS_INTERRUPTED;
    default:
        return STATUS_FAILED;
    }
}

__attribute__((format(printf, 4, 0))) static void
error_fill(struct error *err, enum error_status status, int errnum, const char *fmt, va_list args)
{
    if (err == NULL)
        return;
    err->status = status;
    err->errnum = errnum;
    err->hint[0] = '\0';
    vsnprintf(err->message, sizeof(err->message), fmt, args);
}

int error_set(struct error *err, enum error_status status, int errnum, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    error_fill(err, status, errnum, fmt, args);
    va_end(args);
    return -errnum;
}

int error_errno(struct error *err, int errnum, const char *fmt, ...)
{
    va_list args;

    if (err == NULL)
        return -errnum;
    va_start(args, fmt);
    error_fill(err, error_status_of_errno(errnum), errnum, fmt, args);
    va_end(args);
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(errnum));
    if (errnum == ENOSPC || errnum == EDQUOT)
        error_hint(err, "free some space (stasis df shows what the store holds) and try again");
    return -errnum;
}

int error_corrupt(struct error *err, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    error_fill(err, STATUS_CORRUPT, EBADMSG, fmt, args);
    va_end(args);
    return -EBADMSG;
}

void error_hint(struct error *err, const char *fmt, ...)
{
    va_list args;

    if (err == NULL)
        return;
    va_start(args, fmt);
    vsnprintf(err->hint, sizeof(err->hint), fmt, args);
    va_end(args);
}

void error_prefix(struct error *err, const char *fmt, ...)
{
    char rest[sizeof(err->message)];
    va_list args;

    if (err == NULL)
        return;
    memcpy(rest, err->message, sizeof(rest));
    va_start(args, fmt);
    int used = vsnprintf(err->message, sizeof(err->message), fmt, args);
    va_end(args);
    if (used < 0 || (size_t)used >= sizeof(err->message))
        return;
    snprintf(err->message + used, sizeof(err->message) - (size_t)used, ": %s", rest);
}
