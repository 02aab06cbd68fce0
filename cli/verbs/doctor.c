/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/doctor.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "cli/text.h"
#include "cli/verbs/verbs.h"
#include "store/usage.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

enum { LITTLE_SPACE_MIB = 1024 };

enum outcome {
    OUTCOME_OK,
    OUTCOME_WARN,    /* something works less well */
    OUTCOME_MISSING, /* something does not work */
};

static const char *const outcome_names[] = {"ok", "warn", "missing"};

/* One thing looked at. */
struct finding {
    enum outcome outcome;
    char what[320];
    const char *hint; /* "" if there is nothing to do */
};

static void found(struct finding *f, enum outcome outcome, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void found(struct finding *f, enum outcome outcome, const char *hint, const char *fmt, ...)
{
    va_list args;

    f->outcome = outcome;
    f->hint = hint;
    va_start(args, fmt);
    vsnprintf(f->what, sizeof(f->what), fmt, args);
    va_end(args);
}

/* ---- the things ---- */

static void check_kvm(struct cli *cli, struct finding *f)
{
    struct kvm_report report = {0};

    (void)cli;
    kvm_probe(&report);
    switch (report.ability) {
    case KVM_FULL:
        found(f, OUTCOME_OK, "", "runs stock Linux: yes (%s)", report.reason);
        break;
    case KVM_USER_ONLY:
        found(f, OUTCOME_WARN,
              "machines with guests made for it run; for stock Linux use a host with kvm_intel "
              "or kvm_amd",
              "runs stock Linux: no, because %s", report.reason);
        break;
    case KVM_BROKEN:
        found(f, OUTCOME_MISSING, "look at dmesg | grep -i kvm", "cannot run a machine: %s",
              report.reason);
        break;
    default:
        found(f, OUTCOME_MISSING,
              access("/dev/kvm", F_OK) == 0
                  ? "you may not open it: join the group kvm (adduser USER kvm), log in again"
                  : "load kvm_intel or kvm_amd (modprobe); is virtualization on in the firmware?",
              "%s", report.reason);
    }
}

static void check_kernel(struct cli *cli, struct finding *f)
{
    struct utsname name;
    unsigned major = 0;
    unsigned minor = 0;

    (void)cli;
    uname(&name);
    sscanf(name.release, "%u.%u", &major, &minor);
    if (strcmp(name.machine, "x86_64") != 0)
        found(f, OUTCOME_MISSING, "machines are x86_64", "Linux %s on %s", name.release,
              name.machine);
    else if (major < 5 || (major == 5 && minor < 10))
        found(f, OUTCOME_WARN, "5.10 or later is what it is tested with", "Linux %s", name.release);
    else
        found(f, OUTCOME_OK, "", "Linux %s", name.release);
}

static void check_userfaultfd(struct cli *cli, struct finding *f)
{
    static const char hint[] = "saving pauses machines longer without it; as root, or: sysctl "
                               "vm.unprivileged_userfaultfd=1";
    struct uffdio_api api = {.api = UFFD_API, .features = 0};
    _cleanup_close_ int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    (void)cli;
    if (fd < 0)
        found(f, OUTCOME_WARN, hint, "cannot be used: %s", strerror(errno));
    else if (ioctl(fd, UFFDIO_API, &api) < 0)
        found(f, OUTCOME_WARN, hint, "does not answer: %s", strerror(errno));
    else if ((api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) == 0)
        found(f, OUTCOME_WARN, "Linux 5.7 or later has it", "has no write protection");
    else
        found(f, OUTCOME_OK, "", "with write protection");
}

/* What a machine's process gives up, see docs/architecture.md. */
static void check_sandbox(struct cli *cli, struct finding *f)
{
    static const char why[] = "machines run all the same, with less between a guest that breaks "
                              "out of its device models and the rest of the host";
    struct sandbox_report report;
    char landlock[32] = "no Landlock";

    (void)cli;
    sandbox_probe(&report);
    if (report.landlock > 0)
        snprintf(landlock, sizeof(landlock), "Landlock version %d", report.landlock);
    if (!report.system_calls)
        found(f, OUTCOME_MISSING, "machines need a kernel with CONFIG_SECCOMP_FILTER",
              "no seccomp filters");
    else
        found(f, report.landlock > 0 && report.namespaces ? OUTCOME_OK : OUTCOME_WARN,
              report.landlock > 0 && report.namespaces ? "" : why, "seccomp, %s, %s%s", landlock,
              report.namespaces ? "namespaces" : "no namespaces: ", report.reason);
}

static void check_device(struct finding *f, const char *path, const char *use, const char *hint)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        found(f, OUTCOME_OK, "", "%s can be opened", path);
    else
        found(f, OUTCOME_WARN, hint, "%s: %s; %s", path, strerror(errno), use);
}

