/* SPDX-License-Identifier: Apache-2.0 */
#include "base/home.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

static char *root_from_environment(void)
{
    const char *value = getenv("STASIS_HOME");
    if (value != NULL && value[0] != '\0')
        return io_format("%s", value);
    value = getenv("XDG_DATA_HOME");
    if (value != NULL && value[0] == '/')
        return io_format("%s/stasis", value);
    value = getenv("HOME");
    return io_format("%s/.local/share/stasis", value != NULL && value[0] == '/' ? value : "");
}

static char *runtime_base(void)
{
    struct stat st;

    const char *value = getenv("XDG_RUNTIME_DIR");
    if (value != NULL && value[0] == '/')
        return io_format("%s/stasis", value);
    _cleanup_free_ char *run = io_format("/run/user/%u", (unsigned)getuid());
    if (stat(run, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == getuid())
        return io_format("%s/stasis", run);
    return io_format("/tmp/stasis-%u", (unsigned)getuid());
}

/* The base may lie in /tmp, where somebody else could have made it first. */
static int check_private(const char *path, struct error *err)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return error_errno(err, errno, "cannot use %s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != getuid()) {
        error_set(err, STATUS_FAILED, EPERM, "%s belongs to somebody else", path);
        error_hint(err, "set XDG_RUNTIME_DIR to a directory of your own");
        return -EPERM;
    }
    return 0;
}

static int make_dir(const char *path, struct error *err)
{
    int r = io_make_dirs(path, 0700);
    if (r < 0)
        return error_errno(err, -r, "cannot make the directory %s", path);
    return 0;
}

int home_open(const char *override, struct home *out, struct error *err)
{
    _cleanup_free_ char *root =
        override != NULL ? io_format("%s", override) : root_from_environment();
    _cleanup_free_ char *base = runtime_base();
    char hash[9];
    struct home home = {0};

    int r = make_dir(root, err);
    if (r < 0) {
        error_hint(err, "choose another place with --home DIR or $STASIS_HOME");
        return r;
    }
    home.root = realpath(root, NULL);
    if (home.root == NULL)
        return error_errno(err, errno, "cannot resolve %s", root);
    struct digest digest = digest_of(home.root, strlen(home.root));
    hex_encode(digest.bytes, 4, hash);
    home.store = io_format("%s/store", home.root);
    home.machines = io_format("%s/machines", home.root);
    home.runtime = io_format("%s/%s", base, hash);

    if ((r = make_dir(home.store, err)) < 0 || (r = make_dir(home.machines, err)) < 0 ||
        (r = make_dir(home.runtime, err)) < 0 || (r = check_private(base, err)) < 0) {
        home_clear(&home);
        return r;
    }
    *out = home;
    return 0;
}

void home_clear(struct home *home)
{
    free(home->root);
    free(home->store);
    free(home->machines);
    free(home->runtime);
    *home = (struct home){0};
}

char *home_machine_dir(const struct home *home, const char *name)
{
    return io_format("%s/%s", home->machines, name);
}

char *home_machine_socket(const struct home *home, const char *name)
{
    return io_format("%s/%s.sock", home->runtime, name);
}

char *home_machine_vsock(const struct home *home, const char *name)
{
    return io_format("%s/%s.vsock", home->runtime, name);
}

bool home_name_is_valid(const char *name)
{
    size_t length = strnlen(name, MACHINE_NAME_MAX + 1);

    if (length == 0 || length > MACHINE_NAME_MAX || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && strchr("-_.", name[i]) == NULL)
            return false;
    return true;
}
