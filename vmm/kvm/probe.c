/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds out what this host's KVM can run, by running it. Some kinds of KVM (those
 * without hardware support below them) run user mode well and kernel mode only in
 * part: opening /dev/kvm says nothing about that.
 *
 * The guests run in a child process. Whatever goes wrong in KVM_RUN, and be it
 * that it never returns, the child is killed and the caller goes on; no signal
 * handler and no timer of the caller is touched. The child writes what it sees
 * into shared memory and calls nothing that a child of a process with threads
 * may not call.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/doctor.h"
#include "vmm/kvm/probe_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* A nested, emulated host needs a second; nothing that works needs this long. */
#define PATIENCE_MS 10000
#define CPUID_MAX 256
#define PAGE_USER 0x67 /* present, writable, user, accessed, dirty */
#define PAGE_LARGE 0x80
#define CR4_OSXSAVE (1u << 18)

enum need {
    NEED_NOTHING,
    NEED_XSAVE,
    NEED_SMAP,
};

struct trial {
    const char *name;
    const unsigned char *code;
    int expected; /* the byte it must end with */
    enum need need;
};

/* The first decides whether guests run at all, the others whether kernels do. */
static const struct trial trials[] = {
    {"user mode", probe_guest_user, 6, NEED_NOTHING},
    {"SYSCALL", probe_guest_syscall, PROBE_DONE, NEED_NOTHING},
    {"int3", probe_guest_int3, PROBE_DONE, NEED_NOTHING},
    {"popcnt", probe_guest_popcnt, PROBE_DONE, NEED_NOTHING},
    {"cmpxchg16b", probe_guest_cmpxchg16b, PROBE_DONE, NEED_NOTHING},
    {"clac", probe_guest_clac, PROBE_DONE, NEED_SMAP},
    {"xrstor", probe_guest_xrstor, PROBE_DONE, NEED_XSAVE},
};

enum outcome {
    OUTCOME_NONE, /* not tried yet, or in it when time was up */
    OUTCOME_PASSED,
    OUTCOME_SKIPPED, /* this processor does not have it */
    OUTCOME_WRONG_CPL,
    OUTCOME_WRONG_BACK,
    OUTCOME_EXCEPTION,
    OUTCOME_EXIT,
    OUTCOME_RUN_ERROR,
};

struct result {
    enum outcome outcome;
    unsigned detail; /* vector, exit reason or errno */
    unsigned suberror;
};

/* Shared with the child. */
struct progress {
    const char *failed_call; /* a literal: same address in parent and child */
    int errnum;
    unsigned current;
    bool finished;
    struct result results[ARRAY_LEN(trials)];
};

struct host {
    int kvm, vm, vcpu;
    uint8_t *ram;
    struct kvm_run *run;
    bool has_xsave, has_smap;
};

/* ---- in the child ---- */

static int probe_call(struct progress *p, int fd, unsigned long request, void *arg,
                      const char *name)
{
    int rc = ioctl(fd, request, arg);

    if (rc < 0) {
        p->errnum = errno;
        p->failed_call = name;
        return -p->errnum;
    }
    return rc;
}

static void note_features(struct host *h, const struct kvm_cpuid2 *cpuid)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

        if (e->function == 1)
            h->has_xsave = (e->ecx & 1u << 26) != 0;
        if (e->function == 7 && e->index == 0)
            h->has_smap = (e->ebx & 1u << 20) != 0;
    }
}

static int set_cpuid(struct host *h, struct progress *p)
{
    static union {
        struct kvm_cpuid2 head;
        uint8_t bytes[sizeof(struct kvm_cpuid2) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
    } cpuid;
    int rc;

    cpuid.head.nent = CPUID_MAX;
    rc = probe_call(p, h->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid.head, "KVM_GET_SUPPORTED_CPUID");
    if (rc < 0)
        return rc;
    note_features(h, &cpuid.head);
    return probe_call(p, h->vcpu, KVM_SET_CPUID2, &cpuid.head, "KVM_SET_CPUID2");
}

static int map_anything(struct progress *p, size_t bytes, int flags, int fd, void *out)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (memory == MAP_FAILED) {
        p->errnum = errno;
        p->failed_call = "mmap";
        return -p->errnum;
    }
    memcpy(out, &memory, sizeof(memory));
    return 0;
}

