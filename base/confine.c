/* SPDX-License-Identifier: Apache-2.0 */
#include "base/confine.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { PATHS_MAX = 16 };

/* ---- Landlock: what may be opened ---- */

/* Of versions newer than the headers this may be built with. */
#define ACCESS_V1 ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)
#define ACCESS_REFER (1ull << 13)     /* version 2 */
#define ACCESS_TRUNCATE (1ull << 14)  /* version 3 */
#define ACCESS_IOCTL_DEV (1ull << 15) /* version 5 */
#define NET_TCP 3ull                  /* version 4: bind and connect */
#define SCOPES 3ull                   /* version 6: abstract sockets and signals */

struct ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scopes;
};

#define ACCESS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)

/* SQLite makes and removes its -wal and -shm files. */
static const uint64_t rights[] = {
    [CONFINE_READ] = ACCESS_READ,
    [CONFINE_WRITE] = ACCESS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
                      LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                      ACCESS_TRUNCATE,
    [CONFINE_DEVICE] =
        LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_IOCTL_DEV,
};

/* Those that make sense for something that is not a directory. */
#define ACCESS_FILE                                                                                \
    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE |   \
     ACCESS_TRUNCATE | ACCESS_IOCTL_DEV)

int confine_landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return version < 0 ? 0 : (int)version;
}

static struct ruleset ruleset_for(int version, bool no_network)
{
    struct ruleset set = {.files = ACCESS_V1};

    if (version >= 2)
        set.files |= ACCESS_REFER;
    if (version >= 3)
        set.files |= ACCESS_TRUNCATE;
    if (version >= 4 && no_network)
        set.network = NET_TCP;
    if (version >= 5)
        set.files |= ACCESS_IOCTL_DEV;
    if (version >= 6)
        set.scopes = SCOPES;
    return set;
}

/* Older kernels know less of the structure, and refuse more of it unless it is zero. */
static size_t ruleset_size(int version)
{
    return version >= 6   ? sizeof(struct ruleset)
           : version >= 4 ? offsetof(struct ruleset, scopes)
                          : offsetof(struct ruleset, network);
}

static int add_rule(int ruleset_fd, const struct ruleset *set, const struct confine_path *path)
{
    struct landlock_path_beneath_attr beneath = {.allowed_access = rights[path->access]};
    _cleanup_close_ int fd = open(path->path, O_PATH | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISDIR(st.st_mode))
        beneath.allowed_access &= ACCESS_FILE;
    beneath.allowed_access &= set->files;
    beneath.parent_fd = fd;
    if (syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0)
        return -errno;
    return 0;
}

int confine_files(const struct confine_files *files)
{
    const int version = confine_landlock_version();
    const struct ruleset set = ruleset_for(version, files->no_network);
    int r = 0;

    if (version == 0)
        return -EOPNOTSUPP;
    _cleanup_close_ int fd =
        (int)syscall(SYS_landlock_create_ruleset, &set, ruleset_size(version), 0);
    if (fd < 0)
        return -errno;
    for (size_t i = 0; i < files->count && r == 0; i++)
        r = add_rule(fd, &set, &files->paths[i]);
    if (r == 0 && syscall(SYS_landlock_restrict_self, fd, 0) < 0)
        r = -errno;
    return r;
}

/* ---- namespaces: what is there ---- */

/* Each path as a mount that is nowhere yet; -1 for what is not there. */
static int take_trees(const struct confine_files *files, int trees[PATHS_MAX])
{
    for (size_t i = 0; i < files->count; i++) {
        trees[i] = open_tree(AT_FDCWD, files->paths[i].path,
                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
        if (trees[i] < 0 && errno != ENOENT)
            return -errno;
    }
    return 0;
}

/* Something to mount a file on, or a directory. */
static int make_target(const char *path, bool is_dir)
{
    _cleanup_free_ char *parent = io_format("%s", path);

    if (is_dir)
        return io_make_dirs(path, 0755);
    *strrchr(parent, '/') = '\0';
    int r = parent[0] == '\0' ? 0 : io_make_dirs(parent, 0755);
    _cleanup_close_ int fd =
        r < 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444);
    return r < 0 ? r : fd < 0 ? -errno : 0;
}

