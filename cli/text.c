/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/text.h"

#include "base/bytes.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

enum { KIB_SHIFT = 10, US_PER_MS = 1000, US_PER_S = 1000000 };

char *text_bytes(uint64_t bytes, char out[TEXT_SIZE])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

    if (bytes < 1024) {
        snprintf(out, TEXT_SIZE, "%u B", (unsigned)bytes);
        return out;
    }
    double value = (double)bytes / 1024;
    size_t unit = 0;
    /* 1023.5 would be printed as 1024 of its unit. */
    while (value >= 1023.5 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(out, TEXT_SIZE, value < 9.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}

char *text_span(int64_t microseconds, char out[TEXT_SIZE])
{
    static const struct {
        int64_t seconds;
        char unit;
    } units[] = {{365 * 86400, 'y'}, {86400, 'd'}, {3600, 'h'}, {60, 'm'}};
    const int64_t seconds = microseconds > 0 ? microseconds / US_PER_S : 0;

    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (seconds < units[i].seconds)
            continue;
        snprintf(out, TEXT_SIZE, "%lld%c", (long long)(seconds / units[i].seconds), units[i].unit);
        return out;
    }
    snprintf(out, TEXT_SIZE, "%llds", (long long)seconds);
    return out;
}

char *text_precise(uint64_t microseconds, char out[TEXT_SIZE])
{
    if (microseconds < US_PER_MS)
        snprintf(out, TEXT_SIZE, "%u us", (unsigned)microseconds);
    else if (microseconds < US_PER_S)
        snprintf(out, TEXT_SIZE, "%.1f ms", (double)microseconds / US_PER_MS);
    else
        snprintf(out, TEXT_SIZE, "%.2f s", (double)microseconds / US_PER_S);
    return out;
}

/* Digits from the front of text; *rest_out is what follows them. */
static int parse_digits(const char *text, uint64_t *out, const char **rest_out)
{
    uint64_t value = 0;

    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    for (; isdigit((unsigned char)*text); text++) {
        const unsigned digit = (unsigned)(*text - '0');
        if (mul_overflows(value, 10u, &value) || add_overflows(value, digit, &value))
            return -EINVAL;
    }
    *out = value;
    *rest_out = text;
    return 0;
}

int text_parse_number(const char *text, uint64_t *out)
{
    const char *rest;
    uint64_t value;

    if (parse_digits(text, &value, &rest) < 0 || *rest != '\0')
        return -EINVAL;
    *out = value;
    return 0;
}

int text_parse_size(const char *text, uint64_t *bytes_out)
{
    static const char letters[] = "KMGT";
    const char *rest;
    uint64_t value;

    if (parse_digits(text, &value, &rest) < 0)
        return -EINVAL;
    const char *letter = *rest != '\0' ? strchr(letters, toupper((unsigned char)*rest)) : NULL;
    unsigned shift = 0;
    if (letter != NULL) {
        shift = (unsigned)(letter - letters + 1) * KIB_SHIFT;
        rest++;
        if (strcasecmp(rest, "ib") == 0 || strcasecmp(rest, "b") == 0)
            rest += strlen(rest);
    } else if (strcasecmp(rest, "b") == 0) {
        rest++;
    }
    if (*rest != '\0' || mul_overflows(value, 1ull << shift, &value))
        return -EINVAL;
    *bytes_out = value;
    return 0;
}

int text_parse_duration(const char *text, uint64_t *ms_out)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"", 1000}, {"m", 60000}, {"h", 3600000}};
    const char *rest;
    uint64_t value;

    if (parse_digits(text, &value, &rest) < 0)
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (strcmp(rest, units[i].unit) != 0)
            continue;
        if (mul_overflows(value, units[i].ms, &value))
            return -EINVAL;
        *ms_out = value;
        return 0;
    }
    return -EINVAL;
}

void text_wrap(FILE *file, const char *text, int column, int width)
{
    int at = column;

    while (*text != '\0') {
        if (*text == '\n') {
            text++;
            fprintf(file, "\n%*s", *text == '\n' || *text == '\0' ? 0 : column, "");
            at = column;
            continue;
        }
        const int length = (int)strcspn(text, " \n");
        if (at > column && at + 1 + length > width) {
            fprintf(file, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            fputc(' ', file);
            at++;
        }
        fwrite(text, 1, (size_t)length, file);
        at += length;
        text += length;
        while (*text == ' ')
            text++;
    }
}
