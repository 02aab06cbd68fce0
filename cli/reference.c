/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/reference.h"

#include "base/home.h"
#include "base/io.h"
#include "cli/app.h"
#include "registry/registry.h"
#include "store/catalogue.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

enum { IMAGE_NAME_MAX = 255, IMAGE_TAG_MAX = 127 };

static int bad_machine_name(const char *what, const char *name, struct error *err)
{
    error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be the name of a %s", name, what);
    error_hint(err,
               "names are letters, digits, '-', '_' and '.', %d at most, and begin with a "
               "letter or digit",
               MACHINE_NAME_MAX);
    return -EINVAL;
}

int machine_reference_parse(const char *text, struct machine_reference *out, struct error *err)
{
    const char *at = strchr(text, '@');
    struct machine_reference ref = {0};

    ref.machine = at != NULL ? io_format("%.*s", (int)(at - text), text) : io_format("%s", text);
    if (at != NULL)
        ref.checkpoint = io_format("%s", at + 1);
    int r = 0;
    if (!home_name_is_valid(ref.machine))
        r = bad_machine_name("machine", ref.machine, err);
    else if (ref.checkpoint != NULL && !home_name_is_valid(ref.checkpoint))
        r = bad_machine_name("checkpoint", ref.checkpoint, err);
    if (r < 0) {
        machine_reference_clear(&ref);
        return r;
    }
    *out = ref;
    return 0;
}

void machine_reference_clear(struct machine_reference *ref)
{
    free(ref->machine);
    free(ref->checkpoint);
    *ref = (struct machine_reference){0};
}

/* ---- images ---- */

static bool is_plain(const char *text, size_t length, const char *also)
{
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) && strchr(also, text[i]) == NULL)
            return false;
    return true;
}

static bool name_is_valid(const char *name, size_t length)
{
    return length > 0 && length <= IMAGE_NAME_MAX && isalnum((unsigned char)name[0]) &&
           name[length - 1] != '/' && is_plain(name, length, "._-/:");
}

static bool tag_is_valid(const char *tag)
{
    const size_t length = strnlen(tag, IMAGE_TAG_MAX + 1);

    return length > 0 && length <= IMAGE_TAG_MAX && isalnum((unsigned char)tag[0]) &&
           is_plain(tag, length, "._-");
}

int image_reference_parse(const char *text, struct image_reference *out, struct error *err)
{
    const char *slash = strrchr(text, '/');
    /* A colon before the last slash belongs to a registry's port. */
    const char *colon = strrchr(slash != NULL ? slash : text, ':');
    const size_t length = colon != NULL ? (size_t)(colon - text) : strlen(text);
    const char *tag = colon != NULL ? colon + 1 : "latest";

    if (!name_is_valid(text, length) || !tag_is_valid(tag)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be the name of an image", text);
        error_hint(err, "an image is NAME or NAME:TAG, like debian:12");
        return -EINVAL;
    }
    *out = (struct image_reference){
        .name = io_format("%.*s", (int)length, text),
        .tag = io_format("%s", tag),
    };
    return 0;
}

void image_reference_clear(struct image_reference *ref)
{
    free(ref->name);
    free(ref->tag);
    *ref = (struct image_reference){0};
}

int reference_resolve(struct cli *cli, const char *text, struct digest *out, struct error *err)
{
    int r = cli_store(cli, err);
    if (r < 0)
        return r;
    r = catalogue_resolve(cli->store, text, out, err);
    if (r == -ENOENT && registry_is_reference(text))
        error_hint(err, "stasis pull %s fetches it", text);
    return r;
}