static int place_tree(int tree, const char *path)
{
    struct stat st;

    if (fstat(tree, &st) < 0)
        return -errno;
    int r = make_target(path, S_ISDIR(st.st_mode));
    if (r == 0 && move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        r = -errno;
    return r;
}

static int place_trees(const struct confine_files *files, const int trees[PATHS_MAX])
{
    int r = 0;

    for (size_t i = 0; i < files->count && r == 0; i++)
        if (trees[i] >= 0)
            r = place_tree(trees[i], files->paths[i].path);
    return r;
}

/* Over a directory that every system has; what was taken before may lie below it. */
static int enter_empty_root(void)
{
    static const char over[] = "/tmp";

    if (mount("none", over, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=1m") < 0)
        return -errno;
    if (chdir(over) == 0 && syscall(SYS_pivot_root, ".", ".") == 0)
        return umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ? -errno : 0;
    int r = -errno; /* where the root is the kernel's first */
    (void)!chdir("/");
    umount2(over, MNT_DETACH);
    return r;
}

static int close_root(void)
{
    return mount(NULL, "/", NULL,
                 MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0
               ? -errno
               : 0;
}

static int change_root(const struct confine_files *files)
{
    int trees[PATHS_MAX];
    int r = 0;

    memset(trees, 0xff, sizeof(trees));
    /* What is unmounted outside is unmounted here; nothing goes the other way. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return -errno;
    if ((r = take_trees(files, trees)) == 0 && (r = enter_empty_root()) == 0 &&
        (r = place_trees(files, trees)) == 0)
        r = close_root();
    for (size_t i = 0; i < files->count; i++)
        cleanup_closep(&trees[i]);
    return r;
}

static int write_text(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    return fd < 0 ? -errno : io_write_full(fd, text, strlen(text));
}

/* The same user and group as before: files and sockets stay his. */
static int map_ids(uid_t uid, gid_t gid)
{
    _cleanup_free_ char *uids = io_format("%u %u 1", (unsigned)uid, (unsigned)uid);
    _cleanup_free_ char *gids = io_format("%u %u 1", (unsigned)gid, (unsigned)gid);

    int r = write_text("/proc/self/setgroups", "deny");
    if (r == 0)
        r = write_text("/proc/self/uid_map", uids);
    return r < 0 ? r : write_text("/proc/self/gid_map", gids);
}

static int enter(const struct confine_files *files, bool with_user)
{
    const int flags = CLONE_NEWNS | CLONE_NEWIPC | (files->no_network ? CLONE_NEWNET : 0);
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    int r = 0;

    if (unshare(flags | (with_user ? CLONE_NEWUSER : 0)) < 0)
        return -errno;
    if (with_user)
        r = map_ids(uid, gid);
    return r < 0 ? r : change_root(files);
}

/* Whoever may make mount namespaces needs no user namespace for it. */
static bool is_privileged(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

    return syscall(SYS_capget, &header, data) == 0 && (data[0].effective >> CAP_SYS_ADMIN & 1) != 0;
}

static int try_in_child(const struct confine_files *files, bool with_user)
{
    int status;

    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        _exit(-enter(files, with_user));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
}

int confine_view_try(const struct confine_files *files)
{
    return files->count > PATHS_MAX ? -E2BIG : try_in_child(files, !is_privileged());
}

/* Half a user namespace, where some security module forbids the rest, would be worse than
 * none, so a child goes first. Mount namespaces do no harm. */
int confine_view(const struct confine_files *files)
{
    const bool with_user = !is_privileged();
    int r = 0;

    if (files->count > PATHS_MAX)
        return -E2BIG;
    if (with_user)
        r = try_in_child(files, with_user);
    return r < 0 ? r : enter(files, with_user);
}

/* ---- capabilities ---- */

int confine_capabilities(uint32_t keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    for (size_t i = 0; i < ARRAY_LEN(data); i++) {
        data[i].effective &= i == 0 ? keep : 0;
        data[i].permitted &= i == 0 ? keep : 0;
        data[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}
