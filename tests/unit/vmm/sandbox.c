/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child enters the sandbox of a machine's process and does one thing. Either that
 * works, or it fails with an error, or it ends the child, with a line that says why.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { WORKS = 0, REFUSED = 159, FAILS = 100 /* and less than the errno more */ };

static char top[] = "/tmp/stasis-sandbox-XXXXXX";
static char *store, *machine, *runtime, *outside;
static char said[4096]; /* by the last child, on its standard error */

/* ---- children ---- */

typedef int action_fn(void); /* 0 or -errno */

static struct sandbox_settings settings(bool network)
{
    return (struct sandbox_settings){
        .store_dir = store, .machine_dir = machine, .runtime_dir = runtime, .network = network};
}

static action_fn *thread_action;
static enum sandbox_thread thread_kind;

static void *thread_main(void *context)
{
    int *r = context;

    sandbox_thread(thread_kind);
    *r = thread_action();
    return NULL;
}

static int in_thread(enum sandbox_thread kind, action_fn *action)
{
    pthread_t thread;
    int r = -ECHILD;

    if (kind == SANDBOX_PROCESS)
        return action();
    thread_kind = kind;
    thread_action = action;
    if (pthread_create(&thread, NULL, thread_main, &r) == 0)
        pthread_join(thread, NULL);
    return r;
}

static void child(bool network, enum sandbox_thread kind, action_fn *action, int error_fd)
{
    const struct sandbox_settings s = settings(network);
    struct error err = ERROR_INIT;

    dup2(error_fd, STDERR_FILENO);
    if (sandbox_enter(&s, &err) < 0) {
        fprintf(stderr, "%s", err.message);
        _exit(99);
    }
    int r = in_thread(kind, action);
    _exit(r < 0 ? FAILS - r : WORKS);
}

