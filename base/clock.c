/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

enum { US_PER_S = 1000000, NS_PER_US = 1000 };

uint64_t clock_monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int64_t clock_wall_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * US_PER_S + ts.tv_nsec / NS_PER_US;
}

char *clock_rfc3339(int64_t wall_us, char out[CLOCK_RFC3339_SIZE])
{
    time_t seconds = (time_t)(wall_us / US_PER_S);
    int us = (int)(wall_us % US_PER_S);
    struct tm tm;

    if (us < 0) {
        us += US_PER_S;
        seconds--;
    }
    gmtime_r(&seconds, &tm);
    size_t used = strftime(out, CLOCK_RFC3339_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + used, CLOCK_RFC3339_SIZE - used, ".%06dZ", us);
    return out;
}

int clock_parse_rfc3339(const char *text, int64_t *wall_us_out)
{
    struct tm tm = {0};
    int us = 0;
    int end = 0;

    int n = sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%6dZ%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
                   &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &us, &end);
    if (n != 7 || end == 0 || text[end] != '\0')
        return -EINVAL;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *wall_us_out = (int64_t)timegm(&tm) * US_PER_S + us;
    return 0;
}