static int make_vcpu(struct host *h, struct progress *p)
{
    int bytes = probe_call(p, h->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");

    if (bytes < 0)
        return bytes;
    h->vcpu = probe_call(p, h->vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
    if (h->vcpu < 0)
        return h->vcpu;
    if (map_anything(p, (size_t)bytes, MAP_SHARED, h->vcpu, &h->run) != 0)
        return -p->errnum;
    return set_cpuid(h, p);
}

static int make_machine(struct host *h, struct progress *p)
{
    struct kvm_userspace_memory_region region = {.memory_size = PROBE_RAM_BYTES};
    int rc;

    h->vm = probe_call(p, h->kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
    if (h->vm < 0)
        return h->vm;
    /* Intel processors without unrestricted guests need a place for these three
     * pages; others do not mind. */
    (void)ioctl(h->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    rc = map_anything(p, PROBE_RAM_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1, &h->ram);
    if (rc != 0)
        return rc;
    region.userspace_addr = (uintptr_t)h->ram;
    rc = probe_call(p, h->vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
    return rc < 0 ? rc : make_vcpu(h, p);
}

static uint64_t code_address(const unsigned char *label)
{
    return PROBE_CODE + (uint64_t)(label - probe_guest_start);
}

/* Gates and TSS: AMD64 Architecture Programmer's Manual volume 2, 4.8 and 12.2.5. */
static void put_tables(uint8_t *ram)
{
    static const uint64_t gdt[] = {
        0,
        0x00af9b000000ffff, /* kernel code, 64-bit */
        0x00cf93000000ffff, /* kernel data */
        0x00cff3000000ffff, /* user data */
        0x00affb000000ffff, /* user code, 64-bit */
        0x0000890000000067 | PROBE_TSS << 16,
        0x0, /* TSS */
    };

    for (unsigned i = 0; i < ARRAY_LEN(gdt); i++)
        store_le64(ram + PROBE_GDT + i * 8, gdt[i]);
    store_le64(ram + PROBE_TSS + 4, PROBE_KERNEL_STACK);
    store_le16(ram + PROBE_TSS + 102, 104);
    for (unsigned i = 0; i < 32; i++) {
        store_le64(ram + PROBE_IDT + i * 16, (code_address(probe_guest_stubs) + i * 16) |
                                                 PROBE_KERNEL_CS << 16 | 0x8eull << 40);
        store_le64(ram + PROBE_IDT + i * 16 + 8, 0);
    }
    store_le64(ram + PROBE_PML4, PROBE_PDPT | PAGE_USER);
    store_le64(ram + PROBE_PDPT, PROBE_PD | PAGE_USER);
    store_le64(ram + PROBE_PD, PAGE_USER | PAGE_LARGE);
}

static void fill_ram(uint8_t *ram)
{
    memset(ram, 0, PROBE_RAM_BYTES);
    memcpy(ram + PROBE_CODE, probe_guest_start, (size_t)(probe_guest_end - probe_guest_start));
    put_tables(ram);
}

static struct kvm_segment flat(unsigned selector, unsigned type, bool code)
{
    return (struct kvm_segment){
        .limit = 0xffffffff,
        .selector = (uint16_t)selector,
        .type = (uint8_t)type,
        .present = 1,
        .s = 1,
        .g = 1,
        .l = code,
        .db = !code,
    };
}

static int set_registers(struct host *h, struct progress *p, uint64_t rip)
{
    struct kvm_regs regs = {.rip = rip, .rsp = PROBE_KERNEL_STACK, .rflags = 2};
    struct kvm_sregs s;
    int rc = probe_call(p, h->vcpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS");

    if (rc < 0)
        return rc;
    s.cs = flat(PROBE_KERNEL_CS, 11, true);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(PROBE_KERNEL_DS, 3, false);
    s.tr = (struct kvm_segment){
        .base = PROBE_TSS, .limit = 103, .selector = PROBE_TSS_SELECTOR, .type = 11, .present = 1};
    s.gdt = (struct kvm_dtable){.base = PROBE_GDT, .limit = 55};
    s.idt = (struct kvm_dtable){.base = PROBE_IDT, .limit = 32 * 16 - 1};
    s.cr0 = 0x80010033; /* PG, WP, NE, ET, MP, PE */
    s.cr3 = PROBE_PML4;
    s.cr4 = 0x620 | (h->has_xsave ? CR4_OSXSAVE : 0); /* PAE, OSFXSR, OSXMMEXCPT */
    s.efer = 0x501;                                   /* LMA, LME, SCE */
    rc = probe_call(p, h->vcpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
    return rc < 0 ? rc : probe_call(p, h->vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

static struct result judge_byte(const struct host *h, const struct trial *trial, uint8_t byte)
{
    uint8_t stage = h->ram[PROBE_STAGE];

    if (stage == PROBE_STAGE_WRONG_CPL)
        return (struct result){.outcome = OUTCOME_WRONG_CPL};
    if (stage == PROBE_STAGE_WRONG_BACK)
        return (struct result){.outcome = OUTCOME_WRONG_BACK};
    if (byte != trial->expected || (byte == 6 && stage != PROBE_STAGE_USER))
        return (struct result){.outcome = OUTCOME_EXCEPTION, .detail = byte};
    return (struct result){.outcome = OUTCOME_PASSED};
}

static struct result run_guest(struct host *h, const struct trial *trial)
{
    const struct kvm_run *run = h->run;
    int rc;

    do
        rc = ioctl(h->vcpu, KVM_RUN, NULL);
    while (rc != 0 && (errno == EINTR || errno == EAGAIN));
    if (rc != 0)
        return (struct result){.outcome = OUTCOME_RUN_ERROR, .detail = (unsigned)errno};
    if (run->exit_reason == KVM_EXIT_IO && run->io.port == PROBE_PORT)
        return judge_byte(h, trial, ((const uint8_t *)run)[run->io.data_offset]);
    return (struct result){
        .outcome = OUTCOME_EXIT,
        .detail = run->exit_reason,
        .suberror = run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0};
}

static bool processor_has(const struct host *h, enum need need)
{
    return need == NEED_NOTHING || (need == NEED_XSAVE ? h->has_xsave : h->has_smap);
}

/* A machine for each trial: a failed one leaves its vCPU in no state to go on. */
static int run_trial(struct progress *p, unsigned n)
{
    struct host h = {.vm = -1, .vcpu = -1};
    int rc;

    h.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (h.kvm < 0) {
        p->errnum = errno;
        p->failed_call = "open of /dev/kvm";
        return -p->errnum;
    }
    rc = make_machine(&h, p);
    if (rc < 0)
        return rc; /* the process ends: nothing is left open */
    if (processor_has(&h, trials[n].need)) {
        fill_ram(h.ram);
        rc = set_registers(&h, p, code_address(trials[n].code));
        if (rc < 0)
            return rc;
        p->results[n] = run_guest(&h, &trials[n]);
    } else {
        p->results[n].outcome = OUTCOME_SKIPPED;
    }
    close(h.vcpu);
    close(h.vm);
    close(h.kvm);
    return 0;
}

static void child_main(struct progress *p)
{
    for (unsigned n = 0; n < ARRAY_LEN(trials); n++) {
        p->current = n;
        if (run_trial(p, n) < 0)
            return;
        if (n == 0 && p->results[0].outcome != OUTCOME_PASSED)
            break;
    }
    p->finished = true;
}

/* ---- in the caller ---- */

static void describe_result(const struct trial *trial, const struct result *r, char *out,
                            size_t size)
{
    switch (r->outcome) {
    case OUTCOME_WRONG_CPL:
        snprintf(out, size, "%s entered the kernel at CPL 3", trial->name);
        break;
    case OUTCOME_WRONG_BACK:
        snprintf(out, size, "SYSRET did not come back to CPL 3");
        break;
    case OUTCOME_EXCEPTION:
        snprintf(out, size, "%s raised exception %u", trial->name, r->detail);
        break;
    case OUTCOME_EXIT:
        if (r->detail == KVM_EXIT_INTERNAL_ERROR)
            snprintf(out, size, "%s: KVM cannot emulate it (internal error %u)", trial->name,
                     r->suberror);
        else
            snprintf(out, size, "%s ended in KVM exit %u%s", trial->name, r->detail,
                     r->detail == KVM_EXIT_SHUTDOWN ? " (triple fault)" : "");
        break;
    case OUTCOME_RUN_ERROR:
        snprintf(out, size, "%s: KVM_RUN: %s", trial->name, strerror((int)r->detail));
        break;
    default:
        snprintf(out, size, "%s did not end", trial->name);
        break;
    }
}

static bool result_is_good(const struct result *r)
{
    return r->outcome == OUTCOME_PASSED || r->outcome == OUTCOME_SKIPPED;
}

/* The first failure in full, the names of the others behind it. */
static void describe_failures(const struct progress *p, unsigned tried, struct kvm_report *out)
{
    size_t used = 0;
    bool first = true;

    for (unsigned n = 1; n < tried && used < sizeof(out->reason); n++) {
        if (result_is_good(&p->results[n]))
            continue;
        if (first)
            describe_result(&trials[n], &p->results[n], out->reason, sizeof(out->reason));
        else
            snprintf(out->reason + used, sizeof(out->reason) - used, "%s%s",
                     strstr(out->reason, "; failed too: ") == NULL ? "; failed too: " : ", ",
                     trials[n].name);
        first = false;
        used = strlen(out->reason);
    }
}

static void conclude(const struct progress *p, struct kvm_report *out)
{
    unsigned tried = p->finished ? (unsigned)ARRAY_LEN(trials) : p->current + 1;
    bool all_good = p->finished;

    for (unsigned n = 0; n < tried; n++)
        all_good = all_good && result_is_good(&p->results[n]);
    if (p->failed_call != NULL) {
        out->ability = KVM_BROKEN;
        snprintf(out->reason, sizeof(out->reason), "%s failed: %s", p->failed_call,
                 strerror(p->errnum));
    } else if (p->results[0].outcome != OUTCOME_PASSED) {
        out->ability = KVM_BROKEN;
        describe_result(&trials[0], &p->results[0], out->reason, sizeof(out->reason));
    } else if (all_good) {
        out->ability = KVM_FULL;
        snprintf(out->reason, sizeof(out->reason),
                 "a guest made system calls and ran what kernels need");
    } else {
        out->ability = KVM_USER_ONLY;
        describe_failures(p, tried, out);
    }
}

/* The child's end of the pipe closes when it ends, however it ends. */
static void wait_for_end(int fd)
{
    uint64_t deadline = clock_monotonic_ns() + PATIENCE_MS * 1000000ull;
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    for (;;) {
        uint64_t now = clock_monotonic_ns();

        if (now >= deadline)
            return;
        if (poll(&pfd, 1, (int)((deadline - now) / 1000000) + 1) >= 0 || errno != EINTR)
            return;
    }
}

/* Even a killed process ends only when the kernel lets it: not ours to wait for
 * without end. */
static void end_child(pid_t pid)
{
    uint64_t deadline = clock_monotonic_ns() + 1000000000ull;

    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, WNOHANG) == 0 && clock_monotonic_ns() < deadline)
        poll(NULL, 0, 1);
}

static int run_child(struct progress *p)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) != 0)
        return -errno;
    pid = fork();
    if (pid == 0) {
        close(fds[0]);
        child_main(p);
        _exit(0);
    }
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return -EAGAIN;
    }
    wait_for_end(fds[0]);
    close(fds[0]);
    end_child(pid);
    return 0;
}

static void report_absence(int errnum, struct kvm_report *out)
{
    const char *advice = "";

    if (errnum == ENOENT)
        advice = "; turn virtualization on in the firmware and load kvm_amd or kvm_intel";
    else if (errnum == EACCES || errnum == EPERM)
        advice = "; let this user in, e.g. by adding it to the group kvm";
    else if (errnum == ENODEV || errnum == ENXIO)
        advice = "; the kernel has no KVM for this processor: load kvm_amd or kvm_intel";
    out->ability = KVM_ABSENT;
    snprintf(out->reason, sizeof(out->reason), "/dev/kvm: %s%s", strerror(errnum), advice);
}

static bool can_open(struct kvm_report *out)
{
    _cleanup_close_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int version;

    if (fd < 0) {
        report_absence(errno, out);
        return false;
    }
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version == KVM_API_VERSION)
        return true;
    out->ability = KVM_BROKEN;
    if (version < 0)
        snprintf(out->reason, sizeof(out->reason), "/dev/kvm: KVM_GET_API_VERSION: %s",
                 strerror(errno));
    else
        snprintf(out->reason, sizeof(out->reason), "/dev/kvm has API version %d, not %d", version,
                 KVM_API_VERSION);
    return false;
}

void kvm_probe(struct kvm_report *out)
{
    struct progress *p;
    int rc;

    if (!can_open(out))
        return;
    p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    rc = p == MAP_FAILED ? -errno : run_child(p);
    if (rc == 0) {
        conclude(p, out);
    } else {
        out->ability = KVM_BROKEN;
        snprintf(out->reason, sizeof(out->reason), "the probe could not run: %s", strerror(-rc));
    }
    if (p != MAP_FAILED)
        munmap(p, sizeof(*p));
}
