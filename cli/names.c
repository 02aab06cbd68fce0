/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/names.h"

#include "base/bytes.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { PLAIN_ATTEMPTS = 8, SUFFIX_ROOM = 8 };

static const char *const qualities[] = {
    "amber", "brave", "brisk", "calm",  "clear", "crisp", "deep",  "eager",
    "fair",  "fleet", "fresh", "glad",  "keen",  "kind",  "light", "lucid",
    "mild",  "neat",  "noble", "plain", "proud", "quick", "quiet", "ready",
    "sharp", "still", "sunny", "swift", "tidy",  "true",  "vivid", "warm",
};

static const char *const things[] = {
    "acorn", "aspen", "badger", "birch", "brook", "cedar",  "comet",  "crane",
    "delta", "dune",  "ember",  "fern",  "finch", "fjord",  "grove",  "heron",
    "inlet", "larch", "lark",   "maple", "marsh", "otter",  "pebble", "pine",
    "reef",  "ridge", "robin",  "sable", "sedge", "spruce", "tern",   "willow",
};

char *names_make(unsigned random_a, unsigned random_b, unsigned attempt,
                 char out[MACHINE_NAME_MAX + 1])
{
    const char *quality = qualities[random_a % ARRAY_LEN(qualities)];
    const char *thing = things[random_b % ARRAY_LEN(things)];

    if (attempt < PLAIN_ATTEMPTS)
        snprintf(out, MACHINE_NAME_MAX + 1, "%s-%s", quality, thing);
    else
        snprintf(out, MACHINE_NAME_MAX + 1, "%s-%s-%u", quality, thing, attempt);
    return out;
}

static bool looks_like_id(const char *text, size_t length)
{
    if (length < 8)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isxdigit((unsigned char)text[i]))
            return false;
    return true;
}

char *names_from_reference(const char *reference, char out[MACHINE_NAME_MAX + 1])
{
    const char *slash = strrchr(reference, '/');
    const char *start = slash != NULL ? slash + 1 : reference;
    size_t length = strcspn(start, "@:");

    if (length > MACHINE_NAME_MAX - SUFFIX_ROOM)
        length = MACHINE_NAME_MAX - SUFFIX_ROOM;
    snprintf(out, MACHINE_NAME_MAX + 1, "%.*s", (int)length, start);
    if (!home_name_is_valid(out) || looks_like_id(start, length))
        snprintf(out, MACHINE_NAME_MAX + 1, "clone");
    return out;
}
