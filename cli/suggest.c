/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/suggest.h"

#include "base/bytes.h"

#include <string.h>

enum { NAME_MAX_BYTES = 63 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t suggestion_distance(const char *a, const char *b)
{
    size_t d[NAME_MAX_BYTES + 1][NAME_MAX_BYTES + 1];
    const size_t la = strnlen(a, NAME_MAX_BYTES);
    const size_t lb = strnlen(b, NAME_MAX_BYTES);

    for (size_t i = 0; i <= la; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= lb; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        for (size_t j = 1; j <= lb; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = least(best, d[i - 1][j] + 1);
            best = least(best, d[i][j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = least(best, d[i - 2][j - 2] + 1);
            d[i][j] = best;
        }
    }
    return d[la][lb];
}

struct suggestion suggestion_begin(const char *wanted)
{
    return (struct suggestion){.wanted = wanted, .distance = SIZE_MAX};
}

void suggestion_offer(struct suggestion *s, const char *candidate)
{
    const size_t wanted = strlen(s->wanted);
    const size_t length = strlen(candidate);
    size_t distance = suggestion_distance(s->wanted, candidate);

    /* "hist" for "history": far in edits, but nobody could mean another. */
    if (wanted >= 2 && wanted < length && memcmp(s->wanted, candidate, wanted) == 0)
        distance = 1;
    const size_t longer = wanted > length ? wanted : length;
    if (distance > (longer + 2) / 3 || distance >= length || distance >= s->distance)
        return;
    s->best = candidate;
    s->distance = distance;
}