static int outcome(bool network, enum sandbox_thread kind, action_fn *action)
{
    int fds[2], status;

    if (!sandbox_is_whole())
        skip();
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(network, kind, action, fds[1]);
    close(fds[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    ssize_t n = read(fds[0], said, sizeof(said) - 1);
    said[n > 0 ? n : 0] = '\0';
    close(fds[0]);
    /* Without a word where the C library blocks signals around a call, or the kernel
     * does not ask. */
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return REFUSED;
    if (!WIFEXITED(status))
        fail_msg("it ended by signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == 99)
        fail_msg("%s", said);
    return WEXITSTATUS(status);
}

#define process_outcome(action) outcome(false, SANDBOX_PROCESS, action)

/* ---- what they do ---- */

static int result(long r)
{
    return r < 0 ? -errno : 0;
}

static int call_nothing(void)
{
    return 0;
}

static int call_execve(void)
{
    char *argv[] = {(char *)"true", NULL};

    return result(execv("/bin/true", argv));
}

static int call_execveat(void)
{
    return result(syscall(SYS_execveat, STDIN_FILENO, "", NULL, NULL, AT_EMPTY_PATH));
}

static int call_fork(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    return result(pid);
}

static int call_vfork(void)
{
    return result(syscall(SYS_vfork));
}

static int call_unix_socket(void)
{
    return result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

static int call_unix_dgram(void)
{
    return result(socket(AF_UNIX, SOCK_DGRAM, 0));
}

static int call_inet_socket(void)
{
    return result(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

static int call_raw_socket(void)
{
    return result(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
}

static int call_netlink_socket(void)
{
    return result(socket(AF_NETLINK, SOCK_RAW, 0));
}

static int call_packet_socket(void)
{
    return result(socket(AF_PACKET, SOCK_RAW, 0));
}

static int call_vsock_socket(void)
{
    return result(socket(AF_VSOCK, SOCK_STREAM, 0));
}

static int call_socketpair(void)
{
    int fds[2];

    return result(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

static int call_ptrace(void)
{
    return result(ptrace(PTRACE_TRACEME, 0, 0, 0));
}

static int call_process_vm_readv(void)
{
    return result(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
}

static int call_kill(void)
{
    return result(kill(1, 0));
}

static int call_tgkill_of_another(void)
{
    return result(syscall(SYS_tgkill, 1, 1, 0));
}

static int call_mount(void)
{
    return result(mount("none", "/", "tmpfs", 0, NULL));
}

static int call_umount(void)
{
    return result(umount2("/", MNT_DETACH));
}

static int call_pivot_root(void)
{
    return result(syscall(SYS_pivot_root, ".", "."));
}

static int call_chroot(void)
{
    return result(chroot("/"));
}

static int call_unshare(void)
{
    return result(unshare(CLONE_NEWUSER));
}

static int call_setns(void)
{
    return result(setns(STDIN_FILENO, 0));
}

static int call_setuid(void)
{
    return result(syscall(SYS_setuid, 0));
}

static int call_bpf(void)
{
    return result(syscall(SYS_bpf, 0, NULL, 0));
}

static int call_io_uring(void)
{
    return result(syscall(SYS_io_uring_setup, 1, NULL));
}

static int call_perf(void)
{
    return result(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
}

static int call_keyctl(void)
{
    return result(syscall(SYS_keyctl, 0, 0));
}

static int call_symlink(void)
{
    return result(symlink("/etc", "link"));
}

static int call_mknod(void)
{
    return result(mknod("null", S_IFCHR | 0600, 0x103));
}

static int call_code(void)
{
    void *code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return result(code == MAP_FAILED ? -1 : 0);
}

static int call_make_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return result(mprotect(page, 4096, PROT_READ | PROT_EXEC));
}

static int call_handler(void)
{
    return result(signal(SIGSYS, SIG_IGN) == SIG_ERR ? -1 : 0);
}

static int call_terminal(void)
{
    return result(ioctl(STDIN_FILENO, TIOCSTI, "x"));
}

static int call_old_number(void) /* of the x32 interface */
{
    return result(syscall(0x40000000 | SYS_getpid));
}

static int call_unknown_number(void)
{
    return result(syscall(5000));
}

/* ---- files ---- */

static int write_in(const char *dir)
{
    _cleanup_free_ char *path = io_format("%s/new", dir);
    _cleanup_free_ char *other = io_format("%s/other", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || write(fd, "x", 1) != 1 || ftruncate(fd, 0) < 0 || fdatasync(fd) < 0 ||
        rename(path, other) < 0 || unlink(other) < 0)
        return -errno;
    return result(close(fd));
}

static int use_disk(void)
{
    _cleanup_free_ char *path = io_format("%s/disk", machine);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || pwrite(fd, "x", 1, 4096) != 1 || fdatasync(fd) < 0 ||
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0)
        return -errno;
    return result(close(fd));
}

static int write_in_store(void)
{
    return write_in(store);
}

static int write_in_machine(void)
{
    return write_in(machine);
}

static int write_in_runtime(void)
{
    return write_in(runtime);
}

static int write_outside(void)
{
    return write_in(outside);
}

static int write_beside(void)
{
    return write_in(top);
}

static int read_passwords(void)
{
    return result(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
}

static int read_through_parent(void)
{
    _cleanup_free_ char *path = io_format("%s/../outside/file", store);

    return result(open(path, O_RDONLY | O_CLOEXEC));
}

static int read_kvm(void)
{
    return result(open("/dev/kvm", O_RDWR | O_CLOEXEC));
}

static int read_null(void)
{
    return result(open("/dev/null", O_RDWR | O_CLOEXEC));
}

static int list_processes(void)
{
    return result(open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* ---- what threads need ---- */

static void *add_one(void *context)
{
    (*(int *)context)++;
    return NULL;
}

static int use_threads(void)
{
    pthread_t thread;
    int value = 0;

    if (pthread_create(&thread, NULL, add_one, &value) != 0)
        return -EAGAIN;
    pthread_join(thread, NULL);
    return value == 1 ? 0 : -EPROTO;
}

static int use_memory(void)
{
    for (size_t size = 1; size < 64 << 20; size *= 4) {
        uint8_t *memory = malloc(size);
        if (memory == NULL)
            return -ENOMEM;
        memory = realloc(memory, size * 2);
        memset(memory, 1, size * 2);
        free(memory);
    }
    return 0;
}

static int use_events(void)
{
    const uint64_t one = 1;
    int fd = eventfd(0, EFD_CLOEXEC);
    struct pollfd wait_for = {.fd = fd, .events = POLLIN};

    if (fd < 0 || write(fd, &one, sizeof(one)) != sizeof(one))
        return -errno;
    return poll(&wait_for, 1, 0) == 1 ? 0 : -EPROTO;
}

static int ask_kvm(void)
{
    return ioctl(STDIN_FILENO, KVM_GET_API_VERSION, 0) < 0 && errno == ENOTTY ? 0 : -errno;
}

static int run_kvm(void)
{
    return ioctl(STDIN_FILENO, KVM_RUN, 0) < 0 && errno == ENOTTY ? 0 : -errno;
}

static int interrupt_kvm(void)
{
    struct kvm_irq_level level = {0};

    return ioctl(STDIN_FILENO, KVM_IRQ_LINE, &level) < 0 && errno == ENOTTY ? 0 : -errno;
}

/* GLib, before it prints a warning of libslirp's: is this the journal, or a terminal? */
static int warn(void)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer);

    if (getpeername(STDERR_FILENO, (struct sockaddr *)&peer, &length) == 0)
        return -EISCONN;
    return isatty(STDERR_FILENO) ? -ENOTTY : 0;
}

static int compare_numbers(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(uint32_t));
}

/* The C library asks how much memory there is before it takes some. */
static int sort_much(void)
{
    static uint32_t numbers[4096];

    for (uint32_t i = 0; i < 4096; i++)
        numbers[i] = i * 2654435761u;
    qsort(numbers, 4096, sizeof(numbers[0]), compare_numbers);
    return 0;
}

static int bind_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return result(listen(fd, 1));
}

static int see_environment(void)
{
    return getenv("PATH") == NULL ? 0 : -EEXIST;
}

static int see_limits(void)
{
    struct rlimit core;

    return getrlimit(RLIMIT_CORE, &core) < 0 ? -errno : core.rlim_max == 0 ? 0 : -EPROTO;
}

/* ---- tests ---- */

static void calls_that_lead_out_end_the_process(void **state)
{
    static action_fn *const calls[] = {
        call_execve,
        call_execveat,
        call_fork,
        call_vfork,
        call_unix_dgram,
        call_inet_socket,
        call_netlink_socket,
        call_packet_socket,
        call_vsock_socket,
        call_raw_socket,
        call_socketpair,
        call_ptrace,
        call_kill,
        call_mount,
        call_umount,
        call_pivot_root,
        call_chroot,
        call_unshare,
        call_setns,
        call_setuid,
        call_bpf,
        call_io_uring,
        call_perf,
        call_keyctl,
        call_symlink,
        call_mknod,
        call_code,
        call_make_code,
        call_handler,
        call_terminal,
        call_unknown_number,
        call_process_vm_readv,
        call_tgkill_of_another,
        call_old_number,
    };

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        int r = process_outcome(calls[i]);
        if (r != REFUSED)
            fail_msg("call %zu of the list: outcome %d, %s", i, r, said);
    }
}

static void the_end_is_explained(void **state)
{
    char number[32];

    (void)state;
    snprintf(number, sizeof(number), "system call %d,", SYS_mount);
    assert_int_equal(process_outcome(call_mount), REFUSED);
    assert_non_null(strstr(said, number));
    assert_non_null(strstr(said, "a process thread"));
    assert_int_equal(outcome(false, SANDBOX_VCPU, call_mount), REFUSED);
    assert_non_null(strstr(said, number));
    assert_non_null(strstr(said, "a vCPU thread"));
}

static void a_machine_works_in_its_own_directories(void **state)
{
    (void)state;
    assert_int_equal(process_outcome(call_nothing), WORKS);
    assert_int_equal(process_outcome(write_in_store), WORKS);
    assert_int_equal(process_outcome(write_in_machine), WORKS);
    assert_int_equal(process_outcome(write_in_runtime), WORKS);
}

/* By Landlock or because it is not there. */
static void other_files_are_out_of_reach(void **state)
{
    static action_fn *const calls[] = {write_outside,       write_beside, read_passwords,
                                       read_through_parent, read_null,    list_processes};

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        int r = process_outcome(calls[i]);
        if (r != FAILS + EACCES && r != FAILS + ENOENT && r != FAILS + EROFS)
            fail_msg("file %zu of the list: outcome %d, %s", i, r, said);
    }
}

static void kvm_can_be_opened(void **state)
{
    (void)state;
    if (access("/dev/kvm", R_OK | W_OK) < 0)
        skip();
    assert_int_equal(process_outcome(read_kvm), WORKS);
}

static void what_a_machine_does_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(process_outcome(use_threads), WORKS);
    assert_int_equal(process_outcome(use_memory), WORKS);
    assert_int_equal(process_outcome(use_events), WORKS);
    assert_int_equal(process_outcome(ask_kvm), WORKS);
    assert_int_equal(process_outcome(see_environment), WORKS);
    assert_int_equal(process_outcome(see_limits), WORKS);
}

static void sockets_are_for_networks(void **state)
{
    (void)state;
    assert_int_equal(outcome(true, SANDBOX_PROCESS, bind_port), WORKS);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, bind_port), WORKS);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, call_raw_socket), FAILS + EPERM);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, call_unix_socket), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, call_netlink_socket), REFUSED);
    assert_int_equal(outcome(false, SANDBOX_NETWORK, call_inet_socket), REFUSED);
}

