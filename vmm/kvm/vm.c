/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "imgfmt/page.h"
#include "vmm/kvm/internal.h"
#include "vmm/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

int kvm_ioctl(int fd, unsigned long request, void *arg, const char *what, struct error *err)
{
    int r = ioctl(fd, request, arg);
    if (r < 0)
        return error_set(err, STATUS_FAILED, errno, "KVM refused %s: %s", what, strerror(errno));
    return r;
}

static int open_kvm(struct error *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        int errnum = errno;
        error_set(err, STATUS_HOST_CANNOT, errnum, "cannot open /dev/kvm: %s", strerror(errnum));
        if (errnum == EACCES)
            error_hint(err, "join the group that owns it: sudo usermod -aG kvm $USER, then log "
                            "in again");
        else
            error_hint(err, "load the kvm_intel or kvm_amd module; in a virtual machine, nested "
                            "virtualisation must be enabled; stasis doctor tells more");
        return -errnum;
    }
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version < 0) {
        close(fd);
        error_set(err, STATUS_HOST_CANNOT, ENOTTY, "/dev/kvm is not KVM");
        error_hint(err, "stasis doctor tells what this host can do");
        return -ENOTTY;
    }
    if (version != KVM_API_VERSION) {
        close(fd);
        return error_set(err, STATUS_HOST_CANNOT, ENOTSUP, "KVM speaks API version %d, not %d",
                         version, KVM_API_VERSION);
    }
    return fd;
}

static int check_capabilities(int fd, struct error *err)
{
    static const struct {
        int cap;
        const char *name;
    } needed[] = {
        {KVM_CAP_IRQCHIP, "an in-kernel interrupt controller"},
        {KVM_CAP_PIT2, "an in-kernel timer"},
        {KVM_CAP_USER_MEMORY, "user memory slots"},
        {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
        {KVM_CAP_IOEVENTFD, "ioeventfd"},
        {KVM_CAP_ADJUST_CLOCK, "an adjustable clock"},
        {KVM_CAP_XSAVE, "XSAVE state"},
        {KVM_CAP_VCPU_EVENTS, "vCPU event state"},
    };

    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0) {
            error_set(err, STATUS_HOST_CANNOT, ENOTSUP, "this host's KVM lacks %s", needed[i].name);
            error_hint(err, "a Linux kernel of 5.10 or later has all that is needed");
            return -ENOTSUP;
        }
    return 0;
}

static int set_memory(struct kvm_vm *vm, struct error *err)
{
    for (unsigned i = 0; i < vm->mem->region_count; i++) {
        const struct memory_region *region = &vm->mem->regions[i];
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .flags = KVM_MEM_LOG_DIRTY_PAGES,
            .guest_phys_addr = region->gpa,
            .memory_size = region->size_bytes,
            .userspace_addr = (uintptr_t)region->hva,
        };
        int r = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot, "a memory slot", err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* api.rst wants the TSS and identity map addresses before the vCPUs exist, the
 * irqchip too; the PIT gets a dummy speaker so that port 0x61 is the kernel's. */
static int set_platform(struct kvm_vm *vm, struct error *err)
{
    uint64_t identity = LAYOUT_IDENTITY_MAP;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    int r = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity, "the identity map", err);
    if (r < 0)
        return r;
    if (ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_TSS) < 0)
        return error_errno(err, errno, "KVM refused the TSS address");
    r = kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL, "an interrupt controller", err);
    if (r < 0)
        return r;
    return kvm_ioctl(vm->fd, KVM_CREATE_PIT2, &pit, "a timer", err);
}

static int open_vm(struct kvm_vm *vm, struct error *err)
{
    vm->kvm_fd = open_kvm(err);
    if (vm->kvm_fd < 0)
        return vm->kvm_fd;
    int r = check_capabilities(vm->kvm_fd, err);
    if (r < 0)
        return r;
    vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return error_errno(err, errno, "KVM cannot make a virtual machine");
    r = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (r < (int)sizeof(struct kvm_run))
        return error_set(err, STATUS_HOST_CANNOT, EIO, "KVM gives no room for vCPU exits");
    vm->run_bytes = (size_t)r;
    int xsave = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    vm->xsave_bytes =
        xsave > (int)sizeof(struct kvm_xsave) ? (size_t)xsave : sizeof(struct kvm_xsave);
    if ((r = set_platform(vm, err)) < 0)
        return r;
    return set_memory(vm, err);
}

