/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of what is allowed. When a machine's log says that a call is not on the list of
 * its threads, and it should be, this is the place. Besides what the project's code
 * calls there is what the C library may call on its behalf, in this version or the next
 * (newfstatat for fstat, clock_gettime where there is no vDSO).
 */
#include "vmm/process/calls.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

DEFINE_CLEANUP(void, seccomp_release)

enum {
    P = 1 << SANDBOX_PROCESS,
    V = 1 << SANDBOX_VCPU,
    N = 1 << SANDBOX_NETWORK,
    K = 1 << SANDBOX_STREAMS,
    D = 1 << SANDBOX_DISKS,
    ALL = P | V | N | K | D,
    S = 1 << SANDBOX_THREADS, /* only if there is a network with sockets of the host */
};

struct call {
    int number;
    unsigned who;
};

/* A filter is added to those of the thread that made the thread: who may what, the
 * process must be allowed as well. Disks read packs, so they open them, and the
 * catalogue, and may be the first to start the store's helpers; a vCPU writes to its
 * console's log when the event loop is slow. */
static const struct call plain_calls[] = {
    /* files that are open */
    {SYS_read, ALL},
    {SYS_write, ALL},
    {SYS_readv, P | D | N | K},
    {SYS_writev, ALL},
    {SYS_pread64, P | D | V}, /* the page map: memory_discard() */
    {SYS_pwrite64, P | D | V},
    {SYS_preadv, P | D},
    {SYS_pwritev, P | D},
    {SYS_preadv2, P | D},
    {SYS_pwritev2, P | D},
    {SYS_lseek, P | D | N | K},
    {SYS_close, P | D | N | K},
    {SYS_fcntl, P | D | N | K},
    {SYS_flock, P | D},
    {SYS_fstat, P | D | N | K},
    {SYS_fsync, P | D},
    {SYS_fdatasync, P | D},
    {SYS_sync_file_range, P | D},
    {SYS_ftruncate, P | D},
    {SYS_fallocate, P | D | V},
    {SYS_fadvise64, P | D},
    {SYS_getdents64, P | D},
    {SYS_fstatfs, P | D},
    {SYS_fchmod, P | D},
    {SYS_fchown, P | D}, /* SQLite as root: its files belong to the database's owner */
    /* files by name: those of Landlock and the mount namespace */
    {SYS_openat, P | D | N},
    {SYS_open, P | D | N},
    {SYS_newfstatat, P | D | N},
    {SYS_stat, P | D | N},
    {SYS_lstat, P | D | N},
    {SYS_statx, P | D | N},
    {SYS_access, P | D},
    {SYS_faccessat, P | D},
    {SYS_faccessat2, P | D},
    {SYS_readlink, P | D},
    {SYS_readlinkat, P | D},
    {SYS_getcwd, P | D},
    {SYS_statfs, P},
    {SYS_unlink, P | D},
    {SYS_unlinkat, P | D},
    {SYS_rename, P},
    {SYS_renameat, P | D}, /* of the index, by whoever finds that it lacks packs */
    {SYS_renameat2, P},
    {SYS_mkdir, P},
    {SYS_mkdirat, P},
    {SYS_rmdir, P},
    {SYS_umask, P},
    /* memory; mmap and mprotect are below */
    {SYS_munmap, ALL},
    {SYS_mremap, ALL},
    {SYS_madvise, ALL},
    {SYS_brk, ALL},
    {SYS_msync, P | D},
    {SYS_mincore, P},
    /* threads */
    {SYS_futex, ALL},
    {SYS_set_robust_list, ALL},
    {SYS_rseq, ALL},
    {SYS_exit, ALL},
    {SYS_exit_group, ALL},
    {SYS_gettid, ALL},
    {SYS_getpid, ALL},
    {SYS_sched_yield, ALL},
    {SYS_sched_getaffinity, ALL},
    {SYS_membarrier, ALL},
    {SYS_getcpu, ALL},
    /* signals */
    {SYS_rt_sigprocmask, ALL},
    {SYS_rt_sigreturn, ALL},
    {SYS_sigaltstack, P},
    {SYS_restart_syscall, ALL},
    {SYS_signalfd4, P},
    /* time, chance and who one is */
    {SYS_clock_gettime, ALL},
    {SYS_clock_getres, ALL},
    {SYS_gettimeofday, ALL},
    {SYS_time, ALL},
    {SYS_nanosleep, ALL},
    {SYS_clock_nanosleep, ALL},
    {SYS_getrandom, ALL},
    {SYS_getuid, ALL},
    {SYS_geteuid, ALL},
    {SYS_getgid, ALL},
    {SYS_getegid, ALL},
    {SYS_uname, P},
    {SYS_sysinfo, ALL}, /* qsort() */
    {SYS_getrusage, P},
    {SYS_getrlimit, P | D},
    /* waiting */
    {SYS_poll, P | N | K},
    {SYS_ppoll, P | N | K},
    {SYS_epoll_create1, P},
    {SYS_epoll_ctl, P},
    {SYS_epoll_wait, P | D},
    {SYS_epoll_pwait, P | D},
    {SYS_epoll_pwait2, P},
    {SYS_eventfd2, P},
    {SYS_timerfd_create, P},
    {SYS_timerfd_settime, P},
    {SYS_timerfd_gettime, P},
    /* sockets; those that can be made are below */
    {SYS_listen, P | N | K},
    {SYS_accept4, P | N | K},
    {SYS_accept, P | N | K},
    {SYS_recvfrom, P | N | K},
    {SYS_sendto, P | N | K},
    {SYS_recvmsg, P | N | K},
    {SYS_sendmsg, P | N | K},
    {SYS_shutdown, P | N | K},
    {SYS_getsockopt, P | N | K},
    {SYS_setsockopt, P | N | K},
    {SYS_getsockname, P | N | K},
    {SYS_getpeername, P | N | K},
    {SYS_bind, P | N | K},
    {SYS_connect, P | N | K},
};