static void a_vcpu_runs_and_does_little_else(void **state)
{
    (void)state;
    assert_int_equal(outcome(true, SANDBOX_VCPU, run_kvm), WORKS);
    assert_int_equal(outcome(true, SANDBOX_VCPU, interrupt_kvm), WORKS);
    assert_int_equal(outcome(true, SANDBOX_VCPU, use_memory), WORKS);
    assert_int_equal(outcome(true, SANDBOX_VCPU, ask_kvm), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, use_threads), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, use_events), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, call_inet_socket), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, call_execve), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, read_kvm), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, write_in_machine), REFUSED);
}

static void a_disk_reads_and_writes_files(void **state)
{
    (void)state;
    assert_int_equal(outcome(true, SANDBOX_DISKS, use_disk), WORKS);
    assert_int_equal(outcome(true, SANDBOX_DISKS, interrupt_kvm), WORKS);
    assert_int_equal(outcome(true, SANDBOX_DISKS, run_kvm), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_DISKS, use_threads), WORKS);
    assert_int_equal(outcome(true, SANDBOX_DISKS, call_fork), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_DISKS, call_unix_socket), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_DISKS, call_inet_socket), REFUSED);
}

static void a_network_does_not_touch_the_machine(void **state)
{
    (void)state;
    assert_int_equal(outcome(true, SANDBOX_NETWORK, interrupt_kvm), WORKS);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, run_kvm), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, use_threads), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, write_in_store), REFUSED);
}

