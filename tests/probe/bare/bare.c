/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/probe/bare/bare.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOW_MAX 0xc0000000ull
#define HIGH_START 0x100000000ull
#define START_INFO 0x6000
#define MEMMAP 0x6100
#define CMDLINE 0x20000
#define CMDLINE_MAX 4096
#define PVH_NOTE 18
#define PVH_MAGIC 0x336ec578u
#define CPUID_MAX 256

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};

struct memmap_entry {
    uint64_t address, size;
    uint32_t type, reserved;
};

__attribute__((format(printf, 3, 4))) static int failed(struct bare *bare, int errnum,
                                                        const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(bare->why, sizeof(bare->why), fmt, args);
    va_end(args);
    return -errnum;
}

static int call(struct bare *bare, int fd, unsigned long request, void *argument, const char *name)
{
    int rc = ioctl(fd, request, argument);

    if (rc < 0)
        return failed(bare, errno, "%s: %s", name, strerror(errno));
    return rc;
}

/* ---- making it ---- */

static int add_slot(struct bare *bare, uint32_t slot, uint64_t gpa, uint64_t offset, uint64_t size)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uint64_t)(uintptr_t)(bare->low + offset),
    };

    if (size == 0)
        return 0;
    return call(bare, bare->vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

static int make_memory(struct bare *bare, uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int rc;

    if (memory == MAP_FAILED)
        return failed(bare, errno, "mmap: %s", strerror(errno));
    bare->low = memory;
    bare->memory_bytes = bytes;
    bare->low_bytes = bytes < LOW_MAX ? bytes : LOW_MAX;
    rc = add_slot(bare, 0, 0, 0, bare->low_bytes);
    if (rc == 0)
        rc = add_slot(bare, 1, HIGH_START, bare->low_bytes, bytes - bare->low_bytes);
    return rc;
}

static int make_irqchip(struct bare *bare)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    uint64_t identity_map = 0xfffbc000;
    int rc;

    rc = call(bare, bare->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul, "KVM_SET_TSS_ADDR");
    if (rc == 0)
        rc = call(bare, bare->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map,
                  "KVM_SET_IDENTITY_MAP_ADDR");
    if (rc == 0)
        rc = call(bare, bare->vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
    if (rc == 0)
        rc = call(bare, bare->vm, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2");
    return rc;
}

static int set_cpuid(struct bare *bare)
{
    struct kvm_cpuid2 *cpuid;
    int rc;

    cpuid = calloc(1, sizeof(*cpuid) + CPUID_MAX * sizeof(cpuid->entries[0]));
    if (cpuid == NULL)
        return failed(bare, ENOMEM, "out of memory");
    cpuid->nent = CPUID_MAX;
    rc = call(bare, bare->kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
    if (rc == 0)
        rc = call(bare, bare->vcpu, KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
    free(cpuid);
    return rc;
}

static int make_vcpu(struct bare *bare)
{
    int rc = call(bare, bare->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
    void *run;

    if (rc < 0)
        return rc;
    bare->run_bytes = (size_t)rc;
    rc = call(bare, bare->vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
    if (rc < 0)
        return rc;
    bare->vcpu = rc;
    run = mmap(NULL, bare->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bare->vcpu, 0);
    if (run == MAP_FAILED)
        return failed(bare, errno, "mmap of the vCPU: %s", strerror(errno));
    bare->run = run;
    return set_cpuid(bare);
}

int bare_open(struct bare *bare, uint64_t memory_bytes)
{
    int rc;

    memset(bare, 0, sizeof(*bare));
    bare->vm = bare->vcpu = -1;
    bare->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (bare->kvm < 0)
        return failed(bare, errno, "/dev/kvm: %s", strerror(errno));
    rc = call(bare, bare->kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
    if (rc < 0)
        return rc;
    bare->vm = rc;
    rc = make_irqchip(bare);
    if (rc == 0)
        rc = make_memory(bare, memory_bytes);
    if (rc == 0)
        rc = make_vcpu(bare);
    return rc;
}

void bare_close(struct bare *bare)
{
    if (bare->run != NULL)
        munmap(bare->run, bare->run_bytes);
    if (bare->vcpu >= 0)
        close(bare->vcpu);
    if (bare->vm >= 0)
        close(bare->vm);
    if (bare->kvm >= 0)
        close(bare->kvm);
    if (bare->low != NULL)
        munmap(bare->low, bare->memory_bytes);
    bare->run = NULL;
    bare->low = NULL;
    bare->kvm = bare->vm = bare->vcpu = -1;
}

/* ---- loading it ---- */

static int load_segment(struct bare *bare, const uint8_t *file, size_t size, const Elf64_Phdr *ph)
{
    if (ph->p_offset > size || ph->p_filesz > size - ph->p_offset ||
        ph->p_paddr > bare->low_bytes || ph->p_memsz > bare->low_bytes - ph->p_paddr ||
        ph->p_filesz > ph->p_memsz)
        return failed(bare, ENOEXEC, "a segment does not fit");
    memcpy(bare->low + ph->p_paddr, file + ph->p_offset, ph->p_filesz);
    return 0;
}

/* The probe's only note is the one wanted. */
static uint64_t note_entry(const uint8_t *file, size_t size, const Elf64_Phdr *ph)
{
    Elf64_Nhdr note;
    uint64_t entry;

    if (ph->p_offset > size || size - ph->p_offset < sizeof(note) + 12)
        return 0;
    memcpy(&note, file + ph->p_offset, sizeof(note));
    if (note.n_type != PVH_NOTE || note.n_namesz != 4 || note.n_descsz != 8)
        return 0;
    memcpy(&entry, file + ph->p_offset + sizeof(note) + 4, sizeof(entry));
    return entry;
}

static int load_elf(struct bare *bare, const uint8_t *file, size_t size, uint64_t *entry_out)
{
    Elf64_Ehdr eh;
    Elf64_Phdr ph;
    int rc = 0;

    *entry_out = 0;
    if (size < sizeof(eh))
        return failed(bare, ENOEXEC, "not an ELF");
    memcpy(&eh, file, sizeof(eh));
    if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_phentsize != sizeof(ph) ||
        eh.e_phoff > size || eh.e_phnum * sizeof(ph) > size - eh.e_phoff)
        return failed(bare, ENOEXEC, "not an ELF");
    for (unsigned i = 0; i < eh.e_phnum && rc == 0; i++) {
        memcpy(&ph, file + eh.e_phoff + i * sizeof(ph), sizeof(ph));
        if (ph.p_type == PT_LOAD)
            rc = load_segment(bare, file, size, &ph);
        if (ph.p_type == PT_NOTE)
            *entry_out = note_entry(file, size, &ph);
    }
    if (rc == 0 && *entry_out == 0)
        rc = failed(bare, ENOEXEC, "no PVH note");
    return rc;
}

static void put_start_info(struct bare *bare, const char *cmdline)
{
    const struct memmap_entry map[] = {
        {0, 0x9fc00, 1, 0},
        {0x100000, bare->low_bytes - 0x100000, 1, 0},
        {HIGH_START, bare->memory_bytes - bare->low_bytes, 1, 0},
    };
    const struct start_info info = {
        .magic = PVH_MAGIC,
        .version = 1,
        .cmdline = CMDLINE,
        .memmap = MEMMAP,
        .memmap_entries = bare->memory_bytes > bare->low_bytes ? 3 : 2,
    };

    memcpy(bare->low + START_INFO, &info, sizeof(info));
    memcpy(bare->low + MEMMAP, map, sizeof(map));
    snprintf((char *)bare->low + CMDLINE, CMDLINE_MAX, "%s", cmdline);
}

static void flat_segment(struct kvm_segment *seg, unsigned selector, unsigned type)
{
    *seg = (struct kvm_segment){.limit = 0xffffffff,
                                .selector = (uint16_t)selector,
                                .type = (uint8_t)type,
                                .present = 1,
                                .db = 1,
                                .s = 1,
                                .g = 1};
}

static int set_entry(struct bare *bare, uint64_t entry)
{
    struct kvm_regs regs = {.rip = entry, .rbx = START_INFO, .rflags = 2};
    struct kvm_sregs sregs;
    int rc = call(bare, bare->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");

    if (rc != 0)
        return rc;
    flat_segment(&sregs.cs, 0x08, 11);
    flat_segment(&sregs.ds, 0x10, 3);
    sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
    sregs.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
    sregs.cr0 = 0x11;
    sregs.cr4 = 0;
    sregs.efer = 0;
    rc = call(bare, bare->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
    if (rc == 0)
        rc = call(bare, bare->vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
    return rc;
}

int bare_load(struct bare *bare, const char *path, const char *cmdline)
{
    uint64_t entry;
    struct stat st;
    void *file;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

    if (fd < 0 || fstat(fd, &st) != 0)
        return failed(bare, errno, "%s: %s", path, strerror(errno));
    file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED)
        return failed(bare, errno, "%s: %s", path, strerror(errno));
    rc = load_elf(bare, file, (size_t)st.st_size, &entry);
    munmap(file, (size_t)st.st_size);
    if (rc != 0)
        return rc;
    put_start_info(bare, cmdline);
    return set_entry(bare, entry);
}

/* ---- its devices ---- */

static void output(struct bare *bare, uint8_t byte)
{
    if (bare->on_output != NULL)
        bare->on_output(byte, bare->context);
    else if (bare->output_used < sizeof(bare->output))
        bare->output[bare->output_used++] = (char)byte;
}

static void uart_write(struct bare *bare, unsigned reg, uint8_t value)
{
    bool divisor = (bare->uart[3] & 0x80) != 0;

    if (reg == 0 && !divisor)
        output(bare, value);
    else if (reg > 1 || !divisor)
        bare->uart[reg] = value;
}

static uint8_t uart_read(struct bare *bare, unsigned reg)
{
    bool ready = bare->input_taken < bare->input_used;

    if (reg == 0)
        return ready ? bare->input[bare->input_taken++] : 0;
    if (reg == 5)
        return (uint8_t)(0x60 | ready);
    return bare->uart[reg];
}

static uint8_t bcd(int value)
{
    return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static uint8_t cmos_read(struct bare *bare)
{
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    switch (bare->cmos_index) {
    case 0x00:
        return bcd(tm.tm_sec);
    case 0x02:
        return bcd(tm.tm_min);
    case 0x04:
        return bcd(tm.tm_hour);
    case 0x07:
        return bcd(tm.tm_mday);
    case 0x08:
        return bcd(tm.tm_mon + 1);
    case 0x09:
        return bcd(tm.tm_year);
    case 0x0b:
        return 0x02; /* BCD, 24 hours */
    default:
        return 0;
    }
}

static enum bare_stop port_out(struct bare *bare, uint16_t port, uint8_t value)
{
    if (port >= 0x3f8 && port <= 0x3ff)
        uart_write(bare, port - 0x3f8, value);
    else if (port == 0x70)
        bare->cmos_index = value & 0x7f;
    else if (port == 0x600 && value == 0x34)
        return BARE_OFF;
    else if (port == 0x64 && value == 0xfe)
        return BARE_RESET;
    return BARE_LINE; /* go on */
}

static uint8_t port_in(struct bare *bare, uint16_t port)
{
    if (port >= 0x3f8 && port <= 0x3ff)
        return uart_read(bare, port - 0x3f8);
    if (port == 0x71)
        return cmos_read(bare);
    return port == 0x64 ? 0 : 0xff;
}

static enum bare_stop port_exit(struct bare *bare)
{
    const struct kvm_run *run = bare->run;
    uint8_t *data = (uint8_t *)bare->run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        enum bare_stop stop;

        if (run->io.direction == KVM_EXIT_IO_IN) {
            memset(data, 0xff, run->io.size);
            data[0] = port_in(bare, run->io.port);
            continue;
        }
        stop = port_out(bare, run->io.port, data[0]);
        if (stop != BARE_LINE)
            return stop;
    }
    return BARE_LINE;
}

/* ---- running it ---- */

static enum bare_stop other_exit(struct bare *bare)
{
    struct kvm_regs regs = {0};
    struct kvm_run *run = bare->run;

    if (run->exit_reason == KVM_EXIT_MMIO) {
        if (!run->mmio.is_write)
            memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
        return BARE_LINE;
    }
    ioctl(bare->vcpu, KVM_GET_REGS, &regs);
    failed(bare, EIO, "exit %u (suberror %u) at %#llx", run->exit_reason,
           run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0, regs.rip);
    return BARE_FAILED;
}

static bool has_line(const struct bare *bare)
{
    return memchr(bare->output, '\n', bare->output_used) != NULL;
}

static enum bare_stop run_until(struct bare *bare, bool line)
{
    for (;;) {
        enum bare_stop stop;

        if (line && has_line(bare))
            return BARE_LINE;
        if (ioctl(bare->vcpu, KVM_RUN, NULL) != 0) {
            if (errno == EAGAIN)
                continue;
            if (errno == EINTR) {
                bare->run->immediate_exit = 0;
                return BARE_KICKED;
            }
            failed(bare, errno, "KVM_RUN: %s", strerror(errno));
            return BARE_FAILED;
        }
        stop = bare->run->exit_reason == KVM_EXIT_IO ? port_exit(bare) : other_exit(bare);
        if (stop != BARE_LINE)
            return stop;
    }
}

enum bare_stop bare_run(struct bare *bare)
{
    return run_until(bare, false);
}

static void take_line(struct bare *bare, char *line, size_t size)
{
    char *newline = memchr(bare->output, '\n', bare->output_used);
    size_t length = (size_t)(newline - bare->output);

    snprintf(line, size, "%.*s", (int)length, bare->output);
    bare->output_used -= (unsigned)length + 1;
    memmove(bare->output, newline + 1, bare->output_used);
}

static void wake(int number)
{
    (void)number;
}

/* The timer repeats: a first signal that comes outside of KVM_RUN is not the
 * last one. */
static void set_timer(timer_t timer, unsigned seconds)
{
    const struct itimerspec spec = {.it_value.tv_sec = seconds,
                                    .it_interval.tv_nsec = seconds > 0 ? 100000000 : 0};

    timer_settime(timer, 0, &spec, NULL);
}

enum bare_stop bare_run_to_line(struct bare *bare, char *line, size_t size, unsigned seconds)
{
    const struct sigaction action = {.sa_handler = wake};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    enum bare_stop stop;
    timer_t timer;

    sigaction(SIGALRM, &action, NULL);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) {
        failed(bare, errno, "timer_create: %s", strerror(errno));
        return BARE_FAILED;
    }
    set_timer(timer, seconds);
    stop = run_until(bare, true);
    timer_delete(timer);
    if (stop == BARE_LINE)
        take_line(bare, line, size);
    return stop;
}

/* An edge on interrupt 4, if the guest wants to know of input. */
static void raise_uart(struct bare *bare)
{
    struct kvm_irq_level irq = {.irq = 4, .level = 1};

    if ((bare->uart[1] & 1) == 0)
        return;
    ioctl(bare->vm, KVM_IRQ_LINE, &irq);
    irq.level = 0;
    ioctl(bare->vm, KVM_IRQ_LINE, &irq);
}

bool bare_type(struct bare *bare, const void *bytes, size_t length)
{
    if (bare->input_taken == bare->input_used)
        bare->input_taken = bare->input_used = 0;
    if (length > sizeof(bare->input) - bare->input_used)
        return false;
    memcpy(bare->input + bare->input_used, bytes, length);
    bare->input_used += (unsigned)length;
    raise_uart(bare);
    return true;
}

void bare_kick(struct bare *bare)
{
    bare->run->immediate_exit = 1;
}