/* A vCPU of a running machine needs these only. */
static const uint32_t vcpu_ioctls[] = {KVM_RUN, KVM_GET_REGS, KVM_IRQ_LINE};

struct builder {
    scmp_filter_ctx ctx;
    unsigned who;
    bool network;
    int r;
};

static bool wanted(const struct builder *b, unsigned who)
{
    return (who & b->who) != 0 && ((who & S) == 0 || b->network);
}

static void add(struct builder *b, uint32_t action, unsigned who, int number, unsigned count,
                const struct scmp_arg_cmp *args)
{
    if (b->r == 0 && wanted(b, who))
        b->r = seccomp_rule_add_array(b->ctx, action, number, count, args);
}

/* argument & mask == value */
static void add_masked(struct builder *b, unsigned who, int number, unsigned argument,
                       uint64_t mask, uint64_t value)
{
    const struct scmp_arg_cmp arg = {
        .arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value};

    add(b, SCMP_ACT_ALLOW, who, number, 1, &arg);
}

static void add_equal(struct builder *b, unsigned who, int number, unsigned argument,
                      uint64_t value)
{
    add_masked(b, who, number, argument, UINT64_MAX, value);
}

/* By far the most frequent call is KVM_RUN: it comes first. */
static void add_ioctls(struct builder *b)
{
    add_masked(b, P, SYS_ioctl, 1, 0xff00, KVMIO << 8);
    add_masked(b, V, SYS_ioctl, 1, UINT32_MAX, vcpu_ioctls[0]);
    for (size_t i = 1; i < ARRAY_LEN(vcpu_ioctls); i++)
        add_masked(b, V, SYS_ioctl, 1, UINT32_MAX, vcpu_ioctls[i]);
    add_masked(b, N | K | D, SYS_ioctl, 1, UINT32_MAX, KVM_IRQ_LINE);
    add_masked(b, P | N, SYS_ioctl, 1, UINT32_MAX, FIONREAD);
    add_masked(b, P | N, SYS_ioctl, 1, UINT32_MAX, FIONBIO);
    add_masked(b, P | N, SYS_ioctl, 1, UINT32_MAX, TCGETS); /* isatty(), by GLib's warnings */
    if (b->r == 0)
        b->r = seccomp_syscall_priority(b->ctx, SYS_ioctl, 255);
}

/* No memory becomes code any more. */
static void add_memory(struct builder *b)
{
    add_masked(b, ALL, SYS_mmap, 2, PROT_EXEC, 0);
    add_masked(b, ALL, SYS_mprotect, 2, PROT_EXEC, 0);
}