int vm_create(struct memory *mem, unsigned vcpus, const struct vm_exits *exits, struct kvm_vm **out,
              struct error *err)
{
    struct kvm_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL)
        return error_errno(err, ENOMEM, "cannot make a virtual machine");
    vm->mem = mem;
    vm->exits = *exits;
    vm->kvm_fd = -1;
    vm->fd = -1;
    vm->pause_wanted = true; /* vCPU threads start parked */
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    vm->vcpus = calloc(vcpus, sizeof(*vm->vcpus));
    int r = vm->vcpus == NULL ? -ENOMEM : open_vm(vm, err);
    for (unsigned i = 0; r == 0 && i < vcpus; i++) {
        r = vcpu_open(vm, &vm->vcpus[i], i, err);
        vm->vcpu_count = i + 1;
    }
    if (r < 0) {
        vm_free(vm);
        return r;
    }
    *out = vm;
    return 0;
}

static void stop_threads(struct kvm_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->quit = true;
    vm->pause_wanted = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (!vm->vcpus[i].has_thread)
            continue;
        vcpu_kick(&vm->vcpus[i]);
        pthread_join(vm->vcpus[i].thread, NULL);
    }
}

void vm_free(struct kvm_vm *vm)
{
    if (vm == NULL)
        return;
    stop_threads(vm);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_close(&vm->vcpus[i]);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    free(vm->vcpus);
    free(vm);
}

int vm_start(struct kvm_vm *vm, struct error *err)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        int r = vcpu_thread_start(&vm->vcpus[i], err);
        if (r < 0)
            return r;
    }
    vm_pause(vm); /* waits until each is parked */
    return 0;
}

static bool all_parked(const struct kvm_vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (vm->vcpus[i].has_thread && !vm->vcpus[i].parked)
            return false;
    return true;
}

void vm_pause(struct kvm_vm *vm)
{
    vm->pause_wanted = true;
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (vm->vcpus[i].has_thread)
            vcpu_kick(&vm->vcpus[i]);
    pthread_mutex_lock(&vm->lock);
    while (!all_parked(vm))
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

void vm_resume(struct kvm_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->pause_wanted = false;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/*
 * Through KVM_IRQ_LINE and not an irqfd: an irqfd for an IOAPIC pin injects from
 * a kernel worker, so an interrupt raised just before a save could be in neither
 * the saved irqchip nor anywhere else. The cost is the same one system call.
 */
void vm_irq_raise(void *context, uint32_t gsi)
{
    struct kvm_vm *vm = context;
    struct kvm_irq_level level = {.irq = gsi, .level = 1};

    ioctl(vm->fd, KVM_IRQ_LINE, &level);
    level.level = 0;
    ioctl(vm->fd, KVM_IRQ_LINE, &level);
}

int vm_ioeventfd(struct kvm_vm *vm, uint64_t gpa, int fd, struct error *err)
{
    struct kvm_ioeventfd request = {.addr = gpa, .len = 4, .fd = fd};

    return kvm_ioctl(vm->fd, KVM_IOEVENTFD, &request, "an ioeventfd", err);
}

static int region_dirty_log(struct kvm_vm *vm, unsigned slot, uint64_t *bits, struct error *err)
{
    const struct memory_region *region = &vm->mem->regions[slot];
    uint64_t words = div_round_up(region->size_bytes / STASIS_PAGE_SIZE, 64);
    _cleanup_free_ uint64_t *log = calloc(words, sizeof(*log));
    if (log == NULL)
        return error_errno(err, ENOMEM, "cannot read the dirty log");
    struct kvm_dirty_log request = {.slot = slot, .dirty_bitmap = log};

    int r = kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &request, "the dirty log", err);
    if (r < 0)
        return r;
    /* The high region starts at page 3 GiB / 4 KiB: a multiple of 64. */
    uint64_t *target = bits + region->first_page / 64;
    for (uint64_t i = 0; i < words; i++)
        target[i] |= log[i];
    return 0;
}

int vm_dirty_log(struct kvm_vm *vm, uint64_t *bits, struct error *err)
{
    for (unsigned i = 0; i < vm->mem->region_count; i++) {
        int r = region_dirty_log(vm, i, bits, err);
        if (r < 0)
            return r;
    }
    return 0;
}