static void libraries_may_warn_and_sort(void **state)
{
    (void)state;
    assert_int_equal(outcome(true, SANDBOX_PROCESS, warn), WORKS);
    assert_int_equal(outcome(true, SANDBOX_NETWORK, warn), WORKS);
    for (unsigned kind = 0; kind < SANDBOX_THREADS; kind++)
        assert_int_equal(outcome(true, (enum sandbox_thread)kind, sort_much), WORKS);
}

static void streams_are_unix_sockets(void **state)
{
    (void)state;
    assert_int_equal(outcome(true, SANDBOX_PROCESS, call_unix_socket), WORKS);
    assert_int_equal(outcome(true, SANDBOX_STREAMS, call_unix_socket), WORKS);
    assert_int_equal(outcome(true, SANDBOX_STREAMS, interrupt_kvm), WORKS);
    assert_int_equal(outcome(true, SANDBOX_STREAMS, call_inet_socket), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_STREAMS, run_kvm), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_STREAMS, use_threads), REFUSED);
    assert_int_equal(outcome(true, SANDBOX_VCPU, call_unix_socket), REFUSED);
}

static void the_host_can_be_asked(void **state)
{
    struct sandbox_report report;

    (void)state;
    sandbox_probe(&report);
    assert_true(report.system_calls);
    assert_true(report.landlock >= 0);
    assert_int_equal(report.namespaces, report.reason[0] == '\0');
}

static void write_secret(void)
{
    _cleanup_free_ char *path = io_format("%s/file", outside);

    assert_int_equal(io_write_file(AT_FDCWD, path, "secret", 6, 0600), 0);
}

static char *make_dir(const char *name)
{
    char *path = io_format("%s/%s", top, name);

    assert_int_equal(io_make_dirs(path, 0700), 0);
    return path;
}

static int set_up(void **state)
{
    (void)state;
    if (mkdtemp(top) == NULL)
        return -1;
    store = make_dir("store");
    machine = make_dir("machine");
    runtime = make_dir("runtime");
    outside = make_dir("outside");
    write_secret();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(store);
    free(machine);
    free(runtime);
    free(outside);
    return io_remove_tree(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_that_lead_out_end_the_process),
        cmocka_unit_test(the_end_is_explained),
        cmocka_unit_test(a_machine_works_in_its_own_directories),
        cmocka_unit_test(other_files_are_out_of_reach),
        cmocka_unit_test(kvm_can_be_opened),
        cmocka_unit_test(what_a_machine_does_is_allowed),
        cmocka_unit_test(sockets_are_for_networks),
        cmocka_unit_test(a_vcpu_runs_and_does_little_else),
        cmocka_unit_test(a_network_does_not_touch_the_machine),
        cmocka_unit_test(a_disk_reads_and_writes_files),
        cmocka_unit_test(libraries_may_warn_and_sort),
        cmocka_unit_test(streams_are_unix_sockets),
        cmocka_unit_test(the_host_can_be_asked),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
