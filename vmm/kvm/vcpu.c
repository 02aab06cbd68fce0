/* SPDX-License-Identifier: Apache-2.0 */
/* vCPU threads: run, serve exits, park. */
#include "base/bytes.h"
#include "vmm/kvm/internal.h"
#include "vmm/layout.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Interrupts KVM_RUN; the handler has nothing to do. */
#define KICK_SIGNAL SIGUSR1

static void on_kick(int signal_number)
{
    (void)signal_number;
}

int vcpu_open(struct kvm_vm *vm, struct vcpu *vcpu, unsigned index, struct error *err)
{
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->run = MAP_FAILED;
    vcpu->stats_fd = -1;
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (vcpu->fd < 0)
        return error_errno(err, errno, "KVM cannot make vCPU %u", index);
    vcpu->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED)
        return error_errno(err, errno, "cannot map the exits of vCPU %u", index);
    vcpu_stats_open(vcpu);
    return 0;
}

void vcpu_close(struct vcpu *vcpu)
{
    if (vcpu->run != MAP_FAILED && vcpu->run != NULL)
        munmap(vcpu->run, vcpu->vm->run_bytes);
    if (vcpu->stats_fd >= 0)
        close(vcpu->stats_fd);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
}

/* immediate_exit first, the signal second: whichever side of KVM_RUN the thread
 * is on, it comes out (api.rst, "kvm_run: immediate_exit"). */
void vcpu_kick(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(vcpu->thread, KICK_SIGNAL);
}

static void serve_io(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    const struct vm_exits *exits = &vcpu->vm->exits;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++) {
        exits->io(run->io.direction == KVM_EXIT_IO_OUT, run->io.port, run->io.size, data,
                  exits->context);
        data += run->io.size;
    }
}

static void report_stop(struct vcpu *vcpu, enum vm_stop why, const char *message)
{
    pthread_mutex_lock(&vcpu->vm->lock);
    vcpu->dead = true;
    pthread_mutex_unlock(&vcpu->vm->lock);
    vcpu->vm->exits.stopped(why, message, vcpu->vm->exits.context);
}

static void describe_internal_error(const struct vcpu *vcpu, char *text, size_t size)
{
    const struct kvm_run *run = vcpu->run;
    struct kvm_regs regs = {0};
    size_t used = 0;

    ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    int n = snprintf(text, size, "KVM could not emulate an instruction (suberror %u, rip 0x%llx",
                     run->internal.suberror, regs.rip);
    used = n > 0 ? (size_t)n : 0;
    for (uint32_t i = 0; i < run->internal.ndata && i < 4 && used < size; i++) {
        n = snprintf(text + used, size - used, ", %llx", run->internal.data[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    if (used < size)
        snprintf(text + used, size - used, ")");
}

/* Serves one exit. False when the vCPU cannot go on. */
static bool serve_exit(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    const struct vm_exits *exits = &vcpu->vm->exits;
    char text[256];

    counter_add_own(&vcpu->exits[vm_exit_kind_of(run->exit_reason)], 1);
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        serve_io(vcpu);
        return true;
    case KVM_EXIT_MMIO:
        exits->mmio(run->mmio.is_write, run->mmio.phys_addr, run->mmio.len, run->mmio.data,
                    exits->context);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return true;
    case KVM_EXIT_SHUTDOWN:
        report_stop(vcpu, VM_STOP_ERROR, "the guest's CPU stopped at a triple fault");
        return false;
    case KVM_EXIT_SYSTEM_EVENT:
        report_stop(vcpu,
                    run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN ? VM_STOP_POWER_OFF
                                                                        : VM_STOP_RESET,
                    "system event");
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        describe_internal_error(vcpu, text, sizeof(text));
        report_stop(vcpu, VM_STOP_ERROR, text);
        return false;
    default:
        snprintf(text, sizeof(text), "unexpected KVM exit %u", run->exit_reason);
        report_stop(vcpu, VM_STOP_ERROR, text);
        return false;
    }
}

/* Runs until asked to pause (true) or until the vCPU cannot go on (false). An
 * exit that was served is completed by the next KVM_RUN, so the thread parks
 * only after a KVM_RUN that returned EINTR. */
static bool run_until_pause(struct vcpu *vcpu)
{
    for (;;) {
        int r = ioctl(vcpu->fd, KVM_RUN, 0);
        if (r == 0) {
            if (!serve_exit(vcpu))
                return false;
            continue;
        }
        if (errno == EINTR)
            counter_add_own(&vcpu->exits[VM_EXIT_INTERRUPTED], 1);
        if (errno == EINTR && vcpu->vm->pause_wanted)
            return true;
        if (errno == EINTR) {
            /* A kick for a pause that is over. */
            __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
            if (vcpu->vm->pause_wanted)
                __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
            continue;
        }
        if (errno == EAGAIN)
            continue; /* woken while waiting for its start-up IPI */
        char text[128];
        snprintf(text, sizeof(text), "KVM_RUN failed: %s", strerror(errno));
        report_stop(vcpu, VM_STOP_ERROR, text);
        return false;
    }
}

/* Waits until it may run. False when the VM ends. */
static bool park(struct vcpu *vcpu)
{
    struct kvm_vm *vm = vcpu->vm;

    pthread_mutex_lock(&vm->lock);
    vcpu->parked = true;
    pthread_cond_broadcast(&vm->changed);
    while (!vm->quit && (vm->pause_wanted || vcpu->dead))
        pthread_cond_wait(&vm->changed, &vm->lock);
    vcpu->parked = false;
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    bool go_on = !vm->quit;
    pthread_mutex_unlock(&vm->lock);
    return go_on;
}

static void *vcpu_main(void *context)
{
    struct vcpu *vcpu = context;
    sigset_t kick;

    sigemptyset(&kick);
    sigaddset(&kick, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    sandbox_thread(SANDBOX_VCPU);
    while (park(vcpu)) {
        if (vcpu->vm->pause_wanted)
            continue; /* paused again before this thread woke up */
        run_until_pause(vcpu);
    }
    return NULL;
}

int vcpu_thread_start(struct vcpu *vcpu, struct error *err)
{
    struct sigaction action = {.sa_handler = on_kick};
    sigset_t all, before;

    sigaction(KICK_SIGNAL, &action, NULL);
    sigfillset(&all);        /* signals for the process are the event loop's */
    sigdelset(&all, SIGSYS); /* the sandbox's, for the thread itself */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return error_errno(err, r, "cannot start the thread of vCPU %u", vcpu->index);
    vcpu->has_thread = true;
    return 0;
}