/*
 * Threads, but no processes. clone3() has its flags in memory, where a filter does not
 * see them, so it is not there: the C library then uses clone().
 */
static void add_threads(struct builder *b)
{
    const struct scmp_arg_cmp not_sigsys = {.op = SCMP_CMP_NE, .datum_a = SIGSYS};

    add_masked(b, P | D, SYS_clone, 0, CLONE_THREAD, CLONE_THREAD);
    add(b, SCMP_ACT_ERRNO(ENOSYS), P | D, SYS_clone3, 0, NULL);
    add_equal(b, ALL, SYS_tgkill, 0, (uint64_t)getpid());
    /* Of one process, itself; a thread's filter on top of the process's. */
    add_equal(b, ALL, SYS_prlimit64, 0, 0);
    add_equal(b, P, SYS_seccomp, 0, SECCOMP_SET_MODE_FILTER);
    add_equal(b, ALL, SYS_prctl, 0, PR_SET_NAME);
    /* Any but the one whose handler reports refused calls. */
    add(b, SCMP_ACT_ALLOW, ALL, SYS_rt_sigaction, 1, &not_sigsys);
}

static void add_socket(struct builder *b, unsigned who, uint32_t action, int family, int type)
{
    const struct scmp_arg_cmp args[] = {
        {.arg = 0, .op = SCMP_CMP_EQ, .datum_a = (scmp_datum_t)family},
        /* but for SOCK_CLOEXEC and SOCK_NONBLOCK */
        {.arg = 1, .op = SCMP_CMP_MASKED_EQ, .datum_a = 0xf, .datum_b = (scmp_datum_t)type},
    };

    add(b, action, who, SYS_socket, ARRAY_LEN(args), args);
}

/* For libslirp IPv4: TCP, UDP and pings. It tries a raw socket where pings need one, and
 * lives without. Forwarded ports are bound by the event loop when it restores. */
static void add_sockets(struct builder *b)
{
    add_socket(b, P | K, SCMP_ACT_ALLOW, AF_UNIX, SOCK_STREAM);
    add_socket(b, P | N | S, SCMP_ACT_ALLOW, AF_INET, SOCK_STREAM);
    add_socket(b, P | N | S, SCMP_ACT_ALLOW, AF_INET, SOCK_DGRAM);
    add_socket(b, P | N | S, SCMP_ACT_ERRNO(EPERM), AF_INET, SOCK_RAW);
}

static int fill(struct builder *b)
{
    b->r = seccomp_attr_set(b->ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (b->r == 0)
        b->r = seccomp_attr_set(b->ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a search tree */
    add_ioctls(b);
    for (size_t i = 0; i < ARRAY_LEN(plain_calls); i++)
        add(b, SCMP_ACT_ALLOW, plain_calls[i].who, plain_calls[i].number, 0, NULL);
    add_memory(b);
    add_threads(b);
    add_sockets(b);
    return b->r;
}

/* libseccomp gives the filter's code to a file only. */
static int export(scmp_filter_ctx ctx, struct sock_fprog *program_out)
{
    _cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return -errno;
    int r = seccomp_export_bpf(ctx, fd);
    if (r < 0 || fstat(fd, &st) < 0)
        return r < 0 ? r : -errno;
    const size_t size = (size_t)st.st_size;
    _cleanup_free_ struct sock_filter *code = malloc(size);
    if (code == NULL)
        return -ENOMEM;
    if ((r = io_pread_full(fd, code, size, 0)) < 0)
        return r;
    program_out->len = (unsigned short)(size / sizeof(*code));
    program_out->filter = steal_pointer(code);
    return 0;
}

int calls_filter(enum sandbox_thread kind, bool network, struct sock_fprog *program_out)
{
    _cleanup_(seccomp_releasep) void *ctx = seccomp_init(SCMP_ACT_TRAP);
    struct builder b = {.ctx = ctx, .who = 1u << kind, .network = network};

    if (ctx == NULL)
        return -ENOMEM;
    int r = fill(&b);
    return r < 0 ? r : export(ctx, program_out);
}

/* The mitigations against speculation that come with a filter unless it says so slow
 * the guest down, and protect it from nobody. */
int calls_restrict(const struct sock_fprog *program)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, program) <
                   0
               ? -errno
               : 0;
}
