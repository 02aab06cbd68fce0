/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/clock.h"
#include "base/io.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void log_event(const char *fmt, ...)
{
    char line[1024];
    va_list args;

    clock_rfc3339(clock_wall_us(), line);
    size_t used = strlen(line);
    line[used++] = ' ';
    va_start(args, fmt);
    int n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, args);
    va_end(args);
    if (n < 0)
        return;
    used = strlen(line);
    line[used++] = '\n';
    (void)io_write_full(STDERR_FILENO, line, used);
}
