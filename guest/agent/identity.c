/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a clone or a restore: this guest is another one now, or at another time.
 * Each step that does not work is a warning; the others are done.
 */
#include "session.h"

#include "agent/messages.h"
#include "base/bytes.h"
#include "base/io.h"
#include "program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* linux/random.h */
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

enum { PROGRAM_MS = 8000, COMM_SIZE = 32 };

/* ---- random numbers and time ---- */

/* Mixed in and counted, then taken: what was drawn before must say nothing about what
 * comes. */
static int reseed(const uint8_t *entropy, uint32_t length)
{
    struct {
        int bits;
        int size;
        uint8_t bytes[AGENT_ENTROPY_MAX];
    } pool = {.bits = (int)(length * 8), .size = (int)length};

    memcpy(pool.bytes, entropy, length);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* Kernels before 4.14 reseed by themselves within minutes. */
    int r = ioctl(fd, RNDADDENTROPY, &pool) < 0               ? -errno
            : ioctl(fd, RNDRESEEDCRNG) < 0 && errno != EINVAL ? -errno
                                                              : 0;
    close(fd);
    explicit_bzero(&pool, sizeof(pool));
    return r;
}

static int set_clock(const struct agent_identity *m)
{
    const struct timespec ts = {.tv_sec = m->clock_s, .tv_nsec = (long)m->clock_ns};

    return clock_settime(CLOCK_REALTIME, &ts) < 0 ? -errno : 0;
}

/* ---- names ---- */

/* 1: there is such a file, and nothing that stands for one (a link, a mount point). */
static int is_plain_file(const char *path)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    return S_ISREG(st.st_mode);
}

static int replace_line(const char *path, const char *text)
{
    char line[80];

    int r = is_plain_file(path);
    if (r <= 0)
        return r;
    int n = snprintf(line, sizeof(line), "%s\n", text);
    return io_write_file(AT_FDCWD, path, line, (size_t)n, 0644);
}

static int set_host_name(const char *name)
{
    if (sethostname(name, strlen(name)) < 0)
        return -errno;
    return replace_line("/etc/hostname", name);
}

static int set_machine_id(const char *id)
{
    int r = replace_line("/etc/machine-id", id);
    return r < 0 ? r : replace_line("/var/lib/dbus/machine-id", id);
}

/* ---- addresses ---- */

/* Calls fn for every process of that name. */
static unsigned each_process(const char *name, int (*fn)(pid_t pid))
{
    char path[64], comm[COMM_SIZE];
    struct dirent *entry;
    unsigned count = 0;
    DIR *proc = opendir("/proc");

    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        char *end;
        const long pid = strtol(entry->d_name, &end, 10);
        if (*end != '\0' || pid <= 0)
            continue;
        snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, comm, sizeof(comm) - 1);
        if (fd >= 0)
            close(fd);
        if (n <= 0)
            continue;
        comm[n - 1] = '\0'; /* a newline */
        if (strcmp(comm, name) == 0 && fn((pid_t)pid) == 0)
            count++;
    }
    if (proc != NULL)
        closedir(proc);
    return count;
}

static int exists(pid_t pid)
{
    return pid > 0 ? 0 : -ESRCH;
}

/* busybox: SIGUSR1 renews at once. */
static int renew_udhcpc(pid_t pid)
{
    return kill(pid, SIGUSR1);
}

/* Every network card but the loopback: "dhclient -r IF" and the like; more may be NULL. */
static int for_each_card(const char *program, const char *verb, const char *more)
{
    struct dirent *entry;
    int result = 0;
    DIR *cards = opendir("/sys/class/net");

    while (cards != NULL && (entry = readdir(cards)) != NULL) {
        const char *const card = entry->d_name;
        const char *const argv[] = {program, verb, more != NULL ? more : card,
                                    more != NULL ? card : NULL, NULL};
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "lo") == 0)
            continue;
        int r = program_run(argv, PROGRAM_MS);
        if (r != 0)
            result = r < 0 ? r : -EIO;
    }
    if (cards != NULL)
        closedir(cards);
    return result;
}

/* Its client id comes of the machine id, which it has read: a renewal would extend the
 * original's lease (and libslirp answers one where nobody listens). Restarted, it keeps
 * the address until a server says no. It takes longer than anybody waits. */
static int restart_networkd(void)
{
    static const char *const argv[] = {"systemctl", "--no-block", "try-restart",
                                       "systemd-networkd.service", NULL};

    int r = program_run(argv, PROGRAM_MS);
    return r > 0 ? -EIO : r;
}

/* Whatever keeps addresses here is told; a guest with none of these has none that
 * could be renewed. */
static int renew_addresses(void)
{
    unsigned count = each_process("udhcpc", renew_udhcpc);

    if (count > 0)
        return 0;
    if (access("/run/systemd/netif/leases", F_OK) == 0)
        return restart_networkd();
    if (each_process("NetworkManager", exists) > 0)
        return for_each_card("nmcli", "device", "reapply");
    if (each_process("dhclient", exists) > 0) {
        int r = for_each_card("dhclient", "-r", NULL);
        return r < 0 ? r : for_each_card("dhclient", "-nw", NULL);
    }
    return 0;
}

/* ---- the request ---- */

static void report(struct channel *ch, const char *what, int r)
{
    if (r < 0)
        session_warn(ch, "%s: %s", what, strerror(-r));
}

void identity_serve(struct channel *ch, const struct frame *request)
{
    struct agent_identity m;

    if (agent_identity_decode(request, &m) < 0) {
        session_fail(ch, 0, EINVAL, "the request cannot be read");
        return;
    }
    if (m.entropy_length > 0)
        report(ch, "cannot reseed the random numbers", reseed(m.entropy, m.entropy_length));
    if ((m.flags & AGENT_IDENTITY_CLOCK) != 0)
        report(ch, "cannot set the clock", set_clock(&m));
    if (m.host_name[0] != '\0')
        report(ch, "cannot set the host name", set_host_name(m.host_name));
    if (m.machine_id[0] != '\0')
        report(ch, "cannot write the machine id", set_machine_id(m.machine_id));
    if ((m.flags & AGENT_IDENTITY_DHCP) != 0)
        report(ch, "cannot renew the addresses", renew_addresses());
    session_done(ch);
}