static void check_fuse(struct cli *cli, struct finding *f)
{
    (void)cli;
    check_device(f, "/dev/fuse", "mount will not work", "modprobe fuse, and install fuse3");
}

static void check_tun(struct cli *cli, struct finding *f)
{
    (void)cli;
    check_device(f, "/dev/net/tun", "tap networks will not work",
                 "modprobe tun; user-mode networks need nothing");
}

static void check_cgroup(struct cli *cli, struct finding *f)
{
    struct statfs fs;

    (void)cli;
    if (statfs("/sys/fs/cgroup", &fs) < 0)
        found(f, OUTCOME_WARN, "machines run without limits", "none: %s", strerror(errno));
    else if (fs.f_type == CGROUP2_SUPER_MAGIC)
        found(f, OUTCOME_OK, "", "version 2");
    else
        found(f, OUTCOME_WARN, "boot with systemd.unified_cgroup_hierarchy=1 for version 2",
              "version 1");
}

static void check_store(struct cli *cli, struct finding *f)
{
    struct error err = ERROR_INIT;
    struct store_usage usage = {0};
    char stored[TEXT_SIZE];

    if (cli_store(cli, &err) < 0 || store_usage_get(cli->store, &usage, &err) < 0)
        found(f, OUTCOME_MISSING, "stasis verify tells more; --home DIR uses another place", "%s",
              err.message);
    else
        found(f, OUTCOME_OK, "", "%s: %llu checkpoints in %s", cli->home.store,
              (unsigned long long)usage.checkpoints, text_bytes(usage.stored_bytes, stored));
}

static void check_space(struct cli *cli, struct finding *f)
{
    struct error ignored;
    struct statfs fs;
    char size[TEXT_SIZE];

    if (cli_home(cli, &ignored) < 0 || statfs(cli->home.store, &fs) < 0) {
        found(f, OUTCOME_WARN, "", "cannot be told");
        return;
    }
    const uint64_t bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    const bool little = bytes >> 20 < LITTLE_SPACE_MIB;
    found(f, little ? OUTCOME_WARN : OUTCOME_OK,
          little ? "make room, or choose another place with --home DIR" : "", "%s in %s",
          text_bytes(bytes, size), cli->home.root);
}

static const struct {
    const char *name;
    void (*check)(struct cli *cli, struct finding *f);
    bool needed; /* machines cannot run at all without it */
} checks[] = {
    {"kvm", check_kvm, true},
    {"kernel", check_kernel, true},
    {"userfaultfd", check_userfaultfd, false},
    {"fuse", check_fuse, false},
    {"tun", check_tun, false},
    {"sandbox", check_sandbox, true},
    {"cgroup", check_cgroup, false},
    {"store", check_store, true},
    {"space", check_space, false},
};

/* ---- the verb ---- */

static const struct output_column columns[] = {
    {"CHECK", "name", OUTPUT_TEXT},
    {"", "state", OUTPUT_STATE},
    {"FOUND", "found", OUTPUT_TEXT},
    {NULL, NULL, 0},
};

static void print_hints(const json_t *items)
{
    size_t i;
    json_t *item;

    json_array_foreach(items, i, item)
    {
        const char *hint = json_string_value(json_object_get(item, "hint"));
        if (hint[0] != '\0')
            printf("hint: %s: %s\n", json_string_value(json_object_get(item, "name")), hint);
    }
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_json_ json_t *items = json_array();
    const char *lacking = NULL;

    (void)args;
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        struct finding f = {0};
        checks[i].check(cli, &f);
        if (checks[i].needed && f.outcome == OUTCOME_MISSING && lacking == NULL)
            lacking = checks[i].name;
        json_array_append_new(items, json_pack("{s:s, s:s, s:o, s:s}", "name", checks[i].name,
                                               "state", outcome_names[f.outcome], "found",
                                               output_text(f.what), "hint", f.hint));
    }
    int r = output_items(cli, &(struct output_list){.columns = columns, .name_key = "name"}, items,
                         err);
    if (r < 0)
        return r;
    if (!cli->json)
        print_hints(items);
    if (lacking == NULL)
        return 0;
    error_set(err, STATUS_HOST_CANNOT, ENOTSUP, "machines cannot run here: see %s above", lacking);
    error_hint(err, "follow the hint for %s, then: stasis doctor", lacking);
    return -ENOTSUP;
}

static const struct option_spec options[] = {
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_doctor = {
    .name = "doctor",
    .summary = "Say what this host can do, and what to do about what it cannot",
    .usage = "doctor [--json]",
    .details = "Each thing is tried, not looked up: KVM by running a guest of a few instructions. "
               "Ends with exit code 14 if machines cannot run here at all.",
    .example = "stasis doctor",
    .options = options,
    .run = run,
};
