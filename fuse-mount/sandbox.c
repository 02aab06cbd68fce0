/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/sandbox.h"

#include "base/bytes.h"
#include "base/confine.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- seccomp: system calls ---- */

/* What no part of serving a file system does. A list of what is refused, not of
 * what is let through: the latter breaks with the next libc, and the former takes
 * away what an attacker would go on with. */
static const uint32_t refused[] = {
    SYS_execve,
    SYS_execveat,
    SYS_fork,
    SYS_vfork,
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_ptrace,
    SYS_kill,
    SYS_tkill,
    SYS_pidfd_open,
    SYS_pidfd_getfd,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_acct,
    SYS_quotactl,
    SYS_mknod,
    SYS_mknodat,
    SYS_symlink,
    SYS_symlinkat,
    SYS_link,
    SYS_linkat,
    SYS_chmod,
    SYS_fchmodat,
    SYS_setxattr,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_personality,
    SYS_iopl,
    SYS_ioperm,
    SYS_process_madvise,
    SYS_kcmp,
    SYS_vhangup,
    SYS_syslog,
    SYS_modify_ldt,
};

static int restrict_calls(struct error *err)
{
    /* load arch, check, load nr, x32?, one jump for each, allow, refuse */
    struct sock_filter code[ARRAY_LEN(refused) + 7];
    struct sock_fprog program = {.filter = code};
    size_t n = 0;

    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        uint8_t to_refuse = (uint8_t)(ARRAY_LEN(refused) - i + 1);

        code[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused[i], to_refuse, 0);
    }
    code[n++] =
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 1, 0); /* x32 */
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    program.len = (unsigned short)n;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return error_errno(err, errno, "cannot restrict the mount's system calls");
    return 0;
}

int mount_sandbox_enter(const char *store_dir, struct error *err)
{
    /* Of root's, what it takes to read a store that somebody else owns. */
    const uint32_t readers = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
    const struct confine_path store = {store_dir, CONFINE_WRITE};
    const struct confine_files files = {.paths = &store, .count = 1};
    const struct rlimit no_core = {0};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "cannot give up privileges");
    /* glibc loads it when libfuse cancels its threads in the end; by then no
     * library can be opened any more. Never closed, that is the point. */
    (void)dlopen("libgcc_s.so.1", RTLD_NOW);
    (void)setrlimit(RLIMIT_CORE, &no_core); /* a dump would hold guests' memory */
    (void)confine_files(&files);            /* on a kernel without it, with less */
    (void)confine_capabilities(readers);
    return restrict_calls(err);
}
