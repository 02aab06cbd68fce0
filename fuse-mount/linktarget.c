/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/linktarget.h"

#include "base/buffer.h"
#include "base/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

struct component {
    const char *text;
    size_t length;
};

/* Next component at *p, which is moved behind it; false at the end. */
static bool component_next(const char **p, struct component *out)
{
    const char *s = *p + strspn(*p, "/");

    out->text = s;
    out->length = strcspn(s, "/");
    *p = s + out->length;
    return out->length > 0;
}

static bool component_is(const struct component *c, const char *text)
{
    return c->length == strlen(text) && memcmp(c->text, text, c->length) == 0;
}

/* Is it relative, with all ".." at the front and no more of them than depth? */
static bool target_is_confined(const char *target, unsigned depth)
{
    struct component c;
    unsigned ups = 0;
    bool named = false;

    if (target[0] == '/')
        return false;
    while (component_next(&target, &c)) {
        if (component_is(&c, "..")) {
            if (named || ++ups > depth)
                return false;
        } else if (!component_is(&c, ".")) {
            named = true;
        }
    }
    return true;
}

static int append_component(struct buffer *buf, const char *text, size_t length)
{
    int r = buf->length > 0 ? buffer_append_u8(buf, '/') : 0;

    return r < 0 ? r : buffer_append(buf, text, length);
}

int linktarget_confine(const char *target, unsigned depth, char **out)
{
    _cleanup_(buffer_clear) struct buffer result = {0};
    _cleanup_free_ struct component *names = NULL;
    size_t count = 0, length = strlen(target);
    unsigned ups = target[0] == '/' ? depth : 0;
    struct component c;
    int r = 0;

    if (length >= PATH_MAX)
        return -ENAMETOOLONG;
    if (target_is_confined(target, depth)) {
        *out = strdup(target);
        return *out != NULL ? 0 : -ENOMEM;
    }
    names = calloc(length + 1, sizeof(*names));
    if (names == NULL)
        return -ENOMEM;
    while (component_next(&target, &c)) {
        if (component_is(&c, "."))
            continue;
        if (!component_is(&c, ".."))
            names[count++] = c;
        else if (count > 0)
            count--;
        else if (ups < depth)
            ups++;
    }
    for (unsigned i = 0; i < ups && r == 0; i++)
        r = append_component(&result, "..", 2);
    for (size_t i = 0; i < count && r == 0; i++)
        r = append_component(&result, names[i].text, names[i].length);
    if (r == 0 && result.length == 0)
        r = buffer_append_u8(&result, '.');
    if (r == 0)
        r = buffer_append_u8(&result, 0);
    if (r == 0 && result.length > PATH_MAX)
        r = -ENAMETOOLONG;
    if (r < 0)
        return r;
    *out = (char *)result.data;
    result = (struct buffer){0};
    return 0;
}
